package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"
	"unicode"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/bmc/ipmi"
	"github.com/skerry-metal/skerry/boot/bmc/redfish"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/telemetry/sensors"
)

// Config is what is examined.
type Config struct {
	// Redfish and IPMI are host or host:port; "" leaves that protocol out.
	Redfish, IPMI  string
	User, Password string
	// Write allows the boot override to be changed and put back, and the fence to be tried.
	Write bool
	// Rate is how many requests a second the controller gets; zero takes the drivers'.
	Rate float64
	// Dial opens connections; nil: this machine's network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Limit is how long one protocol may take; zero takes two minutes: a slow controller takes a second for each of 60 requests.
	Limit time.Duration
}

// Result of one check.
type Result string

// The results.
const (
	Works   Result = "works"
	Limited Result = "limited" // it works, and something about it should be known
	Fails   Result = "fails"
	Skipped Result = "skipped" // it was not allowed, or nothing could be seen
)

// Check is one thing that was looked at.
type Check struct {
	Protocol string `json:"protocol"`
	Name     string `json:"name"`
	Result   Result `json:"result"`
	Says     string `json:"says"`
}

// Report is what was found.
type Report struct {
	// Protocol is what to write into the machine's spec.bmc.protocol; "" where neither works.
	Protocol string  `json:"protocol"`
	Verdict  Result  `json:"verdict"` // of that protocol
	Checks   []Check `json:"checks"`
}

// Examine looks at a controller by each protocol, Redfish first. It returns no error: what went wrong is in the report.
func Examine(ctx context.Context, cfg Config) Report {
	cfg.Limit = cmp.Or(cfg.Limit, 2*time.Minute)
	var r Report
	for _, p := range []struct{ name, address string }{{"redfish", cfg.Redfish}, {"ipmi", cfg.IPMI}} {
		if p.address == "" {
			continue
		}
		e := examination{cfg: cfg, protocol: p.name, worst: Works}
		if e.run(ctx, p.address) && r.Protocol == "" {
			r.Protocol, r.Verdict = p.name, e.worst
		}
		r.Checks = append(r.Checks, e.checks...)
	}
	if r.Protocol == "" {
		r.Verdict = Fails
	}
	return r
}

// examination is by one protocol.
type examination struct {
	cfg      Config
	protocol string
	ctl      bmc.Controller
	checks   []Check
	worst    Result
}

func (e *examination) say(name string, res Result, format string, args ...any) {
	said := strings.Map(func(r rune) rune { // a controller may say what it likes, and somebody's terminal shows it
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, fmt.Sprintf(format, args...))
	e.checks = append(e.checks, Check{e.protocol, name, res, said})
	if res == Fails || res == Limited {
		e.worst = Limited
	}
}

func (e *examination) open(address string) (bmc.Controller, error) {
	log := slog.New(slog.DiscardHandler)
	if e.protocol == "ipmi" {
		return ipmi.New(ipmi.Config{Address: address, User: e.cfg.User, Password: e.cfg.Password, Logger: log, RatePerSec: e.cfg.Rate, Dial: e.cfg.Dial})
	}
	pinned := func(pin string) { e.say("key", Works, "its TLS key is sha256:%s", pin) }
	return redfish.New(redfish.Config{Address: address, User: e.cfg.User, Password: e.cfg.Password, Site: "doctor", Logger: log, RatePerSec: e.cfg.Rate, Dial: e.cfg.Dial, OnPin: pinned})
}

// run tells whether the protocol can be used.
func (e *examination) run(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Limit)
	defer cancel()
	var err error
	if e.ctl, err = e.open(address); err != nil {
		e.say("login", Fails, "%v", err)
		return false
	}
	defer e.close(ctx)
	p, err := e.ctl.Power(ctx)
	if err != nil {
		e.say("login", Fails, "%s", reason(err))
		return false
	}
	e.say("login", Works, "user %s logs in", e.cfg.User)
	e.say("power", Works, "it is %s; it can %s", p, list(e.ctl.Caps().PowerActions))
	e.identity(ctx)
	e.boot(ctx)
	e.fence(ctx)
	e.sensors(ctx)
	return true
}

// close ends the session, also when the time is up: controllers have few.
func (e *examination) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := e.ctl.Close(ctx); err != nil {
		e.say("logout", Limited, "its session was not ended: %s", reason(err))
	}
}

// reason says in plain words what an error means here.
func reason(err error) string {
	text := "it does not answer, or not in a way that is understood"
	switch {
	case errors.Is(err, bmc.ErrAuth):
		text = "it refuses the user or the password (not tried again: controllers lock accounts)"
	case errors.Is(err, bmc.ErrNoEffect):
		text = "it says yes and does not do it"
	case errors.Is(err, bmc.ErrBusy):
		text = "it is busy, and went on being so"
	case errors.Is(err, bmc.ErrUnsupported):
		text = "it does not have that"
	case errors.Is(err, context.DeadlineExceeded):
		text = "it does not answer in time"
	}
	if q, ok := errors.AsType[*bmc.QuirkError](err); ok {
		text += ", a known quirk: " + q.Quirk
	}
	return text + " (" + strings.ReplaceAll(err.Error(), "\n", "; ") + ")"
}

