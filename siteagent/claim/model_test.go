package claim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
)

var (
	seed      = flag.Uint64("seed", 0, "run this history of the model alone")
	histories = flag.Int("histories", 240, "histories of the model")
)

var (
	errLost   = errors.New("no answer")
	errFenced = errors.New("device is fenced")
)

// model runs real Claims over real stores in one goroutine. Whenever an agent waits for a peer or a device, other agents may
// act first: that is where crashes, cuts, pauses and lost answers happen.
type model struct {
	t      *testing.T
	rnd    *rand.Rand
	now    time.Time
	agents []*modelAgent
	gen    uint64 // newest roster
	gone   string // removed in the newest roster; "" = nobody
	cut    map[[2]string]bool
	device map[string]*modelDevice
	ids    []string
	depth  int
	calm   bool     // the end: nothing goes wrong any more
	trace  []string // for the report of a failure
	queue  []func() // late copies of messages

	granted  map[string]string       // id@epoch -> owner
	lastAct  map[string]intent.Epoch // of destructive steps
	promised map[string]intent.Epoch // agent/id -> highest promise that was answered
}

type modelAgent struct {
	name   string
	rank   uint16
	dir    string
	db     *state.DB
	claims *Claims
	boots  int
	gen    uint64
	busy   bool
	sees   map[string]Member
	m      *model
}

// modelDevice is a machine or a decision: hard devices refuse lower epochs, soft ones only remember, decisions have no fence.
type modelDevice struct {
	strength intent.Strength
	epoch    intent.Epoch
}

func (m *model) note(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf("%*s", 2*m.depth, "")+fmt.Sprintf(format, args...))
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	from := max(0, len(m.trace)-60)
	for _, l := range m.trace[from:] {
		m.t.Log(l)
	}
	m.t.Fatalf(format, args...)
}

func (m *model) chance(percent int) bool { return !m.calm && m.rnd.IntN(100) < percent }

// Members implements Sight.
func (a *modelAgent) Members() (uint64, []Member) {
	var out []Member
	for _, b := range a.m.agents {
		if a.gen == a.m.gen && a.m.gen > 1 && b.name == a.m.gone {
			continue
		}
		s := a.sees[b.name]
		out = append(out, Member{ID: b.name, Rank: b.rank, Alive: s.Alive || b == a, Since: s.Since})
	}
	return a.gen, out
}

// reach carries one request: others may act before it arrives, it or its answer may be lost, or a copy may come much later.
func (a *modelAgent) reach(peer, what string, do func(b *modelAgent) error) error {
	m := a.m
	m.meanwhile()
	b := m.agent(peer)
	if m.cut[[2]string{a.name, peer}] || m.chance(3) {
		m.note("%s -> %s %s: lost", a.name, peer, what)
		return errLost
	}
	if m.chance(5) {
		m.queue = append(m.queue, func() { _ = do(b) })
	}
	err := do(b)
	m.note("%s -> %s %s: %v", a.name, peer, what, err)
	m.meanwhile()
	if m.cut[[2]string{peer, a.name}] || m.chance(3) {
		m.note("%s -> %s %s: answer lost", a.name, peer, what)
		return errLost
	}
	return err
}

func (a *modelAgent) Promise(_ context.Context, peer string, generation uint64, p Promise) error {
	return a.reach(peer, "promise "+p.Epoch.String(), func(b *modelAgent) error {
		err := b.claims.OnPromise(generation, p)
		if key := b.name + "/" + p.ID; err == nil && p.Epoch.Compare(a.m.promised[key]) > 0 {
			a.m.promised[key] = p.Epoch
		}
		return err
	})
}

func (a *modelAgent) Confirm(_ context.Context, peer string, p Promise) error {
	return a.reach(peer, "confirm "+p.Epoch.String(), func(b *modelAgent) error { return b.claims.OnConfirm(p) })
}

func (a *modelAgent) Release(_ context.Context, peer string, p Promise) error {
	return a.reach(peer, "release "+p.Epoch.String(), func(b *modelAgent) error { return b.claims.OnRelease(p) })
}

