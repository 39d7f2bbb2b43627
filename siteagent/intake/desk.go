package intake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

// Desk takes documents. All fields are set before use.
type Desk struct {
	Replica *replica.Replica
	// Moved tells the peers where a stream is.
	Moved func(stream string, head intent.Head)
	// Close ends the sessions of who may not speak any more, and returns how many.
	Close func() int
	// Refused keeps why something was not taken; a nil error is none.
	Refused func(kind string, err error)
	Event   func(kind, message string) error
	Log     *slog.Logger
}

// Trust takes trust documents in order; they act at once. Errors: of the first that was refused; those before it count. One that only
// the announced roots signed is kept and told of once: document.ErrOffered says so each time.
func (d *Desk) Trust(envs []*intent.Envelope) error {
	return d.trust(func() error { return d.Replica.AddTrust(envs) })
}

// Offer takes a trust document that a person brought here. Errors: as Trust.
func (d *Desk) Offer(env *intent.Envelope) error {
	return d.trust(func() error { return d.Replica.OfferTrust(env) })
}

func (d *Desk) trust(take func() error) error {
	before := d.Replica.OfferedTrust()
	err := take()
	switch now := d.Replica.OfferedTrust(); {
	case !errors.Is(err, document.ErrOffered):
		d.Refused("trust.refused", err)
	case now != nil && (before == nil || before.Digest() != now.Digest()):
		d.Refused("trust.offered", fmt.Errorf("%w %s", err, now.Digest().Hex()))
	}
	d.Followed()
	return err
}

// Followed tells peers of the trust stream as it is, and ends the sessions that it does not allow.
func (d *Desk) Followed() {
	d.Moved(intent.StreamTrust, d.Replica.TrustHead())
	d.Close()
}

// Revocations takes documents of the revocation stream; they act at once. Errors: of what was refused; the rest counts.
func (d *Desk) Revocations(envs []*intent.Envelope) error {
	before := d.Replica.Revocations().Len()
	err := d.Replica.AddRevocations(envs)
	d.Refused("revocation.refused", err)
	d.Moved(intent.StreamRevocation, d.Replica.RevocationHead())
	if n := d.Replica.Revocations().Len(); n > before {
		closed := d.Close()
		if jerr := d.Event("revocation.learnt", fmt.Sprintf("%d more identities are revoked, %d sessions ended", n-before, closed)); jerr != nil {
			d.Log.Warn("event not journaled", "err", jerr)
		}
	}
	return err
}

// Intent takes what one source gives of the chain: give calls its argument for each entry, in order, and passes on what that
// returns. It returns how many entries were new. Errors: of the entry that was refused, those before it count; else the source's.
func (d *Desk) Intent(ctx context.Context, give func(take func(env *intent.Envelope, octets int) error) error) (int, error) {
	in := replica.Intake{Replica: d.Replica}
	var refused error
	err := give(func(env *intent.Envelope, octets int) error {
		refused = in.Add(ctx, env, octets)
		return refused
	})
	if refused == nil { // also of a source that broke off: what came is whole and verified by itself
		refused = in.End(ctx)
		err = errors.Join(err, refused)
	}
	d.Refused("intent.refused", refused)
	d.Moved(intent.StreamIntent, d.Replica.State().Head)
	return in.New, err
}
