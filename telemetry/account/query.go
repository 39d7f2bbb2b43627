package account

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/telemetry/account/point"
	"github.com/skerry-metal/skerry/telemetry/sflow"
)

// Field names one thing that figures are split by.
type Field string

// The fields, in the order of a figure's columns.
const (
	ByProject   Field = "project"
	ByNetwork   Field = "network"
	BySubnet    Field = "subnet"
	ByMachine   Field = "machine"
	BySwitch    Field = "switch"
	ByDirection Field = "direction"
	ByScope     Field = "scope"
)

const (
	maxHeaders = 50_000  // of one agent for one query: 12 streams for 72 h
	maxGroups  = 100_000 // figures of one answer
	// edge is how far beyond the asked time headers are compared, so that two agents' clocks do not give one interval to two queries.
	edge = 5 * time.Minute
	// behind is how old an interval is at most before it is on disk: its minute, the grace, the minute of Flush.
	behind = 2*time.Minute + grace + 10*time.Second
)

// ErrTooMuch says that a query asks for more than one answer holds; the text says what to narrow.
var ErrTooMuch = errors.New("too much for one answer")

// Query asks for figures of the intervals that began in [From, To).
type Query struct {
	From, To time.Time
	Step     time.Duration // a minute, an hour, or 0: one figure for all of it
	By       []Field
	Projects []string // nil: every project, and what is nobody's
	Tier     Tier
}

// NewQuery checks a query against what the ledger keeps at now, and chooses its tier.
// Errors: a text that says what is wrong; ErrTooMuch for steps beyond maxGroups.
func NewQuery(from, to time.Time, step time.Duration, by []Field, projects []string, now time.Time) (Query, error) {
	q := Query{From: from, To: to, Step: step, By: by, Projects: projects}
	if now.Sub(from) > time.Duration(Minutes.ring())*Minutes.step()-time.Hour {
		q.Tier = Hours
	}
	switch {
	case !from.Before(to):
		return q, errors.New("cannot answer: from is not before to")
	case now.Sub(from) > time.Duration(Hours.ring())*Hours.step():
		return q, errors.New("cannot answer: the ledger keeps 400 days; ask for a later from")
	case step != 0 && step != sflow.Bucket && step != time.Hour:
		return q, errors.New("cannot answer: step is 60, 3600 or total")
	case step == sflow.Bucket && q.Tier == Hours:
		return q, errors.New("cannot answer: minutes are kept for 72 hours; use step 3600 or a later from")
	case step != 0 && to.Sub(from)/step > maxGroups:
		return q, fmt.Errorf("cannot answer: %w: narrow from and to, or use a longer step", ErrTooMuch)
	}
	for i, f := range by {
		if !slices.Contains([]Field{ByProject, ByNetwork, BySubnet, ByMachine, BySwitch, ByDirection, ByScope}, f) || slices.Contains(by[:i], f) {
			return q, fmt.Errorf("cannot answer: by %.40q: use project, network, subnet, machine, switch, direction and scope, each once", f)
		}
	}
	return q, nil
}

// Headers returns what this agent has near the asked time. Errors: ErrTooMuch.
func (l *Ledger) Headers(q Query) ([]Header, error) {
	var out []Header
	err := l.scan(q.Tier, q.From.Add(-edge), q.To.Add(edge), false, func(i ID, v *Interval) error {
		if len(out) >= maxHeaders {
			return fmt.Errorf("cannot answer: %w: narrow from and to, or go back beyond 72 hours, where hours are kept", ErrTooMuch)
		}
		out = append(out, Header{v.Key, i, v.Bucket, v.Start, v.SeqFrom, v.SeqTo, v.Minutes, v.Datagrams, v.Samples, v.SamplesLost, v.AgentDrops, v.Flags})
		return nil
	})
	return out, err
}

// Group is the sum of some rows.
type Group struct {
	Start  time.Time `json:"start"` // of the step
	Switch string    `json:"switch,omitempty"`
	Label
	Sums
}

func (g *Group) compare(o *Group) int {
	return cmp.Or(g.Start.Compare(o.Start), compareLabels(g.Label, o.Label), cmp.Compare(g.Switch, o.Switch))
}

type groupKey struct {
	start int64
	sw    string
	Label
}

// begin returns when the step that t lies in began: at a whole minute or hour, but not before the query.
func (q *Query) begin(t time.Time) time.Time {
	if q.Step == 0 {
		return q.From
	}
	if s := t.Truncate(q.Step); s.After(q.From) {
		return s
	}
	return q.From
}

func (q *Query) end(begin time.Time) time.Time {
	if q.Step == 0 {
		return q.To
	}
	if e := begin.Truncate(q.Step).Add(q.Step); e.Before(q.To) {
		return e
	}
	return q.To
}

// key returns the group of a row.
func (q *Query) key(v *Interval, l Label) groupKey {
	k := groupKey{start: q.begin(v.Start).UnixNano()}
	for _, f := range q.By {
		switch f {
		case ByProject:
			k.Project = l.Project
		case ByNetwork:
			k.Network = l.Network
		case BySubnet:
			k.Subnet = l.Subnet
		case ByMachine:
			k.Machine = l.Machine
		case BySwitch:
			k.sw = v.Switch
		case ByDirection:
			k.Direction = l.Direction
		case ByScope:
			k.Scope = l.Scope
		}
	}
	return k
}

