package auditlog

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// The journal's kinds beside claim.KindAudit.
const (
	kindHead = "audithead" // a signed head: intent.Envelope
	kindUse  = "breakglass"
)

// sealEvery is how often the head is signed, if the chain moved (trust.md section 8).
const sealEvery = 5 * time.Minute

// Above is the coordinator, as an agent with a session sees it.
type Above interface {
	// Places says how far it has this site's chains.
	Places(ctx context.Context) ([]intent.AuditPlace, error)
	// Join hands records up. Errors: ErrForked when it has others in their place; anything else may be tried again.
	Join(ctx context.Context, b intent.AuditBundle) error
}

// ErrForked says that the coordinator has other records of the chain than those brought.
var ErrForked = errors.New("the coordinator has another record in that place")

// Config is whose log it is.
type Config struct {
	Journal    *claim.Journal
	Site, Self string
	Sign       func() ed25519.PrivateKey // the key that signs now
	Live       func() []string           // the other agents that answer: they bring their own chains up
	Log        *slog.Logger
}

// Log is the agent's audit chain, and what it knows of its peers'.
type Log struct {
	Config
	bound api.AuditBound
	uses  atomic.Uint64
	kick  chan struct{}

	mu     sync.Mutex          // guards what follows; held while chains are brought up
	sealed document.AuditChain // of the newest head that this process signed
	joined map[string]uint64   // agent -> number of its journal record up to which the coordinator has everything
}

// New returns the log over a journal.
func New(cfg Config) *Log {
	return &Log{Config: cfg, joined: map[string]uint64{}, kick: make(chan struct{}, 1)}
}

// Kick lets Run bring the chains up now: a session stands.
func (l *Log) Kick() {
	select {
	case l.kick <- struct{}{}:
	default: // asked already
	}
}

// Draft returns r as the next record of the chain, to be appended together with what it describes.
func (l *Log) Draft(r intent.AuditRecord) claim.Draft {
	return claim.Draft{Kind: claim.KindAudit, Link: func(prev json.RawMessage) (json.RawMessage, error) {
		chain, err := document.AuditChainAt(prev)
		if prev == nil || err != nil {
			chain = l.fresh()
		}
		return chain.Next(r)
	}}
}

// fresh returns an empty chain of this agent.
func (l *Log) fresh() document.AuditChain {
	id := make([]byte, 8)
	rand.Read(id) // never fails: crypto/rand, Go 1.24
	return document.AuditChain{Site: l.Site, Agent: l.Self, Chain: hex.EncodeToString(id)}
}

// Note keeps what changed nothing by itself: a refusal, or the use of an emergency key, which also raises an event.
func (l *Log) Note(ctx context.Context, r intent.AuditRecord) error {
	if r.Verb != intent.AuditBreakGlass {
		return l.Keep(ctx, r)
	}
	l.uses.Add(1)
	return l.keep(ctx, "break-glass "+r.User, r, // refusals of the same user must not hide it
		reconcile.Event("", "", intent.Epoch{}, "breakglass.used", "emergency key of "+r.User+" was used: "+r.Object, map[string]string{"user": r.User, "via": r.Via}),
		claim.Draft{Kind: kindUse, Key: r.User, Body: api.EmergencyUse{User: r.User, Agent: l.Self, Last: r.Time.UTC(), What: r.Object}})
}

// Keep journals a refusal, with more beside it. What comes faster than the bound is counted in the next record. What it returned nil
// for is on disk, or was over the bound.
func (l *Log) Keep(ctx context.Context, r intent.AuditRecord, more ...claim.Draft) error {
	return l.keep(ctx, r.User, r, more...)
}

func (l *Log) keep(ctx context.Context, who string, r intent.AuditRecord, more ...claim.Draft) error {
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	missed, ok := l.bound.Admit(who, time.Now())
	if !ok {
		return nil
	}
	r.Missed = missed
	return l.Journal.Append(ctx, claim.Local, append(more, l.Draft(r))...)
}

