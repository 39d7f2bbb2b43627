package transport

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit is far above what anything here takes on a busy machine.
const limit = 30 * time.Second

// book resolves peers of a test.
type book struct {
	mu sync.Mutex
	m  map[Peer]string
}

func (b *book) Addrs(p Peer) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.m[p]; a != "" {
		return []string{a}
	}
	return nil
}

func (b *book) set(p Peer, a string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.m[p] = a
}

// node is an endpoint under test.
type node struct {
	*Endpoint
	n    *pkitest.Node
	stop func()
}

func newBook() *book { return &book{m: map[Peer]string{}} }

// launch makes an endpoint, lets setup install handlers, and runs it until the test ends.
func launch(t testing.TB, n *pkitest.Node, b *book, lane Lane, setup func(*Endpoint)) *node {
	t.Helper()
	return launchAt(t, n, b, lane, "127.0.0.1:0", setup)
}

func launchAt(t testing.TB, n *pkitest.Node, b *book, lane Lane, listen string, setup func(*Endpoint)) *node {
	t.Helper()
	e, err := New(Config{
		Listen: listen, TLS: n.TLS, Resolver: b, Lane: lane, Log: slog.New(slog.DiscardHandler),
		UDP:      []string{trust.ALPNMesh, trust.ALPNBulk, trust.ALPNUplink},
		TCP:      []string{trust.ALPNMesh, trust.ALPNBulk, trust.ALPNUplink, trust.ALPNJoin, trust.ALPNH2, trust.ALPNHTTP},
		ResetKey: bytes.Repeat([]byte{1}, 32),
	})
	if err != nil {
		t.Fatal(err)
	}
	if setup != nil {
		setup(e)
	}
	b.set(PeerOf(n.ID), e.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(limit):
			t.Error("Run did not end")
		}
	})
	t.Cleanup(stop)
	return &node{e, n, stop}
}

// eventually waits for a condition that no channel announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", limit, what)
		}
		select {
		case <-time.After(5 * time.Millisecond): // polled: the thing has no event
		case <-t.Context().Done():
			t.Fatal(what)
		}
	}
}

// hello answers with who asked and what was sent.
var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%s %s %d", PeerFrom(r.Context()), r.URL.Path, len(b))
})

func get(t *testing.T, rt http.RoundTripper, url string, body []byte) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

func lanes(t *testing.T, f func(t *testing.T, lane Lane)) {
	for _, l := range []Lane{LaneQUIC, LaneTCP} {
		t.Run(string(l), func(t *testing.T) { f(t, l) })
	}
}
