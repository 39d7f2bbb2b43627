package intake

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/skerry-metal/skerry/mesh/gossip"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// Peers pulls from the agents of the site what they say in gossip that they have. Not safe for concurrent use.
type Peers struct {
	Desk  *Desk
	asked map[string]asked // by peer
}

// asked is what a peer said of the trust stream, and what stood here, when it had nothing for us: it is not asked again about that.
type asked struct {
	head gossip.Hint
	said uint64
	own  intent.Head
	have uint64
}

// followLimit is how long all that one peer has may take: it is asked again, and others are not kept waiting for one that says nothing.
const followLimit = 30 * time.Second

// Follow takes what one peer, reached by rt, has beyond us, in followLimit. What it says is a hint: the documents decide.
func (p *Peers) Follow(ctx context.Context, peer string, rt http.RoundTripper, t gossip.Tags) {
	ctx, cancel := context.WithTimeout(ctx, followLimit)
	defer cancel()
	base := "http://" + peer + "/m/1/"
	note := func(stream string, err error) {
		if err != nil && ctx.Err() == nil && !errors.Is(err, document.ErrOffered) {
			p.Desk.Log.WarnContext(ctx, stream+" not pulled from peer", "peer", peer, "err", err)
		}
	}
	note("trust", p.trust(ctx, peer, rt, base+"trust", t))
	if r := t.Revocation; (intent.Head{Epoch: r.Epoch, Seq: r.Seq}).Compare(p.Desk.Replica.RevocationHead()) > 0 {
		note("revocations", p.Desk.PullRevocations(ctx, rt, base+"revocations"))
	}
	if want := (intent.Head{Epoch: t.Intent.Epoch, Seq: t.Intent.Seq}); want.Compare(p.Desk.Replica.State().Staged) > 0 {
		note("intent", p.Desk.Pull(ctx, rt, base+"intent", want))
	}
}

// trust takes trust documents beyond ours, and evidence of forks: documents that the peer has in one of our places, at the head or
// below, and those that it keeps as evidence.
func (p *Peers) trust(ctx context.Context, peer string, rt http.RoundTripper, base string, t gossip.Tags) error {
	now := func() asked {
		return asked{t.Trust, t.Evidence, p.Desk.Replica.TrustHead(), p.Desk.Replica.TrustEvidence()}
	}
	chain, before := p.Desk.Replica.TrustChain(), now()
	other := t.Trust.Seq >= chain.First() && t.Trust != gossip.HintOf(intent.Head{Epoch: t.Trust.Epoch, Seq: t.Trust.Seq, Hash: chain.HashAt(t.Trust.Seq)})
	forks := t.Evidence != 0 && t.Evidence != before.have
	if !other && !forks || p.asked[peer] == before {
		return nil
	}
	var err error
	if other {
		err = p.takeChain(ctx, rt, base, min(t.Trust.Seq, chain.Head.Seq))
	}
	if forks {
		err = errors.Join(err, p.takeForks(ctx, rt, base+"/forks"))
	}
	if err == nil || document.Refused(err) { // else it may go better the next time
		if p.asked == nil {
			p.asked = map[string]asked{}
		}
		p.asked[peer] = now()
	}
	return err
}

// takeChain takes the documents that base has from the place of ours on; where that one is another, all of them, as they may differ
// further down.
func (p *Peers) takeChain(ctx context.Context, rt http.RoundTripper, base string, place uint64) error {
	chain := p.Desk.Replica.TrustChain()
	envs, err := FetchTrust(ctx, rt, fmt.Sprintf("%s?from=%d", base, place))
	if err == nil && (len(envs) == 0 || envs[0].Digest() != chain.HashAt(place)) {
		envs, err = FetchTrust(ctx, rt, fmt.Sprintf("%s?from=%d", base, chain.First()))
	}
	if err != nil {
		return err
	}
	return p.Desk.Trust(envs)
}

// takeForks takes what base keeps as evidence, and we do not.
func (p *Peers) takeForks(ctx context.Context, rt http.RoundTripper, base string) error {
	envs, err := FetchTrust(ctx, rt, base+"?from=1")
	if err != nil {
		return err
	}
	have, err := p.Desk.Replica.TrustForks()
	if err != nil {
		return err
	}
	known := map[intent.Digest]bool{}
	for _, env := range have {
		known[env.Digest()] = true
	}
	for _, env := range envs {
		if known[env.Digest()] {
			continue
		}
		if terr := p.Desk.Trust([]*intent.Envelope{env}); !errors.Is(terr, document.ErrFork) {
			err = errors.Join(err, terr) // a fork is what was asked for: the desk keeps and tells it
		}
	}
	return err
}
