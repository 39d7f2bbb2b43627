package memnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pipe is a stream from a to b, both ends.
func pipe(t *testing.T, a, b *Host, port string) (from, to net.Conn) {
	t.Helper()
	ln, err := b.Listen("tcp", b.ip.String()+":"+port)
	if err != nil {
		t.Fatal(err)
	}
	from, err = a.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if to, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return from, to
}

// TestStreams: what is written arrives, a cut holds it up and loses nothing, the end comes after the rest, and deadlines hold.
func TestStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := n.Host("10.0.0.1"), n.Host("10.0.0.2")
		from, to := pipe(t, a, b, "80")
		big := strings.Repeat("x", 2*window)
		read := make(chan string)
		n.Cut("10.0.0.1", "10.0.0.2", true)
		go func() {
			got, err := io.ReadAll(to)
			if err != nil {
				t.Error(err)
			}
			read <- string(got)
		}()
		go func() {
			if _, err := from.Write([]byte(big)); err != nil {
				t.Error(err)
			}
			from.Close()
		}()
		select {
		case <-read:
			t.Fatal("a cut let something through")
		case <-time.After(time.Hour):
		}
		n.Cut("10.0.0.1", "10.0.0.2", false)
		if got := <-read; got != big {
			t.Errorf("%d octets of %d arrived", len(got), len(big))
		}
		from, to = pipe(t, a, b, "81")
		if err := to.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		if _, err := to.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(at) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(at))
		}
		from.Close()
	})
}

// TestUnplug: who spoke with a host that is gone hears nothing until it listens again; a dial to it waits.
func TestUnplug(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := n.Host("10.0.0.1"), n.Host("10.0.0.2")
		from, _ := pipe(t, a, b, "80")
		b.Unplug()
		ended := make(chan error, 1)
		go func() {
			_, err := from.Read(make([]byte, 1))
			ended <- err
		}()
		select {
		case err := <-ended:
			t.Fatalf("the peer of a dead host was told: %v", err)
		case <-time.After(time.Hour):
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := a.DialContext(ctx, "tcp", "10.0.0.2:80"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial to a dead host: %v", err)
		}
		if _, err := b.Listen("tcp", "10.0.0.2:80"); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after it is back: %v", err)
		}
		if _, err := a.DialContext(t.Context(), "tcp", "10.0.0.2:81"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial to a closed port: %v", err)
		}
	})
}

// TestPackets: they take a moment, and a cut loses them.
func TestPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := n.Host("10.0.0.1"), n.Host("10.0.0.2")
		from, err := a.ListenPacket("udp", "10.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		to, err := b.ListenPacket("udp", "10.0.0.2:53")
		if err != nil {
			t.Fatal(err)
		}
		send := func(text string) {
			t.Helper()
			if _, err := from.WriteTo([]byte(text), to.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		n.Cut("10.0.0.2", "10.0.0.1", true)
		send("lost")
		time.Sleep(time.Second)
		n.Cut("10.0.0.2", "10.0.0.1", false)
		send("arrives")
		buf, at := make([]byte, 100), time.Now()
		k, peer, err := to.ReadFrom(buf)
		if err != nil || string(buf[:k]) != "arrives" || peer.String() != from.LocalAddr().String() || time.Since(at) != latency {
			t.Errorf("%q from %v after %v, %v", buf[:k], peer, time.Since(at), err)
		}
		b.Unplug()
		if _, _, err := to.ReadFrom(buf); !errors.Is(err, net.ErrClosed) {
			t.Errorf("of an unplugged host: %v", err)
		}
	})
}
