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
		actx, cancel := context.WithTimeout(ctx, askTimeout)
		theirs, err := c.remote.Promises(actx, m.ID)
		cancel()
		if err != nil {
			c.log.Warn("peer's promises not heard", "peer", m.ID, "err", err)
			continue
		}
		theirs = slices.DeleteFunc(theirs, func(p Promise) bool { return p.ID == "" || p.Owner == "" })
		c.table.Lock()
		err = c.own.merge(theirs)
		c.table.Unlock()
		if err != nil {
			return err
		}
		heard++
	}
	if heard < need {
		return fmt.Errorf("cannot recover claims: %d of %d peers heard: %w", heard, need, ErrForgotten)
	}
	return nil
}
