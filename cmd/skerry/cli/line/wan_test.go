package line

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
)

func TestWindows(t *testing.T) {
	f := func(line string, want ...intent.WANWindow) {
		t.Helper()
		got, err := windows([]string{line})
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%q: %v\n%s", line, err, d)
		}
	}
	f("none")
	f("22:00-06:00 0", intent.WANWindow{From: "22:00", To: "06:00", Rate: "0"})
	f("mon-fri 08:00-18:30 2M", intent.WANWindow{Days: []string{"mon", "tue", "wed", "thu", "fri"}, From: "08:00", To: "18:30", Rate: "2M"})
	f("sat-mon,wed 08:00-18:30 2M", intent.WANWindow{Days: []string{"sat", "sun", "mon", "wed"}, From: "08:00", To: "18:30", Rate: "2M"})
	bad := func(line, want string) {
		t.Helper()
		if got, err := windows([]string{line}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
	bad("", `window ""`)
	bad("08:00-18:30", "window")
	bad("08:00 2M", "times")
	bad("mon-tag 08:00-18:30 2M", `days "mon-tag"`)
	bad("mon-fri 08:00-18:30 2M now", "window")
}
