package rrd

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The errors that callers branch on.
var (
	// ErrLimit: one series more than there may be, of a device, of a project or of all. Nothing gave way.
	ErrLimit = errors.New("too many series")
	// ErrDefinition: a series, label or profile that cannot be.
	ErrDefinition = errors.New("bad definition")
	// ErrUnknownSeries: no such series, or one that left.
	ErrUnknownSeries = errors.New("no such series")
	// ErrOld: the sample is not later than the last of its series.
	ErrOld = errors.New("sample is not later than the last")
	// ErrAhead: the sample lies further ahead of the last tick than open rows reach.
	ErrAhead = errors.New("sample is ahead of the clock")
	// ErrClock: the clock went back; the tick was not taken.
	ErrClock = errors.New("clock went back")
	// ErrSchema: a newer release wrote this directory.
	ErrSchema = errors.New("written by a newer release")
	// ErrQuery: a query that cannot be answered as it is; the text says how to narrow it.
	ErrQuery = errors.New("bad query")
)

// Type is the type of a data source, in rrdtool's words.
type Type string

// The types. A COUNTER that falls has wrapped at 2^32, or at 2^64; its Max is mandatory, else a reset would be a spike.
const (
	Gauge    Type = "GAUGE"    // a value, as it is
	Counter  Type = "COUNTER"  // uint64 that rises; kept is its rate per second
	Derive   Type = "DERIVE"   // int64; kept is its rate per second
	Absolute Type = "ABSOLUTE" // uint64 since the last reading; kept is its rate per second
)

// CF is a consolidation function, in rrdtool's words.
type CF string

// The consolidation functions.
const (
	Average CF = "AVERAGE"
	Min     CF = "MIN"
	Max     CF = "MAX"
	Last    CF = "LAST"
)

// Archive is one round-robin archive: Rows rows of Steps primary data points each. A row is unknown when more than XFF of its points
// are. CFs are what it keeps beside AVERAGE, which each has.
type Archive struct {
	Steps int     `json:"steps"`
	Rows  int     `json:"rows"`
	XFF   float64 `json:"xff"`
	CFs   []CF    `json:"cfs,omitempty"`
}

// Profile is how long, and how finely, a series is kept. The first archive has one step to a row.
type Profile struct {
	Name     string    `json:"name"`
	Step     int       `json:"step"` // seconds
	Archives []Archive `json:"archives"`
}

// Profiles are Skerry's: fast has 20,112 rows a series, slow the last three archives of it.
func Profiles() []Profile {
	long := func(step int) []Archive {
		const minute, hour, day = 60, 3600, 86400
		return []Archive{
			{Steps: minute / step, Rows: 3 * day / minute, XFF: 0.5, CFs: []CF{Max}},
			{Steps: 5 * minute / step, Rows: 14 * day / (5 * minute), XFF: 0.5, CFs: []CF{Max}},
			{Steps: hour / step, Rows: 400 * day / hour, XFF: 0.5, CFs: []CF{Max}},
		}
	}
	slow := Profile{Name: "slow", Step: 60, Archives: long(60)}
	slow.Archives[0].CFs = nil // one step to a row: each function gives the same
	return []Profile{{Name: "fast", Step: 10, Archives: append([]Archive{{Steps: 1, Rows: 6 * 3600 / 10, XFF: 0.5}}, long(10)...)}, slow}
}

func (p Profile) check() error {
	bad := func(what string) error {
		return fmt.Errorf("cannot use profile %q: %w: %s", p.Name, ErrDefinition, what)
	}
	if p.Name == "" || p.Step < 1 || p.Step > 3600 || len(p.Archives) == 0 || len(p.Archives) > maxArchives {
		return bad("its name, step or number of archives")
	}
	for i, a := range p.Archives {
		if a.Steps < 1 || a.Rows < 1 || a.XFF < 0 || a.XFF >= 1 || (i == 0) != (a.Steps == 1) || a.Steps > math.MaxUint16 || a.Rows > 1<<20 {
			return bad(fmt.Sprintf("archive %d", i))
		}
		if i > 0 && a.Steps <= p.Archives[i-1].Steps {
			return bad("archives go from fine to coarse")
		}
		for _, c := range a.CFs {
			if !slices.Contains([]CF{Min, Max, Last}, c) {
				return bad(fmt.Sprintf("function %q", c))
			}
		}
	}
	return nil
}

