package claim

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ErrForgotten: too few peers were heard to know what this agent may have promised before it lost its table.
var ErrForgotten = errors.New("too few peers know what this agent promised")

// Recover rebuilds the table of an agent whose store is older than it once was, from its peers' tables. It takes enough of them
// that every majority which may have counted this agent's forgotten promise is represented: of n agents with majorities of m,
// more than n-m peers (2: the other one; 3: both; 5: three). An agent that is alone in the roster has nobody to forget for.
// Until Recover returns nil the caller keeps the store recovering. Errors: ErrForgotten, the store's.
func (c *Claims) Recover(ctx context.Context) error {
	_, members := c.sight.Members()
	need := len(members) - (len(members)/2 + 1) + 1
	if len(members) == 1 {
		need = 0
	}
	heard := 0
	for _, m := range members {
		if m.ID == c.self || !m.Alive {
			continue
		}
		theirs, err := c.tableOf(ctx, m.ID)
		if err != nil {
			c.log.Warn("peer's promises not heard", "peer", m.ID, "err", err)
			continue
		}
		if err := c.takeOver(theirs); err != nil {
			return err
		}
		heard++
	}
	if heard < need {
		return fmt.Errorf("cannot recover claims: %d of %d peers heard: %w", heard, need, ErrForgotten)
	}
	return nil
}

func (c *Claims) tableOf(ctx context.Context, peer string) ([]Promise, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	theirs, err := c.remote.Promises(ctx, peer)
	return slices.DeleteFunc(theirs, func(p Promise) bool { return p.ID == "" || p.Owner == "" }), err
}

func (c *Claims) takeOver(theirs []Promise) error {
	c.table.Lock()
	defer c.table.Unlock()
	return c.own.merge(theirs)
}

// Meet takes the table of each live peer once in a process life, as soon as it is alive: an older copy of the whole data directory,
// marks too, does not know itself to be one, and what it promised since may stand in no journal. A peer that does not answer stops
// nobody; the next call asks it again.
func (c *Claims) Meet(ctx context.Context) {
	_, members := c.sight.Members()
	for _, m := range members {
		c.mu.Lock()
		skip := m.ID == c.self || !m.Alive || c.met[m.ID]
		c.mu.Unlock()
		if skip {
			continue
		}
		theirs, err := c.tableOf(ctx, m.ID)
		if err == nil {
			err = c.takeOver(theirs)
		}
		if err != nil {
			c.log.Debug("peer's promises not heard at the start", "peer", m.ID, "err", err)
			continue
		}
		c.mu.Lock()
		c.met[m.ID] = true
		c.mu.Unlock()
	}
}
