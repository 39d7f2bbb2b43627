package claim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
)

// Fence is the part of a device that refuses lower epochs. A nil Fence has StrengthNone.
type Fence interface {
	// ReadFence returns the epoch that the device holds (zero: none) and what the fence is worth.
	ReadFence(ctx context.Context) (intent.Epoch, intent.Strength, error)
	// RaiseFence writes e unless the device holds a higher epoch. Errors: a *Refusal or the driver's fenced error.
	RaiseFence(ctx context.Context, e intent.Epoch) error
}

// Remote asks other agents.
type Remote interface {
	Promise(ctx context.Context, peer string, generation uint64, p Promise) error
	Confirm(ctx context.Context, peer string, p Promise) error
	Release(ctx context.Context, peer string, p Promise) error
	// Promises returns the peer's whole table. Errors: *Refusal while that one's state is behind, too.
	Promises(ctx context.Context, peer string) ([]Promise, error)
}

// Sight is what the site looks like from here.
type Sight interface {
	// Members lists the effective roster with gossip's view; this agent is always alive in it, if it is there.
	Members() (generation uint64, members []Member)
}

// The errors callers branch on.
var (
	// ErrNoMajority: not enough agents promised, and no hard fence stands in. Only safe and checked steps may go on.
	ErrNoMajority = errors.New("no majority of the site's agents and no hard fence")
	// ErrNotHeld: somebody else holds, or held later.
	ErrNotHeld = errors.New("the claim is not held")
)

const (
	// fresh is how old an answer may be that Confirm counts (mesh.md section 7: far below HoldOff, after which a peer that
	// this agent heard may promise somebody else).
	fresh = 5 * time.Second
	// lease is how long who confirmed promises nobody else: the step begins within fresh, and this is twice that.
	lease = 2 * fresh

	askTimeout = 3 * time.Second // one promise or confirmation: an fsync and a LAN round trip, with room for a slow disk
)

// Claims holds what this agent claimed and promised.
type Claims struct {
	self   string
	boot   string
	sight  Sight
	remote Remote
	own    promises
	log    *slog.Logger
	now    func() time.Time

	started time.Time

	// table is held over a change of the promises, so that no promise comes between a confirmation and its answer.
	table sync.Mutex

	mu     sync.Mutex // guards what follows; never held over I/O
	held   map[string]held
	lost   map[string]time.Time     // id -> when its fence was found raised by another, while that one counted as dead
	lent   map[string]time.Time     // id -> until when its holder may act on a confirmation of ours
	asking map[string]chan struct{} // ids that an Acquire of this process asks for; closed at its end
	met    map[string]bool          // peers whose table was taken in this process life
}

type held struct {
	promise Promise
	hard    bool // granted by the device's fence, not by a majority
}

// NewClaims returns the claim table of agent self. boot is a random id of this process life.
func NewClaims(db *state.DB, self, boot string, sight Sight, remote Remote, log *slog.Logger) *Claims {
	return &Claims{
		self: self, boot: boot, sight: sight, remote: remote, own: promises{db}, log: log, now: time.Now, started: time.Now(),
		held: map[string]held{}, asking: map[string]chan struct{}{}, lost: map[string]time.Time{}, lent: map[string]time.Time{},
		met: map[string]bool{},
	}
}

// Holder returns the live agent that holds id, as far as this agent has promised it; empty: nobody, or nobody that it knows of.
func (c *Claims) Holder(id string) string {
	p, err := c.own.load(id)
	if err != nil || p.Owner == "" || p.Released {
		return ""
	}
	_, members := c.sight.Members()
	if i := slices.IndexFunc(members, func(m Member) bool { return m.ID == p.Owner }); i < 0 || !members[i].usable(c.now()) {
		return ""
	}
	return p.Owner
}

// Strange tells that a device holds, or held when this agent took it by its fence alone, a higher epoch than any that this agent knew:
// somebody whom it did not hear drove it. A majority's promise ends that.
func (c *Claims) Strange(ctx context.Context, id string, fence Fence) (bool, error) {
	p, err := c.own.load(id)
	if err != nil {
		return false, err
	}
	e, _, err := fence.ReadFence(ctx)
	if err != nil {
		return false, fmt.Errorf("cannot read fence of %s: %w", id, err)
	}
	return p.Strange || e.Compare(p.Epoch) > 0, nil
}

