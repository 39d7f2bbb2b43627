package siteagent

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/override"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

// overrides takes local changes while the site is cut off.
type overrides struct {
	w      *effective.Site
	self   string
	sign   func() ed25519.PrivateKey // the key that signs now
	claims *claim.Claims
	log    *slog.Logger
	audit  *auditlog.Log

	mu sync.Mutex // one change at a time: each is checked against the ones before
}

// apply makes one override per object of the batch, all or none.
func (o *overrides) apply(ctx context.Context, by api.Caller, b api.Batch) ([]api.Result, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.w.Now()
	if e.Err != nil {
		return nil, e.Err
	}
	p := &proposal{before: e.Overlay.Catalog, after: e.Overlay.Catalog.Clone(), active: e.Active(), site: o.w.ID()}
	for _, k := range b.Delete {
		if err := p.remove(k, b); err != nil {
			return nil, err
		}
	}
	for _, obj := range b.Put {
		if err := p.put(obj, b); err != nil {
			return nil, err
		}
	}
	if ps := replica.LocalProblems(p.after); len(ps) > 0 {
		return nil, api.Invalid(ps)
	}
	if b.DryRun || len(p.changes) == 0 {
		return p.results, nil
	}
	charges, release, err := o.charge(ctx, e, p)
	defer release()
	if err != nil {
		return nil, err
	}
	return o.write(ctx, by, b, e, p, charges)
}

// proposal is a batch worked out against the effective catalog.
type proposal struct {
	before, after, active *intent.Catalog
	site                  string
	changes               []proposed
	results               []api.Result
}

type proposed struct {
	op  intent.OverrideOp
	obj *intent.Object
}

// allowed tells whether this site may turn old into is; one of them may be nil.
func (p *proposal) allowed(old, is *intent.Object) error {
	if why := rights.SiteMayChange(old, is); why != "" {
		return api.Refuse(why)
	}
	o := cmp.Or(is, old)
	if info, _ := o.Kind.Info(); info.NeedSite && o.Metadata.Site != p.site {
		return api.Refuse(fmt.Sprintf("%s is of site %s, this is %s", o.Key(), o.Metadata.Site, p.site))
	}
	return nil
}

func (p *proposal) remove(k intent.Key, b api.Batch) error {
	old := p.after.Get(k)
	if old == nil {
		return api.ErrNotFound
	}
	if err := p.allowed(old, nil); err != nil {
		return err
	}
	if m, ok := b.IfMatch[k]; ok && m != "*" && m != api.ETag(old) {
		return api.ErrPrecondition
	}
	p.after.Delete(k)
	p.changes = append(p.changes, proposed{intent.OverrideTombstone, old})
	p.results = append(p.results, api.Result{Object: k, Action: "deleted", UID: old.Metadata.UID, Rev: old.Metadata.Rev})
	return nil
}

func (p *proposal) put(in *intent.Object, b api.Batch) error {
	obj := in.Clone()
	obj.Status, obj.Metadata.Origin = nil, ""
	k := obj.Key()
	old := p.after.Get(k)
	if m, ok := b.IfMatch[k]; ok && (old == nil || (m != "*" && m != api.ETag(old))) {
		return api.ErrPrecondition
	}
	if b.IfNone[k] && old != nil {
		return api.ErrPrecondition
	}
	action := "created"
	if old != nil {
		obj.Metadata.UID, obj.Metadata.Created, obj.Metadata.Rev = old.Metadata.UID, old.Metadata.Created, old.Metadata.Rev
		bare := *old
		bare.Status, bare.Metadata.Origin = nil, ""
		if sameObject(&bare, obj) {
			p.results = append(p.results, api.Result{Object: k, Action: "unchanged", UID: obj.Metadata.UID, Rev: obj.Metadata.Rev})
			return nil
		}
		action = "changed"
		obj.Metadata.Rev++
	} else {
		now := time.Now().UTC().Truncate(time.Second)
		obj.Metadata.UID, obj.Metadata.Rev, obj.Metadata.Created = randomID(12), 1, &now
	}
	if err := p.allowed(old, obj); err != nil {
		return err
	}
	p.after.Put(obj)
	p.changes = append(p.changes, proposed{intent.OverridePut, obj})
	p.results = append(p.results, api.Result{Object: k, Action: action, UID: obj.Metadata.UID, Rev: obj.Metadata.Rev})
	return nil
}

func sameObject(a, b *intent.Object) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

func randomID(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand, Go 1.24
	return fmt.Sprintf("%x", b)
}

// charge takes the quota claim of every project that grows, and compares with its offline quota. Where nobody can hold the
// claim, the last known counter decides, and the coordinator reports an overdraft at reunion (mesh.md section 7).
func (o *overrides) charge(ctx context.Context, e *effective.Intent, p *proposal) (map[string]map[string]int, func(), error) {
	var held []string
	release := func() {
		for _, id := range held {
			o.claims.Release(context.WithoutCancel(ctx), id)
		}
	}
	out := map[string]map[string]int{}
	for _, c := range p.changes {
		project := c.obj.Metadata.Project
		if _, done := out[project]; done {
			continue
		}
		out[project] = override.Charge(p.before, p.after, project, p.site)
		if len(out[project]) == 0 {
			continue
		}
		id := "quota/" + project
		switch _, err := o.claims.Acquire(ctx, id, nil); {
		case err == nil:
			held = append(held, id)
		case errors.Is(err, claim.ErrNoMajority):
			o.log.Warn("offline quota is charged without a claim", "project", project, "err", err)
		default:
			return nil, release, api.Refuse("another agent is charging the project's quota; try again: " + err.Error())
		}
		spent := override.Spent(o.w.Overrides(), project, e.Active(), e.State.Acks)
		quota := e.Overlay.Catalog.Quota(project, p.site)
		if t := override.Exceeds(quota, spent, out[project]); t != "" {
			allowed := 0
			if quota != nil {
				allowed = quota.Offline.Machines[t]
			}
			return nil, release, api.Refuse(fmt.Sprintf("offline quota of project %s: %d machines of type %s allowed, %d in use, %d more asked for", project, allowed, t, spent[t], out[project][t]))
		}
	}
	return out, release, nil
}

