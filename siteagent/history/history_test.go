package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/rrd"
	"github.com/skerry-metal/skerry/telemetry/sensors"
)

// memory is an rrd.Raw without a disk: Badger has goroutines that a bubble cannot hold.
type memory struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (m *memory) Get(key []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.m[string(key)]; ok {
		return slices.Clone(v), nil
	}
	return nil, state.ErrAbsent
}

func (m *memory) Write(batch []state.Pair) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range batch {
		if p.Value == nil {
			delete(m.m, string(p.Key))
		} else {
			m.m[string(p.Key)] = slices.Clone(p.Value)
		}
	}
	return nil
}

func (m *memory) Scan(prefix, from []byte, fn func(k, v []byte) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(m.m)) {
		if strings.HasPrefix(k, string(prefix)) && k >= string(from) {
			if err := fn([]byte(k), m.m[k]); errors.Is(err, state.ErrStop) {
				return nil
			} else if err != nil {
				return err
			}
		}
	}
	return nil
}

// site is two agents' keepers over one set of machines.
type site struct {
	t     *testing.T
	tombs map[string]intent.TombstoneObject
	names []string
	owner map[string]string // machine -> agent
	mute  map[string]bool   // agents that peers do not hear
	dead  map[string]bool   // machines whose BMC does not answer
	mu    sync.Mutex        // guards asked: machines are asked at once
	asked map[string]int    // requests by machine
	temp  any               // what CPU1 says
	k     map[string]*Keeper
	said  []string
}

func newSite(t *testing.T, machines ...string) *site {
	s := &site{
		t: t, tombs: map[string]intent.TombstoneObject{}, names: machines, owner: map[string]string{}, mute: map[string]bool{}, dead: map[string]bool{},
		asked: map[string]int{}, temp: 40.0, k: map[string]*Keeper{},
	}
	for _, m := range machines {
		s.owner[m] = "a1"
	}
	for _, a := range []string{"a1", "a2"} {
		k := newKeeper(Config{
			Site: "lon1", Self: a, Log: slog.New(slog.DiscardHandler), Catalog: s.catalog, Owns: func(m string) bool { return s.owner[m] == a },
			Signed: func() replica.State {
				return replica.State{Tombs: s.tombs, Roster: &intent.RosterBody{Agents: []intent.RosterAgent{{ID: "a1"}, {ID: "a2"}}}}
			},
			Get: s.get, Event: func(kind, _ string) error { s.said = append(s.said, kind); return nil },
			Members: func() (uint64, []claim.Member) {
				return 0, []claim.Member{{ID: "a1", Alive: true}, {ID: "a2", Alive: true}}
			},
			Live: func() []string {
				return slices.DeleteFunc([]string{"a1", "a2"}, func(p string) bool { return p == a || s.mute[p] })
			},
			Ask: func(_ context.Context, peer, path string, out any) error {
				w := httptest.NewRecorder()
				s.k[peer].Peer().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
				if w.Code != http.StatusOK {
					return fmt.Errorf("%d %s", w.Code, w.Body)
				}
				return json.Unmarshal(w.Body.Bytes(), out)
			},
		})
		var err error
		if k.store, err = rrd.Open(rrd.Config{Raw: &memory{m: map[string][]byte{}}, Log: slog.New(slog.DiscardHandler)}); err != nil {
			t.Fatal(err)
		}
		s.k[a] = k
	}
	return s
}

func (s *site) catalog() *intent.Catalog {
	var oo []*intent.Object
	for _, m := range s.names {
		oo = append(oo, &intent.Object{Kind: intent.KindMachine, Metadata: intent.Metadata{Name: m, Site: "lon1", UID: "uid-" + m}, Spec: &intent.MachineSpec{BMC: &intent.BMCSpec{Address: m}}})
	}
	return intent.NewCatalog(oo...)
}

