package swarm

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
)

// TestSlowWithinAChunk: net/http gives a reader nothing of a piece until its buffer is full or the piece ends, and a chunk of an asset is one
// piece. A source that brings one at 8 KiB/s is not silent.
func TestSlowWithinAChunk(t *testing.T) {
	b := make([]byte, chunk.Size)
	rand.NewChaCha8([32]byte{3}).Read(b)
	m, err := chunk.ScanManifest(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		h := handlerOf(newMem(m, b))
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/chunks") {
				asked++
			}
			h.ServeHTTP(w, r)
		})}
		conns := make(pipes)
		served := make(chan error, 1)
		go func() { served <- srv.Serve(conns) }()
		rt := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
			a, b := net.Pipe()
			conns <- b
			return &slowConn{a}, nil
		}}
		sink, start := &mem{m: m, b: make([]byte, m.Size), have: []byte{0}}, time.Now()
		if err := fetch(t.Context(), sink, m.Content, m.Digest(), []Source{{Name: "a", Tier: TierPeer, RT: rt}}, nil); err != nil || asked != 1 {
			t.Errorf("%v, asked %d times", err, asked)
		}
		if took := time.Since(start); took < 2*time.Minute || took > 5*time.Minute {
			t.Errorf("1 MiB at 8 KiB/s took %v", took)
		}
		close(conns)
		<-served
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
}

// pipes is a listener for ends of net.Pipe.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// slowConn brings 4 KiB each half second, and what is less at once.
type slowConn struct{ net.Conn }

func (c *slowConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:min(len(b), 4<<10)])
	if n > 2<<10 {
		time.Sleep(500 * time.Millisecond)
	}
	return n, err
}
