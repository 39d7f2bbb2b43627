package state

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"

	"github.com/dgraph-io/badger/v4"
)

const (
	backupFormat  = "skerry-state-1"
	maxBackupLine = 2*MaxValue + MaxKey + 4096 // base64 of the largest record fits
	restoreBatch  = 1 << 20                    // octets per transaction: under 15 % of a 16 MiB memtable
	maxBuckets    = 1024                       // of a backup; a resident has about a dozen
)

// backupLine is one line of a backup: first a format line, then records in (bucket, key) order, last the totals.
type backupLine struct {
	Format  string           `json:"format,omitempty"`
	Schema  int              `json:"schema,omitempty"` // of the records' values; 0 is 1
	Bucket  string           `json:"b,omitempty"`
	Key     []byte           `json:"k,omitempty"`
	Value   []byte           `json:"v,omitempty"`
	Buckets map[string]Total `json:"buckets,omitempty"`
	End     bool             `json:"end,omitempty"`
}

// Total says what a backup holds of one bucket.
type Total struct {
	Count  uint64 `json:"count"`
	SHA256 string `json:"sha256"` // over (len key, key, len value, value) of its records in order
}

// Backup writes all records to w as JSON Lines, verified while they are read, with counts and roots at the end, and returns
// those by bucket. Secrets stay as they are stored (sealed). Errors: ErrDamaged; a bucket that does not fit its header is damage
// too, so a backup is never quietly short.
func (d *DB) Backup(ctx context.Context, w io.Writer) (map[string]Total, error) {
	bw := bufio.NewWriter(w)
	enc := json.NewEncoder(bw)
	totals := newTotals()
	err := enc.Encode(backupLine{Format: backupFormat, Schema: schema})
	if err == nil {
		err = d.View(func(tx *Tx) error {
			return tx.each(ctx, func(bucket string, key, value []byte) error {
				totals.add(bucket, key, value)
				return enc.Encode(backupLine{Bucket: bucket, Key: key, Value: value})
			}, totals)
		})
	}
	if err == nil {
		err = enc.Encode(backupLine{Buckets: totals.sums(), End: true})
	}
	if err == nil {
		err = bw.Flush()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write backup: %w", err)
	}
	return totals.sums(), nil
}

// each calls fn for every record and compares the counts with the headers.
func (tx *Tx) each(ctx context.Context, fn func(bucket string, key, value []byte) error, tot *totals) error {
	it := tx.t.NewIterator(badger.DefaultIteratorOptions)
	defer it.Close()
	want := map[string]uint64{}
	for it.Rewind(); it.Valid(); it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		space, bucket, key, ok := splitKey(it.Item().KeyCopy(nil))
		raw, err := it.Item().ValueCopy(nil)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if !ok {
			return fmt.Errorf("%w: a key that is not ours", ErrDamaged)
		}
		_, v, _, err := tx.d.open(space, bucket, key, raw)
		if err != nil {
			return err
		}
		switch space {
		case spaceData:
			if err := fn(bucket, key, v); err != nil {
				return err
			}
		case spaceHeader:
			s, _ := decodeSum(v)
			want[bucket] = s.count
		}
	}
	for b, n := range tot.n {
		if want[b] != n {
			return fmt.Errorf("%w: bucket %s holds %d records, should hold %d", ErrDamaged, b, n, want[b])
		}
	}
	for b, n := range want {
		if tot.n[b] != n {
			return fmt.Errorf("%w: bucket %s holds %d records, should hold %d", ErrDamaged, b, tot.n[b], n)
		}
	}
	return nil
}

// CheckBackup verifies all of r and returns what it holds by bucket. Errors: ErrBackup, ErrSchema.
func CheckBackup(ctx context.Context, r io.Reader) (map[string]Total, error) {
	return readBackup(ctx, r, func(string, []byte, []byte) error { return nil })
}

