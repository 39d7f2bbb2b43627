package sshd

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	handshake   = 20 * time.Second // for it, and then for the shell
	entering    = 64               // connections that have not logged in
	ofSource    = 16               // of them
	connections = 128
	ofKey       = 8 // connections that logged in by one key
	tries       = 6 // keys that a client may offer
	writeLimit  = time.Minute
	goodbye     = 2 * time.Second // for a client to close its end
)

// Config of one Server.
type Config struct {
	Key ed25519.PrivateKey // of this host
	// Known returns nil if the key is somebody's. spki is the SHA-256 of its SubjectPublicKeyInfo. It is asked before the client has proven
	// that it holds the key, and changes nothing.
	Known func(ctx context.Context, spki [sha256.Size]byte) error
	// Sit shows machine's console until the client leaves or ctx ends. Its error is told to the client.
	Sit func(ctx context.Context, s Seat) error
	Log *slog.Logger
}

// Seat is a client with a shell.
type Seat struct {
	Machine string // any text: what the client gave as its user
	SPKI    [sha256.Size]byte
	From    string
	In      io.Reader
	Out     io.Writer // a Write that waits for longer than a minute ends the connection
	Unblock func()    // ends a Read of In
	Seated  func()    // to be called once it is known that he may: until then he has little time, and counts against his source
	Hang    func()    // ends the connection
}

// Server is the door. New makes it.
type Server struct {
	cfg  Config
	conf *ssh.ServerConfig
	wg   sync.WaitGroup

	mu   sync.Mutex // guards what follows
	in   map[netip.Addr]int
	by   map[string]int // of a key, by spkiExtension
	all  int
	open int
}

// HostKey derives the key of a host from a secret that it keeps.
func HostKey(secret []byte) ed25519.PrivateKey {
	seed, err := hkdf.Key(sha256.New, secret, nil, "skerry/ssh-host/v1", ed25519.SeedSize)
	if err != nil {
		panic("sshd: cannot derive 32 octets: " + err.Error()) // only lengths can be wrong
	}
	return ed25519.NewKeyFromSeed(seed)
}

// Fingerprint is what ssh shows of a host key: SHA256:base64.
func Fingerprint(key ed25519.PrivateKey) string {
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return "" // an Ed25519 key is always one
	}
	return ssh.FingerprintSHA256(pub)
}

const spkiExtension = "spki"

// New checks the key.
func New(cfg Config) (*Server, error) {
	signer, err := ssh.NewSignerFromKey(cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("cannot use SSH host key: %w", err)
	}
	s := &Server{cfg: cfg, in: map[netip.Addr]int{}, by: map[string]int{}}
	s.conf = &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-Skerry", MaxAuthTries: tries, PublicKeyAuthAlgorithms: []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256},
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			spki, err := spkiOf(key)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(context.Background(), handshake)
			defer cancel()
			if err := cfg.Known(ctx, spki); err != nil {
				return nil, err
			}
			return &ssh.Permissions{Extensions: map[string]string{spkiExtension: hex.EncodeToString(spki[:])}}, nil
		},
	}
	s.conf.AddHostKey(signer)
	return s, nil
}

func spkiOf(key ssh.PublicKey) (out [sha256.Size]byte, err error) {
	k, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return out, errors.New("cannot use this kind of key")
	}
	der, err := x509.MarshalPKIXPublicKey(k.CryptoPublicKey())
	return sha256.Sum256(der), err
}

// Run answers at l until ctx ends.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	defer s.wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			var n net.Error
			if errors.As(err, &n) && !errors.Is(err, net.ErrClosed) { // out of files, or a client that left at once
				time.Sleep(10 * time.Millisecond)
				continue
			}
			return fmt.Errorf("cannot accept SSH clients: %w", err)
		}
		source, ok := s.enter(c)
		if !ok {
			_ = c.Close()
			continue
		}
		s.wg.Go(func() { s.serve(ctx, c, source) })
	}
}

