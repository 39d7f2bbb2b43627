package sitetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/upkeep"
	"github.com/skerry-metal/skerry/storage/blob"
	"github.com/skerry-metal/skerry/storage/state"
)

// Net is a site of agents without sockets: real stores, replicas, journals, claims and keepers that speak by calls.
type Net struct {
	T      testing.TB
	Author *Author
	Chain  []*intent.Envelope // what the coordinator published

	mu     sync.Mutex // guards what follows
	agents map[string]*NetAgent
	order  []string
}

// NetAgent is one of them. Start and Stop it; what is in its Dir may be changed in between.
type NetAgent struct {
	Name    string
	Dir     string
	DB      *state.DB
	Replica *replica.Replica
	Journal *claim.Journal
	Claims  *claim.Claims
	Blobs   *blob.Store
	Keeper  *upkeep.Keeper

	net   *Net
	keys  *seal.Keys
	life  int
	up    bool         // under the net's lock
	use   sync.RWMutex // held for reading by who calls it
	stop  context.CancelFunc
	ended chan struct{}
}

var errSilent = errors.New("no answer")

// NewNet starts a site of the named agents with a roster.
func NewNet(t testing.TB, names ...string) *Net {
	t.Helper()
	n := &Net{T: t, Author: NewAuthor(t), agents: map[string]*NetAgent{}, order: names}
	var roster intent.RosterBody
	roster.Generation = 1
	for i, name := range names {
		keys, err := seal.Generate()
		if err != nil {
			t.Fatal(err)
		}
		n.agents[name] = &NetAgent{Name: name, Dir: filepath.Join(t.TempDir(), name), net: n, keys: keys}
		roster.Agents = append(roster.Agents, intent.RosterAgent{ID: name, Rank: uint16(i), State: "agent", TLS: [][]byte{[]byte("key of " + name)}})
	}
	n.Publish(n.Author.Put(SiteDoc, MachineTypeDoc("small", 1)), n.Author.Entry(intent.EntryRoster, roster))
	for _, name := range names {
		n.Agent(name).Start()
	}
	t.Cleanup(func() {
		for _, name := range names {
			n.Agent(name).Stop()
		}
	})
	return n
}

// Agent returns the agent of that name.
func (n *Net) Agent(name string) *NetAgent { return n.agents[name] }

// Publish adds to the chain; agents take it in Settle.
func (n *Net) Publish(envs ...*intent.Envelope) { n.Chain = append(n.Chain, envs...) }

