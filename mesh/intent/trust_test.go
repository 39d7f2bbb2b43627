package intent

import (
	"strings"
	"testing"
)

func TestTrustBodyValidate(t *testing.T) {
	f := func(want string, change func(*TrustBody)) {
		t.Helper()
		b := &TrustBody{
			Header: Header{Stream: StreamTrust, Seq: 1}, Domain: "example.net", Roots: RootSet{Threshold: 1, Keys: [][]byte{{1}}},
			CAs: []CACert{{State: KeyUse}}, Writers: []Writer{{Epoch: 1, Mode: ModeContinue, State: KeyAccept}},
		}
		change(b)
		err := b.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("Validate = %v, want %q", err, want)
		}
	}
	f("", func(*TrustBody) {})
	f("stream", func(b *TrustBody) { b.Stream = StreamIntent })
	f("epoch", func(b *TrustBody) { b.Epoch = 1 })
	f("seq", func(b *TrustBody) { b.Seq = 0 })
	f("domain", func(b *TrustBody) { b.Domain = "" })
	f("root keys", func(b *TrustBody) { b.Roots.Keys = nil })
	f("root keys", func(b *TrustBody) { b.Roots.Keys = make([][]byte, MaxRoots+1) })
	f("threshold", func(b *TrustBody) { b.Roots.Threshold = 0 })
	f("threshold", func(b *TrustBody) { b.Roots.Threshold = 2 })
	f("too many", func(b *TrustBody) { b.Writers = make([]Writer, MaxWriters+1) })
	f("writer 0", func(b *TrustBody) { b.Writers[0].Epoch = 0 })
	f("writer 0", func(b *TrustBody) { b.Writers[0].Mode = "reset" })
	f("CA 0", func(b *TrustBody) { b.CAs[0].State = "maybe" })
}

func TestRevocationBodyValidate(t *testing.T) {
	f := func(want string, change func(*RevocationBody)) {
		t.Helper()
		b := &RevocationBody{Header: Header{Stream: StreamRevocation, Seq: 1}, Entries: []Revocation{{Kind: RevokeAgent, ID: "lon1/a7"}}}
		change(b)
		err := b.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("Validate = %v, want %q", err, want)
		}
	}
	f("", func(*RevocationBody) {})
	f("stream", func(b *RevocationBody) { b.Stream = "" })
	f("entries", func(b *RevocationBody) { b.Entries = make([]Revocation, MaxRevocations+1) })
	f("kind", func(b *RevocationBody) { b.Entries[0].Kind = "planet" })
	f("id", func(b *RevocationBody) { b.Entries[0].ID = "" })
}

// The digest of a root set is announced in one trust document and checked years later: its text form is frozen.
func TestRootSetDigest(t *testing.T) {
	s := RootSet{Threshold: 2, Keys: [][]byte{{1, 2}, {3}}}
	if got := s.Digest(); got != DigestOf([]byte(`{"threshold":2,"keys":["AQI=","Aw=="]}`)) {
		t.Errorf("Digest = %s", got)
	}
	if s.Equal(RootSet{Threshold: 1, Keys: s.Keys}) || !s.Equal(s) {
		t.Error("Equal looks at something else than threshold and keys")
	}
}
