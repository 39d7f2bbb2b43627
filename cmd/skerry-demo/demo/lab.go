package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/test/sim/bmc"
	"github.com/skerry-metal/skerry/test/sim/netlab"
	"github.com/skerry-metal/skerry/test/sim/vm"
	"github.com/skerry-metal/skerry/test/sim/wan"
	"golang.org/x/sync/errgroup"
)

// The addresses of the simulated site; they exist in its own namespaces only.
const (
	coordAddr  = "10.99.0.1:7443" // where the coordinator listens
	relayAddr  = "10.99.1.1:7443" // where agents reach it, over the WAN link
	domain     = "edge.example"
	bmcUser    = "root"
	bmcPass    = "calvin-in-the-demo"
	diskBytes  = 256 << 20
	memoryMiB  = 512
	reserve    = "268435456" // octets that assets leave free: the demo runs on small disks
	agentCount = 2
	sampling   = 20 // the switch tells of 1 in 20 packets
)

// box is one simulated machine with its controller.
type box struct {
	name     string
	firmware vm.Firmware
	mac      string
	uuid     string
	addr     string // of the BMC
	vm       *vm.Machine
	bmc      *bmc.BMC
	turns    atomic.Int64 // how often its power was cut or came on
}

// lab is the simulated site: five namespaces, a WAN relay, a switch, three machines, and the processes under test. A second site has one agent, p1,
// and no machines.
type lab struct {
	dir    string
	exe    string
	net    *netlab.Lab
	ns     map[string]*netlab.Namespace
	relay  *wan.Relay
	tor    *netlab.Switch // the rack's
	boxes  []*box
	procs  map[string]*netlab.Proc
	tokens map[string]string // context -> bearer token
	out    io.Writer
	event  func(string)
}

func newLab(dir, exe string, out io.Writer) *lab {
	return &lab{dir: dir, exe: exe, net: netlab.New(), ns: map[string]*netlab.Namespace{}, procs: map[string]*netlab.Proc{}, tokens: map[string]string{}, out: out}
}

// wire makes namespaces and links.
func (l *lab) wire() error {
	for _, n := range []string{"coord", "wan", "a1", "a2", "p1", "rack"} {
		ns, err := l.net.Namespace(n)
		if err != nil {
			return err
		}
		l.ns[n] = ns
	}
	wanNS, rack := l.ns["wan"], l.ns["rack"]
	steps := []func() error{
		func() error { return l.net.Veth(l.ns["coord"], "up0", wanNS, "coord0") },
		func() error { return l.ns["coord"].Addr("up0", "10.99.0.1/24") },
		func() error { return wanNS.Addr("coord0", "10.99.0.2/24") },
		func() error { return wanNS.Bridge("site0") },
		func() error { return wanNS.Addr("site0", "10.99.1.1/24") },
		func() (err error) { l.tor, err = l.net.Switch(rack, filepath.Join(l.dir, "sw1"), "br0"); return err },
		func() error { return l.net.Veth(l.ns["p1"], "mgmt0", wanNS, "par0") },
		func() error { return wanNS.Attach("site0", "par0") },
		func() error { return l.ns["p1"].Addr("mgmt0", "10.99.1.21/24") },
	}
	for i := 1; i <= agentCount; i++ {
		a := l.ns[fmt.Sprintf("a%d", i)]
		mgmt, boot := fmt.Sprintf("mgmt%d", i), fmt.Sprintf("boot%d", i)
		steps = append(steps,
			func() error { return l.net.Veth(a, "mgmt0", wanNS, mgmt) },
			func() error { return wanNS.Attach("site0", mgmt) },
			func() error { return a.Addr("mgmt0", fmt.Sprintf("10.99.1.1%d/24", i)) },
			func() error { return l.net.Veth(a, "boot0", rack, boot) },
			func() error { return a.Finish("boot0") },
			func() error { return l.tor.Port(boot) },
			func() error { return a.Addr("boot0", fmt.Sprintf("10.88.0.1%d/16", i)) },
		)
	}
	for i := 1; i <= 3; i++ {
		steps = append(steps,
			func() error { return rack.Addr("br0", fmt.Sprintf("10.88.1.%d/16", i)) },
			func() error { return rack.Tap(fmt.Sprintf("tap%d", i), "") },
			func() error { return l.tor.Port(fmt.Sprintf("tap%d", i)) },
		)
	}
	steps = append(steps,
		func() error { return rack.Finish("br0") },
		func() error { return l.tor.SFlow(sampling, "10.88.0.11:6343", "10.88.0.12:6343") },
	)
	for _, s := range steps {
		if err := s(); err != nil {
			return err
		}
	}
	return nil
}

