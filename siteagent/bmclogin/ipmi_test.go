package bmclogin

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	sim "github.com/skerry-metal/skerry/test/sim/ipmi"
)

// ipmiBox starts a controller that speaks IPMI alone, with the password before a change.
func ipmiBox(t *testing.T) (*sim.BMC, *intent.BMCSpec) {
	t.Helper()
	b, err := sim.New(sim.Config{User: "root", Password: before, UUID: "00112233-4455-4677-8899-aabbccddeeff", Serial: "SN1"}, off{})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Serve(ctx, conn) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return b, &intent.BMCSpec{Address: conn.LocalAddr().String(), Protocol: "ipmi", Secret: "bmc"}
}

// TestIPMI: the protocol in the intent chooses the driver; its session is shared, its password changed under the claim and proven, and
// sensors are read without resources.
func TestIPMI(t *testing.T) {
	b := newBench(t)
	controller, spec := ipmiBox(t)
	b.open(2, func(ctx context.Context, l *Logins, v reconcile.MachineView) {
		v.Spec.BMC = spec
		if err := b.chore(ctx, l, v); err != nil {
			t.Fatal(err)
		}
		if controller.Password() == before || l.Taken("m1", spec) != 2 {
			t.Fatalf("the password was not changed: version %d is taken", l.Taken("m1", spec))
		}
		s := &Sessions{Logins: l}
		one, err := s.Dial(ctx, "m1", spec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := one.SetBoot(ctx, intent.Claim{}, bmc.BootSpec{Device: bmc.BootNetwork, Once: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sensors(ctx, "m1", spec); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(ctx, "m1", spec, "/redfish/v1/"); !errors.Is(err, bmc.ErrUnsupported) {
			t.Fatalf("a resource: %v", err)
		}
		if n := controller.Sessions(); n != 1 {
			t.Fatalf("%d sessions", n)
		}
		if err := one.Close(ctx); err != nil {
			t.Fatal(err)
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if err := s.Run(ended); err != nil || controller.Sessions() != 0 {
			t.Fatalf("%v, %d sessions", err, controller.Sessions())
		}
	})
}