func (s *site) get(_ context.Context, machine string, _ *intent.BMCSpec, path string) ([]byte, error) {
	s.mu.Lock()
	s.asked[machine]++
	s.mu.Unlock()
	if s.dead[machine] {
		return nil, errors.New("connection refused")
	}
	switch path {
	case "/redfish/v1/":
		return []byte(`{"Chassis":{"@odata.id":"/redfish/v1/Chassis"}}`), nil
	case "/redfish/v1/Chassis":
		return []byte(`{"Members":[{"@odata.id":"/redfish/v1/Chassis/1"}]}`), nil
	case "/redfish/v1/Chassis/1":
		return []byte(`{"Thermal":{"@odata.id":"/redfish/v1/Chassis/1/Thermal"}}`), nil
	case "/redfish/v1/Chassis/1/Thermal":
		return json.Marshal(map[string]any{"Temperatures": []any{
			map[string]any{"Name": "CPU1", "ReadingCelsius": s.temp}, map[string]any{"Name": "CPU2", "ReadingCelsius": nil},
		}})
	}
	return nil, fmt.Errorf("%s: %w", path, bmc.ErrUnsupported)
}

// run runs both keepers for a while of virtual time.
func (s *site) run(d time.Duration) {
	ctx, cancel := context.WithTimeout(s.t.Context(), d)
	defer cancel()
	done := make(chan error)
	for _, k := range s.k {
		go func() { done <- k.Run(ctx) }()
	}
	for range s.k {
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
}

func (s *site) rows(agent, match string, last time.Duration, see telemetry.Scope) *telemetry.Rows {
	s.t.Helper()
	q, err := telemetry.ParseRows(url.Values{"match": {match}, "from": {last.String()}}, time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	q.Scope = see
	r, err := s.k[agent].Rows(s.t.Context(), "lon1", q)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// text is the values of one series, U unknown.
func text(r *telemetry.Rows, sensor string) string {
	for _, s := range r.Series {
		if s.Labels["sensor"] == sensor {
			var out []string
			for _, v := range s.Values {
				if math.IsNaN(float64(v)) {
					out = append(out, "U")
				} else {
					out = append(out, fmt.Sprint(float64(v)))
				}
			}
			return strings.Join(out, " ")
		}
	}
	return "no such series"
}

// TestKeeps: the owner polls once a minute and keeps; either agent answers; unknown stays unknown; who reads only some machines sees them.
func TestKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "m1", "m2")
		s.run(30*time.Minute + 5*time.Second)
		all := telemetry.Scope{All: true}
		for _, agent := range []string{"a1", "a2"} {
			r := s.rows(agent, `skerry_bmc_temperature_celsius{machine="m1"}`, 20*time.Minute, all)
			if got := text(r, "CPU1"); r.Step != 60 || strings.Count(got, "40") < 18 {
				t.Fatalf("asked at %s: step %d: %s", agent, r.Step, got)
			}
			if got := text(r, "CPU2"); strings.Trim(got, "U ") != "" {
				t.Fatalf("a sensor that knows nothing: %s", got)
			}
			if diff := cmp.Diff(map[string]string{"a1": "ok", "a2": "ok"}, r.Agents); diff != "" {
				t.Fatal(diff)
			}
			l, err := s.k[agent].Series(t.Context(), "lon1", telemetry.SeriesQuery{Scope: telemetry.Scope{Machines: []string{"m2"}}})
			if err != nil || len(l.Series) != 2 || l.Series[0].Labels["machine"] != "m2" || l.Series[0].Last != 40 {
				t.Fatalf("%+v, %v", l, err)
			}
		}
		if r := s.rows("a1", "", 10*time.Minute, telemetry.Scope{}); len(r.Series) != 0 {
			t.Fatalf("who may see nothing sees %d series", len(r.Series))
		}
		if n := s.asked["m1"]; n < 31 || n > 36 { // one a minute, and a look through the tree
			t.Fatalf("m1 was asked %d times", n)
		}
		s.mute["a1"] = true
		if r := s.rows("a2", "", 10*time.Minute, all); len(r.Series) != 0 || r.Agents["a1"] != "unknown" {
			t.Fatalf("%+v", r)
		}
		var b strings.Builder
		s.k["a1"].WriteMetrics(&b)
		for _, want := range []string{`skerry_bmc_temperature_celsius{machine="m1",sensor="CPU1"} 40`, `skerry_bmc_poll_success{machine="m2"} 1`, "skerry_rrd_series 4"} {
			if !strings.Contains(b.String(), want+"\n") {
				t.Fatalf("%s is not in\n%s", want, b.String())
			}
		}
		if strings.Contains(b.String(), "CPU2") {
			t.Fatalf("what is unknown is told:\n%s", b.String())
		}
	})
}

