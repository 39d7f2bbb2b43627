package fault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/siteagent"
)

// child is what a process of the test runs: one of both.
type child struct {
	Agent       *siteagent.Config
	Coordinator *coordinator.Config
}

// runChild is the process: it lives until it is stopped or killed.
func runChild(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var c child
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if c.Agent != nil {
		c.Agent.Logger = log
		return siteagent.Run(ctx, *c.Agent)
	}
	c.Coordinator.Logger = log
	return coordinator.Run(ctx, *c.Coordinator)
}

// fleet is a domain whose coordinator and agents are processes of their own, and the load on them.
type fleet struct {
	*domain
	dir    string
	procs  map[string]*exec.Cmd
	agents map[string]string // SITE/AGENT -> address of its site API

	mu   sync.Mutex // guards what follows
	hurt map[string]bool
	asked,
	excused int
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{domain: newDomain(t), dir: t.TempDir(), procs: map[string]*exec.Cmd{}, agents: map[string]string{}, hurt: map[string]bool{}}
	t.Cleanup(func() {
		for name := range f.procs {
			f.kill(name)
		}
	})
	return f
}

// start runs a process under a name; its log is the domain's.
func (f *fleet) start(name string, c child) {
	f.Helper()
	file := filepath.Join(f.dir, strings.ReplaceAll(name, "/", "-")+".json")
	b, err := json.Marshal(c)
	f.must(err)
	f.must(os.WriteFile(file, b, 0o600))
	self, err := os.Executable()
	f.must(err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"=run "+file)
	cmd.Stderr = prefixed{f.logs, name}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	f.must(cmd.Start())
	f.procs[name] = cmd
}

// prefixed writes lines with the name of a process.
type prefixed struct {
	w    io.Writer
	name string
}

func (p prefixed) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		fmt.Fprintf(p.w, "%s: %s", p.name, line)
	}
	return len(b), nil
}

func (f *fleet) kill(name string) {
	cmd := f.procs[name]
	delete(f.procs, name)
	_ = cmd.Process.Kill() // it may have ended by itself; Wait tells
	_ = cmd.Wait()
}

// shut stops a process in good order: it says goodbye.
func (f *fleet) shut(name string) {
	cmd := f.procs[name]
	delete(f.procs, name)
	f.must(cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait() // exit code 3 is how a child ends
}

func (f *fleet) coordinatorUp() {
	f.Helper()
	cfg := coordinator.Config{Data: f.data, Listen: f.addr, Spread: 50 * time.Millisecond, Reserve: 1}
	f.start("coordinator", child{Coordinator: &cfg})
	f.wait("coordinator answers", func() bool { _, err := f.api.Info(f.Context()); return err == nil })
}

func (f *fleet) agentUp(site, id string) {
	f.Helper()
	name, dir := site+"/"+id, filepath.Join(f.dir, site+"-"+id)
	if f.agents[name] == "" {
		f.agents[name] = freeAddr(f.T)
	}
	cfg := siteagent.Config{Data: dir, Management: f.agents[name], Spread: 10 * time.Millisecond, MaxBackoff: 300 * time.Millisecond, Reserve: 1, NoHistory: true}
	if _, err := os.Stat(filepath.Join(dir, "keys", "identity.json")); err != nil {
		tok, err := f.api.JoinToken(f.Context(), site, api.JoinTokenRequest{Agent: id})
		f.must(err)
		cfg.Join = tok.Token
	}
	f.start(name, child{Agent: &cfg})
}

// crash kills a process, starts it again, and waits until it is a part of the whole again: nobody else's requests may fail meanwhile.
func (f *fleet) crash(name string) {
	f.Helper()
	begun := time.Now()
	f.setHurt(name, true)
	f.kill(name)
	gone := time.Now()
	if name == "coordinator" {
		f.coordinatorUp()
		f.wait("the site is reached again", func() bool {
			s, err := f.api.SiteStatus(f.Context(), "lon1")
			return err == nil && s.Reachable == "yes"
		})
	} else {
		site, id, _ := strings.Cut(name, "/")
		f.agentUp(site, id)
		// A session of the process that is dead counts as up until somebody notices: what counts is one that was heard since.
		f.wait(name+" answers, with a session", func() bool {
			k := f.keys(id)
			return f.ask(f.client(false), name) == nil && k.Up && k.Contact != nil && k.Contact.After(gone)
		})
	}
	f.Logf("%s was back after %v", name, time.Since(begun).Round(time.Millisecond))
	f.setHurt(name, false)
}

// sessions tells whether every process of an agent has a session with the coordinator.
func (f *fleet) sessions() bool {
	s, err := f.api.KeyStatus(f.Context())
	if err != nil {
		return false
	}
	n := 0
	for _, site := range s.Sites {
		for _, a := range site.Agents {
			if a.Up && f.procs[site.Site+"/"+a.ID] != nil {
				n++
			}
		}
	}
	return n == len(f.procs)-1
}

func (f *fleet) setHurt(name string, hurt bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hurt[name] = hurt
}

// anyHurt tells whether one of the names is being killed or comes back; of none: whether anybody is.
func (f *fleet) anyHurt(names ...string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, hurt := range f.hurt {
		if hurt && (len(names) == 0 || slices.Contains(names, name)) {
			return true
		}
	}
	return false
}

func (f *fleet) client(keep bool) *http.Client {
	pem, err := os.ReadFile(filepath.Join(f.data, "keys", "root.crt"))
	f.must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: !keep}}
}

