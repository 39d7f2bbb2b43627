package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/test/sim/netlab"
	"golang.org/x/sync/errgroup"
)

// Config says what the demo runs.
type Config struct {
	Exe      string    // the skerry binary under test
	Assets   string    // directory with vmlinuz, ramdisk.gz, tiny.img
	Examples string    // directory with first-site.yaml, one-more.yaml
	Keep     bool      // leave it running at the end, until ctx ends
	Dir      string    // where logs and data go; made if missing; "" = a temporary directory, removed at the end
	Out      io.Writer // what people see
}

// The limits of waiting; under load emulation is four times slower than quiet.
const (
	quick     = 60 * time.Second
	bootLimit = 6 * time.Minute
	pollEvery = 500 * time.Millisecond
	// blockBytes is what the installer writes at once.
	blockBytes = 4 << 20
)

type walk struct {
	cfg Config
	l   *lab
	r   *report
	ctx context.Context
	// what the switch had sent to m2 when both agents were up again without a coordinator, and when it was running
	lone, ran mark
	pin       string // of the domain
}

// Run walks the main job and returns nil when every step succeeded. Whatever it started is gone when it returns.
func Run(ctx context.Context, cfg Config) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("cannot run the demo as an ordinary user: it makes network namespaces and taps; run it as root")
	}
	dir := cfg.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "skerry-demo-"); err != nil {
			return fmt.Errorf("cannot make demo directory: %w", err)
		}
		defer func() {
			if err == nil || ctx.Err() != nil {
				err = errors.Join(err, os.RemoveAll(dir))
			}
		}()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot make demo directory: %w", err)
	}
	if _, err := netlab.Sweep(); err != nil {
		return err
	}
	r := &report{out: cfg.Out, start: time.Now()}
	l := newLab(dir, cfg.Exe, cfg.Out)
	g, gctx := errgroup.WithContext(ctx)
	sim, stop := context.WithCancel(gctx)
	w := &walk{cfg: cfg, l: l, r: r, ctx: gctx}
	l.event = func(s string) { r.line("  machine %s", s) }
	r.line("logs and data: %s", dir)
	err = w.all(sim, g)
	if ctx.Err() != nil {
		err = errInterrupted
	}
	r.table()
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(cfg.Out, "the logs are kept in %s\n", dir)
	}
	if err == nil && cfg.Keep {
		w.explainKeeping()
		<-ctx.Done()
	}
	stop()
	return errors.Join(err, g.Wait(), l.net.Close())
}

func (w *walk) all(sim context.Context, g *errgroup.Group) error {
	for _, part := range []func(context.Context, *errgroup.Group) error{w.found, w.apply, w.first, w.stranger, w.alone, w.takeover, w.back, w.explain, w.undisturbed(w.theft), w.release, w.undisturbed(w.paris), w.history} {
		if err := part(sim, g); err != nil {
			return err
		}
	}
	w.figures()
	return nil
}

// undisturbed is a part of the walk in which nobody asks anything of a machine: whatever becomes of agents and coordinator, the power of
// none may change.
func (w *walk) undisturbed(part func(context.Context, *errgroup.Group) error) func(context.Context, *errgroup.Group) error {
	return func(sim context.Context, g *errgroup.Group) error {
		before := map[string]int64{}
		for _, b := range w.l.boxes {
			before[b.name] = b.turns.Load()
		}
		err := part(sim, g)
		for _, b := range w.l.boxes {
			if n := b.turns.Load() - before[b.name]; n != 0 {
				err = errors.Join(err, fmt.Errorf("the power of %s changed %d times, and nobody asked for it", b.name, n))
			}
		}
		return err
	}
}