// TestUnreachable: a BMC that does not answer is asked ever less often, its sensors are unknown, and come back with it.
func TestUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "m1")
		s.run(10 * time.Minute)
		s.dead["m1"], s.asked["m1"] = true, 0
		s.run(2 * time.Hour)
		if n := s.asked["m1"]; n < 8 || n > 13 {
			t.Fatalf("asked %d times in two hours", n)
		}
		r := s.rows("a1", "{sensor=\"CPU1\"}", 100*time.Minute, telemetry.Scope{All: true})
		if got := text(r, "CPU1"); strings.Trim(got, "U ") != "" || r.Coverage != 0 {
			t.Fatalf("unreachable: %s", got)
		}
		s.dead["m1"] = false
		s.run(30 * time.Minute)
		if got := text(s.rows("a1", "", 10*time.Minute, telemetry.Scope{All: true}), "CPU1"); strings.Count(got, "40") < 8 {
			t.Fatalf("reachable again: %s", got)
		}
	})
}

// TestOwnerMoves: each agent keeps what it polled; a question finds both parts. TestTombstone: only that ends a series.
func TestOwnerMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "m1")
		s.run(20 * time.Minute)
		s.owner["m1"], s.temp = "a2", 50.0
		s.run(20 * time.Minute)
		for _, agent := range []string{"a1", "a2"} {
			got := text(s.rows(agent, `{sensor="CPU1"}`, 35*time.Minute, telemetry.Scope{All: true}), "CPU1")
			if strings.Count(got, "40") < 10 || strings.Count(got, "50") < 14 {
				t.Fatalf("at %s: %s", agent, got)
			}
		}
	})
}

// TestTombstone: a machine that is not in the catalog any more keeps its series; one with a tombstone loses them at both agents.
func TestTombstone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "m1", "m2")
		s.run(5 * time.Minute)
		s.names = nil
		s.run(5 * time.Minute)
		count := func() int {
			l, err := s.k["a2"].Series(t.Context(), "lon1", telemetry.SeriesQuery{Scope: telemetry.Scope{All: true}})
			if err != nil {
				t.Fatal(err)
			}
			return len(l.Series)
		}
		if n := count(); n != 4 {
			t.Fatalf("%d series: absence is no deletion", n)
		}
		s.tombs["uid-m1"] = intent.TombstoneObject{}
		s.run(2 * time.Minute)
		if n := count(); n != 2 {
			t.Fatalf("%d series after the tombstone of one of two machines", n)
		}
	})
}

// TestNoDirectory: an agent whose store does not open says so and runs on.
func TestNoDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "m1")
		k := Open(Config{Site: "lon1", Self: "a3", Log: slog.New(slog.DiscardHandler)})
		s.k["a3"] = k
		s.run(time.Minute)
		_, err := k.Series(t.Context(), "lon1", telemetry.SeriesQuery{})
		if e, ok := errors.AsType[*telemetry.Error](err); !ok || e.Status != http.StatusServiceUnavailable {
			t.Fatalf("%v", err)
		}
		k.WriteMetrics(&strings.Builder{})
	})
}

