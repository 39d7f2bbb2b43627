package coordinator

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/document"
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
	mux.HandleFunc("GET /u/1/trust", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(c.trustEnv) // a broken session is noticed by its owner
	})
	mux.HandleFunc("GET /u/1/revocations", c.revoker.serve)
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

// takeOverride decides on a proposal of a site: adopted when its object stands as the site knew it, else kept as a conflict
// that a person settles. Both answers are in the chain as an ack, or not yet.
func (c *Coordinator) takeOverride(w http.ResponseWriter, r *http.Request) {
	peer := transport.PeerFrom(r.Context())
	var env intent.Envelope
	if !readUp(w, r, &env) {
		return
	}
	decision, err := c.decide(r.Context(), peer.Site, &env)
	if err != nil {
		c.cfg.Logger.Warn("override refused", "site", peer.Site, "agent", peer.ID, "err", err)
		c.refused(r.Context(), peer.String(), "override", err)
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"decision": decision})
}

func overrideKey(site, id string) string { return store.OverrideKey(site, id) }

func (c *Coordinator) decide(ctx context.Context, site string, env *intent.Envelope) (string, error) {
	d, err := c.openOverride(ctx, site, env)
	if err != nil {
		return "", err
	}
	if e, err := c.store.Get(ctx, overrideKey(site, d.ID)); err == nil {
		rev, err := strconv.ParseUint(string(e.Value), 10, 64)
		if err != nil {
			return "", fmt.Errorf("cannot read decision on %s: %w", d.ID, err)
		}
		return "adopt", c.acknowledge(ctx, site, d.ID, rev) // told twice, or we died before the ack
	} else if !errors.Is(err, store.ErrAbsent) {
		return "", err
	}
	obj, err := intent.DecodeObject(d.Object)
	if err != nil {
		return "", err
	}
	info, _ := obj.Kind.Info()
	if !info.User || obj.Key() != d.Key || obj.Metadata.Site != site && obj.Kind != intent.KindSSHKey {
		return "", fmt.Errorf("cannot adopt override %s: %s is not the site's to change", d.ID, d.Key)
	}
	catalog, _ := c.objects.Snapshot()
	if p, _, ok := intent.Lookup[*intent.ProjectSpec](catalog, intent.KindProject, "", d.Key.Scope); !ok || !slices.Contains(p.Sites, site) {
		// SSH keys name no site: without this an agent could put a key on another site's machines.
		return "", fmt.Errorf("cannot adopt override %s: project %s is not at site %s", d.ID, d.Key.Scope, site)
	}
	rev := uint64(0)
	if o := catalog.Get(d.Key); o != nil {
		rev = o.Metadata.Rev
	}
	if rev != d.Base.Rev {
		return "conflict", nil // not stored: it may fit again when a person settled it
	}
	batch := api.Batch{Reason: "override " + d.ID + ": " + d.Reason}
	if d.Op == intent.OverrideTombstone {
		batch.Delete = []intent.Key{d.Key}
	} else {
		batch.Put = []*intent.Object{obj}
	}
	extra := store.Commit{Put: map[string][]byte{overrideKey(site, d.ID): strconv.AppendUint(nil, rev+1, 10)}}
	if _, err := c.objects.Apply(ctx, apiCaller(d.Author.Via, d.Author.User), batch, extra); err != nil {
		return "", fmt.Errorf("cannot adopt override %s: %w", d.ID, err)
	}
	return "adopt", c.acknowledge(ctx, site, d.ID, rev+1)
}

func ackKey(site, id string) string { return store.AckKey(site, id) }

// acknowledge publishes the adopted object, then its ack, once: the object first, so that the ack finds it in place.
func (c *Coordinator) acknowledge(ctx context.Context, site, id string, rev uint64) error {
	if err := c.agents.Sync(ctx, site); err != nil {
		return err
	}
	defer c.lockSite(site)()
	ch, err := c.agents.pub.Open(ctx, site)
	if err != nil {
		return err
	}
	_, err = c.store.Get(ctx, ackKey(site, id))
	if err == nil || !errors.Is(err, store.ErrAbsent) {
		return err
	}
	ack := intent.AckBody{Override: id, Decision: "adopt", Rev: rev}
	if err := ch.Append(ctx, intent.EntryAck, ack, store.Commit{Put: map[string][]byte{ackKey(site, id): []byte("1")}}); err != nil {
		return err
	}
	c.uplink.Notify(site)
	return nil
}

// openOverride verifies that an agent of the site's roster signed it.
func (c *Coordinator) openOverride(ctx context.Context, site string, env *intent.Envelope) (*intent.Override, error) {
	roster, err := c.agents.Roster(ctx, site)
	if err != nil {
		return nil, err
	}
	if roster == nil {
		return nil, fmt.Errorf("cannot take override of %s: it has no roster", site)
	}
	var keys []ed25519.PublicKey
	for _, a := range roster.Agents {
		for _, der := range a.Sign {
			k, err := document.ParseKey(der)
			if err != nil {
				return nil, err
			}
			keys = append(keys, k)
		}
	}
	payload, err := document.Open(env, intent.PayloadOverride, keys, 1)
	if err != nil {
		return nil, err
	}
	d := &intent.Override{}
	if err := intent.DecodeStrict(payload, d); err != nil {
		return nil, err
	}
	if d.Site != site {
		return nil, fmt.Errorf("cannot take override %s: %w", d.ID, document.ErrOtherSite)
	}
	return d, nil
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