func list[T ~string](items []T) string {
	var out []string
	for _, i := range items {
		out = append(out, string(i))
	}
	return cmp.Or(strings.Join(out, ", "), "nothing that it names")
}

func (e *examination) identity(ctx context.Context) {
	id, err := e.ctl.Identify(ctx)
	switch {
	case err != nil:
		e.say("identity", Fails, "%s", reason(err))
	case id.Serial == "" || id.UUID == "":
		e.say("identity", Limited, "%s %s, firmware %s, serial %q, UUID %q: what is missing is not compared with the machine's own", id.Vendor, id.Model, id.Firmware, id.Serial, id.UUID)
	default:
		e.say("identity", Works, "%s %s, firmware %s, serial %s, UUID %s", id.Vendor, id.Model, id.Firmware, id.Serial, id.UUID)
	}
}

// restoreLimit is how long putting the override back may take, on its own.
const restoreLimit = 30 * time.Second

// boot reads the override, and where it may changes it and puts it back.
func (e *examination) boot(ctx context.Context) {
	was, err := e.ctl.Boot(ctx)
	if err != nil {
		e.say("boot", Fails, "the boot override cannot be read: installing over the network will not work: %s", reason(err))
		return
	}
	e.say("boot", Works, "override: %s; it can %s, modes %s", was.Device, list(e.ctl.Caps().Devices), list(e.ctl.Caps().Modes))
	want := bmc.BootSpec{Device: bmc.BootNetwork, Once: true}
	switch {
	case !e.cfg.Write:
		e.say("boot-write", Skipped, "not changed without --write: whether an override stays is not known")
		return
	case was.Device != bmc.BootNone:
		e.say("boot-write", Skipped, "not changed: there is an override already, and it is somebody's")
		return
	}
	// A claim says who writes; here it is a person, and a device that holds an epoch of ours refuses this one.
	claim := intent.Claim{ID: "doctor", Owner: "doctor"}
	_, err = e.ctl.SetBoot(ctx, claim, want)
	if err != nil {
		e.say("boot-write", Fails, "a boot from the network cannot be set: %s", reason(err))
	} else {
		e.say("boot-write", Works, "a boot from the network, once, was set and read back")
	}
	// Also when somebody pressed Ctrl-C or the time is up: a machine that boots from the network next time is not what was there.
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreLimit)
	defer cancel()
	if _, err := e.ctl.SetBoot(back, claim, bmc.BootSpec{Device: bmc.BootNone}); err != nil {
		e.say("boot-restore", Fails, "the machine may boot from the network next time: %s", reason(err))
	}
}

// fence says who decides when an agent is dead. A Redfish controller shows whether its fence holds only when a write is tried.
func (e *examination) fence(ctx context.Context) {
	if e.protocol == "redfish" && !e.cfg.Write {
		e.say("fence", Skipped, "not tried without --write: whether it can decide between two agents is not known")
		return
	}
	_, s, err := e.ctl.ReadFence(ctx)
	switch {
	case err != nil:
		e.say("fence", Fails, "%s", reason(err))
	case s == intent.StrengthHard:
		e.say("fence", Works, "it refuses a stale write: with one of two agents dead, the other one goes on")
	default:
		e.say("fence", Limited, "strength %s: with one of two agents dead, writes wait for it or for `skerry agent quarantine`", s)
	}
}

// source is one controller, for telemetry/sensors.
type source struct{ ctl bmc.Controller }

// RedfishGet implements sensors.Source.
func (s source) RedfishGet(ctx context.Context, _, path string) ([]byte, error) {
	r, ok := s.ctl.(bmc.Reader)
	if !ok {
		return nil, sensors.ErrGone
	}
	b, err := r.Get(ctx, path)
	if errors.Is(err, bmc.ErrUnsupported) {
		err = fmt.Errorf("%w: %w", sensors.ErrGone, err)
	}
	return b, err
}

// IPMISensors implements sensors.Source.
func (s source) IPMISensors(ctx context.Context, _ string) (out []sensors.Reading, err error) {
	r, ok := s.ctl.(bmc.SensorReader)
	if !ok {
		return nil, sensors.ErrGone
	}
	seen, err := r.Sensors(ctx)
	for _, v := range seen {
		out = append(out, sensors.Reading{Metric: sensors.Metric(v.Unit), Sensor: v.Name, ID: v.ID, Value: v.Value, Known: v.Known})
	}
	return out, err
}

func (e *examination) sensors(ctx context.Context) {
	rr, err := sensors.New(source{e.ctl}).Read(ctx, "controller")
	known := 0
	for _, r := range rr {
		if r.Known {
			known++
		}
	}
	switch {
	case err != nil:
		e.say("sensors", Limited, "none are read: %s", reason(err))
	case known == 0:
		e.say("sensors", Limited, "%d sensors, and none has a reading now", len(rr))
	default:
		e.say("sensors", Works, "%d sensors, %d with a reading now", len(rr), known)
	}
}
