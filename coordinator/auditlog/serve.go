package auditlog

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
)

// maxUp bounds a bundle on its way up: maxBundleBytes of records, twice in base64 (4/3), and room.
const maxUp = 4 << 20

// ServePlaces tells an agent how far its site's chains are here.
func (a *Log) ServePlaces(w http.ResponseWriter, r *http.Request) {
	places, err := a.Places(r.Context(), transport.PeerFrom(r.Context()).Site)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(places) // a broken session is noticed by its owner
}

// ServeJoin joins what an agent brings of its site's chains.
func (a *Log) ServeJoin(w http.ResponseWriter, r *http.Request) {
	peer := transport.PeerFrom(r.Context())
	var b intent.AuditBundle
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxUp))
	if err == nil {
		err = intent.DecodeStrict(raw, &b)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	err = a.Join(r.Context(), peer.Site, peer.ID, b)
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrUnknown): // another coordinator was faster, or the store went away
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case errors.Is(err, ErrBroken):
		a.Config.Log.Error("audit chain is broken", "site", peer.Site, "from", peer.ID, "err", err)
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		a.Config.Log.Warn("audit refused", "site", peer.Site, "from", peer.ID, "err", err)
		n := intent.AuditRecord{Via: "session", Verb: "audit.join", Object: peer.String(), Result: intent.AuditRefused, Reason: err.Error()}
		if nerr := a.Note(r.Context(), n); nerr != nil {
			a.Config.Log.Error("refusal not kept in the audit log", "err", nerr)
		}
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	}
}
