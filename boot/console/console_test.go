package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
)

// wire is a Line whose other end is the test.
type wire struct {
	out    chan []byte // what the machine says
	lost   chan struct{}
	closed chan struct{}
	stuck  bool // takes nothing

	mu    sync.Mutex // guards what follows
	typed []byte
	once  sync.Once
}

func newWire() *wire {
	return &wire{out: make(chan []byte), lost: make(chan struct{}), closed: make(chan struct{})}
}

func (w *wire) Read(p []byte) (int, error) {
	select {
	case b := <-w.out:
		if b == nil {
			return 0, bmc.ErrSkipped
		}
		return copy(p, b), nil
	case <-w.lost:
		return 0, errors.New("cable\x1b[31m pulled")
	case <-w.closed:
		return 0, net.ErrClosed
	}
}

func (w *wire) Write(p []byte) (int, error) {
	if w.stuck {
		<-w.closed
		return 0, net.ErrClosed
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.typed = append(w.typed, p...)
	return len(p), nil
}

func (w *wire) Break() error {
	_, err := w.Write([]byte("<break>"))
	return err
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

func (w *wire) got() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.typed)
}

// bench is a console with its line.
type bench struct {
	*testing.T
	*Console
	ctx    context.Context
	end    func()
	wire   *wire
	dial   func(context.Context) (Line, error)
	events []string
}

func newBench(t *testing.T) *bench {
	s, err := OpenStore(t.TempDir(), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	h, err := s.History("m1")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, wire: newWire()}
	b.dial = func(context.Context) (Line, error) { return b.wire, nil }
	b.Console = New(Config{
		Machine: "m1", History: h, Log: slog.New(slog.DiscardHandler), Dial: func(ctx context.Context) (Line, error) { return b.dial(ctx) },
		Event: func(kind, message string, f map[string]string) { b.events = append(b.events, kind+": "+message) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = b.Console.Run(ctx); close(done) }()
	b.ctx = ctx
	b.end = func() {
		cancel()
		<-done
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	synctest.Wait()
	return b
}

// seat is one person at the console.
type seat struct {
	b    *bench
	in   *io.PipeWriter
	stop func()
	done chan error

	mu   sync.Mutex // guards what follows
	seen []byte
	deaf chan struct{} // not nil: he reads nothing until it is closed
	did  []string
}

func (s *seat) Write(p []byte) (int, error) {
	s.mu.Lock()
	deaf := s.deaf
	s.mu.Unlock()
	if deaf != nil {
		<-deaf
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, p...)
	return len(p), nil
}

func (b *bench) sit(who string, a Attachment) *seat {
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(b.ctx)
	s := &seat{b: b, in: w, done: make(chan error, 1), stop: cancel}
	a.Who, a.In, a.Out, a.Unblock = who, r, s, func() { r.CloseWithError(context.Canceled) }
	slow := a.Note
	a.Note = func(what string) error {
		if slow != nil {
			_ = slow(what) // its own matter
		}
		s.did = append(s.did, what)
		return nil
	}
	go func() { s.done <- b.Attach(ctx, a) }()
	synctest.Wait()
	return s
}

func (s *seat) types(text string) {
	s.b.Helper()
	if _, err := io.WriteString(s.in, text); err != nil {
		s.b.Fatal(err)
	}
	synctest.Wait()
}

// reads fails unless what he saw since the last call contains want, in that order.
func (s *seat) reads(want ...string) {
	s.b.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := string(s.seen)
	s.seen = nil
	for _, w := range want {
		_, after, ok := strings.Cut(rest, w)
		if !ok {
			s.b.Fatalf("he sees %q, want %q", rest, w)
		}
		rest = after
	}
}

func (b *bench) says(text string) {
	b.wire.out <- []byte(text)
	synctest.Wait()
}

// TestTakenWhileRecorded: nobody loses the keyboard without a record. Who takes it while nobody has it is told if another one was faster than
// his record.
func TestTakenWhileRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		ana := b.sit("ana", Attachment{})
		recorded := make(chan struct{})
		bob := b.sit("bob", Attachment{Note: func(what string) error {
			if what == "write" {
				<-recorded // the disk takes its time
			}
			return nil
		}})
		ana.types("\x1dr")
		bob.types("\x1dt")
		ana.types("x")
		bob.reads("ana writes")
		close(recorded)
		bob.reads("ana was faster")
		ana.types("y")
		if got := b.wire.got(); got != "xy" {
			t.Errorf("the machine got %q", got)
		}
		for _, s := range []*seat{ana, bob} {
			s.stop()
			<-s.done
		}
		if want := []string{"open", "write", "leave"}; !slices.Equal(bob.did, want) {
			t.Error(bob.did)
		}
	})
}

