package intake

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/document"
)

const (
	// MaxTrust bounds the octets of trust documents of one answer.
	MaxTrust = 16 << 20
	// RevocationBatch is how many documents are taken at once.
	RevocationBatch = 128
	// MaxRevocations bounds the documents of one answer: 4,096 of 64 entries are some hundred years of thefts. The next pull goes on
	// behind them.
	MaxRevocations = 4096
)

// PullTrust takes the trust documents that base has from one on.
func (d *Desk) PullTrust(ctx context.Context, rt http.RoundTripper, base string, from uint64) error {
	envs, err := FetchTrust(ctx, rt, fmt.Sprintf("%s?from=%d", base, from))
	if err != nil {
		return err
	}
	return d.Trust(envs)
}

// FetchTrust returns the trust documents that url gives, not verified.
func FetchTrust(ctx context.Context, rt http.RoundTripper, url string) (envs []*intent.Envelope, err error) {
	size := 0
	err = uplink.Envelopes(ctx, rt, url, func(env *intent.Envelope, octets int) error {
		if size += octets; size > MaxTrust {
			return errors.New("cannot take so many trust documents at once")
		}
		envs = append(envs, env)
		return nil
	})
	return envs, err
}

// PullRevocations takes what base has beyond ours. A source that gives anything else, as one that repeats itself, is left.
func (d *Desk) PullRevocations(ctx context.Context, rt http.RoundTripper, base string) error {
	var envs []*intent.Envelope
	answer := ascent{seq: d.Replica.RevocationHead().Seq + 1}
	err := uplink.Envelopes(ctx, rt, fmt.Sprintf("%s?from=%d", base, answer.seq), func(env *intent.Envelope, _ int) error {
		if err := answer.next(env); err != nil {
			return err
		}
		if envs = append(envs, env); len(envs) < RevocationBatch {
			return nil
		}
		err := d.Revocations(envs)
		envs = nil
		return err
	})
	if len(envs) > 0 { // also of a source that broke off
		err = errors.Join(err, d.Revocations(envs))
	}
	return err
}

// ascent is how far an answer of the revocation stream is: documents come in the order of their numbers, from the one that was asked
// for on, both sides of a fork in any order. So none is verified twice, and what a pull takes is bounded by what was ever signed.
type ascent struct {
	seq   uint64                 // no document below it is due
	place map[intent.Digest]bool // that came of seq
	n     int                    // documents, so far
}

// next takes a document, not verified; what is no revocation is the desk's to refuse. Errors: document.ErrReplay; more than MaxRevocations.
func (a *ascent) next(env *intent.Envelope) error {
	if a.n++; a.n > MaxRevocations {
		return fmt.Errorf("cannot take more than %d revocation documents at once", MaxRevocations)
	}
	b := &intent.RevocationBody{}
	if err := intent.DecodeStrict(env.Payload, b); err != nil {
		return nil //nolint:nilerr // the desk refuses it, and keeps why
	}
	if b.Seq < a.seq || b.Seq == a.seq && a.place[env.Digest()] {
		return fmt.Errorf("cannot take revocation %d of an answer that was at %d: %w", b.Seq, a.seq, document.ErrReplay)
	}
	if b.Seq > a.seq || a.place == nil {
		a.seq, a.place = b.Seq, map[intent.Digest]bool{}
	}
	a.place[env.Digest()] = true
	return nil
}

// Pull takes envelopes from base until the staged head reaches want or the source has no more.
func (d *Desk) Pull(ctx context.Context, rt http.RoundTripper, base string, want intent.Head) error {
	return d.pull(ctx, rt, base, "", want)
}

// pull is Pull with more in the query of each request.
func (d *Desk) pull(ctx context.Context, rt http.RoundTripper, base, more string, want intent.Head) error {
	for {
		st := d.Replica.State()
		if want.Compare(st.Staged) <= 0 {
			return nil
		}
		n, err := d.pullOnce(ctx, rt, base, more)
		if err != nil {
			return err
		}
		if n == 0 && want.Compare(d.Replica.State().Staged) > 0 { // else somebody else brought it meanwhile
			return fmt.Errorf("source has nothing beyond %d.%d", st.Staged.Epoch, st.Staged.Seq)
		}
	}
}

// PullOnce takes one answer of base, from the staged head on.
func (d *Desk) PullOnce(ctx context.Context, rt http.RoundTripper, base string) (int, error) {
	return d.pullOnce(ctx, rt, base, "")
}

func (d *Desk) pullOnce(ctx context.Context, rt http.RoundTripper, base, more string) (int, error) {
	url := fmt.Sprintf("%s?from=%d%s", base, d.Replica.State().Staged.Seq+1, more)
	return d.Intent(ctx, func(take func(*intent.Envelope, int) error) error { return uplink.Envelopes(ctx, rt, url, take) })
}
