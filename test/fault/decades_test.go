package fault

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent"
)

// alone is what a site that is cut off must do at any time: both agents see each other, answer, and take a change of a user.
func (w *world) alone(site string, n int) {
	w.Helper()
	for _, a := range w.pair {
		w.until(fmt.Sprintf("%s/%s goes on in year %d", site, a, time.Now().Year()), func() bool {
			ctx, cancel := w.ask()
			defer cancel()
			s, err := w.api("admin", site+"/"+a).SiteStatus(ctx, site)
			if err != nil || s.Rejected != "" {
				return false
			}
			alive := map[string]bool{}
			for _, one := range s.Agents {
				alive[one.ID] = one.Alive == "yes"
			}
			return alive[w.pair[0]] && alive[w.pair[1]]
		})
	}
	w.takes(site+"/"+w.pair[n%2], "long", n)
}

// takes lets an agent take a change of a user's key.
func (w *world) takes(agent, name string, n int) {
	w.Helper()
	ctx, cancel := w.ask()
	defer cancel()
	res, err := w.api("ana", agent).Apply(ctx, rawDocs(namedKey(name, n)), false, "alone")
	if err != nil || res[0].Override == "" {
		w.Fatalf("in year %d a change is refused by %s: %+v, %v", time.Now().Year(), agent, res, err)
	}
}

func namedKey(name string, n int) string {
	return fmt.Sprintf(`{"kind":"SSHKey","metadata":{"name":%q,"project":"acme"},"spec":{"publicKey":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl life-%d"}}`, name, n)
}

// decade is the life of a site that is alone.
type decade struct {
	*world
	rnd  *rand.Rand
	life int
	kit  string // of spare s1
}

const year = 365 * 24 * time.Hour

// both ends both agents, lets time go by, and starts them.
func (d *decade) both(away time.Duration) {
	for _, a := range d.pair {
		d.end("s1/" + a)
	}
	time.Sleep(away)
	for _, a := range d.pair {
		d.start("s1/"+a, "")
	}
	d.life++
}

// jump makes the clock on one wall wrong by up to ten years, or right.
func (d *decade) jump() {
	b := d.boxes["s1/"+d.pair[d.rnd.IntN(2)]]
	by := time.Duration(0)
	if d.rnd.IntN(4) > 0 {
		by = time.Duration(d.rnd.Int64N(int64(20*year))) - 10*year
	}
	b.jump.Store(int64(by))
}

// split parts the agents for a while. Each takes a change; when they meet again both know both.
func (d *decade) split(away time.Duration) {
	d.Helper()
	x, y := d.boxes["s1/"+d.pair[0]], d.boxes["s1/"+d.pair[1]]
	d.net.Cut(x.ip, y.ip, true)
	d.takes(x.name, "one", d.life)
	d.both(away)
	d.until("the other half answers", func() bool { return d.answers(y.name, d.token["ana"]) == nil })
	d.takes(y.name, "two", d.life)
	d.net.Cut(x.ip, y.ip, false)
	info, _ := intent.KindSSHKey.Info()
	for _, b := range []*box{x, y} {
		for name, n := range map[string]int{"one": d.life - 1, "two": d.life} {
			d.until(b.name+" knows what the other half took", func() bool {
				ctx, cancel := d.ask()
				defer cancel()
				o, err := d.api("ana", b.name).Get(ctx, info, "acme", name)
				return err == nil && strings.HasSuffix(o.Spec.(*intent.SSHKeySpec).PublicKey, fmt.Sprintf(" life-%d", n))
			})
		}
	}
}

// prepare makes a kit while the coordinator is there, and waits until the site knows.
func (d *decade) prepare() {
	d.Helper()
	d.pack()
	d.until("the site knows the spare", func() bool { return d.level("s1") })
}

func (d *decade) pack() {
	d.Helper()
	tok, err := d.api("admin", "coordinator").JoinToken(d.Context(), "s1", api.JoinTokenRequest{Agent: "s1", Spare: true})
	d.must(err)
	var out bytes.Buffer
	k, err := siteagent.MakeKit(d.Context(), siteagent.KitConfig{Join: tok.Token, Out: &out, Logger: d.log, Network: d.net.Host("10.9.9.8")})
	d.must(err)
	d.kit = filepath.Join(d.dir, "s1.kit")
	d.must(os.WriteFile(d.kit, out.Bytes(), 0o600))
	d.must(os.WriteFile(d.kit+".pass", []byte(k.Passphrase), 0o600))
}

// admit ends a2 for good, and puts the spare into its place.
func (d *decade) admit() {
	old := d.boxes["s1/a2"]
	d.kill("s1/a2")
	old.dir = ""
	b := d.box("s1/s1", old.ip, 7444)
	d.must(os.MkdirAll(b.dir, 0o700))
	d.pair[1] = "s1"
	d.until("a1 is sure that a2 is gone", func() bool {
		ctx, cancel := d.ask()
		defer cancel()
		s, err := d.api("admin", "s1/a1").SiteStatus(ctx, "s1")
		return err == nil && slices.ContainsFunc(s.Agents, func(a api.AgentStatus) bool { return a.ID == "a2" && a.Alive != "yes" })
	})
	d.startAs("s1/s1", siteagent.Config{Spare: d.kit, KitPassphrase: d.kit + ".pass", Replaces: "a2"})
	d.life++
}

