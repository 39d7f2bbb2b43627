package httpboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Errors of an Opener.
var (
	ErrAbsent  = errors.New("no such asset here")
	ErrPending = errors.New("asset not complete yet")
)

// Opener gives verified bytes.
type Opener interface {
	// Open returns the content of d; each octet read was verified first. An *os.File goes out by sendfile. The caller closes
	// it. Errors: ErrAbsent (404), ErrPending (503).
	Open(ctx context.Context, d intent.Digest) (io.ReadSeekCloser, error)
}

// LoaderOpener gives iPXE binaries by name.
type LoaderOpener interface {
	Open(name string) (io.ReadSeekCloser, error)
}

// ScriptRequest is who asks for a script.
type ScriptRequest struct {
	MAC    string     // lower case, hyphens
	Remote netip.Addr // the token of a script goes only to the address that was leased to that MAC: compare it
}

// Scripter writes scripts.
type Scripter interface {
	// Script returns the script's text and the decision's id (header Skerry-Decision). An error is 503: iPXE tries again.
	Script(ctx context.Context, r ScriptRequest) (text, decision string, err error)
}

// Config of a Handler. Nil parts answer 404.
type Config struct {
	Scripts Scripter
	Loaders LoaderOpener
	Assets  Opener
	NoCloud http.Handler // gets the path below /nocloud/
	Logger  *slog.Logger
	// Seen, if set, is called after each request; it must not block.
	Seen func(Served)
}

// Served is one finished request.
type Served struct {
	What   string // script, loader, asset, nocloud, other; malformed: what came was no request (Serve)
	Remote netip.Addr
	Name   string // MAC, loader, or the asset's digest; never a token
	Status int
	Octets int64
}

// firstByte is how long a script may take: UEFI and iPXE give up after five seconds without an answer (edk2#1834).
const firstByte = 2 * time.Second

// retryAfter is what a 503 asks for, in seconds.
const retryAfter = "2"

type handler struct {
	cfg     Config
	readers readers
}

// NewHandler returns the handler of boot HTTP.
func NewHandler(cfg Config) http.Handler {
	return &handler{cfg: cfg, readers: readers{of: map[netip.Addr]int{}}}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := Served{What: "other", Remote: remote(r)}
	c := &counter{ResponseWriter: w}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	h.route(c, r, &s)
	if h.cfg.Seen != nil {
		s.Status, s.Octets = c.status, c.n
		h.cfg.Seen(s)
	}
}

func (h *handler) route(w *counter, r *http.Request, s *Served) {
	what, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if what == "nocloud" && h.cfg.NoCloud != nil {
		s.What = what
		http.StripPrefix("/nocloud", h.cfg.NoCloud).ServeHTTP(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "only GET and HEAD")
		return
	}
	name, tail, _ := strings.Cut(rest, "/")
	switch {
	case what == "boot" && tail == "auto.ipxe" && h.cfg.Scripts != nil:
		s.What, s.Name = "script", name
		h.script(w, r, s)
	case what == "loaders" && tail == "" && h.cfg.Loaders != nil:
		s.What, s.Name = "loader", name
		h.loader(w, r, name)
	case what == "assets" && tail != "" && !strings.Contains(tail, "/") && h.cfg.Assets != nil:
		s.What, s.Name = "asset", name
		h.asset(w, r, name)
	default:
		fail(w, http.StatusNotFound, "no such path")
	}
}