// Start opens the directory as an agent does, and runs what an agent runs of the journal.
func (a *NetAgent) Start() {
	t := a.net.T
	t.Helper()
	if err := os.MkdirAll(a.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	key, log := make([]byte, 32), slog.New(slog.DiscardHandler)
	if file, mark, err := state.OpenMarks(a.Dir, key); err == nil {
		mark.Boots++
		if err := file.Save(mark); err != nil {
			t.Fatal(err)
		}
	}
	a.Replica, a.DB = OpenReplicaOf(t, a.Dir, a.net.Author, a.Name, a.keys)
	if _, mark, err := state.OpenMarks(a.Dir, key); err != nil || mark.MaxVersion > a.DB.MaxVersion() {
		if err := a.DB.SetRecovering("behind the marks"); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if a.Journal, err = claim.OpenJournal(a.DB, a.net.Author.Site, a.Name, log); err != nil {
		t.Fatal(err)
	}
	if a.Blobs, err = blob.Open(blob.Config{Dir: filepath.Join(a.Dir, "assets"), State: a.DB, Logger: log, Reserve: 1}); err != nil {
		t.Fatal(err)
	}
	a.life++
	w := wire{a}
	a.Journal.SetPeers(w)
	a.Claims = claim.NewClaims(a.DB, a.Name, fmt.Sprint(a.Name, a.life), w, w, log)
	if err := a.Claims.ReleaseStale(); err != nil {
		t.Fatal(err)
	}
	a.Keeper = a.keeper(log)
	ctx, cancel := context.WithCancel(context.Background())
	a.stop, a.ended = cancel, make(chan struct{})
	a.set(true)
	go func() { defer close(a.ended); _ = a.Journal.Run(ctx) }()
}

func (a *NetAgent) set(up bool) {
	a.net.mu.Lock()
	defer a.net.mu.Unlock()
	a.up = up
}

// Stop closes the directory; stopping twice is no error.
func (a *NetAgent) Stop() {
	if a.stop == nil {
		return
	}
	a.net.T.Helper()
	a.set(false)
	a.stop()
	<-a.ended
	a.stop = nil
	a.use.Lock() // whoever asked has had its answer
	defer a.use.Unlock()
	if err := errors.Join(a.Replica.SaveMarks(), a.Blobs.Close(), a.DB.Close()); err != nil {
		a.net.T.Fatal(err)
	}
}

func (a *NetAgent) keeper(log *slog.Logger) *upkeep.Keeper {
	journal, promises := claim.Buckets()
	return upkeep.New(upkeep.Config{
		DB: a.DB, Ballast: filepath.Join(a.Dir, upkeep.BallastFile), Log: log,
		Parts: []upkeep.Part{
			{Name: "signed state", Buckets: replica.Buckets(), Repair: func(ctx context.Context) error { return a.Replica.Repair(ctx, a.sources()) }},
			{Name: "journal", Buckets: journal, Repair: a.Journal.Repair},
			{Name: "promises", Buckets: promises, Repair: a.Claims.Repair},
			{Name: "assets", Buckets: []string{blob.Bucket}, Repair: func(context.Context) error { return a.Blobs.Repair() }},
		},
		Roomy: func(context.Context) {}, Sound: a.Replica.SaveMarks,
		Event: func(kind, message string, fields map[string]string) error {
			return a.Journal.Append(context.Background(), claim.Local, reconcile.Event("", "", intent.Epoch{}, kind, message, fields))
		},
	})
}

func (a *NetAgent) sources() replica.Sources {
	s := replica.Sources{
		Trust:       func(context.Context) []*intent.Envelope { return []*intent.Envelope{a.net.Author.Env} },
		Revocations: func(context.Context) []*intent.Envelope { return nil },
	}
	for _, p := range (wire{a}).Live() {
		s.Intent = append(s.Intent, func(_ context.Context, from uint64, fn func(*intent.Envelope) error) error {
			b, done, err := wire{a}.peer(p)
			if err != nil {
				return err
			}
			defer done()
			return b.Replica.Feed(from, fn)
		})
	}
	return s
}

// Settle does once what an agent's follow loop does: it takes the published chain, meets its peers, and ends a recovery that may
// end.
func (a *NetAgent) Settle(ctx context.Context) error {
	if _, err := a.Replica.Receive(ctx, a.net.Chain); err != nil {
		return err
	}
	a.Claims.Meet(ctx)
	if !a.DB.Recovering() || !a.Replica.Level() || !a.Journal.Level() || len(wire{a}.Live()) == 0 {
		return nil
	}
	if err := a.Claims.Recover(ctx); err != nil {
		return nil // too few peers
	}
	return a.DB.Recovered()
}

// wire is what an agent knows of the others: claim.Peers, claim.Remote and claim.Sight.
type wire struct{ a *NetAgent }

// Live implements claim.Peers.
func (w wire) Live() (out []string) {
	w.a.net.mu.Lock()
	defer w.a.net.mu.Unlock()
	for _, name := range w.a.net.order {
		if b := w.a.net.agents[name]; b != w.a && b.up {
			out = append(out, name)
		}
	}
	return out
}

// peer returns a running agent that does not stop before done.
func (w wire) peer(name string) (p *NetAgent, done func(), err error) {
	p = w.a.net.agents[name]
	p.use.RLock()
	if !slices.Contains(w.Live(), name) {
		p.use.RUnlock()
		return nil, nil, errSilent
	}
	return p, p.use.RUnlock, nil
}

// Members implements claim.Sight.
func (w wire) Members() (uint64, []claim.Member) {
	live := w.Live()
	r := w.a.Replica.State().Roster
	var out []claim.Member
	for _, m := range r.Agents {
		out = append(out, claim.Member{ID: m.ID, Rank: m.Rank, Alive: m.ID == w.a.Name || slices.Contains(live, m.ID), Since: time.Now()})
	}
	return r.Generation, out
}

// Push implements claim.Peers.
func (w wire) Push(_ context.Context, peer string, page claim.Page) (uint64, error) {
	p, done, err := w.peer(peer)
	if err != nil {
		return 0, err
	}
	defer done()
	b, err := json.Marshal(page)
	if err != nil {
		return 0, err
	}
	var sent claim.Page
	if err := json.Unmarshal(b, &sent); err != nil {
		return 0, err
	}
	last, err := p.Journal.Receive(w.a.Name, sent)
	if errors.Is(err, claim.ErrChain) {
		err = nil
	}
	return last, err
}

// Heads implements claim.Peers.
func (w wire) Heads(_ context.Context, peer string) (map[string]uint64, error) {
	p, done, err := w.peer(peer)
	if err != nil {
		return nil, err
	}
	defer done()
	return p.Journal.Heads(), nil
}

// Pull implements claim.Peers.
func (w wire) Pull(_ context.Context, peer, agent string, from uint64) (claim.Page, error) {
	p, done, err := w.peer(peer)
	if err != nil {
		return claim.Page{}, err
	}
	defer done()
	return p.Journal.Range(agent, from, claim.MaxPull)
}

// Promise implements claim.Remote.
func (w wire) Promise(_ context.Context, peer string, generation uint64, q claim.Promise) error {
	p, done, err := w.peer(peer)
	if err != nil {
		return err
	}
	defer done()
	return p.Claims.OnPromise(generation, q)
}

// Confirm implements claim.Remote.
func (w wire) Confirm(_ context.Context, peer string, q claim.Promise) error {
	p, done, err := w.peer(peer)
	if err != nil {
		return err
	}
	defer done()
	return p.Claims.OnConfirm(q)
}

// Release implements claim.Remote.
func (w wire) Release(_ context.Context, peer string, q claim.Promise) error {
	p, done, err := w.peer(peer)
	if err != nil {
		return err
	}
	defer done()
	return p.Claims.OnRelease(q)
}

// Promises implements claim.Remote.
func (w wire) Promises(_ context.Context, peer string) ([]claim.Promise, error) {
	p, done, err := w.peer(peer)
	if err != nil {
		return nil, err
	}
	defer done()
	return p.Claims.OnPromises()
}
