package state

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	defScrubRate = 8 << 20 // octets/s (trust.md section 11)
	scrubStep    = 1 << 20 // octets between two looks at the clock
)

// ScrubReport says what a scrub saw.
type ScrubReport struct {
	Records  uint64
	Bytes    uint64
	Held     map[string]string // bucket -> first reason; nil: all fits
	Checksum error             // Badger's own table checksums
	Buckets  map[string]BucketReport
}

// BucketReport is what a scrub saw of one bucket.
type BucketReport struct {
	Records uint64 `json:"records"` // that bear their MAC
	Want    uint64 `json:"want"`    // by the bucket's header
	Damaged uint64 `json:"damaged"` // that are there and do not bear their MAC, sums among them
	Root    string `json:"root"`    // sum of the record MACs, hexadecimal; two looks at the same content agree
	Reason  string `json:"reason,omitempty"`
}

// Scrub reads every record, at Config.ScrubRate at most, and checks MACs, counts, sums and Badger's table checksums. A bucket that does
// not fit goes on hold: reads are served, deletes refused. A held bucket that fits again is released. Run it before the first
// destructive step after a start, then daily. Damage is in the report, not in the error.
func (d *DB) Scrub(ctx context.Context) (ScrubReport, error) {
	s := &scrubber{d: d, ctx: ctx, start: time.Now(), seen: map[string]*tally{}, want: map[string]*tally{}, bad: map[string]string{}}
	broken := s.walk()
	if broken != nil && !errors.Is(broken, ErrDamaged) {
		return ScrubReport{}, broken
	}
	rep := s.judge()
	rep.Checksum = errors.Join(broken, d.verifyTables())
	if rep.Checksum != nil {
		// A damaged block makes records vanish quietly, so no bucket can be trusted to be whole.
		for b := range s.seen {
			s.blame(b, "a table block is damaged")
		}
		if broken != nil {
			s.blame("", "the walk ended early: "+broken.Error())
		}
	}
	for b, t := range s.seen {
		rep.Buckets[b] = BucketReport{Records: t.all.count, Want: of(s.want, b).all.count, Damaged: t.damaged, Root: t.all.root(), Reason: s.bad[b]}
	}
	d.mu.Lock()
	d.holds = maps.Clone(s.bad)
	d.torn = rep.Checksum != nil
	d.mu.Unlock()
	if len(s.bad) > 0 {
		rep.Held = s.bad
		d.cfg.Logger.Error("scrub found damaged state; deletes are refused there", "buckets", slices.Sorted(maps.Keys(s.bad)))
	}
	return rep, nil
}

// Holds returns the buckets on hold and why; empty when all fits.
func (d *DB) Holds() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.holds)
}

func (d *DB) held(bucket string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.holds[bucket]
}

// hold puts bucket on hold at once: a read found damage and need not wait for the next scrub.
func (d *DB) hold(bucket, why string) {
	d.mu.Lock()
	first := d.holds[bucket] == ""
	if first {
		d.holds[bucket] = why
	}
	d.mu.Unlock()
	if first {
		d.cfg.Logger.Error("a read found damaged state; deletes are refused there", "bucket", bucket, "err", why)
	}
}

func (d *DB) verifyTables() (err error) {
	d.life.RLock()
	defer d.life.RUnlock()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot verify tables: %w: %v", ErrDamaged, r)
		}
	}()
	if err := d.b.VerifyChecksum(); err != nil {
		return fmt.Errorf("cannot verify tables: %w: %w", ErrDamaged, err)
	}
	return nil
}

type tally struct {
	all     sum
	slot    [slots]sum
	damaged uint64
}

type scrubber struct {
	d          *DB
	ctx        context.Context
	start      time.Time
	bytes      uint64
	next       uint64
	records    uint64
	seen, want map[string]*tally // counted; as the headers and slots say
	bad        map[string]string
}

func (s *scrubber) walk() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot scrub: %w: %v", ErrDamaged, r)
		}
	}()
	t, end := s.d.begin(false)
	defer end()
	it := t.NewIterator(badger.DefaultIteratorOptions)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		k := it.Item().KeyCopy(nil)
		space, bucket, key, ok := splitKey(k)
		if !ok {
			s.bad[""] = "a key that is not ours"
			continue
		}
		v, err := it.Item().ValueCopy(nil)
		if err != nil {
			of(s.seen, bucket).damaged++
			s.blame(bucket, fmt.Sprintf("%q: %v", key, err))
			continue
		}
		s.one(space, bucket, key, v)
		if err := s.pace(len(k) + len(v)); err != nil {
			return err
		}
	}
	return nil
}

func (s *scrubber) blame(bucket, why string) {
	if s.bad[bucket] == "" {
		s.bad[bucket] = why
	}
}

func of(m map[string]*tally, bucket string) *tally {
	if m[bucket] == nil {
		m[bucket] = &tally{}
	}
	return m[bucket]
}

func (s *scrubber) one(space byte, bucket string, key, raw []byte) {
	_, v, m, err := s.d.open(space, bucket, key, raw)
	if err != nil {
		of(s.seen, bucket).damaged++
		s.blame(bucket, err.Error())
		return
	}
	if space == spaceData {
		t := of(s.seen, bucket)
		t.all.add(m)
		t.slot[slotOf(key)].add(m)
		s.records++
		return
	}
	sm, ok := decodeSum(v)
	switch {
	case !ok:
		s.blame(bucket, "sums cannot be read")
	case space == spaceHeader:
		of(s.want, bucket).all = sm
	case space == spaceSlot && len(key) == 1:
		of(s.want, bucket).slot[key[0]] = sm
	default:
		s.blame(bucket, "a key that is not ours")
	}
}

// pace keeps under Config.ScrubRate.
func (s *scrubber) pace(n int) error {
	s.bytes += uint64(n)
	if s.bytes < s.next {
		return nil
	}
	s.next = s.bytes + scrubStep
	ahead := time.Duration(float64(s.bytes)/float64(s.d.cfg.ScrubRate)*float64(time.Second)) - time.Since(s.start)
	if ahead <= 0 {
		return s.ctx.Err()
	}
	t := time.NewTimer(ahead)
	defer t.Stop()
	select {
	case <-s.ctx.Done():
		return s.ctx.Err()
	case <-t.C:
		return nil
	}
}

func (s *scrubber) judge() ScrubReport {
	for b := range s.want {
		of(s.seen, b)
	}
	for b, seen := range s.seen {
		want := of(s.want, b)
		if seen.all != want.all {
			s.blame(b, fmt.Sprintf("holds %d records, should hold %d (or their sum differs)", seen.all.count, want.all.count))
		}
		for i := range slots {
			if seen.slot[i] != want.slot[i] {
				s.blame(b, fmt.Sprintf("slot %d holds %d records, should hold %d (or their sum differs)", i, seen.slot[i].count, want.slot[i].count))
			}
		}
	}
	return ScrubReport{Records: s.records, Bytes: s.bytes, Buckets: map[string]BucketReport{}}
}
