package siteagent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/api/consoles"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/mesh/gossip"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/bmclogin"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/console"
	"github.com/skerry-metal/skerry/siteagent/discovery"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/explain"
	"github.com/skerry-metal/skerry/siteagent/holdings"
	"github.com/skerry-metal/skerry/siteagent/keys"
	"github.com/skerry-metal/skerry/siteagent/members"
	"github.com/skerry-metal/skerry/siteagent/operate"
	"github.com/skerry-metal/skerry/siteagent/peers"
	"github.com/skerry-metal/skerry/siteagent/receipts"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/storage/state"
)

// backend answers the site's API from the effective intent and the journal. It works with nobody above.
type backend struct {
	api.Keys
	api.Vault
	api.Documents
	telemetry.TrafficSource
	explain.Machines
	*receipts.Desk
	*operate.Operator
	*discovery.Strangers
	telemetry.Source
	*console.Keeper
	info    api.Info
	w       *effective.Site
	db      *state.DB
	floor   *trust.Floor
	mesh    *peers.Mesh
	logins  *bmclogin.Logins
	gossip  *gossip.Pool
	others  func() []api.Gateway // of other sites
	uplink  func() bool
	cutOff  func(context.Context) bool
	over    *overrides
	store   func() string // its state in a few words
	probe   func() string // how it counts at interfaces, in a few words
	dhcp    func() string // what it does on each subnet, likewise
	assets  func() map[intent.Digest]holdings.Status
	act     func(ctx context.Context, d intent.Digest, a holdings.Act, dryRun bool) map[string]string // at all agents
	members *members.Keeper
	audit   *auditlog.Log

	mu   sync.Mutex // guards what follows
	rev  uint64
	last [2]uint64
}

// Describe implements api.Backend.
func (b *backend) Describe() api.Info { return b.info }

// Now implements api.Backend.
func (b *backend) Now() time.Time {
	now, _ := b.floor.Now()
	return now
}

// revision folds the revisions of intent and journal into one number that rises with either.
func (b *backend) revision() uint64 {
	st := b.w.State()
	jrev, _ := b.w.Journal.Rev()
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := [2]uint64{st.Rev, jrev}; now != b.last {
		b.last = now
		b.rev++
	}
	return b.rev
}

// Snapshot implements api.Backend.
func (b *backend) Snapshot(context.Context) (*intent.Catalog, uint64, error) {
	rev := b.revision()
	e := b.w.Now()
	if e.Err != nil {
		return nil, 0, e.Err
	}
	c := e.Overlay.Catalog.Clone()
	statuses, arrays := b.statuses(e.Overlay.Catalog)
	for k, v := range statuses {
		fill(c, k, v)
	}
	for k, v := range arrays {
		fill(c, k, v)
	}
	held := b.assets()
	for _, o := range c.List(intent.KindAsset) {
		if st, ok := held[o.Spec.(*intent.AssetSpec).Digest]; ok {
			fill(c, o.Key(), st)
		}
	}
	return c, rev, nil
}

func fill[V any](c *intent.Catalog, k intent.Key, v V) {
	o := c.Get(k)
	if o == nil {
		return
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return // plain data; a status that cannot be shown is left out
	}
	with := *o
	with.Status = raw
	c.Put(&with)
}

