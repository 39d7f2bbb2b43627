package holdings

import (
	"context"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/siteagent/claim"
)

// TestEvict: of three copies of an image the third goes when a person says so, and no more than that; what no intent wants goes everywhere.
// Nothing goes on a store that is not sound, nor in a dry run.
func TestEvict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1", "a2", "a3")
		img := s.upload(2, 128, "image")
		s.want(img)
		ranked := claim.Rendezvous(img.Digest.Hex(), s.names())
		for _, n := range s.nodes {
			if _, err := n.fetch(t.Context(), img, false); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute) // who lives has not changed lately
		third := s.node(ranked[2])
		f := func(dryRun bool, owners int, first, last string) {
			t.Helper()
			got := s.node(ranked[0]).All(t.Context(), img.Digest, Evict, dryRun)
			if len(s.owners(img)) != owners || !strings.HasPrefix(got[ranked[0]], first) || !strings.HasPrefix(got[ranked[2]], last) {
				t.Errorf("%v have it; they said %v", s.owners(img), got)
			}
		}
		third.sure = false
		f(false, 3, "keeps it for the current intent", "keeps it: its store")
		third.sure = true
		s.setCut(ranked[1], ranked[2], true)
		time.Sleep(time.Minute) // the third keeps it now, for who it does not hear
		f(false, 3, "keeps it for the current intent", "keeps it for the current intent")
		s.setCut(ranked[1], ranked[2], false)
		f(false, 3, "keeps it for the current intent", "keeps it until")
		time.Sleep(time.Minute)
		f(true, 3, "keeps it for the current intent", "gives it up: ")
		f(false, 2, "keeps it for the current intent", "gave it up: ")
		f(false, 2, "keeps it for the current intent", "nothing here")
		if told := s.told("asset.evicted"); len(told) != 1 || !strings.Contains(told[0], "a person gave it up") {
			t.Errorf("events: %q", told)
		}
		s.want()
		f(false, 2, "keeps it for the previous intent", "nothing here")
		for _, n := range s.nodes {
			n.look(t.Context()) // notes when it left
		}
		s.want() // two heads ago
		f(false, 0, "gave it up: no intent wants it", "nothing here")
	})
}

// TestPrefetch: what is asked for is urgent at those who keep it, and for an hour; who keeps it not says who does.
func TestPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1", "a2", "a3")
		img, other := s.upload(3, 128, "image"), s.upload(4, 128, "image")
		s.want(img)
		ranked := claim.Rendezvous(img.Digest.Hex(), s.names())
		got := s.node("a1").All(t.Context(), img.Digest, Prefetch, false)
		want := map[string]string{ranked[0]: "fetches it now", ranked[1]: "fetches it now", ranked[2]: "leaves it to " + ranked[0] + " and " + ranked[1]}
		if !maps.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		for i, name := range ranked {
			if u := s.node(name).urgent(img); u != (i < 2) {
				t.Errorf("%s: urgent %v", name, u)
			}
		}
		if got := s.node("a1").All(t.Context(), other.Digest, Prefetch, false)["a1"]; !strings.HasPrefix(got, "need not have it") {
			t.Error(got)
		}
		stop := s.run()
		time.Sleep(time.Minute)
		stop()
		if got := s.node(ranked[0]).Do(t.Context(), img.Digest, Prefetch, false); got != "has it" {
			t.Error(got)
		}
		time.Sleep(2 * time.Hour)
		if s.node(ranked[0]).urgent(img) {
			t.Error("urgent for ever")
		}
	})
}

// TestVerify: every agent reads what it has, and says how many chunks were bad; those come again. Who is not heard is unknown.
func TestVerify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1", "a2", "a3")
		img := s.upload(5, 3000, "boot")
		s.want(img)
		stop := s.run()
		defer stop()
		time.Sleep(90 * time.Second) // between two looks of the scrub
		s.node("a2").hurt(img)
		s.setCut("a1", "a3", true)
		got := s.node("a1").All(t.Context(), img.Digest, Verify, false)
		if got["a1"] != "is verified" || got["a2"] != "is verified" || !strings.HasPrefix(got["a3"], "unknown: ") {
			t.Errorf("%v", got)
		}
		began := time.Now().Add(-time.Second)
		time.Sleep(time.Minute)
		for _, st := range s.node("a1").Statuses()[img.Digest].Agents {
			bad := map[string]int{"a2": 1}[st.Agent]
			switch {
			case st.Agent == "a3":
			case st.Checked == nil || st.Checked.Bad != bad || st.Checked.At.Before(began):
				t.Errorf("%s: %+v", st.Agent, st.Checked)
			case st.State != Complete:
				t.Errorf("%s: the bad chunk did not come again: %+v", st.Agent, st)
			}
		}
		if got := s.node("a1").Do(context.Background(), s.upload(6, 10, "boot").Digest, Verify, false); got != "nothing here" {
			t.Error(got)
		}
	})
}
