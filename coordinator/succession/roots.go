package succession

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/holder"
)

// roots lets the announced set take over, with a new one announced in the same document; holders of both sets sign it. It is done when
// all agents that count have followed: nothing is retired apart, because the old roots sign nothing from that document on.
func (x *step) roots() error {
	again, err := x.without()
	if err != nil || x.st.Next != "" {
		return err
	}
	if again || x.body.Roots.Digest().Hex() == x.rec.From {
		set, err := x.announced()
		if err != nil {
			return err
		}
		next, err := x.afterwards()
		if err != nil {
			return err
		}
		text := fmt.Sprintf("%d of old, %d of next sign", x.body.Roots.Threshold, set.Threshold)
		if x.lost {
			text = fmt.Sprintf("%d of next sign alone", set.Threshold)
		}
		x.st.Steps = append(x.st.Steps, api.RotationStep{Phase: api.PhaseAccept, Text: text})
		waits, err := x.propose(next, func(b *intent.TrustBody) { b.Roots, b.Next = *set, next.Digest() })
		if err != nil || waits {
			return err
		}
		x.st.Steps = nil
	}
	if h, err := x.Keys.Holder(); err != nil {
		return err
	} else if h != nil {
		if err := x.Keys.Advance(x.body.Roots); err != nil {
			return err
		}
	}
	is := x.body.Roots.Digest()
	since := x.firstWith(func(b *intent.TrustBody) bool { return b.Roots.Digest() == is })
	have, of, waited, err := x.ledger(api.PhaseRetire, func(_ string, a api.AgentKeys) string {
		if a.Trust < since {
			return fmt.Sprintf("at trust %d", a.Trust)
		}
		return ""
	})
	if err != nil {
		return err
	}
	x.st.Steps = append(x.st.Steps, api.RotationStep{Phase: api.PhaseAccept, Text: fmt.Sprintf("trust %d", since), Have: have, Of: of},
		api.RotationStep{Phase: api.PhaseUse, Text: "roots " + is.Short(), Have: have, Of: of}, api.RotationStep{Phase: api.PhaseRetire, Have: have, Of: of})
	if len(waited) > 0 {
		x.waitFor(api.PhaseRetire, waited)
		return nil
	}
	return x.done()
}

// without prepares a document that does without the roots of before. again tells that it goes on after one that is not the head. Where
// one waits to be accepted already, the status says so.
func (x *step) without() (again bool, err error) {
	if x.lost = x.q.Lost; !x.lost {
		return false, nil
	}
	if env := x.Trust.Offered(); env != nil {
		x.st.Next = acceptNext(env.Digest())
		return false, nil
	}
	if x.q.After == 0 {
		return false, nil
	}
	chain := x.Trust.Chain()
	base := chain.At(x.q.After)
	if base == nil {
		return false, api.Refuse(fmt.Sprintf("there is no trust document %d to go on after; the head is %d", x.q.After, chain.Head.Seq))
	}
	if base.Next == x.body.Roots.Digest() {
		return false, nil // they took over
	}
	x.body = base
	return true, nil
}

func acceptNext(d intent.Digest) string {
	return "it waits for a person, here and at every agent: skerry pki trust accept " + d.Hex()
}

// announced returns the set behind the digest that the trust document announces, which was founded with, offered, made here, or is
// brought now.
func (x *step) announced() (*intent.RootSet, error) {
	if set := x.q.Announced; set != nil {
		if err := holder.CheckSet(*set); err != nil {
			return nil, api.Refuse(err.Error())
		}
		if set.Digest() != x.body.Next {
			return nil, api.Refuse(fmt.Sprintf("these are not the announced roots: their digest is %s, trust %d announces %s", set.Digest().Short(), x.body.Seq, x.body.Next.Short()))
		}
		return set, nil
	}
	set, err := x.set(x.body.Next)
	if set != nil || err != nil {
		return set, err
	}
	h, err := x.Keys.Holder()
	if err != nil {
		return nil, err
	}
	if h != nil {
		if set = x.Keys.NextSet(); set != nil && set.Digest() == x.body.Next {
			return set, nil
		}
	}
	return nil, api.Refuse("this coordinator does not know the keys of the announced roots, as one that was rebuilt from its sites: give the roots.json that the holders made them with, --announced FILE")
}

// set reads a set that was offered or founded with; nil for one that is not known.
func (x *step) set(d intent.Digest) (*intent.RootSet, error) {
	e, err := x.Store.Get(x.ctx, SetKey(d))
	if errors.Is(err, store.ErrAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	set := &intent.RootSet{}
	if err := json.Unmarshal(e.Value, set); err != nil {
		return nil, fmt.Errorf("cannot read roots: %w", err)
	}
	return set, nil
}

// afterwards returns the set that is announced now: the one that was given, that was given before, or that this host makes.
func (x *step) afterwards() (*intent.RootSet, error) {
	if x.q.Next != nil {
		if err := holder.CheckSet(*x.q.Next); err != nil {
			return nil, api.Refuse(err.Error())
		}
		return x.q.Next, nil
	}
	h, err := x.Keys.Holder()
	if err != nil {
		return nil, err
	}
	if h != nil {
		return x.Keys.Late()
	}
	e, err := x.Store.Get(x.ctx, offerKey)
	if err == nil {
		old := &intent.TrustBody{}
		if err := json.Unmarshal(e.Value, old); err != nil {
			return nil, fmt.Errorf("cannot read what was offered: %w", err)
		}
		if old.Seq == x.body.Seq+1 && !old.Roots.Equal(x.body.Roots) {
			if set, err := x.set(old.Next); set != nil || err != nil {
				return set, err
			}
		}
	} else if !errors.Is(err, store.ErrAbsent) {
		return nil, err
	}
	return nil, api.Refuse("the next roots are missing: holders make them with `skerry pki init --next`; give their roots.json with --next")
}
