package history

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/telemetry/rrd"
)

// Prefix is where peers ask each other.
const Prefix = "/m/1/telemetry"

// peerLimit bounds a question to a peer: the site's own network.
const peerLimit = 5 * time.Second

var _ telemetry.Source = (*Keeper)(nil)

// Peer answers other agents of the site below Prefix, for what this agent keeps alone.
func (k *Keeper) Peer() http.Handler { return http.StripPrefix(Prefix, telemetry.Inner(own{k})) }

// own is what this agent keeps.
type own struct{ k *Keeper }

func (k *Keeper) check(site string) error {
	switch {
	case site != k.cfg.Site:
		return &telemetry.Error{Status: http.StatusNotFound, Detail: "this agent answers for site " + k.cfg.Site}
	case k.store == nil:
		return &telemetry.Error{Status: http.StatusServiceUnavailable, Detail: "this agent keeps no history: its store does not open; its log says why"}
	}
	return nil
}

// Series implements telemetry.Source.
func (o own) Series(_ context.Context, site string, q telemetry.SeriesQuery) (*telemetry.SeriesList, error) {
	if err := o.k.check(site); err != nil {
		return nil, err
	}
	m, err := rrd.ParseMatch(q.Match)
	if err != nil {
		return nil, telemetry.Invalid(err.Error())
	}
	l := &telemetry.SeriesList{Site: site, Series: []telemetry.SeriesInfo{}, Agents: map[string]string{o.k.cfg.Self: "ok"}}
	for _, i := range o.k.store.List(m) {
		if q.Scope.Sees(i.Def.Name, i.Def.Labels, i.Def.Tenant) {
			if !q.Scope.All && i.At.Unix()-finest(i.Def) < i.Def.Since {
				i.Last = math.NaN()
			}
			l.Series = append(l.Series, telemetry.SeriesInfo{Name: i.Def.Name, Labels: i.Def.Labels, Type: string(i.Def.Type), Unit: i.Def.Unit, Last: telemetry.Value(i.Last), At: i.At.UTC()})
		}
	}
	return l, nil
}

// Rows implements telemetry.Source.
func (o own) Rows(_ context.Context, site string, q telemetry.RowsQuery) (*telemetry.Rows, error) {
	if err := o.k.check(site); err != nil {
		return nil, err
	}
	m, err := rrd.ParseMatch(q.Match)
	if err != nil {
		return nil, telemetry.Invalid(err.Error())
	}
	rows, err := o.k.store.Query(rrd.Query{Match: m, From: q.From, To: q.To, CF: rrd.CF(q.CF), MaxPoints: q.MaxPoints, See: func(d rrd.Def) bool { return q.Scope.Sees(d.Name, d.Labels, d.Tenant) }})
	if errors.Is(err, rrd.ErrQuery) {
		return nil, telemetry.Invalid(err.Error())
	}
	if err != nil {
		return nil, err
	}
	out := &telemetry.Rows{
		Site: site, CF: string(rows.CF), Start: rows.Start.UTC(), Step: int(rows.Step / time.Second), Count: rows.Count, Series: []telemetry.SeriesRows{},
		Agents: map[string]string{o.k.cfg.Self: "ok"},
	}
	for _, s := range rows.Series {
		r := telemetry.SeriesRows{Name: s.Def.Name, Labels: s.Def.Labels, Unit: s.Def.Unit}
		for i, v := range s.Values {
			if !q.Scope.All && rows.Start.Unix()+int64(i-1)*int64(out.Step) < s.Def.Since {
				v = math.NaN() // of the one before, in part
			}
			r.Values = append(r.Values, telemetry.Value(v))
		}
		out.Series = append(out.Series, r)
	}
	return out, nil
}

// finest is the seconds of a series' finest rows.
func finest(d rrd.Def) int64 {
	for _, p := range rrd.Profiles() {
		if p.Name == d.Profile {
			return int64(p.Step)
		}
	}
	return 0
}

// asked is a peer's answer.
type asked[T any] struct {
	peer string
	v    *T
	err  error
}

// errSilent: the agent is not heard now.
var errSilent = errors.New("agent is not heard")

