package telemetry

import (
	"context"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func at() time.Time { return time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC) }

// source answers with what it was asked for.
type source struct{ asked []TrafficQuery }

func (s *source) Traffic(_ context.Context, _ string, q TrafficQuery) (*TrafficAnswer, error) {
	s.asked = append(s.asked, q)
	return &TrafficAnswer{Missing: []string{"s2"}, Rows: []TrafficRow{
		{Project: "acme", Network: "web", Subnet: "10.4.0.0/24", Direction: "out", From: q.From, To: q.To, Bytes: 948364800000, Bytes95: 2150000000, L3Bytes: 926692800000, Packets: 1204000000, Packets95: 2150000, Samples: 1204000, Coverage: 0.998, Confidence: "ok", Source: "sflow", Flags: []string{"loss", "rate"}},
		{Project: `a "b"`, Direction: "in", From: q.From, To: q.To, Confidence: "low", Source: "sflow", Flags: []string{}},
	}}, nil
}

// TestForms: the same rows as JSON, as lines and as CSV.
func TestForms(t *testing.T) {
	f := func(accept, kind, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/v1/sites/lon1/traffic?by=project,network,subnet,direction", nil)
		r.Header.Set("Accept", accept)
		if err := ServeTraffic(w, r, Viewer{Site: "lon1", Now: at(), All: true}, &source{}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, strings.ReplaceAll(w.Body.String(), "\r\n", "~\n")); d != "" || w.Header().Get("Content-Type") != kind || w.Header().Get(MissingHeader) != "s2" {
			t.Errorf("%s: %v -want +got\n%s", accept, w.Header(), d)
		}
	}
	one := `{"project":"acme","network":"web","subnet":"10.4.0.0/24","direction":"out","from":"2026-11-27T10:00:00Z","to":"2026-11-28T10:00:00Z","bytes":948364800000,"bytes_95":2150000000,"l3_bytes":926692800000,"packets":1204000000,"packets_95":2150000,"samples":1204000,"coverage":0.998,"confidence":"ok","source":"sflow","flags":["loss","rate"]}`
	two := `{"project":"a \"b\"","direction":"in","from":"2026-11-27T10:00:00Z","to":"2026-11-28T10:00:00Z","bytes":0,"bytes_95":0,"l3_bytes":0,"packets":0,"packets_95":0,"samples":0,"coverage":0,"confidence":"low","source":"sflow","flags":[]}`
	f("", "application/json", "["+one+","+two+"]\n")
	f("application/x-ndjson", "application/x-ndjson", one+"\n"+two+"\n")
	f("text/csv", "text/csv; charset=utf-8; header=present", `project,network,subnet,machine,switch,direction,scope,from,to,bytes,bytes_95,l3_bytes,packets,packets_95,samples,coverage,confidence,source,flags~
acme,web,10.4.0.0/24,,,out,,2026-11-27T10:00:00Z,2026-11-28T10:00:00Z,948364800000,2150000000,926692800000,1204000000,2150000,1204000,0.998,ok,sflow,loss;rate~
"a ""b""",,,,,in,,2026-11-27T10:00:00Z,2026-11-28T10:00:00Z,0,0,0,0,0,0,0,low,sflow,~
`)
}

// TestViewer: whoever may not see all of a site never asks for all of it, whatever the query says.
func TestViewer(t *testing.T) {
	f := func(query string, projects []string, wantBy string, want ...string) {
		t.Helper()
		s := &source{}
		w := httptest.NewRecorder()
		if err := ServeTraffic(w, httptest.NewRequest("GET", "/x?"+query, nil), Viewer{Now: at(), Projects: projects}, s); err != nil {
			t.Fatal(err)
		}
		if len(want) == 0 {
			if len(s.asked) != 0 || w.Body.String() != "[]\n" {
				t.Errorf("%s: asked %+v, answered %s", query, s.asked, w.Body)
			}
			return
		}
		if len(s.asked) != 1 || !cmp.Equal(s.asked[0].Projects, want) || strings.Join(s.asked[0].By, ",") != wantBy {
			t.Errorf("%s: asked %+v, want %v", query, s.asked, want)
		}
	}
	f("", []string{}, "")
	f("", []string{"acme"}, "project,subnet,direction", "acme")
	f("by=switch,project", []string{"acme", "shop"}, "project", "acme", "shop")
	f("project=shop,evil&by=", []string{"acme", "shop"}, "", "shop")
	f("project=evil", []string{"acme"}, "")
	f("project=", []string{"acme"}, "")
}

// TestParse: what was asked for comes through the URL, and what does not fit is refused.
func TestParse(t *testing.T) {
	q := TrafficQuery{From: at().Add(-time.Hour), To: at(), Step: time.Minute, By: []string{"machine"}, Projects: []string{"acme", ""}}
	got, err := ParseTraffic(q.Values(), at())
	if d := cmp.Diff(q, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	f := func(query, want string) {
		t.Helper()
		v, _ := url.ParseQuery(query)
		if _, err := ParseTraffic(v, at()); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
	f("from=yesterday", "from is no RFC 3339 time, like 2026-11-21T10:00:00Z")
	f("step=10", "step is 60, 3600 or total")
	f("bye=x", `parameter "bye": use by, from, to, step and project, each once`)
	f("by=x&by=y", `parameter "by": use by, from, to, step and project, each once`)
	f("by=a,b,c,d,e,f,g,h", "by or project names too many")
}
