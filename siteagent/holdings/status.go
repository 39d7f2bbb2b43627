package holdings

import (
	"fmt"
	"slices"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/origins"
	"github.com/skerry-metal/skerry/storage/blob"
)

// Status is the status of an Asset at its site: what each agent of the site said of it last, in the order of the roster.
type Status struct {
	Agents []AgentStatus `json:"agents"`
}

// The states of an asset at an agent. Who was not heard for two minutes is Unknown, and has nothing as far as others are concerned.
const (
	Complete = "complete"
	Partial  = "partial"
	None     = "none"
	Unknown  = "unknown"
)

// AgentStatus is an asset at one agent.
type AgentStatus struct {
	Agent  string `json:"agent"`
	State  string `json:"state"`
	Have   int    `json:"heldChunks"`
	Chunks int    `json:"chunks,omitempty"` // 0 where there is nothing
	Octets uint64 `json:"heldBytes"`
	Pins   []Pin  `json:"pins,omitempty"`
	// Day is the one of its last use; empty where there is nothing.
	Day     string `json:"lastUsedDay,omitempty"`
	Refused bool   `json:"refused,omitempty"` // disk_overcommitted
	// From, Checked and URLs are as in Asset.
	From    map[string]uint64 `json:"from,omitempty"`
	Checked *Check            `json:"checked,omitempty"`
	URLs    []origins.State   `json:"urls,omitempty"`
}

// Statuses returns the status of each asset of the active intent.
func (k *Keeper) Statuses() map[intent.Digest]Status {
	own, reports := k.Report(), map[string]*Report{}
	members := k.cfg.Members()
	k.mu.Lock()
	for _, m := range members {
		if h, ok := k.heard[m.ID]; ok && m.Alive && time.Since(h.at) <= heardLife {
			reports[m.ID] = h.r
		}
	}
	k.mu.Unlock()
	reports[k.cfg.Self] = own
	out := map[intent.Digest]Status{}
	in := k.cfg.Intent()
	for _, s := range slices.Concat(in.Wanted, in.Others) {
		st := Status{}
		for _, m := range members {
			st.Agents = append(st.Agents, reports[m.ID].status(m.ID, s.Digest))
		}
		out[s.Digest] = st
	}
	return out
}

// status is an asset as r has it; nil: its agent was not heard.
func (r *Report) status(agent string, d intent.Digest) AgentStatus {
	st := AgentStatus{Agent: agent, State: Unknown}
	if r == nil {
		return st
	}
	st.State = None
	if a, ok := r.of(d); ok {
		st.Have, st.Chunks, st.Octets, st.Pins, st.Day = a.Have, a.Chunks, a.Octets, a.Pins, a.LastUsed.UTC().Format(time.DateOnly)
		st.From, st.Checked, st.URLs = a.From, a.Checked, a.URLs
		if st.State = Partial; a.Complete {
			st.State = Complete
		}
	}
	st.Refused = slices.Contains(r.Disk.Refused, d)
	return st
}

// Gauges show what is held, for what, and what became of it since the start.
func (k *Keeper) Gauges(set *metrics.Set) {
	held := func(p Pin) func() float64 {
		return func() float64 {
			n := uint64(0)
			for _, a := range k.Report().Assets {
				if len(a.Pins) > 0 && a.Pins[0] == p || len(a.Pins) == 0 && p == "" {
					n += a.Octets
				}
			}
			return float64(n)
		}
	}
	set.NewGauge(`skerry_asset_held_octets{pin="none"}`, held(""))
	for _, p := range []Pin{Current, Previous, Next, Surplus} {
		set.NewGauge(fmt.Sprintf("skerry_asset_held_octets{pin=%q}", p), held(p))
	}
	disk := func(name string, value func(blob.Space) uint64) {
		set.NewGauge(name, func() float64 {
			sp, err := k.cfg.Blobs.Space()
			if err != nil {
				return 0 // an unreadable disk has no room
			}
			return float64(value(sp))
		})
	}
	disk("skerry_asset_disk_octets", func(sp blob.Space) uint64 { return sp.Total })
	disk("skerry_asset_disk_free_octets", func(sp blob.Space) uint64 { return sp.Free })
	locked := func(name string, value func() uint64) {
		set.NewGauge(name, func() float64 {
			k.mu.Lock()
			defer k.mu.Unlock()
			return float64(value())
		})
	}
	locked("skerry_asset_refused", func() uint64 { return uint64(len(k.refused)) })
	locked("skerry_asset_disk_suspect", func() uint64 {
		if k.suspect {
			return 1
		}
		return 0
	})
	locked("skerry_asset_scrubbed_octets_total", func() uint64 { return k.scrubbed })
	locked("skerry_asset_evicted_octets_total", func() uint64 { return k.evicted })
}
