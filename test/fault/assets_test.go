package fault

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/holdings"
)

// have returns what the agents of s1 have of an asset, as one of them shows it.
func (w *world) have(at, asset string) map[string]string { return w.haveAt("s1/"+at, asset) }

func (w *world) haveAt(at, asset string) map[string]string {
	ctx, cancel := w.ask()
	defer cancel()
	info, _ := intent.KindAsset.Info()
	o, err := w.api("admin", at).Get(ctx, info, "", asset)
	var st holdings.Status
	if err != nil || json.Unmarshal(o.Status, &st) != nil {
		return nil
	}
	out := map[string]string{}
	for _, a := range st.Agents {
		out[a.Agent] = a.State
	}
	return out
}

// TestImageAtTwoAgents: of three agents all have what machines boot from, two an image, and each says so of all. When one of the two is
// gone the third fetches it from the other; what the intent names has its two copies again with the coordinator gone.
func TestImageAtTwoAgents(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.over()
		w.join(3)
		_, _ = w.publish(300<<10, rnd)
		img := make([]byte, 3<<20)
		for i := range img {
			img[i] = byte(rnd.Uint32())
		}
		_, err := w.api("admin", "coordinator").Upload(w.Context(), "tiny", "image", bytes.NewReader(img), int64(len(img)))
		w.must(err)
		ranked := claim.Rendezvous(intent.DigestOf(img).Hex(), []string{"a1", "a2", "a3"})
		is := func(at, asset string, states ...string) func() bool {
			return func() bool {
				got := w.have(at, asset)
				return slices.Equal(states, []string{got[ranked[0]], got[ranked[1]], got[ranked[2]]})
			}
		}
		for _, at := range ranked {
			w.until("all have the kernel, as "+at+" says", is(at, "vmlinuz", "complete", "complete", "complete"))
			w.until("two have the image, as "+at+" says", is(at, "tiny", "complete", "complete", "none"))
		}
		w.end("coordinator")
		w.kill("s1/" + ranked[0])
		w.until("the third has it", is(ranked[1], "tiny", "unknown", "complete", "complete"))
		w.end("s1/" + ranked[2])
		w.same("s1/"+ranked[2], intent.DigestOf(img), img)
	})
}

// TestBudget: a site that may take nothing for now takes what machines boot from, and no image that none waits for; when it may again, the
// image comes once over its line, and no faster than it may.
func TestBudget(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.over()
		admin := w.api("admin", "coordinator")
		budget := func(wan *intent.WANSpec) { w.change("s1", func(s *intent.SiteSpec) { s.WAN = wan }) }
		_, _ = w.publish(300<<10, rnd)
		budget(&intent.WANSpec{Windows: []intent.WANWindow{{From: "00:00", To: "00:00", Rate: "0"}}})
		_, err := admin.Upload(w.Context(), "shell", "boot", strings.NewReader("another loader"), 14)
		w.must(err)
		img := make([]byte, 3<<20)
		for i := range img {
			img[i] = byte(rnd.Uint32())
		}
		_, err = admin.Upload(w.Context(), "tiny", "image", bytes.NewReader(img), int64(len(img)))
		w.must(err)
		both := func(asset, state string) bool {
			got := w.have("a1", asset)
			return got["a1"] == state && got["a2"] == state
		}
		w.until("both have what boots", func() bool { return both("shell", "complete") })
		time.Sleep(time.Hour)
		if got := w.have("a1", "tiny"); got["a1"] == "complete" || got["a2"] == "complete" {
			t.Errorf("in quiet hours: %v", got)
		}
		budget(&intent.WANSpec{RateIn: "80k"}) // 10 kB/s: 315 s
		began := time.Now()
		w.until("both have the image", func() bool { return both("tiny", "complete") })
		if took := time.Since(began); took < 4*time.Minute || took > 8*time.Minute {
			t.Errorf("3 MiB at 80 kbit/s took %v", took)
		}
		w.end("s1/a2")
		w.same("s1/a2", intent.DigestOf(img), img)
	})
}

