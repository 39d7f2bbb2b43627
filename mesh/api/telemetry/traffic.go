package telemetry

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// TrafficSource answers what traffic a site had.
type TrafficSource interface {
	// Traffic sums the site's ledger. q.Projects are those that the caller may see. Errors: what mesh/api answers with.
	Traffic(ctx context.Context, site string, q TrafficQuery) (*TrafficAnswer, error)
	// Top says what there is just now. q.Projects and errors as above.
	Top(ctx context.Context, site string, q TopQuery) (*TopFrame, error)
}

// TrafficQuery selects traffic of the intervals that began in [From, To).
type TrafficQuery struct {
	From, To time.Time
	Step     time.Duration // a minute, an hour, or 0: one row for all of it
	By       []string      // project, network, subnet, machine, switch, direction, scope
	Projects []string      // nil: every project, and what is nobody's
}

// TrafficRow is one figure, with how sure it is.
type TrafficRow struct {
	Project    string    `json:"project,omitempty"`
	Network    string    `json:"network,omitempty"`
	Subnet     string    `json:"subnet,omitempty"`
	Machine    string    `json:"machine,omitempty"`
	Switch     string    `json:"switch,omitempty"`
	Direction  string    `json:"direction,omitempty"` // in: to the machine; out: from it
	Scope      string    `json:"scope,omitempty"`     // inside: the peer is of the same project
	From       time.Time `json:"from"`
	To         time.Time `json:"to"`
	Bytes      uint64    `json:"bytes"`      // frames with FCS
	Bytes95    uint64    `json:"bytes_95"`   // with 95 % the truth lies no further off
	L3Bytes    uint64    `json:"l3_bytes"`   // IP packets
	Packets    uint64    `json:"packets"`    // frames
	Packets95  uint64    `json:"packets_95"` // as bytes_95
	Samples    uint64    `json:"samples"`
	Coverage   float64   `json:"coverage"`   // 0 to 1: what part of the time and of the samples was heard
	Confidence string    `json:"confidence"` // ok; low: fewer than 30 samples
	Source     string    `json:"source"`     // sflow, probe (exact), probe+sflow
	Flags      []string  `json:"flags"`
}

// TrafficAnswer is every row, and the agents of the site that did not answer: what only they heard is missing.
type TrafficAnswer struct {
	Rows    []TrafficRow
	Missing []string
}

// ServeTraffic answers one request. Users get their own projects, and no switches: those are not their business.
// Errors: BadQuery, src's; a client that left is none.
func ServeTraffic(w http.ResponseWriter, r *http.Request, v Viewer, src TrafficSource) error {
	q, err := ParseTraffic(r.URL.Query(), v.Now)
	if err != nil {
		return &BadQuery{err.Error()}
	}
	answer := &TrafficAnswer{}
	if !v.All {
		q.Projects = v.sees(q.Projects)
		q.By = slices.DeleteFunc(q.By, func(f string) bool { return f == "switch" })
	}
	if v.All || len(q.Projects) > 0 {
		if answer, err = src.Traffic(r.Context(), v.Site, q); err != nil {
			return err
		}
	}
	_ = WriteTraffic(w, r.Header.Get("Accept"), answer) // the status line is out: whoever left is not there to be told
	return nil
}

const (
	// MissingHeader names the agents that did not answer, separated by commas.
	MissingHeader = "Skerry-Missing-Agents"

	defaultSince = 24 * time.Hour
	maxProjects  = 4096
)