// Restore verifies all of r, then writes its records into d, which must be empty, sets Recovering, and compares what d then holds
// with the backup's counts and roots, which it returns. On an error of the verification nothing was written.
// Errors: ErrBackup, ErrSchema, ErrNotEmpty.
func (d *DB) Restore(ctx context.Context, r io.ReadSeeker) (map[string]Total, error) {
	if empty, err := d.Empty(); err != nil || !empty {
		return nil, errors.Join(err, fmt.Errorf("cannot restore: %w", ErrNotEmpty))
	}
	if _, err := CheckBackup(ctx, r); err != nil {
		return nil, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("cannot restore: %w", err)
	}
	if err := d.SetRecovering("restored from a backup"); err != nil {
		return nil, err
	}
	var batch []backupLine
	size := 0
	flush := func() error {
		err := d.Update(func(tx *Tx) error {
			for _, l := range batch {
				if err := tx.Put(l.Bucket, string(l.Key), l.Value); err != nil {
					return err
				}
			}
			return nil
		})
		batch, size = batch[:0], 0
		return err
	}
	want, err := readBackup(ctx, r, func(b string, k, v []byte) error {
		batch = append(batch, backupLine{Bucket: b, Key: k, Value: v})
		if size += len(k) + len(v) + 256; size < restoreBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return nil, err
	}
	got, err := d.Backup(ctx, io.Discard)
	if err == nil && !maps.Equal(got, want) {
		err = fmt.Errorf("cannot restore: %w: what was written reads back differently", ErrDamaged)
	}
	return got, err
}

// Empty tells whether d holds no record at all.
func (d *DB) Empty() (empty bool, err error) {
	err = d.View(func(tx *Tx) error {
		it := tx.t.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		it.Rewind()
		empty = !it.Valid()
		return nil
	})
	return empty, err
}

func readBackup(ctx context.Context, r io.Reader, fn func(bucket string, key, value []byte) error) (map[string]Total, error) {
	bad := func(why string) error { return fmt.Errorf("cannot read backup: %w: %s", ErrBackup, why) }
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxBackupLine)
	tot := newTotals()
	first, ended := true, false
	for sc.Scan() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var l backupLine
		dec := json.NewDecoder(bytes.NewReader(sc.Bytes()))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&l); err != nil {
			return nil, bad(err.Error())
		}
		switch {
		case ended:
			return nil, bad("lines after the end")
		case first:
			if l.Format != backupFormat {
				return nil, bad("format not known")
			}
			if l.Schema > schema {
				return nil, fmt.Errorf("cannot read backup: %w: it has schema %d, this release reads up to %d; restore it with the release that made it", ErrSchema, l.Schema, schema)
			}
			first = false
		case l.End:
			ended = true
			if !maps.Equal(tot.sums(), l.Buckets) {
				return nil, bad("counts or roots differ")
			}
		default:
			if why := tot.refuses(l); why != "" {
				return nil, bad(why)
			}
			tot.add(l.Bucket, l.Key, l.Value)
			if err := fn(l.Bucket, l.Key, l.Value); err != nil {
				return nil, err
			}
		}
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return nil, bad("line too long")
		}
		return nil, fmt.Errorf("cannot read backup: %w", err)
	}
	if !ended {
		return nil, bad("it is cut short")
	}
	return tot.sums(), nil
}

type totals struct {
	n    map[string]uint64
	h    map[string]hash.Hash
	last map[string][]byte // highest key so far
}

func newTotals() *totals {
	return &totals{map[string]uint64{}, map[string]hash.Hash{}, map[string][]byte{}}
}

// refuses says why a line cannot be a record that comes next: "" = it can.
func (t *totals) refuses(l backupLine) string {
	switch {
	case len(l.Bucket) == 0 || len(l.Bucket) > MaxBucket || len(l.Key) == 0 || len(l.Key) > MaxKey || len(l.Value) > MaxValue:
		return "a record out of bounds"
	case len(t.n) >= maxBuckets && t.n[l.Bucket] == 0:
		return "too many buckets"
	case bytes.Compare(l.Key, t.last[l.Bucket]) <= 0:
		return "keys out of order"
	}
	return ""
}

func (t *totals) add(bucket string, key, value []byte) {
	if t.h[bucket] == nil {
		t.h[bucket] = sha256.New()
	}
	t.n[bucket]++
	t.last[bucket] = key
	fmt.Fprintf(t.h[bucket], "%d,%d:", len(key), len(value))
	t.h[bucket].Write(key)
	t.h[bucket].Write(value)
}

func (t *totals) sums() map[string]Total {
	m := map[string]Total{}
	for b, n := range t.n {
		m[b] = Total{n, hex.EncodeToString(t.h[b].Sum(nil))}
	}
	return m
}