// statuses folds the journal into the statuses of machines and instance arrays.
func (b *backend) statuses(c *intent.Catalog) (map[intent.Key]intent.MachineStatus, map[intent.Key]intent.ArrayStatus) {
	machines := map[intent.Key]intent.MachineStatus{}
	addrs := effective.Addresses(c, b.w.State().Roster, b.w.ID())
	for _, v := range b.w.Views() {
		st := v.Status
		if st.State == "" {
			st.State = intent.StateExpected
		}
		mac, _ := intent.ParseMAC(v.Spec.BootNIC().MAC)
		if a, ok := addrs[mac]; ok {
			st.Address = a.Addr.String()
		}
		if p, ok := claim.Load[reconcile.Progress](b.w.Journal, reconcile.KindProgress, v.Name); ok && st.Phase == reconcile.PhaseWrite && p.Total > 0 {
			st.Percent = int(p.Bytes * 100 / p.Total)
		}
		if v.Spec.BMC != nil {
			st.BMCSecret = b.logins.Taken(v.Name, v.Spec.BMC)
		}
		machines[intent.Key{Kind: intent.KindMachine, Scope: b.w.ID(), Name: v.Name}] = st
	}
	bindings := reconcile.Bindings(b.w.Journal)
	arrays := map[intent.Key]intent.ArrayStatus{}
	for _, o := range c.List(intent.KindInstanceArray) {
		spec := o.Spec.(*intent.InstanceArraySpec)
		as := intent.ArrayStatus{Wanted: spec.Count}
		for i := range spec.Count {
			is := intent.InstanceStatus{Index: i, UID: reconcile.InstanceUID(o.Metadata.UID, i)}
			if bd, ok := bindings[is.UID]; ok && !bd.Released {
				st := machines[intent.Key{Kind: intent.KindMachine, Scope: b.w.ID(), Name: bd.Machine}]
				is.Machine, is.State, is.Address, is.Phase, is.Reason, is.Percent = bd.Machine, st.State, st.Address, st.Phase, st.Reason, st.Percent
				if st.State == intent.StateRunning {
					as.Running++
				}
			} else {
				as.Message = "waits for an available machine of type " + spec.MachineType
			}
			as.Instances = append(as.Instances, is)
		}
		arrays[o.Key()] = as
	}
	return machines, arrays
}

