package blob

import (
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	gib = 1 << 30
	day = 24 * time.Hour
)

// reserve returns what assets leave free on a disk of total octets.
func (s *Store) reserve(total uint64) uint64 {
	if s.cfg.Reserve > 0 {
		return s.cfg.Reserve
	}
	return max(2*gib, total/20) + gib // storage/state refuses users' writes below max(2 GiB, 5 %)
}

// room tells whether n more octets leave the reserve free.
func (s *Store) room(n int64) error {
	sp, err := s.Space()
	if err != nil {
		return err
	}
	if sp.Free < sp.Reserve || sp.Free-sp.Reserve < uint64(n) {
		return fmt.Errorf("cannot keep asset: %w: %d octets wanted, %d free, %d reserved", ErrFull, n, sp.Free, sp.Reserve)
	}
	return nil
}

// Space is the disk that assets lie on, in octets.
type Space struct {
	Free, Total uint64
	Reserve     uint64 // what assets leave free
}

// Space returns what the disk has now.
func (s *Store) Space() (Space, error) {
	free, total, err := s.cfg.Statfs(s.cfg.Dir)
	if err != nil {
		return Space{}, err
	}
	return Space{free, total, s.reserve(total)}, nil
}

// owed returns how many octets pinned assets still need.
func (s *Store) owed() (n uint64) {
	for _, i := range s.List() {
		if i.Pinned {
			n += i.Size - i.Octets
		}
	}
	return n
}

// octets returns the length of the chunks that are here. e.mu is held.
func (e *entry) octets() uint64 {
	n := uint64(e.have.count()) * uint64(e.m.ChunkSize)
	if last := len(e.m.Chunks) - 1; last >= 0 && e.have.get(last) {
		_, short := e.m.ChunkRange(last)
		n -= uint64(e.m.ChunkSize) - uint64(short)
	}
	return n
}

// Leave notes that an asset was wanted until the intent came to head, durably; a zero head, that it is wanted. It is part of the
// previous intent while that head is the active one. Errors: ErrAbsent, the state's.
func (s *Store) Leave(d intent.Digest, head intent.Head) error {
	e, err := s.entry(d)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.left == head {
		return nil
	}
	was := e.left
	e.left = head
	if err := s.checkpoint(d, e); err != nil {
		e.left = was
		return err
	}
	return nil
}

// SaveUse records the last use of each asset that was used on another day than is recorded: a crash loses a day of it at most.
func (s *Store) SaveUse() error {
	for _, i := range s.List() {
		e, err := s.entry(i.Digest)
		if err != nil {
			continue // deleted since
		}
		e.mu.Lock()
		if !e.lastUsed.Truncate(day).Equal(e.usedDay.Truncate(day)) {
			err = s.checkpoint(i.Digest, e)
		}
		e.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}
