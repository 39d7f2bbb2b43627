package rotation

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/pki/rotate"
	"github.com/skerry-metal/skerry/pki/trust"
)

// ServeOrder tells an agent what is wanted of its keys.
func (r *Rotation) ServeOrder(w http.ResponseWriter, q *http.Request) {
	o, err := r.Order(q.Context(), transport.PeerFrom(q.Context()))
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(o) // a broken session is noticed by its owner
}

// Order says what is wanted of an agent's keys.
func (r *Rotation) Order(ctx context.Context, peer trust.Identity) (rotate.Order, error) {
	rec, err := r.record(ctx, peer.Site, peer.ID)
	if err != nil {
		return rotate.Order{}, err
	}
	if rec.Phase == api.PhaseAccept && rec.Ordered && rec.Key.IsZero() {
		return rotate.Order{N: rec.N, Want: rotate.WantKeys}, nil
	}
	me, _, err := r.entry(ctx, peer.Site, peer.ID)
	if err != nil {
		return rotate.Order{}, err
	}
	if !rec.open() && r.uses() && !certified(me, r.CA()) {
		return rotate.Order{Want: rotate.WantCertificate}, nil
	}
	return rotate.Order{}, nil
}

// uses tells whether the trust document says that the CA of this coordinator is to be used.
func (r *Rotation) uses() bool {
	return slices.ContainsFunc(r.Trust.Body().CAs, func(c intent.CACert) bool {
		return c.State == intent.KeyUse && bytes.Equal(c.Cert, r.CA().Raw)
	})
}

// certified tells whether the entry holds a leaf under ca for its newest key.
func certified(me intent.RosterAgent, ca *x509.Certificate) bool {
	return len(me.TLS) > 0 && leafUnder(me.Certs, me.TLS[0], ca)
}

// leafUnder tells whether one of the certificates is a leaf for the key under ca.
func leafUnder(ders [][]byte, spki []byte, ca *x509.Certificate) bool {
	return slices.ContainsFunc(certsOf(ders, spki), func(der []byte) bool {
		c, err := x509.ParseCertificate(der)
		return err == nil && len(c.URIs) == 1 && c.CheckSignatureFrom(ca) == nil
	})
}

// certsOf returns the certificates for a key.
func certsOf(ders [][]byte, spki []byte) (out [][]byte) {
	for _, der := range ders {
		if c, err := x509.ParseCertificate(der); err == nil && bytes.Equal(c.RawSubjectPublicKeyInfo, spki) {
			out = append(out, der)
		}
	}
	return out
}

// ServeOffer takes an agent's answer. What it answered 204 for is on disk, and will be in the roster.
func (r *Rotation) ServeOffer(w http.ResponseWriter, q *http.Request) {
	peer := transport.PeerFrom(q.Context())
	b, err := io.ReadAll(http.MaxBytesReader(w, q.Body, rotate.MaxOffer+1))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch err := r.Take(q.Context(), peer, b); {
	case err == nil:
		r.Kick()
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrUnknown): // another coordinator was faster, or the store went away
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		r.Log.Warn("keys refused", "site", peer.Site, "agent", peer.ID, "err", err)
		r.Refused(q.Context(), peer.String(), "rotate.keys", err)
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	}
}

var errNotAsked = errors.New("nobody asked for these keys")

