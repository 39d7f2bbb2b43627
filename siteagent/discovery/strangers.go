package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/discovery"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// The journal's kinds. The key of all is one of MaxKept places: a journal keeps its keys for ever, and anybody on a segment can make up
// machines. That it was seen again, and that it is ignored, stand beside the record: the one is small, the other no sighting may overwrite.
// They count while they name the record's machine.
const (
	kindDiscovered = "discovered"
	kindSeen       = "discovered-seen"
	kindIgnored    = "discovered-ignored"
)

const (
	// maxReport bounds a report as it is kept: the inventory of a large machine is about 64 KiB.
	maxReport = 96 << 10
	// seenEvery is how often it is kept that a machine is still there: each costs an fsync on every agent.
	seenEvery = time.Hour
	// leaveFor is how long a machine with data on a disk is left to it; then its next boot by network is looked at again, once.
	leaveFor = 24 * time.Hour
	// failedFor is how long one of which nothing could be kept is left alone; maxFailed bounds how many are remembered.
	failedFor = time.Hour
	maxFailed = 4096
	maxBooted = 8 // cards by which one box booted
	// What an agent writes about strangers, in octets: racks full of them at once, and of a flood no more than a disk bears for years. Journals
	// keep superseded records for weeks, and events for ever.
	budgetBurst   = 16 << 20
	budgetPerHour = 256 << 10
	recordCost    = 1 << 10 // beside its body
	eventCost     = 4 << 10
)

// The errors callers branch on.
var (
	// ErrReport says that a report cannot be kept.
	ErrReport = errors.New("the report is too large")
	// ErrRate says that there were too many of late: come again.
	ErrRate = errors.New("too many machines were discovered of late")
)

// Strangers keeps what was discovered at a site.
type Strangers struct {
	Site  *effective.Site
	Self  string
	Audit *auditlog.Log
	May   func() error // why this agent may change nothing; nil: it may

	mu   sync.Mutex // guards what follows; held from the choice of a place until its record is written
	used int        // of budgetBurst
	at   time.Time  // when that was
	// failed are the MACs of machines of which nothing could be kept, and when.
	failed map[string]time.Time
}

// Port is where a machine is plugged in.
type Port = discovery.FoundPort

// Sighting is one report of a machine whose MAC has a dynamic lease.
type Sighting struct {
	MAC     string // that booted, lower case with colons
	Address string
	Subnet  string
	Port    discovery.FoundPort // empty: not known by this agent
	Facts   reconcile.Facts
	Report  *inventory.Report // bounded
}

// record is a discovered machine in the journal.
type record struct {
	// Booted are the cards by which the box itself booted, beside that of its ID: what it says of others' may be a lie.
	Booted  []string              `json:"booted,omitempty"`
	Address string                `json:"address"`
	Subnet  string                `json:"subnet"`
	Port    discovery.FoundPort   `json:"port"`
	Facts   reconcile.Facts       `json:"facts"`
	Report  json.RawMessage       `json:"report"`
	Links   []discovery.FoundLink `json:"links,omitempty"` // of the report
	First   time.Time             `json:"first"`
	seen
}

// seen is when a machine was seen last, and by whom.
type seen struct {
	ID    string    `json:"id"`
	Last  time.Time `json:"last"`
	Agent string    `json:"agent"`
}

// ignored is a decision about the machine of a place.
type ignored struct {
	ID string `json:"id"`
	discovery.Ignored
}

// IDOf returns the id of the machine that booted by a MAC address: with hyphens, so that it is a word in paths and shells.
func IDOf(mac string) string { return strings.ReplaceAll(mac, ":", "-") }

func macOf(id string) string { return strings.ReplaceAll(id, "-", ":") }