func (a *modelAgent) Promises(_ context.Context, peer string) (out []Promise, err error) {
	err = a.reach(peer, "promises", func(b *modelAgent) error {
		out, err = b.claims.OnPromises()
		return err
	})
	return out, err
}

// modelFence is an agent's access to a device.
type modelFence struct {
	m *model
	d *modelDevice
}

func (f modelFence) ReadFence(context.Context) (intent.Epoch, intent.Strength, error) {
	f.m.meanwhile()
	if f.m.chance(3) {
		return intent.Epoch{}, intent.StrengthNone, errLost
	}
	return f.d.epoch, f.d.strength, nil
}

func (f modelFence) RaiseFence(_ context.Context, e intent.Epoch) error {
	f.m.meanwhile()
	if f.d.strength == intent.StrengthHard && e.Compare(f.d.epoch) < 0 {
		return errFenced
	}
	f.d.epoch = e
	f.m.meanwhile()
	if f.m.chance(3) {
		return errLost
	}
	return nil
}

func (m *model) agent(name string) *modelAgent {
	return m.agents[slices.IndexFunc(m.agents, func(a *modelAgent) bool { return a.name == name })]
}

func (m *model) fence(id string) Fence {
	if d := m.device[id]; d != nil {
		return modelFence{m, d}
	}
	return nil
}

// meanwhile lets something else happen while somebody waits.
func (m *model) meanwhile() {
	if m.depth < 2 && m.chance(15) {
		m.depth++
		m.step()
		m.depth--
	}
}

func (m *model) step() {
	a := m.agents[m.rnd.IntN(len(m.agents))]
	switch r := m.rnd.IntN(100); {
	case r < 40:
		m.work(a)
	case r < 50:
		m.breakLink()
	case r < 62:
		m.gossip(a)
		a.learn()
	case r < 72:
		m.now = m.now.Add(time.Duration(m.rnd.IntN(40)) * time.Second)
	case r < 79:
		if !a.busy {
			a.crash()
		}
	case r < 81:
		if !a.busy {
			a.forget()
		}
	case r < 85:
		if len(m.agents) > 2 || !slices.ContainsFunc(m.agents, func(b *modelAgent) bool { return b.db.Recovering() }) {
			m.roster(a)
		}
	case r < 92 && len(m.queue) > 0:
		late := m.queue[0]
		m.queue = m.queue[1:]
		m.note("a late copy arrives")
		late()
	default:
		if !a.busy {
			id := m.someID()
			m.note("%s releases %s", a.name, id)
			a.busy = true
			a.claims.Release(context.Background(), id)
			a.busy = false
		}
	}
}

func (m *model) someID() string { return m.ids[m.rnd.IntN(len(m.ids))] }

// work is one task: claim, confirm, and one destructive step.
func (m *model) work(a *modelAgent) {
	if a.busy {
		return
	}
	a.busy = true
	defer func() { a.busy = false }()
	id := m.someID()
	cl, err := a.claims.Acquire(context.Background(), id, m.fence(id))
	m.note("%s acquires %s: %s %v", a.name, id, cl.Epoch, err)
	if err != nil {
		return
	}
	m.grant(a, cl)
	m.meanwhile()
	if err := a.claims.Confirm(context.Background(), cl, m.fence(id)); err != nil {
		m.note("%s confirms %s: %v", a.name, id, err)
		return
	}
	d := m.device[id]
	if d != nil && d.strength == intent.StrengthHard {
		m.meanwhile() // the device itself refuses what comes too late
		if cl.Epoch.Compare(d.epoch) < 0 {
			m.note("%s writes to %s under %s: fenced", a.name, id, cl.Epoch)
			return
		}
	}
	m.note("%s writes to %s under %s", a.name, id, cl.Epoch)
	if last := m.lastAct[id]; cl.Epoch.Compare(last) < 0 {
		m.fail("invariant 4: %s acted on %s under %s after somebody acted under %s", a.name, id, cl.Epoch, last)
	}
	m.lastAct[id] = cl.Epoch
}

