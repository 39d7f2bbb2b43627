package netboot

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/boot/httpboot"
	"github.com/skerry-metal/skerry/boot/ipxe"
	"github.com/skerry-metal/skerry/boot/tftp"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/test/e2e/lab"
)

// serverEnv makes the test binary an agent's boot servers instead: SKERRY_NETBOOT_CHILD=<json of child>.
const serverEnv = "SKERRY_NETBOOT_CHILD"

// child is one agent's part of the bench.
type child struct {
	Self  string
	Addr  netip.Addr // its own
	Iface string
	Both  []netip.Addr // all agents
	Act   ipxe.Act
	Bare  bool // has no assets: iPXE must go on to the other agent
	RA    bool
	Auto  bool // yields to another DHCP server; strangers get nothing
	Far   bool // has a subnet behind the relay farRelay too
	Rate  bool // has the clients of BenchmarkDHCP, and tells of none
}

func TestMain(m *testing.M) {
	if env := os.Getenv(serverEnv); env != "" {
		if err := serve(env); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if env := os.Getenv(fetchEnv); env != "" {
		if err := fetchAll(env); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// event is one line of a child's standard output.
type event struct {
	Self, What, MAC, Detail string
}

// site is the child's stand-in for siteagent.
type site struct {
	c  child
	mu sync.Mutex // guards what follows
	f  dhcp.Facts
	v  *dhcp.View
	w  dhcp.Watch
}

// watch applies what was found out about other servers.
func (s *site) watch(fn func(*dhcp.Watch, time.Time) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !fn(&s.w, time.Now()) {
		return
	}
	s.f.Subnets = slices.Clone(s.f.Subnets)
	s.f.Subnets[0].Mode = s.w.Mode(dhcp.ModeAuto)
	v, err := dhcp.NewView(s.f)
	if err != nil {
		panic(err)
	}
	s.v = v
	say(event{s.c.Self, "mode " + s.f.Subnets[0].Mode.String(), "", s.w.Server.String()})
}

func (s *site) heard(o dhcp.Server) {
	s.watch(func(w *dhcp.Watch, now time.Time) bool { return w.Heard(o, now) })
}

func (s *site) silent() {
	s.watch(func(w *dhcp.Watch, now time.Time) bool { return w.Silent(now) })
}

func (s *site) View() *dhcp.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.v
}

func (s *site) Commit(_ context.Context, l dhcp.Lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.f.Leases = append(s.f.Leases, l)
	v, err := dhcp.NewView(s.f)
	if err != nil {
		return err
	}
	s.v = v
	say(event{s.c.Self, "lease", l.MAC.String(), l.Addr.String()})
	return nil
}

func (s *site) Seen(e dhcp.Event) {
	if s.c.Rate {
		return
	}
	if s.c.Auto && e.Server.IsValid() {
		s.heard(dhcp.Server{ID: e.Server, By: dhcp.ByClient})
	}
	say(event{s.c.Self, "dhcp " + e.Type + " " + e.Reason, e.MAC.String(), e.Arch + " " + e.Stage + " " + e.File + dhcp.PortID(e.Circuit)})
}

func (s *site) Script(_ context.Context, r httpboot.ScriptRequest) (string, string, error) {
	say(event{s.c.Self, "script", r.MAC, r.Remote.String()})
	in := ipxe.Input{Act: s.c.Act, Machine: "m1", MAC: r.MAC, Kernel: kernelID(), Ramdisk: ramdiskID(), Pin: "00", Token: "t"}
	if in.Act != ipxe.ActInstaller {
		in.Token = ""
	}
	for _, a := range s.c.Both {
		in.HTTP = append(in.HTTP, netip.AddrPortFrom(a, 7480).String())
		in.Agents = append(in.Agents, netip.AddrPortFrom(a, 7444).String())
	}
	text, err := ipxe.Script(in)
	return text, "test", err
}

func kernelID() intent.Digest  { return intent.DigestOf([]byte("kernel")) }
func ramdiskID() intent.Digest { return intent.DigestOf([]byte("ramdisk")) }

func (s *site) Open(_ context.Context, d intent.Digest) (io.ReadSeekCloser, error) {
	name := map[intent.Digest]string{kernelID(): "KERNEL", ramdiskID(): "RAMDISK"}[d]
	if p := os.Getenv("SKERRY_NETBOOT_" + name); p != "" && !s.c.Bare {
		return os.Open(p)
	}
	return nil, httpboot.ErrAbsent
}

var sayMu sync.Mutex // one line at a time

func say(e event) {
	b, err := json.Marshal(e)
	if err != nil {
		return
	}
	sayMu.Lock()
	defer sayMu.Unlock()
	os.Stdout.Write(append(b, '\n'))
}

func serve(env string) error {
	var c child
	if err := json.Unmarshal([]byte(env), &c); err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	s := &site{c: c, f: dhcp.Facts{
		Self: c.Self, Subnets: []dhcp.Subnet{{
			Name: "rack", Prefix: netip.MustParsePrefix("10.88.0.0/24"),
			Router: netip.MustParseAddr("10.88.0.1"), DNS: []netip.Addr{netip.MustParseAddr("10.88.0.1")}, DynFirst: netip.MustParseAddr("10.88.0.100"),
			DynLast: netip.MustParseAddr("10.88.0.199"), Mode: dhcp.ModeAuthoritative, Discovery: true, AnyClient: true,
		}},
		Hosts: []dhcp.Host{{MAC: dhcp.MAC{0x52, 0x54, 0, 0, 0, 1}, Name: "m1", Addr: netip.MustParseAddr("10.88.0.21"), Boot: true}},
	}}
	if c.Auto {
		s.f.Subnets[0].AnyClient, s.f.Subnets[0].Mode = false, s.w.Mode(dhcp.ModeAuto)
	}
	if c.Rate {
		s.f.Subnets = []dhcp.Subnet{{
			Name: "rate", Prefix: netip.MustParsePrefix("10.66.0.0/16"), Router: netip.MustParseAddr(rateServer), Relays: []netip.Addr{netip.MustParseAddr(rateRelay)},
			Mode: dhcp.ModeAuthoritative,
		}}
		s.f.Hosts = nil
		for i := range rateClients {
			s.f.Hosts = append(s.f.Hosts, dhcp.Host{MAC: rateMAC(i), Addr: rateAddr(i)})
		}
	}
	if c.Far {
		s.f.Subnets = append(s.f.Subnets, dhcp.Subnet{
			Name: "far", Prefix: netip.MustParsePrefix("10.90.0.0/24"), Router: netip.MustParseAddr(farRelay), Relays: []netip.Addr{netip.MustParseAddr(farRelay)},
			DynFirst: netip.MustParseAddr("10.90.0.100"), DynLast: netip.MustParseAddr("10.90.0.199"), Mode: dhcp.ModeAuthoritative, AnyClient: true,
		})
		s.f.Hosts = append(s.f.Hosts, dhcp.Host{MAC: dhcp.MAC{0x52, 0x54, 0, 0, 0, 1}, Name: "m1", Addr: netip.MustParseAddr("10.90.0.21"), Boot: true})
	}
	for i, a := range c.Both {
		s.f.Agents = append(s.f.Agents, dhcp.Agent{ID: fmt.Sprintf("a%d", i+1), Boot: []netip.Addr{a}})
	}
	v, err := dhcp.NewView(s.f)
	if err != nil {
		return err
	}
	s.v = v
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ready := make(chan struct{})
	l := dhcp.NewListener(dhcp.ListenerConfig{Iface: c.Iface, Site: s, Logger: log, Ready: ready})
	loaders := ipxe.Loaders{Dir: cmp.Or(os.Getenv("SKERRY_NETBOOT_LOADERS"), "/usr/lib/ipxe")}
	udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.Addr, 69)))
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp4", netip.AddrPortFrom(c.Addr, 7480).String())
	if err != nil {
		return err
	}
	h := httpboot.NewHandler(httpboot.Config{Scripts: s, Loaders: loaders, Assets: s, Logger: log, Seen: func(x httpboot.Served) {
		say(event{c.Self, "http " + x.What, x.Name, fmt.Sprintf("%d %d", x.Status, x.Octets)})
	}})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.Run(ctx) })
	if c.Auto {
		p := &dhcp.Prober{
			Iface: c.Iface, Logger: log, Wanted: func() bool { return true }, Ours: func(a netip.Addr) bool { return s.View().Ours(a) },
			Heard: s.heard, Silent: s.silent,
		}
		g.Go(func() error { return p.Run(ctx) })
	}
	g.Go(func() error { return httpboot.Serve(ctx, ln, h, nil, log) })
	g.Go(func() error {
		return tftp.New(tftp.Config{Loaders: loaders, Logger: log, Seen: func(_ netip.Addr, name string, n int64, err error) {
			say(event{c.Self, "tftp", name, fmt.Sprint(n, " ", err)})
		}}).Serve(ctx, udp)
	})
	if c.RA {
		a := &dhcp.Advertiser{Iface: c.Iface, Known: v.Known, Logger: log}
		g.Go(func() error { return a.Run(ctx) })
	}
	g.Go(func() error {
		select {
		case <-ready:
			say(event{Self: c.Self, What: "ready"})
		case <-ctx.Done():
		}
		return nil
	})
	return g.Wait()
}

