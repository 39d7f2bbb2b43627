package telemetry

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Source answers for a site: its agent does, and the coordinator asks it. Errors: *Error.
type Source interface {
	// Series lists the series that match.
	Series(ctx context.Context, site string, q SeriesQuery) (*SeriesList, error)
	// Rows returns rows of the series that match.
	Rows(ctx context.Context, site string, q RowsQuery) (*Rows, error)
}

// SeriesQuery selects series.
type SeriesQuery struct {
	Match string // name{label="v",label=~"re2"}
	Scope Scope
}

// RowsQuery asks for rows whose time lies in (From, To].
type RowsQuery struct {
	Match     string
	From, To  time.Time
	CF        string // AVERAGE, MIN, MAX, LAST; empty: AVERAGE
	MaxPoints int    // 0: 500
	Scope     Scope
}

// Value is a number of a series; NaN is unknown, and null in JSON.
type Value float64

// MarshalJSON writes null for what is unknown.
func (v Value) MarshalJSON() ([]byte, error) {
	if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, float64(v), 'g', -1, 64), nil
}

// UnmarshalJSON reads a number or null.
func (v *Value) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*v = Value(math.NaN())
		return nil
	}
	return json.Unmarshal(b, (*float64)(v))
}

// SeriesList is the answer to SeriesQuery.
type SeriesList struct {
	Site   string            `json:"site"`
	Series []SeriesInfo      `json:"series"`
	Agents map[string]string `json:"agents"` // ok, unknown: what such an agent keeps is missing here
}

// SeriesInfo is one series and what it said last.
type SeriesInfo struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Type   string            `json:"type"` // GAUGE, COUNTER, DERIVE, ABSOLUTE
	Unit   string            `json:"unit,omitempty"`
	Last   Value             `json:"last"`
	At     time.Time         `json:"at"` // of Last
}

// Rows is the answer to RowsQuery: value i of a series covers (start + (i-1)·step, start + i·step].
type Rows struct {
	Site     string            `json:"site"`
	CF       string            `json:"cf"`
	Start    time.Time         `json:"start"`
	Step     int               `json:"step"` // seconds
	Count    int               `json:"count"`
	Series   []SeriesRows      `json:"series"`
	Agents   map[string]string `json:"agents"`
	Coverage float64           `json:"coverage"` // known values of all; 0 where there is no series
}

// SeriesRows is one series.
type SeriesRows struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Unit   string            `json:"unit,omitempty"`
	Values []Value           `json:"values"`
}

// Key is the canonical text of name and labels.
func Key(name string, labels map[string]string) string {
	b, err := json.Marshal(labels) // keys in order
	if err != nil {
		return name
	}
	return name + string(b)
}

// Error is a refusal with its HTTP status.
type Error struct {
	Status int
	Detail string
}

// Error returns the detail.
func (e *Error) Error() string { return e.Detail }

// Invalid is a 422 that says what to change.
func Invalid(detail string) *Error { return &Error{http.StatusUnprocessableEntity, detail} }

// Route is one path of the API.
type Route struct {
	Path, ID, Summary string
	Query             []string
	Serve             func(w http.ResponseWriter, r *http.Request, see Scope) error
}

// seriesRoutes are the paths below /v1/sites/{site}.
func seriesRoutes(s Source) []Route {
	return []Route{
		{"/v1/sites/{site}/series", "list-series", "What a site measures", []string{"match"}, func(w http.ResponseWriter, r *http.Request, see Scope) error {
			l, err := s.Series(r.Context(), r.PathValue("site"), SeriesQuery{r.URL.Query().Get("match"), see})
			return answer(w, l, err)
		}},
		{"/v1/sites/{site}/query", "query-series", "Rows of what a site measured", []string{"match", "from", "to", "cf", "max_points"}, func(w http.ResponseWriter, r *http.Request, see Scope) error {
			q, err := ParseRows(r.URL.Query(), time.Now())
			if err != nil {
				return err
			}
			q.Scope = see
			rows, err := s.Rows(r.Context(), r.PathValue("site"), q)
			if err == nil && strings.Contains(r.Header.Get("Accept"), ndjson) {
				writeRows(w, rows)
				return nil
			}
			return answer(w, rows, err)
		}},
	}
}

func answer[T any](w http.ResponseWriter, v *T, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client left, and nobody is there to tell
	return nil
}

// ndjson is the type of one JSON value per line.
const ndjson = "application/x-ndjson"

// writeRows answers line by line: a header, which is Rows without its series, then each series.
func writeRows(w http.ResponseWriter, rows *Rows) {
	w.Header().Set("Content-Type", ndjson)
	enc := json.NewEncoder(w)
	head := struct {
		*Rows
		Series int `json:"series"` // how many lines follow
	}{rows, len(rows.Series)}
	err := enc.Encode(head)
	for i := range rows.Series {
		if err == nil { // else the client left, and nobody is there to tell
			err = enc.Encode(&rows.Series[i])
		}
	}
}

// maxMatch bounds the text of a match, in octets.
const maxMatch = 4 << 10

// ParseRows reads a question. from and to are RFC 3339, or a duration before now, like 6h; to is now where it is missing, from 6 hours
// before. Errors: *Error.
func ParseRows(v url.Values, now time.Time) (RowsQuery, error) {
	q := RowsQuery{Match: v.Get("match"), CF: strings.ToUpper(v.Get("cf")), To: now}
	if q.CF == "AVG" {
		q.CF = "AVERAGE"
	}
	if len(q.Match) > maxMatch {
		return q, Invalid("match is too long")
	}
	var ok bool
	if s := v.Get("to"); s != "" {
		if q.To, ok = timeOf(s, now); !ok {
			return q, Invalid("to is no RFC 3339 time, like 2026-11-21T10:00:00Z, and no duration before now, like 30m")
		}
	}
	if q.From = q.To.Add(-6 * time.Hour); v.Get("from") != "" {
		if q.From, ok = timeOf(v.Get("from"), now); !ok {
			return q, Invalid("from is no RFC 3339 time, like 2026-11-21T10:00:00Z, and no duration before now, like 6h or 7d")
		}
	}
	if s := v.Get("max_points"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 5000 {
			return q, Invalid("max_points is 1 to 5000")
		}
		q.MaxPoints = n
	}
	return q, nil
}

// timeOf reads a time, or how long before now it was; d is a day.
func timeOf(s string, now time.Time) (time.Time, bool) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, true
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		return now.Add(-time.Duration(n * 24 * float64(time.Hour))), err == nil && n >= 0 && n < 10_000
	}
	d, err := time.ParseDuration(s)
	return now.Add(-d), err == nil && d >= 0
}

// Values is the question as ParseRows reads it.
func (q RowsQuery) Values() url.Values {
	v := url.Values{"match": {q.Match}, "cf": {q.CF}, "from": {q.From.UTC().Format(time.RFC3339Nano)}, "to": {q.To.UTC().Format(time.RFC3339Nano)}}
	if q.MaxPoints > 0 {
		v.Set("max_points", strconv.Itoa(q.MaxPoints))
	}
	return v
}
