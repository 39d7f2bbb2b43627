package bootnet

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/boot/httpboot"
	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/discovery"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

const strangerMAC = "52:54:00:88:00:99"

// newHost makes an agent that looks at strangers on subnet boot, which leases 10.88.9.0/24 to them.
func newHost(t *testing.T, author *sitetest.Author, id string) *bench {
	t.Helper()
	b := newAgent(t, author, id)
	b.answers.strangers = &discovery.Strangers{
		Site: b.site, Self: id, May: func() error { return nil },
		Audit: auditlog.New(auditlog.Config{
			Journal: b.journal, Site: "lon1", Self: id, Sign: func() ed25519.PrivateKey { return author.Writer }, Live: func() []string { return nil }, Log: slog.New(slog.DiscardHandler),
		}),
	}
	return b
}

func (b *bench) open() *bench {
	b.receive(b.founding()...)
	b.receive(b.author.Put(strings.NewReplacer(`"generation":1`, `"generation":2`, `"10.88.0.0/16"`, `"10.88.0.0/16","gateway":"10.88.0.1","discovery":true,"dynamic":{"from":"10.88.9.1","to":"10.88.9.254"},"static":{"from":"10.88.0.20","to":"10.88.0.250"}`).Replace(poolDoc)))
	return b
}

// lease gives the MAC an address, as DHCP does.
func (b *bench) lease(mac string, addr netip.Addr) {
	b.t.Helper()
	m, err := dhcp.ParseMAC(mac)
	if err == nil {
		err = b.answers.Commit(b.t.Context(), dhcp.Lease{MAC: m, Addr: addr, Until: time.Now().Add(time.Hour), Agent: b.answers.self})
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func strangerReport(serial string, macs ...string) inventory.Report {
	r := inventory.Report{Serial: serial, Vendor: "ACME", Product: "R1\x1b[2J", CPUs: []inventory.CPU{{Cores: 2, Threads: 2}}, Memory: 1 << 30, Boot: inventory.Boot{Firmware: "bios"}}
	for _, m := range macs {
		r.NICs = append(r.NICs, inventory.NIC{Name: "eth0", MAC: m})
	}
	r.Disks = []inventory.Disk{{Name: "vda", Serial: "D1", SizeBytes: 1 << 30}}
	return r
}

func (b *bench) discover(from string, mac string, r inventory.Report) (install.Standing, error) {
	at, err := b.answers.Discover(b.t.Context(), netip.MustParseAddr(from), install.Discovery{MAC: mac, Report: r})
	return at.Standing, err
}

func (b *bench) list() string {
	b.t.Helper()
	l, err := b.answers.strangers.Discovered(b.t.Context(), "lon1", "")
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, m := range l.Machines {
		out = append(out, fmt.Sprintf("%s %s %s %s %s %q ignored %v", m.ID, m.Serial, m.MachineType, m.Address, m.Port.Circuit, m.Product, m.Ignored != nil))
	}
	return strings.Join(out, "\n")
}

// script returns what the MAC boots when it asks from an address.
func (b *bench) script(mac, from string) string {
	b.t.Helper()
	text, _, err := b.answers.Script(b.t.Context(), httpboot.ScriptRequest{MAC: strings.ReplaceAll(mac, ":", "-"), Remote: netip.MustParseAddr(from)})
	if err != nil {
		b.t.Fatal(err)
	}
	return text
}

// TestStranger: the ramdisk, without a token, goes to who has a lease of ours, and to its address alone; what it tells is on the list until
// the machine is ignored or declared.
func TestStranger(t *testing.T) {
	b := newHost(t, sitetest.NewAuthor(t), "a1").open()
	addr := netip.MustParseAddr("10.88.9.7")
	if s := b.script(strangerMAC, "10.88.9.7"); strings.Contains(s, "kernel") {
		t.Errorf("without a lease it boots\n%s", s)
	}
	b.lease(strangerMAC, addr)
	s := b.script(strangerMAC, "10.88.9.7")
	if !strings.Contains(s, "skerry.ip=10.88.9.7/16 ") || !strings.Contains(s, "skerry.gw=10.88.0.1") || !strings.Contains(s, " nomodeset\n") || strings.Contains(s, "skerry.token") {
		t.Errorf("a stranger boots\n%s", s)
	}
	if s := b.script(strangerMAC, "10.88.9.8"); strings.Contains(s, "kernel") {
		t.Errorf("from another address it boots\n%s", s)
	}
	b.answers.refresh()
	b.answers.Seen(dhcp.Event{Reason: dhcp.ReasonAck, MAC: dhcp.MAC{0x52, 0x54, 0, 0x88, 0, 0x99}, Relay: netip.MustParseAddr("10.88.0.1"), Circuit: []byte("ge-0/0/7"), Addr: addr})
	if _, err := b.discover("10.88.9.8", strangerMAC, strangerReport("SN-9", strangerMAC)); !errors.Is(err, install.ErrBusy) {
		t.Errorf("told from another address: %v", err)
	}
	if _, err := b.discover("10.88.9.7", strangerMAC, strangerReport("SN-9", testMAC)); !errors.Is(err, install.ErrBadRequest) {
		t.Errorf("a report without the card that booted: %v", err)
	}
	const second = "52:54:00:88:00:9a"
	if at, err := b.discover("10.88.9.7", strangerMAC, strangerReport("SN-9", strangerMAC, second)); at != install.StandingDiscovered || err != nil {
		t.Fatalf("%q, %v", at, err)
	}
	rev, _ := b.journal.Rev()
	if at, err := b.discover("10.88.9.7", strangerMAC, strangerReport("SN-9", strangerMAC, second)); at != install.StandingDiscovered || err != nil {
		t.Fatalf("%q, %v", at, err)
	}
	if again, _ := b.journal.Rev(); again != rev {
		t.Errorf("the same told again is written again")
	}
	const line = `52-54-00-88-00-99 SN-9 small 10.88.9.7 ge-0/0/7 "R1 [2J" ignored `
	if got := b.list(); got != line+"false" {
		t.Errorf("listed is %s", got)
	}
	if err := b.answers.strangers.Ignore(t.Context(), api.Caller{User: "root"}, "lon1", strings.ToUpper(strangerMAC), "a laptop"); err != nil {
		t.Fatal(err)
	}
	if s := b.script(strangerMAC, "10.88.9.7"); strings.Contains(s, "kernel") || b.list() != line+"true" {
		t.Errorf("ignored it boots\n%s\nand is listed as %s", s, b.list())
	}
	b.lease(second, netip.MustParseAddr("10.88.9.8")) // by its other card it is the same machine, as it says there too
	if at, err := b.discover("10.88.9.8", second, strangerReport("SN-9", strangerMAC, second)); at != install.StandingIgnored || err != nil {
		t.Errorf("ignored it stands by its other card as %q, %v", at, err)
	}
	if s := b.script(second, "10.88.9.8"); strings.Contains(s, "kernel") {
		t.Errorf("ignored it boots by its other card\n%s", s)
	}
	if at, err := b.discover("10.88.9.7", strangerMAC, strangerReport("SN-9", strangerMAC)); at != install.StandingIgnored || err != nil {
		t.Errorf("ignored it stands as %q, %v", at, err)
	}
	b.receive(b.author.Put(strings.NewReplacer(`"m1"`, `"m9"`, testMAC, strangerMAC, testUUID, "", "SN-M1", "SN-9", "10.88.0.21", "10.88.0.29").Replace(machineDoc)))
	if at, err := b.discover("10.88.9.7", strangerMAC, strangerReport("SN-9", strangerMAC)); at != install.StandingDeclared || err != nil || b.list() != "" {
		t.Errorf("declared it stands as %q, %v, and is listed as %q", at, err, b.list())
	}
}

// TestStrangerInUse: a server that nobody declared, and that tries the network first, is listed, and has its own system again: at once, and
// after its next restarts, until a day later.
func TestStrangerInUse(t *testing.T) {
	b := newHost(t, sitetest.NewAuthor(t), "a1").open()
	b.lease(strangerMAC, netip.MustParseAddr("10.88.9.7"))
	r := strangerReport("SN-9", strangerMAC)
	r.Disks[0].Signatures = []string{"gpt"}
	if s := b.script(strangerMAC, "10.88.9.7"); !strings.Contains(s, "kernel") {
		t.Errorf("the first time it boots\n%s", s)
	}
	if at, err := b.discover("10.88.9.7", strangerMAC, r); at != install.StandingInUse || err != nil {
		t.Errorf("it stands as %q, %v", at, err)
	}
	if s := b.script(strangerMAC, "10.88.9.7"); strings.Contains(s, "kernel") || b.list() == "" {
		t.Errorf("after it was looked at it boots\n%s\nand is listed as %s", s, b.list())
	}
	if why := b.answers.strangers.Leave(strangerMAC, time.Now().Add(25*time.Hour)); why != "" {
		t.Errorf("a day later: %s", why)
	}
}

// TestWaitsForInstaller: while kernel and ramdisk are not here, a machine that is awaited, and a stranger, ask again in ten seconds.
func TestWaitsForInstaller(t *testing.T) {
	b := newHost(t, sitetest.NewAuthor(t), "a1").open()
	b.site.Assets = func(*reconcile.Binding) string { return "asset ramdisk is being fetched" }
	b.lease(strangerMAC, netip.MustParseAddr("10.88.9.7"))
	b.window("n1")
	for mac, from := range map[string]string{strangerMAC: "10.88.9.7", testMAC: "10.88.0.21"} {
		if s := b.script(mac, from); !strings.Contains(s, "sleep 10\nchain ") {
			t.Errorf("%s boots\n%s", mac, s)
		}
	}
}

// TestDiscoveredByTwo: promise 9. Two agents that hear of one stranger, before they hear of each other, list one machine, and the same.
func TestDiscoveredByTwo(t *testing.T) {
	one := newHost(t, sitetest.NewAuthor(t), "a1").open()
	two := newHost(t, one.author, "a2")
	if _, err := two.replica.Receive(t.Context(), feed(t, one)); err != nil {
		t.Fatal(err)
	}
	exchange := func() {
		t.Helper()
		for _, w := range [][2]*bench{{one, two}, {two, one}} {
			from := w[0].answers.self
			p, err := w[0].journal.Range(from, 1, claim.MaxPull)
			if err == nil {
				_, err = w[1].journal.Receive(from, p)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	one.lease(strangerMAC, netip.MustParseAddr("10.88.9.7"))
	exchange()
	for _, b := range []*bench{one, two} {
		if at, err := b.discover("10.88.9.7", strangerMAC, strangerReport("SN-9", strangerMAC)); at != install.StandingDiscovered || err != nil {
			t.Fatalf("%q, %v", at, err)
		}
	}
	exchange()
	if a, b := one.list(), two.list(); a != b || strings.Count(a, "SN-9") != 1 {
		t.Errorf("a1 lists\n%s\na2 lists\n%s", a, b)
	}
}

// feed returns the chain that an agent has.
func feed(t *testing.T, b *bench) (envs []*intent.Envelope) {
	t.Helper()
	if err := b.replica.Feed(1, func(e *intent.Envelope) error { envs = append(envs, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return envs
}

// TestFloodOfStrangers: who makes up machine after machine, as large as a report may be, fills neither the list nor the journal, and takes
// no place of one that is ignored.
func TestFloodOfStrangers(t *testing.T) {
	b := newHost(t, sitetest.NewAuthor(t), "a1").open()
	b.lease(strangerMAC, netip.MustParseAddr("10.88.9.1"))
	if _, err := b.discover("10.88.9.1", strangerMAC, strangerReport("SN-9", strangerMAC)); err != nil {
		t.Fatal(err)
	}
	if err := b.answers.strangers.Ignore(t.Context(), api.Caller{User: "root"}, "lon1", strangerMAC, "a laptop"); err != nil {
		t.Fatal(err)
	}
	var told, refused int
	for i := range 300 {
		mac := fmt.Sprintf("52:54:02:00:%02x:%02x", i>>8, i&255)
		r := strangerReport(fmt.Sprintf("SN-%d", i), mac)
		for j := range inventory.MaxList - 1 {
			r.Disks = append(r.Disks, inventory.Disk{Name: fmt.Sprintf("sd%d", j), Serial: strings.Repeat("x", 128), Model: strings.Repeat("y", 128), SizeBytes: 1 << 40})
		}
		r.Bound()
		_, _, err := b.answers.strangers.See(t.Context(), discovery.Sighting{MAC: mac, Address: "10.88.9.2", Subnet: "boot", Facts: factsOf(&r, time.Now()), Report: &r}, time.Now())
		switch {
		case err == nil:
			told++
		case errors.Is(err, discovery.ErrRate):
			refused++
		default:
			t.Fatal(err)
		}
	}
	if refused == 0 || told < 100 {
		t.Errorf("%d taken, %d refused", told, refused)
	}
	if n := strings.Count(b.list(), "\n") + 1; n > discovery.MaxKept || !strings.Contains(b.list(), "SN-9 ") {
		t.Errorf("%d are listed", n)
	}
	size := 0
	for _, kind := range []string{"discovered", "discovered-seen", "discovered-ignored"} {
		for _, r := range b.journal.View(kind) {
			size += len(r.Body)
		}
	}
	t.Logf("%d taken, %d refused, %d octets kept", told, refused, size)
	if size > 16<<20 {
		t.Errorf("%d octets are kept", size)
	}
}
