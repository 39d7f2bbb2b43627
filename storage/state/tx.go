package state

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// Tx is one transaction. It sees its own writes. It is not safe for concurrent use and ends with its function.
type Tx struct {
	d        *DB
	t        *badger.Txn
	writable bool
	touched  map[string]*summary
}

// summary is the bucket header and the slots that this transaction changed.
type summary struct {
	version uint64 // of the header: rises with every write to the bucket, so that a record's version never repeats
	all     sum
	slot    map[byte]*sum
}

// begin starts a transaction on the files of the moment; Rebuild puts others in their place only while none is open.
func (d *DB) begin(writable bool) (*badger.Txn, func()) {
	d.life.RLock()
	t := d.b.NewTransaction(writable)
	return t, func() { t.Discard(); d.life.RUnlock() }
}

// View runs fn on a snapshot.
func (d *DB) View(fn func(*Tx) error) error {
	t, end := d.begin(false)
	defer end()
	return fn(&Tx{d: d, t: t})
}

// Update runs fn and commits what it wrote in one Badger transaction: all or nothing, on stable storage when Update returns
// nil. Updates run one after another, so fn reads what nobody changes under it. An error of fn is returned as it is and
// nothing is written. Errors: ErrFull below the user watermark, ErrTooLarge.
func (d *DB) Update(fn func(*Tx) error) error { return d.update(classUser, fn) }

// UpdateSigned is Update for what was signed elsewhere and is followed: it goes on where users' changes are refused already.
func (d *DB) UpdateSigned(fn func(*Tx) error) error { return d.update(classSigned, fn) }

// UpdateVital is Update for leases, promises and the journal: it is refused only when almost nothing is free.
func (d *DB) UpdateVital(fn func(*Tx) error) error { return d.update(classVital, fn) }

func (d *DB) update(c class, fn func(*Tx) error) error {
	if err := d.admit(c); err != nil {
		return err
	}
	d.write.Lock()
	defer d.write.Unlock()
	t, end := d.begin(true)
	defer end()
	tx := &Tx{d: d, t: t, writable: true, touched: map[string]*summary{}}
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.flushSums(); err != nil {
		return err
	}
	if err := t.Commit(); err != nil {
		return fmt.Errorf("cannot commit: %w", tooLarge(err))
	}
	return nil
}

func tooLarge(err error) error {
	if errors.Is(err, badger.ErrTxnTooBig) {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

// get reads one raw record. Badger may panic on a damaged block: that is ErrDamaged. Damage puts the bucket on hold.
func (tx *Tx) get(space byte, bucket string, key []byte) (version uint64, value []byte, m [macSize]byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot read %s/%q: %w: %v", bucket, key, ErrDamaged, r)
		}
		if errors.Is(err, ErrDamaged) {
			tx.d.hold(bucket, err.Error())
		}
	}()
	it, err := tx.t.Get(rawKey(space, bucket, key))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return 0, nil, m, fmt.Errorf("cannot read %s/%q: %w", bucket, key, ErrAbsent)
	}
	if err != nil {
		return 0, nil, m, fmt.Errorf("cannot read %s/%q: %w: %w", bucket, key, ErrDamaged, err)
	}
	b, err := it.ValueCopy(nil)
	if err != nil {
		return 0, nil, m, fmt.Errorf("cannot read %s/%q: %w: %w", bucket, key, ErrDamaged, err)
	}
	return tx.d.open(space, bucket, key, b)
}

// Get returns a copy of the record's value. Errors: ErrAbsent, ErrDamaged.
func (tx *Tx) Get(bucket, key string) ([]byte, error) {
	_, v, _, err := tx.get(spaceData, bucket, []byte(key))
	return v, err
}

func (tx *Tx) set(space byte, bucket string, key, sealed []byte) error {
	if err := tx.t.Set(rawKey(space, bucket, key), sealed); err != nil {
		return fmt.Errorf("cannot write %s/%q: %w", bucket, key, tooLarge(err))
	}
	return nil
}

