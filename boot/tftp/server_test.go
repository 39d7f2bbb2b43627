package tftp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pin/tftp/v3"
	"go.uber.org/goleak"
)

type files map[string][]byte

type file struct{ *bytes.Reader }

func (file) Close() error { return nil }

func (f files) Open(name string) (io.ReadSeekCloser, error) {
	b, ok := f[name]
	if !ok {
		return nil, os.ErrNotExist
	}
	return file{bytes.NewReader(b)}, nil
}

func start(t *testing.T, f Opener) (*Server, string) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Loaders: f, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t)
	})
	return s, conn.LocalAddr().String()
}

func TestRead(t *testing.T) {
	fs := files{"undionly.kpxe": bytes.Repeat([]byte("x"), 74213), "even": make([]byte, 1468*3), "empty": nil}
	_, addr := start(t, fs)
	f := func(name string, block int, want string) {
		t.Helper()
		c, err := tftp.NewClient(addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetBlockSize(block)
		c.RequestTSize(true)
		c.SetTimeout(2 * time.Second)
		w, err := c.Receive(name, "octet")
		if want == "-" {
			if err == nil {
				t.Fatalf("%s was served", name)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if size, ok := w.(tftp.IncomingTransfer).Size(); !ok || size != int64(len(fs[want])) {
			t.Fatalf("tsize %d %v", size, ok)
		}
		var b bytes.Buffer
		if _, err := w.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), fs[want]) {
			t.Fatalf("%s: %d octets, %v", name, b.Len(), err)
		}
	}
	f("undionly.kpxe", 1468, "undionly.kpxe")
	f(`\UNDIONLY.kpxe`, 512, "undionly.kpxe")
	f("52-54-00-00-00-01/undionly.kpxe", 8192, "undionly.kpxe")
	f("even", 1468, "even")
	f("../etc/passwd", 512, "-")
	f("absent", 512, "-")
	c, err := tftp.NewClient(addr)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := c.Send("even", "octet"); err == nil {
		if _, err := r.ReadFrom(strings.NewReader("x")); err == nil {
			t.Fatal("a write was taken")
		}
	}
}

// What is no request is counted, and the next client is served.
func TestMalformedIsCounted(t *testing.T) {
	s, addr := start(t, files{"loader": []byte("x")})
	c, err := net.Dial("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	garbage := []string{"", "\x00", "\x00\x09hello", "\x00\x01no end", "\x00\x03\x00\x01stray data", "\x01\x00\x00\x00"}
	for _, g := range garbage {
		if _, err := c.Write([]byte(g)); err != nil {
			t.Fatal(err)
		}
	}
	client, err := tftp.NewClient(addr)
	if err != nil {
		t.Fatal(err)
	}
	client.SetTimeout(2 * time.Second)
	w, err := client.Receive("loader", "octet") // one socket, so it was read after the garbage
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteTo(io.Discard); err != nil {
		t.Fatal(err)
	}
	if got := s.Counts()["malformed"]; got != uint64(len(garbage)) {
		t.Errorf("%d malformed packets counted, want %d", got, len(garbage))
	}
}

func TestClean(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if got := Clean(in); got != want {
			t.Fatalf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
	f("undionly.kpxe", "undionly.kpxe")
	f("/SNPonly.EFI", "snponly.efi")
	f(`\\snponly.efi`, "snponly.efi")
	f("52:54:00:00:00:01/snponly.efi", "snponly.efi")
	f("52-54-00-AA-00-01/snponly.efi", "snponly.efi")
	f("snponly.efi-00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "snponly.efi")
	f("snponly.efi\xff", "snponly.efi")
	f("a/b", "")
	f("../../etc/passwd", "")
	f("x\x00y", "")
	f(strings.Repeat("x", 300), "")
	f("", "")
}

// TestCaps: tftp_halfopen. Clients that never acknowledge cannot take every place, nor all of one client.
func TestCaps(t *testing.T) {
	s := New(Config{Loaders: files{}, Logger: slog.New(slog.DiscardHandler)})
	one := netip.MustParseAddr("10.0.0.1")
	for range maxPerClient {
		if err := s.admit(one); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.admit(one); !errors.Is(err, ErrBusy) {
		t.Fatalf("one more of the same client: %v", err)
	}
	a := netip.MustParseAddr("10.1.0.0")
	for range maxTransfers - maxPerClient {
		a = a.Next()
		if err := s.admit(a); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.admit(a.Next()); !errors.Is(err, ErrBusy) {
		t.Fatalf("one more of all: %v", err)
	}
	s.leave(one)
	if err := s.admit(one); err != nil {
		t.Fatal(err)
	}
	if n := s.Counts()["busy"]; n != 2 {
		t.Fatalf("%d refusals counted", n)
	}
}

// TestAbort: tftp_abort, pin/tftp#125. A client that says ERROR after the OACK ends its transfer at once and frees its place.
func TestAbort(t *testing.T) {
	s, addr := start(t, files{"f": make([]byte, 100_000)})
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.WriteTo([]byte("\x00\x01f\x00octet\x00tsize\x000\x00"), to); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 600)
	n, from, err := c.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "\x00\x06tsize\x00100000\x00" {
		t.Fatalf("%q %v", buf[:n], err)
	}
	if _, err := c.WriteTo([]byte("\x00\x05\x00\x08no\x00"), from); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(3 * time.Second); ; { // bounded: the server is told by a packet, we only see its counter
		if s.Counts()["failed"] == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still open: %v", s.Counts())
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("/52-54-00-00-00-01/x-00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Fuzz(func(t *testing.T, raw string) {
		if s := Clean(raw); strings.ContainsAny(s, "/\\\x00") {
			t.Fatalf("%q", s)
		}
	})
}

// FuzzServe throws datagrams at a live server, which must go on serving.
func FuzzServe(f *testing.F) {
	f.Add([]byte("\x00\x01f\x00octet\x00blksize\x00-1\x00"))
	f.Add([]byte("\x00\x02f\x00octet\x00"))
	f.Add([]byte("\x00\x01"))
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		f.Fatal(err)
	}
	s := New(Config{Loaders: files{}, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()
	f.Cleanup(func() { cancel(); <-done })
	to := conn.LocalAddr()
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Skip(err)
		}
		defer c.Close()
		if _, err := c.WriteTo(b, to); err != nil {
			return
		}
		if _, err := c.WriteTo([]byte("\x00\x01absent\x00octet\x00"), to); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.ReadFrom(make([]byte, 600)); err != nil {
			t.Fatalf("no answer any more: %v", err)
		}
		if s.Counts()["panic"] > 0 {
			t.Fatal("it panicked")
		}
	})
}