// Def is the definition of one series.
type Def struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"` // values of 1 to 128 octets
	Unit   string            `json:"unit,omitempty"`
	Type   Type              `json:"type"`
	// Heartbeat is how many seconds two samples may lie apart before what is between them is unknown; zero takes 2.5 steps.
	Heartbeat float64  `json:"heartbeat,omitempty"`
	Min       *float64 `json:"min,omitempty"` // a value or rate below, or above Max, is unknown
	Max       *float64 `json:"max,omitempty"`
	Profile   string   `json:"profile"`
	// Owner is the uid of what the series is of: whose tombstone ends it. It is no label, and changes with who has the name.
	Owner string `json:"owner,omitempty"`
	// Tenant is the uid of who has what the series is of, and Since when it began to, in seconds since 1970, as Series saw it: what was before
	// is another one's. Empty: there is none.
	Tenant string `json:"tenant,omitempty"`
	Since  int64  `json:"since,omitempty"`
}

const (
	maxLabels   = 8
	maxName     = 64
	maxValue    = 128
	maxArchives = 8
)

func (d Def) check() error {
	bad := func(what string) error {
		return fmt.Errorf("cannot keep series %.80q: %w: %s", d.Name, ErrDefinition, what)
	}
	if !name(d.Name) || len(d.Labels) > maxLabels || len(d.Owner) > maxValue || len(d.Tenant) > maxValue || len(d.Unit) > maxName {
		return bad("its name or number of labels")
	}
	for k, v := range d.Labels {
		if !name(k) || v == "" || len(v) > maxValue || !utf8.ValidString(v) {
			return bad(fmt.Sprintf("label %.80q", k))
		}
	}
	switch d.Type {
	case Gauge, Derive, Absolute:
	case Counter:
		if d.Max == nil {
			return bad("a COUNTER needs a maximum, else a reset of its device is a spike")
		}
	default:
		return bad(fmt.Sprintf("type %.20q", d.Type))
	}
	if d.Heartbeat < 0 || math.IsNaN(d.Heartbeat) || math.IsInf(d.Heartbeat, 0) {
		return bad("its heartbeat")
	}
	for _, b := range []*float64{d.Min, d.Max} {
		if b != nil && (math.IsNaN(*b) || math.IsInf(*b, 0)) {
			return bad("its bounds")
		}
	}
	return nil
}

// name tells whether s is a name as Prometheus has them, without colons.
func name(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

// Key is the canonical text of name and labels: name{a="x",b="y"}, labels in order, values quoted as Go does.
func (d Def) Key() string {
	var b strings.Builder
	b.WriteString(d.Name)
	sep := "{"
	for _, k := range slices.Sorted(maps.Keys(d.Labels)) {
		b.WriteString(sep + k + "=" + strconv.Quote(d.Labels[k]))
		sep = ","
	}
	if sep == "," {
		b.WriteByte('}')
	}
	return b.String()
}

// device is what the limit of one device counts by: the first of these labels that the series has, and who says it, which is its name up
// to a second underscore: what runs on a machine cannot take the room of what its BMC says. Empty: none.
func (d Def) device() string {
	for _, l := range []string{"machine", "switch", "agent"} {
		if v := d.Labels[l]; v != "" {
			if parts := strings.SplitN(d.Name, "_", 3); len(parts) == 3 {
				return l + "/" + v + " " + parts[0] + "_" + parts[1]
			}
			return l + "/" + v
		}
	}
	return ""
}