// standing tells whether this agent counts. One that does not holds nothing: what it held it gives back here, so that it refuses
// nobody when it counts again.
func (c *Claims) standing() bool {
	_, members := c.sight.Members()
	if _, ok := rankOf(members, c.self); ok {
		return true
	}
	c.mu.Lock()
	dropped := c.held
	c.held = map[string]held{}
	c.mu.Unlock()
	for id, h := range dropped {
		if err := c.own.release(h.promise); err != nil {
			c.log.Warn("cannot release claim", "claim", id, "err", err)
		}
	}
	return false
}

// Held returns the claim on id if this process holds it, and counts.
func (c *Claims) Held(id string) (intent.Claim, bool) {
	c.mu.Lock()
	h, ok := c.held[id]
	c.mu.Unlock()
	if !ok || !c.standing() {
		return intent.Claim{}, false
	}
	return intent.Claim{ID: id, Epoch: h.promise.Epoch, Owner: c.self}, true
}

// Acquire claims id: own promise, then the others'; with a majority it is granted, with one of two agents dead for HoldOff
// a hard fence decides. The device's fence, if any, is raised before Acquire returns. Callers of one process ask one after
// another and share the claim. One that the fence alone granted is asked for again, under a new epoch, once a peer is alive:
// that one has promised nothing, and would confirm nothing. Errors: ErrNoMajority, *Refusal.
func (c *Claims) Acquire(ctx context.Context, id string, fence Fence) (intent.Claim, error) {
	for {
		if !c.standing() {
			return intent.Claim{}, fmt.Errorf("cannot claim %s: %w: this agent is not in the roster", id, ErrNotHeld)
		}
		witness := c.witness()
		c.mu.Lock()
		h, ok := c.held[id]
		if ok && h.hard && witness {
			delete(c.held, id)
			ok = false
		}
		other := c.asking[id]
		if !ok && other == nil {
			c.asking[id] = make(chan struct{})
		}
		c.mu.Unlock()
		if ok {
			return intent.Claim{ID: id, Epoch: h.promise.Epoch, Owner: c.self}, nil
		}
		if other == nil {
			break
		}
		select {
		case <-other:
		case <-ctx.Done():
			return intent.Claim{}, fmt.Errorf("cannot claim %s: %w", id, ctx.Err())
		}
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		close(c.asking[id])
		delete(c.asking, id)
	}()
	return c.acquire(ctx, id, fence)
}

// witness tells whether a peer is alive that can promise.
func (c *Claims) witness() bool {
	_, members := c.sight.Members()
	return slices.ContainsFunc(members, func(m Member) bool { return m.ID != c.self && m.Alive })
}

func (c *Claims) acquire(ctx context.Context, id string, fence Fence) (intent.Claim, error) {
	generation, members := c.sight.Members()
	rank, ok := rankOf(members, c.self)
	if !ok {
		return intent.Claim{}, fmt.Errorf("cannot claim %s: %w: this agent is not in the roster", id, ErrNotHeld)
	}
	top, strength, strange, err := c.top(ctx, id, fence)
	if err != nil {
		return intent.Claim{}, err
	}
	want := Promise{ID: id, Epoch: top.Next(generation, rank), Owner: c.self, Boot: c.boot, Strange: strange}
	votes, heard, err := c.collect(ctx, generation, members, &want)
	if err != nil {
		c.giveBack(ctx, want)
		return intent.Claim{}, err
	}
	hard := false
	if votes*2 <= len(members) {
		if hard = votes == 1 && c.fenceMayDecide(members, strength) && !c.lostLately(id); !hard {
			c.giveBack(ctx, want)
			return intent.Claim{}, fmt.Errorf("cannot claim %s: %w (%d of %d, fence %s)%s", id, ErrNoMajority, votes, len(members), strength, heard)
		}
	}
	if fence != nil {
		if err := fence.RaiseFence(ctx, want.Epoch); err != nil {
			c.giveBack(ctx, want)
			return intent.Claim{}, fmt.Errorf("cannot raise fence of %s: %w", id, err)
		}
	}
	if want.Strange && !hard { // who drove it promised, or is outvoted
		if want.Strange, err = false, c.own.known(want); err != nil {
			c.giveBack(ctx, want)
			return intent.Claim{}, err
		}
	}
	c.mu.Lock()
	c.held[id] = held{want, hard}
	if !hard {
		delete(c.lost, id) // the peer was heard
	}
	c.mu.Unlock()
	c.log.Info("claim granted", "claim", id, "epoch", want.Epoch.String(), "votes", votes, "fence", strength.String())
	return intent.Claim{ID: id, Epoch: want.Epoch, Owner: c.self}, nil
}

