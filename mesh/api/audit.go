package api

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

// AuditLine is one line of GET /v1/audit. With proofs each chain comes whole: first Chain, then its records with the signed heads
// where they were made. Without, there are records only, in order of time.
type AuditLine struct {
	Chain  *AuditChain      `json:"chain,omitempty"`
	Record json.RawMessage  `json:"record,omitempty"` // an intent.AuditRecord, as it was first written
	Head   *intent.Envelope `json:"head,omitempty"`
}

// AuditChain says which chain the following lines are of.
type AuditChain struct {
	Site   string    `json:"site,omitempty"` // "" for a coordinator
	Agent  string    `json:"agent"`
	Chain  string    `json:"chain"`
	Seq    uint64    `json:"seq"`              // of its last record
	Keys   [][]byte  `json:"keys"`             // PKIX DER of the keys that may sign its heads
	Joined time.Time `json:"joined"`           // when its last record came here; zero where it was written
	Broken string    `json:"broken,omitempty"` // why it does not go on: a gap or a fork that its writer tried to join
}

// AuditQuery selects records.
type AuditQuery struct {
	Site   string // "" is all, the coordinator's too
	User   string
	Since  time.Time
	Follow bool
	Proofs bool // whole chains, for `skerry audit verify`
}

// maxAuditAnswer bounds one answer of records in order of time: the newest; proofs come as a stream and have no bound.
const maxAuditAnswer = 10_000

func (a *API) audit(w http.ResponseWriter, r *http.Request, _ Caller) error {
	v := r.URL.Query()
	q := AuditQuery{Site: v.Get("site"), User: v.Get("user"), Follow: v.Get("follow") == "true", Proofs: v.Get("proofs") == "true"}
	if d := a.b.Describe(); q.Site == "" && d.Role == "site" {
		q.Site = d.Site
	}
	if s := v.Get("since"); s != "" {
		var err error
		if q.Since, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return &Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: "since is no RFC 3339 time, like 2026-11-21T10:00:00Z"}
		}
	}
	ask := rights.Request{Verb: intent.VerbAudit, Kind: intent.KindSite, Site: q.Site}
	if err := a.authorise(r.Context(), ask); err != nil {
		return err
	}
	send, sent := lines(w), false
	if q.Proofs {
		err := a.b.Audit(r.Context(), q.Site, func(l AuditLine) error {
			sent = true
			return send(l)
		})
		return cutShort(sent, err)
	}
	seen := map[string]uint64{}
	for {
		c, rev, err := a.b.Snapshot(r.Context())
		if err != nil {
			return ignoreLate(!sent, err)
		}
		if by, err := a.identify(c, r); err != nil || !may(c, by, ask) {
			return nil // he could when he asked
		}
		found, err := a.auditSince(r.Context(), q, seen)
		if err != nil {
			return cutShort(sent, err)
		}
		for _, l := range found {
			sent = true
			if err := send(l); err != nil {
				return nil // the client left
			}
		}
		if !q.Follow {
			return nil
		}
		if _, err := a.b.Changed(r.Context(), rev); err != nil {
			return nil
		}
	}
}

// cutShort returns err while the status line can carry it; later it cuts the answer, so that nobody takes a part for the whole.
func cutShort(sent bool, err error) error {
	if err != nil && sent {
		panic(http.ErrAbortHandler)
	}
	return err
}

