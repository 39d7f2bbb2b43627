package cli

import (
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	doc "github.com/skerry-metal/skerry/pki/document"
)

// TestAuditVerify damages one chain in each way, and wants the place and the words.
func TestAuditVerify(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	pub := [][]byte{doc.MarshalKey(key.Public().(ed25519.PublicKey))}
	build := func() []api.AuditLine {
		c := doc.AuditChain{Site: "lon1", Agent: "a1", Chain: "c"}
		lines := []api.AuditLine{{Chain: &api.AuditChain{Site: "lon1", Agent: "a1", Chain: "c", Seq: 4, Keys: pub}}}
		for i := range 4 {
			raw, err := c.Next(intent.AuditRecord{Time: time.Unix(int64(i), 0), User: "ana", Verb: "power on", Result: intent.AuditDone})
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, api.AuditLine{Record: raw})
			if i == 1 || i == 2 {
				env, err := c.Seal(key, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				lines = append(lines, api.AuditLine{Head: env})
			}
		}
		return lines // chain, 1, 2, head 2, 3, head 3, 4
	}
	f := func(what, want string, damage func(l []api.AuditLine) []api.AuditLine) {
		t.Helper()
		v := &auditVerifier{}
		for _, l := range damage(build()) {
			if err := v.line(l); err != nil {
				t.Fatal(err)
			}
		}
		v.end()
		if got := v.reports[0].state(); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	drop := func(i int) func([]api.AuditLine) []api.AuditLine {
		return func(l []api.AuditLine) []api.AuditLine { return append(l[:i:i], l[i+1:]...) }
	}
	f("whole", "holds; the last 1 are not signed yet", func(l []api.AuditLine) []api.AuditLine { return l })
	f("a record left out", "BROKEN: records are missing", drop(1))
	f("the end cut off", "BROKEN: it ends at record 3 and should end at 4", drop(6))
	f("the end cut off with what was signed", "BROKEN: records up to 3 were signed and are not here", func(l []api.AuditLine) []api.AuditLine { return append(l[:4:4], l[5]) })
	f("a record altered", "BROKEN: a record does not follow the one before", func(l []api.AuditLine) []api.AuditLine {
		l[1].Record = json.RawMessage(strings.Replace(string(l[1].Record), "ana", "bob", 1))
		return l
	})
	f("the last signed record altered, all after it cut off", "BROKEN: record 3 is another than the one that was signed", func(l []api.AuditLine) []api.AuditLine {
		l[0].Chain.Seq = 3
		l[4].Record = json.RawMessage(strings.Replace(string(l[4].Record), "ana", "bob", 1))
		return l[:6]
	})
	f("a foreign head", "BROKEN: a head is signed by none of the writer's keys", func(l []api.AuditLine) []api.AuditLine {
		l[3].Head.Signatures[0].Sig[0] ^= 1
		return l
	})
	f("a record twice", "BROKEN: a record comes twice", func(l []api.AuditLine) []api.AuditLine { return append(l[:2:2], l[1:]...) })
	f("no key here", "holds; the last 4 are not signed yet", func(l []api.AuditLine) []api.AuditLine { l[0].Chain.Keys = nil; return l })
	f("closed by the coordinator", "BROKEN: it forked at record 5", func(l []api.AuditLine) []api.AuditLine {
		l[0].Chain.Broken = "it forked at record 5"
		return l
	})
	f("nonsense", "BROKEN: a record cannot be read", func(l []api.AuditLine) []api.AuditLine { l[1].Record = json.RawMessage("[]"); return l })
}

// What an agent brought up cannot drive a terminal.
func TestAuditText(t *testing.T) {
	r := intent.AuditRecord{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Site: "lon1", Agent: "a1", User: "ana", Via: "token:k3p9", Verb: "apply", Result: intent.AuditDone, Reason: "x\x1b[2J", Missed: 7,
		Did: []intent.AuditChange{{Object: intent.Key{Kind: intent.KindSite, Name: "lon1"}, Action: "created"}},
	}
	const want = `2026-01-02T03:04:05.000Z  lon1/a1    done     ana          token:k3p9         apply [created Site lon1]: "x\x1b[2J" (+7 not kept)`
	if got := auditText(r.Clip()); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