// top returns the highest epoch that this agent and the device know of. A store that lost its tail may have forgotten what it
// promised: it asks for nothing.
func (c *Claims) top(ctx context.Context, id string, fence Fence) (_ intent.Epoch, _ intent.Strength, strange bool, _ error) {
	if c.own.db.Recovering() {
		return intent.Epoch{}, intent.StrengthNone, false, fmt.Errorf("cannot claim %s: %w: this agent's state is behind", id, ErrNotHeld)
	}
	mine, err := c.own.load(id)
	if err != nil || fence == nil {
		return mine.Epoch, intent.StrengthNone, mine.Strange, err
	}
	onDevice, strength, err := fence.ReadFence(ctx)
	if err != nil {
		return intent.Epoch{}, intent.StrengthNone, false, fmt.Errorf("cannot read fence of %s: %w", id, err)
	}
	if onDevice.Compare(mine.Epoch) > 0 {
		return onDevice, strength, true, nil
	}
	return mine.Epoch, strength, mine.Strange, nil
}

// rounds is how often one Acquire asks everybody: once, again above a higher epoch that was heard of, and again when an
// earlier holder yielded (up to six of them); beyond that agents are racing and the next try, seconds later, decides.
const rounds = 8

// collect asks everybody. A higher epoch that is heard of raises the question, so that a restarted agent catches up; an
// earlier holder whose release was not heard everywhere is asked to yield. Errors: *Refusal when somebody alive holds id.
func (c *Claims) collect(ctx context.Context, generation uint64, members []Member, want *Promise) (votes int, heard string, err error) {
	rank, _ := rankOf(members, c.self)
	for range rounds {
		var r *Refusal
		if votes, heard, r, err = c.ask(ctx, generation, members, *want); err != nil || r == nil {
			return votes, heard, err
		}
		switch r.Why {
		case "lower":
			want.Epoch = r.Epoch.Next(generation, rank)
		case "owner_alive":
			if !c.yields(ctx, generation, members, want, r) {
				return 0, "", fmt.Errorf("cannot claim %s: %w", want.ID, r)
			}
		}
	}
	return 0, heard, nil
}

// ask puts the question once: to this agent, then to all that gossip holds alive. It returns the refusal that asking again
// may overcome, if any.
func (c *Claims) ask(ctx context.Context, generation uint64, members []Member, want Promise) (votes int, heard string, again *Refusal, err error) {
	if err := c.promise(want, members); err != nil {
		if r, ok := errors.AsType[*Refusal](err); ok {
			return 0, "", r, nil
		}
		return 0, "", nil, fmt.Errorf("cannot claim %s: %w", want.ID, err)
	}
	votes = 1
	for _, m := range members {
		if m.ID == c.self || !m.Alive {
			continue
		}
		err := c.askOne(ctx, m.ID, generation, want)
		if err == nil {
			votes++
			continue
		}
		heard += "; " + m.ID + ": " + err.Error()
		r, ok := errors.AsType[*Refusal](err)
		switch {
		case !ok:
		case r.Why == "owner_alive":
			return votes, heard, r, nil
		case r.Why == "lower" && (again == nil || r.Epoch.Compare(again.Epoch) > 0):
			again = r
		}
	}
	return votes, heard, again, nil
}

func (c *Claims) askOne(ctx context.Context, peer string, generation uint64, want Promise) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	want.Strange = false
	return c.remote.Promise(ctx, peer, generation, want)
}

// yields asks the holder that somebody named whether it holds id still: a release is a message and may be lost, also by a
// crash of its sender. It does not when it promises, and also when it names somebody else in its turn: then it promised that
// one, who is asked in the next round.
func (c *Claims) yields(ctx context.Context, generation uint64, members []Member, want *Promise, r *Refusal) bool {
	live := slices.ContainsFunc(members, func(m Member) bool { return m.ID == r.Owner && m.Alive && m.ID != c.self })
	if !live || want.Yielded[r.Owner].Compare(r.Epoch) >= 0 {
		return false
	}
	rank, _ := rankOf(members, c.self)
	if want.Epoch.Compare(r.Epoch) <= 0 {
		want.Epoch = r.Epoch.Next(generation, rank)
	}
	err := c.askOne(ctx, r.Owner, generation, *want)
	said, ok := errors.AsType[*Refusal](err)
	if ok && said.Why == "lower" {
		want.Epoch = said.Epoch.Next(generation, rank)
		err = c.askOne(ctx, r.Owner, generation, *want)
		said, ok = errors.AsType[*Refusal](err)
	}
	if err != nil && !(ok && said.Why == "owner_alive" && said.Owner != r.Owner) {
		return false
	}
	yielded := maps.Clone(want.Yielded) // a promise that was sent is never changed
	if yielded == nil {
		yielded = map[string]intent.Epoch{}
	}
	yielded[r.Owner] = r.Epoch
	want.Yielded = yielded
	return true
}