// auditSince returns the records that q selects beyond seen, in order of time, and notes them in seen.
func (a *API) auditSince(ctx context.Context, q AuditQuery, seen map[string]uint64) ([]AuditLine, error) {
	type row struct {
		at   time.Time
		line AuditLine
	}
	var rows []row
	err := a.b.Audit(ctx, q.Site, func(l AuditLine) error {
		if l.Record == nil {
			return nil
		}
		var rec intent.AuditRecord
		if err := json.Unmarshal(l.Record, &rec); err != nil {
			return err
		}
		chain := rec.Site + "/" + rec.Agent + "/" + rec.Chain
		if rec.Seq <= seen[chain] {
			return nil
		}
		seen[chain] = rec.Seq
		if (q.User != "" && rec.User != q.User) || rec.Time.Before(q.Since) {
			return nil
		}
		if rows = append(rows, row{rec.Time, l}); len(rows) > 2*maxAuditAnswer {
			slices.SortStableFunc(rows, func(x, y row) int { return x.at.Compare(y.at) })
			rows = slices.Clone(rows[len(rows)-maxAuditAnswer:])
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(rows, func(x, y row) int { return x.at.Compare(y.at) })
	var out []AuditLine
	for _, r := range rows[max(0, len(rows)-maxAuditAnswer):] {
		out = append(out, r.line)
	}
	return out, nil
}

// note hands what did not change anything, and yet is to be kept, to the backend: a refusal, a use of an emergency key.
func (a *API) note(ctx context.Context, r intent.AuditRecord) {
	r.Time = time.Now().UTC()
	if err := a.b.Note(context.WithoutCancel(ctx), r); err != nil {
		a.log.Error("not kept in the audit log", "verb", r.Verb, "result", r.Result, "user", r.User, "err", err)
	}
}

// refusal makes the record of a request that was not done; ok is false for what is none. Reads that find nothing are none, unless it
// is there for others.
func (q *request) refusal(r *http.Request, status int) (rec intent.AuditRecord, ok bool) {
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden, q.denied:
	case status < 400, read:
		return rec, false
	}
	rec = intent.AuditRecord{
		User: q.by.User, Via: q.by.Via, Verb: r.Method, Object: r.URL.EscapedPath(), Result: intent.AuditRefused,
		Reason: cmp.Or(q.why, http.StatusText(status)),
	}
	if status >= 500 && status != http.StatusServiceUnavailable && status != http.StatusInsufficientStorage {
		rec.Result = intent.AuditFailed
	}
	return rec, true
}

// The bound of refusals that are kept, per identity: whoever has none shares one. With it a stranger adds at most 1,440 records of
// some 400 octets a day; what is not kept is counted in the next that is.
const (
	auditBurst = 30
	auditEvery = time.Minute
	maxBound   = 4096 // identities; more share one
)

// AuditBound bounds how fast refusals make an audit chain grow. The zero value is ready. Safe for concurrent use.
type AuditBound struct {
	mu sync.Mutex // guards what follows
	of map[string]*auditBucket
}

type auditBucket struct {
	left   float64
	filled time.Time
	missed uint64
}

// Admit tells whether a record of who may be kept now, and how many of it were not since the last.
func (b *AuditBound) Admit(who string, now time.Time) (missed uint64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of == nil {
		b.of = map[string]*auditBucket{}
	}
	if _, known := b.of[who]; !known && len(b.of) >= maxBound {
		who = ""
	}
	k := b.of[who]
	if k == nil {
		k = &auditBucket{left: auditBurst, filled: now}
		b.of[who] = k
	}
	if d := now.Sub(k.filled); d > 0 { // a clock that jumped back fills nothing
		k.left = min(auditBurst, k.left+float64(d)/float64(auditEvery))
	}
	k.filled = now
	if k.left < 1 {
		k.missed++
		return 0, false
	}
	k.left--
	missed, k.missed = k.missed, 0
	return missed, true
}

// AuditDid returns what a batch did, for its record.
func AuditDid(results []Result) []intent.AuditChange {
	var out []intent.AuditChange
	for _, r := range results {
		if r.Action != "unchanged" {
			out = append(out, intent.AuditChange{Object: r.Object, Action: r.Action, Rev: r.Rev})
		}
	}
	return out
}

// Audit begins a record of what the caller does.
func (c Caller) Audit(verb, object, reason string) intent.AuditRecord {
	return intent.AuditRecord{Time: time.Now().UTC(), User: c.User, Via: c.Via, Verb: verb, Object: object, Reason: reason, Result: intent.AuditDone}
}
