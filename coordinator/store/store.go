package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/skerry-metal/skerry/storage/state"
)

// The errors callers branch on.
var (
	ErrAbsent   = errors.New("no such key")
	ErrConflict = errors.New("changed meanwhile")
	// ErrUnknown: the store went away before it answered. Nobody can say whether the change was made; whoever goes on reads
	// first. Before the next Commit of this Store does anything, it was settled.
	ErrUnknown = errors.New("outcome unknown")
)

// Guard is a condition of a commit: the key's revision is still Rev; 0 means that it does not exist.
type Guard struct {
	Key string
	Rev uint64
}

// Commit is one atomic change. Keys are at most 200 octets, values below 1 MiB; all together at most 2 MiB and 4,000 keys. No
// key is both put and deleted.
type Commit struct {
	If     []Guard
	Put    map[string][]byte
	Delete []string
}

const (
	maxKey    = 200
	maxCommit = 2 << 20
	maxKeys   = 4000
	maxOps    = maxKeys + 96 // what the backends add to a commit, rounded up to what members of etcd are told to take
)

func (c Commit) check() error {
	size := 0
	for k, v := range c.Put {
		if len(k) == 0 || len(k) > maxKey {
			return fmt.Errorf("cannot commit key of %d octets: 1 to %d", len(k), maxKey)
		}
		size += len(k) + len(v)
	}
	for _, k := range c.Delete {
		if _, both := c.Put[k]; both {
			return fmt.Errorf("cannot commit: %s is both put and deleted", k)
		}
	}
	if n := max(len(c.Put)+len(c.Delete), len(c.If)); n > maxKeys || size > maxCommit {
		return fmt.Errorf("cannot commit %d keys of %d octets at once: at most %d keys and %d octets; change less at a time", n, size, maxKeys, maxCommit)
	}
	return nil
}

// Entry is one key as it stands. Rev is the store's revision when it was last written.
type Entry struct {
	Key   string
	Value []byte
	Rev   uint64
}

// Store is the coordinator's memory.
type Store interface {
	// Get returns one key. Errors: ErrAbsent.
	Get(ctx context.Context, key string) (Entry, error)
	// Range calls fn for the keys that begin with prefix and are not below from, in order. fn may return ErrStop.
	Range(ctx context.Context, prefix, from string, fn func(Entry) error) error
	// Commit applies c if every guard holds and returns the new revision. Errors: ErrConflict, ErrUnknown.
	Commit(ctx context.Context, c Commit) (rev uint64, err error)
	// Wait returns the store's revision as soon as it is above since, or ctx's error.
	Wait(ctx context.Context, since uint64) (uint64, error)
	// Close ends the use of the store.
	Close() error
}

// Shared is a Store to which other processes write too.
type Shared interface {
	Store
	// Changes calls fn for the keys that begin with prefix and were last written after since, in the order of keys. What was
	// deleted is not told.
	Changes(ctx context.Context, prefix string, since uint64, fn func(Entry) error) error
}

// ErrStop, returned by fn, ends a Range early without an error.
var ErrStop = errors.New("stop")

const (
	bucket  = "coordinator"
	revKey  = "!rev" // below every other key: keys begin with a letter
	revSize = 8
)

// Badger is the embedded backend.
type Badger struct {
	db *state.DB

	mu   sync.Mutex // guards what follows
	rev  uint64
	wake chan struct{}
}

// OpenBadger uses db, which nobody else writes to. Close closes it.
func OpenBadger(db *state.DB) (*Badger, error) {
	s := &Badger{db: db, wake: make(chan struct{})}
	err := db.View(func(tx *state.Tx) (err error) {
		s.rev, err = revision(tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open coordinator store: %w", err)
	}
	return s, nil
}

func revision(tx *state.Tx) (uint64, error) {
	b, err := tx.Get(bucket, revKey)
	if errors.Is(err, state.ErrAbsent) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(b) != revSize {
		return 0, fmt.Errorf("revision record has %d octets", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// A stored value is the revision, then the bytes.
func decode(key string, b []byte) (Entry, error) {
	if len(b) < revSize {
		return Entry{}, fmt.Errorf("record %s is too short", key)
	}
	return Entry{Key: key, Value: b[revSize:], Rev: binary.BigEndian.Uint64(b)}, nil
}

// Get implements Store.
func (s *Badger) Get(_ context.Context, key string) (e Entry, err error) {
	err = s.db.View(func(tx *state.Tx) error {
		e, err = get(tx, key)
		return err
	})
	return e, err
}

func get(tx *state.Tx, key string) (Entry, error) {
	b, err := tx.Get(bucket, key)
	if errors.Is(err, state.ErrAbsent) {
		return Entry{}, fmt.Errorf("cannot get %s: %w", key, ErrAbsent)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("cannot get %s: %w", key, err)
	}
	return decode(key, b)
}

// Range implements Store.
func (s *Badger) Range(ctx context.Context, prefix, from string, fn func(Entry) error) error {
	from = max(from, "\"") // above revKey, which is ours
	return s.db.View(func(tx *state.Tx) error {
		return tx.WalkFrom(bucket, prefix, from, func(key string, b []byte) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			e, err := decode(key, b)
			if err != nil {
				return err
			}
			if err := fn(e); errors.Is(err, ErrStop) {
				return state.ErrStop
			} else if err != nil {
				return err
			}
			return nil
		})
	})
}

// Commit implements Store.
func (s *Badger) Commit(_ context.Context, c Commit) (uint64, error) {
	if err := c.check(); err != nil {
		return 0, err
	}
	var rev uint64
	err := s.db.Update(func(tx *state.Tx) error {
		for _, g := range c.If {
			if err := check(tx, g); err != nil {
				return err
			}
		}
		last, err := revision(tx)
		if err != nil {
			return err
		}
		rev = last + 1
		head := binary.BigEndian.AppendUint64(nil, rev)
		for k, v := range c.Put {
			if err := tx.Put(bucket, k, append(head[:revSize:revSize], v...)); err != nil {
				return fmt.Errorf("cannot commit %s: %w", k, err)
			}
		}
		for _, k := range c.Delete {
			if err := tx.Delete(bucket, k); err != nil && !errors.Is(err, state.ErrAbsent) {
				return fmt.Errorf("cannot delete %s: %w", k, err)
			}
		}
		return tx.Put(bucket, revKey, head)
	})
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rev = max(s.rev, rev)
	close(s.wake)
	s.wake = make(chan struct{})
	return rev, nil
}

func check(tx *state.Tx, g Guard) error {
	e, err := get(tx, g.Key)
	if err != nil && !errors.Is(err, ErrAbsent) {
		return err
	}
	if e.Rev != g.Rev { // an absent key has revision 0
		return fmt.Errorf("cannot commit: %s is at revision %d, expected %d: %w", g.Key, e.Rev, g.Rev, ErrConflict)
	}
	return nil
}

// Wait implements Store.
func (s *Badger) Wait(ctx context.Context, since uint64) (uint64, error) {
	for {
		s.mu.Lock()
		rev, wake := s.rev, s.wake
		s.mu.Unlock()
		if rev > since {
			return rev, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Close implements Store.
func (s *Badger) Close() error { return s.db.Close() }

var _ Store = (*Badger)(nil)
