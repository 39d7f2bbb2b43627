package auditlog

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// Config is whose log it is.
type Config struct {
	Store  store.Store
	ID     string
	Signer func() crypto.Signer // the writer, as it is now
	// Writers are the keys, PKIX DER, that may have signed our heads: those of today and of before.
	Writers func() [][]byte
	Now     func() time.Time
	// Keys returns the keys that the agents of a site's roster sign with, by agent.
	Keys func(ctx context.Context, site string) (map[string][][]byte, error)
	Log  *slog.Logger
}

// Log keeps the coordinator's own audit chain, and joins the sites' to it. Safe for concurrent use.
type Log struct {
	Config
	bound api.AuditBound
	uses  atomic.Uint64 // of emergency keys

	mu sync.Mutex // held over a commit: the chains have one writer in this process
}

// New returns the log over a store.
func New(cfg Config) *Log { return &Log{Config: cfg} }

// Uses counts the uses of emergency keys that this process saw.
func (a *Log) Uses() uint64 { return a.uses.Load() }

// auditState is where a chain stands. A chain's keys are auditstate/PLACE, audit/PLACE/SEQ and audithead/PLACE/SEQ with PLACE
// SITE/AGENT/CHAIN, or -/ID for our own chain, of which there is one: its store is its anchor.
type auditState struct {
	document.AuditChain
	Sealed uint64    `json:"sealed"`           // of the newest head
	Keys   [][]byte  `json:"keys"`             // that signed its heads
	Joined time.Time `json:"joined,omitzero"`  // when the last bundle came
	Broken string    `json:"broken,omitempty"` // it takes no more
}

// ownSite stands for the site of the coordinator's own chain; no site is called so.
const ownSite = "-"

func auditPlace(site, agent, chain string) string { return site + "/" + agent + "/" + chain }
func auditStateKey(place string) string           { return "auditstate/" + place }
func auditKey(place string, seq uint64) string    { return fmt.Sprintf("audit/%s/%016x", place, seq) }

func auditHeadKey(place string, seq uint64) string {
	return fmt.Sprintf("audithead/%s/%016x", place, seq)
}

func (a *Log) own() string { return ownSite + "/" + a.ID }

// state reads a chain's state and what guards it; the zero state for a chain that is not there.
func (a *Log) state(ctx context.Context, place string) (st auditState, g store.Guard, err error) {
	g.Key = auditStateKey(place)
	e, err := a.Store.Get(ctx, g.Key)
	if errors.Is(err, store.ErrAbsent) {
		return st, g, nil
	}
	if err != nil {
		return st, g, err
	}
	g.Rev = e.Rev
	if err := json.Unmarshal(e.Value, &st); err != nil {
		return st, g, fmt.Errorf("cannot read audit chain %s: %w", place, err)
	}
	return st, g, nil
}

// Write hands commit what puts r at the end of our chain: commit adds it to the write that r describes, so that there is never one
// without the other. Where another coordinator of this id, on the same store, was faster with a record, commit is called again.
// Errors: commit's.
func (a *Log) Write(ctx context.Context, r intent.AuditRecord, commit func(line store.Commit) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for races := 0; ; races++ {
		_, before, err := a.state(ctx, a.own())
		if err != nil {
			return err
		}
		err = a.writeOnce(ctx, r, commit)
		if !errors.Is(err, store.ErrConflict) || races == maxRaces {
			return err
		}
		if _, now, serr := a.state(ctx, a.own()); serr != nil || now.Rev == before.Rev {
			return err // it was another condition of the commit that did not hold
		}
	}
}

// maxRaces is how often another coordinator may be faster before a write is given up: each time it did write something itself.
const maxRaces = 16

func (a *Log) writeOnce(ctx context.Context, r intent.AuditRecord, commit func(line store.Commit) error) error {
	st, guard, err := a.state(ctx, a.own())
	if err != nil {
		return err
	}
	if st.Seq == 0 {
		id := make([]byte, 8)
		rand.Read(id) // never fails: crypto/rand, Go 1.24
		st.AuditChain = document.AuditChain{Agent: a.ID, Chain: hex.EncodeToString(id)}
	}
	if r.Time.IsZero() {
		r.Time = a.Now()
	}
	raw, err := st.Next(r)
	if err != nil {
		return err
	}
	line := store.Commit{If: []store.Guard{guard}, Put: map[string][]byte{auditKey(a.own(), st.Seq): raw}}
	if err := st.put(line, a.own()); err != nil {
		return err
	}
	return commit(line)
}

func (st *auditState) put(c store.Commit, place string) error {
	b, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("cannot encode audit chain %s: %w", place, err)
	}
	c.Put[auditStateKey(place)] = b
	return nil
}

// Merge makes one commit of two, and leaves both as they are: they may be tried again with others.
func Merge(a, b store.Commit) store.Commit {
	c := store.Commit{If: slices.Concat(a.If, b.If), Delete: slices.Concat(a.Delete, b.Delete), Put: map[string][]byte{}}
	maps.Copy(c.Put, a.Put)
	maps.Copy(c.Put, b.Put)
	return c
}