// lost lists the overrides that are neither answered nor wait at the coordinator. Those of an agent that was replaced wait for a person,
// and what was made on them does with them.
func (d *decade) lost() (out []string) {
	ctx, cancel := d.ask()
	defer cancel()
	ps, err := d.api("admin", "coordinator").Proposals(ctx, "s1")
	if err != nil {
		return []string{err.Error()}
	}
	waits := map[string]bool{}
	for _, p := range ps {
		waits[p.ID] = true
	}
	for _, a := range d.pair {
		s, err := d.api("admin", "s1/"+a).SiteStatus(ctx, "s1")
		if err != nil {
			return []string{err.Error()}
		}
		for _, o := range s.Overrides {
			if o.State != "adopted" && o.State != "discarded" && !waits[o.ID] {
				out = append(out, a+" has "+o.ID)
			}
		}
	}
	return out
}

// settle adopts what waits, in the order in which it was made.
func (d *decade) settle() {
	d.Helper()
	for range d.life {
		ctx, cancel := d.ask()
		ps, err := d.api("admin", "coordinator").Proposals(ctx, "s1")
		d.must(err)
		for _, p := range ps {
			d.must(d.api("ana", "coordinator").Settle(ctx, "s1", p.ID, api.DecisionRequest{Decision: "adopt", Reason: "ten years"}))
		}
		cancel()
		if len(ps) == 0 {
			return
		}
		d.until("the decisions are out", func() bool { return d.level("s1") })
	}
}

// Experiment F7: a site is alone for ten years. Its agents are started again and again, their clocks jump by up to ten years either way
// while they run and while they are off, they are parted for 26 hours, 8 and 400 days, and a spare takes the place of one; nothing is
// refused for its date: not their certificates, a user's token, or each other. Then the coordinator is back, somebody sets the clocks
// right, and within a minute everybody is level and every change of ten years is adopted or waits for a person. The processes live for a minute or so at a
// time, and the years go by between: a whole life of ten years of ticks would take days.
func TestTenYearsAlone(t *testing.T) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	for i := range uint64(tierDecades) {
		s := first + i
		t.Run(fmt.Sprintf("seed %d", s), func(t *testing.T) {
			t.Logf("-seed %d", s)
			synctest.Test(t, func(t *testing.T) { tenYears(t, rand.New(rand.NewPCG(s, 7))) })
		})
	}
}

func tenYears(t *testing.T, rnd *rand.Rand) {
	d := &decade{world: newWorld(t, 1), rnd: rnd}
	defer d.over()
	d.prepare()
	d.end("coordinator")
	began, splits := time.Now(), []time.Duration{26 * time.Hour, 8 * 24 * time.Hour, 400 * 24 * time.Hour}
	for time.Since(began) < 10*year {
		d.alone("s1", d.life)
		d.jump()
		switch since := time.Since(began); {
		case len(splits) > 0 && since > time.Duration(4-len(splits))*2*year:
			d.split(splits[0])
			splits = splits[1:]
		case d.pair[1] == "a2" && since > 5*year:
			d.admit()
		default:
			d.both(tierAway)
		}
		d.jump()
	}
	if len(splits) > 0 || d.pair[1] != "s1" {
		t.Fatalf("not all of it happened: %v, %v", splits, d.pair)
	}
	d.alone("s1", d.life)
	for _, b := range d.boxes {
		b.jump.Store(0)
	}
	d.clock = true // a person looks at it: it was off for ten years
	d.start("coordinator", "")
	back := time.Now()
	d.until("all is level, and each change is adopted or waits for a person", func() bool { return d.level("s1") && len(d.lost()) == 0 })
	took := time.Since(back)
	if strings.Contains(d.logs.String(), "audit refused") {
		t.Error("what an agent that is gone saw is not in the coordinator's audit log")
	}
	if took > time.Minute {
		t.Errorf("level after %v, want a minute", took)
	}
	t.Logf("%d lives until %s, level after %v", d.life, began.Add(10*year).Format(time.DateOnly), took)
	d.settle()
	d.until("all is adopted", func() bool { return d.level("s1") && d.answered("s1") })
	ctx, cancel := d.ask()
	defer cancel()
	info, _ := intent.KindSSHKey.Info()
	o, err := d.api("ana", "coordinator").Get(ctx, info, "acme", "long")
	if err != nil || !strings.HasSuffix(o.Spec.(*intent.SSHKeySpec).PublicKey, fmt.Sprintf(" life-%d", d.life)) {
		t.Errorf("the last change of ten years: %+v, %v", o, err)
	}
}

// answered tells whether the coordinator has an answer to each override of a site, and none is a conflict: nobody else changed anything.
func (w *world) answered(site string) bool {
	ctx, cancel := w.ask()
	defer cancel()
	s, err := w.api("admin", site+"/a1").SiteStatus(ctx, site)
	if err != nil || len(s.Overrides) == 0 {
		return false
	}
	for _, o := range s.Overrides {
		if o.State != "adopted" {
			return false
		}
	}
	return true
}
