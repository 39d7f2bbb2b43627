package rrd

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
)

// Raw is what a Store lies in: state.Raw, or a part of it.
type Raw interface {
	// Get returns a copy of a value. Errors: state.ErrAbsent.
	Get(key []byte) ([]byte, error)
	// Write makes all of batch durable, or nothing. Errors: state.ErrFull, state.ErrTooLarge.
	Write(batch []state.Pair) error
	// Scan calls fn for each key with the prefix that is not below from, in order, on a snapshot.
	Scan(prefix, from []byte, fn func(key, value []byte) error) error
}

var _ Raw = (*state.Raw)(nil)

// Config says what a Store keeps.
type Config struct {
	Raw      Raw
	Profiles []Profile // nil: Profiles()
	Log      *slog.Logger
	// Limits on new series; zero takes 20,000 in all (32,768 is the most), 512 of a device, 1,000 of a project.
	MaxSeries, MaxDevice, MaxProject int
}

const (
	defSeries  = 20_000
	hardSeries = 32_768 // three rows of so many are 0.8 MB, and a transaction takes 1.2 MB
	defDevice  = 512
	defProject = 1_000
)

// ID names a series as long as it is kept.
type ID uint32

// series is one that is kept, or was.
type series struct {
	id   ID
	key  string // of def
	def  Def
	born int64 // tick; what a row of an earlier tick holds in its place is of another series
	gone bool  // it left; its keys are being deleted
	lost bool  // its record cannot be read: the place is not used, nothing of it deleted
	pdp  pdp
	beat float64
}

// record is the value of an s row.
type record struct {
	Def  Def   `json:"def"`
	Born int64 `json:"born"`
	Gone bool  `json:"gone,omitempty"`
}

// profile is one of the stored profiles.
type profile struct {
	id uint16
	Profile
	stored bool
}

// group is groupSeries series of one profile, whose rows are written together.
type group struct {
	id      uint16
	p       *profile
	series  []*series // by place; nil: free
	rows    [slots]row
	tick    int64   // the last tick taken, written or not
	acked   int64   // the last tick that is on disk
	marked  bool    // closed is on disk
	closed  int64   // all points up to it are in blocks and in open
	open    [][]cdp // by archive above the first, by place
	closing *closing
}

// row is the points of one tick, by place; NaN is unknown.
type row struct {
	tick   int64
	values []float64
	gen    uint64 // rises with each change
	clean  uint64 // gen that is on disk
}

// Store keeps series. It is safe for concurrent use.
type Store struct {
	cfg      Config
	profiles map[string]*profile // by name: the ones in use

	ticking sync.Mutex // one Tick, removal or scrub writes at a time; taken before mu
	mu      sync.RWMutex
	groups  []*group // by id
	byKey   map[string]*series
	fresh   []*series // whose record is to be written with the next tick
	devices map[string]int
	counts  Counts
	scratch block // of a close

	damaged atomic.Int64 // values that did not read
}

// Counts is what a Store has done since it was opened.
type Counts struct {
	Series        int
	LastTick      time.Time      // stamp of the last tick on disk; zero: none yet
	CommitSeconds float64        // of the last commit
	Dropped       map[string]int // ticks that were not written, by reason: full, clock, error
	Refused       map[string]int // new series, by reason: agent, device, project, definition
	Late, Ahead   int            // samples that were refused
	Damaged       int            // values that did not read
	Scrub         Scrubbed
}

// Scrubbed is what the last whole scrub saw.
type Scrubbed struct {
	Keys    int
	Damaged int // values with a wrong checksum, or in a place that is not theirs
	Orphans int // blocks of a series that is not known: counted, never deleted
	At      time.Time
}

// Open reads what lies in cfg.Raw and is ready for samples. Damaged values are counted and read as unknown.
// Errors: ErrDefinition, ErrSchema.
func Open(cfg Config) (*Store, error) {
	if cfg.Profiles == nil {
		cfg.Profiles = Profiles()
	}
	for p, def := range map[*int]int{&cfg.MaxSeries: defSeries, &cfg.MaxDevice: defDevice, &cfg.MaxProject: defProject} {
		if *p == 0 {
			*p = def
		}
	}
	cfg.MaxSeries = min(cfg.MaxSeries, hardSeries)
	s := &Store{
		cfg: cfg, profiles: map[string]*profile{}, byKey: map[string]*series{}, devices: map[string]int{},
		counts: Counts{Dropped: map[string]int{}, Refused: map[string]int{}},
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("cannot open series: %w", err)
	}
	return s, nil
}

