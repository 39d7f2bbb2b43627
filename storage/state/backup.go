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

	"github.com/dgraph-io/badger/v4"
)

const (
	backupFormat  = "skerry-state-1"
	maxBackupLine = 2*MaxValue + MaxKey + 4096 // base64 of the largest record fits
	restoreBatch  = 1 << 20                    // octets per transaction: under 15 % of a 16 MiB memtable
)

// backupLine is one line of a backup: first a format line, then records in (bucket, key) order, last the totals.
type backupLine struct {
	Format  string                 `json:"format,omitempty"`
	Bucket  string                 `json:"b,omitempty"`
	Key     []byte                 `json:"k,omitempty"`
	Value   []byte                 `json:"v,omitempty"`
	Buckets map[string]backupTotal `json:"buckets,omitempty"`
	End     bool                   `json:"end,omitempty"`
}

type backupTotal struct {
	Count  uint64 `json:"count"`
	SHA256 string `json:"sha256"` // over (len key, key, len value, value) of its records in order
}

// Backup writes all records to w as JSON Lines, verified while they are read, with counts and roots at the end. Secrets stay
// as they are stored (sealed). Errors: ErrDamaged; a bucket that does not fit its header is damage too, so a backup is never
// quietly short.
func (d *DB) Backup(ctx context.Context, w io.Writer) error {
	bw := bufio.NewWriter(w)
	enc := json.NewEncoder(bw)
	if err := enc.Encode(backupLine{Format: backupFormat}); err != nil {
		return fmt.Errorf("cannot write backup: %w", err)
	}
	totals := newTotals()
	err := d.View(func(tx *Tx) error {
		return tx.each(ctx, func(bucket string, key, value []byte) error {
			totals.add(bucket, key, value)
			return enc.Encode(backupLine{Bucket: bucket, Key: key, Value: value})
		}, totals)
	})
	if err != nil {
		return fmt.Errorf("cannot write backup: %w", err)
	}
	if err := enc.Encode(backupLine{Buckets: totals.sums(), End: true}); err != nil {
		return fmt.Errorf("cannot write backup: %w", err)
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("cannot write backup: %w", err)
	}
	return nil
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

// Restore verifies all of r, then writes its records into d, which must be empty, and sets Recovering. On an error of the
// verification nothing was written. Errors: ErrBackup.
func (d *DB) Restore(ctx context.Context, r io.ReadSeeker) error {
	empty := true
	if err := d.View(func(tx *Tx) error {
		it := tx.t.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		it.Rewind()
		empty = !it.Valid()
		return nil
	}); err != nil {
		return err
	}
	if !empty {
		return fmt.Errorf("cannot restore: state is not empty")
	}
	if err := readBackup(ctx, r, func(string, []byte, []byte) error { return nil }); err != nil {
		return err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("cannot restore: %w", err)
	}
	if err := d.SetRecovering("restored from a backup"); err != nil {
		return err
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
	err := readBackup(ctx, r, func(b string, k, v []byte) error {
		batch = append(batch, backupLine{Bucket: b, Key: k, Value: v})
		if size += len(k) + len(v) + 256; size < restoreBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	return err
}

func readBackup(ctx context.Context, r io.Reader, fn func(bucket string, key, value []byte) error) error {
	bad := func(why string) error { return fmt.Errorf("cannot read backup: %w: %s", ErrBackup, why) }
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxBackupLine)
	tot := newTotals()
	first, ended := true, false
	for sc.Scan() {
		if err := ctx.Err(); err != nil {
			return err
		}
		var l backupLine
		dec := json.NewDecoder(bytes.NewReader(sc.Bytes()))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&l); err != nil {
			return bad(err.Error())
		}
		switch {
		case ended:
			return bad("lines after the end")
		case first:
			if l.Format != backupFormat {
				return bad("format not known")
			}
			first = false
		case l.End:
			ended = true
			if !tot.equal(l.Buckets) {
				return bad("counts or roots differ")
			}
		default:
			tot.add(l.Bucket, l.Key, l.Value)
			if err := fn(l.Bucket, l.Key, l.Value); err != nil {
				return err
			}
		}
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return bad("line too long")
		}
		return fmt.Errorf("cannot read backup: %w", err)
	}
	if !ended {
		return bad("it is cut short")
	}
	return nil
}

type totals struct {
	n map[string]uint64
	h map[string]hash.Hash
}

func newTotals() *totals { return &totals{map[string]uint64{}, map[string]hash.Hash{}} }

func (t *totals) add(bucket string, key, value []byte) {
	if t.h[bucket] == nil {
		t.h[bucket] = sha256.New()
	}
	t.n[bucket]++
	fmt.Fprintf(t.h[bucket], "%d,%d:", len(key), len(value))
	t.h[bucket].Write(key)
	t.h[bucket].Write(value)
}

func (t *totals) sums() map[string]backupTotal {
	m := map[string]backupTotal{}
	for b, n := range t.n {
		m[b] = backupTotal{n, hex.EncodeToString(t.h[b].Sum(nil))}
	}
	return m
}

func (t *totals) equal(m map[string]backupTotal) bool {
	if len(m) != len(t.n) {
		return false
	}
	for b, s := range t.sums() {
		if m[b] != s {
			return false
		}
	}
	return true
}
