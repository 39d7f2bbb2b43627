package claim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
}

// Sight is what the site looks like from here.
type Sight interface {
	// Members lists the effective roster with gossip's view; this agent is always alive in it.
	Members() (generation uint64, members []Member)
}

// The errors callers branch on.
var (
	// ErrNoMajority: not enough agents promised, and no hard fence stands in. Only safe and checked steps may go on.
	ErrNoMajority = errors.New("no majority of the site's agents and no hard fence")
	// ErrNotHeld: somebody else holds, or held later.
	ErrNotHeld = errors.New("the claim is not held")
)

const askTimeout = 3 * time.Second // one promise or confirmation: an fsync and a LAN round trip, with room for a slow disk

// Claims holds what this agent claimed and promised.
type Claims struct {
	self   string
	boot   string
	sight  Sight
	remote Remote
	own    promises
	log    *slog.Logger
	now    func() time.Time

	mu   sync.Mutex // guards what follows; never held over I/O
	held map[string]held
}

type held struct {
	promise Promise
	hard    bool // granted by the device's fence, not by a majority
}

// NewClaims returns the claim table of agent self. boot is a random id of this process life.
func NewClaims(db *state.DB, self, boot string, sight Sight, remote Remote, log *slog.Logger) *Claims {
	return &Claims{self: self, boot: boot, sight: sight, remote: remote, own: promises{db}, log: log, now: time.Now, held: map[string]held{}}
}

// Held returns the claim on id if this process holds it.
func (c *Claims) Held(id string) (intent.Claim, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.held[id]
	return intent.Claim{ID: id, Epoch: h.promise.Epoch, Owner: c.self}, ok
}

// Acquire claims id: own promise, then the others'; with a majority it is granted, with one of two agents dead for HoldOff
// a hard fence decides. The device's fence, if any, is raised before Acquire returns. Errors: ErrNoMajority, *Refusal.
func (c *Claims) Acquire(ctx context.Context, id string, fence Fence) (intent.Claim, error) {
	if have, ok := c.Held(id); ok {
		return have, nil
	}
	generation, members := c.sight.Members()
	rank, ok := rankOf(members, c.self)
	if !ok {
		return intent.Claim{}, fmt.Errorf("cannot claim %s: %w: this agent is not in the roster", id, ErrNotHeld)
	}
	mine, err := c.own.load(id)
	if err != nil {
		return intent.Claim{}, err
	}
	top, strength := mine.Epoch, intent.StrengthNone
	if fence != nil {
		onDevice, s, err := fence.ReadFence(ctx)
		if err != nil {
			return intent.Claim{}, fmt.Errorf("cannot read fence of %s: %w", id, err)
		}
		strength = s
		if onDevice.Compare(top) > 0 {
			top = onDevice
		}
	}
	want := Promise{ID: id, Epoch: top.Next(generation, rank), Owner: c.self, Boot: c.boot}
	votes, heard, err := c.collect(ctx, generation, members, &want)
	if err != nil {
		return intent.Claim{}, err
	}
	hard := false
	if votes*2 <= len(members) {
		if hard = votes == 1 && c.fenceMayDecide(members, strength); !hard {
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
	c.mu.Lock()
	c.held[id] = held{want, hard}
	c.mu.Unlock()
	c.log.Info("claim granted", "claim", id, "epoch", want.Epoch.String(), "votes", votes, "fence", strength.String())
	return intent.Claim{ID: id, Epoch: want.Epoch, Owner: c.self}, nil
}

// collect asks everybody. A higher epoch that is heard of raises the question once, so that a restarted agent catches up.
func (c *Claims) collect(ctx context.Context, generation uint64, members []Member, want *Promise) (votes int, heard string, err error) {
	rank, _ := rankOf(members, c.self)
	for range 2 {
		if err := c.own.promise(*want, c.alive(members)); err != nil {
			return 0, "", fmt.Errorf("cannot claim %s: %w", want.ID, err)
		}
		votes, heard = 1, ""
		again := intent.Epoch{}
		for _, m := range members {
			if m.ID == c.self || !m.Alive {
				continue
			}
			actx, cancel := context.WithTimeout(ctx, askTimeout)
			err := c.remote.Promise(actx, m.ID, generation, *want)
			cancel()
			if err == nil {
				votes++
				continue
			}
			heard += "; " + m.ID + ": " + err.Error()
			if r, ok := errors.AsType[*Refusal](err); ok && r.Why == "lower" && r.Epoch.Compare(want.Epoch) >= 0 {
				again = r.Epoch
			} else if ok && r.Why == "owner_alive" {
				return votes, heard, nil
			}
		}
		if again == (intent.Epoch{}) {
			return votes, heard, nil
		}
		want.Epoch = again.Next(generation, rank)
	}
	return votes, heard, nil
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

func (c *Claims) alive(members []Member) func(string) bool {
	return func(agent string) bool {
		for _, m := range members {
			if m.ID == agent {
				return m.Alive || c.now().Sub(m.Since) < HoldOff
			}
		}
		return false
	}
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
	_, members := c.sight.Members()
	votes := 0
	if err := c.own.confirm(h.promise); err == nil {
		votes = 1
	}
	for _, m := range members {
		if m.ID == c.self || !m.Alive {
			continue
		}
		actx, cancel := context.WithTimeout(ctx, askTimeout)
		err := c.remote.Confirm(actx, m.ID, h.promise)
		cancel()
		if err == nil {
			votes++
		} else if _, refused := errors.AsType[*Refusal](err); refused {
			c.drop(cl.ID)
			return fmt.Errorf("cannot confirm %s: %w: %w", cl.ID, ErrNotHeld, err)
		}
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
			c.drop(cl.ID)
		}
	}
	return fmt.Errorf("cannot confirm %s: %w", cl.ID, ErrNoMajority)
}

func (c *Claims) drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, id)
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
	if _, ok := rankOf(members, p.Owner); !ok {
		return &Refusal{Why: "roster", Epoch: intent.Epoch{Generation: mine}}
	}
	if err := c.own.promise(p, c.alive(members)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h, ok := c.held[p.ID]; ok && p.Owner != c.self && h.promise.Epoch.Compare(p.Epoch) < 0 {
		delete(c.held, p.ID)
	}
	return nil
}

// OnConfirm answers a peer's confirmation. Errors: *Refusal.
func (c *Claims) OnConfirm(p Promise) error { return c.own.confirm(p) }

// OnRelease notes a peer's release.
func (c *Claims) OnRelease(p Promise) error { return c.own.release(p) }
