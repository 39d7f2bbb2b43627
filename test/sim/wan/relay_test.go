package wan

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo serves TCP and UDP echo on one loopback port until the test ends.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { io.Copy(c, c); c.Close() })
		}
	})
	wg.Go(func() {
		b := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(b[:n], from)
		}
	})
	t.Cleanup(func() { ln.Close(); pc.Close(); wg.Wait() })
	return ln.Addr().String()
}

func start(t *testing.T) (*Relay, string) {
	t.Helper()
	target := echo(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r := New(Config{TCP: ln, UDP: pc, Target: target, Seed: 7})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return r, ln.Addr().String()
}

func dial(t *testing.T, network, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// roundTrip sends msg and reads as much back within d.
func roundTrip(c net.Conn, msg string, d time.Duration) error {
	c.SetDeadline(time.Now().Add(d))
	if _, err := io.WriteString(c, msg); err != nil {
		return err
	}
	b := make([]byte, len(msg))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != msg {
		return fmt.Errorf("got %q", b)
	}
	return nil
}

const patience = 10 * time.Second

func TestRelayCutAndHeal(t *testing.T) {
	f := func(network string) {
		t.Helper()
		r, addr := start(t)
		c := dial(t, network, addr)
		if err := roundTrip(c, "one", patience); err != nil {
			t.Fatalf("%s: %v", network, err)
		}
		r.Set(Condition{Cut: true})
		if err := roundTrip(c, "two", 100*time.Millisecond); !os.IsTimeout(err) {
			t.Fatalf("%s over a cut link: %v, want a timeout", network, err)
		}
		if got := r.Counters(); got != (Counters{3, 3}) {
			t.Errorf("%s: counters %+v, want 3 and 3", network, got)
		}
		r.Set(Condition{})
		want := "three"
		if network == "tcp" {
			// What was sent during the cut arrives late on a stream.
			b := make([]byte, 3)
			c.SetDeadline(time.Now().Add(patience))
			if _, err := io.ReadFull(c, b); err != nil || string(b) != "two" {
				t.Fatalf("after the cut: %q, %v", b, err)
			}
		}
		if err := roundTrip(c, want, patience); err != nil {
			t.Fatalf("%s after the cut: %v", network, err)
		}
	}
	f("tcp")
	f("udp")
}

func TestRelayDelay(t *testing.T) {
	f := func(network string) {
		t.Helper()
		r, addr := start(t)
		r.Set(Condition{Delay: 60 * time.Millisecond})
		c := dial(t, network, addr)
		at := time.Now()
		if err := roundTrip(c, "x", patience); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(at); d < 120*time.Millisecond {
			t.Errorf("%s round trip took %v, want at least 120 ms", network, d)
		}
	}
	f("tcp")
	f("udp")
}

func TestRelayRate(t *testing.T) {
	r, addr := start(t)
	r.Set(Condition{BytesPerSec: 1 << 20})
	c := dial(t, "tcp", addr)
	msg := string(bytes.Repeat([]byte("x"), 256<<10))
	at := time.Now()
	if err := roundTrip(c, msg, patience); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(at); d < 150*time.Millisecond { // 256 KiB less 64 KiB of burst at 1 MiB/s
		t.Errorf("256 KiB at 1 MiB/s took %v", d)
	}
}

func TestRelayLoss(t *testing.T) {
	r, addr := start(t)
	r.Set(Condition{LossPercent: 100})
	c := dial(t, "udp", addr)
	if err := roundTrip(c, "x", 100*time.Millisecond); !os.IsTimeout(err) {
		t.Fatalf("with 100 %% loss: %v", err)
	}
	r.Set(Condition{LossPercent: 30})
	t.Logf("seed 7")
	lost := 0
	for range 100 {
		c := dial(t, "udp", addr)
		if roundTrip(c, "x", 50*time.Millisecond) != nil {
			lost++
		}
	}
	if lost < 30 || lost > 75 { // 51 expected: each way loses 30 %
		t.Errorf("lost %d of 100 round trips", lost)
	}
}

func TestRelayHalfClose(t *testing.T) {
	_, addr := start(t)
	c := dial(t, "tcp", addr).(*net.TCPConn)
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "bye")
	c.CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
		t.Fatalf("%q, %v", b, err)
	}
}
