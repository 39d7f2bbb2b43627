package bmclogin

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// TestOneSession: control and sensors share one session, which stays between them, goes down with Run, and is another one for another
// version of the secret.
func TestOneSession(t *testing.T) {
	b := newBench(t)
	b.open(1, func(ctx context.Context, l *Logins, v reconcile.MachineView) {
		s := &Sessions{Logins: l}
		spec := v.Spec.BMC
		for range 3 {
			ctl, err := s.Dial(ctx, "m1", spec)
			if err != nil {
				t.Fatal(err)
			}
			body, err := s.Get(ctx, "m1", spec, "/redfish/v1/Chassis")
			if err != nil || !strings.Contains(string(body), "Members") {
				t.Fatalf("%s, %v", body, err)
			}
			if _, err := s.Get(ctx, "m1", spec, "/redfish/v1/Nothing"); !errors.Is(err, bmc.ErrUnsupported) {
				t.Fatalf("what is not there: %v", err)
			}
			if _, err := ctl.Power(ctx); err != nil {
				t.Fatal(err)
			}
			if err := ctl.Close(ctx); err != nil {
				t.Fatal(err)
			}
			if n := b.sim.Sessions(); n != 1 {
				t.Fatalf("%d sessions", n)
			}
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := s.Get(ctx, "m1", spec, "/redfish/v1/Chassis"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		used, err := s.Dial(ctx, "m1", spec)
		if err != nil {
			t.Fatal(err)
		}
		other := *spec
		other.Secret = "another"
		if _, err := s.Get(ctx, "m1", &other, "/redfish/v1/Chassis"); err != nil {
			t.Fatal(err)
		}
		if n := b.sim.Sessions(); n != 2 {
			t.Fatalf("%d sessions: the one in use stays beside the new one", n)
		}
		if err := used.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if n := b.sim.Sessions(); n != 1 {
			t.Fatalf("%d sessions: nobody can use the old one", n)
		}
		used, err = s.Dial(ctx, "m1", &other)
		if err != nil {
			t.Fatal(err)
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if err := s.Run(ended); err != nil {
			t.Fatal(err)
		}
		if err := used.Close(ctx); err != nil { // reconcile gives its sessions back after Run ended
			t.Fatal(err)
		}
		if n := b.sim.Sessions(); n != 0 {
			t.Fatalf("%d sessions are left", n)
		}
	})
}

// TestSensorsWait: a reading waits while somebody controls, and does not hold its place.
func TestSensorsWait(t *testing.T) {
	b := newBench(t)
	held, free := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(held); <-free })
	b.open(1, func(ctx context.Context, l *Logins, v reconcile.MachineView) {
		s := &Sessions{Logins: l}
		ctl, err := s.Dial(ctx, "m1", v.Spec.BMC)
		if err != nil {
			t.Fatal(err)
		}
		defer ctl.Close(ctx)
		b.set(func() {
			b.early = func(r *http.Request) {
				if strings.Contains(r.URL.Path, "/Systems/") {
					once()
				}
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := ctl.Power(ctx); err != nil {
				t.Error(err)
			}
		})
		<-held
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		if _, err := s.Get(short, "m1", v.Spec.BMC, "/redfish/v1/Chassis"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a reading beside a power command: %v", err)
		}
		close(free)
		wg.Wait()
		if _, err := s.Get(ctx, "m1", v.Spec.BMC, "/redfish/v1/Chassis"); err != nil {
			t.Error(err)
		}
	})
}
