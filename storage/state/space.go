package state

import (
	"fmt"
	"time"
)

// class orders writes by what the site loses without them.
type class int

const (
	classUser  class = iota // intent, overrides, inventories: can be refused and come again
	classVital              // leases, promises, journal: refused last
)

// Space returns free and total octets of the file system, at most a second old.
func (d *DB) Space() (free, total uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.spaceAt.IsZero() && time.Since(d.spaceAt) < spaceMaxAge {
		return d.free, d.total, nil
	}
	free, total, err = d.cfg.Statfs(d.cfg.Dir)
	if err != nil {
		return 0, 0, err
	}
	d.free, d.total, d.spaceAt = free, total, time.Now()
	return free, total, nil
}

// admit refuses a write before it could fill the disk: Badger maps its files, so a full disk is SIGBUS, not an error.
func (d *DB) admit(c class) error {
	free, total, err := d.Space()
	if err != nil {
		return fmt.Errorf("cannot write state: %w", err)
	}
	floor := d.cfg.StopFree
	if c == classUser {
		floor = max(floor, d.cfg.VitalFree, d.cfg.UserFree)
		if f := d.cfg.UserFraction; f > 0 {
			floor = max(floor, uint64(f*float64(total)))
		}
	}
	if free < floor {
		return fmt.Errorf("cannot write state: %w: %d octets free, %d needed", ErrFull, free, floor)
	}
	return nil
}