// ask asks an agent's site API for something that needs its catalog.
func (f *fleet) ask(cl *http.Client, agent string) error {
	req, err := http.NewRequest(http.MethodGet, "https://"+f.agents[agent]+"/v1/whoami", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+f.token)
	res, err := cl.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", res.Status)
	}
	return nil
}

// load asks some 100 times a second: the agents' site APIs, half of it on new connections, and the site over the sessions that the
// agents dialled. A request that fails while nobody whom it needs is hurt, from before it to after it, is an error.
func (f *fleet) load(agents ...string) (stop func()) {
	ctx, cancel := context.WithCancel(f.Context())
	var wg sync.WaitGroup
	run := func(what string, every time.Duration, needs []string, ask func() error) {
		wg.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				before := f.anyHurt(needs...)
				err := ask()
				excused := before || f.anyHurt(needs...)
				f.mu.Lock()
				f.asked++
				if err != nil && excused {
					f.excused++
				}
				f.mu.Unlock()
				if err != nil && !excused && ctx.Err() == nil {
					f.Errorf("%s at %s: %v", what, time.Now().Format("15:04:05.000"), err)
				}
			}
		})
	}
	for _, a := range agents {
		fresh, kept := f.client(false), f.client(true)
		run("new connection to "+a, 40*time.Millisecond, []string{a}, func() error { return f.ask(fresh, a) })
		run("connection to "+a, 40*time.Millisecond, []string{a}, func() error { return f.ask(kept, a) })
	}
	run("over the sessions", 50*time.Millisecond, nil, func() error {
		s, err := f.api.SiteStatus(ctx, "lon1")
		if err == nil && s.Reachable != "yes" {
			err = fmt.Errorf("the site is %q", s.Reachable)
		}
		return err
	})
	return func() { cancel(); wg.Wait() }
}

// keys is what the coordinator knows of an agent's keys.
func (f *fleet) keys(id string) (k api.AgentKeys) {
	s, err := f.api.KeyStatus(f.Context())
	if err != nil {
		return k
	}
	for _, a := range s.Agents() {
		if a.ID == id {
			k = a
		}
	}
	return k
}

// phase returns how far the rotation of an agent is.
func (f *fleet) phase(q api.RotateRequest) (*api.RotationStatus, error) {
	return f.api.Rotate(f.Context(), q)
}

// reach waits until a rotation is at a phase or beyond it.
func (f *fleet) reach(agent, phase string) *api.RotationStatus {
	f.Helper()
	site, id, _ := strings.Cut(agent, "/")
	order := []string{api.PhaseAccept, api.PhaseUse, api.PhaseRetire, api.PhaseDone}
	var st *api.RotationStatus
	f.wait(agent+" is at "+phase, func() bool {
		var err error
		st, err = f.phase(api.RotateRequest{What: api.RotateAgent, Site: site, Agent: id})
		return err == nil && slices.Index(order, st.Phase) >= slices.Index(order, phase)
	})
	return st
}

// keysOf lists the sets of keys on an agent's disk, and the one in use.
func (f *fleet) keysOf(agent string) (sets []string, used uint64) {
	f.Helper()
	dir := filepath.Join(f.dir, strings.ReplaceAll(agent, "/", "-"), "keys")
	found, err := filepath.Glob(filepath.Join(dir, "*", "tls.key"))
	f.must(err)
	if _, err := os.Stat(filepath.Join(dir, "tls.key")); err == nil {
		sets = append(sets, "0")
	}
	for _, p := range found {
		sets = append(sets, filepath.Base(filepath.Dir(p)))
	}
	b, err := os.ReadFile(filepath.Join(dir, "identity.json"))
	f.must(err)
	var id struct {
		Set uint64 `json:"set"`
	}
	f.must(json.Unmarshal(b, &id))
	return sets, id.Set
}

