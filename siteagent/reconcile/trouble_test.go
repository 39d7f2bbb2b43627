package reconcile

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// TestTroubleIsTold: a machine that does not get on is named once, by the third failure, until a step of it succeeds; what a device answers
// to every try is told once, and again when it is another answer.
func TestTroubleIsTold(t *testing.T) {
	p := newPair(t, pairMachine(), smallType())
	h := p.half["a1"]
	told := func() (out []string) {
		if err := h.journal.Events(nil, func(e intent.Event) error { out = append(out, e.Type+" "+e.Machine); return nil }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	end := func(n int, err error) {
		for range n {
			h.ended(t.Context(), "binding/i1", "m1", err)
		}
	}
	gone := errors.New("cannot reach BMC")
	end(tellAfter-1, gone)
	end(1, fmt.Errorf("then %w", errKnewMore))
	if got := told(); len(got) != 0 {
		t.Errorf("told %v", got)
	}
	end(20, gone)
	want := []string{"machine.stuck m1"}
	if got := told(); !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
	end(1, nil)
	end(20, gone)
	if got := told(); !slices.Equal(got, append(want, want...)) {
		t.Errorf("told %v after it got on", got)
	}
	for i, w := range []bool{true, false, true, false} {
		if got := h.news("machine/m1", fmt.Sprint(i/2)); got != w {
			t.Errorf("answer %d: news %v", i, got)
		}
	}
}
