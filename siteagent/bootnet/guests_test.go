package bootnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/discovery"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// TestStrangersSecondCard: a running machine that is declared with two cards, as accepting declares it, tries the network by the second one:
// it has its own system.
func TestStrangersSecondCard(t *testing.T) {
	b := newHost(t, sitetest.NewAuthor(t), "a1").open()
	const second = "52:54:00:88:00:9a"
	doc := strings.NewReplacer(`"m1"`, `"m9"`, testUUID, "", "SN-M1", "SN-9", `,"address":"10.88.0.21"`, "", testMAC+`","boot":true`, strangerMAC+`","boot":true},{"mac":"`+second+`"`).Replace(machineDoc)
	b.receive(b.author.Put(doc))
	b.add(reconcile.KindMachine, "m9", intent.Epoch{}, intent.MachineStatus{State: intent.StateRunning})
	b.lease(second, netip.MustParseAddr("10.88.9.8"))
	s := b.script(second, "10.88.9.8")
	r := strangerReport("SN-9", strangerMAC, second)
	r.Disks[0].Signatures = []string{"gpt"}
	at, err := b.discover("10.88.9.8", second, r)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(s, "kernel") {
		t.Errorf("declared machine is sent to the ramdisk by its second card")
	}
	if at == install.StandingDeclared {
		t.Errorf("and it stays there: %s", at)
	}
	if s := b.script(second, "10.88.9.8"); strings.Contains(s, "kernel") {
		t.Errorf("and at each further boot")
	}
}

// TestStrangersUSB: who runs from a stick, or from what the ramdisk cannot see, may be at work.
func TestStrangersUSB(t *testing.T) {
	b := newHost(t, sitetest.NewAuthor(t), "a1").open()
	b.lease(strangerMAC, netip.MustParseAddr("10.88.9.7"))
	r := strangerReport("SN-9", strangerMAC)
	r.Disks = []inventory.Disk{{Name: "sda", Transport: "usb", Signatures: []string{"gpt"}, SizeBytes: 1 << 34}}
	if at, _ := b.discover("10.88.9.7", strangerMAC, r); at != install.StandingInUse {
		t.Errorf("server that runs from USB stands as %q", at)
	}
	r.Disks = nil
	if at, _ := b.discover("10.88.9.7", strangerMAC, r); at != install.StandingInUse {
		t.Errorf("server whose controller the ramdisk cannot drive stands as %q", at)
	}
}

// TestStrangersRateLoop: one client that tells other words each time uses up what may be written about strangers. A server at work that tries
// the network meanwhile is looked at in vain once, and has its own system.
func TestStrangersRateLoop(t *testing.T) {
	b := newHost(t, sitetest.NewAuthor(t), "a1").open()
	const evil = "52:54:02:00:00:01"
	b.lease(evil, netip.MustParseAddr("10.88.9.2"))
	n := 0
	for i := range 400 { // one machine, one lease, one port: other words each time
		r := strangerReport(fmt.Sprintf("SN-%d", i), evil)
		for j := range inventory.MaxList - 1 {
			r.Disks = append(r.Disks, inventory.Disk{Name: fmt.Sprintf("sd%d", j), Serial: strings.Repeat("x", 128), Model: strings.Repeat("y", 128), SizeBytes: 1 << 40})
		}
		if _, err := b.discover("10.88.9.2", evil, r); err != nil {
			if !errors.Is(err, discovery.ErrRate) {
				t.Fatal(err)
			}
			break
		}
		n++
	}
	t.Logf("one client used the budget up with %d reports", n)
	r := strangerReport("SN-OK", strangerMAC)
	r.Disks[0].Signatures = []string{"gpt"}
	// and small ones up to the end
	for i := range 4000 {
		if _, err := b.discover("10.88.9.2", evil, strangerReport(fmt.Sprintf("s%d", i), evil)); err != nil {
			break
		}
	}
	b.lease(strangerMAC, netip.MustParseAddr("10.88.9.7"))
	for i := range 3 {
		s := b.script(strangerMAC, "10.88.9.7")
		at, err := b.discover("10.88.9.7", strangerMAC, r)
		if i > 0 && strings.Contains(s, "kernel") {
			t.Errorf("a server with data is in the ramdisk, %q %v, left: %q", at, err, b.answers.strangers.Leave(strangerMAC, time.Now()))
		}
	}
}

// TestStrangersHide: who says that others' cards are his hides nobody, and is told of.
func TestStrangersHide(t *testing.T) {
	b := newHost(t, sitetest.NewAuthor(t), "a1").open()
	const evil = "52:54:02:00:00:01"
	b.lease(evil, netip.MustParseAddr("10.88.9.2"))
	b.lease(strangerMAC, netip.MustParseAddr("10.88.9.7"))
	r := strangerReport("SN-E", evil, strangerMAC)
	r.Disks[0].Signatures = []string{"gpt"}
	if _, err := b.discover("10.88.9.2", evil, r); err != nil {
		t.Fatal(err)
	}
	if s := b.script(strangerMAC, "10.88.9.7"); !strings.Contains(s, "kernel") {
		t.Errorf("one made-up report hides another machine: it boots its disk, the list is\n%s", b.list())
	}
	if _, err := b.discover("10.88.9.7", strangerMAC, strangerReport("SN-V", strangerMAC)); err != nil {
		t.Fatal(err)
	}
	l, _ := b.answers.strangers.Discovered(t.Context(), "lon1", "")
	for _, m := range l.Machines {
		if !strings.Contains(strings.Join(m.Notes, "; "), "one of them lies") || len(m.Spec.NICs) != 1 {
			t.Errorf("%s: notes %q, cards %v", m.ID, m.Notes, m.Spec.NICs)
		}
	}
}

// TestStrangersRelayWithout82: a relay that says no port says nothing of which machines are in one.
func TestStrangersRelayWithout82(t *testing.T) {
	b := newHost(t, sitetest.NewAuthor(t), "a1").open()
	b.answers.refresh()
	events := 0
	for round := range 3 {
		for i := range 42 {
			mac := fmt.Sprintf("52:54:03:00:00:%02x", i)
			addr := netip.MustParseAddr(fmt.Sprintf("10.88.9.%d", i+1))
			if round == 0 {
				b.lease(mac, addr)
				m, _ := dhcp.ParseMAC(mac)
				b.answers.Seen(dhcp.Event{Reason: dhcp.ReasonAck, MAC: m, Relay: netip.MustParseAddr("10.88.0.1"), Addr: addr}) // a relay without option 82
			}
			was, _ := b.journal.Rev()
			if _, err := b.discover(addr.String(), mac, strangerReport(fmt.Sprintf("SN-%d", i), mac)); err != nil {
				t.Fatal(err)
			}
			if now, _ := b.journal.Rev(); now != was {
				events++
			}
		}
	}
	if events != 42 {
		t.Errorf("%d writes for 42 machines that told the same 3 times", events)
	}
	if n := strings.Count(b.list(), "\n") + 1; n != 42 {
		t.Errorf("of a rack of 42 behind one relay without option 82 %d are listed", n)
	}
}
