package devices

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/telemetry/rrd"
	"github.com/skerry-metal/skerry/telemetry/snmp"
)

// site is two agents over some switches and a machine; it is every device too.
type site struct {
	mu     sync.Mutex
	names  []string // of switches
	tombs  map[string]intent.TombstoneObject
	dead   map[string]bool
	alive  map[string]bool // agents
	asked  map[string]map[string]int
	target map[string]snmp.Target
	left   []string
	octets uint64
	reset  bool
	kept   map[string][]string // agent -> samples of port octets
	p      map[string]*Poller
	log    bytes.Buffer
}

// agent is a Reader of one agent.
type agent struct {
	s    *site
	name string
}

func (a agent) Read(_ context.Context, name string, t snmp.Target) ([]snmp.Reading, error) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	if a.s.asked[a.name] == nil {
		a.s.asked[a.name] = map[string]int{}
	}
	a.s.asked[a.name][name]++
	a.s.target[name] = t
	if a.s.dead[name] {
		return nil, errors.New("no answer in time")
	}
	a.s.octets += 600
	var err error
	if name == "switch/sw2" {
		err = errors.New("names of objects do not rise")
	}
	r := snmp.Reading{Metric: snmp.PortOctets, Labels: map[string]string{"port": "e1", "direction": "in"}, Known: true, N: a.s.octets, Max: 1000, Reset: a.s.reset}
	a.s.reset = false
	return []snmp.Reading{
		r,
		{Metric: snmp.PortUp, Labels: map[string]string{"port": `e"1`}, Known: true, Value: 1},
		{Metric: snmp.Temperature, Labels: map[string]string{"sensor": "away"}},
	}, err
}

func (a agent) Forget(name string) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.s.left = append(a.s.left, name)
}

func newSite(names ...string) *site {
	s := &site{
		names: names, tombs: map[string]intent.TombstoneObject{}, dead: map[string]bool{}, alive: map[string]bool{"a1": true, "a2": true}, asked: map[string]map[string]int{},
		target: map[string]snmp.Target{}, kept: map[string][]string{}, p: map[string]*Poller{},
	}
	secrets := map[string]string{
		"two": `{"community":"hush"}`, "three": `{"username":"w","auth-password":"hushhush","priv-password":"hushhush"}`, "broken": `[]`,
	}
	log := slog.New(slog.NewTextHandler(&s.log, nil)) // one: two handlers would write into the buffer at once
	for a := range s.alive {
		s.p[a] = New(Config{
			Site: "lon1", Self: a, Catalog: s.catalog, OwnsMachine: func(string) bool { return a == "a1" }, Instance: func(string) string { return "" }, Signed: func() replica.State { return replica.State{Tombs: s.tombs} },
			Members: func() (uint64, []claim.Member) {
				s.mu.Lock()
				defer s.mu.Unlock()
				var mm []claim.Member
				for _, id := range slices.Sorted(maps.Keys(s.alive)) {
					mm = append(mm, claim.Member{ID: id, Alive: s.alive[id]})
				}
				return 0, mm
			},
			Secret: func(name string) (seal.Secret, error) {
				if v, ok := secrets[name]; ok {
					return seal.NewSecret([]byte(v)), nil
				}
				return seal.Secret{}, errors.New("sealed to nobody here")
			},
			Keep: func(d rrd.Def, _ time.Time, v rrd.Sample) {
				s.mu.Lock()
				defer s.mu.Unlock()
				if d.Name == string(snmp.PortOctets) && d.Labels["switch"] == "sw1" {
					s.kept[a] = append(s.kept[a], fmt.Sprintf("%s %s %d %v max %g of %s", d.Key(), d.Type, v.N, v.Unknown, *d.Max, d.Owner))
				}
			},
			Log: log,
		}, agent{s, a})
	}
	return s
}

