package traffic

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/account"
	"github.com/skerry-metal/skerry/telemetry/probe"
	"github.com/skerry-metal/skerry/telemetry/sflow"
)

// pins is where the kernel's maps of probes are kept over restarts of agents: /sys/fs/bpf is a bpffs wherever systemd runs. The number is that
// of their layout.
const pins = "/sys/fs/bpf/skerry/v1"

// Keys of what a probe has read, beside the tables of the ledger.
const (
	tableProbe = 'e'
	probeLife  = "el"
	probeSlot  = "es"
	// maxStretch bounds what counts may be spread over: as long as the ledger has hours.
	maxStretch = 400 * 24 * time.Hour
)

// Counting says what an agent counts at interfaces of its own host.
type Counting struct {
	Interfaces []string
	Method     string // of package probe; empty: auto
	Dir        string // of pins; empty: below /sys/fs/bpf
	// Plan says what counts as what, at interfaces that stand as told, with those hardware addresses. nil: nothing does.
	Plan func(self string, at []probe.State, macs map[string]string) (probe.Plan, []account.Point) `json:"-"`
}

// counter is the desk's own counting.
type counter struct {
	cfg    Counting
	self   string
	store  *state.Raw
	log    *slog.Logger
	engine *account.Engine
	probe  *probe.Probe
	points atomic.Pointer[[]account.Point]
	said   atomic.Pointer[string] // of the states, as told last
	last   atomic.Pointer[now]    // what the last reading gave
	told   string                 // what went wrong, as told last
	read   time.Time              // until when counts were read
	was    probe.Memory           // of the life before, until it is known whether this one goes on from it
	known  map[account.Point]bool // points that counted since then without a gap
}

// life is what is kept of the kernel's maps.
type life struct {
	Life uint64    `json:"life"`
	Read time.Time `json:"read"` // until when they were read
}

func newCounter(cfg Config, e *account.Engine) *counter {
	c := &counter{cfg: cfg.Count, self: cfg.Self, store: cfg.Store, log: cfg.Log, engine: e, known: map[account.Point]bool{}}
	c.points.Store(&[]account.Point{})
	c.said.Store(new(string))
	if c.cfg.Dir == "" {
		c.cfg.Dir = filepath.Join(pins, cfg.Site+"-"+cfg.Self)
	}
	method, err := probe.ParseMethod(c.cfg.Method)
	if err != nil {
		c.say("off: " + err.Error())
		method = probe.Off
	}
	if len(c.cfg.Interfaces) > 0 && c.store == nil {
		c.say("off: nothing is kept here, so there is nothing to count for")
		method = probe.Off
	}
	pc := probe.Config{Dir: c.cfg.Dir, Method: method, Log: c.log}
	if method == probe.Off && *c.said.Load() == "" && len(c.cfg.Interfaces) > 0 {
		c.say("off: as configured")
	}
	if method != probe.Off && len(c.cfg.Interfaces) > 0 {
		c.was = c.remember()
		pc.Memory = c.was
	}
	c.probe = probe.New(pc)
	return c
}

// on tells whether there is anything to count.
func (c *counter) on() bool { return len(c.cfg.Interfaces) > 0 && c.store != nil && c.cfg.Plan != nil }

// remember reads what an earlier life had read.
func (c *counter) remember() (m probe.Memory) {
	err := c.store.Scan([]byte{tableProbe}, nil, func(key, value []byte) error {
		if string(key) == probeLife {
			var l life
			if json.Unmarshal(value, &l) == nil {
				m.Life, c.read = l.Life, l.Read
			}
			return nil
		}
		var s probe.Saved
		if json.Unmarshal(value, &s) == nil {
			m.Slots = append(m.Slots, s)
		}
		return nil
	})
	if err != nil {
		c.log.Warn("the probe begins anew: what was read of its counts does not read", "err", err)
		return probe.Memory{}
	}
	return m
}

// pairs are what is kept of a reading up to now.
func (c *counter) pairs(saved []probe.Saved, now time.Time) []state.Pair {
	out := make([]state.Pair, 0, len(saved)+1)
	put := func(key []byte, v any) {
		if b, err := json.Marshal(v); err == nil {
			out = append(out, state.Pair{Key: key, Value: b})
		}
	}
	put([]byte(probeLife), life{c.probe.Life(), now.UTC()})
	for _, s := range saved {
		put(binary.BigEndian.AppendUint32([]byte(probeSlot), s.Slot), s)
	}
	return out
}

// follow makes the probe stand where it is to, and count by the plan as it is now.
func (c *counter) follow() {
	at := c.probe.Attach(c.cfg.Interfaces)
	macs := map[string]string{}
	for _, s := range at {
		if i, err := net.InterfaceByName(s.Interface); err == nil {
			macs[s.Interface] = i.HardwareAddr.String()
		}
	}
	c.goOn(at)
	plan, points := c.cfg.Plan(c.self, at, macs)
	c.points.Store(&points)
	fresh, err := c.probe.SetPlan(plan)
	if err == nil && len(fresh) > 0 { // a slot that was another's must never be read as that one's again
		err = c.store.Write(c.pairs(fresh, c.read))
	}
	if err != nil && err.Error() != c.told {
		c.log.Warn("the probe does not count all of it", "err", err)
	}
	if c.told = ""; err != nil {
		c.told = err.Error()
	}
	lines := make([]string, len(at))
	for i := range at {
		lines[i] = at[i].String()
	}
	if len(at) > 0 {
		c.say(strings.Join(lines, "; "))
	}
}