// found starts the coordinator and the site with two agents.
func (w *walk) found(sim context.Context, g *errgroup.Group) error {
	err := w.r.step("1 wire namespaces, WAN link, three machines with BMCs", func() (string, error) {
		if err := w.l.wire(); err != nil {
			return "", err
		}
		return "m1 BIOS, m2 UEFI PXE, m3 UEFI HTTP Boot", w.l.simulate(sim, g)
	})
	if err != nil {
		return err
	}
	err = w.r.step("1 found the domain and start the coordinator", func() (string, error) {
		out, err := w.l.cli(w.ctx, "coord", "coordinator", "init", "--data", filepath.Join(w.l.dir, "coordinator"), "--domain", domain,
			"--addr", relayAddr, "--addr", coordAddr, "-o", "json")
		if err != nil {
			return "", err
		}
		var res map[string]string
		if err := json.Unmarshal([]byte(out), &res); err != nil {
			return "", fmt.Errorf("cannot read init's answer: %w", err)
		}
		w.l.tokens["admin"], w.pin = res["token"], res["pin"]
		if err := w.l.startCoordinator(); err != nil {
			return "", err
		}
		if _, err := w.l.cli(w.ctx, "coord", "context", "set", "edge", "--server", "https://"+coordAddr, "--token", res["token"], "--ca", res["ca"], "--site", "lon1"); err != nil {
			return "", err
		}
		return "pin " + res["pin"][:19], w.until(quick, "coordinator answers", func() (bool, error) {
			c, err := w.l.api("coordinator", "admin")
			if err != nil {
				return false, nil
			}
			_, err = c.Whoami(w.ctx)
			return err == nil, nil
		})
	})
	if err != nil {
		return err
	}
	return w.r.step("1 two agents join site lon1 by token", func() (string, error) {
		site := "apiVersion: skerry/v1\nkind: Site\nmetadata: {name: lon1}\nspec: {region: eu-west, zone: london}\n"
		file := filepath.Join(w.l.dir, "site.yaml")
		if err := os.WriteFile(file, []byte(site), 0o644); err != nil {
			return "", fmt.Errorf("cannot write site: %w", err)
		}
		if _, err := w.l.cli(w.ctx, "coord", "apply", "-f", file); err != nil {
			return "", err
		}
		for i := 1; i <= agentCount; i++ {
			token, err := w.l.cli(w.ctx, "coord", "token", "create", "--site", "lon1", "--agent", fmt.Sprintf("a%d", i))
			if err != nil {
				return "", err
			}
			if err := w.l.startAgent(i, strings.TrimSpace(token)); err != nil {
				return "", err
			}
		}
		return "mesh of a1 and a2 stands", w.until(quick, "both agents alive", func() (bool, error) {
			s, err := w.siteStatus("coordinator", "admin")
			return err == nil && len(s.Agents) == 2 && s.Agents[0].Alive == "yes" && s.Agents[1].Alive == "yes" && s.Head == s.Published, nil
		})
	})
}

// apply uploads the assets and applies the example.
func (w *walk) apply(context.Context, *errgroup.Group) error {
	err := w.r.step("2 upload kernel, ramdisk and image", func() (string, error) {
		for _, a := range [][3]string{{"vmlinuz", "vmlinuz", "boot"}, {"ramdisk.gz", "ramdisk", "boot"}, {"tiny.img", "tiny", "image"}} {
			if _, err := w.l.cli(w.ctx, "coord", "asset", "upload", filepath.Join(w.cfg.Assets, a[0]), "--name", a[1], "--class", a[2]); err != nil {
				return "", err
			}
		}
		return "3 assets", nil
	})
	if err != nil {
		return err
	}
	return w.r.step("2 apply examples/first-site.yaml, and the switch sw1", func() (string, error) {
		if _, err := w.l.cli(w.ctx, "coord", "apply", "-f", filepath.Join(w.cfg.Examples, "first-site.yaml")); err != nil {
			return "", err
		}
		if err := w.applySwitch(2); err != nil {
			return "", err
		}
		began := time.Now()
		err := w.until(quick, "intent active on both agents", func() (bool, error) {
			s, err := w.siteStatus("coordinator", "admin")
			if err != nil || s.Published.Seq == 0 || s.Head != s.Published || s.Rejected != "" {
				return false, nil
			}
			return s.Machines["expected"]+s.Machines["discovered"]+s.Machines["available"] == 2, nil
		})
		if err != nil {
			return "", err
		}
		token, err := w.l.cli(w.ctx, "coord", "token", "user", "ana")
		if err != nil {
			return "", err
		}
		w.l.tokens["ana"] = strings.TrimSpace(token)
		return fmt.Sprintf("active at the site after %.2f s", time.Since(began).Seconds()), w.contexts()
	})
}

