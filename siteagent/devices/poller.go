package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/rota"
	"github.com/skerry-metal/skerry/telemetry/rrd"
	"github.com/skerry-metal/skerry/telemetry/snmp"
)

// Config is what a Poller works with.
type Config struct {
	Site, Self string
	Catalog    func() *intent.Catalog
	// OwnsMachine tells whether this agent acts on a machine; Members are the site's agents, among whom switches are shared out.
	OwnsMachine func(name string) bool
	Members     func() (uint64, []claim.Member)
	// Instance returns the uid of the instance that runs on a machine; empty: none does.
	Instance func(machine string) string
	// Signed is the active intent: what has a tombstone is asked no more.
	Signed func() replica.State
	// Secret opens a secret that is sealed to this agent.
	Secret func(name string) (seal.Secret, error)
	// Keep takes a sample; it never fails the poll.
	Keep func(d rrd.Def, at time.Time, s rrd.Sample)
	Log  *slog.Logger
}

// Reader reads devices: snmp.Reader.
type Reader interface {
	Read(ctx context.Context, name string, t snmp.Target) ([]snmp.Reading, error)
	Forget(name string)
}

// Poller asks devices.
type Poller struct {
	cfg    Config
	reader Reader
	rota   *rota.Rota[device]

	mu     sync.Mutex // guards what follows
	newest map[string]newest
	told   map[string]string // device -> the error that the log has
}

// device is one that is asked. label is switch or machine.
type device struct {
	label, name, uid string
	spec             *intent.SNMPSpec
}

type newest struct {
	device
	at time.Time
	rr []snmp.Reading
}

// New makes a Poller that reads by r.
func New(cfg Config, r Reader) *Poller {
	p := &Poller{cfg: cfg, reader: r, newest: map[string]newest{}, told: map[string]string{}}
	p.rota = &rota.Rota[device]{Look: p.look, Poll: p.poll, Left: p.left}
	return p
}

// Run asks until ctx ends.
func (p *Poller) Run(ctx context.Context) error { return p.rota.Run(ctx) }

// look returns the devices that this agent asks.
func (p *Poller) look() map[string]device {
	out := map[string]device{}
	c, tombs := p.cfg.Catalog(), p.cfg.Signed().Tombs
	add := func(label string, o *intent.Object, spec *intent.SNMPSpec, ours bool) {
		_, gone := tombs[o.Metadata.UID]
		if spec != nil && ours && !gone && o.Metadata.Site == p.cfg.Site {
			out[label+"/"+o.Metadata.Name] = device{label, o.Metadata.Name, o.Metadata.UID, spec}
		}
	}
	_, members := p.cfg.Members()
	for _, o := range c.List(intent.KindSwitch) {
		add("switch", o, o.Spec.(*intent.SwitchSpec).SNMP, claim.Owner("switch/"+o.Metadata.Name, members, time.Now()) == p.cfg.Self)
	}
	for _, o := range c.List(intent.KindMachine) {
		add("machine", o, o.Spec.(*intent.MachineSpec).SNMP, p.cfg.OwnsMachine(o.Metadata.Name))
	}
	return out
}

func (p *Poller) left(name string) {
	p.reader.Forget(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.newest, name)
	delete(p.told, name)
}

// maxKept is how many series history takes of a device: of what one says, the most useful come first.
const maxKept = 512

// poll asks a device and keeps what it says.
func (p *Poller) poll(ctx context.Context, name string, d device) error {
	t, err := p.target(d.spec)
	var rr []snmp.Reading
	if err == nil {
		rr, err = p.reader.Read(ctx, name, t)
	}
	rr = rr[:min(len(rr), maxKept)]
	now := time.Now()
	p.note(name, newest{d, now, rr}, err)
	p.keep(d, now, rr...)
	if len(rr) > 0 {
		return nil // it answers, if not to all
	}
	return err
}

// note remembers the newest readings, and logs an error when it is a new one.
func (p *Poller) note(name string, n newest, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.newest[name] = n
	if err == nil {
		delete(p.told, name)
		return
	}
	if p.told[name] != err.Error() {
		p.told[name] = err.Error()
		p.cfg.Log.Warn("SNMP: not all was read; what is missing is unknown until it is", "device", name, "readings", len(n.rr), "err", err)
	}
}

