package tally

import (
	"crypto/sha256"
	"fmt"
	"io"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Sum adds up a state for an intent.SnapshotBody, in any order. The zero Sum is the empty state. Secrets and rosters are not in it: an agent
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
func (s *Sum) Tombstone(t intent.TombstoneObject) {
	s.lines = append(s.lines, fmt.Sprintf("tombstone %q %d\n", t.UID, t.Rev))
}

// Ack adds the last answer to an override.
func (s *Sum) Ack(a intent.AckBody) {
	s.lines = append(s.lines, fmt.Sprintf("ack %q %q %d\n", a.Override, a.Decision, a.Rev))
}

// Body returns the sum.
func (s *Sum) Body() intent.SnapshotBody {
	slices.Sort(s.lines)
	h := sha256.New()
	for _, l := range s.lines {
		_, _ = io.WriteString(h, l) // a hash takes everything
	}
	return intent.SnapshotBody{Count: s.objects, Root: intent.Digest(h.Sum(nil))}
}