func (m *model) grant(a *modelAgent, cl intent.Claim) {
	key := cl.ID + "@" + cl.Epoch.String()
	if o := m.granted[key]; o != "" && o != a.name {
		m.fail("invariant 1: %s was granted to %s and %s", key, o, a.name)
	}
	m.granted[key] = a.name
}

func (m *model) breakLink() {
	a, b := m.agents[m.rnd.IntN(len(m.agents))].name, m.agents[m.rnd.IntN(len(m.agents))].name
	m.cut[[2]string{a, b}] = m.rnd.IntN(2) == 0
	if m.rnd.IntN(3) == 0 {
		m.cut[[2]string{b, a}] = m.cut[[2]string{a, b}]
	}
}

// gossip changes what an agent thinks of another one, rightly or wrongly.
func (m *model) gossip(a *modelAgent) {
	b := m.agents[m.rnd.IntN(len(m.agents))]
	if s := a.sees[b.name]; a != b {
		a.sees[b.name] = Member{Alive: !s.Alive, Since: m.now}
		m.note("%s sees %s alive: %v", a.name, b.name, !s.Alive)
	}
}

// roster quarantines one agent, once per history; each agent hears of it in its own time.
func (m *model) roster(a *modelAgent) {
	if m.gen == 1 && len(m.agents) > 1 {
		m.gen, m.gone = 2, m.agents[m.rnd.IntN(len(m.agents))].name
		m.note("roster 2 has no %s", m.gone)
	}
	if a.gen != m.gen {
		a.gen = m.gen
		m.note("%s has roster %d", a.name, a.gen)
	}
}

// crash ends an agent and starts it again from its store; what it answered it must still know.
func (a *modelAgent) crash() {
	m := a.m
	m.note("%s crashes", a.name)
	if err := a.db.Close(); err != nil {
		m.t.Fatal(err)
	}
	a.open()
	for _, id := range m.ids {
		p, err := a.claims.own.load(id)
		if err != nil {
			m.t.Fatal(err)
		}
		if want := m.promised[a.name+"/"+id]; p.Epoch.Compare(want) < 0 {
			m.fail("invariant 3: %s promised %s at %s, and knows %s", a.name, id, want, p.Epoch)
		}
	}
}

// forget starts the agent from an older copy of its store, which knows less of what it promised. It learns from its peers
// before it answers anybody. One at a time: when several forget at once, it is for an operator to say who is right.
func (a *modelAgent) forget() {
	m := a.m
	for _, b := range m.agents {
		if b.db.Recovering() {
			return
		}
	}
	if _, members := a.Members(); len(members) == 1 || m.gen > 1 && len(m.agents) == 2 {
		return // alone, now or once it has the newest roster: its fences and its coordinator are all it has
	}
	m.note("%s is restored from an older copy", a.name)
	err := errors.Join(a.db.SetRecovering("the model restored an older copy"), a.db.Update(func(tx *state.Tx) error {
		for _, id := range m.ids {
			if m.rnd.IntN(2) == 0 {
				continue
			}
			if err := tx.Delete(bucketPromise, id); err != nil && !errors.Is(err, state.ErrAbsent) {
				return err
			}
		}
		return nil
	}))
	if err != nil {
		m.t.Fatal(err)
	}
	a.boots++
	a.start()
	for _, id := range m.ids { // what it knows now counts: the rest is for its peers to remember
		delete(m.promised, a.name+"/"+id)
	}
}

// learn tries to end a recovery.
func (a *modelAgent) learn() {
	if !a.db.Recovering() || a.busy {
		return
	}
	a.busy = true
	defer func() { a.busy = false }()
	err := a.claims.Recover(context.Background())
	a.m.note("%s recovers: %v", a.name, err)
	if err != nil {
		return
	}
	if err := a.db.Recovered(); err != nil {
		a.m.t.Fatal(err)
	}
}

