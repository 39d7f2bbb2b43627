package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/telemetry/account"
	"github.com/skerry-metal/skerry/telemetry/sflow"
)

const (
	headersPath = "/m/1/traffic/headers"
	sumPath     = "/m/1/traffic/sum"
	livePath    = "/m/1/traffic/live"
	// askLimit bounds how long peers have for both questions of one query.
	askLimit = 10 * time.Second
	// maxQuestion bounds what a peer asks: 50,000 IDs of 20 digits.
	maxQuestion = 2 << 20
)

// sumQuestion asks for the rows of some parts.
type sumQuestion struct {
	Query account.Query `json:"query"`
	Take  []account.ID  `json:"take"`
	// But are the access ports that do not count, as hosts counted there by themselves.
	But []account.Except `json:"but,omitempty"`
}

// Handler answers the other agents of the site. A query of theirs is checked as one of a user is.
func (d *Desk) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+headersPath, func(w http.ResponseWriter, r *http.Request) {
		var q account.Query
		if !read(w, r, &q) {
			return
		}
		share, err := d.share(q)
		answer(w, share, err)
	})
	mux.HandleFunc("POST "+sumPath, func(w http.ResponseWriter, r *http.Request) {
		var q sumQuestion
		if !read(w, r, &q) {
			return
		}
		take := map[account.ID]bool{}
		for _, i := range q.Take {
			take[i] = true
		}
		g, err := d.sum(q, take)
		answer(w, g, err)
	})
	mux.HandleFunc("POST "+livePath, func(w http.ResponseWriter, _ *http.Request) { answer(w, d.just(time.Now()), nil) })
	return mux
}

func read(w http.ResponseWriter, r *http.Request, v any) bool {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuestion))
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		http.Error(w, "cannot read the question: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a peer that left asks again
}

// checked is a query of a peer, held to the same bounds as a user's.
func checked(q account.Query) (account.Query, error) {
	tier := q.Tier
	q, err := account.NewQuery(q.From, q.To, q.Step, q.By, q.Projects, time.Now())
	q.Tier = tier // as the one who merges chose it: both must mean the same rows
	return q, err
}

func (d *Desk) share(q account.Query) (account.Share, error) {
	q, err := checked(q)
	if err != nil {
		return account.Share{}, err
	}
	hs, err := d.ledger.Headers(q)
	heard := map[sflow.Key]bool{}
	for i := range hs {
		heard[hs[i].Key] = true
	}
	// A switch that is gone from intent, or a point at which nothing is counted any more, is asked for no more, but for the time that it was there.
	plan := d.cfg.Plan()
	streams := slices.DeleteFunc(d.ledger.Infos(), func(i account.StreamInfo) bool { return !heard[i.Key] && !plan.Has(i.Agent) && !d.counting(i.Key) })
	return account.Share{Agent: d.cfg.Self, Streams: streams, Headers: hs}, err
}

func (d *Desk) sum(a sumQuestion, take map[account.ID]bool) ([]account.Group, error) {
	q, err := checked(a.Query)
	if err != nil {
		return nil, err
	}
	return d.ledger.Sum(q, take, a.But)
}

// Traffic implements telemetry.TrafficSource: what all agents of the site heard, nothing of it twice.
func (d *Desk) Traffic(ctx context.Context, site string, tq telemetry.TrafficQuery) (*telemetry.TrafficAnswer, error) {
	if site != d.cfg.Site {
		return nil, api.ErrNotFound
	}
	by := make([]account.Field, len(tq.By))
	for i, f := range tq.By {
		by[i] = account.Field(f)
	}
	now := time.Now()
	q, err := account.NewQuery(tq.From, tq.To, tq.Step, by, tq.Projects, now)
	if err != nil {
		return nil, invalid(err)
	}
	own, err := d.share(q)
	if err != nil {
		return nil, invalid(err)
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	shares := d.shares(ctx, q, own)
	for {
		take := account.Merge(shares)
		sums, failed, err := d.sums(ctx, q, shares, take, account.Points(q, shares, take))
		if err != nil {
			return nil, invalid(err)
		}
		if len(failed) == 0 {
			return d.answer(q, shares, account.Table(q, shares, take, sums, now)), nil
		}
		// Who fell silent in between gives no rows: what the others heard counts in their place.
		shares = slices.DeleteFunc(shares, func(s account.Share) bool { return failed[s.Agent] })
	}
}

// Reverse answers the coordinator over the session that this agent dialled. It says whose rows its caller may see.
func (d *Desk) Reverse(mux *http.ServeMux) {
	for path, serve := range map[string]func(http.ResponseWriter, *http.Request, telemetry.Viewer, telemetry.TrafficSource) error{
		"traffic": telemetry.ServeTraffic, "top": telemetry.ServeTop,
	} {
		mux.HandleFunc("GET /v1/sites/{site}/"+path, func(w http.ResponseWriter, r *http.Request) {
			refuse(w, serve(w, r, telemetry.Viewer{Site: r.PathValue("site"), Now: time.Now(), All: true}, d))
		})
	}
}

// refuse answers an error; nil: it was answered.
func refuse(w http.ResponseWriter, err error) {
	if err == nil {
		return
	}
	status := http.StatusInternalServerError
	if _, ok := errors.AsType[*telemetry.BadQuery](err); ok {
		status = http.StatusUnprocessableEntity
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		status = e.Status
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "detail": err.Error()}) // a session that ended is asked again
}