// rack is a bridge with two agents and a client, each in its own namespace.
type rack struct {
	t      testing.TB
	prefix string
	events chan event
	log    *bytes.Buffer
	mode   map[string]event // the newest mode of each agent that wait read
}

func need(t testing.TB, tools ...string) {
	t.Helper()
	reqs := []lab.Requirement{lab.Root}
	for i := 0; i+1 < len(tools); i += 2 {
		reqs = append(reqs, lab.Tool(tools[i], tools[i+1]))
	}
	lab.Need(t, reqs...)
}

func run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func newBench(t testing.TB, children ...child) *rack {
	b := &rack{t: t, prefix: fmt.Sprintf("sk%d", os.Getpid()), events: make(chan event, 4096), log: &bytes.Buffer{}, mode: map[string]event{}}
	for _, n := range []string{"r", "c"} {
		b.netns(n)
	}
	run(t, "ip", "-n", b.ns("r"), "link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0", "mcast_snooping", "0")
	run(t, "ip", "-n", b.ns("r"), "link", "set", "br0", "up")
	b.plug("c", "")
	b.join(children...)
	return b
}

// join plugs agents into the rack and starts them.
func (b *rack) join(children ...child) {
	var both []netip.Addr
	for _, c := range children {
		both = append(both, c.Addr)
	}
	for _, c := range children {
		b.netns(c.Self)
		b.plug(c.Self, c.Addr.String()+"/24")
		c.Iface, c.Both = "e0", both
		b.start(c)
	}
}

