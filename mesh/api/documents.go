package api

import (
	"context"
	"io"
	"net/http"
	"strconv"

	"github.com/skerry-metal/skerry/mesh/api/streams"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

// Documents is the part of a Backend that carries signed documents by file, and tells how far the streams are.
type Documents interface {
	// ExportStick writes a site's stick: at the coordinator what goes down, at an agent what goes up. Errors: before anything was
	// written, ErrNotFound; else the file breaks off, and its reader sees that.
	ExportStick(ctx context.Context, w io.Writer, q StickQuery) error
	// ImportStick takes what the other side exported, as if a session had brought it, and does not hold the file in memory. What
	// verified is on disk. Errors: 422 for what is no stick of this site; a document that is refused is no error.
	ImportStick(ctx context.Context, by Caller, site string, r io.Reader, dryRun bool) (*StickResult, error)
	// IntentStatus tells how far each stream is here and at every agent; site "" asks for all.
	IntentStatus(ctx context.Context, site string) (*IntentStatus, error)
}

// Approvals is the part of a Backend that takes an operator's word for a dangerous act: an agent. A coordinator answers ErrElsewhere.
type Approvals interface {
	// Approve lets a machine be written, for its present allocation, though no coordinator was heard. Errors: 422 for who did not show
	// a registered key.
	Approve(ctx context.Context, by Caller, site, machine, reason string) error
}

// StickQuery says what goes onto a stick.
type StickQuery struct {
	Site  string
	From  uint64 // first entry of intent, 1 or more
	Audit bool   // the audit chains too: who asks may read them
}

// What became of a stick, and how far the streams are, has a package of its own.
type (
	StickResult   = streams.StickResult
	StickRefusal  = streams.StickRefusal
	IntentStatus  = streams.IntentStatus
	SiteDocument  = streams.SiteDocument
	AgentDocument = streams.AgentDocument
	StreamHeads   = streams.StreamHeads
)

// maxStick bounds one stick: the chain of a site with 200,000 large entries.
const maxStick = 64 << 30

// sticks registers what goes by file.
func (a *API) sticks() {
	a.stream(http.MethodGet, "/v1/sites/{site}/stick", "export-stick", "The file that carries signed documents: down from a coordinator, up from an agent", append(query("from"), path("site")...), a.exportStick)
	a.stream(http.MethodPost, "/v1/sites/{site}/stick", "import-stick", "Take the documents of such a file", append(query("dryRun"), path("site")...), a.importStick)
}

func (a *API) exportStick(w http.ResponseWriter, r *http.Request, by Caller) error {
	q := StickQuery{Site: r.PathValue("site"), From: 1}
	if err := a.authorise(r.Context(), rights.Request{Verb: intent.VerbRead, Kind: intent.KindSite, Site: q.Site}); err != nil {
		return err
	}
	c, _, err := a.b.Snapshot(r.Context())
	if err != nil {
		return err
	}
	q.Audit = may(c, by, rights.Request{Verb: intent.VerbAudit, Kind: intent.KindSite, Site: q.Site})
	if s := r.URL.Query().Get("from"); s != "" {
		if q.From, err = strconv.ParseUint(s, 10, 64); err != nil || q.From == 0 {
			return &Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: "from is the first sequence number wanted, 1 or more"}
		}
	}
	out := &lazyWriter{w: w}
	err = a.b.ExportStick(r.Context(), out, q)
	if out.began && err != nil {
		panic(http.ErrAbortHandler) // cuts the answer: nobody takes a part for the whole
	}
	return err
}

// lazyWriter sends the content type with the first octet, so that an error before it can still be told.
type lazyWriter struct {
	w     http.ResponseWriter
	began bool
}

// Write implements io.Writer.
func (l *lazyWriter) Write(b []byte) (int, error) {
	if !l.began {
		l.began = true
		l.w.Header().Set("Content-Type", "application/x-ndjson")
	}
	return l.w.Write(b)
}

func (a *API) importStick(w http.ResponseWriter, r *http.Request, by Caller) error {
	site := r.PathValue("site")
	if err := a.authorise(r.Context(), rights.Request{Verb: intent.VerbWrite, Kind: intent.KindSite, Site: site}); err != nil {
		return err
	}
	dry, err := strconv.ParseBool(r.URL.Query().Get("dryRun"))
	if err != nil && r.URL.Query().Has("dryRun") {
		return &Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: "dryRun is true or false"}
	}
	res, err := a.b.ImportStick(r.Context(), by, site, http.MaxBytesReader(w, r.Body, maxStick), dry)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	writeJSON(w, res)
	return nil
}

// intentStatus registers the view over the streams.
func (a *API) intentStatus() {
	type ofSite struct {
		Site string `query:"site" maxLength:"63"`
	}
	register(a, a.op(http.MethodGet, "/v1/streams", "intent-status", "How far the signed streams are, here and at every agent", "Security"),
		func(in *ofSite) rights.Request {
			return rights.Request{Verb: intent.VerbRead, Kind: intent.KindAgent, Site: in.Site}
		},
		func(ctx context.Context, in *ofSite) (*IntentStatus, error) { return a.b.IntentStatus(ctx, in.Site) })
}
