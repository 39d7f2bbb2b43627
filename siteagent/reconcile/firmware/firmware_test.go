package firmware

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/bmc/redfish"
	"github.com/skerry-metal/skerry/mesh/intent"
	sim "github.com/skerry-metal/skerry/test/sim/bmc"
	"github.com/skerry-metal/skerry/test/sim/vm"
)

// fake is a controller of func fields.
type fake struct {
	bios     func() (bmc.BIOS, error)
	reset    func() (intent.Effect, error)
	login    func() error
	accounts func() ([]bmc.Account, error)
	restore  func() error
}

func (f fake) BIOS(context.Context) (bmc.BIOS, error)              { return f.bios() }
func (f fake) Login(context.Context) error                         { return f.login() }
func (f fake) Accounts(context.Context) ([]bmc.Account, error)     { return f.accounts() }
func (f fake) ResetController(context.Context, intent.Claim) error { return f.restore() }
func (f fake) ResetBIOS(context.Context, intent.Claim) (intent.Effect, error) {
	return f.reset()
}

var _ bmc.Firmware = fake{}

// TestAsk: what a controller answers, and what is made of it at first and at last.
func TestAsk(t *testing.T) {
	f := func(eff intent.Effect, err error, first, last string) {
		t.Helper()
		ctl := fake{
			reset: func() (intent.Effect, error) { return eff, err },
			bios:  func() (bmc.BIOS, error) { return bmc.BIOS{Resets: true}, nil },
		}
		for i, want := range []string{first, last} {
			r, err := Ask(t.Context(), intent.Claim{}, ctl, Record{}, i == 1)
			got := fmt.Sprintf("%v %v %s", r.Asked, r.Shown, r.BIOSText())
			if err != nil {
				got = "again"
			}
			if got != want {
				t.Errorf("%v %v: %q, want %q", eff, err, got, want)
			}
		}
	}
	const asked = "BIOS reset asked for: it counts from the next start on"
	f(intent.EffectReadback, nil, "true true "+asked, "true true "+asked)
	f(intent.EffectNone, nil, "true true "+asked, "true true "+asked)
	f(intent.EffectAccepted, nil, "true false "+asked, "true false "+asked)
	f(intent.EffectAccepted, bmc.ErrNoEffect, "true false "+asked, "true false "+asked)
	const none = "false false BIOS not reset: its controller offers no reset (not supported by this controller)"
	f(intent.EffectNone, bmc.ErrUnsupported, none, none)
	f(intent.EffectNone, bmc.ErrBusy, "again", "false false BIOS reset not proven: controller is busy")
	f(intent.EffectNone, bmc.ErrUnknown, "again", "true false "+asked)
	f(intent.EffectNone, bmc.ErrFenced, "again", "again")
	f(intent.EffectNone, errors.New("400"), "again", "false false BIOS not reset: 400")
}