// enter counts a connection, unless there are too many.
func (s *Server) enter(c net.Conn) (netip.Addr, bool) {
	a, err := netip.ParseAddrPort(c.RemoteAddr().String())
	source := a.Addr().Unmap().WithZone("")
	if source.Is6() { // one customer has a /64
		if p, perr := source.Prefix(64); perr == nil {
			source = p.Addr()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || s.open >= connections || s.all >= entering || s.in[source] >= ofSource {
		return source, false
	}
	s.open, s.all = s.open+1, s.all+1
	s.in[source]++
	return source, true
}

// entered ends a connection's handshake in the count.
func (s *Server) entered(source netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.in[source]--; s.in[source] == 0 {
		delete(s.in, source)
	}
}

// patient is a connection on which a write may not take for ever.
type patient struct{ net.Conn }

// Write implements net.Conn.
func (p patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}

// own counts a connection of a key, if it may have one more.
func (s *Server) own(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[key] >= ofKey {
		return false
	}
	s.by[key]++
	return true
}

func (s *Server) disown(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[key]--; s.by[key] == 0 {
		delete(s.by, key)
	}
}

// window writes to a channel, which waits until the client has room for it.
type window struct {
	io.Writer
	hang func()
}

// Write implements io.Writer.
func (w window) Write(b []byte) (int, error) {
	t := time.AfterFunc(writeLimit, w.hang)
	defer t.Stop()
	return w.Writer.Write(b)
}

func (s *Server) serve(ctx context.Context, c net.Conn, source netip.Addr) {
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		s.open--
		s.mu.Unlock()
		if r := recover(); r != nil { // in a library that reads what strangers send
			s.cfg.Log.Error("SSH connection broke the server", "from", c.RemoteAddr().String(), "panic", fmt.Sprint(r))
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	out := sync.OnceFunc(func() { s.entered(source) })
	defer out()
	late := time.AfterFunc(handshake, func() { _ = c.Close() })
	defer late.Stop()
	conn, channels, requests, err := ssh.NewServerConn(patient{c}, s.conf)
	if err != nil {
		s.cfg.Log.Debug("SSH client refused", "from", c.RemoteAddr().String(), "err", err)
		return
	}
	if !late.Stop() {
		return
	}
	key := conn.Permissions.Extensions[spkiExtension]
	if !s.own(key) {
		s.cfg.Log.Debug("SSH client has too many connections", "from", c.RemoteAddr().String())
		return
	}
	defer s.disown(key)
	late = time.AfterFunc(handshake, func() { _ = c.Close() }) // for the shell
	defer late.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	wg.Go(func() { ssh.DiscardRequests(requests) }) // forwarding is asked for here
	raw, err := hex.DecodeString(key)
	if err != nil || len(raw) != sha256.Size {
		return
	}
	seat := Seat{Machine: conn.User(), SPKI: [sha256.Size]byte(raw), From: c.RemoteAddr().String()}
	had := false
	for ch := range channels {
		if ch.ChannelType() != "session" || had {
			_ = ch.Reject(ssh.Prohibited, "a console is one session, and nothing else")
			continue
		}
		had = true
		session, asked, err := ch.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			seat.Seated, seat.Hang = func() { late.Stop(); out() }, func() { _ = conn.Close() }
			s.session(ctx, session, asked, seat)
			last := time.AfterFunc(goodbye, func() { _ = conn.Close() })
			defer last.Stop()
			for range asked { // until the client has closed its end: a connection that is cut loses what was said last
			}
			_ = conn.Close()
		})
	}
	cancel()
}

// answer says yes to what a terminal tells of itself, and no to everything else.
func answer(r *ssh.Request) {
	if r.WantReply {
		_ = r.Reply(r.Type == "pty-req" || r.Type == "shell" || r.Type == "window-change", nil) // the client's end shows itself elsewhere
	}
}

// shell waits for a client to ask for one. One that asks for a command has none.
func (s *Server) shell(ctx context.Context, asked <-chan *ssh.Request) bool {
	for {
		select {
		case r, ok := <-asked:
			if !ok {
				return false
			}
			answer(r)
			switch r.Type {
			case "shell":
				return true
			case "exec", "subsystem":
				return false
			}
		case <-ctx.Done():
			return false
		}
	}
}

// session waits for a shell and shows the console in it.
func (s *Server) session(ctx context.Context, ch ssh.Channel, asked <-chan *ssh.Request, seat Seat) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer ch.Close()
	if !s.shell(ctx, asked) {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() {
		for {
			select {
			case r, ok := <-asked:
				if !ok { // the client has gone
					cancel()
					return
				}
				answer(r)
			case <-ctx.Done():
				return
			}
		}
	})
	in, typed := io.Pipe() // whose reading can be ended without closing the channel: something may be left to say
	seat.In, seat.Out, seat.Unblock = in, window{ch, seat.Hang}, func() { _ = in.CloseWithError(context.Canceled) }
	wg.Go(func() {
		_, err := io.Copy(typed, ch)
		_ = typed.CloseWithError(err) // never fails
	})
	err := s.cfg.Sit(ctx, seat)
	time.AfterFunc(goodbye, seat.Hang) // who does not close his end is not waited for
	_ = in.Close()
	status := uint32(0)
	if err != nil {
		status = 1
		_, _ = fmt.Fprintf(seat.Out, "\r\n-- the console is closed: %v --\r\n", err) // he may be gone
	}
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
}
