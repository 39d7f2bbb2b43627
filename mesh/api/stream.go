package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/api/consoles"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

// Change is one line of a watch.
type Change struct {
	Type     string         `json:"type"` // put, delete, synced (all present objects were sent)
	Revision uint64         `json:"revision"`
	Object   *intent.Object `json:"object,omitempty"`
}

// maxWait bounds a long poll; longer ones are cut by middle boxes.
const maxWait = 60 * time.Second

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

func writeJSON(w io.Writer, v any) {
	// The status line is out: a failed write means that the client left, and nobody is there to tell.
	_ = json.NewEncoder(w).Encode(v)
}

// streams registers what answers line by line. The handlers are plain net/http; huma only describes them.
func (a *API) streams() {
	a.stream(http.MethodGet, "/v1/watch", "watch", "All objects that you may see, then every change", query("kind"), a.watch)
	a.stream(http.MethodGet, "/v1/sites/{site}/events", "events", "What happened at a site", append(query("machine", "since", "follow"), path("site")...), a.events)
	a.stream(http.MethodGet, "/v1/sites/{site}/intent", "intent", "The signed chain of a site", append(query("from", "wait"), path("site")...), a.intentFeed)
	a.stream(http.MethodGet, "/v1/audit", "audit", "Who did what, and what was refused", query("site", "user", "since", "follow", "proofs"), a.audit)
	a.stream(http.MethodPut, "/v1/assets/{name}/content", "upload-asset", "Upload the bytes of an asset", append(query("class"), path("name")...), a.upload)
	a.stream(http.MethodPatch, "/v1/uploads/{id}", "append-upload", "Send octets of an asset, from header "+assets.OffsetHeader+" on", path("id"), a.appendUpload)
	a.stream(http.MethodGet, "/v1/sites/{site}/traffic", "traffic", "Traffic by project, with its 95 % bound and coverage; JSON, NDJSON or CSV", append(query("by", "from", "to", "step", "project"), path("site")...),
		a.measured(func(w http.ResponseWriter, r *http.Request, v telemetry.Viewer) error {
			return telemetry.ServeTraffic(w, r, v, a.b)
		}))
	a.stream(http.MethodGet, "/v1/sites/{site}/top", "top", "Who has how much traffic just now: a line every ten seconds", append(query("by", "count", "limit", "project"), path("site")...),
		a.measured(func(w http.ResponseWriter, r *http.Request, v telemetry.Viewer) error {
			return telemetry.ServeTop(w, r, v, a.b)
		}))
	for method, id := range consoles.Routes() {
		a.stream(method, consoles.Path, id, consoles.Summary(id), append(query(consoles.Query(id)...), path("site", "machine")...), a.console)
	}
	a.sticks()
	a.telemetry()
}

// askAgain is how often it is asked whether somebody may still, where nothing changes: credentials end by themselves.
const askAgain = 5 * time.Second

// allowed returns when ctx ends, or who sent r may not do any more what he asked.
func (a *API) allowed(ctx context.Context, r *http.Request, ask rights.Request) {
	for {
		c, rev, err := a.b.Snapshot(ctx)
		if err != nil {
			return
		}
		if by, err := a.identify(c, r); err != nil || !may(c, by, ask) {
			return
		}
		wait, done := context.WithTimeout(ctx, askAgain)
		_, err = a.b.Changed(wait, rev)
		late := wait.Err() != nil
		done()
		if err != nil && (!late || ctx.Err() != nil) {
			return
		}
	}
}

// console shows a machine's console, and takes what is typed, as long as the caller may.
func (a *API) console(w http.ResponseWriter, r *http.Request, by Caller) error {
	ask := rights.Request{Verb: intent.VerbConsole, Kind: intent.KindMachine, Site: r.PathValue("site")}
	if err := a.authorise(r.Context(), ask); err != nil {
		return err
	}
	at, ok := a.b.(consoles.Holder)
	if !ok {
		return ErrElsewhere
	}
	err := consoles.Serve(w, r, at, consoles.Session{User: by.User, Via: by.Via}, func(ctx context.Context) { a.allowed(ctx, r, ask) })
	if e, ok := errors.AsType[*consoles.Error](err); ok {
		err = &Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: e.Detail}
	}
	return err
}

// stream registers one of them.
func (a *API) stream(method, path, id, summary string, params []*huma.Param, h func(http.ResponseWriter, *http.Request, Caller) error) {
	a.mux.HandleFunc(method+" "+path, a.raw(h))
	a.huma.OpenAPI().AddOperation(&huma.Operation{
		Method: method, Path: path, OperationID: id, Summary: summary, Tags: []string{"Stream"}, Parameters: params,
		Security:  credentials(),
		Responses: map[string]*huma.Response{"200": {Description: "one JSON value per line"}, "default": {Description: "RFC 9457 problem"}},
	})
}

// telemetry registers what sites measure.
func (a *API) telemetry() {
	for _, t := range telemetry.Routes(a.b) {
		a.stream(http.MethodGet, t.Path, t.ID, t.Summary, append(query(t.Query...), path("site")...), func(w http.ResponseWriter, r *http.Request, by Caller) error {
			c, _, err := a.b.Snapshot(r.Context())
			if err == nil {
				err = t.Serve(w, r, telemetry.See(c, r.PathValue("site"), func(q rights.Request) bool { return may(c, by, q) }))
			}
			if e, ok := errors.AsType[*telemetry.Error](err); ok {
				err = &Error{Status: e.Status, Type: "telemetry", Detail: e.Detail}
			}
			return err
		})
	}
}

func query(names ...string) []*huma.Param { return params("query", names) }
func path(names ...string) []*huma.Param  { return params("path", names) }

