package account

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/sflow"
)

func interval(sub uint32, start time.Time, bucket uint32, rows ...Row) *Interval {
	return &Interval{
		Key: sflow.Key{Agent: swA, SubAgent: sub}, Switch: "sw1", Bucket: bucket, Start: start.UTC(), SeqFrom: 10 * bucket, SeqTo: 10*bucket + 9,
		Minutes: 1, Datagrams: 10, Samples: 20, Rows: rows,
	}
}

func row(machine string, bytes uint64) Row {
	return Row{Label{"acme", "web", "10.4.0.0/24", machine, Out, Outside}, Sums{Samples: 1, Bytes: bytes, L3: bytes - 18, Packets: 100, Var: 1e12, PacketVar: 9900, Flags: FlagLoss}}
}

func sameAddr() cmp.Option { return cmp.Comparer(func(a, b netip.Addr) bool { return a == b }) }

// TestCodec: what is written is read, in parts if it must be, and a changed octet is refused.
func TestCodec(t *testing.T) {
	v := interval(7, t0, 5)
	for i := range 2000 {
		v.Rows = append(v.Rows, row(fmt.Sprintf("m%04d", i), uint64(1000+i)))
	}
	parts := v.parts()
	got, err := decode(parts[0], true)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts[1:] {
		more, err := decode(p, true)
		if err != nil || more.Datagrams != 0 || more.Minutes != 0 {
			t.Fatalf("%v %+v", err, more)
		}
		got.add(more)
	}
	if d := cmp.Diff(v, got, sameAddr(), cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(Interval{})); d != "" || len(parts) < 3 {
		t.Errorf("%d parts, -want +got\n%s", len(parts), d)
	}
	for i, p := range parts {
		if len(p) > maxValue {
			t.Errorf("part %d has %d octets", i, len(p))
		}
	}
	p := slices.Clone(parts[0])
	p[40] ^= 1
	if _, err := decode(p, true); !errors.Is(err, errDamaged) {
		t.Errorf("a changed octet: %v", err)
	}
}

// FuzzDecode: whatever lies on the disk, nothing panics, and what is read is written back alike.
func FuzzDecode(f *testing.F) {
	f.Add(interval(1, t0, 3, row("m1", 5), row("m2", 7)).parts()[0])
	f.Add([]byte{1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		body := slices.Clone(b)
		if len(body) > 4 { // let it past the checksum
			n := len(body) - 4
			binary.BigEndian.PutUint32(body[n:], crc32.Checksum(body[:n], castagnoli()))
		}
		v, err := decode(body, true)
		if err != nil {
			return
		}
		again, err := decode(v.parts()[0], true)
		if err != nil {
			t.Fatalf("%v of %+v", err, v)
		}
		if len(v.parts()) == 1 && len(again.Rows) != len(v.Rows) {
			t.Fatalf("%d rows of %d", len(again.Rows), len(v.Rows))
		}
	})
}

