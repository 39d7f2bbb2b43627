package fault

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// copied is the world with disks of its own, in another bubble.
func (w *world) copied(t *testing.T, dir string) *world {
	t.Helper()
	n := w.again(t, time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC))
	n.dir = dir
	for name, b := range n.boxes {
		if strings.HasPrefix(name, "10.") {
			continue
		}
		to := filepath.Join(dir, strings.Repeat("x", 90), strings.ReplaceAll(name, "/", "-"))
		n.must(copySparse(b.dir, to))
		b.dir, b.life = to, 0
	}
	return n
}

// installer lets machines be booted, although none of them has a firmware.
func (w *world) installer() {
	w.Helper()
	c := w.api("admin", "coordinator")
	for _, name := range []string{"vmlinuz", "ramdisk"} {
		_, err := c.Upload(w.Context(), name, "boot", strings.NewReader(name), int64(len(name)))
		w.must(err)
	}
	_, err := c.Apply(w.Context(), rawDocs(`{"kind":"Site","metadata":{"name":"s1"},"spec":{"region":"eu","zone":"z","erase":"none","installer":{"kernel":"vmlinuz","ramdisk":"ramdisk"}}}`), false, "")
	w.must(err)
	w.until("s1 is level", func() bool { return w.level("s1") })
}

// insist asks again and again until somebody answers.
func (w *world) insist(what string, fn func() error) {
	w.Helper()
	var err error
	w.until(what, func() bool { err = fn(); return err == nil })
}

// errands are the tasks and commands of F2, one after the other, each to its end. Whoever asks asks again when nobody answered.
func (w *world) errands() {
	w.Helper()
	admin := w.api("admin", "coordinator")
	w.insist("the BMCs get a new password", func() error {
		ctx, cancel := w.ask()
		defer cancel()
		_, err := admin.RotateSecrets(ctx, "s1", api.SecretRotation{BMC: "bmc", Reason: "errand"})
		return err
	})
	// A BMC whose answer was lost rests before it is asked again: wrong logins lock accounts.
	w.within(time.Hour, "they have it", func() bool {
		ctx, cancel := w.ask()
		defer cancel()
		s, err := admin.SecretStatus(ctx, "s1")
		return err == nil && len(s.BMCs) == 1 && s.BMCs[0].Since == nil && s.BMCs[0].Ver >= 3 && s.BMCs[0].Left() == 0
	})
	turn := func() (st *api.RotationStatus, err error) {
		ctx, cancel := w.ask()
		defer cancel()
		return admin.Rotate(ctx, api.RotateRequest{What: api.RotateAgent, Site: "s1", Agent: "a1"})
	}
	w.until("the keys of a1 are turned", func() bool {
		st, err := turn()
		return err == nil && st.Phase == api.PhaseDone
	})
	c := w.api("ana", "coordinator")
	array := `{"kind":"InstanceArray","metadata":{"name":"web","project":"acme","site":"s1"},"spec":{"infrastructure":"shop-s1","count":1,"machineType":"small","image":"tiny"}}`
	w.insist("an array is made", func() error {
		ctx, cancel := w.ask()
		defer cancel()
		_, err := c.Apply(ctx, rawDocs(array), false, "")
		return err
	})
	w.until("its machine is switched on", func() bool { return w.boots() > 0 && w.machines()["installing"] == 1 })
	w.insist("the array is deleted", func() error {
		ctx, cancel := w.ask()
		defer cancel()
		info, _ := intent.KindInstanceArray.Info()
		if _, err := c.Delete(ctx, info, "acme", "web", false, ""); !client.Is(err, 404) {
			return err
		}
		return nil // an answer was lost
	})
	w.until("its machine is given back, and off", func() bool {
		return w.machines()["releasing"] == 1 && !slices.ContainsFunc(w.racks, (*switched).PowerOn)
	})
	w.until("all is level", func() bool { return w.level("s1") })
}

func (w *world) boots() (n int) {
	for _, m := range w.racks {
		n += m.booted()
	}
	return n
}

// machines counts the machines of s1 by state, as whoever answers sees them.
func (w *world) machines() map[string]int {
	ctx, cancel := w.ask()
	defer cancel()
	for _, a := range w.pair {
		if w.boxes["s1/"+a].stop == nil {
			continue
		}
		if s, err := w.api("admin", "s1/"+a).SiteStatus(ctx, "s1"); err == nil {
			return s.Machines
		}
	}
	return nil
}

// once checks what was done at most once. It ends every process.
func (w *world) once() {
	w.Helper()
	touched := 0
	for _, m := range w.racks {
		if m.booted() > 0 {
			touched++
		}
	}
	if n := w.boots(); touched != 1 || n > 2 {
		w.Errorf("one machine was to be switched on once: %d were, %d times", touched, n)
	}
	if strings.Contains(w.logs.String(), "fork") {
		w.Error("something forked")
	}
	for _, a := range w.pair {
		w.end("s1/" + a)
		w.journal("s1/"+a, func(j *claim.Journal) {
			b := reconcile.Bindings(j)
			for uid, one := range b {
				if !one.Released || one.Generation != 1 {
					w.Errorf("%s: %s has binding %+v", a, uid, one)
				}
			}
			if len(b) != 1 {
				w.Errorf("%s: %d bindings, want 1: %v", a, len(b), slices.Sorted(maps.Keys(b)))
			}
		})
	}
}

