package auditlog

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	"github.com/skerry-metal/skerry/storage/state"
)

// box is one agent's log over a journal on disk.
type box struct {
	*testing.T
	*Log
	dir, name string
	key       ed25519.PrivateKey
	live      []string
	author    *sitetest.Author
	db        *state.DB
}

func newBox(t *testing.T, name string) *box {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &box{T: t, dir: t.TempDir(), name: name, key: key, author: sitetest.NewAuthor(t)}
	b.open()
	t.Cleanup(func() { _ = b.db.Close() }) // closed already by a test in a bubble
	return b
}

func (b *box) open() {
	b.Helper()
	if b.db != nil {
		if err := b.db.Close(); err != nil {
			b.Fatal(err)
		}
	}
	_, b.db = sitetest.OpenReplica(b.T, b.dir, b.author, b.name)
	log := slog.New(slog.DiscardHandler)
	j, err := claim.OpenJournal(b.db, "lon1", b.name, log)
	if err != nil {
		b.Fatal(err)
	}
	b.Log = New(Config{Journal: j, Site: "lon1", Self: b.name, Sign: func() ed25519.PrivateKey { return b.key }, Live: func() []string { return b.live }, Log: log})
}

func (b *box) keys() map[string][][]byte {
	return map[string][][]byte{b.name: {document.MarshalKey(b.key.Public().(ed25519.PublicKey))}}
}

func (b *box) write(verb string) {
	b.Helper()
	by := api.Caller{User: "ana", Via: "token:k3p9"}
	err := b.Journal.Append(b.Context(), claim.Local, claim.Draft{Kind: "thing", Key: verb, Body: verb}, b.Draft(by.Audit(verb, "Machine lon1/m1", "")))
	if err != nil {
		b.Fatal(err)
	}
}

