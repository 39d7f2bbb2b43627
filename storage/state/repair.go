package state

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Damaged lists the keys of bucket that are there and cannot be read, in order.
func (d *DB) Damaged(bucket string) (keys []string, err error) {
	err = d.View(func(tx *Tx) error {
		all, err := tx.keys(bucket, "", "", -1)
		for _, k := range all {
			if _, gerr := tx.Get(bucket, k); errors.Is(gerr, ErrDamaged) {
				keys = append(keys, k)
			}
		}
		return err
	})
	return keys, err
}

// Torn tells whether the last scrub found a damaged table block: after every bucket was repaired, Rebuild leaves it behind.
func (d *DB) Torn() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.torn
}

// Repair puts whole into bucket where it differs from what can be read there, and ends the hold. whole is all that the bucket
// should hold, as its owner derived it from verified sources; the owner keeps other writers out meanwhile. Readable records
// that are not in whole stay; lost are keys whose records, if unreadable, the owner can do without. Errors: ErrDamaged when another
// unreadable record is not in whole; then the hold stays.
func (d *DB) Repair(bucket string, whole iter.Seq2[string, []byte], lost ...string) error {
	type record struct {
		key   string
		value []byte
	}
	var batch []record
	size := 0
	flush := func() error {
		err := d.update(classVital, func(tx *Tx) error {
			for _, r := range batch {
				have, err := tx.Get(bucket, r.key)
				if err == nil && bytes.Equal(have, r.value) && !d.Torn() {
					continue
				}
				if err := tx.Put(bucket, r.key, r.value); err != nil {
					return err
				}
			}
			return nil
		})
		batch, size = batch[:0], 0
		return err
	}
	for k, v := range whole {
		batch = append(batch, record{k, v})
		if size += len(k) + len(v) + 256; size < restoreBatch {
			continue
		}
		if err := flush(); err != nil {
			return fmt.Errorf("cannot repair %s: %w", bucket, err)
		}
	}
	if err := flush(); err != nil {
		return fmt.Errorf("cannot repair %s: %w", bucket, err)
	}
	return d.Reseal(bucket, lost...)
}

// Reseal recomputes the sums of bucket from the records that are there and ends its hold. Call it after the lost records were
// put again from envelopes or peers, never to silence a hold. lost are keys of records that cannot be read and that the caller
// can do without; they are removed. Errors: ErrDamaged when another record has a bad MAC.
func (d *DB) Reseal(bucket string, lost ...string) error {
	err := d.update(classVital, func(tx *Tx) error {
		for _, k := range lost {
			if _, err := tx.Get(bucket, k); !errors.Is(err, ErrDamaged) {
				continue
			}
			if err := tx.t.Delete(rawKey(spaceData, bucket, []byte(k))); err != nil {
				return tooLarge(err)
			}
		}
		keys, err := tx.keys(bucket, "", "", -1)
		if err != nil {
			return err
		}
		version, _, err := tx.readSum(spaceHeader, bucket, nil)
		if err != nil {
			return err
		}
		s := &summary{version: version + 1, slot: map[byte]*sum{}}
		for i := range slots {
			s.slot[byte(i)] = &sum{}
		}
		for _, k := range keys {
			v, _, m, err := tx.get(spaceData, bucket, []byte(k))
			if err != nil {
				return err
			}
			s.version = max(s.version, v+1)
			s.add(slotOf([]byte(k)), m)
		}
		tx.touched[bucket] = s
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot reseal %s: %w", bucket, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.holds, bucket)
	return nil
}

const (
	rebuildWait = 10 * time.Second // for readers to end: a scrub ends with its context, everything else reads for milliseconds
	rebuildTick = 5 * time.Millisecond
)

// Rebuild copies every record into new files and goes on with those; the old ones stay beside as <Dir>.bad-N. It is how a
// damaged table block is left behind, after every bucket was repaired: Badger would keep it until it happened to compact it.
// A crash leaves the old files or the new ones. Errors: ErrFull when the copy does not fit, ErrDamaged; ErrClosed: the files of
// neither open any more, and the process must start again.
func (d *DB) Rebuild() error {
	d.write.Lock()
	defer d.write.Unlock()
	if err := d.admitCopy(); err != nil {
		return err
	}
	dir := d.cfg.Dir
	if err := d.copyTo(dir + ".new"); err != nil {
		return errors.Join(fmt.Errorf("cannot rebuild state: %w", err), os.RemoveAll(dir+".new"))
	}
	// Tried, not waited for: a waiting writer would stop a reader that reads within a read.
	for end := time.Now().Add(rebuildWait); !d.life.TryLock(); time.Sleep(rebuildTick) {
		if time.Now().After(end) {
			return errors.Join(errors.New("cannot rebuild state: it is being read all the time"), os.RemoveAll(dir+".new"))
		}
	}
	defer d.life.Unlock()
	if err := d.b.Close(); err != nil {
		d.cfg.Logger.Warn("damaged state files did not close cleanly", "err", err)
	}
	err := WriteFile(dir+".rebuilt", []byte("the new copy is whole\n"))
	if err == nil {
		err = finishRebuild(dir)
	}
	b, oerr := badger.Open(badgerOptions(d.cfg))
	if oerr != nil {
		return errors.Join(err, fmt.Errorf("cannot open rebuilt state: %w: %w", ErrClosed, oerr))
	}
	d.b = b
	if err != nil {
		return fmt.Errorf("cannot rebuild state: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.torn = false
	return nil
}

func (d *DB) admitCopy() error {
	free, _, err := d.cfg.Statfs(d.cfg.Dir)
	if err != nil {
		return err
	}
	d.life.RLock()
	lsm, vlog := d.b.Size()
	d.life.RUnlock()
	if need := uint64(lsm+vlog) + d.cfg.StopFree; free < need {
		return fmt.Errorf("cannot rebuild state: %w: %d octets free, %d needed", ErrFull, free, need)
	}
	return nil
}

// copyTo writes every record as it is stored (MACs do not depend on files) into a new directory, durably.
func (d *DB) copyTo(dir string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	cfg := d.cfg
	cfg.Dir = dir
	to, err := badger.Open(badgerOptions(cfg))
	if err != nil {
		return err
	}
	wb := to.NewWriteBatch()
	err = d.View(func(tx *Tx) error {
		it := tx.t.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			v, err := it.Item().ValueCopy(nil)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			if err := wb.Set(it.Item().KeyCopy(nil), v); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = wb.Flush()
	} else {
		wb.Cancel()
	}
	if cerr := to.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// finishRebuild puts a whole new copy in the place of the old files, or removes one that is not whole.
func finishRebuild(dir string) error {
	_, err := os.Stat(dir + ".rebuilt")
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.RemoveAll(dir + ".new"); err != nil {
			return fmt.Errorf("cannot remove half a copy: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot finish rebuilding state: %w", err)
	}
	if _, err := os.Stat(dir + ".new"); err == nil {
		if _, err := aside(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Rename(dir+".new", dir); err != nil {
			return fmt.Errorf("cannot finish rebuilding state: %w", err)
		}
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Remove(dir + ".rebuilt"); err != nil {
		return fmt.Errorf("cannot finish rebuilding state: %w", err)
	}
	return nil
}
