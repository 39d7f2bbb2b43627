package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/account"
	"github.com/skerry-metal/skerry/telemetry/sflow/sflowtest"
)

const site = `
{"kind":"Site","metadata":{"name":"lon1"},"spec":{"region":"eu","zone":"z"}}
{"kind":"SubnetPool","metadata":{"name":"boot","site":"lon1"},"spec":{"prefix":"10.88.0.0/16"}}
{"kind":"Machine","metadata":{"name":"m1","site":"lon1","uid":"u1"},"spec":{"nics":[{"mac":"52:54:00:88:00:01","boot":true,"address":"10.88.0.21"}]}}
{"kind":"Machine","metadata":{"name":"m2","site":"lon1","uid":"u2"},"spec":{"nics":[{"mac":"52:54:00:88:00:02","boot":true,"address":"10.88.0.22"}]}}
{"kind":"Switch","metadata":{"name":"sw1","site":"lon1"},"spec":{"sflow":{"agents":["127.0.0.1"]},"ports":[{"index":1,"nic":"52:54:00:88:00:01"},{"index":2,"nic":"52:54:00:88:00:02"}]}}
{"kind":"Network","metadata":{"name":"web","project":"acme","site":"lon1"},"spec":{"subnetPool":"boot"}}
{"kind":"InstanceArray","metadata":{"name":"shop","project":"acme","site":"lon1"},"spec":{"infrastructure":"i","count":1,"machineType":"t","image":"x","networks":["web"]}}
`

// planOf has m1 bound to acme's array, and m2 to nobody.
func planOf(t *testing.T) *account.Plan {
	t.Helper()
	c := intent.NewCatalog()
	for _, line := range strings.Split(strings.TrimSpace(site), "\n") {
		o, err := intent.DecodeObject([]byte(strings.Replace(line, "{", `{"apiVersion":"skerry/v1",`, 1)))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		c.Put(o)
	}
	b := map[string]reconcile.Binding{"i1": {Project: "acme", Array: "shop", Machine: "m1"}, "i2": {Project: "acme", Array: "shop", Machine: "m2", Released: true}}
	return PlanOf(c, effective.Addresses(c, &intent.RosterBody{}, "lon1"), b, "lon1")
}

// mesh connects desks in memory.
type mesh struct {
	self  string
	desks map[string]*Desk
	cut   map[string]bool
}

func (m *mesh) Live() (out []string) {
	for id := range m.desks {
		if id != m.self && !m.cut[id] {
			out = append(out, id)
		}
	}
	return out
}

func (m *mesh) Ask(_ context.Context, peer, path string, in, out any) error {
	if m.cut[path] || m.cut[peer] {
		return errors.New("cut")
	}
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	w := httptest.NewRecorder()
	m.desks[peer].Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, bytes.NewReader(b)))
	if w.Code != http.StatusOK {
		return fmt.Errorf("%d: %s", w.Code, w.Body)
	}
	return json.Unmarshal(w.Body.Bytes(), out)
}

// scene is two agents of a site, s1 and s2, each with its store and its socket.
type scene struct {
	*testing.T
	desks  map[string]*Desk
	meshes map[string]*mesh
	stores map[string]*state.Raw
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t, map[string]*Desk{}, map[string]*mesh{}, map[string]*state.Raw{}}
	dir := t.TempDir()
	for _, id := range []string{"s1", "s2"} {
		raw := OpenStore(filepath.Join(dir, id), slog.New(slog.DiscardHandler))
		if raw == nil {
			t.Fatal("no store")
		}
		t.Cleanup(func() {
			if err := raw.Close(); err != nil {
				t.Error(err)
			}
		})
		s.stores[id] = raw
		s.start(id)
	}
	return s
}

// start begins an agent, as after a crash: what was in its memory is gone.
func (s *scene) start(id string) {
	m := &mesh{self: id, desks: s.desks, cut: map[string]bool{}}
	s.meshes[id] = m
	s.desks[id] = New(Config{
		Site: "lon1", Self: id, Listen: "127.0.0.1:0", Store: s.stores[id], Peers: m, Agents: func() []string { return []string{"s1", "s2"} },
		Plan: func() *account.Plan { return planOf(s.T) }, Event: func(string, string) error { return nil }, Log: slog.New(slog.DiscardHandler),
	})
	s.desks[id].engine.SetPlan(planOf(s.T))
}

