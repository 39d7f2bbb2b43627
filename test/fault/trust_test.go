package fault

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// root reads the key that signs trust on the coordinator's host.
func (d *domain) root() ed25519.PrivateKey {
	d.Helper()
	b, err := os.ReadFile(filepath.Join(d.data, "keys", "root-sign.key"))
	d.must(err)
	block, _ := pem.Decode(b)
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	d.must(err)
	return k.(ed25519.PrivateKey)
}

// signTrust signs the document that follows b, and returns it with its body.
func (d *domain) signTrust(b intent.TrustBody, head intent.Head) (*intent.Envelope, intent.TrustBody, intent.Head) {
	d.Helper()
	b.Header = document.Follow(head, intent.StreamTrust, 0, time.Now())
	payload, err := json.Marshal(b)
	d.must(err)
	env, err := document.Sign(intent.PayloadTrust, payload, d.root())
	d.must(err)
	return env, b, intent.Head{Seq: b.Seq, Hash: env.Digest()}
}

// first reads trust document 1 from what an agent got when it joined.
func (d *domain) first(dir string) (b intent.TrustBody, head intent.Head) {
	d.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "keys", "identity.json"))
	d.must(err)
	var id struct {
		Trust []*intent.Envelope `json:"trust"`
	}
	d.must(json.Unmarshal(raw, &id))
	d.must(json.Unmarshal(id.Trust[0].Payload, &b))
	return b, intent.Head{Seq: 1, Hash: id.Trust[0].Digest()}
}

// metric reads one line of an agent's /metrics; empty while it does not answer.
func (d *domain) metric(agent, name string) string {
	res, err := http.Get("http://" + d.metrics[agent] + "/metrics") // loopback
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20)) // half an answer has no such line
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (d *domain) trustAt(agent string, seq uint64) bool {
	return d.metric(agent, "skerry_trust_seq") == fmt.Sprint(seq)
}

// The trust stream reaches who has a session, who was away, who joins later and who has no coordinator at all: that one takes it
// from its peer. A coordinator that was put back to before a document takes it from an agent; a fork is refused everywhere, and who has
// it as evidence gives it to its peers.
func TestTrustReachesEverybody(t *testing.T) {
	d, dir := newDomain(t), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	d.coordinator(nil)
	d.must(d.apply(siteLon))
	d.agent("lon1", "a1", at("a1"))
	d.agent("lon1", "a2", at("a2"))
	d.wait("lon1 is level", func() bool { return d.level("lon1") && d.trustAt("lon1/a1", 1) && d.trustAt("lon1/a2", 1) })
	body, head := d.first(at("a1"))
	d.end("lon1/a2")
	d.end("coordinator")
	old := at("old")
	d.must(os.CopyFS(old, os.DirFS(d.data)))
	d.coordinator(nil)

	second, body, head := d.signTrust(body, head)
	_, err := d.api.AddTrust(t.Context(), second)
	d.must(err)
	d.wait("a1 follows over its session", func() bool { return d.trustAt("lon1/a1", 2) })
	d.agent("lon1", "a3", at("a3"))
	d.wait("a3 joined and follows", func() bool { return d.trustAt("lon1/a3", 2) && d.level("lon1") })
	d.end("coordinator")
	d.agent("lon1", "a2", at("a2"))
	d.wait("a2 has it from a peer", func() bool { return d.trustAt("lon1/a2", 2) })
	d.end("lon1/a2")
	d.agent("lon1", "a2", at("a2"))
	d.wait("a2 has it after a restart", func() bool { return d.trustAt("lon1/a2", 2) })

	// The coordinator's disk of before document 2 is put back.
	d.must(os.Rename(d.data, at("lost")))
	d.must(os.Rename(old, d.data))
	d.coordinator(nil)
	d.wait("the coordinator has document 2 again", func() bool {
		r, err := d.api.AddTrust(t.Context(), second)
		return err == nil && !r.Added
	})
	fork := body
	fork.Coordinators = []intent.Coordinator{{ID: "evil", Addr: []string{"192.0.2.1:1"}}}
	forked, _, _ := d.signTrust(fork, intent.Head{Seq: 1, Hash: mustParse(t, body.Prev)})
	if _, err := d.api.AddTrust(t.Context(), forked); err == nil || !strings.Contains(err.Error(), "forked") {
		t.Errorf("a fork: %v", err)
	}
	if _, err := d.clientOf(d.sites["lon1/a1"]).AddTrust(t.Context(), forked); err == nil || !strings.Contains(err.Error(), "forked") {
		t.Errorf("a fork at a1: %v", err)
	}
	for _, a := range []string{"lon1/a2", "lon1/a3"} {
		d.wait(a+" has the evidence from its peer", func() bool {
			s, err := d.clientOf(d.sites[a]).KeyStatus(t.Context())
			return err == nil && s.Forks == 1
		})
	}
	third, _, _ := d.signTrust(body, head)
	_, err = d.api.AddTrust(t.Context(), third)
	d.must(err)
	d.wait("all have document 3", func() bool {
		return d.trustAt("lon1/a1", 3) && d.trustAt("lon1/a2", 3) && d.trustAt("lon1/a3", 3)
	})
}

func mustParse(t *testing.T, s string) intent.Digest {
	t.Helper()
	d, err := intent.ParseDigest(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// `pki status` tells who was not heard and since when, also by a coordinator that started anew, and what agents say of themselves.
func TestKeyStatus(t *testing.T) {
	d, dir := newDomain(t), t.TempDir()
	d.coordinator(nil)
	d.must(d.apply(siteLon))
	for _, id := range []string{"a1", "a2"} {
		d.agent("lon1", id, filepath.Join(dir, id))
	}
	status := func() map[string]api.AgentKeys {
		s, err := d.api.KeyStatus(t.Context())
		if err != nil || len(s.Sites) != 1 {
			return nil
		}
		out := map[string]api.AgentKeys{}
		for _, a := range s.Agents() {
			out[a.ID] = a
		}
		return out
	}
	d.wait("both were heard", func() bool {
		s := status()
		return s["a1"].Clock != "" && s["a2"].Clock != "" && s["a1"].Up && s["a2"].Up
	})
	s, err := d.api.KeyStatus(t.Context())
	d.must(err)
	kinds := map[string]bool{}
	for _, k := range s.Oldest {
		kinds[k.Kind] = true
		if age := s.At.Sub(k.Made); age < 0 || age > time.Hour { // made a moment ago; the dates of certificates begin earlier
			t.Errorf("%s %s is %s old", k.Kind, k.Owner, age)
		}
	}
	if len(kinds) != 5 || s.Trust.Seq != 1 || s.Forks != 0 {
		t.Errorf("%+v", s)
	}
	if a := status()["a1"]; a.Trust != 1 || a.Keys != 1 || a.Clock != intent.ClockTrusted || a.Made == nil {
		t.Errorf("a1: %+v", a)
	}
	d.end("lon1/a2")
	d.wait("a2 is gone", func() bool { return !status()["a2"].Up })
	was := status()["a2"].Contact
	d.end("coordinator")
	d.coordinator(nil)
	d.wait("a1 is back", func() bool { return status()["a1"].Up })
	if a := status()["a2"]; was == nil || a.Up || a.Contact == nil || a.Contact.After(*was) || a.Trust != 1 {
		t.Errorf("a2 after a restart: %+v, was heard %v", a, was)
	}
}
