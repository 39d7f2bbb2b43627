package fault

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent"
)

// gap is a site whose line is cut for ever: the coordinator moved, and nobody tells the agents.
type gap struct {
	*domain
	site *client.Client // the agent that a person stands at
}

// carry moves one stick from one end to the other, and returns what came of it and the stick.
func (g *gap) carry(from, to *client.Client) (*api.StickResult, []byte) {
	g.Helper()
	var b bytes.Buffer
	if _, err := from.ExportStick(g.Context(), "lon1", 1, &b); err != nil {
		g.Fatal(err)
	}
	return g.bring(to, b.Bytes()), b.Bytes()
}

func (g *gap) bring(to *client.Client, b []byte) *api.StickResult {
	g.Helper()
	dry, err := to.ImportStick(g.Context(), "lon1", bytes.NewReader(b), true)
	if err != nil {
		g.Fatal(err)
	}
	res, err := to.ImportStick(g.Context(), "lon1", bytes.NewReader(b), false)
	if err != nil {
		g.Fatal(err)
	}
	if len(dry.Refused) != len(res.Refused) || dry.Before != res.Before {
		g.Errorf("the dry run said %+v, then it was %+v", dry, res)
	}
	return res
}

// whole wants that a stick was taken to its end, with n documents of a kind that are new.
func (g *gap) whole(res *api.StickResult, kind string, n int) {
	g.Helper()
	if !res.Whole() || res.Taken[kind] != n {
		g.Errorf("want %d of %s: %+v", n, kind, res)
	}
}

func (g *gap) add(to *client.Client, doc string) {
	g.Helper()
	raw := json.RawMessage(strings.Replace(doc, "{", `{"apiVersion":"skerry/v1",`, 1))
	if _, err := to.Apply(g.Context(), []json.RawMessage{raw}, false, "carried"); err != nil {
		g.Fatal(err)
	}
}

func (g *gap) has(at *client.Client, kind intent.Kind, scope, name string) bool {
	g.Helper()
	info, _ := kind.Info()
	_, err := at.Get(g.Context(), info, scope, name)
	if err != nil && !client.Is(err, 404) {
		g.Fatal(err)
	}
	return err == nil
}

// published waits until the coordinator has said all that it has to say to the site, and returns the head.
func (g *gap) published(above uint64) (h intent.Head) {
	g.Helper()
	g.wait("the chain moved", func() bool {
		s, err := g.api.IntentStatus(g.Context(), "lon1")
		if err != nil {
			g.Fatal(err)
		}
		h = s.Sites[0].Heads.Intent
		return h.Seq > above
	})
	return h
}

func (g *gap) active() intent.Head {
	g.Helper()
	s, err := g.site.SiteStatus(g.Context(), "lon1")
	if err != nil {
		g.Fatal(err)
	}
	return s.Head
}

const keyOf = `{"kind":"SSHKey","metadata":{"name":"ana","project":"acme"},"spec":{"publicKey":"ssh-ed25519 AAAA ana"}}`

// TestSiteBySticks: a site that is cut off for ever lives by files alone. A change made above arrives; a change made at the site
// goes up, is adopted, and its ack comes down; the audit chain joins, events are shown above, both ends agree on the head. Then its
// one box is lost, and a spare begins with the stick and nobody there.
func TestSiteBySticks(t *testing.T) {
	g := &gap{domain: newDomain(t)}
	g.coordinator(nil)
	g.must(g.apply(siteLon, `{"kind":"Project","metadata":{"name":"acme"},"spec":{"sites":["lon1"]}}`))
	dir := filepath.Join(t.TempDir(), "a1")
	g.agent("lon1", "a1", dir)
	g.wait("lon1 is level", func() bool { return g.level("lon1") })
	kit := g.kit()
	g.wait("lon1 is level again", func() bool { return g.level("lon1") })
	g.site = g.clientOf(g.sites["lon1/a1"])
	g.wait("a beacon counts", func() bool {
		s, err := g.site.IntentStatus(t.Context(), "lon1")
		return err == nil && strings.Contains(s.Sites[0].Beacon, "beacon of c1") && strings.Contains(s.Sites[0].Beacon, "counts for 16")
	})
	g.end("coordinator")
	g.addr = freeAddr(t) // the line is cut: nobody at the site knows this address
	g.api = g.clientOf(g.addr)
	g.coordinator(func(c *coordinator.Config) { c.Listen = g.addr })
	before := g.active()

	g.add(g.api, machineType("small", 1))
	g.published(before.Seq)
	res, first := g.carry(g.api, g.site)
	g.whole(res, "intent", int(res.After.Intent.Seq-before.Seq))
	if !g.has(g.site, intent.KindMachineType, "", "small") {
		t.Error("the change made above did not arrive")
	}
	g.add(g.site, keyOf)
	if g.has(g.api, intent.KindSSHKey, "acme", "ana") {
		t.Fatal("the line is not cut")
	}
	above := g.published(0)
	res, up := g.carry(g.site, g.api)
	g.whole(res, "override", 1)
	if !g.has(g.api, intent.KindSSHKey, "acme", "ana") || res.After.Intent.Seq <= above.Seq || res.Taken["report"] != 1 || res.Taken["audit"] == 0 || res.Taken["events"] == 0 {
		t.Errorf("went up: %+v", res)
	}
	res, _ = g.carry(g.api, g.site)
	s, err := g.site.SiteStatus(t.Context(), "lon1")
	g.must(err)
	if !res.Whole() || len(s.Overrides) != 1 || s.Overrides[0].State != "adopted" {
		t.Errorf("the ack came down: %+v; overrides %+v", res, s.Overrides)
	}
	for _, old := range [][]byte{first, up} { // an old stick is no harm
		to := map[bool]*client.Client{true: g.site, false: g.api}[bytes.Equal(old, first)]
		if res := g.bring(to, old); !res.Whole() || len(res.Taken) > 0 || res.Before != res.After {
			t.Errorf("an old stick: %+v", res)
		}
	}
	g.carry(g.site, g.api)
	g.agree()
	g.evidence()
	g.spare(kit)
}

