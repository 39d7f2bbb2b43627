package pki

import (
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
)

type lines []string

func (l *lines) Header(cols ...string) { l.Row(cols...) }
func (l *lines) Row(cols ...string) {
	*l = append(*l, strings.TrimRight(strings.Join(cols, " | "), " |"))
}

func TestPrintStatus(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	s := &api.RotationStatus{
		What: api.RotateAgent, Target: "lon1/a1", Phase: api.PhaseRetire, Next: "wait for lon1/a2",
		Steps:  []api.RotationStep{{Phase: api.PhaseAccept, Text: "roster 13", Have: 3, Of: 3}, {Phase: api.PhaseUse, Have: 1, Of: 1}},
		Ledger: []api.RotationRow{{Agent: "lon1/a1", Phase: api.PhaseRetire, Since: now.Add(-412 * 24 * time.Hour), Held: "lon1/a2 was not heard for 412d"}},
	}
	f := func(want string, waits bool) {
		t.Helper()
		var got lines
		printStatus(&got, s, now)
		if text := strings.Join(got, "\n"); text != want || s.Waits() != waits {
			t.Errorf("waits %v:\n%s\nwant %v:\n%s", s.Waits(), text, waits, want)
		}
	}
	f("agent lon1/a1 | accept | roster 13 | 3/3\nagent lon1/a1 | use |  | 1/1\nlon1/a1 | retire | since 412d | lon1/a2 was not heard for 412d\nnext | retire |  | wait for lon1/a2", true)
	s.Ledger[0].Held = ""
	f("agent lon1/a1 | accept | roster 13 | 3/3\nagent lon1/a1 | use |  | 1/1\nlon1/a1 | retire | since 412d\nnext | retire |  | wait for lon1/a2", false)
	s.Phase, s.Next, s.Ledger[0].Phase = api.PhaseDone, "", api.PhaseDone
	f("agent lon1/a1 | accept | roster 13 | 3/3\nagent lon1/a1 | use |  | 1/1\nagent lon1/a1 | done", false)
}

func TestParseAge(t *testing.T) {
	f := func(s string, want time.Duration, ok bool) {
		t.Helper()
		if got, err := parseAge(s); got != want || (err == nil) != ok {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
	}
	f("", 0, true)
	f("400d", 400*24*time.Hour, true)
	f("36h", 36*time.Hour, true)
	f("0d", 0, false)
	f("-5d", 0, false)
	f("99999999d", 0, false)
	f("40000d", 0, false)
	f("1.5d", 0, false)
	f("soon", 0, false)
}