func invalid(err error) error {
	return &api.Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: err.Error()}
}

// shares asks every live peer; who does not answer in time is left out.
func (d *Desk) shares(ctx context.Context, q account.Query, own account.Share) []account.Share {
	var mu sync.Mutex // guards out
	out := []account.Share{own}
	var wg sync.WaitGroup
	for _, p := range d.cfg.Peers.Live() {
		wg.Go(func() {
			var s account.Share
			if err := d.cfg.Peers.Ask(ctx, p, headersPath, q, &s); err != nil {
				d.cfg.Log.Debug("a peer did not say what traffic it heard", "peer", p, "err", err)
				return
			}
			s.Agent = p // whatever it calls itself
			mu.Lock()
			defer mu.Unlock()
			out = append(out, s)
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b account.Share) int {
		if a.Agent < b.Agent {
			return -1
		}
		return 1
	})
	return out
}

// sums adds up what counts of each agent. failed are the peers that did not answer.
func (d *Desk) sums(ctx context.Context, q account.Query, shares []account.Share, take map[string]map[account.ID]bool, but []account.Except) (out [][]account.Group, failed map[string]bool, err error) {
	failed = map[string]bool{}
	for _, s := range shares {
		ids := take[s.Agent]
		if len(ids) == 0 {
			continue
		}
		var g []account.Group
		if s.Agent == d.cfg.Self {
			if g, err = d.ledger.Sum(q, ids, but); err != nil {
				return nil, nil, err
			}
		} else if err := d.cfg.Peers.Ask(ctx, s.Agent, sumPath, sumQuestion{q, slices.Sorted(maps.Keys(ids)), but}, &g); err != nil {
			failed[s.Agent] = true
			continue
		}
		out = append(out, g)
	}
	return out, failed, nil
}

// missing are the agents of the site that did not answer.
func (d *Desk) missing(answered func(id string) bool) []string {
	out := slices.DeleteFunc(d.cfg.Agents(), answered)
	slices.Sort(out)
	return out
}

// confidence is low with too few samples for more than a rough bound.
func confidence(low bool) string {
	if low {
		return "low"
	}
	return "ok"
}

func (d *Desk) answer(q account.Query, shares []account.Share, figures []account.Figure) *telemetry.TrafficAnswer {
	a := &telemetry.TrafficAnswer{Rows: make([]telemetry.TrafficRow, 0, len(figures))}
	a.Missing = d.missing(func(id string) bool {
		return slices.ContainsFunc(shares, func(s account.Share) bool { return s.Agent == id })
	})
	for i := range figures {
		f := &figures[i]
		a.Rows = append(a.Rows, telemetry.TrafficRow{
			Project: f.Project, Network: f.Network, Subnet: f.Subnet, Machine: f.Machine, Switch: f.Switch, Direction: f.Direction, Scope: f.Scope,
			From: f.Start.UTC(), To: f.End.UTC(), Bytes: f.Bytes, Bytes95: whole(f.Bytes95), L3Bytes: f.L3, Packets: f.Packets, Packets95: whole(f.Packets95),
			Samples: f.Samples, Coverage: math.Floor(f.Coverage*1000+1e-6) / 1000, Confidence: confidence(f.Low), Source: f.Flags.Source(), Flags: f.Flags.Names(),
		})
	}
	return a
}

// whole rounds a bound up: it must hold what it bounds.
func whole(v float64) uint64 {
	if v >= math.MaxUint64 {
		return math.MaxUint64
	}
	return uint64(math.Ceil(v))
}
