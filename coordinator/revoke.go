package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/secrets"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/document"
)

// revoker takes identities away for ever, and draws the consequences: out of the roster, new boot keys, sessions closed.
type revoker struct {
	stream   *publish.Revocations
	store    store.Store
	audit    *auditlog.Log
	objects  *objects
	agents   *agents
	vault    *secrets.Desk
	sessions func() []uplink.SessionInfo
	act      func() int // makes endpoint and sessions obey the new set; returns how many sessions ended
	writers  func() []intent.Writer
	fetch    func(ctx context.Context, site, agent, stream string, take func(*intent.Envelope) error) error
	log      *slog.Logger
}

// hear is called when an agent says how far it has the stream. What it has beyond ours is taken: this store is an older copy.
func (r *revoker) hear(ctx context.Context, site, agent string, has intent.Head) {
	if has.Seq <= r.stream.Head().Seq {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, hearLimit)
	defer cancel()
	n, err := r.stream.TakeAll(ctx, r.writers(), func(stream string, take func(*intent.Envelope) error) error {
		return r.fetch(ctx, site, agent, stream, take)
	})
	if n > 0 {
		r.log.Warn("revocations taken back from an agent", "site", site, "agent", agent, "documents", n, "closed", r.act())
		err = errors.Join(err, r.enforce(ctx))
	}
	if err != nil {
		r.log.Error("revocations of an agent not taken", "site", site, "agent", agent, "seq", has.Seq, "err", err)
	}
}

// reload takes what another coordinator of the same store added.
func (r *revoker) reload(ctx context.Context, _ string) error {
	if err := r.stream.Load(ctx); err != nil {
		return err
	}
	r.act()
	return nil
}

// hearLimit bounds one fetch of the end of the stream from an agent, on a slow line.
const hearLimit = time.Minute

// revoke adds one identity to the stream. What is revoked already is no error: the consequences are drawn again.
func (r *revoker) revoke(ctx context.Context, by api.Caller, q api.RevokeRequest) (*api.RevokeResult, error) {
	entries, err := r.entriesOf(ctx, q)
	if err != nil {
		return nil, err
	}
	if q.RotateBMC && q.Kind != string(intent.RevokeAgent) {
		return nil, api.Refuse("BMC passwords are changed with the revocation of an agent: that is who reads them")
	}
	res := &api.RevokeResult{Entries: entries}
	if site, agent, ok := strings.Cut(q.ID, "/"); ok && q.Kind == string(intent.RevokeAgent) {
		if res.Exposed, err = r.agents.secrets.Readable(ctx, site, agent); err != nil {
			return nil, storeError(err)
		}
	}
	if !q.DryRun {
		err := r.audit.Write(ctx, by.Audit("revoke", q.Kind+" "+q.ID, q.Reason), func(line store.Commit) error {
			added, err := r.stream.Add(ctx, entries, line)
			if err == nil && added == 0 { // it was revoked before; that somebody asked is kept all the same
				_, err = r.store.Commit(ctx, line)
			}
			return err
		})
		if err != nil {
			return nil, storeError(err)
		}
		res.Closed = r.act()
		if err := r.enforce(ctx); err != nil {
			return nil, err
		}
	}
	if q.RotateBMC {
		site, _, _ := strings.Cut(q.ID, "/")
		if res.Changing, err = r.vault.ChangeExposed(ctx, by, site, res.Exposed, q); err != nil {
			return nil, err
		}
	}
	res.Head = r.stream.Head()
	return res, nil
}