// See takes a sighting: owner is the declared machine that it is; unwanted tells that it is ignored. Then nothing is kept. What is kept is
// on this agent's disk. Errors: ErrReport, ErrRate.
func (d *Strangers) See(ctx context.Context, s Sighting, now time.Time) (owner string, unwanted bool, err error) {
	raw, err := json.Marshal(s.Report)
	if err != nil || len(raw) > maxReport {
		return "", false, fmt.Errorf("cannot keep the report of %s, %d octets: %w", s.MAC, len(raw), errors.Join(ErrReport, err))
	}
	r := record{
		Address: s.Address, Subnet: s.Subnet, Port: s.Port, Facts: s.Facts, Report: raw, First: now.UTC(), seen: seen{IDOf(s.MAC), now.UTC(), d.Self},
	}
	r.Facts.Time = time.Time{} // it is Last
	for _, n := range s.Report.NICs {
		if at := n.Neighbour; at != nil {
			r.Links = append(r.Links, discovery.FoundLink{MAC: n.MAC, System: at.System, Chassis: at.Chassis, Port: at.Port, Description: at.Description})
		}
	}
	machines := d.machines()
	if v := judge(r, machines, nil); v.Owner != "" {
		return v.Owner, false, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.failed, s.MAC)
	have := d.kept(machines)
	at, again := place(have, r)
	was := have[at]
	drafts := []claim.Draft{{Kind: kindDiscovered, Key: at, Body: &r}}
	cost := 2*len(raw) + recordCost // with the facts, which are taken from the report
	switch {
	case again && was.ignored != nil && was.booted(s.MAC):
		return "", true, nil
	case again:
		unwanted = was.ignored != nil
		if r.Booted = was.Booted; !was.booted(s.MAC) && len(was.Booted) < maxBooted {
			r.Booted = append(slices.Clone(was.Booted), s.MAC)
		}
		if r.Port == (discovery.FoundPort{}) {
			r.Port = was.Port // another agent heard the relay
		}
		r.ID, r.First = was.ID, was.First
		if was.same(r) {
			if now.Sub(was.Last).Abs() < seenEvery {
				return "", false, nil
			}
			drafts, cost = []claim.Draft{{Kind: kindSeen, Key: at, Body: r.seen}}, recordCost
		}
	default:
		drafts, cost = append(drafts, found(r)), cost+eventCost
	}
	if !d.allow(cost, now) {
		return "", false, fmt.Errorf("cannot keep %s: %w", r.ID, ErrRate)
	}
	return "", unwanted, d.Site.Journal.Append(ctx, claim.Local, drafts...)
}

// booted tells whether the box booted by a card, as this site saw.
func (r record) booted(mac string) bool { return r.ID == IDOf(mac) || slices.Contains(r.Booted, mac) }

// Failed notes that nothing could be kept of a machine that told of itself.
func (d *Strangers) Failed(mac string, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.failed) >= maxFailed || d.failed == nil {
		d.failed = map[string]time.Time{}
	}
	d.failed[mac] = now
}

// found tells of a new machine.
func found(r record) claim.Draft {
	f := r.Facts
	what := strings.Join(strings.Fields(fmt.Sprintf("nobody declared it: %s %s, serial %q, %d cpu, %d MiB, %d disks", f.Vendor, f.Product, f.Serial, f.CPUs, f.MemoryMiB, len(f.Disks))), " ")
	return reconcile.Event(r.ID, "", intent.Epoch{}, "machine.found", what, map[string]string{
		"address": r.Address, "subnet": r.Subnet, "relay": r.Port.Relay, "circuit": r.Port.Circuit, "remote": r.Port.Remote,
	})
}

// same tells whether a record says the same of the machine; times and who heard it aside.
func (r record) same(o record) bool {
	return slices.Equal(r.Booted, o.Booted) && r.Address == o.Address && r.Subnet == o.Subnet && r.Port == o.Port && string(r.Report) == string(o.Report) && reflect.DeepEqual(r.Facts, o.Facts)
}

// allow takes cost octets of the budget, if it has them. A clock that leaps fills it at most. The lock is held.
func (d *Strangers) allow(cost int, now time.Time) bool {
	if gain := int(now.Sub(d.at).Hours() * budgetPerHour); gain != 0 {
		d.used, d.at = max(0, d.used-max(gain, 0)), now
	}
	if d.used+cost > budgetBurst {
		return false
	}
	d.used += cost
	return true
}

// Leave says why a machine that boots by a MAC address, whichever of its cards that is, is left to its own disk; empty: it is not. One that is
// not wanted; a card of a declared machine, which the site boots by another; and one that holds data and was looked at of late, or of which
// nothing could be kept: it may be somebody's server that tries the network first, and a restart must not take it away from them.
func (d *Strangers) Leave(mac string, now time.Time) string {
	if names := d.machines().like([]string{mac}, "", ""); len(names) > 0 {
		return "it is a card of machine " + names[0]
	}
	d.mu.Lock()
	failed, ok := d.failed[mac]
	d.mu.Unlock()
	j, why := d.Site.Journal, ""
	if ok && now.Sub(failed).Abs() < failedFor {
		why = "nothing could be kept of it of late"
	}
	for _, at := range j.Keys(kindDiscovered) {
		r := claim.Shared[record](j, kindDiscovered, at)
		if r == nil || !r.booted(mac) {
			continue
		}
		if i := claim.Shared[ignored](j, kindIgnored, at); i != nil && i.ID == r.ID {
			return "ignored"
		}
		last := r.Last
		if s := claim.Shared[seen](j, kindSeen, at); s != nil && s.ID == r.ID && s.Last.After(last) {
			last = s.Last
		}
		if r.Facts.Signed && now.Sub(last).Abs() < leaveFor {
			why = "it holds data, and was looked at of late"
		}
	}
	return why
}