// sent counts what a box sends, and lets the n-th be its last; hit tells that it was.
func (w *world) sent(name string, n int64) (count *atomic.Int64, hit chan struct{}) {
	count, hit = &atomic.Int64{}, make(chan struct{})
	host := w.net.Host(w.boxes[name].ip)
	host.OnSend(func() {
		if count.Add(1) == n {
			host.Unplug()
			close(hit)
		}
	})
	return count, hit
}

var victims = []string{"coordinator", "s1/a1", "s1/a2"}

// Experiment F2: a process is killed at one of the moments at which it says something to somebody, be that a peer, a BMC or the
// coordinator, while tasks and commands are carried out: a machine is given to an instance and taken back, BMCs get new passwords, an
// agent new keys. It comes back after a while, and all of it is done, once: one machine was switched on, bound once and released, nothing
// forked. The moments are spread over the whole from a random start; -seed N replays.
func TestKilledAtEachPoint(t *testing.T) {
	killedAtEachPoint(t, tierPoints, (*world).errands, (*world).once)
}

// Experiment F18, for the keys of the domain: writer, CA and roots are changed, a process is killed at one of the moments at which it says
// something, and users go on asking both agents. Nobody who asks one that was not killed is refused, every key ends at its next, and the
// ledger is empty. (Agents' keys, with processes of the system: TestRotateUnderLoad.)
func TestDomainKeysAtEachPoint(t *testing.T) {
	killedAtEachPoint(t, tierKeyPoints, (*world).turnDomain, (*world).turned)
}

func killedAtEachPoint(t *testing.T, points int64, errands, once func(*world)) {
	rnd := random(t)
	dir := t.TempDir()
	var w *world
	synctest.Test(t, func(t *testing.T) {
		w = newWorldIn(t, dir, 1)
		defer w.over()
		w.installer()
		for _, name := range victims {
			w.end(name)
		}
	})
	runs := 0
	life := func(t *testing.T, victim string, n int64) (said map[string]int64) {
		runs++
		said = map[string]int64{}
		synctest.Test(t, func(t *testing.T) {
			w := w.copied(t, filepath.Join(dir, fmt.Sprint("run-", runs)))
			defer w.over()
			for _, name := range victims {
				w.start(name, "")
			}
			w.until("all is level", func() bool { return w.level("s1") })
			counts, hit := map[string]*atomic.Int64{}, make(chan struct{})
			for _, name := range victims {
				if name == victim {
					counts[name], hit = w.sent(name, n)
				} else {
					counts[name], _ = w.sent(name, 0)
				}
			}
			back := make(chan struct{})
			go func() {
				defer close(back)
				if <-hit; counts[victim] == nil || counts[victim].Load() < n {
					return
				}
				w.kill(victim)
				time.Sleep(3 * time.Second)
				w.start(victim, "")
			}()
			w.victim = victim
			errands(w)
			for name, c := range counts {
				w.net.Host(w.boxes[name].ip).OnSend(nil)
				said[name] = c.Load()
			}
			if said[victim] < n || victim == "" { // it said less this time
				close(hit)
			}
			<-back
			w.until("all is level, and all hold a session", func() bool { return w.level("s1") && w.connected("s1") })
			once(w)
		})
		return said
	}
	all := life(t, "", 0)
	for _, victim := range victims {
		step := max(1, all[victim]/points)
		for n := 1 + rnd.Int64N(step); n <= all[victim] && !t.Failed(); n += step {
			t.Run(fmt.Sprintf("%s %d of %d", victim, n, all[victim]), func(t *testing.T) { life(t, victim, n) })
		}
	}
}

// turnDomain changes the keys of the domain, one after the other, while users ask.
func (w *world) turnDomain() {
	w.Helper()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(500 * time.Millisecond):
			}
			for _, a := range w.pair {
				if name := "s1/" + a; name != w.victim {
					if err := w.answers(name, w.token["ana"]); err != nil {
						w.Errorf("%s was not killed, and its user is refused: %v", name, err)
					}
				}
			}
		}
	}()
	for _, what := range []string{api.RotateWriter, api.RotateCA, api.RotateRoot} {
		w.within(time.Hour, what+" is changed", func() bool {
			ctx, cancel := w.ask()
			defer cancel()
			st, err := w.api("admin", "coordinator").Rotate(ctx, api.RotateRequest{What: what})
			return err == nil && st.Phase == api.PhaseDone
		})
	}
	close(stop)
	<-ended
	w.until("all is level", func() bool { return w.level("s1") })
}

// turned checks that each key of the domain is the next one, everywhere. Who was down shows the certificate of before at first.
func (w *world) turned() {
	w.Helper()
	c := w.api("admin", "coordinator")
	w.until("no rotation is under way", func() bool {
		ctx, cancel := w.ask()
		defer cancel()
		l, err := c.Rotations(ctx)
		return err == nil && len(l.Items) == 0
	})
	ctx, cancel := w.ask()
	defer cancel()
	k, err := c.KeyStatus(ctx)
	w.must(err)
	for _, s := range k.Sites {
		for _, a := range s.Agents {
			if a.Keys != 1 || a.Trust != k.Trust.Seq || !a.Up {
				w.Errorf("trust is %d, and %s: %+v", k.Trust.Seq, s.Site, a)
			}
		}
	}
	if k.Forks != 0 || strings.Contains(w.logs.String(), "fork") {
		w.Error("something forked")
	}
}
