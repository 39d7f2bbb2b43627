package coordinator

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/coordinator/rotation"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// siteReport is what a site last said about itself. It is shown with its age, and decides nothing but that nobody takes the
// place of who is alive.
type siteReport struct {
	intent.Report
	Received time.Time                   `json:"received"`
	Heard    map[string]rotation.Contact `json:"heard,omitempty"` // the last report of each agent
}

// reportCounts is twice as long as a site that is connected is silent at most.
const reportCounts = time.Minute

func reportKey(site string) string { return "report/" + site }

func (o *objects) loadReports(ctx context.Context) error {
	return o.store.Range(ctx, "report/", "", o.keepReport)
}

func (o *objects) keepReport(e store.Entry) error {
	r := &siteReport{}
	if err := json.Unmarshal(e.Value, r); err != nil {
		return fmt.Errorf("cannot read %s: %w", e.Key, err)
	}
	o.reports[e.Key[len("report/"):]] = r
	return nil
}

// keepStores carries over what the other agents of a site said of their stores: each knows its own only.
func keepStores(to, from []intent.AgentReport) {
	for i := range to {
		for _, a := range from {
			if to[i].Store == "" && a.ID == to[i].ID {
				to[i].Store = a.Store
			}
		}
	}
}

// barred tells whether a report is of an agent that does not count at its site: it speaks for itself alone.
func barred(r intent.Report) bool {
	return slices.ContainsFunc(r.Agents, func(a intent.AgentReport) bool { return a.ID == r.Agent && a.Barred != "" })
}

// setReport keeps a site's report of a time; an older one than the stored is ignored: two agents report, and sticks bring what was so.
func (o *objects) setReport(ctx context.Context, site string, r intent.Report, at time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if old := o.reports[site]; old != nil && old.Rev > r.Rev && old.Agent == r.Agent && old.Boot == r.Boot {
		return nil
	} else if old != nil {
		keepStores(r.Agents, old.Agents)
	}
	rep := &siteReport{Report: r, Received: at.UTC(), Heard: map[string]rotation.Contact{}}
	if old := o.reports[site]; old != nil {
		for id, c := range old.Heard { // who is no agent any more is forgotten
			if o.catalog.Get(intent.Key{Kind: intent.KindAgent, Scope: site, Name: id}) != nil {
				rep.Heard[id] = c
			}
		}
	}
	rep.Heard[r.Agent] = rotation.Contact{At: rep.Received, Keys: r.Keys, Head: r.Head, Rejected: r.Rejected}
	if old := o.reports[site]; old != nil && (old.Received.After(rep.Received) || barred(r)) {
		rep.Report, rep.Received = old.Report, old.Received
	}
	v, err := json.Marshal(rep)
	if err != nil {
		return fmt.Errorf("cannot encode report of %s: %w", site, err)
	}
	if _, err := o.store.Commit(ctx, store.Commit{Put: map[string][]byte{reportKey(site): v}}); err != nil {
		return fmt.Errorf("cannot keep report of %s: %w", site, err)
	}
	o.reports[site] = rep
	return o.refresh(ctx)
}

// heard says when each agent of a site was last heard, and whether its site sees it.
func (o *objects) heard(site string) rotation.Heard {
	o.mu.Lock()
	defer o.mu.Unlock()
	h := rotation.Heard{Seen: map[string]string{}, Heads: map[string]uint64{}}
	if r := o.reports[site]; r != nil {
		h.Contacts = r.Heard // replaced, never changed
		for _, a := range r.Agents {
			h.Seen[a.ID], h.Heads[a.ID] = a.Alive, a.Head.Seq
		}
	}
	return h
}

// sees tells whether the site said a moment ago that an agent of the roster is alive, and counts there.
func (o *objects) sees(site, agent string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.reports[site]
	return r != nil && o.now().Sub(r.Received).Abs() < reportCounts && o.catalog.Get(intent.Key{Kind: intent.KindAgent, Scope: site, Name: agent}) != nil &&
		slices.ContainsFunc(r.Agents, func(a intent.AgentReport) bool { return a.ID == agent && a.Alive == "yes" && a.Barred == "" })
}

// said returns what a site last said of its machines, and its agents of themselves.
func (o *objects) said(site string) (machines map[string]intent.MachineStatus, keys map[string]*intent.KeyReport) {
	o.mu.Lock()
	defer o.mu.Unlock()
	keys = map[string]*intent.KeyReport{}
	if r := o.reports[site]; r != nil { // replaced, never changed
		machines = r.Machines
		for id, c := range r.Heard {
			keys[id] = c.Keys
		}
	}
	return machines, keys
}

// fill puts the reported statuses into a catalog of its own.
func (r *siteReport) fill(c *intent.Catalog, site string) {
	set := func(k intent.Key, v any) {
		o := c.Get(k)
		if o == nil || o.Metadata.Site != site { // nobody reports of another site's arrays
			return
		}
		b, err := json.Marshal(v)
		if err != nil {
			return // plain data; a status that cannot be shown is left out
		}
		with := *o
		with.Status = b
		c.Put(&with)
	}
	for name, st := range r.Machines {
		set(intent.Key{Kind: intent.KindMachine, Scope: site, Name: name}, st)
	}
	for _, a := range r.Arrays {
		set(intent.Key{Kind: intent.KindInstanceArray, Scope: a.Project, Name: a.Name}, a.Status)
	}
}

// status is the coordinator's view of a site, from its last report.
func (o *objects) status(site string) (*api.SiteStatus, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.reports[site]
	if r == nil {
		return &api.SiteStatus{Site: site, Machines: map[string]int{}}, false
	}
	s := &api.SiteStatus{Site: site, Head: r.Head, Machines: map[string]int{}, ObservedAt: r.Received, Rejected: r.Rejected}
	for _, m := range r.Machines {
		s.Machines[string(m.State)]++
	}
	for _, a := range r.Agents {
		s.Agents = append(s.Agents, api.AgentStatus{ID: a.ID, Alive: a.Alive, Head: a.Head, Version: a.Version, Store: a.Store, Probe: a.Probe, DHCP: a.DHCP, SSH: a.SSH, Barred: a.Barred})
	}
	for _, v := range r.Overrides {
		s.Overrides = append(s.Overrides, api.Override{ID: v.ID, Object: v.Object, Op: v.Op, State: v.State, Author: v.Author, Time: v.Time, Reason: v.Reason})
	}
	return s, true
}

// contact is when a site's last report came; zero: none did.
func (o *objects) contact(site string) time.Time {
	s, _ := o.status(site)
	return s.ObservedAt
}

// hasSite tells whether there is such a site.
func (o *objects) hasSite(site string) bool {
	c, _ := o.Snapshot()
	return c.Get(intent.Key{Kind: intent.KindSite, Name: site}) != nil
}
