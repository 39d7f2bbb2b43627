package state

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "make the data directory of the release that is being made again")

var testKey = bytes.Repeat([]byte{7}, macKeySize)

func config(dir string) Config {
	return Config{
		Dir: dir, Key: testKey, Logger: slog.New(slog.DiscardHandler),
		Statfs: func(string) (uint64, uint64, error) { return 100 << 30, 200 << 30, nil },
	}
}

func open(t testing.TB, dir string) *DB {
	t.Helper()
	d, err := Open(config(dir))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func fresh(t testing.TB) *DB {
	d := open(t, filepath.Join(t.TempDir(), "state"))
	t.Cleanup(func() { d.Close() })
	return d
}

func put(t testing.TB, d *DB, bucket, key, value string) {
	t.Helper()
	if err := d.Update(func(tx *Tx) error { return tx.Put(bucket, key, []byte(value)) }); err != nil {
		t.Fatal(err)
	}
}

func get(d *DB, bucket, key string) (string, error) {
	var v []byte
	err := d.View(func(tx *Tx) (err error) { v, err = tx.Get(bucket, key); return err })
	return string(v), err
}

// raw writes behind the DB's back, as rotten storage would.
func raw(t *testing.T, d *DB, key, value []byte) {
	t.Helper()
	err := d.b.Update(func(t *badger.Txn) error {
		if value == nil {
			return t.Delete(key)
		}
		return t.Set(key, value)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestModel drives a DB and a map with the same operations, reopening now and then; both must agree and every scrub be clean.
func TestModel(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		d := open(t, filepath.Join(dir, fmt.Sprint(n), "state"))
		defer func() { d.Close() }()
		model := map[string]string{}
		key := rapid.SampledFrom([]string{"a", "b", "ba", "c/1", "c/2", "\xff\xff", "z"})
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			next := maps.Clone(model)
			fail := rapid.IntRange(0, 9).Draw(rt, "fail") == 0
			err := d.Update(func(tx *Tx) error {
				for range rapid.IntRange(1, 5).Draw(rt, "ops") {
					k := key.Draw(rt, "key")
					if rapid.Bool().Draw(rt, "put") {
						v := rapid.StringN(0, 20, -1).Draw(rt, "value")
						next[k] = v
						if err := tx.Put("bk", k, []byte(v)); err != nil {
							return err
						}
						continue
					}
					delete(next, k)
					if err := tx.Delete("bk", k); err != nil {
						return err
					}
				}
				if fail {
					return errors.New("given up")
				}
				return nil
			})
			if fail != (err != nil) {
				rt.Fatalf("update: %v", err)
			}
			if !fail {
				model = next
			}
		}
		if rapid.IntRange(0, 5).Draw(rt, "reopen") == 0 {
			d.Close()
			d = open(t, filepath.Join(dir, fmt.Sprint(n), "state"))
		}
		compare(rt, d, model)
	})
}

func compare(t *rapid.T, d *DB, model map[string]string) {
	got := map[string]string{}
	var order []string
	err := d.View(func(tx *Tx) error {
		if c, err := tx.Count("bk"); err != nil || c != uint64(len(model)) {
			t.Fatalf("count %d, %v; want %d", c, err, len(model))
		}
		return tx.Walk("bk", "", func(k string, v []byte) error {
			got[k] = string(v)
			order = append(order, k)
			return nil
		})
	})
	if err != nil || !maps.Equal(got, model) || !slices.IsSorted(order) {
		t.Fatalf("walk %v %v, want %v (%v)", order, got, model, err)
	}
	rep, err := d.Scrub(context.Background())
	if err != nil || rep.Held != nil || rep.Checksum != nil || rep.Records != uint64(len(model)) {
		t.Fatalf("scrub %+v %v, want %d records", rep, err, len(model))
	}
}

func TestWalkFromLastNested(t *testing.T) {
	d := fresh(t)
	for _, k := range []string{"a/1", "a/2", "b/1", "b/\xff", "c"} {
		put(t, d, "x", k, k)
		put(t, d, "xy", k, "other bucket")
	}
	var got []string
	err := d.Update(func(tx *Tx) error {
		return tx.WalkFrom("x", "", "a/2", func(k string, _ []byte) error {
			got = append(got, k)
			if k == "b/\xff" {
				return ErrStop
			}
			return tx.Walk("x", "c", func(k string, _ []byte) error { return tx.Put("x", k, []byte("new")) })
		})
	})
	if want := []string{"a/2", "b/1", "b/\xff"}; err != nil || !slices.Equal(got, want) {
		t.Fatalf("walk from a/2: %q %v, want %q", got, err, want)
	}
	f := func(prefix, want string) {
		t.Helper()
		err := d.View(func(tx *Tx) error {
			k, _, err := tx.Last("x", prefix)
			if k != want {
				t.Fatalf("last of %q = %q, want %q", prefix, k, want)
			}
			return err
		})
		if (want == "") != errors.Is(err, ErrAbsent) {
			t.Fatal(err)
		}
	}
	f("a/", "a/2")
	f("b/", "b/\xff")
	f("", "c")
	f("d", "")
}

// TestLongWalk: a walk over a part of a bucket lists its keys in pages, and visits each once, in order, over their ends.
func TestLongWalk(t *testing.T) {
	d := fresh(t)
	var want []string
	for i := range 2*walkPage + 7 {
		want = append(want, fmt.Sprintf("p/%04d", i))
	}
	err := d.Update(func(tx *Tx) error {
		for _, k := range append([]string{"o/1", "q/1"}, want...) {
			if err := tx.Put("x", k, []byte(k)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, walkPage, walkPage + 1, 2 * walkPage, len(want)} { // where the walk begins
		var got []string
		err := d.View(func(tx *Tx) error {
			return tx.WalkFrom("x", "p/", fmt.Sprintf("p/%04d", n), func(k string, _ []byte) error { got = append(got, k); return nil })
		})
		if err != nil || !slices.Equal(got, want[n:]) {
			t.Fatalf("from %d: %d keys, %v", n, len(got), err)
		}
	}
}

// TestDamageIsNotAbsence: promise 4. Each kind of rot is seen, holds its bucket alone, and stops deletes there.
func TestDamageIsNotAbsence(t *testing.T) {
	f := func(name string, rot func(t *testing.T, d *DB), read error) {
		t.Run(name, func(t *testing.T) {
			d := fresh(t)
			for i := range 20 {
				put(t, d, "leases", fmt.Sprint(i), "v")
				put(t, d, "fine", fmt.Sprint(i), "v")
			}
			rot(t, d)
			if _, err := get(d, "leases", "7"); !errors.Is(err, read) {
				t.Fatalf("read: %v, want %v", err, read)
			}
			rep, err := d.Scrub(context.Background())
			if err != nil || len(rep.Held) != 1 || rep.Held["leases"] == "" {
				t.Fatalf("scrub: %+v %v", rep, err)
			}
			if err := d.Update(func(tx *Tx) error { return tx.Delete("leases", "3") }); !errors.Is(err, ErrHold) {
				t.Fatalf("delete: %v, want ErrHold", err)
			}
			if err := d.Update(func(tx *Tx) error { return tx.Delete("fine", "3") }); err != nil {
				t.Fatal(err)
			}
			put(t, d, "leases", "7", "v")
			if err := d.Reseal("leases"); err != nil {
				t.Fatal(err)
			}
			if rep, err := d.Scrub(context.Background()); err != nil || rep.Held != nil {
				t.Fatalf("scrub after repair: %+v %v", rep, err)
			}
		})
	}
	k7 := rawKey(spaceData, "leases", []byte("7"))
	f("vanished", func(t *testing.T, d *DB) { raw(t, d, k7, nil) }, ErrAbsent)
	f("flipped", func(t *testing.T, d *DB) {
		b := d.seal(spaceData, "leases", []byte("7"), 1, []byte("v"))
		b[8] ^= 1
		raw(t, d, k7, b)
	}, ErrDamaged)
	f("of another key", func(t *testing.T, d *DB) {
		raw(t, d, k7, d.seal(spaceData, "leases", []byte("8"), 1, []byte("v")))
	}, ErrDamaged)
	f("older value", func(t *testing.T, d *DB) {
		raw(t, d, k7, d.seal(spaceData, "leases", []byte("7"), 1, []byte("old")))
	}, nil)
	f("header gone", func(t *testing.T, d *DB) { raw(t, d, rawKey(spaceHeader, "leases", nil), nil) }, nil)
	f("slot gone", func(t *testing.T, d *DB) {
		raw(t, d, rawKey(spaceSlot, "leases", []byte{slotOf([]byte("7"))}), nil)
	}, nil)
	f("short", func(t *testing.T, d *DB) { raw(t, d, k7, []byte("x")) }, ErrDamaged)
}

// TestReadHolds: a read that finds damage, or a walk that finds fewer records than there should be, holds the bucket before any scrub.
func TestReadHolds(t *testing.T) {
	f := func(name string, value []byte) {
		t.Run(name, func(t *testing.T) {
			d := fresh(t)
			put(t, d, "b", "1", "v")
			put(t, d, "b", "2", "v")
			raw(t, d, rawKey(spaceData, "b", []byte("1")), value)
			seen := 0
			err := d.View(func(tx *Tx) error { return tx.Walk("b", "", func(string, []byte) error { seen++; return nil }) })
			if !errors.Is(err, ErrDamaged) || seen != 1 || d.Holds()["b"] == "" {
				t.Fatalf("walk: %v after %d records, holds %v", err, seen, d.Holds())
			}
			if err := d.Update(func(tx *Tx) error { return tx.Delete("b", "2") }); !errors.Is(err, ErrHold) {
				t.Fatalf("delete: %v", err)
			}
			if err := d.Repair("b", maps.All(map[string][]byte{"2": []byte("v")})); (value == nil) != (err == nil) {
				t.Fatalf("repaired without the damaged record: %v", err)
			}
			if err := d.Repair("b", maps.All(map[string][]byte{"1": []byte("v"), "2": []byte("v")})); err != nil || len(d.Holds()) > 0 {
				t.Fatalf("repair: %v, holds %v", err, d.Holds())
			}
		})
	}
	f("vanished", nil)
	f("damaged", []byte("rotten and long enough for a MAC"))
}

// TestRebuildCrash: wherever a rebuild is cut off, the next open finds the old files or the new ones, whole.
func TestRebuildCrash(t *testing.T) {
	f := func(name string, cut func(dir string) error) {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			d := open(t, dir)
			for i := range 50 {
				put(t, d, "b", fmt.Sprint(i), "v")
			}
			if err := d.copyTo(dir + ".new"); err != nil {
				t.Fatal(err)
			}
			d.Close()
			if err := cut(dir); err != nil {
				t.Fatal(err)
			}
			d = open(t, dir)
			defer d.Close()
			if rep, err := d.Scrub(t.Context()); err != nil || rep.Held != nil || rep.Records != 50 || d.Recovering() {
				t.Fatalf("%+v, %v", rep, err)
			}
			for _, ext := range []string{".new", ".rebuilt"} {
				if _, err := os.Stat(dir + ext); !os.IsNotExist(err) {
					t.Errorf("%s was left: %v", ext, err)
				}
			}
		})
	}
	rebuilt := func(dir string) error { return WriteFile(dir+".rebuilt", nil) }
	f("half a copy", func(dir string) error { return os.RemoveAll(dir + ".new/MANIFEST") })
	f("before the old goes", rebuilt)
	f("between the renames", func(dir string) error { return errors.Join(rebuilt(dir), os.Rename(dir, dir+".bad-1")) })
	f("after both", func(dir string) error {
		return errors.Join(rebuilt(dir), os.Rename(dir, dir+".bad-1"), os.Rename(dir+".new", dir))
	})
}

func TestForeignKeyIsDamage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	d := open(t, dir)
	put(t, d, "b", "k", "v")
	d.Close()
	c := config(dir)
	c.Key = bytes.Repeat([]byte{8}, macKeySize)
	d, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := get(d, "b", "k"); !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v, want ErrDamaged", err)
	}
}