func fail(w http.ResponseWriter, status int, text string) {
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

func (h *handler) script(w http.ResponseWriter, r *http.Request, s *Served) {
	mac := strings.ToLower(s.Name)
	if !isMAC(mac) {
		s.Name = ""
		fail(w, http.StatusNotFound, "cannot read MAC (want six hex pairs with hyphens)")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), firstByte)
	defer cancel()
	text, decision, err := h.cfg.Scripts.Script(ctx, ScriptRequest{mac, s.Remote})
	if err != nil {
		h.cfg.Logger.Warn("no boot script; the machine will ask again", "mac", mac, "err", err)
		fail(w, http.StatusServiceUnavailable, "no script yet")
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store") // it may carry a token
	if decision != "" {
		w.Header().Set("Skerry-Decision", decision)
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(w, text)
	}
}

func isMAC(s string) bool {
	if len(s) != 17 {
		return false
	}
	for i, c := range []byte(s) {
		if i%3 == 2 && c != '-' || i%3 != 2 && !strings.ContainsRune("0123456789abcdef", rune(c)) {
			return false
		}
	}
	return true
}

func (h *handler) loader(w *counter, r *http.Request, name string) {
	f, err := h.cfg.Loaders.Open(name)
	if err != nil {
		fail(w, http.StatusNotFound, "no such loader")
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/efi")
	http.ServeContent(w, r, "", time.Time{}, f)
}

func (h *handler) asset(w *counter, r *http.Request, name string) {
	d, err := intent.ParseDigest(name)
	if err != nil || strings.HasPrefix(name, "sha256:") {
		fail(w, http.StatusNotFound, "cannot read digest (want 64 hex digits)")
		return
	}
	f, err := h.cfg.Assets.Open(r.Context(), d)
	switch {
	case errors.Is(err, ErrAbsent):
		fail(w, http.StatusNotFound, "no such asset here")
		return
	case errors.Is(err, ErrPending):
		fail(w, http.StatusServiceUnavailable, "asset not complete yet")
		return
	case err != nil:
		h.cfg.Logger.Error("cannot open asset", "asset", d.Short(), "err", err)
		fail(w, http.StatusInternalServerError, "cannot open asset")
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"sha256-`+d.Hex()+`"`)
	if _, whole := f.(*os.File); whole {
		http.ServeContent(w, r, "", time.Time{}, f)
	} else if !h.read(w, r, f) {
		return
	}
	// ServeContent ends quietly when the source fails: the promised length is then missing, and net/http closes the
	// connection. A client that looks at neither must not take the rest for the whole, hence the abort.
	if w.status < 300 && r.Method == http.MethodGet && w.n < w.promised() && r.Context().Err() == nil {
		h.cfg.Logger.Error("asset ended early; the connection was aborted", "asset", d.Short(), "octets", w.n)
		if h.cfg.Seen != nil {
			h.cfg.Seen(Served{What: "asset", Remote: remote(r), Name: name, Status: 0, Octets: w.n})
		}
		panic(http.ErrAbortHandler)
	}
}

// read serves what is read chunk by chunk, and tells whether an answer with content was begun.
func (h *handler) read(w *counter, r *http.Request, f io.ReadSeeker) bool {
	if strings.Contains(r.Header.Get("Range"), ",") { // each part would read a chunk of a peer, or over the line
		w.Header().Del("ETag")
		fail(w, http.StatusRequestedRangeNotSatisfiable, "one range at a time")
		return false
	}
	from := remote(r)
	if !h.readers.enter(from) {
		w.Header().Del("ETag")
		fail(w, http.StatusServiceUnavailable, "too many read what is not whole here")
		return false
	}
	defer h.readers.leave(from)
	if held := (&held{counter: w}); !held.serve(r, f) {
		fail(w, http.StatusServiceUnavailable, "this part is not here yet")
		return false
	}
	return true
}

// A reader of what is not a file here holds a chunk of it, the usual 1 MiB, for as long as it likes to take it: of all connections that would
// be 4 GiB. maxReaders bounds them, and readersEach those of one address: iPXE and the installer have one or two.
const (
	maxReaders  = 256
	readersEach = 8
)

// readers counts who reads what is not a file here. It is safe for concurrent use.
type readers struct {
	mu  sync.Mutex // guards what follows
	of  map[netip.Addr]int
	all int
}

func (r *readers) enter(from netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all >= maxReaders || r.of[from] >= readersEach {
		return false
	}
	r.all++
	r.of[from]++
	return true
}

func (r *readers) leave(from netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all--
	if r.of[from]--; r.of[from] == 0 {
		delete(r.of, from)
	}
}

func remote(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// held is an answer whose status waits for the first octet: until then it can still become another.
type held struct {
	*counter
	code  int
	begun bool
}

// serve serves f as http.ServeContent does, and tells whether an answer was begun: not where f fails before its first octet.
func (h *held) serve(r *http.Request, f io.ReadSeeker) bool {
	http.ServeContent(h, r, "", time.Time{}, f)
	switch {
	case h.begun:
		return true
	case r.Method == http.MethodGet && h.code < 300 && h.promised() > 0:
		for _, name := range []string{"Content-Length", "Content-Range", "Accept-Ranges", "ETag"} {
			h.Header().Del(name)
		}
		return false
	}
	h.begin() // it has no octets
	return true
}

func (h *held) begin() {
	if !h.begun && h.code > 0 {
		h.counter.WriteHeader(h.code)
	}
	h.begun = true
}

// WriteHeader keeps the status.
func (h *held) WriteHeader(code int) { h.code = code }

// Write sends the status, and b.
func (h *held) Write(b []byte) (int, error) {
	h.begin()
	return h.counter.Write(b)
}

// ReadFrom sends r through Write, so that nothing is sent before its first octet.
func (h *held) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{h}, r)
}

// counter counts what goes out and keeps ReadFrom, so that sendfile survives.
type counter struct {
	http.ResponseWriter
	status int
	n      int64
}

func (c *counter) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(b []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	n, err := c.ResponseWriter.Write(b)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadFrom(r io.Reader) (int64, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	n, err := io.Copy(c.ResponseWriter, r) // net/http's own ReadFrom
	c.n += n
	return n, err
}

// Unwrap lets http.ResponseController through.
func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// promised is the Content-Length that was sent, or 0.
func (c *counter) promised() int64 {
	var n int64
	if _, err := fmt.Sscan(c.Header().Get("Content-Length"), &n); err != nil {
		return 0
	}
	return n
}

const (
	headerTimeout = 5 * time.Second
	idleTimeout   = time.Minute
	maxHeader     = 16 << 10
	maxConns      = 4096            // descriptors: 20,000 per process, and each connection may hold a file
	stopTimeout   = 2 * time.Second // a write in progress belongs to a client that can ask another agent
)

// Serve answers on ln until ctx ends. Open transfers get two seconds to finish. seen, if set, hears of connections that sent
// something which was no request; it must not block.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, seen func(Served), log *slog.Logger) error {
	w := &watch{gate: make(chan struct{}, maxConns), seen: seen, asks: map[net.Conn]*atomic.Bool{}}
	srv := &http.Server{
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ConnState: w.state, ConnContext: w.context,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return ctx },
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			r.Context().Value(watchKey{}).(*atomic.Bool).Store(false)
			h.ServeHTTP(rw, r)
		}),
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if srv.Shutdown(sctx) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(ln)
	if stop() {
		return fmt.Errorf("cannot serve boot HTTP: %w", err)
	}
	<-done
	return nil
}

// watch bounds the connections and finds those whose octets never became a request: net/http refuses them by itself.
type watch struct {
	gate chan struct{}
	seen func(Served)

	mu   sync.Mutex // guards what follows
	asks map[net.Conn]*atomic.Bool
}

type watchKey struct{}

// asking returns the mark of a connection: true from its first octets until they have become a request.
func (w *watch) asking(c net.Conn) *atomic.Bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asks[c] == nil {
		w.asks[c] = &atomic.Bool{}
	}
	return w.asks[c]
}

func (w *watch) context(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, watchKey{}, w.asking(c))
}

func (w *watch) state(c net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		w.gate <- struct{}{} // when full, accepting waits until a connection closes: the kernel's queue is bounded
	case http.StateActive:
		w.asking(c).Store(true)
	case http.StateClosed, http.StateHijacked:
		if w.asking(c).Load() && w.seen != nil {
			remote, _ := netip.ParseAddrPort(c.RemoteAddr().String()) // the zero address of a socket that is none of IP's
			w.seen(Served{What: "malformed", Remote: remote.Addr().Unmap(), Status: http.StatusBadRequest})
		}
		w.mu.Lock()
		delete(w.asks, c)
		w.mu.Unlock()
		<-w.gate
	}
}
