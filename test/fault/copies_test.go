package fault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	"github.com/skerry-metal/skerry/storage/state"
)

// copies is a site in which one agent is put back to an older copy, and what it promised and leased so far.
type copies struct {
	t     *testing.T
	n     *sitetest.Net
	rnd   *rand.Rand
	names []string
	epoch map[string]intent.Epoch // device -> of the last destructive step
	owner map[string]string       // device@epoch -> who acted
	lease map[string]string       // address -> MAC that got an answer
	seen  int                     // refusals while behind
}

// TestOldCopy is F6: an agent's whole DATA, its state alone, or a backup is put back to an older one. It recovers, claims and
// promises nothing before it is level, and no lease or claim is given twice.
func TestOldCopy(t *testing.T) {
	rnd := random(t)
	for i := range times(tierCopies) {
		names := []string{"a1", "a2", "a3"}[:2+i%2]
		c := &copies{
			t: t, n: sitetest.NewNet(t, names...), rnd: rnd, names: names,
			epoch: map[string]intent.Epoch{}, owner: map[string]string{}, lease: map[string]string{},
		}
		for _, how := range []string{"data", "state", "backup"} {
			c.round(how)
		}
		t.Logf("%d agents: %d leases, %d devices, %d refusals while behind", len(names), len(c.lease), len(c.epoch), c.seen)
		for _, name := range names {
			c.n.Agent(name).Stop()
		}
	}
}

func (c *copies) round(how string) {
	c.t.Helper()
	a := c.n.Agent("a1")
	c.act(30, c.names...)
	a.Stop()
	old := filepath.Join(c.t.TempDir(), "old")
	var backup bytes.Buffer
	if how == "backup" {
		c.with(a, func(d *state.DB) error { _, err := d.Backup(c.t.Context(), &backup); return err })
	} else {
		must(c.t, "cp", "-a", a.Dir, old)
	}
	a.Start()
	c.act(30, c.names...)
	c.act(10, c.names[1:]...) // the last promises of a1 may stand in no journal of its own
	a.Stop()
	switch how {
	case "data":
		c.check(os.RemoveAll(a.Dir), os.Rename(old, a.Dir))
	case "state":
		c.check(os.RemoveAll(filepath.Join(a.Dir, "state")), os.Rename(filepath.Join(old, "state"), filepath.Join(a.Dir, "state")))
	case "backup":
		c.check(os.RemoveAll(filepath.Join(a.Dir, "state")))
		c.with(a, func(d *state.DB) error {
			_, err := d.Restore(c.t.Context(), bytes.NewReader(backup.Bytes()))
			return err
		})
	}
	a.Start()
	if how != "data" && !a.DB.Recovering() {
		c.t.Fatalf("%s: an older copy is not noticed at the start", how)
	}
	if how != "data" {
		before := c.seen
		if c.act(6, "a1"); c.seen == before {
			c.t.Fatalf("%s: nothing was refused while behind", how)
		}
	}
	c.check(a.Settle(c.t.Context())) // as an agent's follow loop does first of all
	c.act(40, c.names...)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for range 15_000 {
		if a.DB.Recovering() {
			c.check(a.Settle(c.t.Context()))
		} else if a.Journal.Level() {
			break
		}
		<-tick.C
	}
	if a.DB.Recovering() || !a.Journal.Level() {
		c.t.Fatalf("%s: not level again after 30 s", how)
	}
	c.act(30, c.names...)
}

func (c *copies) check(errs ...error) {
	c.t.Helper()
	if err := errors.Join(errs...); err != nil {
		c.t.Fatal(err)
	}
}

// with opens the stopped agent's state.
func (c *copies) with(a *sitetest.NetAgent, fn func(*state.DB) error) {
	c.t.Helper()
	d, err := open(a.Dir)
	c.check(err)
	c.check(fn(d), d.Close())
}

// act lets the named agents lease addresses and act on devices, n times.
func (c *copies) act(n int, names ...string) {
	c.t.Helper()
	for range n {
		a := c.n.Agent(names[c.rnd.IntN(len(names))])
		if c.rnd.IntN(2) == 0 {
			c.leaseOne(a)
		} else {
			c.actOn(a, fmt.Sprintf("machine/m%d", c.rnd.IntN(3)))
		}
		if c.rnd.IntN(5) == 0 {
			c.n.Publish(c.n.Author.Put(sitetest.MachineTypeDoc(fmt.Sprintf("t%d", c.rnd.IntN(20)), len(c.n.Chain))))
			c.check(c.n.Agent(names[0]).Settle(c.t.Context()))
		}
	}
}

type lease struct {
	MAC string `json:"mac"`
}

// leaseOne gives the first free address to a new MAC, as DHCP does: on disk here before it is answered, no address that another
// agent is known to have given. Each agent gives from a part of its own (fabric: slices), so a double is one agent's.
func (c *copies) leaseOne(a *sitetest.NetAgent) {
	c.t.Helper()
	mac := fmt.Sprintf("%012x", c.rnd.Uint64N(1<<48))
	for i := range 1000 {
		addr := fmt.Sprintf("%s.%d", a.Name, i)
		if _, ok := a.Journal.Latest("lease", addr); ok {
			continue
		}
		err := a.Journal.Append(c.t.Context(), claim.Replicated, claim.Draft{Kind: "lease", Key: addr, Body: lease{mac}})
		switch {
		case errors.Is(err, claim.ErrBehind):
			c.seen++
		case err != nil && !errors.Is(err, claim.ErrWaitingPeer):
			c.t.Fatal(err)
		case c.lease[addr] != "":
			c.t.Fatalf("%s leased to %s and to %s", addr, c.lease[addr], mac)
		default:
			c.lease[addr] = mac
		}
		return
	}
}

// actOn claims a device, confirms, and acts: epochs of acts only rise, and one has one owner.
func (c *copies) actOn(a *sitetest.NetAgent, id string) {
	c.t.Helper()
	behind := a.DB.Recovering() // a peer may tell it so at any moment, also between the claim and the look below
	cl, err := a.Claims.Acquire(c.t.Context(), id, nil)
	if err == nil {
		err = a.Claims.Confirm(c.t.Context(), cl, nil)
	}
	if err != nil {
		if a.DB.Recovering() {
			c.seen++
		}
		return
	}
	if behind {
		c.t.Fatalf("%s acts on %s while it is behind", a.Name, id)
	}
	if cl.Epoch.Compare(c.epoch[id]) < 0 {
		c.t.Fatalf("%s acts on %s with epoch %s after %s", a.Name, id, cl.Epoch, c.epoch[id])
	}
	key := id + "@" + cl.Epoch.String()
	if o := c.owner[key]; o != "" && o != a.Name {
		c.t.Fatalf("%s and %s both act on %s", o, a.Name, key)
	}
	c.epoch[id], c.owner[key] = cl.Epoch, a.Name
	if c.rnd.IntN(3) > 0 {
		a.Claims.Release(c.t.Context(), id)
	}
	if b, err := json.Marshal(cl); err == nil && c.rnd.IntN(2) == 0 {
		_ = a.Journal.Append(c.t.Context(), claim.Local, claim.Draft{Kind: "task", Key: id, Epoch: cl.Epoch, Body: json.RawMessage(b)}) // a restored agent is refused
	}
}
