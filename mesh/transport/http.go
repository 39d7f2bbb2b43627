package transport

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/pki/trust"
)

// Bounds of HTTP over streams.
const (
	maxRPCHeader  = 64 << 10
	headerTimeout = 10 * time.Second // a request line must have come by then
)

type peerKey struct{}

// PeerFrom returns who sent the request that ctx belongs to; None outside a stream handler.
func PeerFrom(ctx context.Context) trust.Identity {
	id, _ := ctx.Value(peerKey{}).(trust.Identity)
	return id
}

// httpServer serves HTTP/1.1 over streams, one request each.
type httpServer struct {
	l   *chanListener
	srv *http.Server
	end context.CancelFunc

	mu     sync.Mutex // guards closed; held while wg rises, so that it never rises beside Wait
	closed bool
	wg     sync.WaitGroup // requests under way: http.Server.Close does not wait for handlers
}

// begin counts a request, or refuses it at the end of Run.
func (s *httpServer) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	return true
}

// HandleHTTP serves streams of kind 1 on alpn by h; PeerFrom tells the peer. One request per stream; an upgraded stream is
// the handler's. Before Run only.
func (e *Endpoint) HandleHTTP(alpn string, h http.Handler) {
	h = e.limited(h)
	s := &httpServer{l: newChanListener(e.Addr())}
	base, end := context.WithCancel(context.Background()) // long polls end with the endpoint, not at their own deadline
	s.end = end
	s.srv = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !s.begin() {
				http.Error(w, "going away", http.StatusServiceUnavailable)
				return
			}
			defer s.wg.Done()
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxRPCHeader,
		ErrorLog:          slog.NewLogLogger(e.cfg.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if st, ok := c.(*Stream); ok {
				return context.WithValue(ctx, peerKey{}, st.Peer())
			}
			return ctx
		},
	}
	s.srv.SetKeepAlivesEnabled(false)
	e.servers = append(e.servers, s)
	e.HandleStream(alpn, KindHTTP, func(ctx context.Context, st *Stream) { s.l.deliver(ctx, st) })
}

func (s *httpServer) serve() {
	_ = s.srv.Serve(s.l) // returns http.ErrServerClosed at the end of Run, and nothing else: the listener never fails
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *httpServer) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	s.end()
	_ = s.l.Close()
	if err := s.srv.Shutdown(ctx); err != nil {
		_ = s.srv.Close() // requests that did not end in time are cut
	}
}

// chanListener is a net.Listener fed by hand.
type chanListener struct {
	addr net.Addr
	ch   chan net.Conn
	done chan struct{}
	once sync.Once
}

func newChanListener(a net.Addr) *chanListener {
	return &chanListener{addr: a, ch: make(chan net.Conn), done: make(chan struct{})}
}

// deliver hands c to Accept, or closes it when nobody accepts any more.
func (l *chanListener) deliver(ctx context.Context, c net.Conn) {
	select {
	case l.ch <- c:
	case <-l.done:
		_ = c.Close()
	case <-ctx.Done():
		_ = c.Close()
	}
}

// Accept returns the next connection. Errors: net.ErrClosed.
func (l *chanListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ch:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *chanListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr returns the endpoint's address.
func (l *chanListener) Addr() net.Addr { return l.addr }

// peerTripper sends each request on a stream of its own.
type peerTripper struct{ t *http.Transport }

func (p *peerTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "http" {
		return nil, errors.New("cannot send request: the URL of an RPC begins with http://, the session encrypts")
	}
	return p.t.RoundTrip(r)
}

// tripper makes a RoundTripper over streams that open opens.
func tripper(open func(ctx context.Context) (net.Conn, error)) http.RoundTripper {
	return &peerTripper{&http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return open(ctx) },
		DisableKeepAlives:      true, // one request per stream
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxRPCHeader,
	}}
}

// RoundTripper returns RPC to the peer over its mesh session, which is dialled when needed. The URL's host is not used for
// routing; write http://ID/path.
func (e *Endpoint) RoundTripper(p Peer) http.RoundTripper {
	return tripper(func(ctx context.Context) (net.Conn, error) {
		c, err := e.Dial(ctx, p)
		if err != nil {
			return nil, err
		}
		return c.OpenStream(ctx, KindHTTP)
	})
}

// RoundTripper returns HTTP over streams of this session.
func (c *Conn) RoundTripper() http.RoundTripper {
	return tripper(func(ctx context.Context) (net.Conn, error) { return c.OpenStream(ctx, KindHTTP) })
}
