package measured

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
)

// TestTraffic: what a site answers comes through, with the agents that are missing and what it refuses; a site that is not there is
// answered with how long ago it was heard.
func TestTraffic(t *testing.T) {
	var asked string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		switch {
		case strings.Contains(asked, "par1"):
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = w.Write([]byte(`{"status":422,"detail":"too much"}`))
		case strings.Contains(asked, "gone"):
			panic(http.ErrAbortHandler)
		case strings.Contains(asked, "quiet1/top"):
		case strings.Contains(asked, "/top"):
			_, _ = w.Write([]byte(`{"by":"port","rows":[{"machine":"m1","bytes_per_second":7.5}]}`))
		default:
			w.Header().Set(telemetry.MissingHeader, "s2")
			_, _ = w.Write([]byte(`[{"project":"acme","bytes":7}]`))
		}
	}))
	defer srv.Close()
	now := time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)
	d := &Desk{
		Now: func() time.Time { return now },
		Site: func(site string) (*client.Client, error) {
			switch site {
			case "ams1", "new1":
				return nil, api.ErrUnreachable
			case "nowhere":
				return nil, api.ErrNotFound
			}
			return client.New(srv.URL, "", http.DefaultTransport), nil
		},
		Heard: func(site string) (time.Time, bool) { return now.Add(-3 * time.Hour), site != "new1" },
	}
	q := telemetry.TrafficQuery{From: now.Add(-time.Hour), To: now, By: []string{"project"}, Projects: []string{"acme"}}
	a, err := d.Traffic(context.Background(), "lon1", q)
	if err != nil || len(a.Rows) != 1 || a.Rows[0].Bytes != 7 || a.Missing[0] != "s2" || !strings.Contains(asked, "project=acme") {
		t.Errorf("%v %+v, asked %s", err, a, asked)
	}
	top, err := d.Top(context.Background(), "lon1", telemetry.TopQuery{By: "port", Limit: 3})
	if err != nil || len(top.Rows) != 1 || top.Rows[0].Bytes != 7.5 || !strings.Contains(asked, "count=1") {
		t.Errorf("%v %+v, asked %s", err, top, asked)
	}
	for _, away := range []string{"ams1", "quiet1"} {
		if _, err := d.Top(context.Background(), away, telemetry.TopQuery{By: "port", Limit: 3}); err == nil || !strings.Contains(err.Error(), "heard last 3h0m0s ago") {
			t.Errorf("%s: %v", away, err)
		}
	}
	f := func(site, want string) {
		t.Helper()
		if _, err := d.Traffic(context.Background(), site, q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", site, err, want)
		}
	}
	f("par1", "too much")
	f("ams1", "ask an agent of the site; it was heard last 3h0m0s ago, at 2026-11-28T07:00:00Z")
	f("gone", "it was heard last 3h0m0s ago")
	f("new1", "it was never heard")
	f("nowhere", "there is no such object")
}

// TestDiscovered: the list comes from the site; nothing is ignored from here, and a site that is away is not taken for an empty one.
func TestDiscovered(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"site":"lon1","max":256,"machines":[{"id":"` + r.URL.Query().Get("machine") + `"}]}`))
	}))
	defer srv.Close()
	d := &Desk{
		Now: time.Now, Heard: func(string) (time.Time, bool) { return time.Time{}, false },
		Site: func(site string) (*client.Client, error) {
			if site == "ams1" {
				return nil, api.ErrUnreachable
			}
			return client.New(srv.URL, "", http.DefaultTransport), nil
		},
	}
	l, err := d.Discovered(t.Context(), "lon1", "52-54-00-88-00-99")
	if err != nil || len(l.Machines) != 1 || l.Machines[0].ID != "52-54-00-88-00-99" {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err := d.Discovered(t.Context(), "ams1", ""); err == nil || l != nil || !strings.Contains(err.Error(), "never heard") {
		t.Errorf("a site that is away lists %+v, %v", l, err)
	}
	if err := d.Ignore(t.Context(), api.Caller{}, "lon1", "x", "y"); err == nil {
		t.Error("it was ignored from above")
	}
}