func (s *site) catalog() *intent.Catalog {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := intent.Metadata{Name: "m1", Site: "lon1", UID: "uid-m1"}
	oo := []*intent.Object{
		{Kind: intent.KindMachine, Metadata: m, Spec: &intent.MachineSpec{SNMP: &intent.SNMPSpec{Address: "[fd00::1]:1161", Version: "3", Secret: "three"}}},
		{Kind: intent.KindMachine, Metadata: intent.Metadata{Name: "m2", Site: "lon1"}, Spec: &intent.MachineSpec{}},
		{Kind: intent.KindSwitch, Metadata: intent.Metadata{Name: "far", Site: "par1"}, Spec: &intent.SwitchSpec{SNMP: &intent.SNMPSpec{Address: "10.0.0.1", Version: "2c", Secret: "two"}}},
	}
	for _, n := range s.names {
		name, secret, _ := strings.Cut(n, ":")
		oo = append(oo, &intent.Object{Kind: intent.KindSwitch, Metadata: intent.Metadata{Name: name, Site: "lon1", UID: "uid-" + name}, Spec: &intent.SwitchSpec{
			SNMP: &intent.SNMPSpec{Address: "10.88.2.1", Version: "2c", Secret: secret},
		}})
	}
	return intent.NewCatalog(oo...)
}

// run runs both pollers for a while of virtual time.
func (s *site) run(t *testing.T, d time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range s.p {
		wg.Go(func() { _ = p.Run(ctx) })
	}
	wg.Wait()
}

// TestPolls: each device is asked once a minute by one agent, with its login; counters have their maximum, what is unknown is kept as
// unknown and not told; what a device tells in part is kept; wrong secrets are named, no value of any is.
func TestPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite("sw1:two", "sw2:two", "sw3:two", "sw4:nobody", "sw5:three", "sw6:broken")
		s.run(t, 20*time.Minute+time.Second)
		for _, d := range []string{"switch/sw1", "switch/sw2", "switch/sw3", "machine/m1"} {
			a, b := s.asked["a1"][d], s.asked["a2"][d]
			if min(a, b) != 0 || a+b < 20 || a+b > 22 {
				t.Errorf("%s was asked %d and %d times", d, a, b)
			}
		}
		if s.asked["a1"]["machine/m1"] == 0 || len(s.asked["a1"])+len(s.asked["a2"]) != 4 {
			t.Errorf("asked: %v", s.asked)
		}
		if got := s.target["switch/sw1"]; got != (snmp.Target{Address: "10.88.2.1:161", Community: "hush"}) {
			t.Errorf("%+v", got)
		}
		if got := s.target["machine/m1"]; got != (snmp.Target{Address: "[fd00::1]:1161", User: "w", Auth: "hushhush", Priv: "hushhush"}) {
			t.Errorf("%+v", got)
		}
		kept := append(s.kept["a1"], s.kept["a2"]...)
		if want := `skerry_snmp_port_octets_total{direction="in",port="e1",switch="sw1"} COUNTER `; !strings.HasPrefix(kept[3], want) || !strings.HasSuffix(kept[3], "false max 1000 of uid-sw1") {
			t.Errorf("%s", kept[3])
		}
		var b bytes.Buffer
		s.p["a1"].WriteMetrics(&b)
		s.p["a2"].WriteMetrics(&b)
		for _, want := range []string{`skerry_snmp_poll_success{switch="sw2"} 1`, `skerry_snmp_poll_success{switch="sw4"} 0`, `skerry_snmp_poll_seconds{machine="m1"} 0`, `skerry_snmp_port_up{port="e\"1",switch="sw1"} 1`} {
			if !strings.Contains(b.String(), want+"\n") {
				t.Errorf("%s is not in\n%s", want, b.String())
			}
		}
		if strings.Contains(b.String(), "away") {
			t.Errorf("what is unknown is told:\n%s", b.String())
		}
		log := s.log.String()
		for _, want := range []string{"secret nobody: sealed to nobody here", "secret three: version 2c wants a community", "secret broken: it holds no values", "do not rise"} {
			if strings.Count(log, want) != 1 {
				t.Errorf("%q is %d times in\n%s", want, strings.Count(log, want), log)
			}
		}
		if strings.Contains(log, "hush") {
			t.Errorf("a secret is in the log:\n%s", log)
		}
	})
}

