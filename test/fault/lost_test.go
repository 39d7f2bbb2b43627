package fault

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator"
	"github.com/skerry-metal/skerry/coordinator/rebuild"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent"
)

// The roots are lost. What the announced ones sign alone is offered everywhere and followed by nobody, while all goes on; each agent
// follows it when a person at it says so, over a restart too. A newcomer begins at the accepted document. One that was away gets it
// offered when it is back. At the end the coordinator is lost too, and is rebuilt from such an agent with the announced roots (F16).
func TestLostRoots(t *testing.T) {
	d, dir := newDomain(t), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	d.coordinator(nil)
	d.must(d.apply(siteLon))
	for _, id := range []string{"a1", "a2"} {
		d.agent("lon1", id, at(id))
	}
	d.wait("lon1 is level", func() bool { return d.level("lon1") && d.trustAt("lon1/a1", 1) && d.trustAt("lon1/a2", 1) })
	d.end("lon1/a2")
	token, err := d.api.JoinToken(t.Context(), "lon1", api.JoinTokenRequest{Agent: "a9"})
	d.must(err)
	lone := d.signLone(d.first(at("a1")))
	digest := lone.Digest().Hex()
	ask := func(who string, dry bool) error {
		q := api.AcceptRequest{Digest: digest, DryRun: dry}
		cl := d.api
		if who != "coordinator" {
			q.Site, cl = "lon1", d.clientOf(d.sites[who])
		}
		_, err := cl.AcceptTrust(t.Context(), q)
		return err
	}
	offered := func(who string) bool {
		s, err := d.clientOf(d.sites[who]).KeyStatus(t.Context())
		return err == nil && s.Offered != nil && s.Offered.Digest == lone.Digest()
	}
	res, err := d.api.AddTrust(t.Context(), lone)
	d.must(err)
	if res.Added || res.Offered == nil || res.Head.Seq != 1 {
		t.Errorf("brought: %+v", res)
	}
	if err := ask("lon1/a1", true); err == nil || !strings.Contains(err.Error(), "no such document is offered") {
		t.Errorf("at an agent that has not heard: %v", err)
	}
	d.must(ask("coordinator", false))
	d.wait("a1 has it offered", func() bool { return offered("lon1/a1") })
	d.must(d.apply(machineType("t1", 4)))
	d.wait("a1 goes on under the old roots", func() bool { return d.level("lon1") && d.trustAt("lon1/a1", 1) })
	d.wait("the coordinator shows that a1 waits", func() bool {
		s, err := d.api.KeyStatus(t.Context())
		return err == nil && slices.ContainsFunc(s.Agents(), func(a api.AgentKeys) bool { return a.ID == "a1" && a.Offered == digest })
	})
	d.must(ask("lon1/a1", true))
	if !d.trustAt("lon1/a1", 1) {
		t.Error("a dry run was followed")
	}
	d.must(ask("lon1/a1", false))
	d.wait("a1 follows", func() bool { return d.trustAt("lon1/a1", 2) })
	d.end("lon1/a1")
	d.agent("lon1", "a1", at("a1"))
	d.wait("a1 follows after a restart", func() bool { return d.trustAt("lon1/a1", 2) && d.level("lon1") })

	d.agent("lon1", "a3", at("a3")) // with a new token
	d.wait("a3 joined", func() bool { return d.trustAt("lon1/a3", 2) && d.level("lon1") })
	if err := d.joins(token.Token, at("a9")); err == nil || !strings.Contains(err.Error(), "make a new one") {
		t.Errorf("a token from before: %v", err)
	}
	d.agent("lon1", "a2", at("a2"))
	d.wait("a2 is back and has it offered", func() bool {
		return offered("lon1/a2") && d.metric("lon1/a2", "skerry_uplink_up") == "1" && d.level("lon1") && d.trustAt("lon1/a2", 1)
	})
	d.must(ask("lon1/a2", false))
	d.wait("a2 follows", func() bool { return d.trustAt("lon1/a2", 2) })
	if s, err := d.api.KeyStatus(t.Context()); err != nil || s.Offered != nil {
		t.Errorf("still offered: %+v, %v", s, err)
	}

	d.end("coordinator")
	lost := d.data
	d.data = at("again")
	d.must(os.MkdirAll(filepath.Join(d.data, "keys"), 0o700))
	cfg := rebuild.Config{Agents: []string{d.sites["lon1/a3"], d.sites["lon1/a1"]}, ID: "c1", Addr: []string{d.addr}} // a3 begins at trust 2
	for from, to := range map[string]string{"root.key": "root.key", "root.crt": "root.crt", "next-sign.key": "root-sign.key", "root-sign.key": "next-sign.key"} {
		b, err := os.ReadFile(filepath.Join(lost, "keys", from))
		d.must(err)
		d.must(os.WriteFile(filepath.Join(d.data, "keys", to), b, 0o600))
	}
	again, err := coordinator.Rebuild(t.Context(), d.data, nil, cfg, d.log)
	if err != nil || again.Offer != "" || again.Trust != 3 || again.Pin != lone.Digest() {
		t.Fatalf("rebuilt: %+v, %v", again, err)
	}
	d.coordinator(nil)
	d.wait("all follow the rebuilt one", func() bool {
		return d.trustAt("lon1/a1", 3) && d.trustAt("lon1/a2", 3) && d.trustAt("lon1/a3", 3) && d.level("lon1")
	})
	d.must(d.apply(machineType("t2", 4)))
	d.wait("new intent is taken", func() bool { return d.level("lon1") })
}

