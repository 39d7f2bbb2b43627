package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// How many envelopes are verified, staged and activated at once: each time all objects of the site are looked at. And how many octets
// wait for an entry of a current writer: a site that was away for years, in memory.
const (
	intakeBatch  = 1024
	intakeOctets = 1 << 20
	maxWaiting   = 64 << 20
)

// Intake brings what one source gives to Receive, in batches. Entries of a retired writer wait in it for what follows them.
// Not safe for concurrent use.
type Intake struct {
	Replica *Replica
	New     int // entries that were kept so far

	envs    []*intent.Envelope
	size    int // octets of envs
	brought int // how many of envs were verified, and wait
	waiting int // octets of those
}

// Add takes the next envelope of the source. Errors: as Receive, without document.ErrRetired.
func (in *Intake) Add(ctx context.Context, env *intent.Envelope, octets int) error {
	in.envs, in.size = append(in.envs, env), in.size+octets
	// Twice as many each time that they have to wait, so that few are verified often.
	if len(in.envs) < max(intakeBatch, 2*in.brought) && in.size-in.waiting < max(intakeOctets, in.waiting) {
		return nil
	}
	return in.flush(ctx)
}

// End brings the rest, also of a source that broke off: what came is whole and verified by itself. Errors: as Receive.
func (in *Intake) End(ctx context.Context) error {
	if len(in.envs) > in.brought {
		if err := in.flush(ctx); err != nil {
			return err
		}
	}
	if len(in.envs) > 0 {
		return fmt.Errorf("cannot take %d entries: the source ends there: %w", len(in.envs), document.ErrRetired)
	}
	return nil
}

func (in *Intake) flush(ctx context.Context) error {
	n, err := in.Replica.Receive(ctx, in.envs)
	in.New += n
	if errors.Is(err, document.ErrRetired) && in.size < maxWaiting {
		in.brought, in.waiting = len(in.envs), in.size // a later one may vouch for them; the known ones are skipped then
		return nil
	}
	in.envs, in.size, in.brought, in.waiting = nil, 0, 0, 0
	return err
}
