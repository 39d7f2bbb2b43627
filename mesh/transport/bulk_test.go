package transport

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/test/sim/memnet"
)

// TestBulk: what is large goes over a session of its own, by the lane that is asked for, as long as it is used; Renew lets the next request
// dial anew while one that is under way ends on the old one.
func TestBulk(t *testing.T) {
	for _, lane := range []Lane{LaneAuto, LaneQUIC, LaneTCP} {
		t.Run("bulk "+string(lane), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)))
				n, d, b := memnet.New(), pkitest.New(t), newBook()
				slow, began := make(chan struct{}), make(chan struct{})
				var ends []*Endpoint
				for i := range 2 {
					id := fmt.Sprintf("a%d", i+1)
					ip := fmt.Sprintf("10.0.0.%d", i+1)
					b.set(Peer{"lon1", id}, ip+":7444")
					e, err := New(Config{
						Listen: ip + ":7444", Network: n.Host(ip), TLS: d.Agent("lon1", id, "").TLS, Resolver: b, Bulk: lane, Log: slog.New(slog.DiscardHandler),
						UDP: []string{trust.ALPNMesh, trust.ALPNBulk}, TCP: []string{trust.ALPNMesh, trust.ALPNBulk},
					})
					if err != nil {
						t.Fatal(err)
					}
					for _, alpn := range []string{trust.ALPNMesh, trust.ALPNBulk} {
						e.HandleHTTP(alpn, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							if r.URL.Path == "/slow" {
								close(began)
								<-slow
							}
							_, _ = io.WriteString(w, alpn+" "+PeerFrom(r.Context()).ID)
						}))
					}
					ctx, cancel := context.WithCancel(context.Background())
					done := make(chan error, 1)
					go func() { done <- e.Run(ctx) }()
					defer func() {
						cancel()
						if err := <-done; err != nil {
							t.Error(err)
						}
					}()
					ends = append(ends, e)
				}
				a, peer := ends[0], Peer{"lon1", "a2"}
				ask := func(rt http.RoundTripper, path, want string) {
					t.Helper()
					if got, err := get(t, rt, "http://a2"+path, nil); err != nil || got != want {
						t.Errorf("%q, %v; want %q", got, err, want)
					}
				}
				lanes := func(why string, want map[Lane]int) {
					t.Helper()
					synctest.Wait()
					if got := a.BulkLanes(); !maps.Equal(got, want) {
						t.Errorf("%s: %v, want %v", why, got, want)
					}
				}
				carries := lane
				if lane == LaneAuto {
					carries = LaneQUIC
				}
				ask(a.RoundTripper(peer), "/x", trust.ALPNMesh+" a1")
				lanes("nothing large was asked for", map[Lane]int{})
				ask(a.Bulk(peer), "/x", trust.ALPNBulk+" a1")
				lanes("asked", map[Lane]int{carries: 1})
				time.Sleep(bulkIdle / 2)
				ask(a.Bulk(peer), "/y", trust.ALPNBulk+" a1")
				lanes("asked again", map[Lane]int{carries: 1})
				got := make(chan string, 1)
				go func() {
					s, err := get(t, a.Bulk(peer), "http://a2/slow", nil)
					got <- fmt.Sprint(s, " ", err)
				}()
				<-began
				if err := a.Renew(t.Context()); err != nil {
					t.Error(err)
				}
				lanes("renewed", map[Lane]int{})
				ask(a.Bulk(peer), "/x", trust.ALPNBulk+" a1")
				lanes("dialled anew", map[Lane]int{carries: 1})
				close(slow)
				if s := <-got; s != trust.ALPNBulk+" a1 <nil>" {
					t.Errorf("what was under way: %s", s)
				}
				time.Sleep(2 * bulkIdle)
				lanes("idle", map[Lane]int{})
				if c, err := a.Dial(t.Context(), peer); err != nil || c.Context().Err() != nil {
					t.Errorf("the mesh session: %v", err)
				}
				ask(a.Bulk(peer), "/x", trust.ALPNBulk+" a1")
			})
		})
	}
}
