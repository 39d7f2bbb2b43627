package bootnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/dhcp"

	"github.com/google/go-cmp/cmp"
	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// TestSameFactsEverywhere: promise 9. Two agents with the same chain and each other's journals answer DHCP from the same
// facts, whichever of them learnt what first.
func TestSameFactsEverywhere(t *testing.T) {
	one := newAgent(t, sitetest.NewAuthor(t), "a1")
	two := newAgent(t, one.author, "a2")
	var envs []*intent.Envelope
	envs = append(envs, one.founding()...)
	for i := range 40 {
		doc := strings.NewReplacer(`"m1"`, fmt.Sprintf(`"n%d"`, i), testMAC, fmt.Sprintf("52:54:00:99:00:%02x", i), testUUID, "", "SN-M1", "", `,"address":"10.88.0.21"`, "").Replace(machineDoc)
		envs = append(envs, one.author.Put(doc))
	}
	one.receive(envs...)
	for _, env := range envs { // one by one: the order of arrival must not matter
		two.receive(env)
	}
	one.add(reconcile.KindAccepted, "n7", intent.Epoch{Generation: 1, N: 1}, reconcile.Facts{UUID: testUUID})
	records, err := one.journal.Range("a1", 1, claim.MaxPull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.journal.Receive("a1", records); err != nil {
		t.Fatal(err)
	}
	answers := func(b *bench) map[string]string {
		f, err := b.answers.facts()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, h := range f.Hosts {
			out[h.MAC.String()] = fmt.Sprintf("%s %s %s", h.Name, h.Addr, h.UUID)
		}
		return out
	}
	want := answers(one)
	for range 5 { // maps have another order each time
		if d := cmp.Diff(want, answers(two)); d != "" || len(want) != 41 {
			t.Fatalf("%d hosts, and the agents differ:\n%s", len(want), d)
		}
	}
	byAddr := map[string]string{}
	for mac, a := range want {
		addr := strings.Fields(a)[1]
		if other := byAddr[addr]; other != "" {
			t.Errorf("%s is given to %s and %s", addr, mac, other)
		}
		byAddr[addr] = mac
	}
}

// TestLeasesOutliveClocks: a lease lasts as long as was promised, also where the clock on the wall stands elsewhere after a restart, and no
// longer than a new one would.
func TestLeasesOutliveClocks(t *testing.T) {
	b := newAgent(t, sitetest.NewAuthor(t), "a1")
	passed := b.replica.Passed()
	if d := time.Since(passed); d < 24*time.Hour {
		t.Fatalf("the clock of this test leads by %v only", d)
	}
	for i, c := range []struct {
		left, want time.Duration // when the agent began, and now
	}{{time.Hour, time.Hour}, {10 * 365 * 24 * time.Hour, dhcp.LeaseDynamic}, {-time.Minute, -time.Minute}} {
		mac := dhcp.MAC{0x52, 0x54, 0, 0x99, 0, byte(i)}
		addr := netip.AddrFrom4([4]byte{10, 88, 9, byte(10 + i)})
		b.add(kindLease, mac.String(), intent.Epoch{}, lease{Addr: addr, Until: passed.Add(c.left), Agent: "a1"})
		f, err := b.answers.facts()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range f.Leases {
			if l.MAC == mac && (time.Until(l.Until)-c.want).Abs() > time.Minute {
				t.Errorf("a lease with %v left lasts %v, want %v", c.left, time.Until(l.Until), c.want)
			}
		}
		other := dhcp.Lease{MAC: dhcp.MAC{0x52, 0x54, 0, 0x99, 1, byte(i)}, Addr: addr, Until: time.Now().Add(dhcp.LeaseDynamic), Agent: "a1"}
		if err := b.answers.Commit(t.Context(), other); (err == nil) != (c.want < 0) {
			t.Errorf("an address whose lease has %v left goes to another client: %v", c.left, err)
		}
	}
	r, _ := b.journal.Latest(kindLease, "10.88.9.12")
	var l lease
	if err := json.Unmarshal(r.Body, &l); err != nil || (l.Until.Sub(passed)-dhcp.LeaseDynamic).Abs() > time.Minute {
		t.Errorf("a new lease ends at %v, %v; %v has passed", l.Until, err, passed)
	}
}

// TestLeasesOfTheMany: a journal keeps its keys for ever, and anybody on a segment can make up Ethernet addresses: leases have as many
// keys as the pool has addresses. Those that were written under the client's are read still.
func TestLeasesOfTheMany(t *testing.T) {
	b := newAgent(t, sitetest.NewAuthor(t), "a1")
	passed := b.replica.Passed()
	mac := func(i int) dhcp.MAC { return dhcp.MAC{0x52, 0x54, 1, 0, byte(i >> 8), byte(i)} }
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 88, 9, byte(10 + i)}) }
	b.add(kindLease, mac(1000).String(), intent.Epoch{}, lease{Addr: addr(3), Until: passed.Add(time.Hour), Agent: "a1"})
	for i := range 40 {
		err := b.answers.Commit(t.Context(), dhcp.Lease{MAC: mac(i), Addr: addr(i % 4), Until: time.Now().Add(-time.Minute), Agent: "a1"})
		if (err == nil) != (i%4 != 3) {
			t.Fatalf("client %d: %v", i, err)
		}
	}
	if n := len(b.journal.Keys(kindLease)); n != 4 {
		t.Errorf("%d keys after 30 clients at three addresses, and an old one", n)
	}
	f, err := b.answers.facts()
	if err != nil {
		t.Fatal(err)
	}
	got := map[netip.Addr]dhcp.MAC{}
	for _, l := range f.Leases {
		got[l.Addr] = l.MAC
	}
	if want := map[netip.Addr]dhcp.MAC{addr(0): mac(36), addr(1): mac(37), addr(2): mac(38), addr(3): mac(1000)}; !maps.Equal(got, want) {
		t.Errorf("leases %v, want %v", got, want)
	}
}