// ask puts a question to all other agents of the roster at once; who is silent is not waited for.
func ask[T any](ctx context.Context, k *Keeper, path string, v url.Values) []asked[T] {
	live := k.cfg.Live()
	var out []asked[T]
	if r := k.cfg.Signed().Roster; r != nil {
		for _, a := range r.Agents {
			if a.ID != k.cfg.Self {
				out = append(out, asked[T]{peer: a.ID, err: errSilent})
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, peerLimit)
	defer cancel()
	var wg sync.WaitGroup
	for i := range out {
		if a := &out[i]; slices.Contains(live, a.peer) {
			wg.Go(func() {
				a.v = new(T)
				a.err = k.cfg.Ask(ctx, a.peer, Prefix+"/v1/sites/"+url.PathEscape(k.cfg.Site)+path+"?"+v.Encode(), a.v)
			})
		}
	}
	wg.Wait()
	return out
}

// Series implements telemetry.Source: what all agents of the site keep. One that does not answer is "unknown".
func (k *Keeper) Series(ctx context.Context, site string, q telemetry.SeriesQuery) (*telemetry.SeriesList, error) {
	all, err := own{k}.Series(ctx, site, q)
	if err != nil {
		return nil, err
	}
	at := map[string]int{}
	for i, s := range all.Series {
		at[telemetry.Key(s.Name, s.Labels)] = i
	}
	for _, a := range ask[telemetry.SeriesList](ctx, k, "/series", q.Scope.Put(url.Values{"match": {q.Match}})) {
		if all.Agents[a.peer] = "ok"; a.err != nil {
			all.Agents[a.peer] = "unknown"
			continue
		}
		for _, s := range a.v.Series {
			i, have := at[telemetry.Key(s.Name, s.Labels)]
			switch {
			case !have:
				at[telemetry.Key(s.Name, s.Labels)] = len(all.Series)
				all.Series = append(all.Series, s)
			case !math.IsNaN(float64(s.Last)) && (math.IsNaN(float64(all.Series[i].Last)) || s.At.After(all.Series[i].At)):
				all.Series[i] = s
			}
		}
	}
	slices.SortFunc(all.Series, func(a, b telemetry.SeriesInfo) int {
		return strings.Compare(telemetry.Key(a.Name, a.Labels), telemetry.Key(b.Name, b.Labels))
	})
	return all, nil
}

// Rows implements telemetry.Source. Where two agents have rows of one series, because its owner moved, what is known counts; each row is
// of one agent, and nothing is added up.
func (k *Keeper) Rows(ctx context.Context, site string, q telemetry.RowsQuery) (*telemetry.Rows, error) {
	all, err := own{k}.Rows(ctx, site, q)
	if err != nil {
		return nil, err
	}
	answers := ask[telemetry.Rows](ctx, k, "/query", q.Scope.Put(q.Values()))
	step := all.Step
	for _, a := range answers {
		if a.err == nil && len(a.v.Series) > 0 {
			step = max(step, a.v.Step)
		}
	}
	// An agent whose series begin later, or are of another kind, may have answered in finer rows: all are asked for the coarsest.
	if points := int(q.To.Sub(q.From)/time.Second) / max(step, 1); differ(all, answers, step) && points > 0 {
		q.MaxPoints = points
		if all, err = (own{k}).Rows(ctx, site, q); err != nil {
			return nil, err
		}
		answers = ask[telemetry.Rows](ctx, k, "/query", q.Scope.Put(q.Values()))
	}
	join(all, answers)
	return all, nil
}

func differ(all *telemetry.Rows, answers []asked[telemetry.Rows], step int) bool {
	if len(all.Series) > 0 && all.Step != step {
		return true
	}
	return slices.ContainsFunc(answers, func(a asked[telemetry.Rows]) bool { return a.err == nil && len(a.v.Series) > 0 && a.v.Step != step })
}

func join(all *telemetry.Rows, answers []asked[telemetry.Rows]) {
	at := map[string]int{}
	for i, s := range all.Series {
		at[telemetry.Key(s.Name, s.Labels)] = i
	}
	for _, a := range answers {
		fits := a.err == nil && (len(a.v.Series) == 0 || len(all.Series) == 0 || a.v.Step == all.Step && a.v.Start.Equal(all.Start) && a.v.Count == all.Count)
		if all.Agents[a.peer] = "ok"; !fits {
			all.Agents[a.peer] = "unknown"
			continue
		}
		if len(all.Series) == 0 && len(a.v.Series) > 0 {
			all.Start, all.Step, all.Count = a.v.Start, a.v.Step, a.v.Count
		}
		for _, s := range a.v.Series {
			key := telemetry.Key(s.Name, s.Labels)
			i, have := at[key]
			if !have {
				at[key] = len(all.Series)
				all.Series = append(all.Series, s)
				continue
			}
			for n, v := range s.Values {
				if n < len(all.Series[i].Values) && math.IsNaN(float64(all.Series[i].Values[n])) {
					all.Series[i].Values[n] = v
				}
			}
		}
	}
	slices.SortFunc(all.Series, func(a, b telemetry.SeriesRows) int {
		return strings.Compare(telemetry.Key(a.Name, a.Labels), telemetry.Key(b.Name, b.Labels))
	})
	known, of := 0, 0
	for _, s := range all.Series {
		for _, v := range s.Values {
			if of++; !math.IsNaN(float64(v)) {
				known++
			}
		}
	}
	if of > 0 {
		all.Coverage = float64(known) / float64(of)
	}
}

// label quotes a label's value as Prometheus reads it: of escapes it knows three.
func label(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(s, "?")) + `"`
}