func TestFullDisk(t *testing.T) {
	c := config(filepath.Join(t.TempDir(), "state"))
	free := uint64(100 << 30)
	c.Statfs = func(string) (uint64, uint64, error) { return free, 50 << 30, nil }
	d, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f := func(octets uint64, user, signed, vital bool, want Pressure) {
		t.Helper()
		free = octets
		if got := d.PressureNow(); got != want {
			t.Fatalf("pressure at %d MiB: %d, want %d", octets>>20, got, want)
		}
		if err := d.AdmitUser(); (err == nil) != user {
			t.Fatalf("user's change at %d MiB: %v", octets>>20, err)
		}
		w := func(tx *Tx) error { return tx.Put("b", "k", []byte("v")) }
		if err := d.Update(w); (err == nil) != user || err != nil && !errors.Is(err, ErrFull) {
			t.Fatalf("user write at %d MiB: %v", octets>>20, err)
		}
		if err := d.UpdateSigned(w); (err == nil) != signed || err != nil && !errors.Is(err, ErrFull) {
			t.Fatalf("signed write at %d MiB: %v", octets>>20, err)
		}
		if err := d.UpdateVital(w); (err == nil) != vital || err != nil && !errors.Is(err, ErrFull) {
			t.Fatalf("vital write at %d MiB: %v", octets>>20, err)
		}
	}
	f(3<<30, true, true, true, PressureNone)
	f(2500<<20, false, true, true, PressureUser) // 5 % of 50 GiB = 2560 MiB
	f(300<<20, false, false, true, PressureVital)
	f(200<<20, false, false, false, PressureStop)
	if v, err := get(d, "b", "k"); v != "v" || err != nil {
		t.Fatalf("a full disk must still serve: %q %v", v, err)
	}
	f(3<<30, true, true, true, PressureNone)
}

