package bmclogin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/bmc/ipmi"
	"github.com/skerry-metal/skerry/boot/bmc/redfish"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/reconcile/firmware"
)

// The journal's kinds; the key is MACHINE@ADDRESS: with another address it is another BMC.
const (
	kindPin   = "bmc-pin"   // TLS key as first seen: hex SHA-256 of its SPKI
	kindTaken = "bmc-login" // taken
	kindTry   = "bmc-try"   // try
)

func keyOf(machine string, spec *intent.BMCSpec) string { return machine + "@" + spec.Address }

// taken is the newest version of a secret that a BMC was seen to take.
type taken struct {
	Secret string `json:"secret"`
	Ver    uint64 `json:"ver"`
}

// try is the last attempt to prove a version that failed.
type try struct {
	Secret string    `json:"secret"`
	Ver    uint64    `json:"ver"`
	N      int       `json:"n"` // how often by now
	Why    string    `json:"why"`
	At     time.Time `json:"at"`
}

// Config is what Logins works with.
type Config struct {
	Site    string
	Journal *claim.Journal
	// Secret opens a secret that is sealed to this agent; Version returns its version, 0 where there is none.
	Secret  func(name string) (seal.Secret, error)
	Version func(name string) uint64
	Now     func() time.Time
	Log     *slog.Logger
	// Rate is how many requests a second a BMC gets; zero takes the driver's.
	Rate float64
	// Dial opens connections; nil: this machine's network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Logins is the logins of one agent.
type Logins struct{ Config }

// values of a secret of type bmc; Previous stands in a version that not every BMC has taken.
type values struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Previous string `json:"previous-password"`
}

func (l *Logins) values(name string) (v values, err error) {
	s, err := l.Secret(name)
	if err != nil {
		return v, err
	}
	if json.Unmarshal(s.Reveal(), &v) != nil || v.Username == "" {
		return v, fmt.Errorf("cannot use secret %s: it holds no values of a bmc secret", name)
	}
	return v, nil
}

// Taken returns the newest version of its secret that a machine's BMC was seen to take, 0 for none.
func (l *Logins) Taken(machine string, spec *intent.BMCSpec) uint64 {
	t, ok := claim.Load[taken](l.Journal, kindTaken, keyOf(machine, spec))
	if !ok || t.Secret != spec.Secret {
		return 0
	}
	return t.Ver
}

// Dial opens a session with a machine's BMC and logs in. While a change of the password is under way and not seen done there, it
// finds out by login which of the two works, the one before first. Errors: bmc.ErrAuth when none does; then nobody of this site tries
// again for a while, whoever asks: controllers lock accounts.
func (l *Logins) Dial(ctx context.Context, machine string, spec *intent.BMCSpec) (bmc.Controller, error) {
	ver := l.Version(spec.Secret)
	v, err := l.values(spec.Secret)
	if err != nil {
		return nil, err
	}
	if t, ok := l.tried(machine, spec, ver); ok && t.Why == whyAuth && l.Now().Before(t.next()) {
		return nil, fmt.Errorf("cannot log in: %w: it refused what secret %s has; the next try is at %s", bmc.ErrAuth, spec.Secret, t.next().UTC().Format(time.RFC3339))
	}
	passwords := []string{v.Password}
	if v.Previous != "" && l.Taken(machine, spec) < ver {
		passwords = []string{v.Previous, v.Password}
	}
	for i, password := range passwords {
		ctl, err := l.open(machine, spec, v.Username, password)
		if err != nil {
			return nil, err
		}
		if _, err = ctl.Boot(ctx); err == nil && i == 1 { // the cheapest read behind a login
			err = l.took(ctx, machine, spec, intent.Epoch{}, ver, "found in use")
		}
		if err == nil {
			return ctl, nil
		}
		if cerr := ctl.Close(ctx); cerr != nil {
			l.Log.Debug("BMC session not closed", "machine", machine, "err", cerr)
		}
		if !errors.Is(err, bmc.ErrAuth) {
			return nil, err
		}
	}
	err = fmt.Errorf("cannot log in: %w: %d passwords of secret %s are refused", bmc.ErrAuth, len(passwords), spec.Secret)
	l.failed(ctx, machine, spec, ver, err)
	return nil, err
}