// TestProve: a reset counts only if it was seen as pending before the start and is not after it.
func TestProve(t *testing.T) {
	shown, asked := Record{Asked: true, Shown: true}, Record{Asked: true}
	f := func(r Record, b bmc.BIOS, berr, lerr error, first, last string) {
		t.Helper()
		ctl := fake{
			bios:     func() (bmc.BIOS, error) { return b, berr },
			login:    func() error { return lerr },
			accounts: func() ([]bmc.Account, error) { return []bmc.Account{{Name: "us", Own: true}, {Name: "old"}}, nil },
		}
		for i, want := range []string{first, last} {
			r, _, err := Prove(t.Context(), ctl, r, []string{"old"}, i == 1)
			got := r.String()
			if err != nil {
				got = "again"
			} else if !r.Ended {
				t.Errorf("%+v has not ended", r)
			}
			if got != want {
				t.Errorf("%+v %v %v\n got %s\nwant %s", b, berr, lerr, got, want)
			}
		}
	}
	const in = "; our account logs in, no new account"
	done := "BIOS reset to defaults: its controller showed it as pending, and after a start no more" + in
	f(shown, bmc.BIOS{Tells: true}, nil, nil, done, done)
	f(shown, bmc.BIOS{Tells: true, Pending: true}, nil, nil, "again", "BIOS reset not proven: its controller shows it as pending still, after a start"+in)
	f(shown, bmc.BIOS{}, bmc.ErrBusy, nil, "again", "BIOS reset not proven: it cannot be read after the start: controller is busy"+in)
	mute := "BIOS reset not proven: its controller does not tell any more whether it is pending" + in
	f(shown, bmc.BIOS{}, nil, nil, mute, mute)
	silent := "BIOS reset not proven: its controller took it, and does not tell whether it was done" + in
	f(asked, bmc.BIOS{Tells: true}, nil, nil, silent, silent)
	none := "BIOS not reset: it offers none" + in
	f(Record{BIOS: NotReset, Why: "it offers none"}, bmc.BIOS{}, errors.New("not asked"), nil, none, none)
	refused := "BIOS reset not proven: its controller cannot be asked; controller does not let us in: controller refuses the login"
	f(shown, bmc.BIOS{Tells: true}, nil, bmc.ErrAuth, refused, refused)
	stranger := "BIOS reset not proven: its controller cannot be asked; controller does not let us in: controller's TLS key has changed"
	f(shown, bmc.BIOS{Tells: true}, nil, bmc.ErrPin, stranger, stranger)
	f(shown, bmc.BIOS{Tells: true}, nil, errors.New("connection refused"), "again", "again") // it may be starting
}

// TestRestore: what a controller says to a reset of its own, and what is made of it at first and at last. What became of the BIOS is read
// before.
func TestRestore(t *testing.T) {
	f := func(err error, first, last string) {
		t.Helper()
		read := false
		ctl := fake{
			bios:    func() (bmc.BIOS, error) { read = true; return bmc.BIOS{Tells: true}, nil },
			restore: func() error { return err },
		}
		for i, want := range []string{first, last} {
			read = false
			r, err := Restore(t.Context(), intent.Claim{}, ctl, Record{Asked: true, Shown: true}, i == 1)
			got := fmt.Sprintf("%v %s", r.Gone, r.ControllerText())
			if err != nil {
				got = "again"
			}
			if got != want || !read || r.Ended || r.BIOS != Reset {
				t.Errorf("%v: %q, want %q; %+v", err, got, want, r)
			}
		}
	}
	const took = "true BMC reset not proven: its controller took it and started again, and does not tell what it did"
	f(nil, took, took)
	const none = "false BMC not reset: its controller offers none that keeps network and accounts (not supported by this controller)"
	f(bmc.ErrUnsupported, none, none)
	f(bmc.ErrBusy, "again", "false BMC not reset: controller is busy")
	f(bmc.ErrFenced, "again", "again")
}

// TestAccounts: those that are new are named, as many as an event can bear.
func TestAccounts(t *testing.T) {
	f := func(all []string, aerr error, known []string, want string) {
		t.Helper()
		ctl := fake{login: func() error { return nil }, accounts: func() ([]bmc.Account, error) {
			out := []bmc.Account{{Name: "us", Own: true}}
			for _, n := range all {
				out = append(out, bmc.Account{Name: n})
			}
			return out, aerr
		}}
		r, names, err := Prove(t.Context(), ctl, Record{BIOS: NotReset}, known, true)
		if got := r.AccountsText(); err != nil || got != want || (names == nil) != (aerr != nil) {
			t.Errorf("%s, %v, names %v; want %s", got, err, names, want)
		}
	}
	f([]string{"a", "b"}, nil, []string{"b", "a", "gone"}, "our account logs in, no new account")
	f([]string{"a", "mallory"}, nil, []string{"a"}, `our account logs in; accounts that were not there before: "mallory"`)
	f([]string{"a"}, nil, nil, `our account logs in; also there: "a"; there is no list from before`)
	f(nil, nil, nil, "our account logs in; other accounts are not known: there is no list from before")
	f(nil, bmc.ErrUnsupported, nil, "our account logs in; other accounts are not known: not supported by this controller")
	var many []string
	for i := range 40 {
		many = append(many, fmt.Sprintf("x%d", i))
	}
	f(many, nil, []string{}, `our account logs in; accounts that were not there before: "x`+strings.Join(func() []string {
		var s []string
		for i := range maxForeign {
			s = append(s, fmt.Sprint(i))
		}
		return s
	}(), `", "x`)+`" and 24 more`)
}

