package abroad

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	maxServed  = 8        // requests for chunks and manifests of other sites at once
	maxAnswer  = 64 << 10 // octets of an answer that we read
	maxHolders = 64       // agents of one site
)

// holders is the answer to GET /m/1/assets/{digest}/who.
type holders struct {
	Agents []string `json:"agents"` // that have all of it
}

// Handler answers agents of other sites: who has an asset, manifests and chunks.
func (k *Keeper) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /m/1/assets/{digest}/who", func(w http.ResponseWriter, r *http.Request) {
		d, err := intent.ParseDigest(r.PathValue("digest"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(holders{k.cfg.Holders(d)}) // a broken session is noticed by its owner
	})
	mux.HandleFunc("GET /m/1/assets/{digest}/manifest", k.give)
	mux.HandleFunc("GET /m/1/assets/{digest}/chunks", k.give)
	return mux
}

// give passes a request on, if not too many are being answered, and its answer out at the rate that the site may send.
func (k *Keeper) give(w http.ResponseWriter, r *http.Request) {
	select {
	case k.turns <- struct{}{}:
	default:
		w.Header().Set("Retry-After", "5")
		http.Error(w, "busy with other sites", http.StatusServiceUnavailable)
		return
	}
	defer func() { <-k.turns }()
	if k.cfg.Out != nil {
		w = &slowly{ResponseWriter: w, ctx: r.Context(), out: k.cfg.Out}
	}
	k.cfg.Assets.ServeHTTP(w, r)
}

// slowly writes no faster than the site may send.
type slowly struct {
	http.ResponseWriter
	ctx context.Context // of the request that is answered
	out func(context.Context, int) (int, error)
}

// Write implements http.ResponseWriter.
func (s *slowly) Write(b []byte) (done int, err error) {
	for len(b) > 0 {
		n, err := s.out(s.ctx, len(b))
		if err != nil {
			return done, err
		}
		n, err = s.ResponseWriter.Write(b[:n])
		b, done = b[n:], done+n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// who asks an agent of another site which agents there have all of an asset.
func who(ctx context.Context, rt http.RoundTripper, d intent.Digest) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://site/m/1/assets/"+d.Hex()+"/who", nil)
	if err != nil {
		return nil, err
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("cannot read who has it: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("cannot learn who has it: %s", res.Status)
	}
	return parseHolders(b)
}

// parseHolders reads an answer. Errors: no JSON, more than maxHolders, no names.
func parseHolders(b []byte) ([]string, error) {
	var h holders
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, fmt.Errorf("cannot read who has it: %w", err)
	}
	if len(h.Agents) > maxHolders {
		return nil, fmt.Errorf("cannot use an answer that names %d agents", len(h.Agents))
	}
	for _, a := range h.Agents {
		if !intent.IsLabel(a) {
			return nil, fmt.Errorf("cannot use an answer that names agent %.64q", a)
		}
	}
	return h.Agents, nil
}