// ParseTraffic reads a query of the URL. Without from it is the last 24 hours; from and to are RFC 3339 times.
func ParseTraffic(v url.Values, now time.Time) (TrafficQuery, error) {
	q := TrafficQuery{To: now, By: []string{"project", "subnet", "direction"}}
	for name, values := range v {
		if !slices.Contains([]string{"by", "from", "to", "step", "project"}, name) || len(values) != 1 {
			return q, fmt.Errorf("parameter %.40q: use by, from, to, step and project, each once", name)
		}
	}
	at := func(name string, t *time.Time) error {
		s := v.Get(name)
		if s == "" {
			return nil
		}
		var err error
		if *t, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return errors.New(name + " is no RFC 3339 time, like 2026-11-21T10:00:00Z")
		}
		return nil
	}
	if err := at("to", &q.To); err != nil {
		return q, err
	}
	q.From = q.To.Add(-defaultSince)
	if err := at("from", &q.From); err != nil {
		return q, err
	}
	switch s := v.Get("step"); s {
	case "", "total":
	case "60":
		q.Step = time.Minute
	case "3600":
		q.Step = time.Hour
	default:
		return q, errors.New("step is 60, 3600 or total")
	}
	if v.Has("by") {
		q.By = list(v.Get("by"))
	}
	if v.Has("project") {
		q.Projects = list(v.Get("project"))
	}
	if len(q.By) > 7 || len(q.Projects) > maxProjects {
		return q, errors.New("by or project names too many")
	}
	return q, nil
}

func list(s string) []string {
	if s == "" {
		return []string{}
	}
	return strings.Split(s, ",")
}

// Values is what ParseTraffic reads.
func (q TrafficQuery) Values() url.Values {
	v := url.Values{"by": {strings.Join(q.By, ",")}, "from": {q.From.UTC().Format(time.RFC3339Nano)}, "to": {q.To.UTC().Format(time.RFC3339Nano)}}
	if q.Step != 0 {
		v.Set("step", strconv.Itoa(int(q.Step/time.Second)))
	}
	if q.Projects != nil {
		v.Set("project", strings.Join(q.Projects, ","))
	}
	return v
}

// WriteTraffic answers in the form that accept names: text/csv, application/x-ndjson, else a JSON array.
func WriteTraffic(w http.ResponseWriter, accept string, a *TrafficAnswer) error {
	if len(a.Missing) > 0 {
		w.Header().Set(MissingHeader, strings.Join(a.Missing, ","))
	}
	switch {
	case strings.Contains(accept, "text/csv"):
		w.Header().Set("Content-Type", "text/csv; charset=utf-8; header=present")
		return WriteTrafficCSV(w, a.Rows)
	case strings.Contains(accept, ndjson):
		w.Header().Set("Content-Type", ndjson)
		enc := json.NewEncoder(w)
		for i := range a.Rows {
			if err := enc.Encode(&a.Rows[i]); err != nil {
				return err
			}
		}
		return nil
	}
	w.Header().Set("Content-Type", "application/json")
	rows := a.Rows
	if rows == nil {
		rows = []TrafficRow{}
	}
	return json.NewEncoder(w).Encode(rows)
}

// WriteTrafficCSV writes a header and the rows: RFC 4180, times in UTC, flags joined by ;.
func WriteTrafficCSV(w interface{ Write([]byte) (int, error) }, rows []TrafficRow) error {
	c := csv.NewWriter(w)
	c.UseCRLF = true
	head := []string{"project", "network", "subnet", "machine", "switch", "direction", "scope", "from", "to", "bytes", "bytes_95", "l3_bytes", "packets", "packets_95", "samples", "coverage", "confidence", "source", "flags"}
	if err := c.Write(head); err != nil {
		return err
	}
	n := func(v uint64) string { return strconv.FormatUint(v, 10) }
	for _, r := range rows {
		err := c.Write([]string{
			r.Project, r.Network, r.Subnet, r.Machine, r.Switch, r.Direction, r.Scope, r.From.UTC().Format(time.RFC3339), r.To.UTC().Format(time.RFC3339),
			n(r.Bytes), n(r.Bytes95), n(r.L3Bytes), n(r.Packets), n(r.Packets95), n(r.Samples), strconv.FormatFloat(r.Coverage, 'f', -1, 64),
			r.Confidence, r.Source, strings.Join(r.Flags, ";"),
		})
		if err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}
