package fault

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// history is one random life of a world, and what was answered in it.
type history struct {
	*world
	rnd   *rand.Rand
	trace []string
	cuts  map[[2]string]bool // boxes that are parted; site/coordinator for a site's WAN
	deaf  map[[2]string]bool // of two boxes the first is not heard by the second
	// acked are the overrides that agents answered for, by id: the site.
	acked map[string]string
	// shrunk says by array key how far users ever let it down: an instance with that index or a higher one may have ended.
	shrunk map[string]int
	// taken are the machines that overrides of a site took since its WAN was cut last, by agent.
	taken map[string]map[string]int
	late  string          // why a site was not settled when it was looked at last
	owed  map[string]bool // sites whose agents together took more than the offline quota
}

func newHistory(t *testing.T, rnd *rand.Rand) *history {
	t.Helper()
	return &history{
		world: newWorld(t, 3), rnd: rnd, cuts: map[[2]string]bool{}, deaf: map[[2]string]bool{}, acked: map[string]string{},
		shrunk: map[string]int{}, taken: map[string]map[string]int{}, owed: map[string]bool{},
	}
}

// told ends the world, and says how it went when something was wrong.
func (h *history) told(seed uint64) {
	if h.Failed() || testing.Verbose() {
		h.Logf("-seed %d\n%s\n%s", seed, strings.Join(h.trace, "\n"), h.late)
	}
	h.over()
}

func (h *history) note(format string, args ...any) {
	h.trace = append(h.trace, time.Now().Format("15:04:05 ")+fmt.Sprintf(format, args...))
}

func (h *history) pick(list []string) string { return list[h.rnd.IntN(len(list))] }

func (h *history) agents() (out []string) {
	for _, s := range h.sites {
		out = append(out, s+"/a1", s+"/a2")
	}
	return out
}

// wire cuts or heals what lies between two boxes, or between a site and the coordinator.
func (h *history) wire(a, b string, cut bool) {
	if b == "coordinator" && cut && !h.cuts[[2]string{a, b}] {
		h.taken[a] = map[string]int{} // what was taken before may have had its answer
	}
	h.cuts[[2]string{a, b}] = cut
	h.note("%s - %s: cut %v", a, b, cut)
	if b == "coordinator" {
		for _, id := range []string{"/a1", "/a2"} {
			h.net.Cut(h.boxes[a+id].ip, h.boxes[b].ip, cut)
		}
		return
	}
	h.net.Cut(h.boxes[a].ip, h.boxes[b].ip, cut)
}

// step does one thing.
func (h *history) step() {
	site := h.pick(h.sites)
	switch k := h.rnd.IntN(20); {
	case k < 4:
		h.wire(site, "coordinator", h.rnd.IntN(3) > 0)
	case k < 6:
		h.wire(site+"/a1", site+"/a2", h.rnd.IntN(2) == 0)
	case k < 8:
		h.power(h.pick(append(h.agents(), "coordinator")))
	case k < 17:
		h.change(site)
	case k < 19:
		h.maintenance(site)
	default:
		h.key(site)
	}
	time.Sleep(time.Duration(1+h.rnd.IntN(45)) * time.Second)
}

// power kills a box that is up, and starts one that is down.
func (h *history) power(name string) {
	if h.boxes[name].stop == nil {
		h.note("%s starts", name)
		h.start(name, "")
		return
	}
	h.note("%s is killed", name)
	h.kill(name)
}

// at says who is asked about a site: its agents or the coordinator, whoever is up.
func (h *history) at(site string) string {
	var up []string
	for _, n := range []string{"coordinator", site + "/a1", site + "/a2"} {
		if h.boxes[n].stop != nil {
			up = append(up, n)
		}
	}
	if len(up) == 0 {
		return ""
	}
	return h.pick(up)
}