// Commit writes c together with r, and returns the store's new revision. Errors: the store's.
func (a *Log) Commit(ctx context.Context, r intent.AuditRecord, c store.Commit) (rev uint64, err error) {
	err = a.Write(ctx, r, func(line store.Commit) (err error) {
		rev, err = a.Store.Commit(ctx, Merge(c, line))
		return err
	})
	return rev, err
}

// Note keeps a refusal, or the use of an emergency key, within the bound.
func (a *Log) Note(ctx context.Context, r intent.AuditRecord) error {
	who := r.User
	if r.Verb == intent.AuditBreakGlass {
		a.uses.Add(1)
		who = "break-glass " + r.User // refusals of the same user must not hide it
	}
	missed, ok := a.bound.Admit(who, a.Now())
	if !ok {
		return nil
	}
	r.Missed = missed
	_, err := a.Commit(context.WithoutCancel(ctx), r, store.Commit{})
	return err
}

// sealEvery is how often our head is signed, if the chain moved (trust.md section 8).
const sealEvery = 5 * time.Minute

// Run signs the head now and then, and at the end.
func (a *Log) Run(ctx context.Context) error {
	t := time.NewTicker(sealEvery)
	defer t.Stop()
	for {
		if err := a.Seal(context.WithoutCancel(ctx)); err != nil {
			a.Log.Error("audit head not signed", "err", err)
		}
		if ctx.Err() != nil {
			return nil
		}
		select {
		case <-ctx.Done(): // once more: what comes after is sealed by the next run
		case <-t.C:
		}
	}
}

// Seal signs the head, if the chain moved since.
func (a *Log) Seal(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	st, guard, err := a.state(ctx, a.own())
	if err != nil || st.Seq == st.Sealed {
		return err
	}
	env, err := st.Seal(a.Signer(), a.Now())
	if err != nil {
		return err
	}
	wire, err := document.Encode(env)
	if err != nil {
		return err
	}
	st.Sealed = st.Seq
	c := store.Commit{If: []store.Guard{guard}, Put: map[string][]byte{auditHeadKey(a.own(), st.Seq): wire}}
	if err := st.put(c, a.own()); err != nil {
		return err
	}
	_, err = a.Store.Commit(ctx, c)
	return err
}

// Audit implements api.Backend: our chain and the sites', or one site's.
func (a *Log) Audit(ctx context.Context, site string, fn func(api.AuditLine) error) error {
	states, err := a.states(ctx, site)
	if err != nil {
		return err
	}
	for _, s := range states {
		info := &api.AuditChain{Site: s.st.Site, Agent: s.st.Agent, Chain: s.st.Chain, Seq: s.st.Seq, Keys: s.st.Keys, Joined: s.st.Joined, Broken: s.st.Broken}
		if s.place == a.own() {
			info.Keys = a.Writers()
		}
		if err := fn(api.AuditLine{Chain: info}); err != nil {
			return err
		}
		if err := a.lines(ctx, s.place, fn); err != nil {
			return fmt.Errorf("cannot read audit chain %s: %w", s.place, err)
		}
	}
	return nil
}

type auditChainAt struct {
	place string
	st    auditState
}

func (a *Log) states(ctx context.Context, site string) (out []auditChainAt, err error) {
	prefix := auditStateKey("")
	if site != "" {
		prefix += site + "/"
	}
	err = a.Store.Range(ctx, prefix, "", func(e store.Entry) error {
		s := auditChainAt{place: strings.TrimPrefix(e.Key, auditStateKey(""))}
		if err := json.Unmarshal(e.Value, &s.st); err != nil {
			return fmt.Errorf("cannot read audit chain %s: %w", s.place, err)
		}
		out = append(out, s)
		return nil
	})
	return out, err
}

// auditPage is how many records are read before they are sent: a slow client must hold no transaction open.
const auditPage = 256

func (a *Log) lines(ctx context.Context, place string, fn func(api.AuditLine) error) error {
	heads := map[uint64]*intent.Envelope{}
	prefix := "audithead/" + place + "/"
	err := a.Store.Range(ctx, prefix, "", func(e store.Entry) error {
		var seq uint64
		env, err := document.Decode(e.Value)
		if err == nil {
			_, err = fmt.Sscanf(strings.TrimPrefix(e.Key, prefix), "%x", &seq)
		}
		heads[seq] = env
		return err
	})
	if err != nil {
		return err
	}
	for from := uint64(1); ; {
		var page [][]byte
		err := a.Store.Range(ctx, "audit/"+place+"/", auditKey(place, from), func(e store.Entry) error {
			if page = append(page, e.Value); len(page) == auditPage {
				return store.ErrStop
			}
			return nil
		})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, raw := range page {
			chain, err := document.AuditChainAt(raw)
			if err != nil {
				return err
			}
			if err := fn(api.AuditLine{Record: raw}); err != nil {
				return err
			}
			if env := heads[chain.Seq]; env != nil {
				if err := fn(api.AuditLine{Head: env}); err != nil {
					return err
				}
			}
			from = chain.Seq + 1
		}
	}
}

// Broken counts the chains that take no more.
func (a *Log) Broken(ctx context.Context) (n int) {
	states, err := a.states(ctx, "")
	if err != nil {
		return 0 // the store's own failure shows elsewhere
	}
	for _, s := range states {
		if s.st.Broken != "" {
			n++
		}
	}
	return n
}
