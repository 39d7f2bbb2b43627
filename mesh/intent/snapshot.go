package intent

import (
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
)

// SnapshotBody says what the entries before it add up to, in short. It changes nothing: whoever replayed them and has something else
// has not what the writer has. It carries no parts of that state, as a shortcut for who is far behind would: no chain is pruned, so all
// of it follows anyway, and a replay takes some 2,000 entries a second at a site of 10,000 machines (BenchmarkFarBehind of
// siteagent/replica). Source: trust.md section 4, rule 3.
type SnapshotBody struct {
	Count int    `json:"count"` // objects
	Root  Digest `json:"root"`  // over objects, tombstones and acks; content follows from uid and generation, which one entry gave it
}

// Sum adds up a state for a SnapshotBody, in any order. The zero Sum is the empty state. Secrets and rosters are not in it: an agent
// has of the ones its own alone, and the others act before they are active.
type Sum struct {
	objects int
	lines   []string
}

// Object adds an object that is there.
func (s *Sum) Object(uid string, rev uint64) {
	s.objects++
	s.lines = append(s.lines, fmt.Sprintf("object %q %d\n", uid, rev))
}

// Tombstone adds the last tombstone of a uid.
func (s *Sum) Tombstone(t TombstoneObject) {
	s.lines = append(s.lines, fmt.Sprintf("tombstone %q %d\n", t.UID, t.Rev))
}

// Ack adds the last answer to an override.
func (s *Sum) Ack(a AckBody) {
	s.lines = append(s.lines, fmt.Sprintf("ack %q %q %d\n", a.Override, a.Decision, a.Rev))
}

// Body returns the sum.
func (s *Sum) Body() SnapshotBody {
	slices.Sort(s.lines)
	h := sha256.New()
	for _, l := range s.lines {
		_, _ = io.WriteString(h, l) // a hash takes everything
	}
	return SnapshotBody{Count: s.objects, Root: Digest(h.Sum(nil))}
}