// entriesOf names what q takes away: of an agent its id and every key that the roster gave it.
func (r *revoker) entriesOf(ctx context.Context, q api.RevokeRequest) ([]intent.Revocation, error) {
	kind := intent.RevocationKind(q.Kind)
	out := []intent.Revocation{{Kind: kind, ID: q.ID, Reason: q.Reason}}
	c, _ := r.objects.Snapshot()
	switch kind {
	case intent.RevokeAgent:
		site, agent, ok := strings.Cut(q.ID, "/")
		e, err := r.store.Get(ctx, agentKey(site, agent))
		if !ok || errors.Is(err, store.ErrAbsent) {
			return nil, api.ErrNotFound
		}
		if err != nil {
			return nil, storeError(err)
		}
		var ra intent.RosterAgent
		if err := json.Unmarshal(e.Value, &ra); err != nil {
			return nil, fmt.Errorf("cannot read keys of %s: %w", q.ID, err)
		}
		for _, spki := range ra.TLS {
			out = append(out, intent.Revocation{Kind: intent.RevokeSPKI, ID: intent.DigestOf(spki).Hex(), Reason: "key of " + q.ID})
		}
	case intent.RevokeUser:
		if c.Get(intent.Key{Kind: intent.KindUser, Name: q.ID}) == nil && !r.stream.Has(kind, q.ID) {
			return nil, api.ErrNotFound
		}
	case intent.RevokeToken:
		known := slices.ContainsFunc(c.List(intent.KindUser), func(o *intent.Object) bool {
			return slices.ContainsFunc(o.Spec.(*intent.UserSpec).Tokens, func(t intent.UserToken) bool { return t.ID == q.ID })
		})
		if !known && !r.stream.Has(kind, q.ID) {
			return nil, api.ErrNotFound
		}
	case intent.RevokeSPKI:
		if d, err := intent.ParseDigest("sha256:" + q.ID); err != nil || d.Hex() != q.ID {
			return nil, api.Refuse("spki is the hex SHA-256 of a key, 64 digits")
		}
	}
	return out, nil
}

// enforce draws the consequences of all that was revoked; a coordinator that died half-way does it when it starts.
func (r *revoker) enforce(ctx context.Context) error {
	c, _ := r.objects.Snapshot()
	for _, e := range r.stream.Entries() {
		if e.Kind != intent.RevokeAgent {
			continue
		}
		site, agent, _ := strings.Cut(e.ID, "/")
		boot, err := r.agents.secrets.RenewBootKey(ctx, site, "revoked "+agent)
		if err != nil {
			return fmt.Errorf("cannot renew boot key of %s: %w", site, err)
		}
		readers, err := r.vault.RenewReaders(ctx, site, "revoked "+agent)
		if err != nil {
			return fmt.Errorf("cannot renew data keys of %s: %w", site, err)
		}
		if boot || readers { // also where the agent is no object any more, as a spare took its place
			r.objects.dirty([]string{site})
		}
		key := intent.Key{Kind: intent.KindAgent, Scope: site, Name: agent}
		if c.Get(key) == nil {
			continue
		}
		by := apiCaller("revocation", "coordinator")
		if _, err := r.objects.Apply(ctx, by, api.Batch{Delete: []intent.Key{key}, Reason: "agent " + e.ID + " was revoked"}, store.Commit{}); err != nil {
			return fmt.Errorf("cannot remove revoked agent %s: %w", e.ID, err)
		}
	}
	return nil
}

// list shows what is revoked, and how far each site with a session has heard of it.
func (r *revoker) list() *api.RevocationList {
	l := &api.RevocationList{Head: r.stream.Head(), Entries: r.stream.Entries(), Agents: []api.RevocationSeen{}}
	for _, s := range r.sessions() {
		l.Agents = append(l.Agents, api.RevocationSeen{Agent: s.Site + "/" + s.Agent, Seq: s.Applied.Revocation.Seq, Heard: s.Heard.UTC()})
	}
	return l
}

// serve gives agents the stream from ?from= on, one envelope per line.
func (r *revoker) serve(w http.ResponseWriter, q *http.Request) {
	from, err := strconv.ParseUint(q.URL.Query().Get("from"), 10, 64)
	if err != nil {
		http.Error(w, "from is no sequence number", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	err = r.stream.Feed(q.Context(), from, func(env *intent.Envelope) error {
		b, err := document.Encode(env)
		if err != nil {
			return err
		}
		_, err = io.WriteString(w, string(b)+"\n")
		return err
	})
	if err != nil {
		panic(http.ErrAbortHandler) // cuts the answer, so that the agent does not take a part for the whole
	}
}
