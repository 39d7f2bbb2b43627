package bootnet

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/boot/httpboot"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

var (
	bootAddr = netip.MustParseAddr("10.88.0.11")
	stranger = dhcp.Server{ID: netip.MustParseAddr("10.88.0.1"), Addr: netip.MustParseAddr("10.88.0.1"), MAC: "52:54:00:00:00:fe", By: dhcp.ByReply}
)

// live makes another life of the agent's modes, with the pool's mode as wanted, and returns what it says.
func (b *bench) live(want string) func() string {
	b.t.Helper()
	b.receive(b.author.Put(strings.Replace(poolDoc, `"prefix"`, `"dhcp":"`+want+`","prefix"`, 1)))
	b.answers.local = []netip.Addr{bootAddr}
	b.answers.modes = newModes(b.journal, "a1", slog.New(slog.DiscardHandler), b.answers.events)
	return func() string {
		b.t.Helper()
		b.drain()
		b.answers.refresh()
		return b.answers.modes.word()
	}
}

// drain journals what waits for it.
func (b *bench) drain() {
	b.t.Helper()
	for len(b.answers.events) > 0 {
		if err := b.journal.Append(b.t.Context(), claim.Local, <-b.answers.events); err != nil {
			b.t.Fatal(err)
		}
	}
}

// told lists the events about DHCP servers.
func (b *bench) told() (out []string) {
	b.t.Helper()
	if err := b.journal.Events(nil, func(e intent.Event) error {
		if strings.HasPrefix(e.Type, "dhcp.") {
			out = append(out, e.Type+" "+e.Fields["subnet"]+" "+e.Fields["server"]+" "+e.Fields["address"]+" "+e.Fields["mac"])
		}
		return nil
	}); err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) says(word func() string, want string) {
	b.t.Helper()
	if got := word(); got != want {
		b.t.Fatalf("%q, want %q", got, want)
	}
}

// TestAutoYields: an agent gives no address before it has asked, yields to another server, says whose it is, stays so in its next
// life, and comes back.
func TestAutoYields(t *testing.T) {
	b := newBench(t)
	word := b.live("auto")
	b.says(word, "boot proxy (asking for other servers)")
	b.answers.modes.silent(bootAddr)
	b.says(word, "boot authoritative")
	word = b.live("auto")
	b.says(word, "boot authoritative") // at once, in the next life
	b.answers.modes.heard(bootAddr, stranger)
	b.answers.modes.heard(bootAddr, stranger)
	const proxy = "boot proxy, DHCP server 10.88.0.1 at 52:54:00:00:00:fe"
	b.says(word, proxy)
	if d := cmp.Diff([]string{"dhcp.foreign boot 10.88.0.1 10.88.0.1 52:54:00:00:00:fe"}, b.told()); d != "" {
		t.Fatal(d)
	}
	word = b.live("auto")
	b.says(word, proxy)
	n := b.answers.modes.subnets["boot"]
	n.watch.Learn(true, stranger, time.Now().Add(-11*time.Minute)) // so long ago
	for range 3 {
		b.says(word, proxy)
		b.answers.modes.silent(bootAddr)
	}
	b.says(word, "boot authoritative")
	if got := b.told(); len(got) != 2 || !strings.HasPrefix(got[1], "dhcp.foreign.gone boot 10.88.0.1") {
		t.Fatalf("%q", got)
	}
	var metrics bytes.Buffer
	b.answers.modes.write(&metrics)
	if want := "skerry_dhcp_foreign_server{subnet=\"boot\"} 0\nskerry_dhcp_mode{subnet=\"boot\",mode=\"authoritative\"} 1\n"; metrics.String() != want {
		t.Fatalf("%s", metrics.String())
	}
}

// TestAuthoritativeNeverYields: it tells of the other server, once, and goes on; off and proxy do not look for any.
func TestAuthoritativeNeverYields(t *testing.T) {
	b := newBench(t)
	word := b.live("authoritative")
	b.says(word, "boot authoritative")
	for range 3 {
		b.answers.modes.heard(bootAddr, stranger)
	}
	b.says(word, "boot authoritative, DHCP server 10.88.0.1 at 52:54:00:00:00:fe")
	if d := cmp.Diff([]string{"dhcp.rogue boot 10.88.0.1 10.88.0.1 52:54:00:00:00:fe"}, b.told()); d != "" {
		t.Fatal(d)
	}
	for _, want := range []string{"off", "proxy"} {
		b.says(b.live(want), "boot "+want)
		if b.answers.modes.wanted(bootAddr) {
			t.Errorf("%s: asks for other servers", want)
		}
	}
}