func TestBounds(t *testing.T) {
	d := fresh(t)
	f := func(bucket, key string, n int, want error) {
		t.Helper()
		err := d.Update(func(tx *Tx) error { return tx.Put(bucket, key, make([]byte, n)) })
		if !errors.Is(err, want) {
			t.Fatalf("put: %v, want %v", err, want)
		}
	}
	f("b", "k", MaxValue, nil)
	f("b", "k", MaxValue+1, ErrTooLarge)
	f("b", "", 1, ErrTooLarge)
	f("", "k", 1, ErrTooLarge)
	f("b", strings.Repeat("k", MaxKey), 1, nil)
	f("b", strings.Repeat("k", MaxKey+1), 1, ErrTooLarge)
	f(strings.Repeat("b", MaxBucket+1), "k", 1, ErrTooLarge)
	err := d.Update(func(tx *Tx) error {
		for i := range 4 {
			if err := tx.Put("b", fmt.Sprint(i), make([]byte, MaxValue)); err != nil {
				return err
			}
		}
		return nil
	})
	if !errors.Is(err, ErrTooLarge) {
		t.Fatalf("4 MiB in one transaction: %v", err)
	}
	if _, err := get(d, "b", "0"); !errors.Is(err, ErrAbsent) {
		t.Fatalf("a refused transaction left a record: %v", err)
	}
	if err := d.View(func(tx *Tx) error { return tx.Put("b", "k", nil) }); err == nil {
		t.Fatal("a view wrote")
	}
}