// answered notes what was acknowledged.
func (h *history) answered(who, what string, res []api.Result, err error) bool {
	if err != nil {
		h.note("%s at %s: %.160v", what, who, err)
		return false
	}
	for _, r := range res {
		h.note("%s at %s: %s rev %d %s", what, who, r.Action, r.Rev, r.Override)
		if r.Override != "" {
			h.acked[r.Override], _, _ = strings.Cut(who, "/")
		}
	}
	return true
}

// change lets a user create, resize or delete an array, somewhere.
func (h *history) change(site string) {
	who := h.at(site)
	if who == "" {
		return
	}
	name := fmt.Sprintf("w%d-%s", h.rnd.IntN(3), site)
	c := h.api("ana", who)
	ctx, cancel := h.ask()
	defer cancel()
	info, _ := intent.KindInstanceArray.Info()
	was, had := 0, false
	if o, err := c.Get(ctx, info, "acme", name); err == nil {
		was, had = o.Spec.(*intent.InstanceArraySpec).Count, true
	} else if !client.Is(err, 404) {
		h.note("get %s at %s: %.160v", name, who, err)
		return
	}
	least := func(n int) { // also where the answer is lost: it may have been done
		if old, ok := h.shrunk[name]; !ok || n < old {
			h.shrunk[name] = n
		}
	}
	if had && h.rnd.IntN(4) == 0 {
		least(0)
		res, err := c.Delete(ctx, info, "acme", name, false, "history")
		h.answered(who, "delete "+name, res, err)
		return
	}
	n := h.rnd.IntN(4)
	if n < was {
		least(n)
	}
	res, err := c.Apply(ctx, rawDocs(fmt.Sprintf(`{"kind":"InstanceArray","metadata":{"name":%q,"project":"acme","site":%q},"spec":{"infrastructure":"shop-%s","count":%d,"machineType":"small","image":"tiny"}}`, name, site, site, n)), false, "history")
	if h.answered(who, fmt.Sprintf("%s to %d", name, n), res, err) && res[0].Override != "" && n > was {
		h.charge(site, who, n-was)
	}
}

// charge counts what an agent's answer took from the offline quota of 2.
func (h *history) charge(site, who string, n int) {
	if h.taken[site] == nil {
		h.taken[site] = map[string]int{}
	}
	h.taken[site][who] += n
	sum := 0
	for _, k := range h.taken[site] {
		sum += k
	}
	if sum > 2 && h.cuts[[2]string{site, "coordinator"}] {
		h.note("%s took %d offline", site, sum)
		h.owed[site] = true
	}
}

// maintenance lets an operator hold a machine, or let it go.
func (h *history) maintenance(site string) {
	who := h.at(site)
	if who == "" {
		return
	}
	c := h.api("admin", who)
	ctx, cancel := h.ask()
	defer cancel()
	info, _ := intent.KindMachine.Info()
	o, err := c.Get(ctx, info, site, fmt.Sprintf("%s-m%d", site, h.rnd.IntN(worldMachines)))
	if err != nil {
		h.note("get machine at %s: %.160v", who, err)
		return
	}
	o.Status = nil
	s := o.Spec.(*intent.MachineSpec)
	s.Maintenance = !s.Maintenance
	res, err := c.Put(ctx, o, false, "history")
	h.answered(who, fmt.Sprintf("%s maintenance %v", o.Metadata.Name, s.Maintenance), res, err)
}

// key lets a user give or take an SSH key, which belongs to no site.
func (h *history) key(site string) {
	who := h.at(site)
	if who == "" {
		return
	}
	c := h.api("ana", who)
	ctx, cancel := h.ask()
	defer cancel()
	name := fmt.Sprintf("k%d", h.rnd.IntN(2))
	if h.rnd.IntN(3) == 0 {
		info, _ := intent.KindSSHKey.Info()
		res, err := c.Delete(ctx, info, "acme", name, false, "history")
		h.answered(who, "delete "+name, res, err)
		return
	}
	res, err := c.Apply(ctx, rawDocs(fmt.Sprintf(`{"kind":"SSHKey","metadata":{"name":%q,"project":"acme"},"spec":{"publicKey":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl %d"}}`, name, h.rnd.IntN(9))), false, "history")
	h.answered(who, "key "+name, res, err)
}

