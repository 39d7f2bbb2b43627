package rotation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// record is one agent's rotation in the ledger: the one under way, or the last one that was done. Each change of it is one commit, with
// what it is about, and each step can be done again.
type record struct {
	Site  string    `json:"site"`
	Agent string    `json:"agent"`
	N     uint64    `json:"n"` // counts the agent's rotations
	By    string    `json:"by"`
	Phase string    `json:"phase"`
	Begun time.Time `json:"begun"`
	Since time.Time `json:"since"` // in this phase
	// Ordered says that its turn has come: the agent is asked for new keys.
	Ordered bool          `json:"ordered,omitempty"`
	Key     intent.Digest `json:"key,omitzero"` // of the new TLS key, when the agent brought it
	Listed  place         `json:"listed"`       // the roster that lists both keys
	Retired place         `json:"retired"`      // the roster that lists the new one alone
	// Out says that the old keys left the agent's entry; the roster may not be out yet.
	Out   bool          `json:"out,omitempty"`
	Force time.Duration `json:"force,omitempty"` // retire without peers that were not heard for that long; 0: never

	rev uint64 // of the store
}

// place is where a roster stands.
type place struct {
	Seq        uint64 `json:"seq,omitempty"`        // of the chain, at or behind the roster
	Generation uint64 `json:"generation,omitempty"` // of the roster
}

func (r *record) who() string { return r.Site + "/" + r.Agent }

// open tells whether the rotation is under way.
func (r *record) open() bool { return r.Phase != "" && r.Phase != api.PhaseDone }

// changing tells whether the agent is about to use new keys. In retire it does, and only who was absent is waited for, maybe for years:
// that holds up nobody.
func (r *record) changing() bool { return r.Phase == api.PhaseAccept || r.Phase == api.PhaseUse }

const ledgerPrefix = "rotation/agent/"

func ledgerKey(site, agent string) string { return ledgerPrefix + site + "/" + agent }

// ledger reads the records that begin with prefix: of all sites, or of one. Revisions are kept as guards.
func (r *Rotation) ledger(ctx context.Context, prefix string) (out []*record, err error) {
	err = r.Store.Range(ctx, prefix, "", func(e store.Entry) error {
		rec, err := readRecord(e)
		out = append(out, rec)
		return err
	})
	return out, err
}

func readRecord(e store.Entry) (*record, error) {
	rec := &record{rev: e.Rev}
	if err := json.Unmarshal(e.Value, rec); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", e.Key, err)
	}
	return rec, nil
}

// record returns an agent's record; one without phase when there never was a rotation.
func (r *Rotation) record(ctx context.Context, site, agent string) (*record, error) {
	e, err := r.Store.Get(ctx, ledgerKey(site, agent))
	if errors.Is(err, store.ErrAbsent) {
		return &record{Site: site, Agent: agent}, nil
	}
	if err != nil {
		return nil, err
	}
	return readRecord(e)
}

// keep writes a record, if nobody wrote it meanwhile, together with more. Errors: store.ErrConflict.
func (r *Rotation) keep(ctx context.Context, rec *record, more store.Commit) error {
	c, err := rec.commit(more)
	if err != nil {
		return err
	}
	rec.rev, err = r.Store.Commit(ctx, c)
	r.Kick() // there may be more to do, or to read again
	return err
}

// tell is keep with a record of the audit log.
func (r *Rotation) tell(ctx context.Context, rec *record, more store.Commit, line intent.AuditRecord) error {
	c, err := rec.commit(more)
	if err != nil {
		return err
	}
	rec.rev, err = r.Audit.Commit(ctx, line, c)
	r.Kick()
	return err
}

func (r *record) commit(more store.Commit) (store.Commit, error) {
	v, err := json.Marshal(r)
	if err != nil {
		return store.Commit{}, fmt.Errorf("cannot encode rotation of %s: %w", r.who(), err)
	}
	key := ledgerKey(r.Site, r.Agent)
	return auditlog.Merge(more, store.Commit{If: []store.Guard{{Key: key, Rev: r.rev}}, Put: map[string][]byte{key: v}}), nil
}

// line is what the audit log says of a step that nobody asked for just now.
func (r *record) line(what string) intent.AuditRecord {
	return intent.AuditRecord{User: r.By, Via: "rotation", Verb: "rotate." + what, Object: "Agent " + r.who(), Result: intent.AuditDone, Reason: fmt.Sprintf("rotation %d", r.N)}
}

// enter begins a phase.
func (r *record) enter(phase string, now time.Time) {
	r.Phase, r.Since = phase, now.UTC()
}