// contexts gives Ana one context per agent of the site.
func (w *walk) contexts() error {
	ca := filepath.Join(w.l.dir, "coordinator", "keys", "root.crt")
	for i := 1; i <= agentCount; i++ {
		n := fmt.Sprintf("lon1-a%d", i)
		if _, err := w.l.cli(w.ctx, "coord", "context", "set", n, "--server", fmt.Sprintf("https://10.99.1.1%d:7444", i), "--token", w.l.tokens["ana"], "--ca", ca, "--site", "lon1"); err != nil {
			return err
		}
	}
	return nil
}

// first installs m1.
func (w *walk) first(context.Context, *errgroup.Group) error {
	return w.r.step("3 m1 (BIOS): power on, PXE, inventory, install, first boot, phone home", func() (string, error) {
		st, err := w.machine("a1", "m1", bootLimit, intent.StateRunning)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s at %s", st.Instance, st.Address), nil
	})
}

// alone kills the coordinator, black-holes its address and restarts both agents cold.
func (w *walk) alone(context.Context, *errgroup.Group) error {
	err := w.r.step("4 coordinator killed with kill -9 and black-holed, agents stopped", func() (string, error) {
		if err := w.l.procs["coordinator"].Kill(); err != nil {
			return "", err
		}
		if err := w.l.cutWAN(true); err != nil {
			return "", err
		}
		for i := 1; i <= agentCount; i++ {
			if err := w.l.procs[fmt.Sprintf("a%d", i)].Kill(); err != nil {
				return "", err
			}
		}
		return "", nil
	})
	if err != nil {
		return err
	}
	return w.r.step("4 both agents start cold, with nobody above", func() (string, error) {
		probe, err := newProbe(w.l.ns["rack"], w.l.boxes[0].mac)
		if err != nil {
			return "", err
		}
		defer probe.close()
		began := time.Now()
		for i := 1; i <= agentCount; i++ {
			if err := w.l.startAgent(i, ""); err != nil {
				return "", err
			}
		}
		took, err := probe.offer(w.ctx, began)
		if err != nil {
			return "", err
		}
		w.r.figure("agent cold start to first DHCP answer, coordinator black-holed", "%.2f s (asked: 3 s)", took.Seconds())
		err = w.until(quick, "both agents alive", func() (bool, error) {
			s, err := w.siteStatus("a1", "ana")
			if err != nil {
				s, err = w.siteStatus("a1", "admin")
			}
			return err == nil && len(s.Agents) == 2 && s.Agents[0].Alive == "yes" && s.Agents[1].Alive == "yes", nil
		})
		if err == nil {
			w.lone, err = w.l.sent(2)
		}
		return fmt.Sprintf("first DHCP answer after %.2f s", took.Seconds()), err
	})
}

