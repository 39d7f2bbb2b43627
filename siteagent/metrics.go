package siteagent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/VictoriaMetrics/metrics"
	exposed "github.com/skerry-metal/skerry/mesh/api/metrics"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/siteagent/keys"
	"github.com/skerry-metal/skerry/siteagent/upkeep"
)

// serveMetrics answers /metrics on the management network, in plain HTTP for Prometheus.
func (a *Agent) serveMetrics(ctx context.Context) error {
	if a.cfg.Metrics == "" {
		<-ctx.Done()
		return nil
	}
	ln, err := net.Listen("tcp", a.cfg.Metrics)
	if err != nil {
		return fmt.Errorf("cannot serve metrics: %w", err)
	}
	set := metrics.NewSet()
	a.gauges(set)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", exposed.Handler(func(w io.Writer) {
		set.WritePrometheus(w)
		a.bootnet.WriteMetrics(w)
		a.traffic.WriteMetrics(w)
		a.history.WriteMetrics(w)
	}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(a.cfg.Logger.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	return ignoreClosed(srv.Serve(ln))
}

func (a *Agent) gauges(set *metrics.Set) {
	set.NewGauge("skerry_uplink_up", func() float64 { return boolGauge(a.uplink.Status().Up) })
	set.NewGauge("skerry_breakglass_used_total", func() float64 { return float64(a.audit.Uses()) })
	set.NewGauge("skerry_recovering", func() float64 { return boolGauge(a.db.Recovering()) })
	set.NewGauge("skerry_agent_barred", func() float64 { return boolGauge(!a.replica.Counts()) })
	set.NewGauge("skerry_intent_seq", func() float64 { return float64(a.site.State().Head.Seq) })
	set.NewGauge("skerry_intent_rejected", func() float64 { return boolGauge(a.site.State().Rejected != "") })
	set.NewGauge("skerry_agents_alive", func() float64 { return float64(len(a.mesh.Live()) + 1) })
	set.NewGauge("skerry_gateways_alive", func() (n float64) {
		for _, g := range a.heardSites() {
			n += boolGauge(g.Alive == "yes")
		}
		return n
	})
	set.NewGauge("skerry_overrides_pending", func() float64 { return float64(len(a.over.pending())) })
	set.NewGauge("skerry_boot_events_pending", func() float64 { return float64(a.bootnet.Pending()) })
	for _, tier := range []string{swarm.TierPeer, swarm.TierSite, swarm.TierOrigin} {
		set.NewGauge(fmt.Sprintf("skerry_assets_octets_total{source=%q}", tier), func() float64 { return float64(a.swarm.Octets(tier)) })
	}
	for _, l := range []transport.Lane{transport.LaneQUIC, transport.LaneTCP} {
		set.NewGauge(fmt.Sprintf("skerry_bulk_sessions{lane=%q}", l), func() float64 { return float64(a.end.BulkLanes()[l]) })
	}
	set.NewGauge("skerry_assets_wan_today_octets", func() float64 { return float64(a.line.Today()) })
	set.NewGauge("skerry_boot_events_lost_total", func() float64 { return float64(a.bootnet.Lost()) })
	a.upkeep.Gauges(set)
	a.assets.Gauges(set)
	a.origins.Gauges(set)
	upkeep.KeyGauges(set, func() *intent.KeyReport { return keys.Report(a.replica, a.floor) }, func() []byte { return a.keys.Leaf().Certificate[0] }, func() time.Time { now, _ := a.floor.Now(); return now },
		func() time.Time { return a.uplink.Status().Heard })
	a.site.Gauges(set)
}

func boolGauge(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