// Uses counts the uses of emergency keys that this process saw.
func (l *Log) Uses() uint64 { return l.uses.Load() }

// Emergencies lists the emergency keys that were used at this site, and when last.
func (l *Log) Emergencies() []api.EmergencyUse {
	var out []api.EmergencyUse
	for user := range l.Journal.View(kindUse) {
		if u, ok := claim.Load[api.EmergencyUse](l.Journal, kindUse, user); ok {
			out = append(out, u)
		}
	}
	return out
}

// Seal signs the head, if the chain moved since this process signed it last.
func (l *Log) Seal(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	body := l.Journal.Audit()
	if body == nil {
		return nil
	}
	chain, err := document.AuditChainAt(body)
	if err != nil || chain == l.sealed {
		return err
	}
	env, err := chain.Seal(l.Sign(), time.Now())
	if err != nil {
		return err
	}
	if err := l.Journal.Append(ctx, claim.Local, claim.Draft{Kind: kindHead, Body: env}); err != nil {
		return err
	}
	l.sealed = chain
	return nil
}

// Run signs the head and brings the chains up until ctx ends; up tells whether there is a session, and to whom.
func (l *Log) Run(ctx context.Context, up func() (Above, bool)) error {
	t := time.NewTicker(sealEvery)
	defer t.Stop()
	for {
		l.step(ctx, up)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-l.kick:
		}
	}
}

func (l *Log) step(ctx context.Context, up func() (Above, bool)) {
	if err := l.Seal(ctx); err != nil && ctx.Err() == nil {
		l.Log.Error("audit head not signed", "err", err)
	}
	if above, ok := up(); ok {
		if err := l.Carry(ctx, above); err != nil && ctx.Err() == nil {
			l.Log.Warn("audit not brought up", "err", err)
		}
	}
}

// records calls fn for an agent's audit records and heads beyond number after of its journal, in order, and returns the last number.
func (l *Log) records(agent string, after uint64, fn func(r claim.Record) error) (uint64, error) {
	for {
		p, err := l.Journal.Range(agent, after+1, claim.MaxPull)
		if err != nil || len(p.Records) == 0 {
			return after, err
		}
		for _, r := range p.Records {
			if r.Kind == claim.KindAudit || r.Kind == kindHead {
				if err := fn(r); err != nil {
					return after, err
				}
			}
			after = r.Seq
		}
	}
}

// Audit calls fn for the chains of the site's agents as this one has them; keys are the roster's by agent.
func (l *Log) Audit(ctx context.Context, keys map[string][][]byte, fn func(api.AuditLine) error) error {
	for _, agent := range l.agents() {
		var chains []string
		lines, ends := map[string][]api.AuditLine{}, map[string]document.AuditChain{}
		_, err := l.records(agent, 0, func(r claim.Record) error {
			if r.Kind == kindHead {
				var env intent.Envelope
				var h intent.AuditHead
				if json.Unmarshal(r.Body, &env) == nil && json.Unmarshal(env.Payload, &h) == nil && h.Agent == agent {
					lines[h.Chain] = append(lines[h.Chain], api.AuditLine{Head: &env})
				}
				return ctx.Err()
			}
			c, err := document.AuditChainAt(r.Body)
			if err != nil || c.Agent != agent {
				return ctx.Err() // of no use to anybody who verifies
			}
			if _, known := ends[c.Chain]; !known {
				chains = append(chains, c.Chain)
			}
			ends[c.Chain] = c
			lines[c.Chain] = append(lines[c.Chain], api.AuditLine{Record: r.Body})
			return ctx.Err()
		})
		if err != nil {
			return fmt.Errorf("cannot read audit of %s: %w", agent, err)
		}
		for _, id := range chains {
			info := &api.AuditChain{Site: l.Site, Agent: agent, Chain: id, Seq: ends[id].Seq, Keys: keys[agent]}
			if err := fn(api.AuditLine{Chain: info}); err != nil {
				return err
			}
			for _, line := range lines[id] {
				if err := fn(line); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
