package fault

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// hearsSite tells whether an agent hears both gateways of another site, or none of them.
func (w *world) hearsSite(name, other, alive string) func() bool {
	return func() bool {
		ctx, cancel := w.ask()
		defer cancel()
		site, _, _ := strings.Cut(name, "/")
		s, err := w.api("admin", name).SiteStatus(ctx, site)
		n := 0
		if err == nil {
			for _, g := range s.Gateways {
				if g.Site == other && g.Alive == alive {
					n++
				}
			}
		}
		return n == len(w.pair)
	}
}

// part cuts every agent of a site off from some hosts, or joins them again.
func (w *world) part(site string, cut bool, hosts ...string) {
	for _, a := range w.pair {
		for _, h := range hosts {
			w.net.Cut(w.boxes[site+"/"+a].ip, w.boxes[h].ip, cut)
		}
	}
}

// TestSitesThatReachEachOther: their gateways hear each other; a site without a line to the coordinator learns from another one who is
// revoked. After hours apart they find each other again within two minutes, and what was revoked meanwhile is there.
// One that only one of them names is not heard.
func TestSitesThatReachEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.over()
		w.change("s1", func(s *intent.SiteSpec) { s.Peers = []string{"s2"} })
		time.Sleep(time.Minute)
		if !w.hearsSite("s1/a1", "s2", "unknown")() {
			t.Error("a site that does not reach this one is heard")
		}
		w.change("s2", func(s *intent.SiteSpec) { s.Peers = []string{"s1"} })
		all := func(alive string) {
			t.Helper()
			for _, a := range w.pair {
				w.within(time.Minute, "s1/"+a+" has s2 as "+alive, w.hearsSite("s1/"+a, "s2", alive))
				w.within(time.Minute, "s2/"+a+" has s1 as "+alive, w.hearsSite("s2/"+a, "s1", alive))
			}
		}
		all("yes")

		w.part("s2", true, "coordinator")
		had := w.hears("s2/a1")
		w.revoke(api.RevokeRequest{Kind: string(intent.RevokeSPKI), ID: intent.DigestOf([]byte("a key")).Hex(), Reason: "test"})
		for _, name := range []string{"s1/a1", "s1/a2", "s2/a1", "s2/a2"} {
			w.within(time.Minute, name+" knows who is revoked", func() bool { return w.hears(name) == had+1 })
		}
		w.part("s2", false, "coordinator")

		for i, apart := range []time.Duration{tierApart} {
			w.part("s2", true, "s1/a1", "s1/a2", "coordinator")
			time.Sleep(5 * time.Minute)
			all("no")
			w.revoke(api.RevokeRequest{Kind: string(intent.RevokeSPKI), ID: intent.DigestOf([]byte{byte(i)}).Hex(), Reason: "test"})
			time.Sleep(apart)
			w.part("s2", false, "s1/a1", "s1/a2")
			began := time.Now()
			all("yes")
			t.Logf("after %v apart they hear each other within %v", apart, time.Since(began))
			w.within(time.Minute, "s2 knows who is revoked", func() bool { return w.hears("s2/a1") == had+2+uint64(i) && w.hears("s2/a2") == had+2+uint64(i) })
			w.part("s2", false, "coordinator")
		}
	})
}