// plug is the machine behind the simulated controller; a start has the firmware look at what is pending.
type plug struct {
	mu sync.Mutex // guards what follows
	on bool
	b  *sim.BMC
}

func (p *plug) set(on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on && !p.on {
		p.b.NextBoot()
	}
	p.on = on
	return nil
}

func (p *plug) On(context.Context) error       { return p.set(true) }
func (p *plug) Off(context.Context) error      { return p.set(false) }
func (p *plug) Reset(context.Context) error    { return errors.New("not here") }
func (p *plug) Shutdown(context.Context) error { return p.set(false) }
func (p *plug) PowerOn() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.on
}

// TestFaults: under each fault of a controller the settings are what the outcome says, and `reset` is never said of settings that are not.
func TestFaults(t *testing.T) {
	f := func(want Outcome, really bool, faults ...sim.Fault) {
		t.Run(fmt.Sprint(faults), func(t *testing.T) {
			t.Parallel()
			p := &plug{}
			p.b = sim.New(sim.Config{User: "admin", Password: "secret", Firmware: vm.UEFIPXE, Serial: "SN1", VanishTime: 1500 * time.Millisecond, LoginTime: time.Millisecond, PostTime: time.Second}, p)
			if err := p.b.SetFaults(faults...); err != nil {
				t.Fatal(err)
			}
			srv := httptest.NewTLSServer(p.b)
			defer srv.Close()
			c, err := redfish.New(redfish.Config{
				Address: strings.TrimPrefix(srv.URL, "https://"), User: "admin", Password: "secret", Site: "lon1", Logger: slog.New(slog.DiscardHandler), RatePerSec: 200,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(t.Context())
			cl := intent.Claim{Epoch: intent.Epoch{Generation: 1, N: 1}}
			names, err := c.Accounts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var known []string
			for _, a := range names {
				known = append(known, a.Name)
			}
			p.b.SetBIOS("SerialConsole", "Enabled")
			p.b.AddAccount("mallory")
			r, err := Ask(t.Context(), cl, c, Record{}, false)
			for end := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(end); {
				r, err = Ask(t.Context(), cl, c, r, false)
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Asked {
				for _, a := range []bmc.PowerAction{bmc.PowerOff, bmc.PowerOn} {
					if _, err := c.SetPower(t.Context(), cl, a); err != nil {
						t.Fatal(err)
					}
				}
			}
			if r, _, err = Prove(t.Context(), c, r, known, false); err != nil {
				t.Fatal(err)
			}
			has := p.b.BIOS()["SerialConsole"] == "Disabled"
			if r.BIOS != want || has != really || !strings.Contains(r.AccountsText(), `"mallory"`) {
				t.Errorf("%s; it has the defaults: %v; want %s, %v", r, has, want, really)
			}
		})
	}
	f(Reset, true)
	f(NotProven, false, sim.BIOSIgnored)
	f(NotReset, false, sim.BIOSNoReset)
	f(NotProven, true, sim.BIOSSilent)
	f(NotProven, false, sim.BIOSSilent, sim.BIOSIgnored)
	f(Reset, true, sim.BIOSParameter)
	f(Reset, true, sim.BIOSVanishes)
	f(Reset, true, sim.BIOSLost)
	f(Reset, true, sim.NodeBusy)
	f(Reset, true, sim.PostLocked)
	f(Reset, true, sim.SessionCap8)
	f(Reset, true, sim.LoginSlow)
}