func (s *scene) ask(id string, projects ...string) (*telemetry.TrafficAnswer, string) {
	s.Helper()
	now := time.Now()
	a, err := s.desks[id].Traffic(context.Background(), "lon1", telemetry.TrafficQuery{From: now.Add(-2 * time.Hour), To: now.Add(time.Minute), By: []string{"project", "network", "subnet", "machine", "direction", "scope"}, Projects: projects})
	if err != nil {
		s.Fatal(err)
	}
	out := ""
	for _, r := range a.Rows {
		out += fmt.Sprintf("%s/%s %s %s %s %s: %d packets, %v\n", r.Project, r.Network, r.Subnet, r.Machine, r.Direction, r.Scope, r.Packets, r.Flags)
	}
	return a, out
}

var lo = netip.MustParseAddr("127.0.0.1")

// TestTwoAgents: both hear a switch, one is killed in between; the answer is the same at each, nothing is twice in it, and who does not
// answer is named.
func TestTwoAgents(t *testing.T) {
	s := newScene(t)
	e := sflowtest.Exporter{Agent: lo}
	const seconds = 30 * 60
	start := time.Now().Add(-seconds * time.Second)
	m1, m2, away := netip.MustParseAddr("10.88.0.21"), netip.MustParseAddr("10.88.0.22"), netip.MustParseAddr("203.0.113.9")
	for i := range uint32(seconds) {
		e.Uptime = 60_000 + i*1000
		to, port := away, uint32(9)
		if i%2 == 1 {
			to, port = m2, 2
		}
		b := e.Datagram(sflowtest.Flow{Seq: i, Source: 1, Rate: 10, Pool: i * 10, Input: 1, Output: port, Len: 1018, Header: sflowtest.Frame(m1, to, 0, 1000)}.Sample())
		now := start.Add(time.Duration(i) * time.Second)
		if i == 900 {
			s.start("s1") // killed: up to two minutes were not on disk
		}
		for id, d := range s.desks {
			if id == "s1" && i >= 900 && i < 1200 {
				continue
			}
			d.ear.Take(b, lo, now)
			d.engine.Tick(now, false)
			if i%60 == 59 {
				d.flush()
			}
		}
	}
	for _, d := range s.desks {
		d.engine.Tick(time.Now(), true)
		d.flush()
	}
	want := fmt.Sprintf("/ 10.88.0.0/16 m2 in outside: %[1]d packets, []\nacme/web 10.88.0.0/16 m1 out outside: %[2]d packets, []\n", seconds*5, seconds*10)
	for _, id := range []string{"s1", "s2"} {
		a, got := s.ask(id)
		if d := cmp.Diff(want, got); d != "" || len(a.Missing) != 0 || a.Rows[0].Coverage != 1 {
			t.Errorf("at %s: %v, coverage %v, -want +got\n%s", id, a.Missing, a.Rows[0].Coverage, d)
		}
	}
	if _, got := s.ask("s2", "acme"); strings.Contains(got, "m2") || !strings.Contains(got, "acme") {
		t.Errorf("acme sees\n%s", got)
	}
	s.meshes["s1"].cut["s2"] = true
	a, _ := s.ask("s1")
	if len(a.Missing) != 1 || a.Missing[0] != "s2" || a.Rows[1].Coverage > 0.9 || a.Rows[1].Packets > seconds*10 {
		t.Errorf("alone: missing %v, %+v", a.Missing, a.Rows)
	}
	s.meshes["s1"].cut = map[string]bool{sumPath: true} // it said what it has, and then nothing
	if b, _ := s.ask("s1"); len(b.Missing) != 1 || !cmp.Equal(a.Rows[1].Packets, b.Rows[1].Packets) {
		t.Errorf("half an answer: missing %v, %+v", b.Missing, b.Rows)
	}
}