// Series returns the id of a series, which is made if it is new. What may change of one that is kept: heartbeat, bounds, unit.
// A new series is on disk with the next tick. Errors: ErrDefinition, ErrLimit.
func (s *Store) Series(d Def, now time.Time) (ID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := d.check()
	p := s.profiles[d.Profile]
	if err == nil && p == nil {
		err = fmt.Errorf("cannot keep series %.80q: %w: profile %.20q", d.Name, ErrDefinition, d.Profile)
	}
	if err != nil {
		s.counts.Refused["definition"]++
		return 0, err
	}
	key := d.Key()
	if old := s.byKey[key]; old != nil {
		if old.def.Type != d.Type || old.def.Profile != d.Profile {
			s.counts.Refused["definition"]++
			return 0, fmt.Errorf("cannot keep %s: %w: it is kept as %s, %s", key, ErrDefinition, old.def.Type, old.def.Profile)
		}
		if d.Since = old.def.Since; d.Tenant != old.def.Tenant {
			d.Since = now.Unix()
		}
		if !reflect.DeepEqual(old.def, d) {
			old.def, old.beat = d, heartbeat(d, p)
			s.fresh = append(s.fresh, old)
		}
		return old.id, nil
	}
	for _, l := range []struct {
		reason, what string
		have, most   int
	}{
		{"agent", "this agent", len(s.byKey), s.cfg.MaxSeries},
		{"device", d.device(), s.devices[d.device()], s.cfg.MaxDevice},
		{"project", "project/" + d.Labels["project"], s.devices["project/"+d.Labels["project"]], s.cfg.MaxProject},
	} {
		if l.have >= l.most {
			s.counts.Refused[l.reason]++
			return 0, fmt.Errorf("cannot keep %s: %w: %s has %d", key, ErrLimit, l.what, l.have)
		}
	}
	if d.Since = 0; d.Tenant != "" {
		d.Since = now.Unix()
	}
	sr := s.place(d, p, now)
	s.add(sr)
	s.fresh = append(s.fresh, sr)
	return sr.id, nil
}

func heartbeat(d Def, p *profile) float64 {
	if d.Heartbeat > 0 {
		return d.Heartbeat
	}
	return 2.5 * float64(p.Step)
}

// add counts a series among those that are kept.
func (s *Store) add(sr *series) {
	sr.key = sr.def.Key()
	s.byKey[sr.key] = sr
	s.count(sr, 1)
}

func (s *Store) count(sr *series, n int) {
	for _, k := range []string{sr.def.device(), "project/" + sr.def.Labels["project"]} {
		if k == "" || k == "project/" { // nobody's: no limit but the agent's
			continue
		}
		if s.devices[k] += n; s.devices[k] <= 0 {
			delete(s.devices, k)
		}
	}
}

// place gives a new series the first free place of a group of its profile.
func (s *Store) place(d Def, p *profile, now time.Time) *series {
	step := int64(p.Step)
	for _, g := range s.groups {
		if g == nil || g.p != p {
			continue
		}
		for i := 0; i < groupSeries; i++ {
			if i == len(g.series) {
				g.grow(i + 1)
			}
			if g.series[i] == nil {
				return g.put(i, d, now)
			}
		}
	}
	g := newGroup(uint16(len(s.groups)), p)
	g.tick = now.Unix()/step - 1
	g.acked, g.closed = g.tick, boundary(g.tick-2)
	s.groups = append(s.groups, g)
	g.grow(1)
	return g.put(0, d, now)
}

func newGroup(id uint16, p *profile) *group {
	g := &group{id: id, p: p, open: make([][]cdp, len(p.Archives)-1)}
	for i := range g.rows {
		g.rows[i].tick = math.MinInt64
	}
	return g
}