// heal ends all trouble and waits until everybody is level and the site has settled.
func (h *history) heal() {
	for _, w := range slices.SortedFunc(maps.Keys(h.cuts), func(a, b [2]string) int { return strings.Compare(a[0]+a[1], b[0]+b[1]) }) {
		if h.cuts[w] {
			h.wire(w[0], w[1], false)
		}
	}
	for _, n := range append(h.agents(), "coordinator") {
		if h.boxes[n].stop == nil {
			h.power(n)
		}
	}
	h.quiet()
}

func (h *history) quiet() {
	h.Helper()
	for _, s := range h.sites {
		h.until(s+" is level", func() bool { return h.level(s) && h.settled(s) })
	}
	time.Sleep(3 * time.Minute) // claims of dead lives end, rests are over, plans are carried out
	for _, s := range h.sites {
		h.until(s+" is level still", func() bool { return h.level(s) && h.settled(s) })
	}
}

// settled tells whether no override is on its way: each was adopted or discarded, or waits for a person at the coordinator.
func (h *history) settled(site string) bool {
	ctx, cancel := h.ask()
	defer cancel()
	waiting, err := h.api("admin", "coordinator").Proposals(ctx, site)
	h.late = fmt.Sprintf("%d wait at the coordinator, %v", len(waiting), err)
	if err != nil {
		return false
	}
	for _, a := range []string{"/a1", "/a2"} {
		ps, err := h.api("admin", site+a).Proposals(ctx, site)
		if err != nil || len(ps) != len(waiting) {
			for _, p := range ps {
				h.late += fmt.Sprintf("; %s of %s at %s: %s", p.ID, p.Object, a, p.Why)
			}
			return false
		}
	}
	return true
}

// decide settles what waits, as a person would, at random.
func (h *history) decide() {
	for _, s := range h.sites {
		ctx, cancel := h.ask()
		ps, err := h.api("admin", "coordinator").Proposals(ctx, s)
		cancel()
		h.must(err)
		for _, p := range ps {
			d := h.pick([]string{"adopt", "discard"})
			ctx, cancel := h.ask()
			err := h.api("ana", "coordinator").Settle(ctx, s, p.ID, api.DecisionRequest{Decision: d, Reason: "history"})
			if p.Object.Kind == intent.KindMachine {
				err = h.api("admin", "coordinator").Settle(ctx, s, p.ID, api.DecisionRequest{Decision: d, Reason: "history"})
			}
			cancel()
			h.note("%s %s of %s: %.160v", d, p.ID, p.Object, err)
			if p.Object.Kind == intent.KindInstanceArray { // either value may be the smaller one
				h.shrunk[p.Object.Name] = 0
			}
		}
	}
}

// laws are what no history may break. It ends every process.
func (h *history) laws() {
	h.Helper()
	known := map[string]string{} // override -> what became of it
	for _, s := range h.sites {
		ctx, cancel := h.ask()
		ps, err := h.api("admin", "coordinator").Proposals(ctx, s)
		h.must(err)
		for _, p := range ps {
			known[p.ID] = "waits"
		}
		addrs := map[string]map[string]string{}
		for _, a := range []string{"/a1", "/a2"} {
			st, err := h.api("admin", s+a).SiteStatus(ctx, s)
			h.must(err)
			for _, o := range st.Overrides {
				if o.State == "adopted" || o.State == "discarded" {
					known[o.ID] = o.State
				}
			}
			info, _ := intent.KindMachine.Info()
			ms, err := h.api("admin", s+a).List(ctx, info, s, "")
			h.must(err)
			addrs[a] = map[string]string{}
			by := map[string]string{}
			for _, m := range ms {
				var ms intent.MachineStatus
				h.must(json.Unmarshal(m.Status, &ms))
				if by[ms.Address] != "" {
					h.fail("%s%s gives %s to %s and %s", s, a, ms.Address, by[ms.Address], m.Metadata.Name)
				}
				by[ms.Address], addrs[a][m.Metadata.Name] = m.Metadata.Name, ms.Address
			}
		}
		if !maps.Equal(addrs["/a1"], addrs["/a2"]) {
			h.fail("%s: the agents give different addresses: %v, %v", s, addrs["/a1"], addrs["/a2"])
		}
		cancel()
	}
	for id, site := range h.acked {
		if known[id] == "" {
			h.fail("override %s, which %s answered for, is lost", id, site)
		}
	}
	h.overdrafts()
	ctx, cancel := h.ask()
	keys, err := h.api("admin", "coordinator").KeyStatus(ctx)
	cancel()
	h.must(err)
	if keys.Forks != 0 {
		h.fail("%d forked documents", keys.Forks)
	}
	for _, n := range h.agents() {
		h.end(n)
		h.journal(n, func(j *claim.Journal) { h.bindings(n, j) })
	}
}