// fenceRest is how long an agent that lost a device by its fence does not raise it again: the peer that gossip calls dead is
// alive behind a cut, and two agents would take the device from each other for ever (mesh.md section 7).
const fenceRest = 15 * time.Minute

func (c *Claims) lostLately(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.lost[id]
	return ok && c.now().Sub(at) < fenceRest
}

// fenceMayDecide: two agents, the other dead for the whole hold-off, and a hard fence on the device. One agent is its own
// majority and never comes here.
func (c *Claims) fenceMayDecide(members []Member, s intent.Strength) bool {
	if len(members) != 2 || s != intent.StrengthHard {
		return false
	}
	for _, m := range members {
		if m.ID != c.self && (m.Alive || c.now().Sub(m.Since) < HoldOff) {
			return false
		}
	}
	return true
}

// promise writes a promise of this agent's, to itself or to a peer.
func (c *Claims) promise(p Promise, members []Member) error {
	c.table.Lock()
	defer c.table.Unlock()
	now := c.now()
	c.mu.Lock()
	until := c.lent[p.ID]
	c.mu.Unlock()
	if again := c.started.Add(lease); again.After(until) {
		until = again // an earlier life of this process may have confirmed
	}
	return c.own.promise(p, func(agent string) bool {
		i := slices.IndexFunc(members, func(m Member) bool { return m.ID == agent })
		return now.Before(until) || (i >= 0 && members[i].usable(now))
	})
}

// confirm tells whether exactly this promise stands here, and keeps it so for a lease.
func (c *Claims) confirm(p Promise) error {
	c.table.Lock()
	defer c.table.Unlock()
	if err := c.own.confirm(p); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lent[p.ID] = c.now().Add(lease)
	return nil
}

func rankOf(members []Member, id string) (uint16, bool) {
	for _, m := range members {
		if m.ID == id {
			return m.Rank, true
		}
	}
	return 0, false
}

// Confirm asks, before a destructive step, whether the claim still stands: a majority must confirm exactly this promise,
// or the device's hard fence must hold exactly this epoch. On refusal the claim is given up. Errors: ErrNotHeld.
func (c *Claims) Confirm(ctx context.Context, cl intent.Claim, fence Fence) error {
	c.mu.Lock()
	h, ok := c.held[cl.ID]
	c.mu.Unlock()
	if !ok || h.promise.Epoch != cl.Epoch {
		return fmt.Errorf("cannot confirm %s: %w", cl.ID, ErrNotHeld)
	}
	asked := c.now()
	_, members := c.sight.Members()
	if _, ok := rankOf(members, c.self); !ok {
		c.lose(ctx, h.promise)
		return fmt.Errorf("cannot confirm %s: %w: this agent is not in the roster", cl.ID, ErrNotHeld)
	}
	votes := 0
	if err := c.confirm(h.promise); err == nil {
		votes = 1
	} else {
		if _, refused := errors.AsType[*Refusal](err); refused {
			c.lose(ctx, h.promise)
		}
		return fmt.Errorf("cannot confirm %s: %w: %w", cl.ID, ErrNotHeld, err)
	}
	for _, m := range members {
		if m.ID == c.self || !m.Alive || votes*2 > len(members) {
			continue
		}
		actx, cancel := context.WithTimeout(ctx, askTimeout)
		err := c.remote.Confirm(actx, m.ID, h.promise)
		cancel()
		if err == nil {
			votes++
		} else if r, refused := errors.AsType[*Refusal](err); refused && r.Why == "lower" {
			c.lose(ctx, h.promise)
			return fmt.Errorf("cannot confirm %s: %w: %w", cl.ID, ErrNotHeld, err)
		}
	}
	if took := c.now().Sub(asked); took > fresh {
		return fmt.Errorf("cannot confirm %s: %w: the first answer is %s old", cl.ID, ErrNoMajority, took)
	}
	if votes*2 > len(members) {
		return nil
	}
	if fence != nil && votes == 1 {
		e, s, err := fence.ReadFence(ctx)
		if err != nil {
			return fmt.Errorf("cannot confirm %s: %w", cl.ID, err)
		}
		if e == cl.Epoch && c.fenceMayDecide(members, s) {
			return nil
		}
		if e.Compare(cl.Epoch) > 0 {
			c.mu.Lock()
			c.lost[cl.ID] = c.now()
			c.mu.Unlock()
			c.lose(ctx, h.promise)
		}
	}
	return fmt.Errorf("cannot confirm %s: %w", cl.ID, ErrNoMajority)
}

