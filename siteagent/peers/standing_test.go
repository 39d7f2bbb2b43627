package peers

import (
	"testing"
	"time"

	"github.com/skerry-metal/skerry/siteagent/claim"
)

// Of the agents that reach a coordinator the first two hold sessions; where none does yet, the first two of all try, and after a minute
// everybody. One whose line is down, or that is dead, is not waited for.
func TestHolds(t *testing.T) {
	line := claim.Rendezvous("lon1", []string{"a1", "a2", "a3", "a4"})
	names := func(of []int) (out []string) {
		for _, i := range of {
			out = append(out, line[i])
		}
		return out
	}
	f := func(what string, live, reach []int, none time.Duration, want ...bool) {
		t.Helper()
		for self, w := range want {
			if got := holds("lon1", line[self], names(live), names(reach), none); got != w {
				t.Errorf("%s: the agent of rank %d holds a session: %v", what, self, got)
			}
		}
	}
	all := []int{0, 1, 2, 3}
	f("alone", []int{0}, nil, 0, true)
	f("two, and nobody was heard", []int{0, 1}, nil, 0, true, true)
	f("nobody reaches a coordinator yet", all, nil, 0, true, true, false, false)
	f("nobody did for almost a minute", all, nil, unseen-1, true, true, false, false)
	f("nobody did for a minute", all, nil, unseen, true, true, true, true)
	f("all do", all, all, 0, true, true, false, false)
	f("the first one's line is down", all, []int{1, 2, 3}, 0, true, true, true, false)
	f("only the last one's is not", all, []int{3}, 0, true, true, true, true)
	f("the first one is dead", []int{1, 2, 3}, []int{1, 2, 3}, 0, true, true, true, false) // rank 0: when it is back
}