// TestManyReadersOneWriter: all see the same; one types; the next is told who, takes over by key, and the first is told.
func TestManyReadersOneWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.says("boot\r\nlogin: ")
		ana := b.sit("ana", Attachment{Lines: 10})
		ana.reads("boot\r\nlogin: ", help, "you write")
		bob := b.sit("bob", Attachment{Lines: 0})
		bob.reads(help, "ana writes since", "Ctrl-] t takes")
		ana.types("root\r")
		bob.types("x")
		b.says("root\r\n")
		if b.wire.got() != "root\r" {
			t.Fatalf("the machine got %q", b.wire.got())
		}
		ana.reads("root\r\n")
		bob.reads("not sent: ana writes", "root\r\n")
		bob.types("\x1dt")
		bob.reads("you write")
		ana.reads("bob has taken the keyboard over")
		bob.types("a\x1db\x1d\x1db")
		ana.types("lost")
		if got := b.wire.got(); got != "root\ra<break>\x1db" {
			t.Fatalf("the machine got %q", got)
		}
		bob.types("\x1d.")
		if err := <-bob.done; err != nil {
			t.Fatal(err)
		}
		ana.reads("not sent: bob writes")
		ana.types("y") // nobody writes: it is his again
		if got := b.wire.got(); !strings.HasSuffix(got, "by") {
			t.Fatalf("the machine got %q", got)
		}
		ana.stop()
		if err := <-ana.done; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if want := []string{"open", "take", "leave"}; !slices.Equal(bob.did, want) {
			t.Fatal(bob.did)
		}
		if want := []string{"open", "write", "leave"}; !slices.Equal(ana.did, want) {
			t.Fatal(ana.did)
		}
	})
}

// TestSlowReader: who reads nothing holds neither the line nor the others, and is told what he missed.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		slow, quick := b.sit("slow", Attachment{}), b.sit("quick", Attachment{})
		slow.reads()
		quick.reads()
		slow.mu.Lock()
		slow.deaf = make(chan struct{})
		slow.mu.Unlock()
		const n = 600
		for i := range n {
			b.says(fmt.Sprintf("%05d ", i) + strings.Repeat("x", 4000))
		}
		quick.reads("00000 ", fmt.Sprintf("%05d ", n-1))
		slow.mu.Lock()
		close(slow.deaf)
		slow.deaf = nil
		slow.mu.Unlock()
		slow.reads("00000 ", "octets were not shown", fmt.Sprintf("%05d ", n-1))
		slow.stop()
		quick.stop()
		<-slow.done
		<-quick.done
	})
}

// TestStuckLine: a line that takes nothing holds its writer alone; others read, and who takes over can leave.
func TestStuckLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.wire.stuck = true
		ana, bob := b.sit("ana", Attachment{}), b.sit("bob", Attachment{})
		ana.types("stuck")
		b.says("alive")
		bob.reads("alive")
		ana.reads("alive")
		bob.types("\x1dt\x1d.")
		if err := <-bob.done; err != nil {
			t.Fatal(err)
		}
		b.end()
		<-ana.done
	})
}