func TestLock(t *testing.T) {
	d := fresh(t)
	if _, err := Open(config(d.cfg.Dir)); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v, want ErrLocked", err)
	}
}

// TestSweep: badger#2207, an empty memtable file of a killed process stops Open.
func TestSweep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	d := open(t, dir)
	put(t, d, "b", "k", "v")
	d.Close()
	for _, n := range []string{"00077.mem", "000077.vlog"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d = open(t, dir)
	defer d.Close()
	if v, err := get(d, "b", "k"); v != "v" || d.Recovering() {
		t.Fatalf("after sweep: %q %v, recovering %v", v, err, d.Recovering())
	}
}

func TestThreeFailedOpensMoveAside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	d := open(t, dir)
	put(t, d, "b", "k", "v")
	d.Close()
	manifest := filepath.Join(dir, "MANIFEST")
	b, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	b[1] ^= 0xff
	if err := os.WriteFile(manifest, b, 0o600); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	if !d.Recovering() {
		t.Fatal("not recovering")
	}
	if got, err := os.ReadFile(filepath.Join(dir+".bad-1", "MANIFEST")); err != nil || !bytes.Equal(got, b) {
		t.Fatalf("the evidence was not kept: %v", err)
	}
	put(t, d, "b", "k2", "v")
	d.Close()
	d = open(t, dir)
	if !d.Recovering() {
		t.Fatal("a restart forgot that we recover")
	}
	if err := d.Recovered(); err != nil {
		t.Fatal(err)
	}
	d.Close()
	d = open(t, dir)
	defer d.Close()
	if d.Recovering() {
		t.Fatal("recovering for ever")
	}
}