// values of a secret of type snmp.
type values struct {
	Community string `json:"community"`
	Username  string `json:"username"`
	Auth      string `json:"auth-password"`
	Priv      string `json:"priv-password"`
}

// target is where a device is, and its login. Errors name the secret and none of its values.
func (p *Poller) target(s *intent.SNMPSpec) (t snmp.Target, err error) {
	t.Address = s.Address
	if a, err := netip.ParseAddr(s.Address); err == nil {
		t.Address = net.JoinHostPort(a.String(), "161")
	}
	sealed, err := p.cfg.Secret(s.Secret)
	if err != nil {
		return t, fmt.Errorf("cannot open secret %s: %w", s.Secret, err)
	}
	var v values
	if json.Unmarshal(sealed.Reveal(), &v) != nil {
		return t, fmt.Errorf("cannot use secret %s: it holds no values of an snmp secret", s.Secret)
	}
	switch {
	case s.Version == "2c" && v.Community != "":
		t.Community = v.Community
	case s.Version == "3" && v.Username != "" && v.Auth != "" && v.Priv != "":
		t.User, t.Auth, t.Priv = v.Username, v.Auth, v.Priv
	case s.Version == "2c":
		return t, errors.New("cannot use secret " + s.Secret + ": version 2c wants a community")
	default:
		return t, errors.New("cannot use secret " + s.Secret + ": version 3 wants username, auth-password and priv-password")
	}
	return t, nil
}

// keep keeps what a device said at once.
func (p *Poller) keep(d device, at time.Time, rr ...snmp.Reading) {
	tenant := ""
	if d.label == "machine" && len(rr) > 0 {
		tenant = p.cfg.Instance(d.name)
	}
	for _, r := range rr {
		def := rrd.Def{Name: string(r.Metric), Labels: maps.Clone(r.Labels), Unit: r.Metric.Unit(), Type: rrd.Gauge, Profile: "slow", Owner: d.uid, Tenant: tenant}
		def.Labels[d.label] = d.name
		s := rrd.Sample{Value: r.Value, N: r.N, Unknown: !r.Known}
		if r.Metric.Counter() {
			def.Type, def.Max = rrd.Counter, &r.Max
		}
		if r.Reset { // unknown up to now, and counted from now on
			p.cfg.Keep(def, at.Add(-time.Millisecond), rrd.Sample{Unknown: true})
		}
		p.cfg.Keep(def, at, s)
	}
}

// stale is how old readings may be that /metrics tells: three polls.
const stale = 3 * rota.Every

// WriteMetrics writes how the last polls went and the newest readings, in Prometheus's text format; what is unknown is left out.
func (p *Poller) WriteMetrics(w io.Writer) {
	for _, o := range p.rota.Outcomes() {
		label, name, _ := strings.Cut(o.Name, "/")
		fmt.Fprintf(w, "skerry_snmp_poll_success{%s=%q} %d\n", label, name, map[bool]int{true: 1}[o.OK])
		fmt.Fprintf(w, "skerry_snmp_poll_seconds{%s=%q} %g\n", label, name, o.Seconds)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(p.newest)) {
		n := p.newest[name]
		if time.Since(n.at) > stale {
			continue
		}
		for _, r := range n.rr {
			if r.Known {
				writeReading(w, n.device, r)
			}
		}
	}
}

// writeReading writes one line. Labels are printable, so that Go's quotes are Prometheus's.
func writeReading(w io.Writer, d device, r snmp.Reading) {
	labels := maps.Clone(r.Labels)
	labels[d.label] = d.name
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, fmt.Sprintf("%s=%q", k, labels[k]))
	}
	if r.Metric.Counter() {
		fmt.Fprintf(w, "%s{%s} %d\n", r.Metric, strings.Join(parts, ","), r.N)
	} else {
		fmt.Fprintf(w, "%s{%s} %g\n", r.Metric, strings.Join(parts, ","), r.Value)
	}
}