// takeover asks an agent for one more instance, kills the agent that does it, and lets the other finish.
func (w *walk) takeover(context.Context, *errgroup.Group) error {
	err := w.r.step("4 ana asks agent a2 for one more instance; her token is verified offline", func() (string, error) {
		out, err := w.l.cli(w.ctx, "a2", "--context", "lon1-a2", "apply", "-f", filepath.Join(w.cfg.Examples, "one-more.yaml"), "-o", "json")
		if err != nil {
			return "", err
		}
		var res []api.Result
		if err := json.Unmarshal([]byte(out), &res); err != nil || len(res) != 1 || res[0].Override == "" {
			return "", fmt.Errorf("cannot find an override in the answer %q", out)
		}
		return "override " + res[0].Override, nil
	})
	if err != nil {
		return err
	}
	var owner string
	err = w.r.step("4 m2 (UEFI PXE) has its permission and is being written", func() (string, error) {
		owner, err = w.writer("a2", "m2", "install")
		return "by order of " + owner, err
	})
	if err != nil {
		return err
	}
	other := map[string]string{"a1": "a2", "a2": "a1"}[owner]
	err = w.r.step("4 "+owner+", which does it, is killed with kill -9", func() (string, error) {
		return other + " is left", w.l.procs[owner].Kill()
	})
	if err != nil {
		return err
	}
	err = w.r.step("4 "+other+" finishes: m2 is running", func() (string, error) {
		st, err := w.machine(other, "m2", bootLimit, intent.StateRunning)
		if err != nil {
			return "", err
		}
		if w.ran, err = w.l.sent(2); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s at %s, epoch %s", st.Instance, st.Address, st.Epoch), nil
	})
	if err != nil {
		return err
	}
	return w.r.step("4 nothing was written twice, no step is missing from the event log", func() (string, error) { return w.audit(other) })
}

// writer waits for the event that allows an installation or erasure, and returns the agent that signed it.
func (w *walk) writer(agent, machine, act string) (string, error) {
	c, err := w.l.api(agent, "admin")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(w.ctx, bootLimit)
	defer cancel()
	owner := ""
	err = c.Events(ctx, api.EventQuery{Site: "lon1", Machine: machine, Follow: true}, func(e intent.Event) error {
		if e.Type != "permit.granted" || !strings.HasPrefix(e.Task, act+"/") {
			return nil
		}
		owner = e.Agent
		return errFound
	})
	if !errors.Is(err, errFound) {
		return "", fmt.Errorf("cannot see the permission of %s: %w", machine, err)
	}
	return owner, nil
}

// errFound ends an event stream early.
var errFound = errors.New("found")

// audit reads m2's events at the survivor.
func (w *walk) audit(agent string) (string, error) {
	c, err := w.l.api(agent, "admin")
	if err != nil {
		return "", err
	}
	x, err := c.Explain(w.ctx, "lon1", "m2")
	if err != nil {
		return "", err
	}
	count := map[string]int{}
	facts := map[string]string{}
	st, err := os.Stat(filepath.Join(w.cfg.Assets, "tiny.img"))
	if err != nil {
		return "", fmt.Errorf("cannot size the image: %w", err)
	}
	imageBytes := st.Size()
	for _, e := range x.Events {
		count[e.Type]++
		if e.Type == "image.written" {
			facts = e.Fields
		}
	}
	for _, need := range []string{
		"instance.bound", "machine.allocated", "machine.power.asked", "machine.boot.dhcp", "machine.boot.script", "machine.boot.hello",
		"machine.installing", "permit.granted", "image.written", "image.verified", "machine.boot.reboot", "machine.boot.phonehome", "machine.running",
	} {
		if count[need] == 0 {
			return "", fmt.Errorf("event %s is missing", need)
		}
	}
	for _, once := range []string{"image.written", "instance.bound"} {
		if count[once] != 1 {
			return "", fmt.Errorf("event %s happened %d times, want once", once, count[once])
		}
	}
	if want := fmt.Sprint((imageBytes + blockBytes - 1) / blockBytes); facts["blocks"] != want {
		return "", fmt.Errorf("%s blocks were written, the image has %s", facts["blocks"], want)
	}
	// A second permission is the survivor's own: it was needed if the first signer died before its answer arrived.
	return fmt.Sprintf("%d events, %d permission(s), %s octets in %s blocks written once", len(x.Events), count["permit.granted"], facts["bytes"], facts["blocks"]), nil
}

