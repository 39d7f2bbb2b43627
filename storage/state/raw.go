package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Raw is an open directory of the second profile: for what is measured in masses and may be lost as a whole, never for what a
// site is made of. It keeps no MACs, counts or roots: who writes values brings a checksum of its own.
type Raw struct {
	gauge
	b       *badger.DB
	lock    *os.File
	rebuilt bool
}

// Pair is one write: Key has 1 to MaxKey octets; Value at most MaxRaw, and nil deletes the key.
type Pair struct{ Key, Value []byte }

// MaxRaw is the largest value of a Raw, in octets: larger ones would go to Badger's value log, which nobody collects.
const MaxRaw = 64<<10 - 1

// OpenRaw sweeps leftovers of a crash and opens cfg.Dir; cfg.Key, Look and ScrubRate are not used. A directory that does not open,
// or ended the process that opened it three times in a row, is renamed to <Dir>.bad, in the place of an earlier one, and an empty
// one is begun: Rebuilt then tells so. Errors: ErrLocked; a full or forbidden disk is returned as it is and moves nothing aside.
func OpenRaw(cfg Config) (*Raw, error) {
	cfg = cfg.withDefaults()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make directory: %w", err)
	}
	lock, err := lockFile(cfg.Dir + ".lock")
	if err != nil {
		return nil, err
	}
	r := &Raw{gauge: gauge{cfg: cfg}, lock: lock}
	if err := r.openOrBegin(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return r, nil
}

func (r *Raw) openOrBegin() error {
	dir := r.cfg.Dir
	attempts := dir + ".attempts"
	tries := readCount(attempts) // processes that ended while they opened it
	if err := WriteFile(attempts, []byte(strconv.Itoa(tries+1))); err != nil {
		return fmt.Errorf("cannot count open attempt: %w", err)
	}
	err := fmt.Errorf("%w: %d processes ended while they opened it", ErrDamaged, tries)
	if tries < openTries {
		err = r.tryOpen()
	}
	if err != nil && !environmental(err) {
		if berr := r.begin(err); berr != nil {
			return berr
		}
		err = r.tryOpen()
	}
	if rerr := os.Remove(attempts); rerr != nil && err == nil {
		err = errors.Join(fmt.Errorf("cannot end count of open attempts: %w", rerr), r.b.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", dir, err)
	}
	return nil
}

func (r *Raw) tryOpen() (err error) {
	if err := sweep(r.cfg.Dir); err != nil {
		return err
	}
	if err := checkManifest(r.cfg.Dir); err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	r.b, err = badger.Open(rawOptions(r.cfg))
	return err
}

// begin puts the directory aside and makes an empty one. A crash in between is an empty directory at the next start.
func (r *Raw) begin(why error) error {
	dir := r.cfg.Dir
	bad := dir + ".bad"
	err := os.RemoveAll(bad)
	if err == nil {
		err = os.Rename(dir, bad)
	}
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = syncDir(filepath.Dir(dir))
	}
	if err != nil {
		return fmt.Errorf("cannot begin %s again: %w", dir, err)
	}
	r.rebuilt = true
	r.cfg.Logger.Error("directory does not open; it was moved aside and an empty one begun", "dir", dir, "to", bad, "err", why)
	return nil
}

// rawOptions are for many small, often rewritten values.
func rawOptions(c Config) badger.Options {
	o := badger.DefaultOptions(c.Dir).
		WithSyncWrites(true).
		WithValueThreshold(MaxRaw + 1).
		WithMemTableSize(8 << 20).
		WithNumMemtables(2).
		WithBaseTableSize(2 << 20).
		WithValueLogFileSize(64 << 20). // by default a sparse file of 2 GiB
		WithCompression(options.ZSTD).
		WithBlockSize(32 << 10). // of 4 KiB, the default, the tables of the compression cost as much as the octets
		WithBlockCacheSize(16 << 20).
		WithIndexCacheSize(8 << 20).
		WithNumVersionsToKeep(1).
		WithNumCompactors(2). // one is refused
		WithDetectConflicts(false).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithMetricsEnabled(false).
		WithLogger(badgerLog{c.Logger})
	// Tables of one size at all levels: a builder of one takes up to 14 times its size, up to thirteen are at work at once, and Badger keeps
	// eight for the next as long as there is always one.
	o.TableSizeMultiplier = 1
	return o
}

