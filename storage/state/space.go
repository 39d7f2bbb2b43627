package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// class orders writes by what the site loses without them.
type class int

const (
	classUser   class = iota // users' changes: can be refused and come again
	classSigned              // intent, trust, roster: what is followed
	classVital               // leases, promises, journal: refused last
)

// gauge knows how much is free where a directory lies.
type gauge struct {
	cfg Config

	look  sync.Mutex // guards what follows
	at    time.Time
	free  uint64
	total uint64
}

// Space returns free and total octets of the file system, at most a second old.
func (g *gauge) Space() (free, total uint64, err error) {
	g.look.Lock()
	defer g.look.Unlock()
	if !g.at.IsZero() && time.Since(g.at) < spaceMaxAge {
		return g.free, g.total, nil
	}
	free, total, err = g.cfg.Statfs(g.cfg.Dir)
	if err != nil {
		return 0, 0, err
	}
	g.free, g.total, g.at = free, total, time.Now()
	return free, total, nil
}

// admit refuses a write before it could fill the disk: Badger maps its files, so a full disk is SIGBUS, not an error.
func (g *gauge) admit(c class) error {
	free, total, err := g.Space()
	if err != nil {
		return fmt.Errorf("cannot write state: %w", err)
	}
	if floor := g.cfg.floor(c, total); free < floor {
		return fmt.Errorf("cannot write state: %w: %d octets free, %d needed", ErrFull, free, floor)
	}
	return nil
}

// floor is what must be free for a write of class c.
func (c Config) floor(of class, total uint64) uint64 {
	floor := c.StopFree
	if of == classVital {
		return floor
	}
	floor = max(floor, c.VitalFree)
	if of == classUser {
		floor = max(floor, c.UserFree)
		if f := c.UserFraction; f > 0 {
			floor = max(floor, uint64(f*float64(total)))
		}
	}
	return floor
}

// Pressure is how much of what is written is refused for lack of space.
type Pressure int

// Each refuses what the one before refuses, too.
const (
	PressureNone  Pressure = iota
	PressureUser           // users' changes are refused, unpinned assets go
	PressureVital          // only leases, promises and the journal are written
	PressureStop           // nothing is written; reads go on
)

// Pressure returns what is refused now, by the free space of a second ago at most. An unreadable file system counts as full.
func (d *DB) Pressure() Pressure {
	free, total, err := d.Space()
	switch {
	case err != nil || free < d.cfg.floor(classVital, total):
		return PressureStop
	case free < d.cfg.floor(classSigned, total):
		return PressureVital
	case free < d.cfg.floor(classUser, total):
		return PressureUser
	}
	return PressureNone
}

// PressureNow is Pressure without the second: for who just made room.
func (d *DB) PressureNow() Pressure {
	d.look.Lock()
	d.at = time.Time{}
	d.look.Unlock()
	return d.Pressure()
}

// String says what is refused.
func (p Pressure) String() string {
	return [...]string{"nothing", "users' changes", "all but leases, promises and the journal", "every write"}[p]
}

// AdmitUser tells whether a user's change may be taken now, also where it is written by another class in the end. Errors: ErrFull.
func (d *DB) AdmitUser() error { return d.admit(classUser) }

// KeepBallast makes a file of size octets at path that an operator can give up on a full disk (FreeBallast), so that there is
// room to clear up. It is made only where users' changes stay possible beside it, and made again once there is room again.
// size 0 makes none. It tells whether the file is there.
func (d *DB) KeepBallast(path string, size uint64) (bool, error) {
	if fi, err := os.Stat(path); size == 0 || err == nil && uint64(fi.Size()) >= size {
		return size > 0, nil
	}
	free, total, err := d.Space()
	if err != nil || free < size || free-size < d.cfg.floor(classUser, total) {
		return false, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return false, fmt.Errorf("cannot make ballast: %w", err)
	}
	// Allocated, not written: a sparse file would hold no space.
	err = unix.Fallocate(int(f.Fd()), 0, 0, int64(size))
	if err = errors.Join(err, f.Close()); err != nil {
		return false, errors.Join(fmt.Errorf("cannot make ballast: %w", err), os.Remove(path))
	}
	return true, nil
}

// FreeBallast gives the file's space back and returns how many octets that were; 0 where there is none.
func FreeBallast(path string) (uint64, error) {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot free ballast: %w", err)
	}
	return uint64(fi.Size()), nil
}
