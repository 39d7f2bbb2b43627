package beacon

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/document"
)

// Giver gives beacons. All fields are set before use.
type Giver struct {
	ID                string
	Pub               *publish.Publisher // whose key signs
	Trust, Revocation func() intent.Head
	Held              func(ctx context.Context, site string) (string, error) // why nothing is published there
	Now               func() time.Time
}

// Ask is the question of an agent.
type Ask struct {
	Nonce string `json:"nonce"`
}

// ServeHTTP implements http.Handler; the session says who asks.
func (g *Giver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, document.MaxBeacon))
	ask := Ask{}
	if err == nil {
		err = intent.DecodeStrict(b, &ask)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	peer := transport.PeerFrom(r.Context())
	wire, err := g.Give(r.Context(), peer.Site, peer.ID, ask.Nonce)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(wire) // a broken session is noticed by its owner
}

// Give returns the wire form of a beacon for an agent. Errors: also of a site that is held.
func (g *Giver) Give(ctx context.Context, site, agent, nonce string) ([]byte, error) {
	if held, err := g.Held(ctx, site); err != nil {
		return nil, err
	} else if held != "" {
		return nil, fmt.Errorf("cannot give a beacon to %s: it is held: %s", site, held)
	}
	signer := g.Pub.Signer()
	if _, err := g.Pub.Epoch(signer.Public()); err != nil { // the key may not sign any more
		return nil, err
	}
	head, _, err := g.Pub.Head(ctx, site)
	if err != nil {
		return nil, err
	}
	env, err := document.Beacon{
		Who: g.ID, To: site + "/" + agent, Time: g.Now().UTC(), Nonce: nonce, Trust: g.Trust(), Revocation: g.Revocation(), Intent: head,
	}.Sign(signer)
	if err != nil {
		return nil, err
	}
	return document.Encode(env)
}