// TestLeaves: with its agent dead a switch is the other's; one that does not answer is asked ever less often; one with a tombstone, and one
// that is gone from intent, no more.
func TestLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite("sw1:two", "sw2:two")
		s.run(t, 2*time.Minute)
		owner, other := "a1", "a2"
		if s.asked["a1"]["switch/sw1"] == 0 {
			owner, other = other, owner
		}
		s.alive[owner], s.asked = false, map[string]map[string]int{}
		s.run(t, 5*time.Minute)
		if s.asked[owner]["switch/sw1"] > 1 || s.asked[other]["switch/sw1"] < 5 {
			t.Errorf("%s is dead: %v", owner, s.asked)
		}
		s.dead["switch/sw1"], s.asked = true, map[string]map[string]int{}
		s.run(t, 2*time.Hour)
		if n := s.asked[other]["switch/sw1"]; n < 8 || n > 13 {
			t.Errorf("asked %d times in two hours", n)
		}
		s.tombs["uid-sw1"], s.names, s.asked, s.left = intent.TombstoneObject{}, []string{"sw1:two"}, map[string]map[string]int{}, nil
		s.run(t, 20*time.Minute)
		if s.asked[other]["switch/sw1"] != 0 || s.asked[other]["switch/sw2"] != 0 || !slices.Contains(s.left, "switch/sw1") || !slices.Contains(s.left, "switch/sw2") {
			t.Errorf("asked %v, left %v", s.asked, s.left)
		}
	})
}

// TestMany: of a device that says more than is kept the first, most useful readings count.
func TestMany(t *testing.T) {
	kept := 0
	p := New(Config{Secret: func(string) (seal.Secret, error) { return seal.NewSecret([]byte(`{"community":"c"}`)), nil }, Keep: func(rrd.Def, time.Time, rrd.Sample) { kept++ }}, much(2000))
	if err := p.poll(t.Context(), "switch/sw1", device{label: "switch", name: "sw1", spec: &intent.SNMPSpec{Version: "2c"}}); err != nil || kept != maxKept {
		t.Errorf("%v, %d kept", err, kept)
	}
}

// much is a device that says so much.
type much int

func (m much) Read(context.Context, string, snmp.Target) ([]snmp.Reading, error) {
	rr := make([]snmp.Reading, m)
	for i := range rr {
		rr[i] = snmp.Reading{Metric: snmp.PortUp, Labels: map[string]string{"port": fmt.Sprint(i)}}
	}
	return rr, nil
}

func (much) Forget(string) {}

// TestReset: a count that began anew is unknown up to the reading (rrd's TestAnew has what comes of it).
func TestReset(t *testing.T) {
	var said []string
	p := New(Config{Keep: func(_ rrd.Def, at time.Time, s rrd.Sample) {
		said = append(said, fmt.Sprintf("%d.%03d %d %v", at.Unix(), at.Nanosecond()/1e6, s.N, s.Unknown))
	}}, agent{newSite(), "a1"})
	for i, n := range []uint64{6000, 12_000, 100} {
		p.keep(device{label: "switch", name: "sw1"}, time.Unix(int64(60*i+60), 0), snmp.Reading{
			Metric: snmp.PortOctets, Labels: map[string]string{"port": "e1"}, Known: true, N: n, Max: 1e9, Reset: i == 2,
		})
	}
	if got := strings.Join(said, ", "); got != "60.000 6000 false, 120.000 12000 false, 179.999 0 true, 180.000 100 false" {
		t.Errorf("%s", got)
	}
}

// TestTenant: what a machine's system says is of the instance that runs there; a switch is nobody's.
func TestTenant(t *testing.T) {
	var got []string
	p := New(Config{Instance: func(m string) string { return "i of " + m }, Keep: func(d rrd.Def, _ time.Time, _ rrd.Sample) { got = append(got, d.Tenant) }}, agent{newSite(), "a1"})
	for _, label := range []string{"machine", "switch"} {
		p.keep(device{label: label, name: "x1"}, time.Unix(60, 0), snmp.Reading{Metric: snmp.PortUp, Labels: map[string]string{"port": "e1"}})
	}
	if !slices.Equal(got, []string{"i of x1", ""}) {
		t.Errorf("%q", got)
	}
}
