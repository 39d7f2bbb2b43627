package traffic

import (
	"fmt"
	"io"
	"math"

	"github.com/skerry-metal/skerry/telemetry/account"
	"github.com/skerry-metal/skerry/telemetry/sflow"
)

// WriteMetrics writes what is heard and how well it fits, in Prometheus's text format. Labels are the switches and ports of intent:
// whoever invents agent addresses adds none.
func (d *Desk) WriteMetrics(w io.Writer) {
	d.count.writeMetrics(w)
	if d.cfg.Listen == "" {
		return
	}
	sums := map[string]*account.Stream{}
	var names []string
	for _, s := range d.engine.Streams() { // ordered by switch
		t := sums[s.Switch]
		if t == nil {
			t = &account.Stream{}
			sums[s.Switch] = t
			names = append(names, s.Switch)
		}
		t.Datagrams += s.Datagrams
		t.DatagramsLost += s.DatagramsLost
		t.Samples += s.Samples
		t.SamplesLost += s.SamplesLost
		t.AgentDrops += s.AgentDrops
		t.Invalid += s.Invalid
		t.Discards += s.Discards
	}
	for _, m := range []struct {
		name string
		of   func(*account.Stream) uint64
	}{
		{"datagrams", func(s *account.Stream) uint64 { return s.Datagrams }},
		{"datagrams_lost", func(s *account.Stream) uint64 { return s.DatagramsLost }},
		{"samples", func(s *account.Stream) uint64 { return s.Samples }},
		{"samples_lost", func(s *account.Stream) uint64 { return s.SamplesLost }},
		{"agent_drops", func(s *account.Stream) uint64 { return s.AgentDrops }},
		{"invalid_samples", func(s *account.Stream) uint64 { return s.Invalid }},
		{"discards", func(s *account.Stream) uint64 { return s.Discards }},
	} {
		for _, n := range names {
			fmt.Fprintf(w, "skerry_sflow_%s_total{switch=%q} %d\n", m.name, n, m.of(sums[n]))
		}
	}
	for _, why := range sflow.Reasons() {
		fmt.Fprintf(w, "skerry_sflow_dropped_total{reason=%q} %d\n", why, d.ear.Dropped(why))
	}
	fmt.Fprintf(w, "skerry_sflow_socket_drops_total %d\nskerry_sflow_unknown_records_total %d\n", d.ear.SocketDrops(), d.ear.Unknown())
	for _, r := range d.engine.Ratios() {
		for _, way := range []struct {
			name string
			v    float64
		}{{account.In, r.In}, {account.Out, r.Out}} {
			if !math.IsNaN(way.v) && !math.IsInf(way.v, 0) {
				fmt.Fprintf(w, "skerry_account_reconcile_ratio{switch=%q,port=\"%d\",direction=%q} %g\n", r.Switch, r.Port, way.name, way.v)
			}
		}
	}
	fmt.Fprintf(w, "skerry_account_intervals_dropped_total %d\nskerry_account_damaged_total %d\n", d.engine.Dropped(), d.ledger.Damaged())
}
