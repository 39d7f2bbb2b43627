package coordinator

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/beacon"
	"github.com/skerry-metal/skerry/coordinator/store"
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
	mux.Handle("POST /u/1/beacon", &beacon.Giver{ID: c.id, Pub: c.agents.pub, Trust: c.trust.Head, Revocation: c.revoker.stream.Head, Held: c.recovery.Text, Now: time.Now})
	mux.HandleFunc("POST /u/1/report", c.takeReport)
	mux.HandleFunc("POST /u/1/overrides", c.takeOverride)
	mux.HandleFunc("POST /u/1/admissions", c.takeAdmission)
	mux.HandleFunc("GET /u/1/audit", c.giveAuditPlaces)
	mux.HandleFunc("POST /u/1/audit", c.takeAudit)
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
	if err := c.objects.setReport(r.Context(), peer.Site, rep); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
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

// giveAuditPlaces tells an agent how far its site's chains are here.
func (c *Coordinator) giveAuditPlaces(w http.ResponseWriter, r *http.Request) {
	places, err := c.audit.Places(r.Context(), transport.PeerFrom(r.Context()).Site)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(places) // a broken session is noticed by its owner
}

// takeAudit joins what an agent brings of its site's chains.
func (c *Coordinator) takeAudit(w http.ResponseWriter, r *http.Request) {
	peer := transport.PeerFrom(r.Context())
	var b intent.AuditBundle
	if !readUp(w, r, &b) {
		return
	}
	err := c.audit.Join(r.Context(), peer.Site, peer.ID, b)
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrUnknown): // another coordinator was faster, or the store went away
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case errors.Is(err, auditlog.ErrBroken):
		c.cfg.Logger.Error("audit chain is broken", "site", peer.Site, "from", peer.ID, "err", err)
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		c.cfg.Logger.Warn("audit refused", "site", peer.Site, "from", peer.ID, "err", err)
		c.refused(r.Context(), peer.String(), "audit.join", err)
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	}
}
