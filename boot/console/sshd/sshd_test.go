package sshd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// door starts a server that knows one key and shows one line.
func door(t *testing.T) (addr string, key ed25519.PrivateKey) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	known, err := spkiOf(signer.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	_, addr = listen(t, Config{
		Known: func(_ context.Context, spki [sha256.Size]byte) error {
			if spki != known {
				return errors.New("nobody's key")
			}
			return nil
		},
		Sit: func(_ context.Context, s Seat) error {
			s.Seated()
			if _, err := io.WriteString(s.Out, "console of "+s.Machine+"\r\n"); err != nil {
				return err
			}
			_, err := io.Copy(s.Out, s.In)
			return err
		},
	})
	return addr, key
}

// listen runs a server until the test ends; key and log of cfg are set here.
func listen(t *testing.T, cfg Config) (s *Server, addr string) {
	t.Helper()
	cfg.Key, cfg.Log = HostKey([]byte("secret")), slog.New(slog.DiscardHandler)
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, l.Addr().String()
}

func login(addr string, key ed25519.PrivateKey) (*ssh.Client, error) {
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, err
	}
	return ssh.Dial("tcp", addr, &ssh.ClientConfig{User: "m1", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: func(_ string, _ net.Addr, k ssh.PublicKey) error {
		if ssh.FingerprintSHA256(k) != Fingerprint(HostKey([]byte("secret"))) {
			return errors.New("another host")
		}
		return nil
	}})
}

// TestFlood: who opens connections and does not log in takes no more than his share, and what is no SSH ends itself alone.
func TestFlood(t *testing.T) {
	addr, key := door(t)
	var idle []net.Conn
	for range ofSource {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil { // the server's version: it is in the handshake
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	if c, err := login(addr, key); err == nil {
		c.Close()
		t.Fatal("one more of the same source was let in")
	}
	for i, c := range idle { // junk, a packet that is too long, and one that ends early
		junk := bytes.Repeat([]byte{0xff}, 1<<16)
		switch i % 3 {
		case 1:
			junk = append([]byte("SSH-2.0-x\r\n\x7f\xff\xff\xff"), junk...)
		case 2:
			junk = []byte("SSH-2.0-x\r\n\x00\x00\x00\x0c\x0a")
		}
		if _, err := c.Write(junk); err != nil && i%3 == 2 {
			t.Fatal(err)
		}
		if i%3 == 2 {
			c.Close()
			continue
		}
		_, _ = io.Copy(io.Discard, c) // until the server has closed it
	}
	var c *ssh.Client
	err := errors.New("not tried")
	for range 1000 { // the server counts down after it has closed
		if c, err = login(addr, key); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
}

// TestOneShell: a connection is one session with a shell; a second one, and other channels, are refused, and the first goes on.
func TestOneShell(t *testing.T) {
	addr, key := door(t)
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := login(addr, other); err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
		t.Fatal(err)
	}
	c, err := login(addr, key)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, err1 := s.StdinPipe()
	out, err2 := s.StdoutPipe()
	if err := errors.Join(err1, err2, s.RequestPty("xterm", 24, 80, nil)); err != nil {
		t.Fatal(err)
	}
	if s.Setenv("A", "b") == nil {
		t.Fatal("an environment was taken")
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"session", "direct-tcpip", "direct-streamlocal@openssh.com", "x11"} {
		if _, _, err := c.OpenChannel(kind, nil); err == nil {
			t.Fatalf("a channel of kind %s was opened", kind)
		}
	}
	if ok, _, err := c.SendRequest("tcpip-forward", true, nil); ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := io.WriteString(in, "typed"); err != nil {
		t.Fatal(err)
	}
	want := "console of m1\r\ntyped"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(out, got); err != nil || string(got) != want {
		t.Fatalf("%q %v", got, err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestConnectionsOfAKey: who is somebody leaves room to others, from however many hosts he comes.
func TestConnectionsOfAKey(t *testing.T) {
	addr, key := door(t)
	for range ofKey {
		c, err := login(addr, key)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.NewSession(); err != nil {
			t.Fatal(err)
		}
	}
	c, err := login(addr, key)
	if err != nil {
		return
	}
	defer c.Close()
	if _, err := c.NewSession(); err == nil {
		t.Error("one more was let in")
	}
}
