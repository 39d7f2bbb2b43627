package intake

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
)

const (
	// MaxTrust bounds the octets of trust documents of one answer.
	MaxTrust = 16 << 20
	// RevocationBatch is how many documents are taken at once; how many there are is bounded by the disk alone.
	RevocationBatch = 128
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

// PullRevocations takes what base has beyond ours.
func (d *Desk) PullRevocations(ctx context.Context, rt http.RoundTripper, base string) error {
	var envs []*intent.Envelope
	err := uplink.Envelopes(ctx, rt, fmt.Sprintf("%s?from=%d", base, d.Replica.RevocationHead().Seq+1), func(env *intent.Envelope, _ int) error {
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