// agree wants one head at both ends, and that the coordinator knows it.
func (g *gap) agree() {
	g.Helper()
	s, err := g.api.IntentStatus(g.Context(), "lon1")
	g.must(err)
	if site := s.Sites[0]; site.Heads.Intent != g.active() || len(site.Agents) != 1 || site.Agents[0].Heads.Active != site.Heads.Intent || site.Agents[0].Out != "" {
		g.Errorf("the site is at %v; above: %+v", g.active(), site)
	}
	own, err := g.site.IntentStatus(g.Context(), "")
	g.must(err)
	if site := own.Sites[0]; own.By != "lon1/a1" || site.Agents[0].Heads.Active != g.active() || !strings.Contains(site.Out, "site export") {
		g.Errorf("the site says of itself %+v", own)
	}
}

// evidence wants the site's audit chain and events above.
func (g *gap) evidence() {
	g.Helper()
	records := 0
	g.must(g.api.Audit(g.Context(), api.AuditQuery{Site: "lon1"}, func(l api.AuditLine) error {
		if l.Record != nil && strings.Contains(string(l.Record), `"override"`) {
			records++
		}
		return nil
	}))
	var kinds []string
	g.must(g.api.Events(g.Context(), api.EventQuery{Site: "lon1"}, func(e intent.Event) error {
		kinds = append(kinds, e.Type)
		return nil
	}))
	if records == 0 || !slices.Contains(kinds, "override.made") {
		g.Errorf("above: %d audit records of the override, events %v", records, kinds)
	}
}

// kit makes the kit of spare s1.
func (g *gap) kit() string {
	g.Helper()
	tok, err := g.api.JoinToken(g.Context(), "lon1", api.JoinTokenRequest{Agent: "s1", Spare: true})
	g.must(err)
	path := filepath.Join(g.TempDir(), "s1.kit")
	f, err := os.Create(path)
	g.must(err)
	defer f.Close()
	ctx, cancel := context.WithTimeout(g.Context(), time.Minute)
	defer cancel()
	k, err := siteagent.MakeKit(ctx, siteagent.KitConfig{Join: tok.Token, Out: f, Logger: g.log})
	g.must(err)
	g.must(os.WriteFile(path+".pass", []byte(k.Passphrase), 0o600))
	return path
}

// spare puts a new box into a1's place, with a stick and no peer. Its admission goes up by stick too.
func (g *gap) spare(kit string) {
	g.Helper()
	want := g.active()
	var b bytes.Buffer
	_, err := g.api.ExportStick(g.Context(), "lon1", 1, &b)
	g.must(err)
	path := filepath.Join(g.TempDir(), "lon1.jsonl")
	g.must(os.WriteFile(path, b.Bytes(), 0o600))
	g.end("lon1/a1")
	cfg := siteagent.Config{
		Data: filepath.Join(g.TempDir(), "s1"), Management: freeAddr(g.T), Spread: 10 * time.Millisecond, MaxBackoff: time.Second, Reserve: 1, Logger: g.log,
		Spare: kit, Replaces: "a1", KitPassphrase: kit + ".pass", Import: path,
	}
	g.run("lon1/s1", func(ctx context.Context) error { return siteagent.Run(ctx, cfg) })
	g.site = g.clientOf(cfg.Management)
	g.wait("the spare answers", func() bool { _, err := g.site.Info(g.Context()); return err == nil })
	if got := g.active(); got != want || !g.has(g.site, intent.KindSSHKey, "acme", "ana") {
		g.Errorf("the spare begins at %v, want %v", got, want)
	}
	res, _ := g.carry(g.site, g.api)
	g.whole(res, "admission", 1)
	if g.has(g.api, intent.KindAgent, "lon1", "a1") {
		g.Error("a1 is an agent still")
	}
}