// TestGap: a line that is lost is dialled again, later and later; who reads sees why, and the site's journal gets one event a minute.
func TestGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		ana := b.sit("ana", Attachment{})
		b.says("before")
		b.wire.out <- nil
		ana.reads("before", bmc.ErrSkipped.Error())
		old := b.wire
		var dials atomic.Int32
		b.dial = func(context.Context) (Line, error) {
			if dials.Add(1) < 4 {
				return nil, errors.New("controller\r\nbusy")
			}
			b.wire = newWire()
			return b.wire, nil
		}
		close(old.lost)
		synctest.Wait()
		ana.types("x")
		ana.reads("the line is lost: cable?[31m pulled", "not sent: there is no line")
		time.Sleep(30 * time.Second) // in the bubble: its clock
		synctest.Wait()
		b.says("after")
		ana.reads("gap of", "is lost", "after")
		if dials.Load() != 4 || len(b.events) != 2 || !strings.HasPrefix(b.events[0], "console.gap: the console is held from now on") ||
			!strings.HasPrefix(b.events[1], "console.gap: nobody listened to the console for") {
			t.Fatalf("%d dials, events %q", dials.Load(), b.events)
		}
		close(b.wire.lost)
		for dials.Load() == 4 {
			time.Sleep(time.Second)
			synctest.Wait()
		}
		ana.reads("the line is lost", "gap of")
		if len(b.events) != 2 {
			t.Fatalf("events %q", b.events)
		}
		ana.stop()
		<-ana.done
	})
}

// TestSittingDownDials: a controller that was away for hours is asked rarely; who sits down does not wait for that.
func TestSittingDownDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		var away atomic.Bool
		away.Store(true)
		b.dial = func(context.Context) (Line, error) {
			if away.Load() {
				return nil, errors.New("no answer")
			}
			b.wire = newWire()
			return b.wire, nil
		}
		close(b.wire.lost)
		time.Sleep(5 * time.Hour)
		away.Store(false)
		ana := b.sit("ana", Attachment{})
		began := time.Now()
		for b.Status() != "connected" {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took > 2*firstRest {
			t.Errorf("he waited for %v", took)
		}
		ana.stop()
		<-ana.done
	})
}

// TestFull: a console has room for 16 people; what is not on record does not happen.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		var all []*seat
		for i := range maxPeople {
			all = append(all, b.sit(fmt.Sprint("p", i), Attachment{}))
		}
		if err := b.Attach(b.ctx, Attachment{Who: "one more", Out: io.Discard}); !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		for _, s := range all {
			s.stop()
			<-s.done
		}
		full := errors.New("disk is full")
		var out bytes.Buffer
		if err := b.Attach(b.ctx, Attachment{Who: "ana", Out: &out, Lines: 5, Once: true, Note: func(string) error { return full }}); !errors.Is(err, full) || out.Len() > 0 {
			t.Fatal(err, out.String())
		}
	})
}

func TestKeys(t *testing.T) {
	f := func(typed, want string) {
		t.Helper()
		for size := 1; size <= len(typed); size++ { // wherever the network parts it
			var k keys
			var got strings.Builder
			for p := []byte(typed); len(p) > 0; p = p[min(size, len(p)):] {
				err := k.feed(p[:min(size, len(p))], func(b []byte) error { got.Write(b); return nil }, func(a key) error { fmt.Fprintf(&got, "<%c>", a); return nil })
				if err != nil {
					t.Fatal(err)
				}
			}
			if got.String() != want {
				t.Fatalf("%q in pieces of %d: %q, want %q", typed, size, got.String(), want)
			}
		}
	}
	f("ls\r", "ls\r")
	f("a\x1d.b", "a<.>b")
	f("\x1d\x1d", "\x1d")
	f("a\x1d\x1d\x1dtb", "a\x1d<t>b")
	f("x\x1d", "x")
}
