package api

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/skerry-metal/skerry/mesh/intent"
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

// StickResult says what became of a stick.
type StickResult struct {
	Site     string         `json:"site"`
	By       string         `json:"by"` // coordinator or agent that wrote it, as it says
	Made     time.Time      `json:"made"`
	DryRun   bool           `json:"dryRun,omitempty"`
	Before   StreamHeads    `json:"before"`
	After    StreamHeads    `json:"after"`
	Taken    map[string]int `json:"taken"`           // by kind of document
	Known    map[string]int `json:"known,omitempty"` // were here already
	Notes    []string       `json:"notes,omitempty"` // what somebody should know or do
	Refused  []StickRefusal `json:"refused,omitempty"`
	Rejected string         `json:"rejected,omitempty"` // why verified intent is not active; the last good state stays
	Partial  string         `json:"partial,omitempty"`  // why the file was not read to its end; what came before counts
}

// StickRefusal is one document that was not taken.
type StickRefusal struct {
	Line int    `json:"line,omitempty"` // none: the reason names the document
	Kind string `json:"kind"`
	Why  string `json:"why"`
}

// MaxRefusals bounds what a StickResult lists.
const MaxRefusals = 100

// Refuse adds a refusal; beyond MaxRefusals they are only told of.
func (r *StickResult) Refuse(line int, kind string, why error) {
	switch {
	case len(r.Refused) < MaxRefusals:
		r.Refused = append(r.Refused, StickRefusal{line, kind, why.Error()})
	case len(r.Refused) == MaxRefusals:
		r.Refused = append(r.Refused, StickRefusal{line, kind, "and more, which are not listed"})
	}
}

// Whole tells whether all of the stick was taken and is in force.
func (r *StickResult) Whole() bool { return len(r.Refused) == 0 && r.Rejected == "" && r.Partial == "" }

// StreamHeads are the heads of the three streams.
type StreamHeads struct {
	Trust      intent.Head `json:"trust"`
	Revocation intent.Head `json:"revocation"`
	Intent     intent.Head `json:"intent"` // received and verified
	Active     intent.Head `json:"active"` // in force
}

// maxStick bounds one stick: the chain of a site with 200,000 large entries.
const maxStick = 64 << 30

// sticks registers what goes by file.
func (a *API) sticks() {
	a.stream(http.MethodGet, "/v1/sites/{site}/stick", "export-stick", "The file that carries signed documents: down from a coordinator, up from an agent", append(query("from"), path("site")...), a.exportStick)
	a.stream(http.MethodPost, "/v1/sites/{site}/stick", "import-stick", "Take the documents of such a file", append(query("dryRun"), path("site")...), a.importStick)
}

func (a *API) exportStick(w http.ResponseWriter, r *http.Request, by Caller) error {
	q := StickQuery{Site: r.PathValue("site"), From: 1}
	if err := a.authorise(r.Context(), intent.Request{Verb: intent.VerbRead, Kind: intent.KindSite, Site: q.Site}); err != nil {
		return err
	}
	c, _, err := a.b.Snapshot(r.Context())
	if err != nil {
		return err
	}
	q.Audit = may(c, by, intent.Request{Verb: intent.VerbAudit, Kind: intent.KindSite, Site: q.Site})
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
	if err := a.authorise(r.Context(), intent.Request{Verb: intent.VerbWrite, Kind: intent.KindSite, Site: site}); err != nil {
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

// IntentStatus is how far the signed streams are, here and at every agent.
type IntentStatus struct {
	At    time.Time      `json:"at"` // by the clock of who answers
	By    string         `json:"by"` // coordinator or SITE/AGENT that answers
	Sites []SiteDocument `json:"sites"`
}

// Wrong tells whether something needs a person.
func (s *IntentStatus) Wrong() bool {
	for _, site := range s.Sites {
		if site.Out != "" {
			return true
		}
		for _, a := range site.Agents {
			if a.Rejected != "" || a.Forks > 0 {
				return true
			}
		}
	}
	return false
}

// SiteDocument is one site's streams.
type SiteDocument struct {
	Site   string          `json:"site"`
	Heads  StreamHeads     `json:"heads"`            // at the coordinator; at an agent: as it heard last
	Heard  *time.Time      `json:"heard"`            // at an agent: when
	Beacon string          `json:"beacon,omitempty"` // at an agent: how old the coordinator's word is, on which dangerous acts hang
	Out    string          `json:"out,omitempty"`    // what is to be done about the whole site
	Agents []AgentDocument `json:"agents"`
}

// AgentDocument is one agent's streams, as old as its contact.
type AgentDocument struct {
	ID       string      `json:"id"`
	Heads    StreamHeads `json:"heads"`
	Contact  *time.Time  `json:"contact"` // when it said so; none: never
	Rejected string      `json:"rejected,omitempty"`
	Forks    int         `json:"forks,omitempty"` // documents that it holds as evidence
	Out      string      `json:"out,omitempty"`   // the way out, in words
}

// Advise fills in the way out of one agent.
func (d *AgentDocument) Advise(site string, above StreamHeads) {
	switch {
	case d.Forks > 0:
		d.Out = "somebody else signs with our keys: `skerry pki status`, then a new writer or new roots; it keeps what it had before the fork"
	case d.Rejected != "":
		d.Out = "it keeps the last good state; correct the object above and the next entry lets all be tried again, or update the agent"
	case d.Contact == nil:
		d.Out = "it was never heard: is it started, and does it reach the coordinator?"
	case above.Intent.Compare(d.Heads.Intent) > 0 || above.Trust.Compare(d.Heads.Trust) > 0 || above.Revocation.Compare(d.Heads.Revocation) > 0:
		d.Out = "it is behind: wait for its line, or carry `skerry intent export " + site + "` there"
	case above.Intent.Seq > 0 && d.Heads.Intent.Compare(above.Intent) > 0:
		d.Out = "it is ahead of what is known here: `skerry site status " + site + "` says whether the site is held"
	}
}

// intentStatus registers the view over the streams.
func (a *API) intentStatus() {
	op := a.op(http.MethodGet, "/v1/streams", "intent-status", "How far the signed streams are, here and at every agent", "Security")
	huma.Register(a.huma, op, func(ctx context.Context, in *struct {
		Site string `query:"site" maxLength:"63"`
	},
	) (*struct{ Body *IntentStatus }, error) {
		if err := a.authorise(ctx, intent.Request{Verb: intent.VerbRead, Kind: intent.KindAgent, Site: in.Site}); err != nil {
			return nil, problem(err)
		}
		s, err := a.b.IntentStatus(ctx, in.Site)
		if err != nil {
			return nil, problem(err)
		}
		return &struct{ Body *IntentStatus }{s}, nil
	})
}
