package bootnet

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// kindPool is the journal's kind of dynamic ranges that were told of as nearly used up; the key is the subnet's name. Whoever notices first
// tells it, for all agents and their next lives.
const kindPool = "dhcp-pool"

// pool is such a record.
type pool struct {
	Low bool `json:"low"`
}

// rooms tells of a dynamic range that is nearly used up, before a client goes without, and of one that is not any more.
func (s *answers) rooms(v *dhcp.View) {
	for _, r := range v.Rooms(time.Now()) {
		was := claim.Shared[pool](s.w.Journal, kindPool, r.Subnet)
		low := was != nil && was.Low
		kind, text := "dhcp.pool.low", fmt.Sprintf("%d of %d dynamic addresses of %s are in use: make spec.dynamic of the subnet larger", r.Used, r.Size, r.Subnet)
		switch {
		case !low && r.Low():
			if r.Kept > 0 {
				text += fmt.Sprintf("; %d of them come free when %s is heard, or quarantined", r.Kept, strings.Join(r.Unsure, " and "))
			}
		case low && r.Ample():
			kind, text = "dhcp.pool.ample", fmt.Sprintf("%d of %d dynamic addresses of %s are free again", r.Size-r.Used, r.Size, r.Subnet)
		default:
			continue
		}
		fields := map[string]string{"subnet": r.Subnet, "used": strconv.Itoa(r.Used), "size": strconv.Itoa(r.Size), "kept": strconv.Itoa(r.Kept)}
		s.offer(claim.Draft{Kind: kindPool, Key: r.Subnet, Body: pool{!low}}, reconcile.Event("", "", intent.Epoch{}, kind, text, fields))
	}
}

// offer hands drafts that belong together to the journal, all or none: a full queue is tried again by whoever made them.
func (s *answers) offer(drafts ...claim.Draft) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cap(s.events)-len(s.events) < len(drafts) || time.Since(s.offered) < offerAgain {
		return
	}
	s.offered = time.Now()
	for _, d := range drafts {
		select {
		case s.events <- d:
		default:
			s.lost++
		}
	}
}

// offerAgain is how long what was handed over may take to stand in the journal: until then the view is renewed from what was before.
const offerAgain = 5 * time.Second

// writeRooms writes how full the dynamic ranges are as Prometheus text.
func (s *answers) writeRooms(w io.Writer) {
	v := s.View()
	if v == nil {
		return
	}
	for _, r := range v.Rooms(time.Now()) {
		metrics.WriteGaugeUint64(w, fmt.Sprintf("skerry_dhcp_pool_addresses{subnet=%q}", r.Subnet), uint64(r.Size))
		metrics.WriteGaugeUint64(w, fmt.Sprintf("skerry_dhcp_pool_used{subnet=%q}", r.Subnet), uint64(r.Used))
	}
}
