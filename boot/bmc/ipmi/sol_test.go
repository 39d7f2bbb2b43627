package ipmi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
)

// TestPeerConsole: the serial line of Debian's ipmi_sim, both ways, taken from somebody who holds it, and freed for ipmitool.
func TestPeerConsole(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := startPeer(t, ln.Addr().String())
	port, err := ln.Accept() // ipmi_sim dials the machine's serial port
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	open := func() bmc.Line {
		t.Helper()
		c := p.driver("test")
		c.pace.keep = 2 * time.Second
		l, err := c.Console(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := open()
	gone := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, first)
		gone <- err
	}()
	l := open() // takes it
	if err := <-gone; err == nil || !strings.Contains(err.Error(), "somebody has taken it") {
		t.Fatalf("the first line ended with %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	said := bytes.Repeat([]byte("0123456789abcdef\r\n\x1b[2J\xff\x00"), 1000)
	go func() { port.Write(said) }()
	got := make([]byte, len(said))
	if _, err := io.ReadFull(l, got); err != nil || !bytes.Equal(got, said) {
		t.Fatalf("%v, %d octets differ", err, len(said))
	}
	over := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, l) // acknowledgements come through Read
		over <- err
	}()
	typed := bytes.Repeat([]byte("reboot\r"), 100)
	if n, err := l.Write(typed); err != nil || n != len(typed) {
		t.Fatal(n, err)
	}
	got = make([]byte, len(typed))
	if _, err := io.ReadFull(port, got); err != nil || !bytes.Equal(got, typed) {
		t.Fatalf("%q %v", got, err)
	}
	if err := l.Break(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-over; !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	ask := p.driver("test")
	if b, err := ask.read(ctx, cmdInstance, instance(0)[:2]...); err != nil || holderOf(b) != 0 {
		t.Fatalf("who has the line: %x %v", b, err)
	}
	if err := ask.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestReceiver: packets come again, longer than before, and out of order.
func TestReceiver(t *testing.T) {
	f := func(packets, want string) {
		t.Helper()
		var r receiver
		got := ""
		for _, p := range strings.Fields(packets) {
			b, skipped := r.take(sol{seq: p[0] - 'a' + 1, data: []byte(p[1:])})
			if skipped {
				got += "|"
			}
			got += string(b)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", packets, got, want)
		}
	}
	f("a12 b34 c56", "123456")
	f("m12 n3 o4 a5", "12345") // 15 is followed by 1
	f("a12 a12 b3", "123")
	f("a12 a1234 a12 b5", "12345") // sent again with what came meanwhile
	f("a12 c3", "12|3")
	f("c1 c1 a2 b3", "1|23")
}

// FuzzSOL: no packet, and no order of packets, breaks the receiver.
func FuzzSOL(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 'a'}, []byte{1, 1, 1, 0x50, 'a', 'b'})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var r receiver
		for _, in := range [][]byte{a, b, a} {
			p, err := parseSOL(in)
			if err != nil || p.seq == 0 {
				continue
			}
			if out, _ := r.take(p); len(out) > len(in)-solHeader || p.seq > solSequence || r.n > 255 {
				t.Fatalf("%x: %x", in, out)
			}
		}
	})
}

// hostile relays datagrams to addr, and loses, doubles and spoils some in both directions.
func hostile(t *testing.T, addr string) string {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	front, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var backs []net.Conn
	pass := func(rnd *rand.Rand, b []byte, send func([]byte)) {
		switch n := rnd.IntN(20); {
		case n == 0: // lost
		case n == 1:
			send(b)
			send(b)
		case n == 2:
			bad := bytes.Clone(b)
			bad[rnd.IntN(len(bad))] ^= 1 << rnd.IntN(8)
			send(bad)
			send(b)
		default:
			send(b)
		}
	}
	wg.Go(func() {
		rnd, to := rand.New(rand.NewPCG(seed, 1)), map[string]net.Conn{}
		buf := make([]byte, 2048)
		for {
			n, from, err := front.ReadFrom(buf)
			if err != nil {
				break
			}
			if to[from.String()] == nil {
				back, err := net.Dial("udp", addr)
				if err != nil {
					break
				}
				to[from.String()], backs = back, append(backs, back)
				wg.Go(func() {
					rnd, buf := rand.New(rand.NewPCG(seed, 2)), make([]byte, 2048)
					for {
						n, err := back.Read(buf)
						if err != nil {
							return
						}
						pass(rnd, buf[:n], func(b []byte) { front.WriteTo(b, from) })
					}
				})
			}
			pass(rnd, buf[:n], func(b []byte) { to[from.String()].Write(b) })
		}
		for _, b := range backs {
			b.Close()
		}
	})
	t.Cleanup(func() { front.Close(); wg.Wait() })
	return front.LocalAddr().String()
}

// TestPeerConsoleLossy: a network that loses, doubles and spoils packets costs time, and no octet either way.
func TestPeerConsoleLossy(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := startPeer(t, ln.Addr().String())
	port, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := New(Config{Address: hostile(t, "127.0.0.1:"+p.port), User: "admin", Password: "test", Logger: slog.New(slog.DiscardHandler), RatePerSec: 200})
	if err != nil {
		t.Fatal(err)
	}
	c.pace.answer = 200 * time.Millisecond
	l, err := c.Console(ctx)
	for try := 0; err != nil && try < 5; try++ { // each step of a login is asked five times: on a busy machine that may be too few
		l, err = c.Console(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	said := bytes.Repeat([]byte("0123456789abcdef\r\n"), 100)
	go func() { port.Write(said) }()
	heard := make(chan []byte, 1)
	go func() {
		got := make([]byte, 0, 2*len(said))
		for {
			b := make([]byte, 255)
			n, err := l.Read(b)
			if got = append(got, b[:n]...); err != nil {
				heard <- got
				return
			}
			if len(got) == len(said) {
				heard <- got
				got = nil
			}
		}
	}()
	typed := bytes.Repeat([]byte("reboot\r"), 20)
	for i := range 20 { // packets
		if _, err := l.Write(typed[7*i : 7*i+7]); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, len(typed))
	if _, err := io.ReadFull(port, got); err != nil || !bytes.Equal(got, typed) {
		t.Fatalf("%q %v", got, err)
	}
	if got := <-heard; !bytes.Equal(got, said) {
		t.Fatalf("%d octets of %d: %q", len(got), len(said), got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestConsoleWaitsBehind: what controls the machine goes before the opening of its serial line, also when it comes later.
func TestConsoleWaitsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		order := make(chan string, 2)
		c, err := New(Config{Address: "127.0.0.1:1", User: "admin", Password: "secret", Logger: slog.New(slog.DiscardHandler), Dial: func(context.Context, string, string) (net.Conn, error) {
			order <- "console"
			return nil, errors.New("nobody is here")
		}})
		if err != nil {
			t.Fatal(err)
		}
		take := func() func() {
			done, err := c.turns.Take(t.Context())
			if err != nil {
				t.Error(err)
			}
			return done
		}
		first := take()
		go func() { _, _ = c.Console(t.Context()) }()
		synctest.Wait()
		go func() {
			done := take()
			order <- "power"
			done()
		}()
		synctest.Wait()
		first()
		if x, y := <-order, <-order; x != "power" || y != "console" {
			t.Errorf("%s, then %s", x, y)
		}
	})
}
