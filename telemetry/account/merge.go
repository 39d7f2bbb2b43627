package account

import (
	"cmp"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/telemetry/sflow"
)

// Header is an interval without its rows: what agents tell each other before a query, to decide whose rows count.
type Header struct {
	sflow.Key
	ID          ID        `json:"id"`
	Bucket      uint32    `json:"b"`
	Start       time.Time `json:"t"`
	SeqFrom     uint32    `json:"sf"`
	SeqTo       uint32    `json:"st"`
	Minutes     uint32    `json:"m"`
	Datagrams   uint64    `json:"d"`
	Samples     uint64    `json:"s"`
	SamplesLost uint64    `json:"sl,omitempty"`
	AgentDrops  uint64    `json:"ad,omitempty"`
	Flags       Flags     `json:"f,omitempty"`
}

// Share is what one agent has of the asked time.
type Share struct {
	Agent   string       `json:"agent"`
	Streams []StreamInfo `json:"streams"`
	Headers []Header     `json:"headers"`
}

// near is how far apart two intervals of one stream and bucket may begin and still be one, by two agents' clocks: a site that is cut off
// may have no clock to trust. Two restarts of an exporter within it count by one agent, see Merge.
const near = 24 * time.Hour

// part is one agent's header.
type part struct {
	agent string
	*Header
}

// Merge chooses whose parts count: agent -> its IDs. Of the agents that heard one interval of a stream, the one with the most datagrams
// gives its rows; of the others, those whose datagrams overlap none of another agent's that was taken: overlapping rows are never added,
// whatever clocks say. It is a pure function, the same at each agent.
func Merge(shares []Share) map[string]map[ID]bool {
	groups := map[sflow.Key]map[uint32][]part{}
	local := map[sflow.Key]bool{} // cut by agents' clocks: their buckets say nothing
	for _, s := range shares {
		for i := range s.Headers {
			local[s.Headers[i].Key] = local[s.Headers[i].Key] || s.Headers[i].Flags&FlagClock != 0
		}
	}
	for _, s := range shares {
		for i := range s.Headers {
			h := &s.Headers[i]
			bucket := h.Bucket
			if local[h.Key] {
				bucket = 0
			}
			if groups[h.Key] == nil {
				groups[h.Key] = map[uint32][]part{}
			}
			groups[h.Key][bucket] = append(groups[h.Key][bucket], part{s.Agent, h})
		}
	}
	out := map[string]map[ID]bool{}
	for _, s := range shares {
		out[s.Agent] = map[ID]bool{}
	}
	for _, buckets := range groups {
		for _, parts := range buckets {
			slices.SortFunc(parts, func(a, b part) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.agent, b.agent)) })
			for len(parts) > 0 {
				n := 1
				for n < len(parts) && parts[n].Start.Sub(parts[0].Start) < near {
					n++
				}
				choose(parts[:n], out)
				parts = parts[n:]
			}
		}
	}
	return out
}

// choose takes parts of one interval.
func choose(parts []part, out map[string]map[ID]bool) {
	heard := map[string]uint64{}
	for _, p := range parts {
		heard[p.agent] += p.Datagrams
	}
	parts = slices.Clone(parts)
	slices.SortFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(heard[b.agent], heard[a.agent]), cmp.Compare(a.agent, b.agent), cmp.Compare(a.ID, b.ID))
	})
	var taken []part
	for _, p := range parts {
		if !slices.ContainsFunc(taken, func(t part) bool { return t.agent != p.agent && overlap(t.Header, p.Header) }) {
			taken = append(taken, p)
			out[p.agent][p.ID] = true
		}
	}
}

// overlap tells whether two runs of datagrams, modulo 2^32, may have one in common.
func overlap(a, b *Header) bool {
	return int32(a.SeqTo-b.SeqFrom) >= 0 && int32(b.SeqTo-a.SeqFrom) >= 0
}