// Sum adds the rows of the taken parts, but for those of access ports that a host counted itself, ordered by step, label, switch.
// Errors: ErrTooMuch.
func (l *Ledger) Sum(q Query, take map[ID]bool, but []Except) ([]Group, error) {
	groups, index := map[groupKey]*Group{}, point.NewIndex(but)
	err := l.scan(q.Tier, q.From, q.To, true, func(i ID, v *Interval) error {
		if !take[i] {
			return nil
		}
		source := flagSwitch
		if !v.Agent.IsValid() {
			source = flagPoint
		}
		for _, r := range v.Rows {
			if q.Projects != nil && !slices.Contains(q.Projects, r.Project) {
				continue
			}
			if source == flagSwitch && index.Has(r.Machine, r.Direction, v.Start, q.Tier.step()) {
				continue
			}
			r.Flags |= source
			k := q.key(v, r.Label)
			g := groups[k]
			if g == nil {
				if len(groups) >= maxGroups {
					return fmt.Errorf("cannot answer: %w: use a longer step, or fewer fields in by", ErrTooMuch)
				}
				g = &Group{Start: time.Unix(0, k.start).UTC(), Switch: k.sw, Label: k.Label}
				groups[k] = g
			}
			g.Sums.Add(r.Sums)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return sorted(groups), nil
}

func sorted(groups map[groupKey]*Group) []Group {
	out := make([]Group, 0, len(groups))
	for _, g := range groups {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b Group) int { return a.compare(&b) })
	return out
}

// Figure is one line of an answer.
type Figure struct {
	Group
	End       time.Time
	Bytes95   float64 // half width
	Packets95 float64
	Low       bool    // too few samples for more than a rough bound
	Coverage  float64 // 0 to 1
}

// Table makes figures of what the agents summed, with the coverage of the headers that were taken. shares are what Merge had.
func Table(q Query, shares []Share, take map[string]map[ID]bool, sums [][]Group, now time.Time) []Figure {
	groups := map[groupKey]*Group{}
	for _, gs := range sums {
		for _, g := range gs {
			k := groupKey{g.Start.UnixNano(), g.Switch, g.Label}
			if groups[k] == nil {
				c := g
				groups[k] = &c
				continue
			}
			groups[k].Sums.Add(g.Sums)
		}
	}
	cov := newCoverage(q, shares, take, now)
	out := make([]Figure, 0, len(groups))
	for _, g := range sorted(groups) {
		f := Figure{Group: g, End: q.end(g.Start), Coverage: cov.of(g.Start, g.Switch)}
		f.Bytes95, f.Packets95, f.Low = g.Bound()
		out = append(out, f)
	}
	return out
}

// coverage is how much of what was asked for was heard, by step and switch.
type coverage struct {
	q      Query
	bySw   bool
	infos  map[sflow.Key]StreamInfo
	now    time.Time
	found  map[covKey]map[sflow.Key]*covered
	memory map[covKey]float64
}

type covKey struct {
	start int64
	sw    string
}

type covered struct {
	minutes          map[int64]uint32 // by interval
	samples, missing uint64
}

func newCoverage(q Query, shares []Share, take map[string]map[ID]bool, now time.Time) *coverage {
	c := &coverage{
		q: q, bySw: slices.Contains(q.By, BySwitch), infos: map[sflow.Key]StreamInfo{}, now: now,
		found: map[covKey]map[sflow.Key]*covered{}, memory: map[covKey]float64{},
	}
	for _, s := range shares {
		for _, i := range s.Streams {
			if old, ok := c.infos[i.Key]; !ok || i.First.Before(old.First) {
				c.infos[i.Key] = i
			}
		}
	}
	for _, s := range shares {
		for i := range s.Headers {
			h := &s.Headers[i]
			if !take[s.Agent][h.ID] || h.Start.Before(q.From) || !h.Start.Before(q.To) {
				continue
			}
			k := covKey{q.begin(h.Start).UnixNano(), c.name(h.Key)}
			if c.found[k] == nil {
				c.found[k] = map[sflow.Key]*covered{}
			}
			v := c.found[k][h.Key]
			if v == nil {
				v = &covered{minutes: map[int64]uint32{}}
				c.found[k][h.Key] = v
			}
			at := h.Start.Round(q.Tier.step()).Unix()
			v.minutes[at] = max(v.minutes[at], h.Minutes)
			v.samples += h.Samples
			v.missing += h.SamplesLost + h.AgentDrops
		}
	}
	return c
}

func (c *coverage) name(k sflow.Key) string {
	if c.bySw {
		return c.infos[k].Switch
	}
	return ""
}

// of returns the coverage of a step: minutes present of those asked for since each stream was first heard, times samples received of
// those that were sent.
func (c *coverage) of(begin time.Time, sw string) float64 {
	k := covKey{begin.UnixNano(), sw}
	if v, ok := c.memory[k]; ok {
		return v
	}
	var present, asked, got, lost float64
	end := c.q.end(begin)
	if latest := c.now.Add(-behind); end.After(latest) {
		end = latest
	}
	for key, info := range c.infos {
		if c.name(key) != sw {
			continue
		}
		from := begin
		if info.First.After(from) {
			from = info.First
		}
		want := math.Max(math.Floor(end.Sub(from).Minutes()), 0)
		have := 0.0
		if v := c.found[k][key]; v != nil {
			for _, m := range v.minutes {
				have += float64(m)
			}
			got += float64(v.samples)
			lost += float64(v.missing)
		}
		want = math.Max(want, math.Min(have, 1)) // what is there was asked for
		present += math.Min(have, want)
		asked += want
	}
	v := 0.0
	if asked > 0 {
		v = present / asked
	}
	if got+lost > 0 {
		v *= got / (got + lost)
	}
	c.memory[k] = v
	return v
}
