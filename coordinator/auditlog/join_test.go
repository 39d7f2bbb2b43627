package auditlog

import (
	"crypto/ed25519"
	"encoding/json"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

func FuzzAuditBundle(f *testing.F) {
	c := document.AuditChain{Site: "lon1", Agent: "a1", Chain: "one"}
	k := ed25519.NewKeyFromSeed(make([]byte, 32))
	raw, err := c.Next(intent.AuditRecord{Verb: "x"})
	if err != nil {
		f.Fatal(err)
	}
	env, err := c.Seal(k, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	b, err := json.Marshal(intent.AuditBundle{Agent: "a1", Chain: "one", Records: []json.RawMessage{raw}, Head: env})
	if err != nil {
		f.Fatal(err)
	}
	keys := [][]byte{document.MarshalKey(k.Public().(ed25519.PublicKey))}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var in intent.AuditBundle
		if intent.DecodeStrict(b, &in) != nil {
			return
		}
		chains, err := openBundle("lon1", in, keys)
		if err == nil && len(chains) != len(in.Records) {
			t.Fatal("fewer chains than records")
		}
	})
}