// goOn finds out, once, whether the kernel counted on since the life before.
func (c *counter) goOn(at []probe.State) {
	if c.was.Life == c.probe.Life() && c.was.Life != 0 && !c.read.IsZero() && time.Since(c.read) > 0 && time.Since(c.read) < maxStretch {
		soft := slices.ContainsFunc(at, func(s probe.State) bool { return s.Method == probe.Packet || s.Method == probe.Counters })
		for _, s := range c.was.Slots {
			if l, ok := c.label(s.Label); ok && !soft {
				c.known[l.Point] = true
			}
		}
	} else if c.was.Life != 0 || c.read.IsZero() {
		c.read = time.Now()
	}
	c.was = probe.Memory{}
}

func (c *counter) say(s string) {
	if old := *c.said.Load(); old != s {
		c.said.Store(&s)
		c.log.Info("the probe", "counts", s)
	}
}

// labelled is what a label of the probe says.
type labelled struct {
	Point account.Point `json:"p"`
	account.Label
}

func (l labelled) text() string {
	b, err := json.Marshal(l)
	if err != nil {
		return "" // it has strings only
	}
	return string(b)
}

// minute tells whether the counts of a minute that ended are to be read.
func (c *counter) minute(now time.Time) bool {
	return c.on() && !now.Truncate(time.Minute).Equal(c.read.Truncate(time.Minute))
}

// take reads the counts, and gives each point its rows. What was counted since the last reading is of the minutes since then.
func (c *counter) take(now time.Time) { c.took(c.probe.Read(), now) }

func (c *counter) took(r probe.Reading, now time.Time) {
	last := c.read.Truncate(time.Minute)
	stretch := max(uint32(max(now.Truncate(time.Minute).Sub(last), 0)/time.Minute), 1)
	if now.Before(c.read) || now.Sub(c.read) > maxStretch { // the clock was set
		last, stretch = now.Truncate(time.Minute), 1
	}
	began := c.read
	c.read = now
	rows, saved := map[account.Point][]account.Row{}, map[account.Point][]probe.Saved{}
	for _, p := range *c.points.Load() {
		rows[p] = nil
	}
	for i := range r.Rows {
		p, row := c.row(&r.Rows[i])
		rows[p] = append(rows[p], row)
	}
	for _, s := range r.Keep {
		l, _ := c.label(s.Label)
		saved[l.Point] = append(saved[l.Point], s)
	}
	known := map[account.Point]bool{}
	for p, rs := range rows {
		count := account.Count{Point: p, Start: last, Minutes: stretch, Rows: rs, Samples: r.Samples, Lost: r.Lost, Also: c.pairs(saved[p], now)}
		if r.Lost > 0 {
			count.Flags |= account.FlagLoss
		}
		if !c.known[p] && stretch > 1 {
			count.Start, count.Minutes = now.Truncate(time.Minute), 1
		}
		if r.Anew {
			count.Flags |= account.FlagReset
			for i := range rs {
				rs[i].Flags |= account.FlagReset
			}
		}
		c.engine.Counted(spread(count)...)
		known[p] = true
	}
	c.known = known
	c.last.Store(nowOf(rows, c.self, began, now))
}

// label reads a label of the probe. ok is false for the one of what found no place among the others.
func (c *counter) label(s string) (l labelled, ok bool) {
	ok = s != "" && json.Unmarshal([]byte(s), &l) == nil
	l.Point.Agent = c.self
	return l, ok
}

// row makes a row of the ledger.
func (c *counter) row(r *probe.Row) (account.Point, account.Row) {
	row := account.Row{}
	l, ok := c.label(r.Label)
	if !ok {
		row.Flags = account.FlagTruncated
	}
	l.Direction, l.Scope = account.Out, account.Outside
	if r.To {
		l.Direction = account.In
	}
	if r.Lost {
		row.Flags |= account.FlagLoss
	}
	switch {
	case r.Total:
		l.Scope = ""
	case r.Inside:
		l.Scope = account.Inside
	}
	row.Label = l.Label
	row.Samples, row.Bytes, row.L3, row.Packets = r.Samples, r.Bytes, r.L3, r.Frames
	if n := r.Rate; n > 1 {
		of := func(x uint64) uint64 { return uint64(math.Round(n * float64(x))) }
		row.Bytes, row.L3, row.Packets = of(r.Bytes), of(r.L3), of(r.Frames)
		many := n * (n - 1)
		row.Var, row.PacketVar = many*r.Squares, many*float64(r.Frames)*float64(r.Frames)/float64(max(r.Samples, 1))
	}
	return l.Point, row
}

// counting tells whether this agent counts at a point now.
func (d *Desk) counting(k sflow.Key) bool {
	return slices.ContainsFunc(*d.count.points.Load(), func(p account.Point) bool { return p.Key() == k })
}

// Probe says in a line how each interface is counted; empty: none is.
func (d *Desk) Probe() string { return *d.count.said.Load() }

// run reads what the probe does not count in the kernel.
func (c *counter) run(ctx context.Context) error {
	if !c.on() {
		return nil
	}
	return c.probe.Run(ctx)
}

func (c *counter) writeMetrics(w io.Writer) {
	if !c.on() {
		return
	}
	for _, s := range c.probe.States() {
		up := 1
		if s.Method == probe.Off {
			up = 0
		}
		fmt.Fprintf(w, "skerry_probe_attached{interface=%q,method=%q} %d\n", s.Interface, s.Method, up)
	}
	st := c.probe.Stats()
	for _, x := range []struct {
		what string
		n    uint64
	}{{"seen", st.Seen}, {"nobody", st.Nobody}, {"crowd", st.Crowd}, {"short", st.Short}} {
		fmt.Fprintf(w, "skerry_probe_frames_total{what=%q} %d\n", x.what, x.n)
	}
}