// Put writes a record; value is copied. bucket has 1-64 octets, key 1-1,024, value at most MaxValue.
// A damaged record may be overwritten: that is how it is repaired, and its bucket's sums are then rebuilt by Reseal.
// Errors: ErrTooLarge.
func (tx *Tx) Put(bucket, key string, value []byte) error {
	if !tx.writable {
		return fmt.Errorf("cannot write %s/%q: the transaction only reads", bucket, key)
	}
	if l := len(bucket); l == 0 || l > MaxBucket || len(key) == 0 || len(key) > MaxKey || len(value) > MaxValue {
		return fmt.Errorf("cannot write %s/%.60q: %w: %d octets", bucket, key, ErrTooLarge, len(value))
	}
	k := []byte(key)
	s, err := tx.summary(bucket, slotOf(k))
	if err != nil {
		return err
	}
	_, _, old, err := tx.get(spaceData, bucket, k)
	switch {
	case err == nil:
		s.sub(slotOf(k), old)
	case !errors.Is(err, ErrAbsent) && !errors.Is(err, ErrDamaged):
		return err
	}
	s.version++
	s.add(slotOf(k), tx.d.mac(spaceData, bucket, k, s.version, value))
	return tx.set(spaceData, bucket, k, tx.d.seal(spaceData, bucket, k, s.version, value))
}

