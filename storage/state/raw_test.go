package state

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func openRaw(t testing.TB, dir string) *Raw {
	t.Helper()
	r, err := OpenRaw(Config{Dir: dir, Logger: slog.New(slog.DiscardHandler), Statfs: plenty})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func plenty(string) (uint64, uint64, error) { return 100 << 30, 200 << 30, nil }

func scan(t *testing.T, r *Raw, prefix, from string) (keys []string) {
	t.Helper()
	err := r.Scan([]byte(prefix), []byte(from), func(k, v []byte) error {
		keys = append(keys, string(k)+"="+string(v))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func pairs(kv ...string) (out []Pair) {
	for i := 0; i < len(kv); i += 2 {
		p := Pair{Key: []byte(kv[i])}
		if kv[i+1] != "-" {
			p.Value = []byte(kv[i+1])
		}
		out = append(out, p)
	}
	return out
}

func TestRaw(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "telemetry")
	r := openRaw(t, dir)
	if r.Rebuilt() {
		t.Fatal("a new directory was rebuilt")
	}
	if err := r.Write(pairs("a1", "x", "a2", "y", "b1", "z", "a3", "")); err != nil {
		t.Fatal(err)
	}
	if err := r.Write(pairs("a1", "-", "a2", "w", "absent", "-")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRaw(Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)}); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
	for range 2 { // the second time after it was opened again
		if v, err := r.Get([]byte("a2")); err != nil || string(v) != "w" {
			t.Fatalf("a2 = %q, %v", v, err)
		}
		if v, err := r.Get([]byte("a3")); err != nil || len(v) != 0 {
			t.Fatalf("a3 = %q, %v: an empty value is no deletion", v, err)
		}
		if _, err := r.Get([]byte("a1")); !errors.Is(err, ErrAbsent) {
			t.Fatalf("a1: %v", err)
		}
		if got := scan(t, r, "a", ""); !slices.Equal(got, []string{"a2=w", "a3="}) {
			t.Fatalf("scan of a: %q", got)
		}
		if got := scan(t, r, "", "a3"); !slices.Equal(got, []string{"a3=", "b1=z"}) {
			t.Fatalf("scan from a3: %q", got)
		}
		if got := scan(t, r, "b", "a9"); !slices.Equal(got, []string{"b1=z"}) {
			t.Fatalf("scan from below the prefix: %q", got)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		r = openRaw(t, dir)
	}
	defer r.Close()
	n := 0
	if err := r.Scan(nil, nil, func(_, _ []byte) error { n++; return ErrStop }); err != nil || n != 1 {
		t.Fatalf("stopped after %d: %v", n, err)
	}
	if err := r.Scan(nil, nil, func(_, _ []byte) error { return errors.ErrUnsupported }); !errors.Is(err, errors.ErrUnsupported) {
		t.Fatalf("fn's error: %v", err)
	}
}

func TestRawTooLarge(t *testing.T) {
	r := openRaw(t, filepath.Join(t.TempDir(), "telemetry"))
	defer r.Close()
	f := func(b []Pair) {
		t.Helper()
		if err := r.Write(b); !errors.Is(err, ErrTooLarge) {
			t.Fatalf("want ErrTooLarge, have %v", err)
		}
	}
	f(pairs("", "x"))
	f(pairs(strings.Repeat("k", MaxKey+1), "x"))
	f(pairs("k", strings.Repeat("v", MaxRaw+1)))
	var many []Pair
	for i := range 40 {
		many = append(many, Pair{fmt.Append(nil, i), make([]byte, 40<<10)})
	}
	f(many)
	if got := scan(t, r, "", ""); got != nil {
		t.Fatalf("of refused writes %d keys are there", len(got))
	}
	if err := r.Write(many[:25]); err != nil { // 1.0 MB: the largest tick of telemetry has 0.8
		t.Fatal(err)
	}
}

func TestRawFullDisk(t *testing.T) {
	free := uint64(100 << 30)
	r, err := OpenRaw(Config{
		Dir: filepath.Join(t.TempDir(), "telemetry"), Logger: slog.New(slog.DiscardHandler),
		Statfs: func(string) (uint64, uint64, error) { return free, 200 << 30, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Write(pairs("a", "1")); err != nil {
		t.Fatal(err)
	}
	free = 1 << 30
	r.at = time.Time{}
	if err := r.Write(pairs("a", "2")); !errors.Is(err, ErrFull) {
		t.Fatalf("write to a full disk: %v", err)
	}
	if v, err := r.Get([]byte("a")); err != nil || string(v) != "1" {
		t.Fatalf("read on a full disk: %q, %v", v, err)
	}
}

// TestRawBeginsAgain: what does not open is kept once, and so is what ends its process thrice; a swept directory opens.
func TestRawBeginsAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "telemetry")
	f := func(what string, hurt func() error, rebuilt bool) {
		t.Helper()
		r := openRaw(t, dir)
		if err := r.Write(pairs("k", what)); err != nil {
			t.Fatal(err)
		}
		r.Close()
		if err := hurt(); err != nil {
			t.Fatal(err)
		}
		r = openRaw(t, dir)
		defer r.Close()
		_, err := r.Get([]byte("k"))
		if r.Rebuilt() != rebuilt || errors.Is(err, ErrAbsent) != rebuilt {
			t.Fatalf("%s: rebuilt %v, key: %v", what, r.Rebuilt(), err)
		}
	}
	touch := func(name, text string) func() error {
		return func() error { return os.WriteFile(name, []byte(text), 0o600) }
	}
	flip := func() error {
		p := filepath.Join(dir, "MANIFEST")
		b, err := os.ReadFile(p)
		if err == nil {
			b[1] ^= 0xff
			err = os.WriteFile(p, b, 0o600)
		}
		return err
	}
	f("empty memtable", touch(filepath.Join(dir, "00009.mem"), ""), false)
	f("two deaths", touch(dir+".attempts", "2"), false)
	f("three deaths", touch(dir+".attempts", "3"), true)
	f("manifest", flip, true)
	f("manifest again", flip, true)
	got, err := filepath.Glob(dir + ".bad*")
	if err != nil || !slices.Equal(got, []string{dir + ".bad"}) {
		t.Fatalf("kept %q", got)
	}
}

// TestRawKilled kills a process that writes batches, again and again: what it acknowledged is there, and no batch in part.
func TestRawKilled(t *testing.T) {
	if dir := os.Getenv("SKERRY_RAW_CHILD"); dir != "" {
		writeBatches(t, dir)
		return
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir := filepath.Join(t.TempDir(), "telemetry")
	var last uint64
	for range 8 {
		c := exec.Command(os.Args[0], "-test.run=^TestRawKilled$", "-test.v")
		c.Env = append(os.Environ(), "SKERRY_RAW_CHILD="+dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		left, acked := 1+rnd.IntN(60), last
		for sc := bufio.NewScanner(out); left > 0 && sc.Scan(); {
			if _, err := fmt.Sscanf(sc.Text(), "ack %d", &acked); err == nil {
				left--
			}
		}
		c.Process.Kill()
		c.Wait()
		if left > 0 {
			t.Fatal("the child ended by itself")
		}
		r := openRaw(t, dir)
		if r.Rebuilt() {
			t.Fatal("a kill cost the directory")
		}
		n := batchOf(t, r)
		if n < acked {
			t.Fatalf("batch %d was acknowledged, %d is there", acked, n)
		}
		last = n
		r.Close()
	}
}

// batchOf reads the number of the last batch, which all keys must hold.
func batchOf(t *testing.T, r *Raw) uint64 {
	seen := map[uint64]int{}
	err := r.Scan(nil, nil, func(_, v []byte) error { seen[binary.BigEndian.Uint64(v)]++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	nn := slices.Collect(maps.Keys(seen))
	if len(nn) != 1 || seen[nn[0]] != 20 {
		t.Fatalf("batches in part: %v", seen)
	}
	return nn[0]
}

func writeBatches(t *testing.T, dir string) {
	r := openRaw(t, dir)
	var n uint64
	if v, err := r.Get([]byte("k00")); err == nil {
		n = binary.BigEndian.Uint64(v)
	}
	for n++; ; n++ {
		var batch []Pair
		for i := range 20 {
			v := binary.BigEndian.AppendUint64(nil, n)
			batch = append(batch, Pair{fmt.Appendf(nil, "k%02d", i), append(v, bytes.Repeat([]byte{byte(n)}, int(n)%2000)...)})
		}
		if err := r.Write(batch); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("ack %d\n", n)
	}
}
