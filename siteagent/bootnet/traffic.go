package bootnet

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/VictoriaMetrics/metrics"
	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/boot/httpboot"
	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/tftp"
)

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
	if len(p.dhcp) > 0 {
		waiting := 0
		for _, l := range p.dhcp {
			waiting += l.Waiting()
		}
		metrics.WriteGaugeUint64(w, "skerry_dhcp_strangers_waiting", uint64(waiting))
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
