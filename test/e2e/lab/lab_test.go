package lab

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recorder keeps what Need said instead of doing it.
type recorder struct {
	testing.TB
	said []string
}

func (r *recorder) Helper()       {}
func (r *recorder) Skip(a ...any) { r.said = append(r.said, "skip: "+fmt.Sprint(a...)) }
func (r *recorder) Fatalf(f string, args ...any) {
	r.said = append(r.said, "fatal: "+fmt.Sprintf(f, args...))
}

func TestNeed(t *testing.T) {
	f := func(strict string, want []string, reqs ...Requirement) {
		t.Helper()
		t.Setenv(strictEnv, strict)
		var r recorder
		Need(&r, reqs...)
		if d := cmp.Diff(want, r.said); d != "" {
			t.Errorf("-want +got\n%s", d)
		}
	}
	f("", nil, Tool("sh", "dash"), Tool("/", "base-files"))
	f("", []string{"skip: needs no-such-tool: apt-get install pkg; needs /nowhere/x: make x"},
		Tool("no-such-tool", "pkg"), Built("/nowhere/x", "x"))
	f("1", []string{"fatal: lab is strict: needs /no/such: apt-get install pkg"}, Tool("/no/such", "pkg"))
}
