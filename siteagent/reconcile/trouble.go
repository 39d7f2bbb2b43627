package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
)

// tellAfter is how many steps fail in a row before an event says so: a hand-over of claims, or a BMC that restarts, takes one or two.
const tellAfter = 3

// trouble is what goes wrong with one id. Steps are tried for ever; each failure as an event would fill the journal.
type trouble struct {
	failed int    // steps in a row
	said   string // what the device answered, of which an event told
}

// ended notes how a step ended: one that failed rests, and an event names a machine that does not get on, once until it does.
func (c *Controller) ended(ctx context.Context, id, machine string, err error) {
	c.mu.Lock()
	delete(c.rest, id)
	if err == nil || ctx.Err() != nil || errors.Is(err, errKnewMore) {
		if err == nil {
			delete(c.troubles, id)
		}
		c.mu.Unlock()
		return
	}
	c.rest[id] = time.Now().Add(rest)
	t := c.troubles[id]
	t.failed++
	c.troubles[id] = t
	c.mu.Unlock()
	c.cfg.Log.Warn("step failed; it is tried again", "id", id, "err", err)
	if t.failed != tellAfter {
		return
	}
	msg := fmt.Sprintf("%s; it is tried again, for ever", err)
	if err := c.cfg.Journal.Append(ctx, claim.Local, Event(machine, "", intent.Epoch{}, "machine.stuck", msg, nil)); err != nil {
		c.cfg.Log.Warn("event not journaled", "machine", machine, "err", err)
	}
}

// news tells whether a device's answer is another than the one that was told last.
func (c *Controller) news(id, answer string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.troubles[id]
	was := t.said
	t.said = answer
	c.troubles[id] = t
	return was != answer
}
