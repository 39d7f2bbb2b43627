package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/tally"
	"github.com/skerry-metal/skerry/pki/document"
)

// SnapshotEvery is how often a chain says what it adds up to: each entry whose number is a multiple of it is a snapshot.
const SnapshotEvery = 256

// Folds remembers what chains add up to, so that a snapshot reads nothing again; the first of a process reads the whole chain, unless
// it saw it begin. The zero Folds remembers nothing yet. Safe for concurrent use.
type Folds struct {
	mu sync.Mutex // guards what follows
	by map[string]*fold
}

// take hands the fold of a site to its caller alone; nil when there is none. A nil Folds has none.
func (s *Folds) take(site string) *fold {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.by[site]
	delete(s.by, site)
	return f
}

func (s *Folds) give(site string, f *fold) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[string]*fold{}
	}
	s.by[site] = f
}

// follow adds what was just stored behind head, encoded envelopes, when all before it is in the fold. Else a snapshot will read it.
func (s *Folds) follow(site string, head intent.Head, stored [][]byte) {
	f := s.take(site)
	switch {
	case s == nil, f == nil && head.Seq > 0:
		return
	case f == nil:
		f = newFold()
	}
	if f.seq == head.Seq {
		for _, wire := range stored {
			env, err := document.Decode(wire)
			if err == nil {
				err = f.add(env)
			}
			if err != nil {
				return // it is read again
			}
		}
	}
	s.give(site, f)
}

// fold is what a chain adds up to, of what a snapshot counts.
type fold struct {
	seq     uint64            // of the last entry in it
	hash    string            // of that
	objects map[string]uint64 // generation by uid
	tombs   map[string]intent.TombstoneObject
	acks    map[string]intent.AckBody
}

func newFold() *fold {
	return &fold{objects: map[string]uint64{}, tombs: map[string]intent.TombstoneObject{}, acks: map[string]intent.AckBody{}}
}

func (f *fold) clone() *fold {
	return &fold{f.seq, f.hash, maps.Clone(f.objects), maps.Clone(f.tombs), maps.Clone(f.acks)}
}

// errOtherChain says that an entry does not follow what was folded.
var errOtherChain = errors.New("the entry follows another one")

// add folds one more entry of this coordinator's own chain in: it was checked when it came there.
func (f *fold) add(env *intent.Envelope) error {
	var e struct {
		Seq  uint64           `json:"seq"`
		Prev string           `json:"prev"`
		Kind intent.EntryKind `json:"kind"`
		Body json.RawMessage  `json:"body"`
	}
	if err := json.Unmarshal(env.Payload, &e); err != nil {
		return fmt.Errorf("cannot read entry after %d: %w", f.seq, err)
	}
	if e.Seq != f.seq+1 || e.Prev != f.hash {
		return fmt.Errorf("cannot add entry %d to what %d entries come to: %w", e.Seq, f.seq, errOtherChain)
	}
	var err error
	switch e.Kind {
	case intent.EntryPut:
		var b struct {
			Objects []struct {
				UID string `json:"uid"`
				Rev uint64 `json:"rev"`
			} `json:"objects"`
		}
		err = json.Unmarshal(e.Body, &b)
		for _, o := range b.Objects {
			f.objects[o.UID] = o.Rev
		}
	case intent.EntryTombstone:
		var b intent.TombstoneBody
		err = json.Unmarshal(e.Body, &b)
		for _, t := range b.Objects {
			delete(f.objects, t.UID)
			f.tombs[t.UID] = t
		}
	case intent.EntryAck:
		var b intent.AckBody
		err = json.Unmarshal(e.Body, &b)
		f.acks[b.Override] = b
	}
	f.seq, f.hash = e.Seq, env.Digest().String()
	return err
}

func (f *fold) sum() intent.SnapshotBody {
	var s tally.Sum
	for uid, rev := range f.objects {
		s.Object(uid, rev)
	}
	for _, t := range f.tombs {
		s.Tombstone(t)
	}
	for _, a := range f.acks {
		s.Ack(a)
	}
	return s.Body()
}

// sum adds up the chain as it is stored, and then last, one encoded envelope that is not stored yet; nil for none. What was told is in
// nobody's words but the chain's.
func (c *Chain) sum(ctx context.Context, last []byte) (intent.SnapshotBody, error) {
	f := c.p.Folds.take(c.site)
	if f == nil || f.seq > c.head.Seq {
		f = newFold()
	}
	err := c.fold(ctx, f)
	if errors.Is(err, errOtherChain) { // what is remembered is of a chain that was replaced
		f = newFold()
		err = c.fold(ctx, f)
	}
	whole := f
	if err == nil && last != nil {
		whole = f.clone() // last may never be stored
		var env *intent.Envelope
		if env, err = document.Decode(last); err == nil {
			err = whole.add(env)
		}
	}
	if err != nil {
		return intent.SnapshotBody{}, fmt.Errorf("cannot add up the chain of %s: %w", c.site, err)
	}
	sum := whole.sum()
	c.p.Folds.give(c.site, f)
	return sum, nil
}

// fold brings f up to the head. What another writer put behind it is left out: the commit fails then.
func (c *Chain) fold(ctx context.Context, f *fold) error {
	return c.p.Feed(ctx, c.site, f.seq+1, func(env *intent.Envelope) error {
		if f.seq >= c.head.Seq {
			return nil
		}
		return f.add(env)
	})
}
