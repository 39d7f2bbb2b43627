package tftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/pin/tftp/v3"
)

// Opener gives loaders by name.
type Opener interface {
	// Open returns the loader; the caller closes it. Any error becomes "file not found".
	Open(name string) (io.ReadSeekCloser, error)
}

// Config of a Server.
type Config struct {
	Loaders Opener
	Logger  *slog.Logger
	// Seen, if set, is called when a transfer ended; it must not block. name is cleaned, octets what was sent.
	Seen func(client netip.Addr, name string, octets int64, err error)
}

const (
	blockSize    = 1468 // 1500 - IP - UDP - TFTP headers: never fragmented
	timeout      = time.Second
	retries      = 5
	maxTransfers = 2000 // half-open ones included; each holds one socket of at most 20,000
	maxPerClient = 8    // firmware opens two at once: a probe for the size and the transfer
	maxName      = 255
)

// ErrBusy is what a client reads when a cap is reached; it tries again.
var ErrBusy = errors.New("too many transfers")

var errNotFound = errors.New("file not found")

// Server serves one socket. Not to be reused after Serve returned.
type Server struct {
	cfg Config

	mu     sync.Mutex // guards what follows
	total  int
	client map[netip.Addr]int
	counts map[string]uint64
}

// New starts nothing.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, client: map[netip.Addr]int{}, counts: map[string]uint64{}}
}

// Counts returns transfers by outcome: ok, failed, absent, busy, panic; malformed: what came was no request to read or write.
func (s *Server) Counts() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// Serve answers on conn until ctx ends, then closes it and waits for open transfers, at most a few seconds.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	srv := tftp.NewServer(func(name string, rf io.ReaderFrom) error { return s.read(ctx, name, rf) }, nil)
	srv.SetBlockSize(blockSize)
	srv.SetTimeout(timeout)
	srv.SetRetries(retries)
	srv.SetHook(hook{s})
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		srv.Shutdown()
	})
	var err error
	for ctx.Err() == nil {
		if err = s.serveOnce(srv, conn); err != nil {
			break
		}
	}
	if stop() { // never cancelled: the socket failed
		srv.Shutdown()
		return fmt.Errorf("cannot serve TFTP: %w", err)
	}
	<-done
	return nil
}

// hook counts what the library refuses before a handler hears of it: those failures name no client.
type hook struct{ s *Server }

func (hook) OnSuccess(tftp.TransferStats) {}

func (h hook) OnFailure(t tftp.TransferStats, err error) {
	var socket *net.OpError // ours, not the client's
	if t.RemoteAddr == nil && !errors.As(err, &socket) {
		h.s.count("malformed")
	}
}

// serveOnce confines a panic of the library's parser to the packet that caused it.
func (s *Server) serveOnce(srv *tftp.Server, conn *net.UDPConn) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.count("panic")
			s.cfg.Logger.Error("a TFTP packet made us panic; it was dropped", "panic", r)
		}
	}()
	return srv.Serve(conn)
}

func (s *Server) count(k string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[k]++
}

// admit takes a place for client, or says ErrBusy.
func (s *Server) admit(client netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= maxTransfers || s.client[client] >= maxPerClient {
		s.counts["busy"]++
		return ErrBusy
	}
	s.total++
	s.client[client]++
	return nil
}

func (s *Server) leave(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.client[client]--; s.client[client] == 0 {
		delete(s.client, client)
	}
}

func (s *Server) read(ctx context.Context, raw string, rf io.ReaderFrom) (err error) {
	var client netip.Addr
	if o, ok := rf.(tftp.OutgoingTransfer); ok {
		a := o.RemoteAddr()
		client = a.AddrPort().Addr().Unmap()
	}
	if err := s.admit(client); err != nil {
		return err
	}
	defer s.leave(client)
	name, n := Clean(raw), int64(0)
	defer func() {
		if r := recover(); r != nil {
			s.count("panic")
			err = fmt.Errorf("cannot send: internal error")
		}
		if s.cfg.Seen != nil {
			s.cfg.Seen(client, name, n, err)
		}
	}()
	f, err := s.cfg.Loaders.Open(name)
	if err != nil {
		s.count("absent")
		return errNotFound
	}
	defer f.Close()
	n, err = rf.ReadFrom(&stopReader{ctx, f})
	if err != nil { // ERROR 8 after an OACK is how firmware asks for the size only
		s.count("failed")
		return err
	}
	s.count("ok")
	return nil
}

// stopReader ends a transfer when the server stops. It seeks, so that the library can answer tsize.
type stopReader struct {
	ctx context.Context
	f   io.ReadSeeker
}

func (r *stopReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.f.Read(b)
}

func (r *stopReader) Seek(off int64, whence int) (int64, error) { return r.f.Seek(off, whence) }

// Clean maps a requested name to a loader's: lower case, without leading slashes or backslashes, without a MAC directory,
// without a trailing "-" and W3C traceparent, without the 0xFF that some firmware appends. The result has no slash; what is
// left over is simply not found.
func Clean(raw string) string {
	if len(raw) > maxName {
		return ""
	}
	end := len(raw)
	for end > 0 && (raw[end-1] == 0xFF || raw[end-1] == 0 || raw[end-1] == ' ') { // octets: 0xFF is no UTF-8
		end--
	}
	s := strings.ToLower(raw[:end])
	s = strings.ReplaceAll(s, `\`, "/")
	s = strings.TrimLeft(s, "/")
	if dir, rest, ok := strings.Cut(s, "/"); ok && isMAC(dir) {
		s = rest
	}
	const traceparent = len("-00-0123456789abcdef0123456789abcdef-0123456789abcdef-00")
	if i := len(s) - traceparent; i > 0 && strings.HasPrefix(s[i:], "-00-") && strings.Count(s[i:], "-") == 4 {
		s = s[:i]
	}
	if strings.ContainsAny(s, "/\x00") {
		return ""
	}
	return s
}

func isMAC(s string) bool {
	return len(s) == 17 && strings.Trim(s, "0123456789abcdef-:") == "" && strings.Count(s, "-")+strings.Count(s, ":") == 5
}
