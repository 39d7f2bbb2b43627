package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/coordinator/founding"
	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/secrets"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/pki/trust"
)

// agents admits newcomers and compiles rosters.
type agents struct {
	store   store.Store
	objects *objects
	secrets *secrets.Secrets
	pub     *publish.Publisher
	issuer  *founding.Issuer
	domain  string
	now     func() time.Time
	changed func(site string) // the roster moved: verify again, publish
	moved   func(site string) // the chain moved: tell the site
	locked  func(site string) (unlock func())
	revoked func(kind intent.RevocationKind, id string) bool

	decoded sync.Map // key of the store -> record, of rosters and agents: one change of a site reads them all
}

// record is what an entry of the store says; it must not be changed.
type record struct {
	rev  uint64
	body any
}

// load reads the record at key, and decodes it when it moved.
func load[T any](ctx context.Context, a *agents, key string) (*T, error) {
	e, err := a.store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	if known, ok := a.decoded.Load(key); ok && known.(record).rev == e.Rev {
		return known.(record).body.(*T), nil
	}
	v := new(T)
	if err := json.Unmarshal(e.Value, v); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", key, err)
	}
	a.decoded.Store(key, record{e.Rev, v})
	return v, nil
}

func agentKey(site, id string) string { return store.AgentKey(site, id) }
func rosterKey(site string) string    { return store.RosterKey(site) }
func tokenKey(id string) string       { return "token/" + id }

// Token implements join.Store.
func (a *agents) Token(ctx context.Context, id string) (join.Record, error) {
	e, err := a.store.Get(ctx, tokenKey(id))
	if errors.Is(err, store.ErrAbsent) {
		return join.Record{}, fmt.Errorf("cannot find token: %w", join.ErrAbsent)
	}
	if err != nil {
		return join.Record{}, err
	}
	var r join.Record
	if err := json.Unmarshal(e.Value, &r); err != nil {
		return r, fmt.Errorf("cannot read token %s: %w", id, err)
	}
	return r, nil
}

// Swap implements join.Store: one compare-and-commit on the token's key.
func (a *agents) Swap(ctx context.Context, old, fresh join.Record) error {
	e, err := a.store.Get(ctx, tokenKey(old.ID))
	if errors.Is(err, store.ErrAbsent) {
		return fmt.Errorf("cannot find token: %w", join.ErrAbsent)
	}
	if err != nil {
		return err
	}
	was, err := json.Marshal(old)
	if err != nil {
		return fmt.Errorf("cannot encode token: %w", err)
	}
	if string(was) != string(e.Value) {
		return fmt.Errorf("cannot spend token %s: %w", old.ID, join.ErrConflict)
	}
	now, err := json.Marshal(fresh)
	if err != nil {
		return fmt.Errorf("cannot encode token: %w", err)
	}
	_, err = a.store.Commit(ctx, store.Commit{If: []store.Guard{{Key: e.Key, Rev: e.Rev}}, Put: map[string][]byte{e.Key: now}})
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("cannot spend token %s: %w", old.ID, join.ErrConflict)
	}
	return err
}

// Grant implements join.Granter: certificates, an Agent object, a place in the roster. The same keys get the same identity
// again.
func (a *agents) Grant(ctx context.Context, g join.Grant) (*join.Answer, error) {
	catalog, _ := a.objects.Snapshot()
	if catalog.Get(intent.Key{Kind: intent.KindSite, Name: g.Site}) == nil {
		return nil, fmt.Errorf("cannot admit %s/%s: there is no such site", g.Site, g.Agent)
	}
	if a.revoked(intent.RevokeAgent, g.Site+"/"+g.Agent) || a.revoked(intent.RevokeSPKI, intent.DigestOf(g.TLS).Hex()) {
		return nil, fmt.Errorf("cannot admit %s/%s: it was revoked, which is for ever; join under another id and with new keys", g.Site, g.Agent)
	}
	spec, err := agentSpec(catalog, g)
	if err != nil {
		return nil, err
	}
	issuer := a.issuer.CA() // it may change meanwhile
	entry, leaf, web, err := a.certify(issuer, catalog, g, spec)
	if err != nil {
		return nil, err
	}
	keys, err := json.Marshal(entry)
	if err != nil {
		return nil, fmt.Errorf("cannot encode keys of %s/%s: %w", g.Site, g.Agent, err)
	}
	obj := &intent.Object{APIVersion: intent.APIVersion, Kind: intent.KindAgent, Metadata: intent.Metadata{Name: g.Agent, Site: g.Site}, Spec: spec}
	if err := obj.Validate().Err(); err != nil {
		return nil, fmt.Errorf("cannot admit %s/%s: %w", g.Site, g.Agent, err)
	}
	by := apiCaller("join token", g.Agent)
	extra := store.Commit{Put: map[string][]byte{agentKey(g.Site, g.Agent): keys}}
	if _, err := a.objects.Apply(ctx, by, batchOf(obj, "agent joined from "+g.Source.String()), extra); err != nil {
		return nil, fmt.Errorf("cannot admit %s/%s: %w", g.Site, g.Agent, err)
	}
	if err := a.Sync(ctx, g.Site); err != nil {
		return nil, err
	}
	head, _, err := a.pub.Head(ctx, g.Site)
	if err != nil {
		return nil, err
	}
	roster, err := a.Roster(ctx, g.Site)
	if err != nil {
		return nil, err
	}
	peers := slices.DeleteFunc(slices.Clone(roster.Agents), func(r intent.RosterAgent) bool { return r.ID == g.Agent })
	return &join.Answer{
		Peers: peers, Domain: a.domain, Site: g.Site, Agent: g.Agent, Leaf: leaf, Web: web, CA: issuer.Cert.Raw, Roster: *entry, Head: head,
	}, nil
}