// verified walks what the log gives out as `skerry audit verify` does, and returns verbs by chain of agent, and the number of heads.
func (b *box) verified(agent string, keys map[string][][]byte) (chains []string, heads int) {
	b.Helper()
	var c document.AuditChain
	var pub []ed25519.PublicKey
	hashes := map[uint64]intent.Digest{}
	err := b.Audit(b.Context(), keys, func(l api.AuditLine) error {
		switch {
		case l.Chain != nil:
			c, pub, hashes = document.AuditChain{Site: l.Chain.Site, Agent: l.Chain.Agent, Chain: l.Chain.Chain}, nil, map[uint64]intent.Digest{}
			for _, der := range l.Chain.Keys {
				k, err := document.ParseKey(der)
				if err != nil {
					return err
				}
				pub = append(pub, k)
			}
			if c.Agent == agent {
				chains = append(chains, "")
			}
		case l.Head != nil:
			h, err := document.OpenAuditHead(l.Head, pub)
			if err != nil {
				return err
			}
			heads++
			if hashes[h.Seq] != h.Hash {
				return document.ErrUnsealed
			}
		default:
			r, err := c.Accept(l.Record)
			if err != nil {
				return err
			}
			hashes[c.Seq] = c.Hash
			if c.Agent == agent {
				chains[len(chains)-1] += " " + r.Verb
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return chains, heads
}

// A record lies in one transaction with what it describes; the chain goes on over restarts, and heads hold.
func TestChainOnDisk(t *testing.T) {
	b := newBox(t, "a1")
	b.write("one")
	b.write("two")
	if err := b.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.open()
	b.write("three")
	for range 3 {
		if err := b.Seal(t.Context()); err != nil { // once more, and then nothing moved
			t.Fatal(err)
		}
	}
	if chains, heads := b.verified("a1", b.keys()); !cmp.Equal(chains, []string{" one two three"}) || heads != 2 {
		t.Errorf("chains %q, %d heads", chains, heads)
	}
	before := b.Journal.Heads()["a1"]
	err := b.Journal.Append(t.Context(), claim.Local, claim.Draft{Kind: "thing", Key: "x", Body: strings.Repeat("x", 600<<10)}, b.Draft(intent.AuditRecord{Verb: "lost"}))
	if err == nil || b.Journal.Heads()["a1"] != before {
		t.Errorf("a record without its write: %v", err)
	}
	b.write("four")
	if chains, _ := b.verified("a1", b.keys()); !cmp.Equal(chains, []string{" one two three four"}) {
		t.Errorf("chains %q", chains)
	}
	// Two in one transaction follow one another.
	if err := b.Journal.Append(t.Context(), claim.Local, b.Draft(intent.AuditRecord{Verb: "five"}), b.Draft(intent.AuditRecord{Verb: "six"})); err != nil {
		t.Fatal(err)
	}
	if chains, _ := b.verified("a1", b.keys()); !cmp.Equal(chains, []string{" one two three four five six"}) {
		t.Errorf("chains %q", chains)
	}
}

// Refusals are bounded and what was not kept is counted; the use of an emergency key alarms, however many refusals came before.
func TestNotes(t *testing.T) {
	b := newBox(t, "a1")
	for range 300 {
		if err := b.Note(t.Context(), intent.AuditRecord{User: "bg-lon1", Verb: "GET", Result: intent.AuditRefused}); err != nil {
			t.Fatal(err)
		}
	}
	use := intent.AuditRecord{Time: time.Now(), User: "bg-lon1", Via: "key:0123456789abcdef", Verb: intent.AuditBreakGlass, Object: "GET /v1/machines", Result: intent.AuditDone}
	for range 2 {
		if err := b.Note(t.Context(), use); err != nil {
			t.Fatal(err)
		}
	}
	chains, _ := b.verified("a1", b.keys())
	if n := strings.Count(chains[0], "GET"); n == 0 || n > 60 {
		t.Errorf("%d of 300 refusals kept", n)
	}
	if n := strings.Count(chains[0], intent.AuditBreakGlass); n != 2 || b.Uses() != 2 {
		t.Errorf("%d uses kept, %d counted", n, b.Uses())
	}
	var events []string
	if err := b.Journal.Events(nil, func(e intent.Event) error { events = append(events, e.Type+" "+e.Message); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(events) != 2 || events[0] != "breakglass.used emergency key of bg-lon1 was used: GET /v1/machines" {
		t.Errorf("events %q", events)
	}
	b.open()
	if u := b.Emergencies(); len(u) != 1 || u[0].User != "bg-lon1" || u[0].Agent != "a1" || u[0].What != "GET /v1/machines" {
		t.Errorf("uses %+v", u)
	}
}

// coordinator is what an agent sees of one: it takes what follows and is sealed.
type coordinator struct {
	keys   map[string][][]byte
	have   map[string]document.AuditChain // by agent/chain
	broken map[string]string
	fail   error
	joins  []string
}

func (c *coordinator) Places(context.Context) (out []intent.AuditPlace, err error) {
	for k, h := range c.have {
		out = append(out, intent.AuditPlace{Agent: h.Agent, Chain: h.Chain, Seq: h.Seq, Broken: c.broken[k]})
	}
	return out, c.fail
}

func (c *coordinator) Join(_ context.Context, b intent.AuditBundle) error {
	if c.fail != nil {
		return c.fail
	}
	key := b.Agent + "/" + b.Chain
	var pub []ed25519.PublicKey
	for _, der := range c.keys[b.Agent] {
		k, err := document.ParseKey(der)
		if err != nil {
			return err
		}
		pub = append(pub, k)
	}
	h, err := document.OpenAuditHead(b.Head, pub)
	if err != nil {
		return err
	}
	chain, ok := c.have[key]
	if !ok {
		chain = document.AuditChain{Site: "lon1", Agent: b.Agent, Chain: b.Chain}
	}
	for _, raw := range b.Records {
		if _, err := chain.Accept(raw); err != nil {
			c.broken[key] = err.Error()
			return fmt.Errorf("%w: %w", ErrForked, err)
		}
	}
	if err := chain.Sealed(h); err != nil {
		return err
	}
	c.have[key] = chain
	c.joins = append(c.joins, fmt.Sprintf("%s %d", b.Agent, len(b.Records)))
	return nil
}

func newCoordinator(boxes ...*box) *coordinator {
	c := &coordinator{keys: map[string][][]byte{}, have: map[string]document.AuditChain{}, broken: map[string]string{}}
	for _, b := range boxes {
		c.keys[b.name] = b.keys()[b.name]
	}
	return c
}

// What was written during an outage goes up when it ends, each record once; a live peer's chain is its own business.
func TestCarry(t *testing.T) {
	a, b := newBox(t, "a1"), newBox(t, "a2")
	c := newCoordinator(a, b)
	carry := func(x *box, want ...string) {
		t.Helper()
		c.joins = nil
		if err := x.Carry(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if !cmp.Equal(c.joins, want) {
			t.Errorf("brought up %q, want %q", c.joins, want)
		}
	}
	carry(a)
	a.write("one")
	a.write("two")
	carry(a, "a1 2")
	carry(a)
	a.write("three")
	c.fail = errors.New("no uplink")
	if err := a.Carry(t.Context(), c); !errors.Is(err, c.fail) {
		t.Errorf("without a session: %v", err)
	}
	c.fail = nil
	carry(a, "a1 1")
	a.open() // it forgets how far it was, and asks
	carry(a)

	// a2 dies after it signed two of its three records. a1 has its journal.
	b.write("one")
	b.write("two")
	if err := b.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.write("three")
	rs, err := b.Journal.Range("a2", 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Journal.Receive("a2", rs); err != nil {
		t.Fatal(err)
	}
	a.live = []string{"a2"}
	carry(a)
	a.live = nil
	carry(a, "a2 2")
	carry(a)
	carry(b, "a2 1") // it is back
}

// A large backlog goes up in parts that fit.
func TestCarryParts(t *testing.T) {
	a := newBox(t, "a1")
	for i := range 6 {
		r := intent.AuditRecord{Verb: "apply", Did: make([]intent.AuditChange, 4000)}
		for j := range r.Did {
			r.Did[j] = intent.AuditChange{Object: intent.Key{Kind: intent.KindMachine, Scope: "lon1", Name: fmt.Sprintf("m-%d-%d", i, j)}, Action: "created", Rev: 1}
		}
		if err := a.Journal.Append(t.Context(), claim.Local, a.Draft(r)); err != nil {
			t.Fatal(err)
		}
	}
	c := newCoordinator(a)
	if err := a.Carry(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if len(c.joins) < 2 {
		t.Errorf("brought up %q", c.joins)
	}
	for _, h := range c.have {
		if h.Seq != 6 {
			t.Errorf("the coordinator is at %d", h.Seq)
		}
	}
}

// A restored copy signs other records in the same places. The coordinator finds it, the agent begins a new chain that says so, and
// nothing of the old is taken any more.
func TestForkBeginsAnew(t *testing.T) {
	a := newBox(t, "a1")
	c := newCoordinator(a)
	a.write("one")
	if err := a.Carry(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for k, h := range c.have { // what the agent had brought up before it was restored
		h.Hash = intent.DigestOf([]byte("another record"))
		c.have[k] = h
	}
	a.write("two")
	if err := a.Carry(t.Context(), c); !errors.Is(err, ErrForked) {
		t.Errorf("a fork: %v", err)
	}
	a.write("three")
	c.joins = nil
	for range 2 {
		if err := a.Carry(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if !cmp.Equal(c.joins, []string{"a1 2"}) {
		t.Errorf("brought up %q", c.joins)
	}
	if chains, _ := a.verified("a1", a.keys()); !cmp.Equal(chains, []string{" one two", " audit three"}) {
		t.Errorf("chains %q", chains)
	}
}

// What a peer journals in another's name is nobody's record.
func TestForeignRecords(t *testing.T) {
	a, b := newBox(t, "a1"), newBox(t, "a2")
	a.write("one")
	forged := document.AuditChain{Site: "lon1", Agent: "a1", Chain: "forged"}
	raw, err := forged.Next(intent.AuditRecord{Verb: "forged"})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Journal.Append(t.Context(), claim.Local, claim.Draft{Kind: claim.KindAudit, Key: "a1", Body: json.RawMessage(raw)}, claim.Draft{Kind: claim.KindAudit, Body: "nonsense"}); err != nil {
		t.Fatal(err)
	}
	rs, err := b.Journal.Range("a2", 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Journal.Receive("a2", rs); err != nil {
		t.Fatal(err)
	}
	a.write("two")
	if chains, _ := a.verified("a1", a.keys()); !cmp.Equal(chains, []string{" one two"}) {
		t.Errorf("chains %q", chains)
	}
	c := newCoordinator(a, b)
	if err := a.Carry(t.Context(), c); err != nil || len(c.have) != 1 {
		t.Errorf("%v, chains %v", err, c.have)
	}
}

// Run signs within five minutes of a record, and brings it up then or as soon as a session stands.
func TestRunSeals(t *testing.T) {
	a := newBox(t, "a1")
	c := newCoordinator(a)
	if err := a.db.Close(); err != nil {
		t.Fatal(err)
	}
	a.db = nil
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		a.open() // its goroutines and channels belong to the bubble
		defer a.db.Close()
		var up atomic.Bool
		done := make(chan error)
		go func() { done <- a.Log.Run(ctx, func() (Above, bool) { return c, up.Load() }) }()
		synctest.Wait()
		a.write("one")
		time.Sleep(sealEvery - time.Second)
		if _, heads := a.verified("a1", a.keys()); heads != 0 {
			t.Errorf("%d heads before five minutes", heads)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, heads := a.verified("a1", a.keys()); heads != 1 || len(c.have) != 0 {
			t.Errorf("%d heads, the coordinator has %v", heads, c.have)
		}
		time.Sleep(10 * sealEvery)
		if _, heads := a.verified("a1", a.keys()); heads != 1 {
			t.Errorf("%d heads of a chain that rests", heads)
		}
		up.Store(true)
		a.Kick()
		synctest.Wait()
		if len(c.have) != 1 {
			t.Error("not brought up when a session stood")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