// open makes a driver of the declared protocol; it connects when it is first used. The protocol is never guessed: a Redfish controller that
// is only rebooting would lose its fence. The TLS key is the declared one, else the first that any agent of the site saw.
func (l *Logins) open(machine string, spec *intent.BMCSpec, user, password string) (bmc.Controller, error) {
	if spec.Protocol == "ipmi" {
		return ipmi.New(ipmi.Config{Address: spec.Address, User: user, Password: password, Logger: l.Log, RatePerSec: l.Rate, Dial: l.Config.Dial})
	}
	key := keyOf(machine, spec)
	cfg := redfish.Config{Address: spec.Address, User: user, Password: password, Site: l.Site, Logger: l.Log, RatePerSec: l.Rate, Dial: l.Config.Dial, OnPin: func(pin string) { l.pin(machine, key, pin) }}
	if spec.Pin != "" {
		d, err := intent.ParseDigest(spec.Pin)
		if err != nil {
			return nil, err
		}
		cfg.Pin = d.Hex()
	} else if pin, ok := claim.Load[string](l.Journal, kindPin, key); ok {
		cfg.Pin = pin
	}
	return redfish.New(cfg)
}

func (l *Logins) pin(machine, key, pin string) {
	err := l.Journal.Append(context.Background(), claim.Local,
		claim.Draft{Kind: kindPin, Key: key, Body: pin},
		reconcile.Event(machine, "", intent.Epoch{}, "bmc.pinned", "TLS key "+pin[:min(len(pin), 12)]+" is believed from now on", nil))
	if err != nil {
		l.Log.Warn("BMC key not journaled", "machine", machine, "err", err)
	}
}

// took journals that a BMC takes a version.
func (l *Logins) took(ctx context.Context, machine string, spec *intent.BMCSpec, e intent.Epoch, ver uint64, how string) error {
	fields := map[string]string{"secret": spec.Secret, "version": fmt.Sprint(ver)}
	err := l.Journal.Append(ctx, claim.Replicated,
		claim.Draft{Kind: kindTaken, Key: keyOf(machine, spec), Body: taken{spec.Secret, ver}},
		reconcile.Event(machine, "", e, "bmc.login.proven", fmt.Sprintf("secret %s version %d: %s", spec.Secret, ver, how), fields))
	if errors.Is(err, claim.ErrWaitingPeer) {
		return nil
	}
	return err
}

// Chore proves the newest version of a machine's secret at its BMC, once, and sets the new password first where it has to. Nil: there
// is nothing to do now. It implements reconcile.Config's Chore.
func (l *Logins) Chore(v reconcile.MachineView) *reconcile.Chore {
	if v.Spec.BMC == nil {
		return nil
	}
	spec := v.Spec.BMC
	ver := l.Version(spec.Secret)
	if ver == 0 || l.Taken(v.Name, spec) >= ver {
		return nil
	}
	if t, ok := l.tried(v.Name, spec, ver); ok && l.Now().Before(t.next()) {
		return nil
	}
	return &reconcile.Chore{
		Do: func(ctx context.Context, cl intent.Claim, ctl bmc.Controller) error {
			return l.prove(ctx, v.Name, spec, ver, cl, ctl)
		},
		Failed: func(ctx context.Context, err error) { l.failed(ctx, v.Name, spec, ver, err) },
	}
}