func params(in string, names []string) []*huma.Param {
	var ps []*huma.Param
	for _, n := range names {
		ps = append(ps, &huma.Param{Name: n, In: in, Required: in == "path", Schema: &huma.Schema{Type: "string"}})
	}
	return ps
}

// lines prepares w for one JSON value per line and returns the writer of one.
func lines(w http.ResponseWriter) func(v any) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc, enc := http.NewResponseController(w), json.NewEncoder(w)
	return func(v any) error {
		if err := enc.Encode(v); err != nil {
			return err
		}
		return rc.Flush()
	}
}

func (a *API) watch(w http.ResponseWriter, r *http.Request, by Caller) error {
	kind := intent.Kind(r.URL.Query().Get("kind"))
	if _, ok := kind.Info(); kind != "" && !ok {
		return &Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: "unknown kind; `skerry get kinds` lists them"}
	}
	send := lines(w)
	known := map[intent.Key]*intent.Object{}
	for first := true; ; first = false {
		c, rev, err := a.b.Snapshot(r.Context())
		if err != nil {
			return ignoreLate(first, err)
		}
		now := map[intent.Key]*intent.Object{}
		for _, o := range c.List(kind) {
			if !may(c, by, requestFor(intent.VerbRead, o)) {
				continue
			}
			now[o.Key()] = o
			if old := known[o.Key()]; old == nil || !sameVersion(old, o) {
				if err := send(Change{"put", rev, redact(o)}); err != nil {
					return nil // the client left
				}
			}
		}
		for k, old := range known {
			if now[k] == nil {
				if err := send(Change{"delete", rev, &intent.Object{APIVersion: old.APIVersion, Kind: old.Kind, Metadata: old.Metadata}}); err != nil {
					return nil
				}
			}
		}
		known = now
		if first {
			if err := send(Change{"synced", rev, nil}); err != nil {
				return nil
			}
		}
		if _, err := a.b.Changed(r.Context(), rev); err != nil {
			return nil
		}
		if by, err = a.caller(r); err != nil {
			return nil // revoked, expired or removed meanwhile; its rights may be others now too
		}
	}
}

func sameVersion(a, b *intent.Object) bool {
	return a.Metadata.UID == b.Metadata.UID && a.Metadata.Rev == b.Metadata.Rev &&
		a.Metadata.Origin == b.Metadata.Origin && string(a.Status) == string(b.Status)
}

// ignoreLate returns err while the status line can still carry it.
func ignoreLate(first bool, err error) error {
	if first {
		return err
	}
	return nil
}

func (a *API) events(w http.ResponseWriter, r *http.Request, _ Caller) (err error) {
	ask := rights.Request{Verb: intent.VerbRead, Kind: intent.KindSite, Site: r.PathValue("site")}
	if err := a.authorise(r.Context(), ask); err != nil {
		return err
	}
	v := r.URL.Query()
	q := EventQuery{Site: ask.Site, Machine: v.Get("machine"), Follow: v.Get("follow") == "true"}
	if s := v.Get("since"); s != "" {
		if q.Since, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return &Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: "since is no RFC 3339 time, like 2026-11-21T10:00:00Z"}
		}
	}
	ctx, end := context.WithCancel(r.Context())
	var watch sync.WaitGroup
	defer watch.Wait()
	defer end()
	if q.Follow {
		watch.Go(func() { a.allowed(ctx, r, ask); end() })
	}
	send, sent := lines(w), false
	err = a.b.Events(ctx, q, func(e intent.Event) error {
		sent = true
		return send(e)
	})
	return ignoreLate(!sent, ignoreCanceled(ctx, err))
}

func ignoreCanceled(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (a *API) intentFeed(w http.ResponseWriter, r *http.Request, _ Caller) error {
	if err := a.authorise(r.Context(), rights.Request{Verb: intent.VerbRead, Kind: intent.KindSite, Site: r.PathValue("site")}); err != nil {
		return err
	}
	return ServeIntent(a.b, w, r, r.PathValue("site"))
}

// Feeder is the part of a Backend that ServeIntent needs.
type Feeder interface {
	Snapshot(ctx context.Context) (*intent.Catalog, uint64, error)
	Changed(ctx context.Context, since uint64) (uint64, error)
	IntentFeed(ctx context.Context, site string, from uint64, fn func(*intent.Envelope) error) error
}

// ServeIntent answers GET ...?from=SEQ&wait=60s with the envelopes of a chain, one a line; it is shared with the uplink,
// where the session says who asks. Nothing new within wait: an empty answer.
func ServeIntent(b Feeder, w http.ResponseWriter, r *http.Request, site string) error {
	from, err := strconv.ParseUint(r.URL.Query().Get("from"), 10, 64)
	if err != nil || from == 0 {
		return &Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: "from is the first sequence number wanted, 1 or more"}
	}
	ctx := r.Context()
	var deadline <-chan struct{}
	if s := r.URL.Query().Get("wait"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 {
			return &Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: "wait is no duration, like 60s"}
		}
		wctx, cancel := context.WithTimeout(ctx, min(d, maxWait))
		defer cancel()
		deadline = wctx.Done()
		ctx = wctx
	}
	send := lines(w)
	for {
		_, rev, err := b.Snapshot(r.Context())
		if err != nil {
			return err
		}
		sent := 0
		err = b.IntentFeed(r.Context(), site, from, func(e *intent.Envelope) error {
			sent++
			return send(e)
		})
		if sent > 0 || deadline == nil || err != nil {
			return ignoreLate(sent == 0, err)
		}
		if _, err := b.Changed(ctx, rev); err != nil {
			return nil
		}
	}
}