func (h *history) overdrafts() {
	h.Helper()
	told := map[string]bool{}
	ctx, cancel := h.ask()
	defer cancel()
	err := h.api("admin", "coordinator").Audit(ctx, api.AuditQuery{}, func(l api.AuditLine) error {
		var r intent.AuditRecord
		if len(l.Record) > 0 && json.Unmarshal(l.Record, &r) == nil && r.Verb == "quota.overdraft" {
			_, site, _ := strings.Cut(r.Object, " at ")
			told[site] = true
		}
		return nil
	})
	h.must(err)
	for s := range h.owed {
		if !told[s] {
			h.fail("the agents of %s took more than the offline quota, and nobody was told", s)
		}
	}
}

// bindings checks one agent's journal: no machine is anybody's twice, and what ended was ended by somebody.
func (h *history) bindings(agent string, j *claim.Journal) {
	h.Helper()
	of := map[string]string{}
	for uid, b := range reconcile.Bindings(j) {
		what := fmt.Sprintf("%s/%d (%s, generation %d)", b.Array, b.Index, uid, b.Generation)
		if b.Displaced && b.Released { // it waits for a machine; the one that it had is looked at with whom it belongs to now
			continue
		}
		if b.Released {
			if least, ok := h.shrunk[b.Array]; !ok || b.Index < least {
				h.fail("%s: %s lost %s, and nobody let it down", agent, what, b.Machine)
			}
			continue
		}
		if of[b.Machine] != "" {
			h.fail("%s: machine %s belongs to %s and to %s", agent, b.Machine, of[b.Machine], what)
		}
		of[b.Machine] = what
	}
}

func (h *history) fail(format string, args ...any) {
	h.Helper()
	h.Errorf(format, args...)
}

// Experiment F10: random histories of a coordinator and three sites of two agents each: WANs and the wire between the agents of a site are
// cut and healed, processes are killed and started, users and operators change arrays, machines and keys wherever somebody answers,
// quotas are near their end. Then all is well, a person settles what waits, and: no machine belongs to two instances, no address is
// given twice, no overdraft is untold, no change that was answered for is lost, nothing ended that nobody ended, no chain forked.
// In virtual time, over a network in memory; replay one with -seed N.
func TestHistories(t *testing.T) {
	histories(t, times(tierHistories), 10, func(h *history) {
		for range 40 {
			h.step()
		}
	})
}

// histories lets so many worlds live and looks at the laws when all is well again. stream keeps the experiments' random numbers apart.
func histories(t *testing.T, n int, stream uint64, live func(*history)) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	for i := range uint64(n) {
		s := first + i
		ok := t.Run(fmt.Sprintf("seed %d", s), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHistory(t, rand.New(rand.NewPCG(s, stream)))
				defer h.told(s)
				live(h)
				h.heal()
				h.decide()
				h.quiet()
				h.laws()
				t.Logf("%d overrides were answered for, %d sites overdrawn, %d lines", len(h.acked), len(h.owed), len(h.trace))
			})
		})
		if !ok {
			return
		}
	}
}
