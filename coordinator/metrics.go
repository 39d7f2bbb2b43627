package coordinator

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/skerry-metal/skerry/coordinator/recovery"
	exposed "github.com/skerry-metal/skerry/mesh/api/metrics"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// serveMetrics answers /metrics on the management network, in plain HTTP for Prometheus.
func (c *Coordinator) serveMetrics(ctx context.Context) error {
	if c.cfg.Metrics == "" {
		<-ctx.Done()
		return nil
	}
	ln, err := net.Listen("tcp", c.cfg.Metrics)
	if err != nil {
		return fmt.Errorf("cannot serve metrics: %w", err)
	}
	set := metrics.NewSet()
	set.NewGauge("skerry_coordinator_sessions", func() float64 { return float64(c.uplink.Standing()) })
	set.NewGauge("skerry_coordinator_objects", func() float64 {
		cat, _ := c.objects.Snapshot()
		return float64(cat.Len())
	})
	set.NewGauge("skerry_coordinator_sites", func() float64 {
		cat, _ := c.objects.Snapshot()
		return float64(len(cat.List(intent.KindSite)))
	})
	set.NewGauge("skerry_coordinator_uploads", func() float64 { return float64(len(c.repository.List().Items)) })
	c.rotation.Gauges(ctx, set)
	set.NewGauge("skerry_coordinator_held_sites", func() float64 {
		held, err := recovery.Held(ctx, c.store)
		if err != nil {
			return math.NaN()
		}
		return float64(len(held))
	})
	set.NewGauge("skerry_clock_trusted", func() float64 {
		if c.clock.Trusted() {
			return 1
		}
		return 0
	})
	set.NewGauge("skerry_audit_broken_chains", func() float64 { return float64(c.audit.Broken(ctx)) })
	set.NewGauge("skerry_breakglass_used_total", func() float64 { return float64(c.audit.Uses()) })
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", exposed.Handler(set.WritePrometheus))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	return ignoreClosed(srv.Serve(ln))
}