// write signs and journals the overrides: on disk here and at every live peer before it is answered.
func (o *overrides) write(ctx context.Context, by api.Caller, b api.Batch, e *effective.Intent, p *proposal, charges map[string]map[string]int) ([]api.Result, error) {
	seq, prev := o.last()
	turn := intent.NextTurn(e.Overrides) - 1
	var drafts []claim.Draft
	byKey := map[intent.Key]string{}
	for _, c := range p.changes {
		raw, err := json.Marshal(c.obj)
		if err != nil {
			return nil, fmt.Errorf("cannot encode override: %w", err)
		}
		seq, turn = seq+1, turn+1
		d := intent.Override{
			Site: p.site, Agent: o.self, Seq: seq, Prev: prev, Turn: turn, Time: time.Now().UTC(), ID: p.site + "-" + randomID(8),
			Author: intent.OverrideAuthor{User: by.User, Via: by.Via}, Reason: b.Reason,
			Base: intent.OverrideBase{Seq: e.State.Head.Seq}, Op: c.op, Key: c.obj.Key(), Object: raw, Charge: charges[c.obj.Metadata.Project],
		}
		delete(charges, c.obj.Metadata.Project) // a project's charge is carried once
		if base := p.active.Get(d.Key); base != nil {
			d.Base.Rev = base.Metadata.Rev
		}
		d.Base.After = override.Standing(p.active, e.State.Acks, e.Overrides, d.Key)
		rec, err := override.Sign(d, o.sign())
		if err != nil {
			return nil, err
		}
		prev = rec.Envelope.Digest().String()
		byKey[d.Key] = d.ID
		drafts = append(drafts, claim.Draft{Kind: override.KindOverride, Key: d.ID, Body: rec},
			reconcile.Event("", d.ID, intent.Epoch{}, "override.made", fmt.Sprintf("%s %s by %s", d.Op, d.Key, by.User), map[string]string{"base": fmt.Sprint(d.Base.Rev), "via": by.Via}))
	}
	line := by.Audit("override", strings.Join(slices.Sorted(maps.Values(byKey)), " "), b.Reason)
	line.Did = api.AuditDid(p.results)
	drafts = append(drafts, o.audit.Draft(line))
	if err := o.w.Journal.Append(ctx, claim.Replicated, drafts...); err != nil && !errors.Is(err, claim.ErrWaitingPeer) {
		return nil, err
	}
	for i := range p.results {
		p.results[i].Override = byKey[p.results[i].Object]
	}
	return p.results, nil
}

// last returns this agent's newest override: the chain goes on from it.
func (o *overrides) last() (seq uint64, prev string) {
	for _, r := range o.w.Journal.View(override.KindOverride) {
		var rec override.Record
		if json.Unmarshal(r.Body, &rec) == nil && rec.Doc.Agent == o.self && rec.Doc.Seq > seq {
			seq, prev = rec.Doc.Seq, rec.Envelope.Digest().String()
		}
	}
	return seq, prev
}

// pending lists the overrides that the coordinator has not settled, oldest first.
func (o *overrides) pending() []override.Record {
	e := o.w.Now()
	active := e.Active()
	var out []override.Record
	for _, r := range o.w.Journal.View(override.KindOverride) {
		var rec override.Record
		if json.Unmarshal(r.Body, &rec) != nil {
			continue
		}
		if st := override.State(rec.Doc, active, e.State.Acks); st == override.StateLocal || st == override.StateConflict {
			out = append(out, rec)
		}
	}
	slices.SortFunc(out, func(a, b override.Record) int { return a.Doc.Compare(b.Doc) })
	return out
}

// proposals lists what is pending, with the coordinator's value and the site's.
func (o *overrides) proposals() ([]api.Proposal, error) {
	e := o.w.Now()
	active := e.Active()
	out := []api.Proposal{}
	for _, rec := range o.pending() {
		d := rec.Doc
		there, err := intent.DecodeObject(d.Object)
		if err != nil {
			return nil, err
		}
		out = append(out, api.Proposal{
			ID: d.ID, Site: d.Site, Object: d.Key, Op: string(d.Op), Author: d.Author.User, Agent: d.Agent, Time: d.Time, Reason: d.Reason,
			Why: override.State(d, active, e.State.Acks), Since: d.Time, Base: d.Base.Rev, Here: active.Get(d.Key), There: there,
		})
	}
	return out, nil
}

// reports lists all overrides with their states, oldest first.
func (o *overrides) reports() []intent.OverrideReport {
	e := o.w.Now()
	active := e.Active()
	var out []intent.OverrideReport
	for _, d := range slices.SortedFunc(slices.Values(e.Overrides), intent.Override.Compare) {
		out = append(out, intent.OverrideReport{
			ID: d.ID, Object: d.Key, Op: string(d.Op), State: override.State(d, active, e.State.Acks), Author: d.Author.User, Time: d.Time, Reason: d.Reason,
		})
	}
	return out
}