// Changed implements api.Backend.
func (b *backend) Changed(ctx context.Context, since uint64) (uint64, error) {
	for {
		_, wake := b.w.Journal.Rev()
		moved := b.w.State().Wake
		if rev := b.revision(); rev > since {
			return rev, nil
		}
		select {
		case <-wake:
		case <-moved:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Apply implements api.Backend: a local change becomes an override.
func (b *backend) Apply(ctx context.Context, by api.Caller, batch api.Batch) ([]api.Result, error) {
	if !b.cutOff(ctx) {
		return nil, api.Refuse("the coordinator is reachable: apply there, so that there is one truth; a site takes changes only while it is cut off")
	}
	if b.db.AdmitUser() != nil {
		return nil, api.ErrFull
	}
	if err := b.may(); err != nil {
		return nil, err
	}
	return b.over.apply(ctx, by, batch)
}

// may refuses a change at an agent that does not count at its site: what it writes reaches nobody.
func (b *backend) may() error {
	if b.w.Counts() {
		return nil
	}
	return api.Refuse(fmt.Sprintf("agent %s may change nothing: %s; ask another agent of %s", b.info.ID, b.members.Barred()[b.info.ID], b.w.ID()))
}

// AssetAction implements assets.Holder.
func (b *backend) AssetAction(ctx context.Context, site, asset string, q assets.ActionRequest) (*assets.ActionResult, error) {
	s, _, ok := intent.Lookup[*intent.AssetSpec](b.w.Now().Overlay.Catalog, intent.KindAsset, "", asset)
	if site != b.w.ID() || !ok {
		return nil, api.ErrNotFound
	}
	if err := b.may(); err != nil {
		return nil, err
	}
	return &assets.ActionResult{Agents: b.act(ctx, s.Digest, holdings.Act(q.Action), q.DryRun)}, nil
}

// eventsPoll bounds how long a follower waits without looking again.
const eventsPoll = 10 * time.Second

// Events implements api.Backend. A follower gets what is new by agent and sequence number, so that an event that comes late
// from a peer is not lost.
func (b *backend) Events(ctx context.Context, q api.EventQuery, fn func(intent.Event) error) error {
	if q.Site != b.w.ID() {
		return api.ErrNotFound
	}
	sent := map[string]uint64{}
	for {
		_, wake := b.w.Journal.Rev()
		err := b.w.Journal.Events(sent, func(e intent.Event) error {
			sent[e.Agent] = max(sent[e.Agent], e.Seq)
			if (q.Machine != "" && e.Machine != q.Machine) || e.Time.Before(q.Since) {
				return nil
			}
			return fn(e)
		})
		if err != nil || !q.Follow {
			return err
		}
		t := time.NewTimer(eventsPoll)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// SiteStatus implements api.Backend.
func (b *backend) SiteStatus(_ context.Context, site string) (*api.SiteStatus, error) {
	if site != b.w.ID() {
		return nil, api.ErrNotFound
	}
	e := b.w.Now()
	s := &api.SiteStatus{
		Site: site, Head: e.State.Head, Published: e.State.Staged, Rejected: e.State.Rejected, Machines: map[string]int{},
		ObservedAt: time.Now().UTC(), Reachable: "yes",
	}
	machines, _ := b.statuses(e.Overlay.Catalog)
	for _, m := range machines {
		s.Machines[string(m.State)]++
	}
	for _, a := range b.agentReports() {
		st := api.AgentStatus{ID: a.ID, Alive: a.Alive, Head: a.Head, Version: a.Version, Uplink: "unknown", Store: a.Store, Probe: a.Probe, DHCP: a.DHCP, SSH: a.SSH, Barred: a.Barred}
		if a.ID == b.info.ID {
			st.Uplink = map[bool]string{true: "up", false: "down"}[b.uplink()]
		}
		s.Agents = append(s.Agents, st)
	}
	s.BreakGlass, s.Gateways = b.audit.Emergencies(), b.others()
	for _, o := range b.over.reports() {
		s.Overrides = append(s.Overrides, api.Override{ID: o.ID, Object: o.Object, Op: o.Op, State: o.State, Author: o.Author, Time: o.Time, Reason: o.Reason})
	}
	return s, nil
}

func (b *backend) agentReports() []intent.AgentReport {
	seen := map[string]gossip.Member{}
	for _, m := range b.gossip.Members() {
		seen[m.ID] = m
	}
	st := b.w.State()
	var out []intent.AgentReport
	barred := b.members.Barred()
	for _, a := range st.Signed.Agents {
		why, is := barred[a.ID]
		if a.State == intent.StateSpare && !is && !slices.ContainsFunc(st.Roster.Agents, func(r intent.RosterAgent) bool { return r.ID == a.ID }) {
			continue // it waits
		}
		r := intent.AgentReport{ID: a.ID, Alive: "no", Barred: why}
		g, ok := seen[a.ID]
		switch {
		case a.ID == b.info.ID:
			r.Alive, r.Head, r.Version, r.Store, r.Probe, r.DHCP, r.SSH = "yes", st.Head, b.info.Version, b.store(), b.probe(), b.dhcp(), b.Fingerprint()
		case !ok || g.Since.IsZero():
			r.Alive = "unknown"
		case g.Alive:
			r.Alive = "yes"
			r.Head = intent.Head{Epoch: g.Tags.Intent.Epoch, Seq: g.Tags.Intent.Seq}
		}
		out = append(out, r)
	}
	return out
}

// JoinToken implements api.Backend.
func (b *backend) JoinToken(context.Context, api.Caller, string, api.JoinTokenRequest) (*api.JoinTokenResult, error) {
	return nil, api.ErrElsewhere
}

// UserToken implements api.Backend.
func (b *backend) UserToken(context.Context, api.Caller, string, api.UserTokenRequest) (*api.UserTokenResult, error) {
	return nil, api.ErrElsewhere
}

// Upload implements api.Backend.
func (b *backend) Upload(context.Context, api.Caller, string, string, io.Reader) (*intent.Object, error) {
	return nil, api.ErrElsewhere
}

// Revoked implements api.Backend.
func (b *backend) Revoked(kind intent.RevocationKind, id string) bool { return b.w.Revoked(kind, id) }

// Revoke implements api.Backend.
func (b *backend) Revoke(context.Context, api.Caller, api.RevokeRequest) (*api.RevokeResult, error) {
	return nil, api.ErrElsewhere
}

// Revocations implements api.Backend: what this agent has heard of.
func (b *backend) Revocations(context.Context) (*api.RevocationList, error) {
	l := &api.RevocationList{Head: b.w.RevocationHead(), Entries: b.w.Revocations().Entries(), Agents: []api.RevocationSeen{}}
	slices.SortFunc(l.Entries, func(x, y intent.Revocation) int { return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.ID, y.ID)) })
	return l, nil
}

// Quarantine implements api.Backend.
func (b *backend) Quarantine(ctx context.Context, by api.Caller, site, agent string, r api.QuarantineRequest) (*api.QuarantineResult, error) {
	if site != b.w.ID() {
		return nil, api.ErrNotFound
	}
	return b.members.Quarantine(ctx, by, agent, r)
}

// Proposals implements api.Backend: what the coordinator has not settled, as far as this site knows.
func (b *backend) Proposals(_ context.Context, site string) ([]api.Proposal, error) {
	if site != b.w.ID() {
		return nil, api.ErrNotFound
	}
	return b.over.proposals()
}

// Settle implements api.Backend: it is the coordinator's to decide.
func (b *backend) Settle(context.Context, api.Caller, string, string, api.DecisionRequest) error {
	return api.ErrElsewhere
}

// Admit implements api.Backend.
func (b *backend) Admit(ctx context.Context, site string, env *intent.Envelope) error {
	if site != b.w.ID() {
		return api.ErrNotFound
	}
	err := b.members.Admit(ctx, env)
	switch {
	case errors.Is(err, document.ErrSignature):
		return &api.Error{Status: http.StatusNotFound, Type: "not-found", Detail: fmt.Sprintf("no such spare in intent %v of %s", b.w.State().Head, b.info.ID)}
	case errors.Is(err, document.ErrAdmission):
		return api.Refuse(err.Error())
	case errors.Is(err, members.ErrAlive):
		return &api.Error{Status: http.StatusConflict, Type: "alive", Detail: err.Error()}
	}
	return err
}

// Audit implements api.Backend: the chains of the site's agents, as far as this one has their journals.
func (b *backend) Audit(ctx context.Context, site string, fn func(api.AuditLine) error) error {
	if site != "" && site != b.w.ID() {
		return api.ErrNotFound
	}
	keys := map[string][][]byte{}
	for _, a := range b.w.State().Signed.Agents {
		keys[a.ID] = a.SignKeys()
	}
	return b.audit.Audit(ctx, keys, fn)
}

// Note implements api.Backend.
func (b *backend) Note(ctx context.Context, r intent.AuditRecord) error { return b.audit.Note(ctx, r) }

// IntentFeed implements api.Backend.
func (b *backend) IntentFeed(_ context.Context, site string, from uint64, fn func(*intent.Envelope) error) error {
	if site != b.w.ID() {
		return api.ErrNotFound
	}
	return b.w.Feed(from, fn)
}

// report is what goes up to the coordinator.
func (b *backend) report(boot string) intent.Report {
	rev := b.revision()
	e := b.w.Now()
	machines, arrays := b.statuses(e.Overlay.Catalog)
	r := intent.Report{
		Site: b.w.ID(), Agent: b.info.ID, Boot: boot, Rev: rev, Time: time.Now().UTC(), Head: e.State.Head, Rejected: e.State.Rejected,
		Machines: map[string]intent.MachineStatus{}, Agents: b.agentReports(), Overrides: b.over.reports(), Keys: keys.Report(b.w.Replica, b.floor),
	}
	for k, m := range machines {
		r.Machines[k.Name] = m
	}
	for k, a := range arrays {
		r.Arrays = append(r.Arrays, intent.ArrayReport{Project: k.Scope, Name: k.Name, Status: a})
	}
	return r
}

var (
	_ api.Backend     = (*backend)(nil)
	_ consoles.Holder = (*backend)(nil)
)