// TestRotateUnderLoad is F18 for agents' keys: under load, coordinator and agent are killed at each phase of rotations. No request
// fails but those that need the killed process, the ledger tells who is waited for, the keys of before are gone from roster and disk,
// and who was absent catches up by itself.
func TestRotateUnderLoad(t *testing.T) {
	rnd := random(t)
	f := newFleet(t)
	f.coordinatorUp()
	f.must(f.apply(siteLon, machineType("small", 1), secretV1))
	for _, id := range []string{"a1", "a2", "a3"} {
		f.agentUp("lon1", id)
	}
	f.wait("lon1 is level", func() bool { return f.level("lon1") && f.sessions() })
	for a := range f.agents {
		f.wait(a+" answers", func() bool { return f.ask(f.client(false), a) == nil })
	}
	f.wait("a3 was heard", func() bool { return f.keys("a3").Clock != "" })
	f.shut("lon1/a3") // the absentee
	f.wait("a3 is gone", func() bool { return !f.keys("a3").Up })
	stop := f.load("lon1/a1", "lon1/a2")
	sets := map[string]uint64{}
	for turn := range times(tierTurns) {
		for i, agent := range []string{"lon1/a1", "lon1/a2"} {
			f.turn(rnd, agent, i, turn)
			if turn != 1 || i != 0 { // the first one of a1 is still held by the absentee: its second turn goes on with it
				sets[agent]++
			}
		}
	}
	f.agentUp("lon1", "a3")
	for agent, n := range sets {
		f.reach(agent, api.PhaseDone)
		f.wait(agent+" has forgotten", func() bool {
			has, used := f.keysOf(agent)
			return used == n && len(has) == 1 && has[0] == fmt.Sprint(n)
		})
	}
	f.wait("a3 is level", func() bool { return f.level("lon1") && f.sessions() && f.ask(f.client(false), "lon1/a3") == nil })
	_, err := f.phase(api.RotateRequest{What: api.RotateAgent, Site: "lon1", Agent: "a3"}) // and a rotation in which nobody is killed
	f.must(err)
	f.reach("lon1/a3", api.PhaseDone)
	st, err := f.api.KeyStatus(t.Context())
	f.must(err)
	for _, a := range st.Agents() {
		if a.Keys != 1 {
			t.Errorf("the roster lists %d keys of %s", a.Keys, a.ID)
		}
	}
	l, err := f.api.Rotations(t.Context())
	f.must(err)
	if len(l.Items) != 0 {
		t.Errorf("under way: %+v", l.Items)
	}
	stop()
	t.Logf("%d requests, %d failed because their process was killed", f.asked, f.excused)
	if f.asked < 100 {
		t.Errorf("%d requests are no load", f.asked)
	}
}

// after waits for n more requests of the load.
func (f *fleet) after(n int) {
	f.Helper()
	asked := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.asked
	}
	until := asked() + n
	f.wait("the load goes on", func() bool { return asked() >= until })
}

// turn rotates the keys of one agent; at each phase the agent or the coordinator is killed, the other one than at the phase before.
func (f *fleet) turn(rnd *rand.Rand, agent string, first, turn int) {
	f.Helper()
	site, id, _ := strings.Cut(agent, "/")
	q := api.RotateRequest{What: api.RotateAgent, Site: site, Agent: id, Again: turn > 0}
	st, err := f.phase(q)
	f.must(err)
	if st.Phase == api.PhaseDone || len(st.Ledger) != 1 || st.Ledger[0].Agent != agent {
		f.Errorf("begun: %+v", st)
	}
	who := []string{agent, "coordinator"}
	for i, phase := range []string{api.PhaseAccept, api.PhaseUse, api.PhaseRetire} {
		f.reach(agent, phase)
		f.after(rnd.IntN(40)) // somewhere within the phase, or behind it
		f.crash(who[(first+i)%2])
	}
	f.wait("only the absentee is waited for", func() bool {
		st, err := f.phase(api.RotateRequest{What: api.RotateAgent, Site: site, Agent: id})
		return err == nil && st.Phase == api.PhaseRetire && st.Waits() && strings.Contains(st.Ledger[0].Held, "waits for lon1/a3, heard")
	})
	if turn > 0 || first > 0 { // else the absentee holds it still when he returns
		_, err := f.phase(api.RotateRequest{What: api.RotateAgent, Site: site, Agent: id, ForceAfterSeconds: 1})
		f.must(err)
		f.reach(agent, api.PhaseDone)
	}
}