// TestModeFromPeer: what one agent notices, all obey; a server that turns out to be an agent of the site counts no more.
func TestModeFromPeer(t *testing.T) {
	b := newBench(t)
	word := b.live("auto")
	b.answers.modes.silent(bootAddr) // before the subnet is known: nothing
	b.says(word, "boot proxy (asking for other servers)")
	other := newAgent(t, b.author, "a2")
	other.add(kindServers, "boot", intent.Epoch{}, servers{Present: true, Server: dhcp.Server{ID: netip.MustParseAddr("10.88.0.13"), By: dhcp.ByClient}})
	records, err := other.journal.Range("a2", 1, claim.MaxPull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.journal.Receive("a2", records); err != nil {
		t.Fatal(err)
	}
	b.says(word, "boot proxy, DHCP server 10.88.0.13 (named by a client)")
	b.receive(b.author.Entry(intent.EntryRoster, intent.RosterBody{Generation: 2, Agents: []intent.RosterAgent{
		{ID: "a1", State: "agent", Addr: []string{"10.99.1.11:7444"}, Boot: []string{"10.88.0.11"}, TLS: [][]byte{[]byte("key of a1")}},
		{ID: "a3", State: "agent", Addr: []string{"10.99.1.13:7444"}, Boot: []string{"10.88.0.13"}, TLS: [][]byte{[]byte("key of a3")}},
	}}))
	b.says(word, "boot authoritative")
}

// TestDeafAgent: an agent that hears nothing, as one with a cut cable, does not talk one down that does; one that has heard nothing itself
// believes it.
func TestDeafAgent(t *testing.T) {
	for _, hears := range []bool{true, false} {
		b := newBench(t)
		word := b.live("auto")
		b.says(word, "boot proxy (asking for other servers)")
		b.answers.modes.heard(bootAddr, stranger)
		if word(); !hears { // it knows of the server from the journal
			word = b.live("auto")
		}
		const proxy = "boot proxy, DHCP server 10.88.0.1 at 52:54:00:00:00:fe"
		b.says(word, proxy)
		deaf := newAgent(t, b.author, "a2")
		deaf.add(kindServers, "boot", intent.Epoch{}, servers{Server: stranger})
		records, err := deaf.journal.Range("a2", 1, claim.MaxPull)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.journal.Receive("a2", records); err != nil {
			t.Fatal(err)
		}
		if hears {
			b.says(word, proxy)
			b.says(word, proxy)
			r, _ := b.journal.Latest(kindServers, "boot")
			var s servers
			if err := json.Unmarshal(r.Body, &s); err != nil || r.Agent != "a1" || !s.Present {
				t.Errorf("the site reads %s of %s, %v", r.Body, r.Agent, err)
			}
			continue
		}
		b.says(word, "boot authoritative")
	}
}

// TestBootElsewhere: beside another DHCP server a machine is installed under the address that it took there; no other address gets
// its token.
func TestBootElsewhere(t *testing.T) {
	b := newBench(t)
	word := b.live("auto")
	b.says(word, "boot proxy (asking for other servers)")
	b.answers.Seen(dhcp.Event{
		Reason: dhcp.ReasonElse, Type: "REQUEST", MAC: dhcp.MAC{0x52, 0x54, 0, 0x88, 0, 1}, Subnet: "boot", Server: stranger.ID, Addr: netip.MustParseAddr("10.88.3.77"),
	})
	b.says(word, "boot proxy, DHCP server 10.88.0.1 (named by a client)")
	b.window("n1")
	f := func(from string, want bool) {
		t.Helper()
		text, _, err := b.answers.Script(t.Context(), httpboot.ScriptRequest{MAC: strings.ReplaceAll(testMAC, ":", "-"), Remote: netip.MustParseAddr(from)})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(text, "skerry.token="); got != want {
			t.Fatalf("asked from %s: token %v, want %v\n%s", from, got, want, text)
		}
		if want && !strings.Contains(text, from+"/16") && !strings.Contains(text, from) {
			t.Fatalf("the installer does not get its address %s\n%s", from, text)
		}
	}
	f("10.88.3.77", false) // a client may name what it wants
	b.answers.modes.heard(bootAddr, stranger)
	b.answers.modes.chosen("boot", netip.MustParseAddr("10.88.0.250")) // nor does that hide the one that was heard
	f("10.88.3.77", true)
	f("10.88.3.78", false)
	f("10.88.0.21", true) // the reserved one: the other server may have the same reservation
	word()
	b.answers.modes.subnets["boot"].watch.Learn(false, dhcp.Server{}, time.Now())
	f("10.88.3.77", false)
	word()
	if len(b.answers.theirs) != 0 {
		t.Fatalf("%v, where nobody else gives addresses", b.answers.theirs)
	}
}

// TestTokenNotToAnotherMachine: a forged REQUEST, with m1's MAC and another server's name, does not bring m1's token to an address that
// is known to be another's; nor does an old one, nor one for an address that two machines claim.
func TestTokenNotToAnotherMachine(t *testing.T) {
	b := newBench(t)
	word := b.live("auto")
	second := strings.NewReplacer("m1", "m2", "SN-M1", "SN-M2", testMAC, "52:54:00:88:00:02", "10.88.0.21", "10.88.0.22", testUUID, "00000000-0000-4000-8000-0000000000a2").Replace(machineDoc)
	b.receive(b.author.Put(second))
	word()
	b.answers.modes.heard(bootAddr, stranger)
	b.add(kindLease, "02:00:00:00:00:01", intent.Epoch{}, lease{Addr: netip.MustParseAddr("10.88.9.40"), Until: b.replica.Passed().Add(time.Hour), Agent: "a1"})
	word()
	b.window("n1")
	took := func(mac byte, addr string) {
		b.answers.Seen(dhcp.Event{
			Reason: dhcp.ReasonElse, Type: "REQUEST", MAC: dhcp.MAC{0x52, 0x54, 0, 0x88, 0, mac}, Subnet: "boot", Server: netip.MustParseAddr("10.88.0.250"), Addr: netip.MustParseAddr(addr),
		})
		word()
	}
	f := func(from string, want bool) {
		t.Helper()
		text, _, err := b.answers.Script(t.Context(), httpboot.ScriptRequest{MAC: strings.ReplaceAll(testMAC, ":", "-"), Remote: netip.MustParseAddr(from)})
		if err != nil {
			t.Fatal(err)
		}
		if containsToken(text) != want {
			t.Fatalf("asked from %s: token %v, want %v", from, !want, want)
		}
	}
	for _, a := range []string{"10.88.0.22", "10.88.0.11", "10.88.9.40"} { // another machine's, an agent's, leased
		took(1, a)
		f(a, false)
	}
	took(1, "10.88.3.77")
	f("10.88.3.77", true)
	took(2, "10.88.3.77")
	f("10.88.3.77", false)
	took(2, "10.88.3.78")
	f("10.88.3.77", true)
	old := b.answers.theirs[testMAC]
	old.at = old.at.Add(-tookFor)
	b.answers.theirs[testMAC] = old
	f("10.88.3.77", false)
}

// TestModeSaidAgain: who notices another server says so often enough that a peer which notices nothing does not take it for gone.
func TestModeSaidAgain(t *testing.T) {
	b := newBench(t)
	word := b.live("auto")
	word()
	m := b.answers.modes
	m.heard(bootAddr, stranger)
	word()
	records := func() int {
		b.t.Helper()
		word()
		p, err := b.journal.Range("a1", 1, claim.MaxPull)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, r := range p.Records {
			var s servers
			if r.Kind == kindServers && json.Unmarshal(r.Body, &s) == nil && s.Present {
				n++
			}
		}
		return n
	}
	before := records()
	for range 5 {
		m.heard(bootAddr, stranger)
	}
	if n := records(); n != before {
		t.Fatalf("%d records at once", n-before)
	}
	m.subnets["boot"].said = time.Now().Add(-sayAgain)
	m.heard(bootAddr, stranger)
	if n := records(); n != before+1 {
		t.Fatalf("%d records later, want 1", n-before)
	}
	if slices.Contains(b.told(), "") || len(b.told()) != 1 {
		t.Fatalf("%q", b.told())
	}
}

// TestServesAside: an agent in quarantine that starts anew has a view still, and knows that it leases nothing.
func TestServesAside(t *testing.T) {
	b := newBench(t)
	b.answers.local = []netip.Addr{bootAddr}
	b.receive(b.author.Entry(intent.EntryRoster, intent.RosterBody{Generation: 2, Agents: []intent.RosterAgent{
		{ID: "a2", State: "agent", Addr: []string{"10.99.1.12:7444"}, Boot: []string{"10.88.0.12"}, TLS: [][]byte{[]byte("key of a2")}},
	}}))
	b.answers.refresh()
	f, err := b.answers.facts()
	if err != nil || !f.Aside || len(f.Agents) != 2 || b.answers.View() == nil || !b.answers.View().Ours(bootAddr) {
		t.Fatalf("%+v, %v", f.Agents, err)
	}
}

// TestInUse: an address that a client found in use is told of once, rests when it was leased, over a restart too, and is served on when
// it is reserved.
func TestInUse(t *testing.T) {
	b := newBench(t)
	word := b.live("auto")
	at := netip.MustParseAddr("10.88.9.40")
	for range 3 {
		b.answers.Seen(dhcp.Event{Reason: dhcp.ReasonDecline, MAC: dhcp.MAC{2, 0, 0, 0, 0, 1}, Addr: at, Subnet: "boot"})
		b.answers.Seen(dhcp.Event{Reason: dhcp.ReasonConflict, MAC: dhcp.MAC{2, 0, 0, 0, 0, 2}, Addr: netip.MustParseAddr("10.88.0.21"), Subnet: "boot"})
		word()
	}
	if d := cmp.Diff([]string{"dhcp.declined boot  10.88.9.40 02:00:00:00:00:01", "dhcp.conflict boot  10.88.0.21 02:00:00:00:00:02"}, b.told()); d != "" {
		t.Fatal(d)
	}
	f, err := b.answers.facts()
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(f.Resting[at]); len(f.Resting) != 1 || left < dhcp.RestTime-time.Minute || left > dhcp.RestTime {
		t.Fatalf("%v", f.Resting)
	}
}

// TestForgedServers: whoever forges signs of other servers on a segment writes little into the journal; two real ones that take turns
// are told of once each.
func TestForgedServers(t *testing.T) {
	b := newBench(t)
	word := b.live("auto")
	word()
	m := b.answers.modes
	other := stranger
	other.ID = netip.MustParseAddr("10.88.0.2")
	for range 50 {
		m.heard(bootAddr, stranger)
		m.heard(bootAddr, other)
	}
	word()
	if got := b.told(); len(got) != 2 {
		t.Fatalf("%q", got)
	}
	for i := range 5000 {
		from := netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)})
		m.heard(bootAddr, dhcp.Server{ID: from, Addr: from, MAC: "02:00:00:00:00:01", By: dhcp.ByReply})
		b.answers.Seen(dhcp.Event{Reason: dhcp.ReasonElse, Type: "REQUEST", MAC: dhcp.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}, Subnet: "boot", Server: from, Addr: from})
	}
	word()
	if got := b.told(); len(got) > maxServers {
		t.Fatalf("%d events", len(got))
	}
	p, err := b.journal.Range("a1", 1, claim.MaxPull)
	if err != nil || len(p.Records) > 3*maxServers || len(b.answers.theirs) != 0 || len(m.subnets["boot"].met) != maxServers {
		t.Fatalf("%d records, %d addresses, %d servers, %v", len(p.Records), len(b.answers.theirs), len(m.subnets["boot"].met), err)
	}
}

