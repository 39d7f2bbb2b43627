package intent

import (
	"fmt"
	"time"
)

// DecodeEntry reads the payload of one intent document: header and body, strictly, but no signature and no chain rule
// (pki/document does those). Errors: Problems.
func DecodeEntry(payload []byte) (*Entry, error) {
	if len(payload) > MaxEnvelope {
		return nil, Problems{{What: "entry too large", Fix: fmt.Sprintf("at most %d octets", MaxEnvelope)}}
	}
	e := &Entry{}
	if err := DecodeStrict(payload, e); err != nil {
		return nil, err
	}
	var ps Problems
	if e.Stream != "intent" {
		ps = append(ps, Problem{Path: "stream", What: fmt.Sprintf("%q is not intent", clip(e.Stream, 40))})
	}
	if e.Seq == 0 || e.Epoch == 0 {
		ps = append(ps, Problem{Path: "seq", What: "seq and epoch begin at 1"})
	}
	if !IsLabel(e.Site) {
		ps = append(ps, Problem{Path: "site", What: "is not a site id"})
	}
	if _, ok := ParseStaleAfter(e.StaleAfter); !ok {
		ps = append(ps, Problem{Path: "stale_after", What: "is no duration between an hour and ten years"})
	}
	if err := ps.Err(); err != nil {
		return nil, err
	}
	if _, err := e.DecodeBody(); err != nil {
		return nil, err
	}
	return e, nil
}

// DecodeBody returns *PutBody, *TombstoneBody, *RosterBody, *SecretBody, *AckBody or *SnapshotBody, decoded strictly; the documents inside
// a PutBody are not decoded. Errors: Problems.
func (e *Entry) DecodeBody() (any, error) {
	var body any
	switch e.Kind {
	case EntryPut:
		body = &PutBody{}
	case EntryTombstone:
		body = &TombstoneBody{}
	case EntryRoster:
		body = &RosterBody{}
	case EntrySecret:
		body = &SecretBody{}
	case EntryAck:
		body = &AckBody{}
	case EntrySnapshot:
		body = &SnapshotBody{}
	default:
		return nil, Problems{{Path: "kind", What: fmt.Sprintf("%q is not known", clip(string(e.Kind), 40)), Fix: "update the agent"}}
	}
	if err := DecodeStrict(e.Body, body); err != nil {
		return nil, err
	}
	n := 0
	switch b := body.(type) {
	case *PutBody:
		n = len(b.Objects)
	case *TombstoneBody:
		n = len(b.Objects)
	case *RosterBody:
		n = len(b.Agents)
	}
	if n > MaxObjects {
		return nil, Problems{{Path: "body", What: fmt.Sprintf("%d objects", n), Fix: fmt.Sprintf("at most %d", MaxObjects)}}
	}
	return body, nil
}

// Head returns the head that the chain has after e, whose payload is given.
func (e *Entry) Head(payload []byte) Head {
	return Head{Epoch: e.Epoch, Seq: e.Seq, Hash: DigestOf(payload)}
}

// The bounds and the default of stale_after, in an entry and on a Site.
const (
	MinStaleAfter     = time.Hour
	MaxStaleAfter     = 10 * 365 * 24 * time.Hour
	DefaultStaleAfter = 168 * time.Hour
)

// ParseStaleAfter reads a Go duration within the bounds; "" is the default.
func ParseStaleAfter(s string) (time.Duration, bool) {
	if s == "" {
		return DefaultStaleAfter, true
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d >= MinStaleAfter && d <= MaxStaleAfter
}
