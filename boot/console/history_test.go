package console

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func openHistory(t *testing.T, dir string, l Limits, machine string) *History {
	t.Helper()
	s, err := OpenStore(dir, l)
	if err != nil {
		t.Fatal(err)
	}
	h, err := s.History(machine)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestHistoryOverKill: what was shown is on disk at once, in escaped text, and a file that was cut anywhere gives all but its last record.
func TestHistoryOverKill(t *testing.T) {
	dir := t.TempDir()
	h := openHistory(t, dir, DefaultLimits(), "m1")
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	want := ""
	for i := range 20 {
		line := fmt.Sprintf("line %d \x1b]0;evil\a\xff\x00\u202e\r\n", i)
		h.Add(at.Add(time.Duration(i)*time.Second), Output, []byte(line))
		want += line
	}
	raw, err := os.ReadFile(filepath.Join(dir, "m1.log")) // as a killed process leaves it: nothing was closed
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range raw {
		if c != '\n' && (c < ' ' || c > '~') {
			t.Fatalf("%q is in the file", c)
		}
	}
	lines := bytes.SplitAfter(raw, []byte("\n"))
	end := 0
	for _, l := range lines[:19] {
		end += len(l)
	}
	for cut := end; cut < len(raw); cut++ {
		if err := os.WriteFile(filepath.Join(dir, "m2.log"), raw[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		h := openHistory(t, dir, DefaultLimits(), "m2")
		h.Add(at, Mark, []byte("more"))
		got, _ := h.tail(1000)
		if whole := strings.Join(strings.SplitAfter(want, "\n")[:19], "") + "more"; string(got) != whole {
			t.Fatalf("cut at %d: %q", cut, got)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := openHistory(t, dir, DefaultLimits(), "m1").tail(2); string(got) != strings.Join(strings.SplitAfter(want, "\n")[18:], "") {
		t.Fatalf("last two lines: %q", got)
	}
}

// TestHistoryBounds: neither one machine's files nor all of them grow beyond their limits; the oldest goes.
func TestHistoryBounds(t *testing.T) {
	dir, l := t.TempDir(), Limits{File: 4096, Disk: 20000, Memory: 64 << 10}
	s, err := OpenStore(dir, l)
	if err != nil {
		t.Fatal(err)
	}
	for m := range 6 {
		h, err := s.History(fmt.Sprint("m", m))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			h.Add(time.Now(), Output, fmt.Appendf(nil, "%d %s\n", i, strings.Repeat("\x00", 100)))
		}
		if m == 0 { // it is open, and silent from now on
			defer h.Add(time.Now(), Output, []byte("x"))
		} else if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		if got, _ := h.tail(5); !strings.HasPrefix(string(got), "195 ") {
			t.Fatalf("%q", got)
		}
	}
	total := int64(0)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		i, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if total += i.Size(); i.Size() > l.File {
			t.Fatalf("%s has %d octets", e.Name(), i.Size())
		}
	}
	if total > l.Disk || s.memory > l.Memory+5*firstRing {
		t.Fatalf("%d octets on disk, %d in memory", total, s.memory)
	}
	if _, err := os.Stat(filepath.Join(dir, "m0.log")); err != nil {
		t.Fatal("the file of a console that is open is gone: ", err)
	}
	if _, err := s.History("../m1"); err == nil {
		t.Fatal("a name with a slash")
	}
}

// TestHistoryWithoutDisk: a file that cannot be written ends no console.
func TestHistoryWithoutDisk(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "m1.log"), 0o700); err != nil { // no file can be there
		t.Fatal(err)
	}
	h := openHistory(t, dir, DefaultLimits(), "m1")
	h.Add(time.Now(), Output, []byte("a\nb\n"))
	if got, _ := h.tail(1); string(got) != "b\n" || h.Err() == nil {
		t.Fatalf("%q %v", got, h.Err())
	}
}

// TestRing: whatever was appended, the newest octets are there, and a place of before is moved to the oldest.
func TestRing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	room := 3 * firstRing
	r := newRing(func(n int) bool { room -= n; return room >= 0 })
	var all []byte
	at := uint64(0)
	for range 300 {
		p := make([]byte, rnd.IntN(3000))
		for i := range p {
			p[i] = byte(rnd.Int())
		}
		r.append(p)
		all = append(all, p...)
		for rnd.IntN(4) == 0 && at < uint64(len(all)) {
			buf := make([]byte, 1+rnd.IntN(9000))
			n, skipped, err := r.next(t.Context(), at, buf)
			if err != nil {
				t.Fatal(err)
			}
			at += skipped
			if !bytes.Equal(buf[:n], all[at:at+uint64(n)]) {
				t.Fatalf("at %d", at)
			}
			at += uint64(n)
		}
	}
	if b, end := r.all(); len(b) != len(r.buf) || end != uint64(len(all)) || !bytes.Equal(b, all[len(all)-len(b):]) {
		t.Fatalf("%d of %d octets", len(b), len(all))
	}
}

// FuzzRecord: whatever is in a file, a line that is taken is the one that would be written.
func FuzzRecord(f *testing.F) {
	f.Add(Record{time.Unix(0, 0), Output, []byte("login: \x1b[0m\xff")}.Append(nil))
	f.Add([]byte("2026-11-28T12:00:00.000Z # `x`\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := records(bytes.NewReader(b), func(r Record, end int64) {
			line := r.Append(nil)
			if len(line) > maxLine+1 || end > int64(len(b)) || !bytes.HasSuffix(b[:end], line) {
				t.Fatalf("%q", line)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestReadingHoldsNobodyUp: while somebody's long history is read from a disk that takes its time, the machine is heard.
func TestReadingHoldsNobodyUp(t *testing.T) {
	h := openHistory(t, t.TempDir(), DefaultLimits(), "m1")
	if err := unix.Mkfifo(h.path(".old"), 0o600); err != nil { // what lies there comes when it is written
		t.Fatal(err)
	}
	slow, err := os.OpenFile(h.path(".old"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string)
	go func() {
		b, _ := h.tail(1000)
		got <- string(b)
	}()
	if _, err := slow.Write(Record{time.Now(), Output, []byte("older\n")}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	for left := 1; left > 0; { // until it is being read
		if left, err = unix.IoctlGetInt(int(slow.Fd()), unix.TIOCINQ); err != nil {
			t.Fatal(err)
		}
	}
	h.Add(time.Now(), Output, []byte("newer\n"))
	if err := slow.Close(); err != nil {
		t.Fatal(err)
	}
	if b := <-got; b != "older\n" {
		t.Errorf("read %q", b)
	}
	if b, _ := h.tail(1); string(b) != "newer\n" {
		t.Errorf("after it %q", b)
	}
}