// TestRecoveringAtOnce: several find at the same moment that a peer is ahead. None fails over the other's file, and none sees the flag
// down after it began to raise it.
func TestRecoveringAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	d := open(t, dir)
	for range 50 {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := d.SetRecovering("a peer is ahead"); err != nil || !d.Recovering() {
					t.Errorf("%v, recovering %v", err, d.Recovering())
				}
			})
		}
		wg.Wait()
		if err := d.Recovered(); err != nil {
			t.Fatal(err)
		}
	}
	// Where the file cannot be written, this life recovers all the same.
	if err := os.MkdirAll(filepath.Join(dir+".recovering", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.SetRecovering("a peer is ahead"); err == nil || !d.Recovering() {
		t.Errorf("%v, recovering %v", err, d.Recovering())
	}
	d.Close()
}

// TestEnvironmentMovesNothing: an unwritable directory says nothing about the files in it.
func TestEnvironmentMovesNothing(t *testing.T) {
	f := func(err error, want bool) {
		t.Helper()
		if environmental(err) != want {
			t.Fatalf("environmental(%v) = %v", err, !want)
		}
	}
	f(&os.PathError{Op: "open", Err: errno("ENOSPC")}, true)
	f(&os.PathError{Op: "open", Err: errno("EACCES")}, true)
	f(&os.PathError{Op: "read", Err: errno("EIO")}, false)
	f(ErrDamaged, false)
}

func TestBackupRestore(t *testing.T) {
	d := fresh(t)
	for i := range 300 {
		put(t, d, []string{"a", "b"}[i%2], fmt.Sprintf("%03d", i), strings.Repeat("x", i))
	}
	var buf bytes.Buffer
	if _, err := d.Backup(context.Background(), &buf); err != nil {
		t.Fatal(err)
	}
	c := config(filepath.Join(t.TempDir(), "other"))
	c.Key = bytes.Repeat([]byte{9}, macKeySize) // another agent's key: a backup carries contents, not MACs
	n, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	f := func(name string, b []byte, want error) {
		t.Helper()
		if _, err := n.Restore(context.Background(), bytes.NewReader(b)); !errors.Is(err, want) {
			t.Fatalf("%s: %v, want %v", name, err, want)
		}
	}
	lines := bytes.SplitAfter(buf.Bytes(), []byte("\n"))
	f("cut", bytes.Join(lines[:len(lines)-2], nil), ErrBackup)
	f("line lost", bytes.Join(slices.Delete(slices.Clone(lines), 7, 8), nil), ErrBackup)
	f("value changed", bytes.Replace(buf.Bytes(), []byte("eHh4"), []byte("eHh5"), 1), ErrBackup)
	f("trailer", append(bytes.Clone(buf.Bytes()), lines[5]...), ErrBackup)
	f("empty", nil, ErrBackup)
	f("whole", buf.Bytes(), nil)
	if !n.Recovering() {
		t.Fatal("a restored copy must recover")
	}
	var again bytes.Buffer
	if _, err := n.Backup(context.Background(), &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(buf.String(), again.String()); diff != "" {
		t.Fatalf("restored differs:\n%s", diff)
	}
	if _, err := n.Restore(context.Background(), bytes.NewReader(buf.Bytes())); err == nil {
		t.Fatal("restored over records")
	}
	raw(t, d, rawKey(spaceData, "a", []byte("010")), nil)
	if _, err := d.Backup(context.Background(), &buf); !errors.Is(err, ErrDamaged) {
		t.Fatalf("backup of a bucket that lost a record: %v", err)
	}
}