// TestRing: minutes and hours of a real store, over more than a turn of the ring: what is old is written over and not told.
func TestRing(t *testing.T) {
	open := func(dir string) (*state.Raw, *Ledger) {
		raw, err := state.OpenRaw(state.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		l, err := OpenLedger(raw)
		if err != nil {
			t.Fatal(err)
		}
		return raw, l
	}
	dir := filepath.Join(t.TempDir(), "telemetry")
	raw, l := open(dir)
	boot := time.Date(2026, 11, 20, 0, 0, 20, 0, time.UTC)
	const total = 80 * 60 // more than 72 h
	var vs []*Interval
	for i := range total {
		vs = append(vs, interval(0, boot.Add(time.Duration(i)*time.Minute), uint32(i), row("m1", 1000)))
	}
	now := boot.Add(total * time.Minute)
	if left, err := l.Write(vs[:total/2]); err != nil || len(left) > 0 {
		t.Fatal(err, len(left))
	}
	if err := raw.Close(); err != nil { // what was written is there after a restart
		t.Fatal(err)
	}
	raw, l = open(dir)
	defer raw.Close()
	if left, err := l.Write(vs[total/2:]); err != nil || len(left) > 0 {
		t.Fatal(err, len(left))
	}
	count := func(tier Tier, from, to time.Time) (n int, bytes uint64, minutes uint32) {
		err := l.scan(tier, from, to, true, func(_ ID, v *Interval) error {
			n++
			minutes += v.Minutes
			for _, r := range v.Rows {
				bytes += r.Bytes
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n, bytes, minutes
	}
	if n, b, m := count(Minutes, boot, now); n != 72*60 || b != 72*60*1000 || m != 72*60 {
		t.Errorf("minutes: %d intervals, %d bytes, %d minutes", n, b, m)
	}
	if n, b, m := count(Hours, boot, now); n != 80 || b != total*1000 || m != total {
		t.Errorf("hours: %d intervals, %d bytes, %d minutes", n, b, m)
	}
	if n, _, _ := count(Minutes, now.Add(-10*time.Minute), now.Add(-5*time.Minute)); n != 5 {
		t.Errorf("five minutes: %d intervals", n)
	}
	if n, _, _ := count(Minutes, now.Add(time.Hour), now); n != 0 {
		t.Errorf("an empty time: %d intervals", n)
	}
	if is := l.Infos(); len(is) != 1 || !is[0].First.Equal(boot) {
		t.Errorf("%+v", is)
	}
}

// TestPartsOfOneMinute: a restarted agent writes its minute beside the one from before, and an hour takes both in.
func TestPartsOfOneMinute(t *testing.T) {
	m := &memory{m: map[string][]byte{}}
	l, err := OpenLedger(m)
	if err != nil {
		t.Fatal(err)
	}
	a, b := interval(0, t0, 5, row("m1", 10)), interval(0, t0.Add(time.Millisecond), 5, row("m1", 20))
	a.SeqTo, b.SeqFrom = 54, 57
	for _, v := range []*Interval{a, b} {
		if _, err := l.Write([]*Interval{v}); err != nil {
			t.Fatal(err)
		}
	}
	q, _ := NewQuery(t0.Add(-time.Hour), t0.Add(time.Hour), 0, nil, nil, t0)
	for _, tier := range []Tier{Minutes, Hours} {
		q.Tier = tier
		hs, err := l.Headers(q)
		if err != nil {
			t.Fatal(err)
		}
		g, err := l.Sum(q, Merge([]Share{{"a", nil, hs}})["a"], nil)
		if err != nil || len(g) != 1 || g[0].Bytes != 30 {
			t.Errorf("tier %d: %v %+v", tier, err, g)
		}
	}
	if n := len(m.m); n != 2+1+1 { // two minutes, an hour, the stream
		t.Errorf("%d keys", n)
	}
	for k := range m.m {
		if k[0] == tableLedger && k[1] == byte(Minutes) {
			m.m[k][20] ^= 0xff
		}
	}
	q.Tier = Minutes
	if hs, err := l.Headers(q); err != nil || len(hs) != 0 || l.Damaged() != 2 {
		t.Errorf("damaged rows: %v %d %d", err, len(hs), l.Damaged())
	}
}

// TestFullDisk: what the store refuses stays with the caller, whole.
func TestFullDisk(t *testing.T) {
	m := &memory{m: map[string][]byte{}, fail: state.ErrFull}
	l, _ := OpenLedger(m)
	vs := []*Interval{interval(0, t0, 5, row("m1", 10))}
	if left, err := l.Write(vs); !errors.Is(err, state.ErrFull) || !reflect.DeepEqual(left, vs) || len(l.Infos()) != 0 {
		t.Errorf("%v, %d left, %v", err, len(left), l.Infos())
	}
	m.fail = nil
	if left, err := l.Write(vs); err != nil || len(left) != 0 || len(l.Infos()) != 1 {
		t.Errorf("%v, %d left", err, len(left))
	}
}

// TestSlots: every time has a slot, and neighbours have neighbours.
func TestSlots(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		at := time.Unix(r.Int64N(4e9)-1e6, 0)
		for _, tier := range []Tier{Minutes, Hours} {
			a, b := int64(tier.slot(at)), int64(tier.slot(at.Add(tier.step())))
			if a < 0 || a >= tier.ring() || (b != a+1 && (b != 0 || a != tier.ring()-1)) {
				if at.Unix() >= 0 {
					t.Fatalf("%s: slots %d, %d", at, a, b)
				}
			}
		}
	}
}