// TestRun hears a real socket and leaves everything on disk.
func TestRun(t *testing.T) {
	s := newScene(t)
	d := s.desks["s1"]
	taken, err := net.ListenPacket("udp", "127.0.0.1:0") // an address of our own
	if err != nil {
		t.Fatal(err)
	}
	at := taken.LocalAddr().String()
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := d.cfg
	cfg.Listen = at
	heard := make(chan struct{}, 1)
	cfg.Log = slog.New(note{slog.DiscardHandler, func(m string) {
		if m == "listening for sFlow" {
			heard <- struct{}{}
		}
	}})
	d = New(cfg)
	s.desks["s1"] = d
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	<-heard
	c, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	e := sflowtest.Exporter{Agent: lo, Uptime: 60_000}
	if _, err := c.Write(e.Datagram(sflowtest.Flow{Source: 1, Rate: 10, Input: 1, Output: 9, Len: 1018, Header: sflowtest.Frame(netip.MustParseAddr("10.88.0.21"), lo, 0, 1000)}.Sample())); err != nil {
		t.Fatal(err)
	}
	for len(d.engine.Streams()) == 0 || d.engine.Streams()[0].Samples == 0 { // the only sign that the kernel gave it to the reader
		select {
		case err := <-done:
			t.Fatal(err)
		default:
		}
	}
	var w strings.Builder
	d.WriteMetrics(&w)
	for _, want := range []string{`skerry_sflow_datagrams_total{switch="sw1"} 1`, `skerry_sflow_dropped_total{reason="source"} 0`} {
		if !strings.Contains(w.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, w.String())
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, got := s.ask("s1"); got != "acme/web 10.88.0.0/16 m1 out outside: 10 packets, []\n" {
		t.Errorf("%s", got)
	}
}

// note is a handler that calls fn with each message.
type note struct {
	slog.Handler
	fn func(string)
}

func (n note) Enabled(context.Context, slog.Level) bool { return true }
func (n note) Handle(_ context.Context, r slog.Record) error {
	n.fn(r.Message)
	return nil
}

// TestWithout: without a store, or without sFlow, an agent answers what its peers heard.
func TestWithout(t *testing.T) {
	s := newScene(t)
	cfg := s.desks["s1"].cfg
	cfg.Store, cfg.Listen = nil, ""
	s.desks["s1"] = New(cfg)
	if err := s.desks["s1"].Run(context.Background()); err != nil {
		t.Error(err)
	}
	e := sflowtest.Exporter{Agent: lo, Uptime: 60_000}
	d := s.desks["s2"]
	d.ear.Take(e.Datagram(sflowtest.Flow{Source: 1, Rate: 10, Input: 1, Output: 9, Len: 1018, Header: sflowtest.Frame(netip.MustParseAddr("10.88.0.21"), lo, 0, 1000)}.Sample()), lo, time.Now().Add(-time.Minute))
	d.engine.Tick(time.Now(), true)
	d.flush()
	if a, got := s.ask("s1"); !strings.Contains(got, "10 packets") || len(a.Missing) != 0 {
		t.Errorf("%s, missing %v", got, a.Missing)
	}
	if _, err := s.desks["s1"].Traffic(context.Background(), "par1", telemetry.TrafficQuery{}); err != api.ErrNotFound {
		t.Errorf("another site: %v", err)
	}
	if _, err := s.desks["s1"].Traffic(context.Background(), "lon1", telemetry.TrafficQuery{From: time.Now(), To: time.Now().Add(-time.Hour)}); err == nil || !strings.Contains(err.Error(), "from is not before to") {
		t.Errorf("a query that does not fit: %v", err)
	}
}

// TestTop: both agents hear a switch; what there is just now is the same at each, not added up; of a project only its own; who does not
// answer is named.
func TestTop(t *testing.T) {
	s := newScene(t)
	e := sflowtest.Exporter{Agent: lo}
	start := time.Now().Add(-30 * time.Second)
	for i := range uint32(30) {
		e.Uptime = 60_000 + i*1000
		b := e.Datagram(sflowtest.Flow{Seq: i, Source: 1, Rate: 10, Pool: i * 10, Input: 1, Output: 2, Len: 1018, Header: sflowtest.Frame(netip.MustParseAddr("10.88.0.21"), netip.MustParseAddr("10.88.0.22"), 0, 1000)}.Sample())
		for _, d := range s.desks {
			d.ear.Take(b, lo, start.Add(time.Duration(i)*time.Second))
		}
	}
	f := func(id, by string, projects []string, want string, missing ...string) {
		t.Helper()
		a, err := s.desks[id].Top(t.Context(), "lon1", telemetry.TopQuery{By: by, Projects: projects, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, r := range a.Rows {
			got += fmt.Sprintf("%s/%s %s %s:%s %s %.0f packets/s, %s %v %v\n", r.Project, r.Network, r.Machine, r.Switch, r.Port, r.Direction, 10*math.Round(r.Packets/10), r.Confidence, r.Coverage, r.Flags) // a machine that stalls makes the time longer
		}
		if got != want || strings.Join(a.Missing, " ") != strings.Join(missing, " ") {
			t.Errorf("at %s by %s: missing %v,\n%swant\n%s", id, by, a.Missing, got, want)
		}
	}
	for _, id := range []string{"s1", "s2"} {
		f(id, "machine", nil, "/ m2 : in 10 packets/s, ok 1 []\nacme/ m1 : out 10 packets/s, ok 1 []\n")
		f(id, "port", nil, "/ m2 sw1:2 in 10 packets/s, ok 1 []\nacme/ m1 sw1:1 out 10 packets/s, ok 1 []\n")
		f(id, "network", []string{"acme"}, "acme/web  : out 10 packets/s, ok 1 []\n")
		f(id, "machine", []string{}, "")
	}
	s.meshes["s1"].cut[livePath] = true
	f("s1", "machine", []string{"acme"}, "acme/ m1 : out 10 packets/s, ok 1 []\n", "s2")
	a, err := s.desks["s1"].Top(t.Context(), "lon1", telemetry.TopQuery{By: "machine", Limit: 1})
	if err != nil || len(a.Rows) != 1 || a.More != 1 {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := s.desks["s1"].Top(t.Context(), "par1", telemetry.TopQuery{}); err != api.ErrNotFound {
		t.Errorf("another site: %v", err)
	}
}

// TestQuestions: what a peer asks is held to the bounds of a user's query.
func TestQuestions(t *testing.T) {
	s := newScene(t)
	f := func(path, body string, want int) {
		t.Helper()
		w := httptest.NewRecorder()
		s.desks["s1"].Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
		if w.Code != want {
			t.Errorf("%s %.60s: %d %s", path, body, w.Code, w.Body)
		}
	}
	f(headersPath, `{`, http.StatusBadRequest)
	f(headersPath, `{}`, http.StatusUnprocessableEntity)
	f(sumPath, `{"query":{},"take":[1]}`, http.StatusUnprocessableEntity)
	f(sumPath, `{"take":["x"]}`, http.StatusBadRequest)
	f(headersPath, `"`+strings.Repeat("x", maxQuestion)+`"`, http.StatusBadRequest)
}

// TestReverse: the coordinator gets rows, and what a query lacks as the site says it.
func TestReverse(t *testing.T) {
	s := newScene(t)
	f := func(site, query string, status int, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		mux := http.NewServeMux()
		s.desks["s1"].Reverse(mux)
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/sites/"+site+"/"+query, nil))
		if w.Code != status || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
	f("lon1", "traffic?project=acme", http.StatusOK, "[]")
	f("lon1", "traffic?step=7", http.StatusUnprocessableEntity, "step is 60, 3600 or total")
	f("lon1", "traffic?by=port", http.StatusUnprocessableEntity, "by \\\"port\\\"")
	f("lon1", "top?by=port&count=1", http.StatusOK, `"rows":[]`)
	f("lon1", "top?by=subnet", http.StatusUnprocessableEntity, "by is machine, network or port")
	f("par1", "top", http.StatusNotFound, "no such object")
	f("par1", "traffic", http.StatusNotFound, "no such object")
}