// agentSpec keeps what is known of a returning agent and gives a new one the next rank.
func agentSpec(c *intent.Catalog, g join.Grant) (*intent.AgentSpec, error) {
	spec := &intent.AgentSpec{Roles: g.Roles, Spare: g.Spare}
	if old, _, ok := intent.Lookup[*intent.AgentSpec](c, intent.KindAgent, g.Site, g.Agent); ok {
		*spec = *old
	} else {
		for _, o := range c.List(intent.KindAgent) {
			if o.Metadata.Site == g.Site {
				spec.Rank = max(spec.Rank, o.Spec.(*intent.AgentSpec).Rank+1)
			}
		}
	}
	if g.Spare {
		if !spec.Spare {
			return nil, fmt.Errorf("cannot make %s/%s a spare: an agent has that id", g.Site, g.Agent)
		}
		return spec, nil
	}
	spec.Spare = false
	if len(g.Addr) == 0 {
		return nil, fmt.Errorf("cannot admit %s/%s: it named no management address", g.Site, g.Agent)
	}
	spec.Management, spec.Boot = g.Addr[0], g.Boot
	return spec, nil
}

// certify issues the leaf for skerry-* protocols and the web leaf for the agent's addresses; a spare's is for those of all agents,
// because it may come to stand where any of them stood.
func (a *agents) certify(issuer *ca.CA, c *intent.Catalog, g join.Grant, spec *intent.AgentSpec) (entry *intent.RosterAgent, leaf, web []byte, err error) {
	now := a.now()
	l, err := issuer.Issue(g.CSR, trust.Identity{Kind: trust.Agent, Site: g.Site, ID: g.Agent}, now)
	if err != nil {
		return nil, nil, nil, err
	}
	ips := addressesOf(spec)
	if spec.Spare {
		for _, o := range c.List(intent.KindAgent) {
			if o.Metadata.Site == g.Site {
				ips = append(ips, addressesOf(o.Spec.(*intent.AgentSpec))...)
			}
		}
	}
	w, err := issuer.IssueWeb(g.CSR, []string{g.Agent + "." + g.Site + "." + a.domain}, ips, now)
	if err != nil {
		return nil, nil, nil, err
	}
	return &intent.RosterAgent{
		ID: g.Agent, Rank: uint16(spec.Rank), State: stateOf(spec), Roles: spec.Roles, Addr: managementOf(spec), Boot: spec.Boot,
		TLS: [][]byte{g.TLS}, Sign: [][]byte{g.Sign}, Seal: [][]byte{g.Seal}, Certs: [][]byte{l.Raw, w.Raw},
	}, l.Raw, w.Raw, nil
}

// recertify makes the entry of an agent that is there and has other keys, or another CA above it.
func (a *agents) recertify(g join.Grant) (*intent.RosterAgent, error) {
	c, _ := a.objects.Snapshot()
	spec, _, ok := intent.Lookup[*intent.AgentSpec](c, intent.KindAgent, g.Site, g.Agent)
	if !ok {
		return nil, fmt.Errorf("cannot certify %s/%s: there is no such agent", g.Site, g.Agent)
	}
	entry, _, _, err := a.certify(a.issuer.CA(), c, g, spec)
	return entry, err
}

