package auditlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/claim"
)

// bundleBytes bounds the records of one bundle: the coordinator keeps it in one commit of at most 2 MiB.
const bundleBytes = 1 << 20

// agents lists whose journals this agent has, itself first: what it knows of others may wait.
func (l *Log) agents() []string {
	all := slices.Sorted(maps.Keys(l.Journal.Heads()))
	return append([]string{l.Self}, slices.DeleteFunc(all, func(a string) bool { return a == l.Self })...)
}

// Carry brings up what the coordinator lacks: this agent's chain, and those of peers that do not answer, as far as they signed
// them. It is called when a session begins and every 5 minutes.
func (l *Log) Carry(ctx context.Context, above Above) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, err := above.Places(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask how far audit chains are: %w", err)
	}
	live := l.Live()
	var errs []error
	for _, agent := range l.agents() {
		if slices.Contains(live, agent) {
			continue
		}
		places := map[string]intent.AuditPlace{}
		for _, p := range all {
			if p.Agent == agent {
				places[p.Chain] = p
			}
		}
		c := &carrier{l: l, above: above, agent: agent, places: places}
		last, err := l.records(agent, l.joined[agent], func(r claim.Record) error { return c.take(ctx, r) })
		if err == nil {
			err = c.finish(ctx)
		}
		if err == nil && len(c.bundle) == 0 {
			l.joined[agent] = last
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// errUnsigned says that a peer signed no head within one bundle.
var errUnsigned = errors.New("it signed no head among them")

// Export calls put for bundles of all chains of the site that this agent has, from their beginning: its own, and its peers' as far
// as they signed them. It goes by file, so nothing is taken to have arrived.
func (l *Log) Export(ctx context.Context, put func(intent.AuditBundle) error) error {
	for _, agent := range l.agents() {
		c := &carrier{l: l, above: file{put}, agent: agent}
		_, err := l.records(agent, 0, func(r claim.Record) error { return c.take(ctx, r) })
		if err == nil {
			err = c.finish(ctx)
		}
		if err != nil && !errors.Is(err, errUnsigned) {
			return err
		}
	}
	return nil
}

// file is a coordinator that has nothing yet.
type file struct {
	put func(intent.AuditBundle) error
}

// Places implements Above.
func (file) Places(context.Context) ([]intent.AuditPlace, error) { return nil, nil }

// Join implements Above.
func (f file) Join(_ context.Context, b intent.AuditBundle) error { return f.put(b) }

// carrier makes bundles out of one agent's journal.
type carrier struct {
	l      *Log
	above  Above
	agent  string
	places map[string]intent.AuditPlace // by chain
	bundle []json.RawMessage
	ends   []document.AuditChain // after each record of the bundle
	size   int
}

// take looks at one record. Our own bundles get a head signed for them; a peer's end where it signed one.
func (c *carrier) take(ctx context.Context, r claim.Record) error {
	if r.Kind == kindHead {
		var env intent.Envelope
		var h intent.AuditHead
		if c.agent == c.l.Self || json.Unmarshal(r.Body, &env) != nil || json.Unmarshal(env.Payload, &h) != nil {
			return nil
		}
		for i, end := range c.ends {
			if end.Sealed(&h) == nil {
				return c.join(ctx, i+1, &env)
			}
		}
		return nil
	}
	end, err := document.AuditChainAt(r.Body)
	if err != nil || end.Agent != c.agent {
		return nil // not its own: nobody would believe it
	}
	if p := c.places[end.Chain]; end.Seq <= p.Seq || p.Broken != "" {
		return nil
	}
	if n := len(c.ends); n > 0 && (c.ends[n-1].Chain != end.Chain || c.size+len(r.Body) > bundleBytes) {
		if err := c.finish(ctx); err != nil {
			return err
		}
		if c.agent != c.l.Self && c.ends[n-1].Chain != end.Chain {
			c.bundle, c.ends, c.size = nil, nil, 0 // it went on to another chain and never signed this end
		}
	}
	c.bundle, c.ends, c.size = append(c.bundle, r.Body), append(c.ends, end), c.size+len(r.Body)
	return nil
}

// finish sends what was gathered, if it is our own; of a peer's it drops what would have made the bundle too large: the peer signed
// no head within it, and brings it up itself when it is back.
func (c *carrier) finish(ctx context.Context) error {
	n := len(c.ends)
	if n == 0 {
		return nil
	}
	if c.agent != c.l.Self {
		if c.size > bundleBytes {
			return fmt.Errorf("cannot bring up audit of %s after %d records: %w", c.agent, n, errUnsigned)
		}
		return nil
	}
	env, err := c.ends[n-1].Seal(c.l.Sign(), time.Now())
	if err != nil {
		return err
	}
	return c.join(ctx, n, env)
}

// join sends the first n records of the bundle under a head.
func (c *carrier) join(ctx context.Context, n int, head *intent.Envelope) error {
	end := c.ends[n-1]
	err := c.above.Join(ctx, intent.AuditBundle{Agent: c.agent, Chain: end.Chain, Records: c.bundle[:n], Head: head})
	if errors.Is(err, ErrForked) && c.agent == c.l.Self {
		return errors.Join(err, c.l.restart(ctx, end))
	}
	if err != nil {
		return fmt.Errorf("cannot bring up audit of %s to %d: %w", c.agent, end.Seq, err)
	}
	for _, raw := range c.bundle[:n] {
		c.size -= len(raw)
	}
	c.bundle, c.ends = c.bundle[n:], c.ends[n:]
	return nil
}

// restart begins a new chain after the coordinator found the old one forked: this agent was restored from a copy. Both chains stay
// where they are, and the first record of the new one says why.
func (l *Log) restart(ctx context.Context, old document.AuditChain) error {
	if now, err := document.AuditChainAt(l.Journal.Audit()); err != nil || now.Chain != old.Chain {
		return nil // it has begun already
	}
	r := intent.AuditRecord{
		Time: time.Now(), User: l.Self, Via: "agent", Verb: "audit", Object: "chain " + old.Chain, Result: intent.AuditFailed,
		Reason: "the chain forked before record " + fmt.Sprint(old.Seq+1) + "; this one begins anew",
	}
	return l.Journal.Append(ctx, claim.Local, claim.Draft{Kind: claim.KindAudit, Link: func(json.RawMessage) (json.RawMessage, error) {
		chain := l.fresh()
		return chain.Next(r)
	}})
}
