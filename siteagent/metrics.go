package siteagent

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/boot/httpboot"
	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/tftp"
	"github.com/skerry-metal/skerry/mesh/intent"
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
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		set.WritePrometheus(w)
		a.traffic.write(w)
		metrics.WriteProcessMetrics(w)
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(a.cfg.Logger.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	return ignoreClosed(srv.Serve(ln))
}

func (a *Agent) gauges(set *metrics.Set) {
	set.NewGauge("skerry_uplink_up", func() float64 { return boolGauge(a.uplink.Status().Up) })
	set.NewGauge("skerry_recovering", func() float64 { return boolGauge(a.db.Recovering()) })
	set.NewGauge("skerry_intent_seq", func() float64 { return float64(a.site.State().Head.Seq) })
	set.NewGauge("skerry_intent_rejected", func() float64 { return boolGauge(a.site.State().Rejected != "") })
	set.NewGauge("skerry_agents_alive", func() float64 { return float64(len(a.mesh.Live()) + 1) })
	set.NewGauge("skerry_overrides_pending", func() float64 { return float64(len(a.over.pending())) })
	set.NewGauge("skerry_boot_events_pending", func() float64 { return float64(len(a.server.events)) })
	set.NewGauge("skerry_boot_events_lost_total", func() float64 { return float64(a.server.lostEvents()) })
	for _, st := range []intent.MachineState{
		intent.StateExpected, intent.StateDiscovered, intent.StateAvailable, intent.StateAllocated, intent.StateInstalling,
		intent.StateRunning, intent.StateReleasing, intent.StateQuarantined, intent.StateMaintenance, intent.StateBroken,
	} {
		set.NewGauge(fmt.Sprintf("skerry_machines{state=%q}", st), func() float64 {
			n := 0
			for _, v := range a.world.views() {
				if v.Status.State == st || (v.Status.State == "" && st == intent.StateExpected) {
					n++
				}
			}
			return float64(n)
		})
	}
}

func boolGauge(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// traffic counts what the boot network sent us, good and bad, by how it was dealt with. Label values are constants of the
// boot rooms and HTTP status codes: a sender cannot make new ones.
type traffic struct {
	mu      sync.Mutex // guards what follows
	dhcp    []*dhcp.Listener
	tftp    []*tftp.Server
	install *install.Handler
	http    map[served]uint64
}

// served is one series of boot HTTP.
type served struct {
	what string // script, loader, asset, nocloud, other
	code int
}

func (p *traffic) addDHCP(l *dhcp.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dhcp = append(p.dhcp, l)
}

func (p *traffic) addTFTP(s *tftp.Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tftp = append(p.tftp, s)
}

// count notes one answer of boot HTTP. An answer without a status went to a client that had left.
func (p *traffic) count(h httpboot.Served) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.http == nil {
		p.http = map[served]uint64{}
	}
	p.http[served{h.What, h.Status}]++
}

// write writes the counters as Prometheus text, sorted by their labels.
func (p *traffic) write(w io.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	reasons, results := map[string]uint64{}, map[string]uint64{}
	for _, r := range []string{dhcp.ReasonOffer, dhcp.ReasonAck, dhcp.ReasonNak, dhcp.ReasonMalform} {
		reasons[r] = 0 // shown before the first one came, so that a rate has a beginning
	}
	for _, l := range p.dhcp {
		sum(reasons, l.Counts())
	}
	for _, s := range p.tftp {
		sum(results, s.Counts())
	}
	for _, r := range slices.Sorted(maps.Keys(reasons)) {
		metrics.WriteCounterUint64(w, fmt.Sprintf("skerry_dhcp_packets_total{reason=%q}", r), reasons[r])
	}
	for _, r := range slices.Sorted(maps.Keys(results)) {
		metrics.WriteCounterUint64(w, fmt.Sprintf("skerry_tftp_transfers_total{result=%q}", r), results[r])
	}
	if p.install != nil {
		metrics.WriteCounterUint64(w, "skerry_install_rejected_total", p.install.Rejected())
	}
	for _, k := range slices.SortedFunc(maps.Keys(p.http), func(a, b served) int {
		return cmp.Or(cmp.Compare(a.what, b.what), cmp.Compare(a.code, b.code))
	}) {
		metrics.WriteCounterUint64(w, fmt.Sprintf("skerry_http_requests_total{what=%q,code=\"%d\"}", k.what, k.code), p.http[k])
	}
}

func sum(to, from map[string]uint64) {
	for k, v := range from {
		to[k] += v
	}
}