// Close flushes and closes the directory. Nothing may use r afterwards.
func (r *Raw) Close() error {
	if err := errors.Join(r.b.Close(), r.lock.Close()); err != nil {
		return fmt.Errorf("cannot close %s: %w", r.cfg.Dir, err)
	}
	return nil
}

// Rebuilt tells whether OpenRaw began an empty directory in the place of one that did not open.
func (r *Raw) Rebuilt() bool { return r.rebuilt }

// Get returns a copy of the value of key. Errors: ErrAbsent, ErrDamaged.
func (r *Raw) Get(key []byte) (value []byte, err error) {
	t := r.b.NewTransaction(false)
	defer t.Discard()
	err = guarded(func() error {
		it, err := t.Get(key)
		if err == nil {
			value, err = it.ValueCopy(nil)
		}
		return err
	})
	switch {
	case errors.Is(err, badger.ErrKeyNotFound):
		return nil, fmt.Errorf("cannot read %q: %w", key, ErrAbsent)
	case err != nil:
		return nil, fmt.Errorf("cannot read %q: %w: %w", key, ErrDamaged, err)
	}
	return value, nil
}

// guarded makes an error of a panic: Badger may panic on a damaged block.
func guarded(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return fn()
}

// Write writes batch in one transaction with one fsync: all of it is on stable storage when Write returns nil, and none of it when
// it does not. Of two pairs with one key the later counts. batch must not change meanwhile and is not kept.
// Errors: ErrFull below the watermark of users' writes, ErrTooLarge (a key, a value, or the batch: about 1.2 MB, 12,000 pairs).
func (r *Raw) Write(batch []Pair) error {
	if err := r.admit(classUser); err != nil {
		return err
	}
	t := r.b.NewTransaction(true)
	defer t.Discard()
	for _, p := range batch {
		if len(p.Key) == 0 || len(p.Key) > MaxKey || len(p.Value) > MaxRaw {
			return fmt.Errorf("cannot write %.60q: %w: %d octets", p.Key, ErrTooLarge, len(p.Value))
		}
		var err error
		if p.Value == nil {
			err = t.Delete(p.Key)
		} else {
			err = t.Set(p.Key, p.Value)
		}
		if err != nil {
			return fmt.Errorf("cannot write %q: %w", p.Key, tooLarge(err))
		}
	}
	if err := t.Commit(); err != nil {
		return fmt.Errorf("cannot commit: %w", tooLarge(err))
	}
	return nil
}

// Scan calls fn for each key that begins with prefix and is not below from (nil: all of them), in order, on a snapshot. key and
// value belong to the call. fn may return ErrStop to end the scan, and may write to r: the scan does not see it.
// Errors: fn's, as it is; ErrDamaged, and what a damaged block held may also be missing without one.
func (r *Raw) Scan(prefix, from []byte, fn func(key, value []byte) error) error {
	t := r.b.NewTransaction(false)
	defer t.Discard()
	o := badger.DefaultIteratorOptions
	o.PrefetchValues = false // values lie beside their keys
	o.Prefix = prefix
	it := t.NewIterator(o)
	defer it.Close()
	if bytes.Compare(from, prefix) < 0 {
		from = prefix
	}
	var key, value []byte
	for step := func() { it.Seek(from) }; ; step = it.Next {
		more := false
		err := guarded(func() (err error) {
			step()
			if more = it.Valid(); more {
				key = it.Item().KeyCopy(key)
				value, err = it.Item().ValueCopy(value)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("cannot scan %q: %w: %w", prefix, ErrDamaged, err)
		}
		if !more {
			return nil
		}
		if err := fn(key, value); errors.Is(err, ErrStop) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
