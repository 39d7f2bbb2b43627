package intent

import (
	"encoding/json"
	"fmt"
	"time"
)

// Streams of chained documents, as Header.Stream names them.
const (
	StreamTrust      = "trust"
	StreamRevocation = "revocation"
	StreamIntent     = "intent"
)

// Bounds of trust and revocation documents (trust.md section 4).
const (
	MaxRoots       = 8
	MaxCAs         = 16
	MaxWriters     = 64
	MaxRevocations = 64 // per revocation document
)

// KeyState says what a listed CA or writer may still do: accept and use are current; retire counts only for what is older.
type KeyState string

// The key states, in the order a rotation walks them.
const (
	KeyAccept KeyState = "accept"
	KeyUse    KeyState = "use"
	KeyRetire KeyState = "retire"
)

// TrustBody is the payload of one trust document: the roots, the coordinator CAs and the writers. Header.Epoch is 0.
// Source: trust.md section 4.
type TrustBody struct {
	Header
	Domain       string        `json:"domain"`          // DNS name below which every site lies
	Floor        *time.Time    `json:"floor,omitempty"` // the only thing that lowers a time floor
	Roots        RootSet       `json:"roots"`
	Next         Digest        `json:"next"` // RootSet.Digest of the set that will take over; zero = none announced
	CAs          []CACert      `json:"cas"`
	Coordinators []Coordinator `json:"coordinators,omitempty"`
	Writers      []Writer      `json:"writers"`
}

// RootSet is the keys that sign trust documents. Keys are PKIX DER of Ed25519 keys; Threshold of them must sign.
type RootSet struct {
	Threshold int      `json:"threshold"`
	Keys      [][]byte `json:"keys"`
}

// Digest is the SHA-256 of the set's JSON, as TrustBody.Next announces it.
func (r RootSet) Digest() Digest {
	b, err := json.Marshal(r)
	if err != nil {
		panic("intent: a root set did not marshal: " + err.Error()) // ints and byte slices always do
	}
	return DigestOf(b)
}

// Equal tells whether both sets have the same threshold and the same keys in the same order.
func (r RootSet) Equal(o RootSet) bool { return r.Digest() == o.Digest() }

// CACert is one coordinator CA. Root is R, which issued it; both are DER. R itself may not issue leaves (pathlen).
type CACert struct {
	Cert  []byte   `json:"cert"`
	Root  []byte   `json:"root"`
	State KeyState `json:"state"`
}

// Coordinator names one coordinator and where agents dial it (host:port, the first is tried first).
type Coordinator struct {
	ID   string   `json:"id"`
	Addr []string `json:"addr"`
}

// Writer is a key that signs intent, revocations and beacons in one epoch. Key is PKIX DER of an Ed25519 key. Mode is
// "continue": the first entry of the epoch goes on from the head of the one before.
type Writer struct {
	Key   []byte   `json:"key"`
	Epoch uint64   `json:"epoch"`
	Mode  string   `json:"mode"`
	State KeyState `json:"state"`
}

// ModeContinue is the only writer mode.
const ModeContinue = "continue"

// RevocationKind says what a Revocation names.
type RevocationKind string

// The revocation kinds. An agent revocation covers all keys the roster ever gave it.
const (
	RevokeAgent RevocationKind = "agent" // ID is SITE/AGENT
	RevokeSPKI  RevocationKind = "spki"  // ID is the hex SHA-256 of a SubjectPublicKeyInfo
	RevokeUser  RevocationKind = "user"  // ID is the user's name
	RevokeToken RevocationKind = "token" // ID is the token's id
)

// Revocation takes one identity away for ever; a new key and a new id are the only way back.
type Revocation struct {
	Kind   RevocationKind `json:"kind"`
	ID     string         `json:"id"`
	Reason string         `json:"reason,omitempty"`
}

// RevocationBody is the payload of one revocation document. Entries add to all that came before.
type RevocationBody struct {
	Header
	Entries []Revocation `json:"entries"`
}

// Validate checks the shape of a trust document: bounds, threshold, states, epochs. It does not look at signatures or keys.
func (t *TrustBody) Validate() error {
	switch {
	case t.Stream != StreamTrust || t.Epoch != 0 || t.Seq == 0:
		return fmt.Errorf("cannot accept trust document: header names stream %q epoch %d seq %d", clip(t.Stream, 40), t.Epoch, t.Seq)
	case t.Domain == "" || len(t.Domain) > 200:
		return fmt.Errorf("cannot accept trust document %d: domain has %d octets, want 1-200", t.Seq, len(t.Domain))
	case len(t.Roots.Keys) == 0 || len(t.Roots.Keys) > MaxRoots:
		return fmt.Errorf("cannot accept trust document %d: %d root keys, want 1-%d", t.Seq, len(t.Roots.Keys), MaxRoots)
	case t.Roots.Threshold < 1 || t.Roots.Threshold > len(t.Roots.Keys):
		return fmt.Errorf("cannot accept trust document %d: threshold %d of %d keys", t.Seq, t.Roots.Threshold, len(t.Roots.Keys))
	case len(t.CAs) > MaxCAs || len(t.Writers) > MaxWriters || len(t.Coordinators) > MaxWriters:
		return fmt.Errorf("cannot accept trust document %d: too many CAs, writers or coordinators", t.Seq)
	}
	for i, w := range t.Writers {
		if w.Epoch == 0 || w.Mode != ModeContinue || !w.State.valid() {
			return fmt.Errorf("cannot accept trust document %d: writer %d has epoch %d, mode %q, state %q", t.Seq, i, w.Epoch, clip(w.Mode, 40), clip(string(w.State), 40))
		}
	}
	for i, c := range t.CAs {
		if !c.State.valid() {
			return fmt.Errorf("cannot accept trust document %d: CA %d has state %q", t.Seq, i, clip(string(c.State), 40))
		}
	}
	return nil
}

func (s KeyState) valid() bool { return s == KeyAccept || s == KeyUse || s == KeyRetire }

// Validate checks the shape of a revocation document.
func (r *RevocationBody) Validate() error {
	if r.Stream != StreamRevocation || r.Seq == 0 {
		return fmt.Errorf("cannot accept revocation: header names stream %q seq %d", clip(r.Stream, 40), r.Seq)
	}
	if len(r.Entries) > MaxRevocations {
		return fmt.Errorf("cannot accept revocation %d: %d entries, at most %d", r.Seq, len(r.Entries), MaxRevocations)
	}
	for i, e := range r.Entries {
		switch e.Kind {
		case RevokeAgent, RevokeSPKI, RevokeUser, RevokeToken:
		default:
			return fmt.Errorf("cannot accept revocation %d: entry %d has unknown kind %q", r.Seq, i, clip(string(e.Kind), 40))
		}
		if e.ID == "" || len(e.ID) > 200 {
			return fmt.Errorf("cannot accept revocation %d: entry %d has an id of %d octets, want 1-200", r.Seq, i, len(e.ID))
		}
	}
	return nil
}