// Take takes an agent's offer, as ServeOffer does. Errors: store.ErrConflict, store.ErrUnknown; any other is a refusal.
func (r *Rotation) Take(ctx context.Context, peer trust.Identity, b []byte) error {
	defer r.Lock(peer.Site)() // what is told to the agent meanwhile would be sealed to the old key only
	o, spki, err := rotate.Read(b, peer.String())
	if err != nil {
		return err
	}
	want, err := r.Order(ctx, peer)
	if err != nil {
		return err
	}
	rec, err := r.record(ctx, peer.Site, peer.ID)
	if err != nil {
		return err
	}
	me, guard, err := r.entry(ctx, peer.Site, peer.ID)
	if err != nil {
		return err
	}
	known := len(me.TLS) > 0 && bytes.Equal(me.TLS[0], spki)
	switch {
	case o.N == rec.N && rec.open() && rec.Key == intent.DigestOf(spki):
		return nil // told twice: the answer was lost
	case want.Want == rotate.WantCertificate && o.N == 0 && known:
		return r.certify(ctx, rec, me, guard, o, spki)
	case want.Want != rotate.WantKeys || o.N != want.N:
		return fmt.Errorf("cannot take keys of %s for rotation %d: %w", peer, o.N, errNotAsked)
	case known && len(me.TLS) > 1: // this store was put back, and the roster that was taken over from the site lists them already
		rec.Key = intent.DigestOf(spki)
		return r.keep(ctx, rec, store.Commit{})
	case known || r.spent(peer, spki):
		return fmt.Errorf("cannot take keys of %s: they are no new ones, or were revoked", peer)
	}
	if len(me.TLS) == 0 || len(me.Sign) == 0 || len(me.Seal) == 0 {
		return fmt.Errorf("cannot take keys of %s: its entry has none to be changed", peer)
	}
	fresh, err := r.Certify(grant(peer, o, spki))
	if err != nil {
		return err
	}
	me.TLS, me.Sign, me.Seal = [][]byte{spki, me.TLS[0]}, [][]byte{o.Sign, me.Sign[0]}, [][]byte{o.Seal, me.Seal[0]}
	me.Certs = slices.Concat(fresh.Certs, certsOf(me.Certs, me.TLS[1]))
	more, err := put(guard, me)
	if err != nil {
		return err
	}
	again, err := r.Reseal(ctx, peer.Site, peer.ID)
	if err != nil {
		return err
	}
	rec.Key = intent.DigestOf(spki)
	return r.tell(ctx, rec, auditlog.Merge(more, again), rec.line("accepted"))
}

// spent tells whether the agent or the key was revoked.
func (r *Rotation) spent(peer trust.Identity, spki []byte) bool {
	return r.Revocations.Has(intent.RevokeSPKI, intent.DigestOf(spki).Hex()) || r.Revocations.Has(intent.RevokeAgent, peer.String())
}

func grant(peer trust.Identity, o *rotate.Offer, spki []byte) join.Grant {
	return join.Grant{Site: peer.Site, Agent: peer.ID, CSR: o.CSR, TLS: spki, Sign: o.Sign, Seal: o.Seal}
}

// certify adds certificates under the CA that is used now, on a key that the agent has. Those under the CA of before stay until
// that is retired.
func (r *Rotation) certify(ctx context.Context, rec *record, me intent.RosterAgent, guard store.Guard, o *rotate.Offer, spki []byte) error {
	fresh, err := r.Certify(grant(trust.Identity{Site: rec.Site, ID: rec.Agent}, o, spki))
	if err != nil {
		return err
	}
	me.Certs = slices.Concat(fresh.Certs, me.Certs)
	more, err := put(guard, me)
	if err != nil {
		return err
	}
	line := intent.AuditRecord{User: rec.who(), Via: "rotation", Verb: "rotate.certified", Object: "Agent " + rec.who(), Result: intent.AuditDone}
	if _, err := r.Audit.Commit(ctx, line, more); err != nil {
		return err
	}
	r.Dirty(rec.Site)
	return nil
}

// dropRetired takes certificates of CAs that the trust document retired out of the entries.
func (r *Rotation) dropRetired(ctx context.Context, s *scene) error {
	var retired []*x509.Certificate
	for _, c := range r.Trust.Body().CAs {
		if ca, err := x509.ParseCertificate(c.Cert); err == nil && c.State == intent.KeyRetire {
			retired = append(retired, ca)
		}
	}
	if len(retired) == 0 {
		return nil
	}
	for site, roster := range s.rosters {
		moved := false
		for _, a := range roster.Agents {
			me, guard, err := r.entry(ctx, site, a.ID)
			if err != nil {
				return err
			}
			kept := slices.DeleteFunc(slices.Clone(me.Certs), func(der []byte) bool {
				c, err := x509.ParseCertificate(der)
				return err == nil && slices.ContainsFunc(retired, func(ca *x509.Certificate) bool { return c.CheckSignatureFrom(ca) == nil })
			})
			if len(kept) == len(me.Certs) || len(kept) == 0 { // the last ones stay: who was away finds by them who it is
				continue
			}
			me.Certs = kept
			more, err := put(guard, me)
			if err != nil {
				return err
			}
			if _, err := r.Store.Commit(ctx, more); err != nil {
				return err
			}
			moved = true
		}
		if moved {
			r.Dirty(site)
		}
	}
	return nil
}
