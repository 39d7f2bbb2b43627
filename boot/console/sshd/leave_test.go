package sshd

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// deaf is a client's connection that reads nothing any more once shut is closed, until end is.
type deaf struct {
	net.Conn
	shut, end chan struct{}
}

func (d *deaf) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	select {
	case <-d.shut:
		<-d.end
		return 0, io.EOF
	default:
		return n, err
	}
}

// seat runs a server to which one client comes, who is deaf once shut is closed, and asks for a shell.
func seat(t *testing.T, shut chan struct{}, sit func(context.Context, Seat) error) *Server {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, addr := listen(t, Config{Known: func(context.Context, [sha256.Size]byte) error { return nil }, Sit: sit})
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	t.Cleanup(func() {
		close(end)
		_ = raw.Close()
	})
	conn, channels, requests, err := ssh.NewClientConn(&deaf{raw, shut, end}, "", &ssh.ClientConfig{
		User: "m1", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	session, err := ssh.NewClient(conn, channels, requests).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.StdinPipe(); err != nil { // it is not at its end
		t.Fatal(err)
	}
	if _, err := session.StdoutPipe(); err != nil { // nobody reads it: as after ^S at ssh
		t.Fatal(err)
	}
	go func() { _ = session.Shell() }() // the answer may not be heard
	return s
}

// TestRefusedGoes: who was refused, and does not close his end, is not waited for.
func TestRefusedGoes(t *testing.T) {
	shut := make(chan struct{})
	s := seat(t, shut, func(context.Context, Seat) error {
		close(shut)
		return errors.New("you may not")
	})
	counted := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.open + s.all + len(s.in)
	}
	for began := time.Now(); counted() > 0 || !closed(shut); time.Sleep(10 * time.Millisecond) { // the server has no event for it
		if time.Since(began) > 10*goodbye {
			t.Fatalf("still counted: %d", counted())
		}
	}
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestHangs: who opens no window keeps neither seat nor keyboard when he is to go.
func TestHangs(t *testing.T) {
	seats, left := make(chan Seat, 1), make(chan error, 1)
	seat(t, make(chan struct{}), func(_ context.Context, s Seat) error {
		s.Seated()
		seats <- s
		for {
			if _, err := io.WriteString(s.Out, "some output of a machine, some output of a machine\r\n"); err != nil {
				left <- err
				return err
			}
		}
	})
	(<-seats).Hang()
	<-left
}
