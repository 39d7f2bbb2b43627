package intent

import (
	"encoding/json"
	"fmt"
	"time"
)

// AuditRecord is one line of an audit chain: who did what, by which credential, and what became of it. There is one chain per
// agent and per coordinator; Prev is the digest of the record before, "" for the first of a chain. The bytes are kept as they
// were first written: their SHA-256 is what the next record names.
// Source: trust.md sections 4 and 8.
type AuditRecord struct {
	Site   string    `json:"site,omitempty"` // of the agent; "" for a coordinator
	Agent  string    `json:"agent"`          // agent or coordinator that wrote it
	Chain  string    `json:"chain"`          // random; another one only when the agent lost its disk or its chain forked
	Seq    uint64    `json:"seq"`            // dense from 1
	Prev   string    `json:"prev"`
	Time   time.Time `json:"time"` // of the writer's clock
	User   string    `json:"user,omitempty"`
	Via    string    `json:"via,omitempty"` // token:ID, key:HEX, or the part of the program that acted by itself
	Verb   string    `json:"verb"`
	Object string    `json:"object,omitempty"`
	Result string    `json:"result"` // see the Audit constants
	Reason string    `json:"reason,omitempty"`
	// Did lists what a batch changed.
	Did []AuditChange `json:"did,omitempty"`
	// Missed counts the refusals of the same identity that were not kept since the last that was: they are bounded in time.
	Missed uint64 `json:"missed,omitempty"`
}

// AuditChange is one object of a batch.
type AuditChange struct {
	Object Key    `json:"object"`
	Action string `json:"action"`
	Rev    uint64 `json:"generation,omitempty"`
}

// The results.
const (
	AuditDone    = "done"
	AuditRefused = "refused"
	AuditFailed  = "failed"
)

// AuditBreakGlass is the verb of a record that an emergency key was used.
const AuditBreakGlass = "break-glass"

// MaxAuditRecord bounds one record's JSON, in octets: a batch of 4,096 objects with long names.
const MaxAuditRecord = 900_000

// Clip cuts what came from outside to its bounds and makes it printable.
func (r AuditRecord) Clip() AuditRecord {
	cut := func(s *string, n int) {
		*s = clip(*s, n)
		if !printable(*s) {
			*s = clip(fmt.Sprintf("%q", *s), n)
		}
	}
	cut(&r.User, 63)
	cut(&r.Via, 80)
	cut(&r.Verb, 40)
	cut(&r.Object, 300)
	cut(&r.Reason, 400)
	return r
}

// AuditHead is the payload of a signed head: the signer says that record Seq of its chain has Hash.
type AuditHead struct {
	Site  string    `json:"site,omitempty"`
	Agent string    `json:"agent"`
	Chain string    `json:"chain"`
	Seq   uint64    `json:"seq"`
	Hash  Digest    `json:"hash"`
	Time  time.Time `json:"time"`
}

// AuditPlace is how far a coordinator has one chain of a site.
type AuditPlace struct {
	Agent  string `json:"agent"`
	Chain  string `json:"chain"`
	Seq    uint64 `json:"seq"`
	Broken string `json:"broken,omitempty"` // it takes no more of it
}

// AuditBundle brings records of one chain to the coordinator: verbatim, in order, the last of them named by the signed head.
type AuditBundle struct {
	Agent   string            `json:"agent"`
	Chain   string            `json:"chain"`
	Records []json.RawMessage `json:"records"`
	Head    *Envelope         `json:"head"`
}
