package traffic

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/api/telemetry"
)

// lines is a table of lines.
type lines struct{ out []string }

func (l *lines) Header(c ...string) { l.out = append(l.out, strings.Join(c, " | ")) }
func (l *lines) Row(c ...string)    { l.out = append(l.out, strings.Join(c, " | ")) }

// TestTable: figures with their bounds, rough ones marked, and what each flag means below.
func TestTable(t *testing.T) {
	at := time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)
	a := &telemetry.TrafficAnswer{Missing: []string{"s2"}, Rows: []telemetry.TrafficRow{
		{Project: "acme", Direction: "out", From: at, Bytes: 948364800000, Bytes95: 2150000000, Packets: 1204000000, Packets95: 2150000, Samples: 1204000, Coverage: 0.9989, Confidence: "ok", Source: "probe+sflow", Flags: []string{"loss"}},
		{Direction: "in", From: at, Bytes: 999, Bytes95: 4000, Packets: 3, Packets95: 12, Samples: 3, Coverage: 1, Confidence: "low", Source: "sflow", Flags: []string{}},
	}}
	l := &lines{}
	table(l, telemetry.TrafficQuery{By: []string{"project", "direction"}, Step: time.Hour}, a.Rows)
	want := []string{
		"FROM | PROJECT | DIRECTION | BYTES | ± 95 % | PACKETS | ± 95 % | SAMPLES | SOURCE | COVERAGE | FLAGS",
		"2026-11-28T10:00Z | acme | out | 948.4 GB | 2.15 GB | 1.204 G | 2.15 M | 1204000 | probe+sflow | 99.8 % | loss",
		"2026-11-28T10:00Z |  | in | ~999 B | 4 kB | ~3 | 12 | 3 | sflow | 100.0 % | ",
		"~            fewer than 30 samples: the bound is rough",
		"loss         samples were lost on the way; the figure is corrected by the switch's own count of packets",
		"no answer from s2: what only they heard is missing",
	}
	if d := cmp.Diff(want, append(l.out, footnotes(a)...)); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// TestQuery: times as people write them.
func TestQuery(t *testing.T) {
	now := time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)
	f := func(a asked, want string) {
		t.Helper()
		q, err := a.query("acme", now)
		got := fmt.Sprintf("%s %s %v %v %v", q.From.Format(time.RFC3339), q.To.Format(time.RFC3339), q.Step, q.By, q.Projects)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%+v: %s, want %s", a, got, want)
		}
	}
	f(asked{by: "network", since: "24h", step: "total"}, "2026-11-27T10:00:00Z 2026-11-28T10:00:00Z 0s [network direction] [acme]")
	f(asked{by: "", since: "7d", step: "3600"}, "2026-11-21T10:00:00Z 2026-11-28T10:00:00Z 1h0m0s [direction] [acme]")
	f(asked{by: "direction", from: "2026-11-01T00:00:00Z", to: "2026-11-02T00:00:00+01:00", step: "60"}, "2026-11-01T00:00:00Z 2026-11-02T00:00:00+01:00 1m0s [direction] [acme]")
	f(asked{since: "a week", step: "total"}, `cannot read --since "a week"`)
	f(asked{since: "-1h", step: "total"}, `cannot read --since "-1h"`)
	f(asked{since: "401d", step: "total"}, `cannot read --since "401d"`)
	f(asked{since: "1h", step: "10"}, `cannot use --step "10"`)
	f(asked{from: "yesterday"}, `cannot read --from "yesterday"`)
	f(asked{to: "now"}, `cannot read --to "now"`)
}