func (a *modelAgent) open() {
	a.boots++
	a.db = openStore(a.m.t, a.dir)
	a.start()
}

func (a *modelAgent) start() {
	a.claims = NewClaims(a.db, a.name, fmt.Sprintf("%s.%d", a.name, a.boots), a, a, slog.New(slog.DiscardHandler))
	a.claims.now = func() time.Time { return a.m.now }
	a.claims.started = a.m.now
	if err := a.claims.ReleaseStale(); err != nil {
		a.m.t.Fatal(err)
	}
}

// quickDir is a directory in memory where there is one: the model crashes processes, not machines.
func quickDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "skerry-claim-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func openStore(t testing.TB, dir string) *state.DB {
	t.Helper()
	db, err := state.Open(state.Config{Dir: dir, Key: make([]byte, 32), Logger: slog.New(slog.DiscardHandler), UserFraction: -1, UserFree: 1, VitalFree: 1, StopFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// heal ends all trouble and wants every agent of the newest roster to get every claim in its turn.
func (m *model) heal() {
	m.calm, m.cut = true, map[[2]string]bool{}
	for _, late := range m.queue {
		late()
	}
	var live []*modelAgent
	for _, a := range m.agents {
		a.gen = m.gen
		for _, b := range m.agents {
			a.sees[b.name] = Member{Alive: b.name != m.gone || m.gen == 1, Since: m.now}
		}
		if m.gen == 1 || a.name != m.gone {
			live = append(live, a)
		}
	}
	m.now = m.now.Add(HoldOff + lease)
	m.note("all is well again")
	for _, a := range live {
		if a.learn(); a.db.Recovering() {
			m.fail("invariant 6: all is well and %s cannot recover", a.name)
		}
	}
	for _, id := range m.ids {
		m.goesOn(live, id)
		for _, a := range live {
			a.claims.Release(context.Background(), id)
		}
		for _, a := range live {
			cl, err := a.claims.Acquire(context.Background(), id, m.fence(id))
			if err != nil {
				m.fail("invariant 6: all is well and %s cannot claim %s: %v", a.name, id, err)
			}
			m.grant(a, cl)
			if err := a.claims.Confirm(context.Background(), cl, m.fence(id)); err != nil {
				m.fail("invariant 6: all is well and %s cannot confirm %s: %v", a.name, id, err)
			}
			a.claims.Release(context.Background(), id)
		}
	}
}

// goesOn wants whoever thinks that he holds id to go on with it, or to know by then that he does not.
func (m *model) goesOn(live []*modelAgent, id string) {
	for _, a := range live {
		if _, ok := a.claims.Held(id); !ok {
			continue
		}
		cl, err := a.claims.Acquire(context.Background(), id, m.fence(id))
		if err == nil {
			m.grant(a, cl)
			err = a.claims.Confirm(context.Background(), cl, m.fence(id))
		}
		m.note("%s goes on with %s: %v", a.name, id, err)
		if _, ok := a.claims.Held(id); err != nil && ok {
			m.fail("invariant 6: all is well, %s holds %s and cannot go on", a.name, id)
		}
	}
}

// TestModel looks for a history that breaks an invariant of the claim protocol: 1 (no two owners under one epoch), 2 and 4
// (nothing is written under an epoch below one that was written under), 3 (a promise survives a crash), 6 (after the
// trouble, every agent gets its claims). Replay one with -run TestModel -seed N.
func TestModel(t *testing.T) {
	for n := 1; n <= 4; n++ {
		t.Run(fmt.Sprintf("%d agents", n), func(t *testing.T) {
			m := newModel(t, n)
			if *seed != 0 {
				m.history(*seed)
				return
			}
			for s := range uint64(*histories) / 4 {
				m.history(uint64(n)*1_000_000 + s + 1)
			}
		})
	}
}

func newModel(t *testing.T, n int) *model {
	m := &model{t: t, now: at(0)}
	for i := range n {
		a := &modelAgent{name: string(rune('a' + i)), rank: uint16(i), dir: filepath.Join(quickDir(t), "state"), m: m}
		m.agents = append(m.agents, a)
		a.db = openStore(t, a.dir)
		t.Cleanup(func() { _ = a.db.Close() })
	}
	return m
}

// history runs one history over stores that earlier ones used under other ids.
func (m *model) history(seed uint64) {
	m.begin(seed)
	for range 60 {
		m.step()
	}
	m.heal()
	for _, a := range m.agents { // one that the roster lost may be recovering still
		if err := a.db.Recovered(); err != nil {
			m.t.Fatal(err)
		}
	}
}

// begin is the state that a history starts from.
func (m *model) begin(seed uint64) {
	m.rnd = rand.New(rand.NewPCG(seed, 0))
	m.trace = []string{fmt.Sprintf("seed %d", seed)}
	m.gen, m.gone, m.calm, m.queue, m.cut = 1, "", false, nil, map[[2]string]bool{}
	m.granted, m.lastAct, m.promised = map[string]string{}, map[string]intent.Epoch{}, map[string]intent.Epoch{}
	hard, soft, decision := fmt.Sprintf("machine/hard-%d", seed), fmt.Sprintf("machine/soft-%d", seed), fmt.Sprintf("quota/%d", seed)
	m.ids = []string{hard, soft, decision}
	m.device = map[string]*modelDevice{hard: {strength: intent.StrengthHard}, soft: {strength: intent.StrengthSoft}}
	for _, a := range m.agents {
		a.gen, a.sees = 1, map[string]Member{}
		for _, b := range m.agents {
			a.sees[b.name] = Member{Alive: true, Since: m.now}
		}
		a.boots++
		a.start()
	}
}

// TestRecoveredAgentTakesNothingBelow: an agent that lost its table was the only link between the majority that claimed and the
// one that claims next. It takes the epochs from its peers before it answers, from enough of them, and vouches for nobody.
func TestRecoveredAgentTakesNothingBelow(t *testing.T) {
	m := newModel(t, 3)
	m.begin(1)
	m.calm = true // nothing at random
	a, b, c := m.agents[0], m.agents[1], m.agents[2]
	const id = "quota/acme"
	both := func(x, y *modelAgent, cut bool) {
		m.cut[[2]string{x.name, y.name}], m.cut[[2]string{y.name, x.name}] = cut, cut
	}
	both(a, c, true)
	var held intent.Claim
	for range 3 { // each under a higher epoch
		var err error
		if held, err = a.claims.Acquire(t.Context(), id, nil); err != nil {
			t.Fatal(err)
		}
		if err := a.claims.Confirm(t.Context(), held, nil); err != nil {
			t.Fatal(err)
		}
		a.claims.Release(t.Context(), id)
	}
	err := errors.Join(b.db.SetRecovering("restored"), b.db.Update(func(tx *state.Tx) error { return tx.Delete(bucketPromise, id) }))
	if err != nil {
		t.Fatal(err)
	}
	b.start()
	if _, err := c.claims.Acquire(t.Context(), id, nil); !errors.Is(err, ErrNoMajority) {
		t.Fatalf("with a peer that is behind: %v, want %v", err, ErrNoMajority)
	}
	both(a, b, true)
	if err := b.claims.Recover(t.Context()); !errors.Is(err, ErrForgotten) {
		t.Fatalf("one peer of two heard: %v, want %v", err, ErrForgotten)
	}
	both(a, b, false)
	if err := errors.Join(b.claims.Recover(t.Context()), b.db.Recovered()); err != nil {
		t.Fatal(err)
	}
	next, err := c.claims.Acquire(t.Context(), id, nil)
	if err != nil || next.Epoch.Compare(held.Epoch) <= 0 {
		t.Errorf("claimed under %s (%v), and %s was acted under", next.Epoch, err, held.Epoch)
	}
}

func at(d time.Duration) time.Time { return time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC).Add(d) }
