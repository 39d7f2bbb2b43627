package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

func TestParseRows(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	f := func(query, from, to string, points int) {
		t.Helper()
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParseRows(v, now)
		if from == "" {
			if err == nil {
				t.Fatalf("%s is taken", query)
			}
			return
		}
		if err != nil || q.From.Format(time.DateTime) != from || q.To.Format(time.DateTime) != to || q.MaxPoints != points {
			t.Fatalf("%s: %+v, %v", query, q, err)
		}
		again, err := ParseRows(q.Values(), now.Add(time.Hour))
		if err != nil || !again.From.Equal(q.From) || !again.To.Equal(q.To) || again.CF != q.CF || again.MaxPoints != q.MaxPoints {
			t.Fatalf("%+v was put as %v and read as %+v, %v", q, q.Values(), again, err)
		}
	}
	f("match=x", "2026-11-28 06:00:00", "2026-11-28 12:00:00", 0)
	f("from=7d&max_points=9", "2026-11-21 12:00:00", "2026-11-28 12:00:00", 9)
	f("from=90m&to=30m", "2026-11-28 10:30:00", "2026-11-28 11:30:00", 0)
	f("from=2026-01-02T03:04:05Z", "2026-01-02 03:04:05", "2026-11-28 12:00:00", 0)
	for _, bad := range []string{"from=x", "to=-3h", "from=1e99d", "max_points=0", "max_points=5001"} {
		f(bad, "", "", 0)
	}
}

func TestValue(t *testing.T) {
	b, err := json.Marshal(Rows{Series: []SeriesRows{{Values: []Value{1.5, Value(nan())}}}})
	if err != nil {
		t.Fatal(err)
	}
	var r Rows
	if err := json.Unmarshal(b, &r); err != nil || r.Series[0].Values[0] != 1.5 || r.Series[0].Values[1] == r.Series[0].Values[1] {
		t.Fatalf("%s: %+v, %v", b, r, err)
	}
}

// TestRowsInLines: a header, then a series a line, unknown null; without asking for lines, one value.
func TestRowsInLines(t *testing.T) {
	f := func(accept, kind, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/v1/sites/lon1/query?match=x", nil)
		r.Header.Set("Accept", accept)
		Inner(kept{}).ServeHTTP(w, r)
		if d := cmp.Diff(want, w.Body.String()); d != "" || w.Header().Get("Content-Type") != kind {
			t.Errorf("%s: %v\n%s", accept, w.Header(), d)
		}
	}
	one, two := `{"name":"x","labels":{"machine":"m1"},"unit":"watts","values":[1.5,null]}`, `{"name":"x","labels":{"machine":"m2"},"unit":"watts","values":[]}`
	const head = `{"site":"lon1","cf":"AVERAGE","start":"2026-11-28T12:00:00Z","step":60,"count":2,%s"agents":{"a1":"ok"},"coverage":0.5`
	f("application/x-ndjson", "application/x-ndjson", fmt.Sprintf(head, "")+`,"series":2}`+"\n"+one+"\n"+two+"\n")
	f("", "application/json", fmt.Sprintf(head, `"series":[`+one+","+two+"],")+"}\n")
}

// kept is a Source with two series.
type kept struct{ Source }

func (kept) Rows(_ context.Context, site string, _ RowsQuery) (*Rows, error) {
	return &Rows{
		Site: site, CF: "AVERAGE", Start: time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC), Step: 60, Count: 2, Agents: map[string]string{"a1": "ok"}, Coverage: 0.5, Series: []SeriesRows{
			{Name: "x", Labels: map[string]string{"machine": "m1"}, Unit: "watts", Values: []Value{1.5, Value(nan())}},
			{Name: "x", Labels: map[string]string{"machine": "m2"}, Unit: "watts", Values: []Value{}},
		},
	}, nil
}

func nan() (v float64) {
	_ = (*Value)(&v).UnmarshalJSON([]byte("null"))
	return v
}

// TestSee: who reads machines sees all; who reads a project sees the machines of its instances at this site; the rest sees nothing.
func TestSee(t *testing.T) {
	array := func(project, name, infra, status string) *intent.Object {
		return &intent.Object{
			Kind: intent.KindInstanceArray, Metadata: intent.Metadata{Name: name, Project: project}, Spec: &intent.InstanceArraySpec{Infrastructure: infra}, Status: json.RawMessage(status),
		}
	}
	infra := func(project, name, site string) *intent.Object {
		return &intent.Object{Kind: intent.KindInfrastructure, Metadata: intent.Metadata{Name: name, Project: project, Site: site}, Spec: &intent.InfrastructureSpec{}}
	}
	c := intent.NewCatalog(
		infra("acme", "shop", "lon1"), infra("acme", "far", "par1"), infra("other", "shop", "lon1"),
		array("acme", "web", "shop", `{"instances":[{"machine":"m2","uid":"i2"},{"machine":"m1","uid":"i1"},{"uid":"i0"}]}`), array("acme", "db", "shop", `{"instances":[{"machine":"m2","uid":"i3"}]}`),
		array("acme", "edge", "far", `{"instances":[{"machine":"m7"}]}`), array("other", "web", "shop", `{"instances":[{"machine":"m3"}]}`),
		array("acme", "new", "shop", ``), array("acme", "lost", "nowhere", `{"instances":[{"machine":"m8"}]}`),
	)
	f := func(name string, may func(rights.Request) bool, want Scope) {
		t.Helper()
		got := See(c, "lon1", may)
		if got.All != want.All || !slices.Equal(got.Machines, want.Machines) || want.Instances != nil && !slices.Equal(got.Instances, want.Instances) {
			t.Fatalf("%s sees %+v, want %+v", name, got, want)
		}
		if again := ScopeOf(got.Put(url.Values{})); again.All != got.All || !slices.Equal(again.Machines, got.Machines) || !slices.Equal(again.Instances, got.Instances) {
			t.Fatalf("%+v was put and read as %+v", got, again)
		}
	}
	f("an operator", func(rights.Request) bool { return true }, Scope{All: true})
	f("a member", func(r rights.Request) bool { return r.Project == "acme" }, Scope{Machines: []string{"m1", "m2"}, Instances: []string{"i1", "i2", "i3"}})
	f("nobody", func(rights.Request) bool { return false }, Scope{})
	s := Scope{Machines: []string{"m1", "m2"}, Instances: []string{"", "i1", "i2"}} // of a status without uids
	for _, x := range []struct {
		name, label, of, tenant string
		sees                    bool
	}{
		{"skerry_bmc_power_watts", "machine", "m2", "", true},
		{"skerry_bmc_power_watts", "machine", "m3", "", false},
		{"skerry_bmc_power_watts", "switch", "m1", "", false},
		{"x", "", "", "", false},
		{"skerry_snmp_load_average", "machine", "m2", "i2", true},
		{"skerry_snmp_load_average", "machine", "m2", "i9", false},
		{"skerry_snmp_load_average", "machine", "m2", "", false},
		{"skerry_snmp_load_average", "machine", "m3", "i2", false},
		{"skerry_snmp_port_up", "switch", "m1", "i1", false},
	} {
		if got := s.Sees(x.name, map[string]string{x.label: x.of}, x.tenant); got != x.sees {
			t.Errorf("%+v: %v", x, got)
		}
	}
}
