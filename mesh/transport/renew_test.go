package transport

import (
	"context"
	"net/http"
	"testing"

	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
)

// TestRenewAbroad: a session of an agent of another site, which has no address here, keeps nobody from renewing those of the own site.
func TestRenewAbroad(t *testing.T) {
	lanes(t, func(t *testing.T, lane Lane) {
		d, here, there := pkitest.New(t), newBook(), newBook()
		setup := func(e *Endpoint) { e.HandleHTTP(trust.ALPNMesh, http.HandlerFunc(hello)) }
		a1, a2 := launch(t, d.Agent("lon1", "a1", ""), here, lane, setup), launch(t, d.Agent("lon1", "a2", ""), here, lane, setup)
		p1 := launch(t, d.Agent("par1", "p1", ""), there, lane, setup)
		there.set(Peer{"lon1", "a1"}, a1.Addr().String())
		for from, to := range map[*node]Peer{p1: {"lon1", "a1"}, a2: {"lon1", "a1"}} {
			if _, err := get(t, from.RoundTripper(to), "http://a1/x", nil); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		if err := a1.Renew(ctx); err != nil {
			t.Error(err)
		}
	})
}
