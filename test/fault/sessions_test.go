package fault

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
)

// holding lists the agents of a site that hold a session with the coordinator: they send something in each 25 s of two and a half
// minutes. Who only comes by is through in less.
func (w *world) holding(site string) []string {
	out := slices.Clone(w.pair)
	sent := func(a string) int { return w.net.Sent(w.boxes[site+"/"+a].ip, w.boxes["coordinator"].ip) }
	for range 6 {
		last := map[string]int{}
		for _, a := range out {
			last[a] = sent(a)
		}
		time.Sleep(25 * time.Second)
		out = slices.DeleteFunc(out, func(a string) bool { return sent(a) == last[a] })
	}
	return out
}

// line lists agents in the order in which they hold sessions.
func (w *world) line(site string, without ...string) []string {
	return claim.Rendezvous(site, slices.DeleteFunc(slices.Clone(w.pair), func(a string) bool { return slices.Contains(without, a) }))
}

// holds waits until the first two of those that are not without hold sessions, and no other one.
func (w *world) holds(when string, without ...string) {
	w.Helper()
	want, got := w.line("s1", without...), []string{}
	want = slices.Sorted(slices.Values(want[:min(2, len(want))]))
	for range 3 {
		got = slices.DeleteFunc(w.holding("s1"), func(a string) bool { return slices.Contains(without, a) }) // one that is cut off tries
		if slices.Equal(slices.Sorted(slices.Values(got)), want) {
			return
		}
	}
	w.Fatalf("%s: %v hold sessions, want %v", when, got, want)
}

// TestTwoSessions: of four agents two hold sessions. The others get what is wanted of the site, change their keys when the coordinator says
// so, take changes as ones that are not cut off, and hold a session when one that did is dead or cut off.
func TestTwoSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOf(t, t.TempDir(), 1, "a1", "a2", "a3", "a4")
		defer w.over()
		w.holds("from the start")
		line := w.line("s1")
		w.change("s1", func(s *intent.SiteSpec) { s.Zone = "y" })
		if !w.connected("s1") {
			t.Error("the coordinator takes agents that rest for ones that are away")
		}
		if err := w.changes("s1", line[3], "key-1"); err == nil || !strings.Contains(err.Error(), "coordinator") {
			t.Errorf("a change at an agent that rests: %v", err)
		}
		if st, err := w.api("admin", "coordinator").Rotate(w.Context(), api.RotateRequest{What: api.RotateAgent, Site: "s1", Agent: line[3]}); err != nil {
			t.Fatalf("new keys: %+v, %v", st, err)
		}
		w.within(time.Minute, line[3]+" has other keys, and the old ones are retired", func() bool {
			ctx, cancel := w.ask()
			defer cancel()
			l, err := w.api("admin", "coordinator").Rotations(ctx)
			return err == nil && len(l.Items) == 0
		})

		w.cutLine(line[1], true)
		w.holds("without the second one's line", line[1])
		w.cutLine(line[1], false)
		w.holds("with it")
		w.kill("s1/" + line[0])
		w.holds("after the first one's death", line[0])
		w.kill("s1/" + line[1])
		w.holds("after the death of both", line[0], line[1])
		w.kill("s1/" + line[2])
		w.holds("alone", line[0], line[1], line[2])
	})
}

// cutLine cuts one agent of site s1 off from the coordinator, or joins it again.
func (w *world) cutLine(agent string, cut bool) {
	w.net.Cut(w.boxes["s1/"+agent].ip, w.boxes["coordinator"].ip, cut)
}
