package telemetry

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// TopQuery asks who has how much traffic just now.
type TopQuery struct {
	By       string   // machine, network, port
	Projects []string // nil: every project, and what is nobody's
	Limit    int      // rows of a frame, 1 to 1,000
}

// TopFrame is one line of the answer.
type TopFrame struct {
	At      time.Time `json:"at"`
	By      string    `json:"by"`
	Rows    []TopRow  `json:"rows"`              // the most octets first
	More    int       `json:"more"`              // rows that are left out
	Missing []string  `json:"missing,omitempty"` // agents that did not answer: what only they hear is missing
}

// TopRow is one rate, with how sure it is.
type TopRow struct {
	Project    string   `json:"project,omitempty"`
	Network    string   `json:"network,omitempty"`
	Machine    string   `json:"machine,omitempty"`
	Switch     string   `json:"switch,omitempty"`
	Port       string   `json:"port,omitempty"`
	Direction  string   `json:"direction"`           // in: to the machine; out: from it
	Bytes      float64  `json:"bytes_per_second"`    // of frames with FCS
	Bytes95    float64  `json:"bytes_per_second_95"` // with 95 % the truth lies no further off
	Packets    float64  `json:"packets_per_second"`  // frames
	Packets95  float64  `json:"packets_per_second_95"`
	Samples    uint64   `json:"samples"`
	Seconds    float64  `json:"seconds"`    // that the rate is of: 10 to 60
	Coverage   float64  `json:"coverage"`   // 0 to 1: what part of the samples was heard
	Confidence string   `json:"confidence"` // ok; low: fewer than 30 samples
	Flags      []string `json:"flags"`
}

const (
	// TopEvery is the time from one frame to the next.
	TopEvery = 10 * time.Second
	// topFrames bounds an answer: ten minutes, after which who asks goes on with a new question, and what it may see is looked at anew.
	topFrames = 60
	topLimit  = 100
	topMost   = 1000
	// topWrite bounds how long somebody may take to read one frame.
	topWrite = 30 * time.Second
)

// ParseTop reads a question, and how many frames are wanted: count, 1 to 60; without it 60.
func ParseTop(v url.Values) (q TopQuery, count int, err error) {
	q, count = TopQuery{By: "machine", Limit: topLimit}, topFrames
	for name, values := range v {
		if !slices.Contains([]string{"by", "count", "limit", "project"}, name) || len(values) != 1 {
			return q, 0, &BadQuery{"use by, count, limit and project, each once"}
		}
	}
	if v.Has("by") {
		q.By = v.Get("by")
	}
	if !slices.Contains([]string{"machine", "network", "port"}, q.By) {
		return q, 0, &BadQuery{"by is machine, network or port"}
	}
	for name, x := range map[string]struct {
		to   *int
		most int
	}{"count": {&count, topFrames}, "limit": {&q.Limit, topMost}} {
		if v.Has(name) {
			if *x.to, err = strconv.Atoi(v.Get(name)); err != nil || *x.to < 1 || *x.to > x.most {
				return q, 0, &BadQuery{name + " is 1 to " + strconv.Itoa(x.most)}
			}
		}
	}
	if v.Has("project") {
		if q.Projects = list(v.Get("project")); len(q.Projects) > maxProjects {
			return q, 0, &BadQuery{"project names too many"}
		}
	}
	return q, count, nil
}

// Values is what ParseTop reads.
func (q TopQuery) Values(count int) url.Values {
	v := url.Values{"by": {q.By}, "limit": {strconv.Itoa(q.Limit)}, "count": {strconv.Itoa(count)}}
	if q.Projects != nil {
		v.Set("project", strings.Join(q.Projects, ","))
	}
	return v
}

// ServeTop answers with a line every ten seconds, until it has given as many as were asked for, the client leaves, or there is nobody to
// ask any more. Users get their own projects, and no ports: those are not their business. Errors: BadQuery, src's before the first line.
func ServeTop(w http.ResponseWriter, r *http.Request, v Viewer, src TrafficSource) error {
	q, count, err := ParseTop(r.URL.Query())
	if err != nil {
		return err
	}
	rc, enc := http.NewResponseController(w), json.NewEncoder(w)
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }() // the connection may carry more
	for n := range count {
		if n > 0 && !pause(r, TopEvery) {
			return nil
		}
		if n > 0 && v.Again != nil {
			again := v.Again
			if v, err = again(); err != nil {
				return nil // the line ends, and the next question is answered with why
			}
			v.Again = again
		}
		may := q
		if !v.All {
			if q.By == "port" && n > 0 {
				return nil
			}
			if q.By == "port" {
				return &BadQuery{"by is machine or network: ports are for who may read switches"}
			}
			may.Projects = v.sees(q.Projects)
		}
		f, err := src.Top(r.Context(), v.Site, may)
		if err != nil && n == 0 {
			return err
		}
		if err != nil {
			return nil // the line ends, and the next question is answered with why
		}
		if n == 0 {
			w.Header().Set("Content-Type", ndjson)
		}
		_ = rc.SetWriteDeadline(time.Now().Add(topWrite)) // where the transport has none, the session ends it
		if enc.Encode(f) != nil || rc.Flush() != nil {
			return nil // the client left
		}
	}
	return nil
}

// pause waits; false: the client left.
func pause(r *http.Request, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-r.Context().Done():
		return false
	case <-t.C:
		return true
	}
}
