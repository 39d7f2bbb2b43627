package point

import (
	"cmp"
	"hash/crc32"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/telemetry/sflow"
)

// Point is where an agent counts by itself, at interfaces of its host. With a Machine it stands in for the access ports of that machine,
// for what comes to it, goes out from it, or both: there it sees all of it, and exactly.
type Point struct {
	Agent   string `json:"-"`
	Machine string `json:"m,omitempty"`
	In      bool   `json:"i,omitempty"`
	Out     bool   `json:"o,omitempty"`
}

// Key names the point's stream. Its agent address is the zero one, which no exporter may have.
func (p Point) Key() sflow.Key {
	return sflow.Key{SubAgent: crc32.Checksum([]byte(strings.Join([]string{p.Agent, p.Machine, strings.Join(p.Ways(), "+")}, "/")), crc32.MakeTable(crc32.Castagnoli))}
}

// Ways returns the directions in which the point stands in.
func (p Point) Ways() (out []string) {
	if p.In {
		out = append(out, "in")
	}
	if p.Out {
		out = append(out, "out")
	}
	return out
}

// Except says whose access ports do not count, and when: a host counted there by itself. From and To are as the host's clock had them.
type Except struct {
	Machine   string    `json:"m"`
	Direction string    `json:"d"`
	From      time.Time `json:"f"`
	To        time.Time `json:"t"`
}

// Join orders xs, and joins what touches. It changes xs.
func Join(out []Except) []Except {
	slices.SortFunc(out, func(a, b Except) int {
		return cmp.Or(cmp.Compare(a.Machine, b.Machine), cmp.Compare(a.Direction, b.Direction), a.From.Compare(b.From), a.To.Compare(b.To))
	})
	n := 0
	for _, x := range out {
		if n > 0 && out[n-1].Machine == x.Machine && out[n-1].Direction == x.Direction && !x.From.After(out[n-1].To) {
			if x.To.After(out[n-1].To) {
				out[n-1].To = x.To
			}
			continue
		}
		out[n] = x
		n++
	}
	return out[:n]
}

// Index is the exceptions of one machine and direction.
type Index map[[2]string][]Except

// NewIndex returns xs by machine and direction.
func NewIndex(xs []Except) Index {
	out := Index{}
	for _, x := range xs {
		k := [2]string{x.Machine, x.Direction}
		out[k] = append(out[k], x)
	}
	return out
}

// Has tells whether a row of an access port does not count: its interval began at start and is step long.
func (x Index) Has(machine, direction string, start time.Time, step time.Duration) bool {
	return slices.ContainsFunc(x[[2]string{machine, direction}], func(x Except) bool { return start.Before(x.To) && start.Add(step).After(x.From) })
}
