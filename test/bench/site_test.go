package bench

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/storage/blob"
	"github.com/skerry-metal/skerry/test/sim/wan"
)

const (
	fillSize = 1_000_000_000
	fillRate = 100_000_000 / 8 // octets a second: 100 Mbit/s
)

// fill is a site whose agents all want one asset, and a coordinator behind one thin line.
type fill struct {
	*testing.B
	m     *chunk.Manifest
	line  *wan.Relay
	far   *http.Transport // over the line
	d     *pkitest.Domain
	names []string
	lies  atomic.Int64 // bad chunks that were given

	mu   sync.Mutex // guards what follows
	at   map[string]string
	last time.Time // an agent had all
}

// BenchmarkSiteFill: agents of one site want the same asset of 1 GB over a line of 100 Mbit/s: what the line carries, and when the last
// agent has it. Then one of three dies half-way and a fourth lies. All agents are in this process, on the QUIC lane.
func BenchmarkSiteFill(b *testing.B) {
	src := filepath.Join(b.TempDir(), "src")
	f, err := os.Create(src)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.Reader, fillSize); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	for _, k := range []int{1, 3, 7} {
		w := newFill(b, src, k)
		took, octets := w.run(func(context.Context, string, *agent) error { return nil })
		w.figure(fmt.Sprintf("1 GB to %d agents over 100 Mbit/s", k), took, octets, "<= 1.02", "<= 1.25")
	}
	w := newFill(b, src, 4)
	liar := "a4"
	took, octets := w.run(func(ctx context.Context, name string, a *agent) error {
		switch name {
		case "a2":
			for ctx.Err() == nil && a.chunks.Load() < int64(len(w.m.Chunks)/2) {
				if err := rest(ctx, 100*time.Millisecond); err != nil {
					return err
				}
			}
			a.kill()
		case liar:
			a.lie.Store(true)
		}
		return nil
	})
	w.figure("the same to 4, of which one dies half-way and one lies", took, octets, "<= 1.10", "")
	Figure(os.Stdout, "bad chunks that the liar gave to the three others together", fmt.Sprint(w.lies.Load()), "", "", "<= 9")
}

// figure prints what the line carried and how long it took.
func (w *fill) figure(what string, took time.Duration, octets uint64, asked, askedTime string) {
	least := time.Duration(fillSize) * time.Second / fillRate
	Figure(os.Stdout, what+": octets on the line", fmt.Sprintf("%.3f x", float64(octets)/fillSize), "", "", asked)
	Figure(os.Stdout, "the same: until the last has it, "+Seconds(took), fmt.Sprintf("%.3f x size/rate", took.Seconds()/least.Seconds()), "", "", askedTime)
}

func newFill(b *testing.B, src string, k int) *fill {
	b.Helper()
	w := &fill{B: b, d: pkitest.New(b), at: map[string]string{}}
	origin, closeOrigin := assets(b, b.TempDir())
	f, err := os.Open(src)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if w.m, err = origin.Import(b.Context(), f, fillSize); err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: swarm.NewHandler(origin, log)}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	near, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	w.line = wan.New(wan.Config{TCP: near, Target: ln.Addr().String()})
	w.line.Set(wan.Condition{BytesPerSec: fillRate})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.line.Run(ctx) }()
	w.far = &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", near.Addr().String())
	}}
	b.Cleanup(func() { _ = srv.Close(); cancel(); <-ended; _ = closeOrigin() })
	for i := range k {
		w.names = append(w.names, fmt.Sprintf("a%d", i+1))
	}
	return w
}

// agent is one of the site: its assets may lie, and it may die.
type agent struct {
	*blob.Store
	w      *fill
	lie    atomic.Bool
	chunks atomic.Int64
	kill   context.CancelFunc
}

// ReadChunk gives a chunk with one wrong octet when the agent lies.
func (a *agent) ReadChunk(d intent.Digest, i int, buf []byte) ([]byte, error) {
	b, err := a.Store.ReadChunk(d, i, buf)
	if err == nil && a.lie.Load() {
		a.w.lies.Add(1)
		b[0] ^= 1
	}
	return b, err
}

// run fetches the asset at every agent at once, while fate does to each what it does, and checks every octet of those that live.
func (w *fill) run(fate func(ctx context.Context, name string, a *agent) error) (time.Duration, uint64) {
	w.Helper()
	begun := time.Now()
	g, ctx := errgroup.WithContext(w.Context())
	for _, name := range w.names {
		own, closeOwn := assets(w, w.TempDir())
		w.Cleanup(func() { _ = closeOwn() })
		node := w.d.Agent("lon1", name, "")
		g.Go(func() error {
			err := w.agent(ctx, node, own, fate)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		w.Fatal(err)
	}
	return w.last.Sub(begun), w.line.Counters().Down
}

func (w *fill) agent(ctx context.Context, node *pkitest.Node, own *blob.Store, fate func(context.Context, string, *agent) error) error {
	log, name := slog.New(slog.DiscardHandler), node.ID.ID
	e, err := transport.New(transport.Config{
		Listen: "127.0.0.1:0", TLS: node.TLS, Log: log, UDP: []string{trust.ALPNMesh}, TCP: []string{trust.ALPNMesh},
		Resolver: transport.ResolverFunc(func(p transport.Peer) []string {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.at[p.ID] == "" {
				return nil
			}
			return []string{w.at[p.ID]}
		}),
	})
	if err != nil {
		return err
	}
	ctx, kill := context.WithCancel(ctx)
	a := &agent{Store: own, w: w, kill: kill}
	s := swarm.New(swarm.Config{
		Self: name, Store: a, Log: log, Who: func(r *http.Request) string { return transport.PeerFrom(r.Context()).ID }, Origin: func() (swarm.Source, bool) { return swarm.Source{Name: "c1", Tier: swarm.TierOrigin, RT: w.far}, true },
		Peers: func() (out []swarm.Source) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for p := range w.at {
				if p != name {
					out = append(out, swarm.Source{Name: p, Tier: swarm.TierPeer, RT: e.RoundTripper(transport.Peer{Site: "lon1", ID: p})})
				}
			}
			return out
		},
	})
	e.HandleHTTP(trust.ALPNMesh, s.Handler())
	w.mu.Lock()
	w.at[name] = e.Addr().String()
	w.mu.Unlock()
	life, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- e.Run(life) }()
	w.Cleanup(func() { end(); <-ended })
	doomed := make(chan error, 1)
	go func() { doomed <- fate(ctx, name, a) }()
	_, err = s.Fetch(ctx, w.m.Content, w.m.Digest(), swarm.Wanted, func(swarm.Source, int, int, int) { a.chunks.Add(1) })
	w.mu.Lock()
	if ctx.Err() != nil { // it died
		delete(w.at, name)
		w.mu.Unlock()
		return nil
	}
	w.last = time.Now()
	w.mu.Unlock()
	return errors.Join(err, <-doomed, w.check(own))
}

// check compares every octet with the digest.
func (w *fill) check(own *blob.Store) error {
	r, err := own.Open(w.m.Content)
	if err != nil {
		return err
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return err
	}
	if intent.Digest(h.Sum(nil)) != w.m.Content {
		return errors.New("another content")
	}
	return nil
}