// lose gives up a claim that somebody else was promised after us.
func (c *Claims) lose(ctx context.Context, p Promise) {
	c.mu.Lock()
	if c.held[p.ID].promise.Epoch == p.Epoch {
		delete(c.held, p.ID)
	}
	c.mu.Unlock()
	c.giveBack(ctx, p)
}

// Release gives the claim back, here and at the live peers; a peer that does not hear it learns by the next promise.
func (c *Claims) Release(ctx context.Context, id string) {
	c.mu.Lock()
	h, ok := c.held[id]
	delete(c.held, id)
	c.mu.Unlock()
	if ok {
		c.giveBack(ctx, h.promise)
	}
}

// giveBack releases a promise everywhere: one that stays would make its givers refuse the next owner.
func (c *Claims) giveBack(ctx context.Context, p Promise) {
	if err := c.own.release(p); err != nil {
		c.log.Warn("cannot release claim", "claim", p.ID, "err", err)
	}
	_, members := c.sight.Members()
	for _, m := range members {
		if m.ID == c.self || !m.Alive {
			continue
		}
		actx, cancel := context.WithTimeout(ctx, askTimeout)
		if err := c.remote.Release(actx, m.ID, p); err != nil {
			c.log.Debug("peer did not hear the release", "claim", p.ID, "peer", m.ID, "err", err)
		}
		cancel()
	}
}

// ReleaseStale releases what an earlier life of this process held: those tasks are taken up under a new epoch.
func (c *Claims) ReleaseStale() error {
	stale, err := c.own.of(c.self)
	if errors.Is(err, state.ErrDamaged) {
		// What it promised in records that are gone it may have forgotten: peers know (Repair).
		c.log.Error("promises are damaged", "err", err)
		err = c.own.db.SetRecovering("promises damaged")
	}
	if err != nil {
		return err
	}
	for _, p := range stale {
		if p.Boot == c.boot || p.Released {
			continue
		}
		if err := c.own.release(p); err != nil {
			return err
		}
	}
	return nil
}

// OnPromise answers a peer's request. generation must be ours: a lower one is told so, a higher one makes us wait for our
// own pull of the roster. Errors: *Refusal.
func (c *Claims) OnPromise(generation uint64, p Promise) error {
	mine, members := c.sight.Members()
	if generation != mine {
		return &Refusal{Why: "roster", Epoch: intent.Epoch{Generation: mine}}
	}
	if err := c.mayAnswer(mine, members, p); err != nil {
		return err
	}
	if err := c.promise(p, members); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h, ok := c.held[p.ID]; ok && p.Owner != c.self && h.promise.Epoch.Compare(p.Epoch) < 0 {
		delete(c.held, p.ID)
	}
	return nil
}

// mayAnswer refuses an owner that the roster does not hold any more, and everybody while this agent's own table is behind:
// what it promised before it may have forgotten.
func (c *Claims) mayAnswer(generation uint64, members []Member, p Promise) error {
	if c.own.db.Recovering() {
		return &Refusal{Why: "recovering"}
	}
	if _, ok := rankOf(members, p.Owner); !ok {
		return &Refusal{Why: "roster", Epoch: intent.Epoch{Generation: generation}}
	}
	return nil
}

// OnConfirm answers a peer's confirmation. Errors: *Refusal.
func (c *Claims) OnConfirm(p Promise) error {
	generation, members := c.sight.Members()
	if err := c.mayAnswer(generation, members, p); err != nil {
		return err
	}
	return c.confirm(p)
}

// OnRelease notes a peer's release.
func (c *Claims) OnRelease(p Promise) error { return c.own.release(p) }

// OnPromises answers a peer that lost its table. Errors: *Refusal.
func (c *Claims) OnPromises() ([]Promise, error) {
	if c.own.db.Recovering() {
		return nil, &Refusal{Why: "recovering"}
	}
	return c.own.all()
}
