package telemetry

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api/telemetry"
)

// agent answers what it was asked.
type agent struct{ err error }

func (a agent) Series(_ context.Context, site string, q telemetry.SeriesQuery) (*telemetry.SeriesList, error) {
	return &telemetry.SeriesList{Site: site, Series: []telemetry.SeriesInfo{{Name: q.Match + " " + strings.Join(q.Scope.Machines, ",")}}}, a.err
}

func (a agent) Rows(_ context.Context, site string, q telemetry.RowsQuery) (*telemetry.Rows, error) {
	return &telemetry.Rows{Site: site, CF: q.CF, Start: q.From, Count: q.MaxPoints}, a.err
}

// RoundTrip implements http.RoundTripper: the session.
func (a agent) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	telemetry.Inner(a).ServeHTTP(w, r)
	return w.Result(), nil
}

func TestAsker(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	var site agent
	up, heard := true, now.Add(-90*time.Second)
	a := &Asker{
		Known: func(s string) bool { return s == "lon1" }, Reverse: func(string) (http.RoundTripper, bool) { return site, up },
		Contact: func(string) time.Time { return heard }, Now: func() time.Time { return now },
	}
	see := telemetry.Scope{Machines: []string{"m1", "m2"}}
	l, err := a.Series(t.Context(), "lon1", telemetry.SeriesQuery{Match: "x", Scope: see})
	if err != nil || l.Series[0].Name != "x m1,m2" {
		t.Fatalf("%+v, %v", l, err)
	}
	r, err := a.Rows(t.Context(), "lon1", telemetry.RowsQuery{From: now.Add(-time.Hour), To: now, CF: "MAX", MaxPoints: 7, Scope: see})
	if err != nil || r.CF != "MAX" || r.Count != 7 || !r.Start.Equal(now.Add(-time.Hour)) {
		t.Fatalf("%+v, %v", r, err)
	}
	f := func(s string, status int, words string) {
		t.Helper()
		_, err := a.Rows(t.Context(), s, telemetry.RowsQuery{From: now.Add(-time.Hour), To: now})
		e, ok := errors.AsType[*telemetry.Error](err)
		if !ok || e.Status != status || !strings.Contains(e.Detail, words) {
			t.Fatalf("%v, want %d %s", err, status, words)
		}
	}
	f("par1", 404, "no such site")
	site.err = telemetry.Invalid("narrow match")
	f("lon1", 422, "narrow match")
	site.err = nil
	up = false
	f("lon1", 503, "heard last 1m30s ago")
	heard = time.Time{}
	f("lon1", 503, "never heard")
}
