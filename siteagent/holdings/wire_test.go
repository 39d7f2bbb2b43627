package holdings

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
)

// TestOverTheMesh: two agents with real sessions on loopback, and the swarm's handler behind ours: one hears what the other has, and
// relays it.
func TestOverTheMesh(t *testing.T) {
	s := newSite(t, 100*gib, "a1", "a2")
	d, at := pkitest.New(t), map[string]string{}
	launch := func(n *node) *transport.Endpoint {
		log := slog.New(slog.DiscardHandler)
		e, err := transport.New(transport.Config{
			Listen: "127.0.0.1:0", TLS: d.Agent("lon1", n.name, "").TLS, Log: log, UDP: []string{trust.ALPNMesh}, TCP: []string{trust.ALPNMesh},
			Resolver: transport.ResolverFunc(func(p transport.Peer) []string { return []string{at[p.ID]} }),
		})
		if err != nil {
			t.Fatal(err)
		}
		e.HandleHTTP(trust.ALPNMesh, n.Handler(swarm.NewHandler(n.cfg.Blobs, log)))
		at[n.name] = e.Addr().String()
		n.cfg.Peers = Remote(func(agent string) http.RoundTripper { return e.RoundTripper(transport.Peer{Site: "lon1", ID: agent}) })
		return e
	}
	for _, n := range s.nodes {
		e := launch(n)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-ended })
	}
	img := s.upload(7, 5000, "image")
	s.want(img)
	if _, err := s.node("a1").fetch(t.Context(), img, false); err != nil {
		t.Fatal(err)
	}
	n := s.node("a2")
	n.hear(t.Context())
	if got := n.Statuses()[img.Digest].Agents; got[0].State != Complete || got[0].Have != 5 || got[1].State != None {
		t.Fatalf("%+v", got)
	}
	f, err := n.Relay(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(chunk.Size/2, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, s.content[img.Digest][chunk.Size/2:]) {
		t.Fatalf("%d octets, %v", len(got), err)
	}
}