// boundary is the last tick not after t where a group closes.
func boundary(t int64) int64 { return (t+1)/blockRows*blockRows - 1 }

// grow makes n places.
func (g *group) grow(n int) {
	for len(g.series) < n {
		g.series = append(g.series, nil)
	}
	for a := range g.open {
		for len(g.open[a]) < n {
			g.open[a] = append(g.open[a], cdp{})
		}
	}
}

// put makes a series in place i, where nothing of another is left.
func (g *group) put(i int, d Def, now time.Time) *series {
	sr := &series{id: ID(g.id)*groupSeries + ID(i), def: d, beat: heartbeat(d, g.p), born: now.Unix()/int64(g.p.Step) + 1}
	sr.pdp.begin(now.UnixMicro(), int64(g.p.Step))
	g.series[i] = sr
	for r := range g.rows {
		if i < len(g.rows[r].values) {
			g.rows[r].values[i] = math.NaN()
		}
	}
	for a := range g.open {
		g.open[a][i] = cdp{}
		if g.closing != nil && i < len(g.closing.open[a]) {
			g.closing.open[a][i] = cdp{}
		}
	}
	return sr
}

// value is the point of a tick; NaN where none is known.
func (g *group) value(tick int64, i int) float64 {
	r := &g.rows[tick%slots]
	if r.tick != tick || i >= len(r.values) {
		return math.NaN()
	}
	return r.values[i]
}

// set takes the point of a tick, unless its row is written for good.
func (g *group) set(tick int64, i int, v float64) {
	r := &g.rows[tick%slots]
	if tick < g.tick-1 || r.tick > tick {
		return
	}
	if r.tick < tick {
		r.tick, r.values = tick, r.values[:0]
	}
	for len(r.values) <= i {
		r.values = append(r.values, math.NaN())
	}
	r.values[i] = v
	r.gen++
}

func (s *Store) find(id ID) (*group, *series) {
	g, i := int(id/groupSeries), int(id%groupSeries)
	if g >= len(s.groups) || s.groups[g] == nil || i >= len(s.groups[g].series) {
		return nil, nil
	}
	sr := s.groups[g].series[i]
	if sr == nil || sr.gone || sr.lost {
		return nil, nil
	}
	return s.groups[g], sr
}

// Update takes a sample of a series; at counts in microseconds and must be later than the last one's. The points that it completes are
// durable with the next tick. Errors: ErrUnknownSeries, ErrOld, ErrAhead.
func (s *Store) Update(id ID, at time.Time, v Sample) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, sr := s.find(id)
	if sr == nil {
		return fmt.Errorf("cannot keep sample of series %d: %w", id, ErrUnknownSeries)
	}
	us, step := at.UnixMicro(), int64(g.p.Step)
	if us <= sr.pdp.last {
		s.counts.Late++
		return fmt.Errorf("cannot keep sample of %s: %w: %s", sr.def.Key(), ErrOld, at.UTC().Format(time.RFC3339Nano))
	}
	if us/micro/step > g.closed+slots {
		s.counts.Ahead++
		return fmt.Errorf("cannot keep sample of %s: %w: %s", sr.def.Key(), ErrAhead, at.UTC().Format(time.RFC3339Nano))
	}
	if math.IsNaN(v.Value) || math.IsInf(v.Value, 0) {
		v.Unknown = true
	}
	open, rest, first, end := sr.pdp.update(&sr.def, sr.beat, step, us, v)
	for k := max(first, g.tick-1, sr.born); k <= end; k++ {
		point := rest
		if k == first {
			point = open
		}
		if !math.IsNaN(point) && !math.IsInf(point, 0) { // rows are unknown until somebody knows
			g.set(k, int(id%groupSeries), point)
		}
	}
	return nil
}

// Counts returns what was done so far.
func (s *Store) Counts() Counts {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := s.counts
	c.Series = len(s.byKey)
	c.Damaged, c.Dropped, c.Refused = int(s.damaged.Load()), maps.Clone(c.Dropped), maps.Clone(c.Refused)
	return c
}

func marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("cannot encode: %w", err)
	}
	return seal(b), nil
}

func isFull(err error) bool { return errors.Is(err, state.ErrFull) }