// TestPermissionOnlyByTheOwner: an agent that does not own the machine signs nothing; it asks the owner, and says busy while
// nobody owns it.
func TestPermissionOnlyByTheOwner(t *testing.T) {
	b := newBench(t)
	id := b.writing()
	var owners, asked []string
	b.inst.owners = func(string) []string { return owners }
	b.inst.forward = func(_ context.Context, to, session string, _ install.PermissionRequest) (install.PermissionEnvelope, error) {
		if session != id {
			t.Errorf("asked for session %q", session)
		}
		asked = append(asked, to)
		return install.PermissionEnvelope{}, install.ErrBusy
	}
	for _, owners = range [][]string{{"a2"}, {}, {"a3", "a2"}} { // the last: who held it and who owns it by nature, both busy
		asked = nil
		if _, err := b.inst.Permit(t.Context(), id, hardware("DISK-1")); !errors.Is(err, install.ErrBusy) || !slices.Equal(asked, owners) {
			t.Errorf("%v: %v, asked %q", owners, err, asked)
		}
	}
	if _, ok := b.journal.Latest(reconcile.KindPermission, "m1"); ok {
		t.Error("a permission was made by an agent that does not own the machine")
	}
}

// TestTokensDie: a boot token is good until its window ends, a session until the next one or the end of its binding.
func TestTokensDie(t *testing.T) {
	b := newBench(t)
	w := reconcile.Window{Machine: "m1", MAC: testMAC, Nonce: "old", Opened: time.Now().Add(-time.Hour)}
	b.add(reconcile.KindWindow, "m1", intent.Epoch{Generation: 1, N: 1}, w)
	sg, err := b.inst.signers()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.hello(sg.boot(w), "boot-1"); !errors.Is(err, install.ErrToken) {
		t.Errorf("a window that has ended: %v", err)
	}
	s, err := b.hello(b.window("n1"), "boot-1")
	if err != nil {
		t.Fatal(err)
	}
	next, err := b.hello(b.window("n2"), "boot-2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.inst.Progress(t.Context(), s.ID, install.Progress{}); !errors.Is(err, install.ErrSession) {
		t.Errorf("the session of an earlier boot: %v", err)
	}
	for _, id := range []string{"", ".", "..", "m1", "m1.x.y", next.ID + "x", strings.Repeat("a", 4096), "m2" + next.ID[2:]} {
		if _, err := b.inst.Progress(t.Context(), id, install.Progress{}); !errors.Is(err, install.ErrSession) {
			t.Errorf("session %.40q: %v", id, err)
		}
	}
}