// prove works on a session that Dial opened.
func (l *Logins) prove(ctx context.Context, machine string, spec *intent.BMCSpec, ver uint64, cl intent.Claim, ctl bmc.Controller) error {
	v, err := l.values(spec.Secret)
	switch {
	case err != nil:
		return err
	case l.Version(spec.Secret) != ver || l.Taken(machine, spec) >= ver:
		return nil // another one by now, or Dial found it in use
	case v.Previous == "":
		if _, err := ctl.Identify(ctx); err != nil {
			return err
		}
		l.note(ctx, machine, spec, cl, ctl)
		return l.took(ctx, machine, spec, cl.Epoch, ver, "it logs in")
	}
	if err := ctl.SetPassword(ctx, cl, v.Password); err != nil {
		return err
	}
	l.note(ctx, machine, spec, cl, ctl)
	return l.took(ctx, machine, spec, cl.Epoch, ver, "the BMC took the new password")
}

// note lists the accounts of a BMC that is used for the first time: when the machine is released, those beside them are told. Without the list
// all are.
func (l *Logins) note(ctx context.Context, machine string, spec *intent.BMCSpec, cl intent.Claim, ctl bmc.Controller) {
	drafts, err := firmware.Baseline(ctx, l.Journal, machine, spec.Address, ctl)
	if err == nil && len(drafts) > 0 {
		drafts[0].Epoch = cl.Epoch
		err = l.Journal.Append(ctx, claim.Replicated, drafts...)
	}
	if err != nil && !errors.Is(err, claim.ErrWaitingPeer) {
		l.Log.Info("accounts of a BMC not noted: after a release all of them are told", "machine", machine, "err", err)
	}
}

// The kinds of failure, as they are journaled and counted.
const (
	whyAuth    = "login refused"
	whyPolicy  = "password refused"
	whyIgnored = "change ignored"
	whyUnknown = "outcome unknown"
	whyOther   = "not reached"
)

func why(err error) string {
	switch {
	case errors.Is(err, bmc.ErrNoEffect):
		return whyIgnored
	case errors.Is(err, bmc.ErrPolicy), errors.Is(err, bmc.ErrUnsupported):
		return whyPolicy
	case errors.Is(err, bmc.ErrUnknown):
		return whyUnknown
	case errors.Is(err, bmc.ErrAuth):
		return whyAuth
	}
	return whyOther
}

const (
	firstRest = time.Minute
	loginRest = 15 * time.Minute // after a login that was refused (boot.md section 4)
	lastRest  = time.Hour
)

// next is when the next attempt may be.
func (t try) next() time.Time {
	if t.Why == whyAuth {
		return t.At.Add(loginRest)
	}
	rest := min(firstRest<<min(t.N-1, 10), lastRest)
	if t.Why != whyOther {
		rest = max(rest, loginRest)
	}
	return t.At.Add(rest)
}

func (l *Logins) tried(machine string, spec *intent.BMCSpec, ver uint64) (try, bool) {
	t, ok := claim.Load[try](l.Journal, kindTry, keyOf(machine, spec))
	return t, ok && t.Secret == spec.Secret && t.Ver == ver
}

// failed journals an attempt, and tells its reason once. The reason is the driver's: it quotes the controller, never a password.
func (l *Logins) failed(ctx context.Context, machine string, spec *intent.BMCSpec, ver uint64, err error) {
	ctx = context.WithoutCancel(ctx)
	old, again := l.tried(machine, spec, ver)
	if again && old.Why == whyAuth && l.Now().Before(old.next()) {
		return // Dial counted it
	}
	t := try{Secret: spec.Secret, Ver: ver, N: old.N + 1, Why: why(err), At: l.Now().UTC()}
	if !again {
		t.N = 1
	}
	drafts := []claim.Draft{{Kind: kindTry, Key: keyOf(machine, spec), Body: t}}
	if !again || old.Why != t.Why {
		drafts = append(drafts, reconcile.Event(machine, "", intent.Epoch{}, "bmc.login.refused", fmt.Sprintf("secret %s version %d: %s: %v", spec.Secret, ver, t.Why, err),
			map[string]string{"secret": spec.Secret, "version": fmt.Sprint(ver)}))
	}
	if jerr := l.Journal.Append(ctx, claim.Replicated, drafts...); jerr != nil && !errors.Is(jerr, claim.ErrWaitingPeer) {
		l.Log.Warn("attempt at a BMC not journaled", "machine", machine, "err", jerr)
	}
}