// A thief of the old roots was faster by two documents, and everybody followed him. The announced roots take the place back at the
// coordinator; each agent has that offered though it is ahead, and goes back when a person says so. What the thief signed then is a fork.
func TestLostRootsAfterTheft(t *testing.T) {
	d, dir := newDomain(t), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	d.coordinator(nil)
	d.must(d.apply(siteLon))
	d.agent("lon1", "a1", at("a1"))
	d.wait("lon1 is level", func() bool { return d.level("lon1") && d.trustAt("lon1/a1", 1) })
	body, head := d.first(at("a1"))
	lone := d.signLone(body, head)
	var stolen []*intent.Envelope
	for range 2 {
		var env *intent.Envelope
		env, body, head = d.signTrust(body, head)
		_, err := d.api.AddTrust(t.Context(), env)
		d.must(err)
		stolen = append(stolen, env)
	}
	d.wait("a1 follows the thief", func() bool { return d.trustAt("lon1/a1", 3) })
	res, err := d.api.AddTrust(t.Context(), lone)
	d.must(err)
	if res.Offered == nil {
		t.Fatalf("%+v", res)
	}
	q := api.AcceptRequest{Digest: lone.Digest().Hex()}
	_, err = d.api.AcceptTrust(t.Context(), q)
	d.must(err)
	agent := d.clientOf(d.sites["lon1/a1"])
	d.wait("a1 has it offered", func() bool {
		s, err := agent.KeyStatus(t.Context())
		return err == nil && s.Offered != nil && s.Offered.Digest == lone.Digest()
	})
	d.must(d.apply(machineType("t1", 4)))
	d.wait("all goes on", func() bool { return d.level("lon1") })
	q.Site = "lon1"
	_, err = agent.AcceptTrust(t.Context(), q)
	d.must(err)
	d.wait("a1 went back", func() bool { return d.trustAt("lon1/a1", 2) })
	d.end("lon1/a1")
	d.agent("lon1", "a1", at("a1"))
	d.wait("and is there after a restart", func() bool {
		s, err := agent.KeyStatus(t.Context())
		return err == nil && d.trustAt("lon1/a1", 2) && s.Forks == 2
	})
	for _, cl := range []*client.Client{d.api, agent} {
		if _, err := cl.AddTrust(t.Context(), stolen[0]); err == nil || !strings.Contains(err.Error(), "forked") {
			t.Errorf("the thief again: %v", err)
		}
	}
	d.must(d.apply(machineType("t1", 8)))
	d.wait("new intent is taken", func() bool { return d.level("lon1") })
}

// signLone signs the document after head with the key of the announced roots alone.
func (d *domain) signLone(b intent.TrustBody, head intent.Head) *intent.Envelope {
	d.Helper()
	raw, err := os.ReadFile(filepath.Join(d.data, "keys", "next-sign.key"))
	d.must(err)
	block, _ := pem.Decode(raw)
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	d.must(err)
	next := k.(ed25519.PrivateKey)
	b.Header = document.Follow(head, intent.StreamTrust, 0, time.Now())
	b.Roots = intent.RootSet{Threshold: 1, Keys: [][]byte{document.MarshalKey(next.Public().(ed25519.PublicKey))}}
	b.Next = intent.DigestOf([]byte("the set after"))
	payload, err := json.Marshal(b)
	d.must(err)
	env, err := document.Sign(intent.PayloadTrust, payload, next)
	d.must(err)
	return env
}

// joins starts an agent with a token, and returns what ends it.
func (d *domain) joins(token, dir string) error {
	d.Helper()
	d.must(os.Mkdir(dir, 0o700))
	return siteagent.Run(d.Context(), siteagent.Config{Data: dir, Management: freeAddr(d.T), Metrics: freeAddr(d.T), Join: token, Reserve: 1, Logger: d.log})
}