// Delete removes a record; an absent one is no error. Errors: ErrHold (the bucket is on hold: absence there proves nothing),
// ErrDamaged (a record that cannot be read is not deleted).
func (tx *Tx) Delete(bucket, key string) error {
	if !tx.writable {
		return fmt.Errorf("cannot delete %s/%q: the transaction only reads", bucket, key)
	}
	if why := tx.d.held(bucket); why != "" {
		return fmt.Errorf("cannot delete %s/%q: %w: %s", bucket, key, ErrHold, why)
	}
	k := []byte(key)
	_, _, old, err := tx.get(spaceData, bucket, k)
	if errors.Is(err, ErrAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := tx.summary(bucket, slotOf(k))
	if err != nil {
		return err
	}
	s.version++
	s.sub(slotOf(k), old)
	if err := tx.t.Delete(rawKey(spaceData, bucket, k)); err != nil {
		return fmt.Errorf("cannot delete %s/%q: %w", bucket, key, tooLarge(err))
	}
	return nil
}

func (s *summary) add(slot byte, m [macSize]byte) { s.all.add(m); s.slot[slot].add(m) }
func (s *summary) sub(slot byte, m [macSize]byte) { s.all.sub(m); s.slot[slot].sub(m) }

// summary loads the header of bucket and one slot for change.
func (tx *Tx) summary(bucket string, slot byte) (*summary, error) {
	s := tx.touched[bucket]
	if s == nil {
		version, all, err := tx.readSum(spaceHeader, bucket, nil)
		if err != nil {
			return nil, err
		}
		s = &summary{version: version, all: all, slot: map[byte]*sum{}}
		tx.touched[bucket] = s
	}
	if s.slot[slot] == nil {
		_, one, err := tx.readSum(spaceSlot, bucket, []byte{slot})
		if err != nil {
			return nil, err
		}
		s.slot[slot] = &one
	}
	return s, nil
}

// readSum returns the zero sum where none was written yet, or where it is damaged: the next scrub then finds the misfit and
// holds the bucket, while writes (leases!) go on.
func (tx *Tx) readSum(space byte, bucket string, key []byte) (uint64, sum, error) {
	version, v, _, err := tx.get(space, bucket, key)
	if errors.Is(err, ErrAbsent) || errors.Is(err, ErrDamaged) {
		return 0, sum{}, nil
	}
	if err != nil {
		return 0, sum{}, err
	}
	s, ok := decodeSum(v)
	if !ok {
		return 0, sum{}, fmt.Errorf("cannot read sums of %s: %w", bucket, ErrDamaged)
	}
	return version, s, nil
}

func (tx *Tx) flushSums() error {
	for bucket, s := range tx.touched {
		for slot, one := range s.slot {
			k := []byte{slot}
			if err := tx.set(spaceSlot, bucket, k, tx.d.seal(spaceSlot, bucket, k, s.version, one.encode())); err != nil {
				return err
			}
		}
		if err := tx.set(spaceHeader, bucket, nil, tx.d.seal(spaceHeader, bucket, nil, s.version, s.all.encode())); err != nil {
			return err
		}
	}
	return nil
}

// Count returns how many records bucket should hold, by its header.
func (tx *Tx) Count(bucket string) (uint64, error) {
	if s := tx.touched[bucket]; s != nil {
		return s.all.count, nil
	}
	_, s, err := tx.readSum(spaceHeader, bucket, nil)
	return s.count, err
}

// Walk calls fn for each record of bucket whose key begins with prefix, in key order. value is a copy. Damaged records are
// passed over, the walk goes on, and the first of them is returned at the end: ErrDamaged. So it is when a whole bucket (empty
// prefix) has fewer records than its header says. fn may return ErrStop, and may write to tx.
func (tx *Tx) Walk(bucket, prefix string, fn func(key string, value []byte) error) error {
	return tx.walk(bucket, prefix, prefix, fn)
}

// WalkFrom is Walk over those of its keys that are >= from.
func (tx *Tx) WalkFrom(bucket, prefix, from string, fn func(key string, value []byte) error) error {
	return tx.walk(bucket, prefix, max(prefix, from), fn)
}

func (tx *Tx) walk(bucket, prefix, from string, fn func(string, []byte) error) error {
	limit := walkPage
	if prefix == "" && from == "" {
		limit = -1 // all, to be counted
	}
	var damaged error
	for {
		keys, err := tx.keys(bucket, prefix, from, limit)
		if err != nil {
			return err
		}
		if limit < 0 {
			damaged = tx.short(bucket, len(keys))
		}
		for _, k := range keys {
			v, err := tx.Get(bucket, k)
			switch {
			case errors.Is(err, ErrAbsent): // deleted by fn meanwhile
				continue
			case err != nil:
				if damaged == nil {
					damaged = err
				}
				continue
			}
			if err := fn(k, v); err != nil {
				if errors.Is(err, ErrStop) {
					return nil
				}
				return err
			}
		}
		if len(keys) != limit {
			return damaged
		}
		from = keys[limit-1] + "\x00"
	}
}

// walkPage is how many keys a walk over a part of a bucket lists at once: who stops at the tenth record of a long bucket pays for no more.
const walkPage = 256

// short tells of records that vanished with their block: no read of theirs would ever find an error.
func (tx *Tx) short(bucket string, have int) error {
	want, err := tx.Count(bucket)
	if err == nil && uint64(have) < want {
		err = fmt.Errorf("cannot walk %s: %w: it holds %d records, should hold %d", bucket, ErrDamaged, have, want)
		tx.d.hold(bucket, err.Error())
	}
	return err
}

// Keys lists up to limit (negative: all) of the bucket's keys that begin with prefix and are >= from, in order, also of damaged records.
func (tx *Tx) Keys(bucket, prefix, from string, limit int) ([]string, error) {
	return tx.keys(bucket, prefix, max(prefix, from), limit)
}

// keys lists keys first: Badger allows one iterator at a time in a writing transaction and panics at a second.
func (tx *Tx) keys(bucket, prefix, from string, limit int) (keys []string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot walk %s: %w: %v", bucket, ErrDamaged, r)
		}
	}()
	head := rawKey(spaceData, bucket, nil)
	o := badger.DefaultIteratorOptions
	o.PrefetchValues = false
	o.Prefix = rawKey(spaceData, bucket, []byte(prefix))
	it := tx.t.NewIterator(o)
	defer it.Close()
	for it.Seek(rawKey(spaceData, bucket, []byte(from))); it.Valid() && len(keys) != limit; it.Next() {
		keys = append(keys, string(bytes.TrimPrefix(it.Item().Key(), head)))
	}
	return keys, nil
}

// Last returns the record of bucket with the highest key that begins with prefix. Errors: ErrAbsent, ErrDamaged.
func (tx *Tx) Last(bucket, prefix string) (key string, value []byte, err error) {
	key, err = tx.lastKey(bucket, prefix)
	if err != nil {
		return "", nil, err
	}
	value, err = tx.Get(bucket, key)
	return key, value, err
}

func (tx *Tx) lastKey(bucket, prefix string) (key string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot walk %s: %w: %v", bucket, ErrDamaged, r)
		}
	}()
	o := badger.DefaultIteratorOptions
	o.PrefetchValues, o.Reverse = false, true
	it := tx.t.NewIterator(o)
	defer it.Close()
	p := rawKey(spaceData, bucket, []byte(prefix))
	// 0xff above every octet of a key of full length: the highest key with the prefix sorts at or below it.
	it.Seek(append(bytes.Clone(p), bytes.Repeat([]byte{0xff}, MaxKey+1)...))
	if !it.ValidForPrefix(p) {
		return "", fmt.Errorf("cannot find last of %s/%q: %w", bucket, prefix, ErrAbsent)
	}
	return string(it.Item().Key()[2+len(bucket):]), nil
}