// simulate starts the WAN relay, the machines and their controllers; they run until ctx ends.
func (l *lab) simulate(ctx context.Context, g *errgroup.Group) error {
	tcp, err := l.ns["wan"].Listen("tcp", relayAddr)
	if err != nil {
		return err
	}
	udp, err := l.ns["wan"].ListenPacket("udp", relayAddr)
	if err != nil {
		return err
	}
	l.relay = wan.New(wan.Config{TCP: tcp, UDP: udp, Target: coordAddr, Dial: l.ns["wan"].DialContext, Seed: 1})
	g.Go(func() error { return l.relay.Run(ctx) })
	for i, fw := range []vm.Firmware{vm.BIOS, vm.UEFIPXE, vm.UEFIHTTP} {
		if err := l.machine(ctx, g, i+1, fw); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) machine(ctx context.Context, g *errgroup.Group, n int, fw vm.Firmware) error {
	b := &box{
		name: fmt.Sprintf("m%d", n), firmware: fw, mac: fmt.Sprintf("52:54:00:88:00:0%d", n),
		uuid: fmt.Sprintf("00000000-0000-4000-8000-0000000000a%d", n), addr: fmt.Sprintf("10.88.1.%d", n),
	}
	dir := filepath.Join(l.dir, b.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot make machine %s: %w", b.name, err)
	}
	disk := vm.Disk{Path: filepath.Join(dir, "disk.img"), SizeBytes: diskBytes, Serial: "DISK-" + strings.ToUpper(b.name)}
	var err error
	b.vm, err = vm.New(vm.Config{
		Name: b.name, Dir: dir, NS: l.ns["rack"], Firmware: fw, MemoryMiB: memoryMiB,
		NICs: []vm.NIC{{MAC: b.mac, Tap: fmt.Sprintf("tap%d", n)}}, Disks: []vm.Disk{disk},
		Serial: "SN-" + strings.ToUpper(b.name), UUID: b.uuid, Manufacturer: "Skerry Simulations", Product: "Pebble " + string(fw),
		Boot: func() vm.Device { return b.bmc.NextBoot() },
		OnEvent: func(e vm.Event) {
			if e.Kind == "killed" || e.Kind == "started" {
				b.turns.Add(1)
			}
			if l.event != nil {
				l.event(fmt.Sprintf("%s: %s %s %s", e.Machine, e.Kind, e.Boot, e.Detail))
			}
		},
	})
	if err != nil {
		return err
	}
	b.bmc = bmc.New(bmc.Config{
		User: bmcUser, Password: bmcPass, Firmware: fw, UUID: b.uuid, Serial: "SN-" + strings.ToUpper(b.name),
		Maker: "Skerry Simulations", Model: "Pebble " + string(fw), MACs: []string{b.mac}, Disks: []vm.Disk{disk}, Memory: memoryMiB, Address: b.addr,
	}, b.vm)
	cert, err := bmc.SelfSigned(net.ParseIP(b.addr))
	if err != nil {
		return err
	}
	ln, err := l.ns["rack"].Listen("tcp", b.addr+":443")
	if err != nil {
		return err
	}
	g.Go(func() error { return b.vm.Run(ctx) })
	g.Go(func() error { return b.bmc.Serve(ctx, ln, cert) })
	l.boxes = append(l.boxes, b)
	return nil
}

// start runs the binary under test as a process of its own in a namespace; its log is DIR/NAME.log.
func (l *lab) start(name, ns string, args ...string) error {
	log, err := os.OpenFile(filepath.Join(l.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("cannot log %s: %w", name, err)
	}
	p, err := l.net.Start(netlab.Command{Name: name, NS: l.ns[ns], Path: l.exe, Args: args, Output: log, Env: l.env()})
	if err != nil {
		return err
	}
	l.procs[name] = p
	return nil
}

func (l *lab) env() []string {
	return append(os.Environ(), "SKERRY_CONFIG="+filepath.Join(l.dir, "config.yaml"))
}

func (l *lab) startCoordinator() error {
	return l.start("coordinator", "coord", "coordinator", "--data", filepath.Join(l.dir, "coordinator"), "--listen", coordAddr,
		"--metrics", "10.99.0.1:7490", "--spread", "2s", "--reserve-bytes", reserve)
}

func (l *lab) startAgent(i int, join string) error {
	name := fmt.Sprintf("a%d", i)
	args := l.agentArgs(name, i)
	if join != "" {
		args = append(args, "--join", join)
	}
	return l.start(name, name, args...)
}

// startParis starts the agent of the second site.
func (l *lab) startParis(join string) error {
	args := []string{
		"agent", "--data", filepath.Join(l.dir, "p1"), "--management", management("p1"), "--metrics", "10.99.1.21:7490",
		"--spread", "1s", "--max-backoff", "3s", "--reserve-bytes", reserve,
	}
	if join != "" {
		args = append(args, "--join", join)
	}
	return l.start("p1", "p1", args...)
}

// management returns where an agent listens: a1 at 10.99.1.11, p1 at 10.99.1.21.
func management(agent string) string {
	return map[byte]string{'a': "10.99.1.1", 'p': "10.99.1.2"}[agent[0]] + agent[1:] + ":7444"
}

// startSpare starts spare s1 on the host of agent i, at its addresses.
func (l *lab) startSpare(i int, kit, passphrase string) error {
	name, file := fmt.Sprintf("a%d", i), kit+".passphrase"
	if err := os.WriteFile(file, []byte(passphrase), 0o600); err != nil {
		return fmt.Errorf("cannot keep the kit's passphrase: %w", err)
	}
	return l.start("s1", name, append(l.agentArgs("s1", i), "--spare", kit, "--passphrase-file", file, "--replaces", name)...)
}

func (l *lab) agentArgs(name string, i int) []string {
	return []string{
		"agent", "--data", filepath.Join(l.dir, name), "--management", management(fmt.Sprintf("a%d", i)), "--boot", fmt.Sprintf("10.88.0.1%d", i),
		"--metrics", fmt.Sprintf("10.99.1.1%d:7490", i), "--sflow", fmt.Sprintf("10.88.0.1%d:6343", i), "--spread", "1s", "--max-backoff", "3s", "--reserve-bytes", reserve,
	}
}

// cli runs one command of the operator or user as a process and returns its output.
func (l *lab) cli(ctx context.Context, ns string, args ...string) (string, error) {
	b, errs := &strings.Builder{}, &strings.Builder{}
	p, err := l.net.Start(netlab.Command{Name: "skerry " + args[0], NS: l.ns[ns], Path: l.exe, Args: args, Output: b, Errors: errs, Env: l.env()})
	if err != nil {
		return "", err
	}
	if err := p.Wait(ctx); err != nil {
		return b.String(), fmt.Errorf("cannot run skerry %s: %w\n%s", strings.Join(args, " "), err, errs)
	}
	return b.String(), nil
}

// cutWAN black-holes the coordinator: the relay drops everything, and the agents have no route either.
func (l *lab) cutWAN(cut bool) error {
	l.relay.Set(wan.Condition{Cut: cut})
	verb := []string{"route", "replace", "blackhole", "10.99.1.1/32"}
	if !cut {
		verb = []string{"route", "del", "blackhole", "10.99.1.1/32"}
	}
	for i := 1; i <= agentCount; i++ {
		if err := l.ns[fmt.Sprintf("a%d", i)].IP(verb...); err != nil {
			return err
		}
	}
	return nil
}

// api returns a client of the coordinator ("coordinator") or of an agent ("a1"), with a token of tokens.
func (l *lab) api(who, token string) (*client.Client, error) {
	pem, err := os.ReadFile(filepath.Join(l.dir, "coordinator", "keys", "root.crt"))
	if err != nil {
		return nil, fmt.Errorf("cannot read root certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("cannot use root certificate")
	}
	server, ns := "https://"+coordAddr, l.ns["coord"]
	if who != "coordinator" {
		server, ns = "https://"+management(who), l.ns[who]
	}
	rt := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}, DialContext: ns.DialContext,
		TLSHandshakeTimeout: 5 * time.Second, ForceAttemptHTTP2: true, DisableKeepAlives: true,
	}
	return client.New(server, l.tokens[token], rt), nil
}