func addressesOf(s *intent.AgentSpec) (ips []netip.Addr) {
	if ap, err := netip.ParseAddrPort(s.Management); err == nil {
		ips = append(ips, ap.Addr())
	}
	for _, b := range s.Boot {
		if ip, err := netip.ParseAddr(b); err == nil {
			ips = append(ips, ip)
		}
	}
	return ips
}

func managementOf(s *intent.AgentSpec) []string {
	if s.Management == "" {
		return nil
	}
	return []string{s.Management}
}

func stateOf(s *intent.AgentSpec) string {
	if s.Spare {
		return intent.StateSpare
	}
	return intent.StateAgent
}

// Roster returns a site's roster as it was last published, which must not be changed; nil for a site without agents.
func (a *agents) Roster(ctx context.Context, site string) (*intent.RosterBody, error) {
	r, err := load[intent.RosterBody](ctx, a, rosterKey(site))
	if errors.Is(err, store.ErrAbsent) {
		return nil, nil
	}
	return r, err
}

// Sync brings a site's chain up to what is wanted: roster first, so that everybody knows whom the rest is for, then
// secrets, then objects. It tells the site when that moved the chain, whoever asked for it.
func (a *agents) Sync(ctx context.Context, site string) error {
	defer a.locked(site)()
	for races := 0; ; races++ {
		from, to, err := a.sync(ctx, site)
		if to != from {
			a.moved(site)
		}
		if !errors.Is(err, store.ErrConflict) || races == maxRaces {
			return err
		}
	}
}

// maxRaces is how often another coordinator may be faster before the publication rests.
const maxRaces = 20

// sync opens the chain before it reads anything: what it reads then is at least as new as the head that its entries name.
func (a *agents) sync(ctx context.Context, site string) (from, to intent.Head, err error) {
	ch, err := a.pub.Open(ctx, site)
	if err != nil {
		return from, to, err
	}
	from = ch.Head()
	defer func() { to = ch.Head() }()
	if err := a.objects.fresh(ctx); err != nil {
		return from, to, err
	}
	roster, err := a.syncRoster(ctx, ch, site)
	if err != nil {
		return from, to, err
	}
	if len(roster.Agents) > 0 {
		if err := a.secrets.EnsureBootKey(ctx, site); err != nil {
			return from, to, err
		}
		if err := a.secrets.Sync(ctx, ch, a.domain, site, roster); err != nil {
			return from, to, err
		}
	}
	catalog, _ := a.objects.Snapshot()
	if err := ch.Sync(ctx, catalog); err != nil {
		return from, to, err
	}
	return from, to, ch.Vouch(ctx)
}

// syncRoster appends a roster entry when an agent came, changed or went. One change is one generation.
func (a *agents) syncRoster(ctx context.Context, ch *publish.Chain, site string) (*intent.RosterBody, error) {
	old, err := a.Roster(ctx, site)
	if err != nil {
		return nil, err
	}
	if old == nil {
		old = &intent.RosterBody{}
	}
	body := &intent.RosterBody{Generation: old.Generation + 1}
	catalog, _ := a.objects.Snapshot()
	for _, o := range catalog.List(intent.KindAgent) {
		if o.Metadata.Site != site {
			continue
		}
		known, err := load[intent.RosterAgent](ctx, a, agentKey(site, o.Metadata.Name))
		if err != nil {
			return nil, fmt.Errorf("cannot compile roster of %s: %w", site, err)
		}
		ra := *known
		spec := o.Spec.(*intent.AgentSpec)
		ra.Addr, ra.Boot, ra.Roles, ra.Rank, ra.State = managementOf(spec), spec.Boot, spec.Roles, uint16(spec.Rank), stateOf(spec)
		body.Agents = append(body.Agents, ra)
	}
	slices.SortFunc(body.Agents, func(x, y intent.RosterAgent) int { return int(x.Rank) - int(y.Rank) })
	was, err1 := json.Marshal(old.Agents)
	is, err2 := json.Marshal(body.Agents)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("cannot compare rosters of %s: %w", site, err)
	}
	if string(was) == string(is) {
		return old, nil
	}
	for _, o := range old.Agents {
		if !slices.ContainsFunc(body.Agents, func(n intent.RosterAgent) bool { return n.ID == o.ID }) {
			if err := a.secrets.Forget(ctx, site, o.ID); err != nil {
				return nil, err
			}
		}
	}
	v, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("cannot encode roster of %s: %w", site, err)
	}
	if err := ch.Append(ctx, intent.EntryRoster, body, store.Commit{Put: map[string][]byte{rosterKey(site): v}}); err != nil {
		return nil, err
	}
	a.changed(site)
	return body, nil
}