// change changes a site at the coordinator, and waits until the site knows.
func (w *world) change(site string, edit func(*intent.SiteSpec)) {
	info, _ := intent.KindSite.Info()
	o, err := w.api("admin", "coordinator").Get(w.Context(), info, "", site)
	w.must(err)
	edit(o.Spec.(*intent.SiteSpec))
	o.Status = nil
	_, err = w.api("admin", "coordinator").Put(w.Context(), o, false, "test")
	w.must(err)
	w.until(site+" is level", func() bool { return w.level(site) })
}

// sources returns how many octets of an asset came to all agents of a site from where, by tier, as the events of each agent say.
func (w *world) sources(site string, d intent.Digest) map[string]int64 {
	from := map[string]int64{}
	for _, at := range w.pair {
		ctx, cancel := w.ask()
		defer cancel()
		w.must(w.api("admin", site+"/"+at).Events(ctx, api.EventQuery{Site: site}, func(e intent.Event) error {
			for k, v := range e.Fields {
				if tier, ok := strings.CutPrefix(k, "source."); ok && e.Type == "asset.complete" && e.Agent == at && e.Fields["digest"] == d.String() {
					tier, _, _ = strings.Cut(tier, ":")
					n, err := strconv.ParseInt(v, 10, 64)
					w.must(err)
					from[tier] += n
				}
			}
			return nil
		}))
	}
	return from
}

// TestOtherSite: a site that knows of an image, and whose coordinator is gone before it could be fetched, takes it from another site: once
// over its line, and in quiet hours when a person says so. While its line is metered it took nothing from there.
func TestOtherSite(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 3))
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.over()
		_, _ = w.publish(300<<10, rnd)
		now := time.Now().Local()
		later := &intent.WANSpec{Windows: []intent.WANWindow{{From: now.Add(-time.Hour).Format("15:04"), To: now.Add(2 * time.Hour).Format("15:04"), Rate: "0"}}}
		quiet := func(metered intent.WANSpec) { // until s1 has an image, which is new
			metered.Windows = later.Windows
			w.change("s2", func(s *intent.SiteSpec) { s.WAN, s.Peers = &metered, []string{"s1"} })
		}
		img := make([]byte, 3<<20)
		upload := func() {
			for i := range img {
				img[i] = byte(rnd.Uint32())
			}
			_, err := w.api("admin", "coordinator").Upload(w.Context(), "tiny", "image", bytes.NewReader(img), int64(len(img)))
			w.must(err)
		}
		both := func(site string) func() bool { // have this image: the name is that of the one before, too
			return func() bool {
				n := int64(0)
				for _, octets := range w.sources(site, intent.DigestOf(img)) {
					n += octets
				}
				return n >= int64(2*len(img))
			}
		}
		quiet(intent.WANSpec{Metered: true})
		upload()
		w.until("s1 has the first image", both("s1"))
		w.change("s2", func(s *intent.SiteSpec) { s.WAN = &intent.WANSpec{Metered: true} })
		w.until("s2 has the first image", both("s2"))
		if from := w.sources("s2", intent.DigestOf(img)); from["site"] != 0 || from["origin"] < int64(len(img)) {
			t.Errorf("octets by tier over a metered line: %v of %d", from, len(img))
		}
		quiet(intent.WANSpec{})
		upload()
		w.until("s1 has the image", both("s1"))
		w.until("s2 is level", func() bool { return w.level("s2") })
		w.end("coordinator")
		time.Sleep(time.Hour)
		if got := w.haveAt("s2/a1", "tiny"); got["a1"] == "complete" || got["a2"] == "complete" {
			t.Errorf("in quiet hours: %v", got)
		}
		res, err := w.api("admin", "s2/a1").AssetAction(w.Context(), "s2", "tiny", assets.ActionRequest{Action: "prefetch"})
		w.must(err)
		for _, a := range w.pair {
			if res.Agents[a] != "fetches it now" {
				t.Errorf("prefetch: %v", res.Agents)
			}
		}
		w.until("s2 has the image", both("s2"))
		if from := w.sources("s2", intent.DigestOf(img)); from["origin"] != 0 || from["site"] < int64(len(img)) || from["site"] > int64(len(img))*21/20 {
			t.Errorf("octets by tier: %v of %d", from, len(img))
		}
		w.end("s2/a2")
		w.same("s2/a2", intent.DigestOf(img), img)
	})
}