func (b *rack) ns(n string) string { return b.prefix + n }

func (b *rack) netns(n string) {
	run(b.t, "ip", "netns", "add", b.ns(n))
	b.t.Cleanup(func() { exec.Command("ip", "netns", "del", b.ns(n)).Run() })
	run(b.t, "ip", "-n", b.ns(n), "link", "set", "lo", "up")
}

func (b *rack) plug(n, addr string) {
	run(b.t, "ip", "link", "add", "e0", "netns", b.ns(n), "type", "veth", "peer", "name", "p"+n, "netns", b.ns("r"))
	run(b.t, "ip", "-n", b.ns("r"), "link", "set", "p"+n, "master", "br0", "up")
	if addr != "" {
		run(b.t, "ip", "-n", b.ns(n), "addr", "add", addr, "dev", "e0")
	} else {
		run(b.t, "ip", "-n", b.ns(n), "link", "set", "e0", "address", "52:54:00:00:00:01")
	}
	run(b.t, "ip", "-n", b.ns(n), "link", "set", "e0", "up")
	run(b.t, "ip", "netns", "exec", b.ns(n), "ethtool", "-K", "e0", "tx", "off") // else checksums are wrong on raw frames
}

func (b *rack) start(c child) {
	env, err := json.Marshal(c)
	if err != nil {
		b.t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", b.ns(c.Self), "/proc/self/exe")
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd.Args[4] = self
	cmd.Env = append(os.Environ(), serverEnv+"="+string(env))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		dec := json.NewDecoder(out)
		for {
			var e event
			if err := dec.Decode(&e); err != nil {
				return
			}
			b.events <- e
		}
	}()
	b.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		stop := time.AfterFunc(4*time.Second, func() { cmd.Process.Kill() })
		<-done
		err := cmd.Wait()
		if !stop.Stop() || err != nil {
			b.t.Errorf("agent %s did not stop well: %v", c.Self, err)
		}
	})
	b.wait(10*time.Second, func(e event) bool { return e.Self == c.Self && e.What == "ready" })
}

// wait reads events until one fits, and returns it.
func (b *rack) wait(d time.Duration, fits func(event) bool) event {
	b.t.Helper()
	deadline := time.After(d)
	for {
		select {
		case e := <-b.events:
			b.t.Logf("%+v", e)
			if strings.HasPrefix(e.What, "mode ") {
				b.mode[e.Self] = e
			}
			if fits(e) {
				return e
			}
		case <-deadline:
			b.t.Fatalf("nothing fitting within %v", d)
		}
	}
}

// drain returns the events so far.
func (b *rack) drain() []event {
	var out []event
	for {
		select {
		case e := <-b.events:
			b.t.Logf("%+v", e)
			out = append(out, e)
		default:
			return out
		}
	}
}