// back brings the coordinator and the killed agent back, and waits for the override's acknowledgement.
func (w *walk) back(context.Context, *errgroup.Group) error {
	err := w.r.step("5 the coordinator comes back, the killed agent too", func() (string, error) {
		if err := w.l.startCoordinator(); err != nil {
			return "", err
		}
		for i := 1; i <= agentCount; i++ {
			select {
			case <-w.l.procs[fmt.Sprintf("a%d", i)].Done():
				if err := w.l.startAgent(i, ""); err != nil {
					return "", err
				}
			default:
			}
		}
		return "", w.l.cutWAN(false)
	})
	if err != nil {
		return err
	}
	return w.r.step("5 the override is proposed, adopted and acknowledged; both ends agree on the head", func() (string, error) {
		var s *api.SiteStatus
		err := w.until(2*quick, "the override is adopted", func() (bool, error) {
			var err error
			if s, err = w.siteStatus("coordinator", "admin"); err != nil || s.Reachable != "yes" || s.Head != s.Published {
				return false, nil
			}
			return len(s.Overrides) == 1 && s.Overrides[0].State == "adopted", nil
		})
		if err != nil {
			return "", err
		}
		for _, agent := range []string{"a1", "a2"} { // the one without a session has it from its peer, a moment later
			err := w.until(2*quick, agent+" has the coordinator's head", func() (bool, error) {
				at, err := w.siteStatus(agent, "admin")
				return err == nil && at.Head == s.Published, nil
			})
			if err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("head %d.%d %s", s.Head.Epoch, s.Head.Seq, s.Head.Hash.Short()), nil
	})
}

// explain prints the whole chain of m2, as an operator would see it, and the traffic that the agents accounted.
func (w *walk) explain(context.Context, *errgroup.Group) error {
	err := w.r.step("6 skerry traffic: what m2 got while the site was alone", func() (string, error) { return w.traffic(w.lone, w.ran) })
	if err != nil {
		return err
	}
	return w.r.step("6 skerry machine explain m2", func() (string, error) {
		out, err := w.l.cli(w.ctx, "coord", "--context", "edge", "machine", "explain", "m2")
		if err != nil {
			return "", err
		}
		fmt.Fprintf(w.cfg.Out, "\n%s\n", out)
		if !strings.Contains(out, "fresh by quota") { // nobody above was there: the offline quota has to vouch
			return "", errors.New("the permission of m2 does not say that it was given by the offline quota")
		}
		return fmt.Sprintf("%d lines", strings.Count(out, "\n")), nil
	})
}

// history prints what the agents kept of a machine's sensors. A row is of a whole minute, so a new owner has the first one after three at
// most: this comes last, when those who read them have done so for a while.
func (w *walk) history(context.Context, *errgroup.Group) error {
	return w.r.step("10 skerry graph machine/NAME temperature, at a2 with nobody above", func() (string, error) {
		graph, said := "", errors.New("nothing was asked")
		err := w.until(3*quick, "two readings of a controller are kept", func() (bool, error) {
			for _, b := range w.l.boxes { // agents were killed, and one stolen: of each machine somebody else has what he read
				graph, said = w.l.cli(w.ctx, "a2", "--context", "lon1-ops", "graph", "machine/"+b.name, "temperature", "--since", "10m")
				if said == nil && strings.Contains(graph, "last") {
					return true, nil
				}
			}
			return false, nil
		})
		fmt.Fprintf(w.cfg.Out, "\n%s\n", graph)
		if err != nil {
			err = errors.Join(err, said)
		}
		return fmt.Sprintf("%d lines", strings.Count(graph, "\n")), err
	})
}

func (w *walk) explainKeeping() {
	fmt.Fprintf(w.cfg.Out, `
The site goes on running. To look around, in another terminal as root:

  export SKERRY_CONFIG=%[1]s/config.yaml
  ip netns exec %[2]s %[3]s get machines
  ip netns exec %[2]s %[3]s events --site lon1 -w
  ip netns exec %[4]s %[3]s --context lon1-a2 get instancearrays
  less %[1]s/a2.log %[1]s/m1/serial.log

Stop it with Ctrl-C here.
`, w.l.dir, w.l.ns["coord"].Name, w.cfg.Exe, w.l.ns["a2"].Name)
}