func (d *Strangers) machines() *directory {
	return knownMachines(d.Site.Now().Overlay.Catalog, d.Site.ID(), func(machine string) *reconcile.Facts {
		return claim.Shared[reconcile.Facts](d.Site.Journal, reconcile.KindAccepted, machine)
	})
}

// kept reads the places. One that cannot be read counts as free: the machine tells again.
func (d *Strangers) kept(machines *directory) map[string]kept {
	j, out := d.Site.Journal, map[string]kept{}
	for _, at := range j.Keys(kindDiscovered) {
		if r := claim.Shared[record](j, kindDiscovered, at); r != nil {
			k := kept{record: *r, declared: judge(*r, machines, nil).Owner != ""}
			if i := claim.Shared[ignored](j, kindIgnored, at); i != nil && i.ID == r.ID {
				k.ignored = &i.Ignored
			}
			if s := claim.Shared[seen](j, kindSeen, at); s != nil && s.ID == r.ID && s.Last.After(r.Last) {
				k.seen = *s
			}
			out[at] = k
		}
	}
	return out
}

// Discovered implements discovery.Source.
func (d *Strangers) Discovered(_ context.Context, site, id string) (*discovery.Found, error) {
	if site != d.Site.ID() {
		return nil, api.ErrNotFound
	}
	c, machines := d.Site.Now().Overlay.Catalog, d.machines()
	types := map[string]*intent.MachineTypeSpec{}
	for _, o := range c.List(intent.KindMachineType) {
		types[o.Metadata.Name] = o.Spec.(*intent.MachineTypeSpec)
	}
	have := d.kept(machines)
	var all []record
	for at, k := range have {
		if k.declared {
			delete(have, at)
			continue
		}
		all = append(all, k.record)
	}
	slices.SortFunc(all, func(a, b record) int { return strings.Compare(a.ID, b.ID) })
	l := &discovery.Found{Site: site, Max: MaxKept, Machines: []discovery.FoundMachine{}}
	for _, k := range have {
		if id != "" && k.ID != id {
			continue
		}
		m := shown(k.record, judge(k.record, machines, all), types)
		m.Ignored = k.ignored
		if id != "" {
			m.Inventory = k.Report
		}
		l.Machines = append(l.Machines, m)
	}
	slices.SortFunc(l.Machines, func(a, b discovery.FoundMachine) int {
		if n := b.Last.Compare(a.Last); n != 0 {
			return n
		}
		return strings.Compare(a.ID, b.ID)
	})
	return l, nil
}

// shown is a record as the API has it.
func shown(r record, v verdict, types map[string]*intent.MachineTypeSpec) discovery.FoundMachine {
	f := r.Facts
	m := discovery.FoundMachine{
		ID: r.ID, Serial: f.Serial, UUID: f.UUID, Vendor: f.Vendor, Product: f.Product, Firmware: f.Firmware, CPUs: f.CPUs, MemoryMiB: f.MemoryMiB,
		Disks: []discovery.FoundDisk{}, MACs: f.MACs, Address: r.Address, Subnet: r.Subnet, Port: r.Port, First: r.First, Last: r.Last, Agent: r.Agent,
		HoldsData: f.Signed, Conflict: v.Conflict, Notes: v.Notes, Spec: proposal(r, v),
	}
	for _, x := range f.Disks {
		m.Disks = append(m.Disks, discovery.FoundDisk{Serial: x.Serial, WWN: x.WWN, SizeBytes: x.SizeBytes, Media: x.Media, Model: x.Model})
	}
	m.MachineType, m.Nearest, m.Differs = suggest(types, &f)
	m.Links = r.Links
	return m
}

// Ignore keeps a discovered machine from the ramdisk; it boots its own disk. It stays on the list, and may be accepted.
func (d *Strangers) Ignore(ctx context.Context, by api.Caller, site, id, reason string) error {
	if site != d.Site.ID() {
		return api.ErrNotFound
	}
	if err := d.May(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	id = IDOf(strings.ToLower(id))
	for at, k := range d.kept(d.machines()) {
		if k.ID != id || k.declared {
			continue
		}
		now := time.Now().UTC()
		err := d.Site.Journal.Append(ctx, claim.Replicated,
			claim.Draft{Kind: kindIgnored, Key: at, Body: ignored{id, discovery.Ignored{By: by.User, Reason: reason, Time: now}}},
			reconcile.Event(id, "", intent.Epoch{}, "machine.ignored", by.User+": "+reason, nil),
			d.Audit.Draft(by.Audit("ignore", "discovered "+site+"/"+id, reason)))
		if errors.Is(err, claim.ErrWaitingPeer) {
			return nil
		}
		return err
	}
	return api.ErrNotFound
}

// Count returns how many machines are listed, ignored ones too; at most MaxKept.
func (d *Strangers) Count() (listed int) {
	for _, k := range d.kept(d.machines()) {
		if !k.declared {
			listed++
		}
	}
	return listed
}