// TestIPMI: a machine whose intent says ipmi is asked for its sensors, never for resources; they become the same series.
func TestIPMI(t *testing.T) {
	spec := &intent.BMCSpec{Address: "192.0.2.1", Protocol: "ipmi", Secret: "bmc"}
	k := newKeeper(Config{
		Get: func(context.Context, string, *intent.BMCSpec, string) ([]byte, error) {
			return nil, errors.New("asked for a resource")
		},
		Sensors: func(context.Context, string, *intent.BMCSpec) ([]bmc.Sensor, error) {
			return []bmc.Sensor{
				{Name: "CPU", Unit: bmc.UnitCelsius, Value: 40, Known: true},
				{Name: "Fan", Unit: bmc.UnitPercent, Value: 98, Known: true},
				{Name: "PSU", Unit: bmc.UnitWatts},
				{Name: "Odd", Unit: "joules", Value: 1, Known: true},
			}, nil
		},
	})
	var got []sensors.Reading
	var err error
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		k.rota.Look = func() map[string]machine { return map[string]machine{"m1": {name: "m1", bmc: spec}} }
		k.rota.Poll = func(ctx context.Context, name string, _ machine) error {
			got, err = k.reader.Read(ctx, name)
			cancel()
			return nil
		}
		if err := k.rota.Run(ctx); err != nil {
			t.Fatal(err)
		}
	})
	want := []sensors.Reading{
		{Metric: sensors.Temperature, Sensor: "CPU", Value: 40, Known: true},
		{Metric: sensors.FanRatio, Sensor: "Fan", Value: 0.98, Known: true},
		{Metric: sensors.Power, Sensor: "PSU"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%+v %v", got, err)
	}
	if _, err := k.reader.Read(t.Context(), "m2"); err == nil {
		t.Fatal("a machine that is not ours was read")
	}
}

// TestTenants: what a system on a machine said is for those whose instance it is of, from then on that it is; for operators all of it. Also
// after a start anew.
func TestTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		raw := &memory{m: map[string][]byte{}}
		open := func() {
			store, err := rrd.Open(rrd.Config{Raw: raw, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			s.k["a1"].store = store
		}
		open()
		say := func(tenant string, v float64) {
			for range 10 {
				s.k["a1"].take(rrd.Def{
					Name: "skerry_snmp_load_average", Labels: map[string]string{"machine": "m1", "sensor": "5"}, Type: rrd.Gauge, Profile: "slow", Tenant: tenant,
				}, time.Now(), rrd.Sample{Value: v})
				s.run(time.Minute)
			}
		}
		say("i1", 1)
		say("i2", 2)
		open()
		sees := func(instance string) string {
			return text(s.rows("a1", "", 25*time.Minute, telemetry.Scope{Machines: []string{"m1"}, Instances: []string{instance}}), "5")
		}
		if got := sees("i2"); strings.Count(got, "2") < 7 || strings.ContainsAny(got, "1.") {
			t.Errorf("the next one sees %s", got)
		}
		if got := sees("i1"); got != "no such series" {
			t.Errorf("the former one sees %s", got)
		}
		if got := text(s.rows("a1", "", 25*time.Minute, telemetry.Scope{All: true}), "5"); strings.Count(got, "1") < 8 || strings.Count(got, "2") < 7 {
			t.Errorf("an operator sees %s", got)
		}
		// A change that nothing was said after yet: the machine is the next one's already, the series is not.
		if got := sees("i3"); got != "no such series" {
			t.Errorf("one of whom nothing was heard sees %s", got)
		}
		s.k["a1"].take(rrd.Def{
			Name: "skerry_snmp_load_average", Labels: map[string]string{"machine": "m1", "sensor": "5"}, Type: rrd.Gauge, Profile: "slow", Tenant: "i3",
		}, time.Now(), rrd.Sample{Value: 3})
		l, err := s.k["a1"].Series(t.Context(), "lon1", telemetry.SeriesQuery{Scope: telemetry.Scope{Machines: []string{"m1"}, Instances: []string{"i3"}}})
		if err != nil || len(l.Series) != 1 || !math.IsNaN(float64(l.Series[0].Last)) {
			t.Errorf("the newest value is the former one's: %+v %v", l, err)
		}
	})
}
