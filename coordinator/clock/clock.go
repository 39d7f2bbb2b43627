package clock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/pki/trust"
)

// Key is where the floor is kept; coordinators that share a store share it.
const Key = "clock"

const (
	maxLead   = 30 * 24 * time.Hour // of the wall clock before the floor (trust.md section 2)
	saveEvery = 10 * time.Minute
)

// ErrLeads says that the wall clock lies further ahead of what is known to have passed than a stop explains.
var ErrLeads = errors.New("the clock of this coordinator is not believed")

// Clock is the time of one coordinator.
type Clock struct {
	floor *trust.Floor
	store store.Store
	log   *slog.Logger
}

// Open reads the floor that was saved last. Where none was, the wall clock is taken as it is: an operator has just founded a domain,
// or rebuilt one. build is a time before which there was no such program; wall is the machine's clock, nil for time.Now. With
// believed the wall clock is taken whatever the floor is: a person has looked at it.
func Open(ctx context.Context, st store.Store, build time.Time, wall func() time.Time, believed bool, log *slog.Logger) (*Clock, error) {
	if wall == nil {
		wall = time.Now
	}
	var saved time.Time
	e, err := st.Get(ctx, Key)
	switch {
	case errors.Is(err, store.ErrAbsent):
		believed = true
	case err != nil:
		return nil, fmt.Errorf("cannot read the time floor: %w", err)
	default:
		if err := json.Unmarshal(e.Value, &saved); err != nil {
			return nil, fmt.Errorf("cannot read the time floor: %w", err)
		}
	}
	c := &Clock{floor: trust.NewFloor(build, saved, wall), store: st, log: log}
	if believed {
		c.floor.Observe(wall())
		return c, c.save(ctx)
	}
	if err := c.Leads(); err != nil {
		log.Error("nothing is signed", "err", err)
	}
	return c, nil
}

// Now returns the wall clock, or the floor while the wall clock lies below it.
func (c *Clock) Now() time.Time {
	now, _ := c.floor.Now()
	return now
}

// Leads says why nothing may be signed now. Errors: ErrLeads.
func (c *Clock) Leads() error {
	if d := c.floor.Ahead(); d > maxLead {
		return fmt.Errorf("cannot sign: the clock says %s, and leads by %d days what is known to have passed (%s); set it right, or, when it is right and "+
			"the coordinator was off that long, start it once with --clock-ok: %w",
			c.Now().Format("2006-01-02 15:04Z"), d/(24*time.Hour), c.floor.Value().Format("2006-01-02 15:04Z"), ErrLeads)
	}
	return nil
}

// Sign tells whether Now may stand under a signature. If so, that much has passed from now on. Errors: as Leads.
func (c *Clock) Sign() error {
	if err := c.Leads(); err != nil {
		return err
	}
	c.floor.Observe(c.Now())
	return nil
}

// Trusted tells whether the wall clock is believed: it lies neither before the floor nor far ahead of it.
func (c *Clock) Trusted() bool {
	_, ok := c.floor.Now()
	return ok && c.Leads() == nil
}

// Lower follows a trust document that says how late it is at most, and keeps that: the document says it once.
func (c *Clock) Lower(ctx context.Context, t time.Time) error {
	c.floor.Lower(t)
	return c.save(ctx)
}

// Run saves the floor until ctx ends, and then once more.
func (c *Clock) Run(ctx context.Context) error {
	t := time.NewTicker(saveEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return c.save(context.WithoutCancel(ctx))
		case <-t.C:
			if err := c.save(ctx); err != nil && ctx.Err() == nil {
				c.log.Error("time floor not saved", "err", err)
			}
		}
	}
}

// save writes the floor. Of two coordinators that write at once the later one wins; both are true.
func (c *Clock) save(ctx context.Context) error {
	v, err := json.Marshal(c.floor.Value().Truncate(time.Second))
	if err != nil {
		return fmt.Errorf("cannot save the time floor: %w", err)
	}
	if _, err = c.store.Commit(ctx, store.Commit{Put: map[string][]byte{Key: v}}); err != nil {
		return fmt.Errorf("cannot save the time floor: %w", err)
	}
	return nil
}
