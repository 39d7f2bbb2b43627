package coordinator

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/skerry-metal/skerry/coordinator/beacon"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/mesh/transport"
)

// maxUp bounds one thing that an agent sends up: a report of 2,000 machines is about 600 KiB.
const maxUp = 4 << 20

// sessionHandler serves the agents over the sessions that they dialled. The session says who asks.
func (c *Coordinator) sessionHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/sites/{site}/intent", func(w http.ResponseWriter, r *http.Request) {
		peer := transport.PeerFrom(r.Context())
		if peer.Site != r.PathValue("site") {
			http.Error(w, "another site's chain", http.StatusForbidden)
			return
		}
		if err := api.ServeIntent(c.backend, w, r, peer.Site); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("GET /u/1/trust", c.rotation.ServeTrust)
	mux.HandleFunc("GET /u/1/revocations", c.revoker.serve)
	mux.Handle("POST /u/1/beacon", &beacon.Giver{ID: c.id, Pub: c.agents.pub, Trust: c.trust.Head, Revocation: c.revoker.stream.Head, Held: c.held, Now: c.clock.Now})
	mux.HandleFunc("GET /u/1/keys", c.rotation.ServeOrder)
	mux.HandleFunc("POST /u/1/keys", c.rotation.ServeOffer)
	mux.HandleFunc("POST /u/1/report", c.takeReport)
	mux.HandleFunc("POST /u/1/overrides", c.takeOverride)
	mux.HandleFunc("POST /u/1/admissions", c.takeAdmission)
	mux.HandleFunc("GET /u/1/audit", c.audit.ServePlaces)
	mux.HandleFunc("POST /u/1/audit", c.audit.ServeJoin)
	mux.Handle("/m/1/assets/", swarm.NewHandler(c.blobs, c.cfg.Logger))
	return mux
}

func readUp(w http.ResponseWriter, r *http.Request, v any) bool {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxUp))
	if err == nil {
		err = intent.DecodeStrict(b, v)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func (c *Coordinator) takeReport(w http.ResponseWriter, r *http.Request) {
	peer := transport.PeerFrom(r.Context())
	var rep intent.Report
	if !readUp(w, r, &rep) {
		return
	}
	if rep.Site != peer.Site || rep.Agent != peer.ID {
		http.Error(w, "a report of somebody else", http.StatusForbidden)
		return
	}
	if err := c.objects.setReport(r.Context(), peer.Site, rep, c.objects.now()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	c.vault.Finish(r.Context(), peer.Site)
	c.rotation.Moved()
	w.WriteHeader(http.StatusNoContent)
}

// takeOverride takes what a site changed by itself; see coordinator/proposals.
func (c *Coordinator) takeOverride(w http.ResponseWriter, r *http.Request) {
	peer := transport.PeerFrom(r.Context())
	var env intent.Envelope
	if !readUp(w, r, &env) {
		return
	}
	decision, err := c.desk.Take(r.Context(), peer.Site, &env)
	if err != nil {
		c.cfg.Logger.Warn("override refused", "site", peer.Site, "agent", peer.ID, "err", err)
		c.refused(r.Context(), peer.String(), "override", err)
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"decision": decision})
}
