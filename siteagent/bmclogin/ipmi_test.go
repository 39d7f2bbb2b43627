package bmclogin

import (
	"context"
	"errors"
	"testing"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	sim "github.com/skerry-metal/skerry/test/sim/ipmi"
)

// ipmiBox starts a controller that speaks IPMI alone, with the password before a change.
func ipmiBox(t *testing.T) (*sim.BMC, *intent.BMCSpec) {
	t.Helper()
	b, addr := sim.Start(t, sim.Config{User: "root", Password: before, UUID: "00112233-4455-4677-8899-aabbccddeeff", Serial: "SN1"}, off{})
	return b, &intent.BMCSpec{Address: addr, Protocol: "ipmi", Secret: "bmc"}
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
