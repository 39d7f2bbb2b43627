package publish

import (
	"context"
	"fmt"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// SnapshotEvery is how often a chain says what it adds up to: each entry whose number is a multiple of it is a snapshot.
const SnapshotEvery = 256

// fold is what a chain adds up to, of what a snapshot counts.
type fold struct {
	objects map[string]uint64 // generation by uid
	tombs   map[string]intent.TombstoneObject
	acks    map[string]intent.AckBody
}

func (f *fold) add(env *intent.Envelope) error {
	e, err := intent.DecodeEntry(env.Payload)
	if err != nil {
		return err
	}
	body, err := e.DecodeBody()
	if err != nil {
		return err
	}
	switch b := body.(type) {
	case *intent.PutBody:
		for _, o := range b.Objects {
			f.objects[o.UID] = o.Rev
		}
	case *intent.TombstoneBody:
		for _, t := range b.Objects {
			delete(f.objects, t.UID)
			f.tombs[t.UID] = t
		}
	case *intent.AckBody:
		f.acks[b.Override] = *b
	}
	return nil
}

func (f *fold) sum() intent.SnapshotBody {
	var s intent.Sum
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

// sum adds up the chain as it is stored, and then last, one encoded envelope that is not stored yet; nil for none. It reads the whole
// chain: what was told is in nobody's words but the chain's.
func (c *Chain) sum(ctx context.Context, last []byte) (intent.SnapshotBody, error) {
	f := fold{map[string]uint64{}, map[string]intent.TombstoneObject{}, map[string]intent.AckBody{}}
	seq := uint64(0)
	err := c.p.Feed(ctx, c.site, 1, func(env *intent.Envelope) error {
		if seq++; seq > c.head.Seq { // another writer's, and then the commit fails
			return nil
		}
		return f.add(env)
	})
	if err == nil && last != nil {
		var env *intent.Envelope
		if env, err = document.Decode(last); err == nil {
			err = f.add(env)
		}
	}
	if err != nil {
		return intent.SnapshotBody{}, fmt.Errorf("cannot add up the chain of %s: %w", c.site, err)
	}
	return f.sum(), nil
}