// TestBackOnBusySite: where nobody can probe, addresses are given again although the journal never rests.
func TestBackOnBusySite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		word := b.live("auto")
		b.answers.local = nil // behind a relay
		b.says(word, "boot authoritative")
		go func() { _ = b.answers.Run(t.Context()) }()
		b.answers.modes.chosen("boot", stranger.ID) // once
		for range 90 {
			time.Sleep(20 * time.Second)
			if err := b.journal.Append(t.Context(), claim.Local, reconcile.Event("", "", intent.Epoch{}, "test", "busy", nil)); err != nil {
				t.Fatal(err)
			}
		}
		if got := b.answers.modes.word(); got != "boot authoritative" {
			t.Errorf("half an hour after the only sign: %s", got)
		}
	})
}

// TestDeclineNotLost: an address that could not be laid to rest, as what waits for the journal was full, rests at the next DECLINE.
func TestDeclineNotLost(t *testing.T) {
	b := newBench(t)
	word := b.live("auto")
	word()
	for len(b.answers.events) < cap(b.answers.events) {
		b.answers.events <- reconcile.Event("", "", intent.Epoch{}, "test", "busy", nil)
	}
	at := netip.MustParseAddr("10.88.9.40")
	e := dhcp.Event{Reason: dhcp.ReasonDecline, MAC: dhcp.MAC{2, 0, 0, 0, 0, 1}, Addr: at, Subnet: "boot"}
	b.answers.Seen(e)
	for len(b.answers.events) > 0 {
		<-b.answers.events
	}
	b.answers.Seen(e)
	word()
	f, err := b.answers.facts()
	if err != nil || len(f.Resting) != 1 {
		t.Fatalf("resting: %v, %v", f.Resting, err)
	}
}
