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
// from its peer. A coordinator that was put back to before a document takes it from an agent; a fork is refused everywhere.
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
