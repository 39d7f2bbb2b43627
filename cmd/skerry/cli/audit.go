package cli

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	doc "github.com/skerry-metal/skerry/pki/document"
	"github.com/spf13/cobra"
)

func (a *app) auditCmd() *cobra.Command {
	var q api.AuditQuery
	var since time.Duration
	c := &cobra.Command{
		Use: "audit", Short: "Print who did what, by which credential, and what was refused", Args: args(),
		Long: "Print the audit log: every change and every refusal, of the coordinator and of all sites that have joined theirs, or of one site.\n" +
			"An agent answers for its site with nobody above. Refusals are kept within a bound per identity; +N says how many came beyond it.",
		Example: "  skerry audit --since 24h\n  skerry audit --site lon1 --user ana -o json\n  skerry --context lon1 audit -w\n  skerry audit verify",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if c.Flags().Changed("site") { // a site of the context must not hide the others
				q.Site = a.site
			}
			if since > 0 {
				q.Since = time.Now().Add(-since)
			}
			return explainClient(cl.Audit(c.Context(), q, func(l api.AuditLine) error {
				var r intent.AuditRecord
				if err := json.Unmarshal(l.Record, &r); err != nil {
					return fmt.Errorf("cannot read audit record: %w", err)
				}
				r = r.Clip() // what an agent brought up may hold anything
				if a.structured() {
					return a.printLine(r)
				}
				_, err := fmt.Fprintln(a.Out, auditText(r))
				return err
			}))
		},
	}
	c.Flags().StringVar(&q.User, "user", "", "only what this user did or was refused")
	c.Flags().DurationVar(&since, "since", 0, "only the last, like 24h")
	c.Flags().BoolVarP(&q.Follow, "watch", "w", false, "go on printing as things happen")
	c.AddCommand(a.auditVerifyCmd())
	return c
}

// auditText is one line for people.
func auditText(r intent.AuditRecord) string {
	where := r.Agent
	if r.Site != "" {
		where = r.Site + "/" + r.Agent
	}
	what := []string{r.Verb}
	if r.Object != "" {
		what = append(what, r.Object)
	}
	const shown = 4 // objects of a batch on one line; -o json has all
	for i, d := range r.Did {
		if i == shown {
			what = append(what, fmt.Sprintf("and %d more", len(r.Did)-shown))
			break
		}
		what = append(what, fmt.Sprintf("[%s %s]", d.Action, d.Object))
	}
	line := fmt.Sprintf("%s  %-10s %-7s  %-12s %-18s %s", r.Time.UTC().Format("2006-01-02T15:04:05.000Z"), where, r.Result, dash(r.User), dash(r.Via), strings.Join(what, " "))
	if r.Reason != "" {
		line += ": " + r.Reason
	}
	if r.Missed > 0 {
		line += fmt.Sprintf(" (+%d not kept)", r.Missed)
	}
	return line
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// chainReport is what verifying one chain found.
type chainReport struct {
	Of      string    `json:"of"` // SITE/AGENT, or a coordinator's id
	Chain   string    `json:"chain"`
	Records uint64    `json:"records"`
	Heads   int       `json:"heads"`  // whose signatures hold
	Sealed  uint64    `json:"sealed"` // the last record that a signed head covers
	SealAge string    `json:"sealAge,omitempty"`
	Joined  time.Time `json:"joined,omitzero"`
	Broken  string    `json:"broken,omitempty"`
}

func (r chainReport) state() string {
	switch {
	case r.Broken != "":
		return "BROKEN: " + r.Broken
	case r.Sealed < r.Records:
		return fmt.Sprintf("holds; the last %d are not signed yet", r.Records-r.Sealed)
	}
	return "holds"
}

func (a *app) auditVerifyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Walk the audit chains and their signed heads, and say where one breaks", Args: args(),
		Long: "Fetch every chain whole and verify it here: each record names the one before, each signed head names its record and is signed by a\n" +
			"key that the server says is its writer's. Exit 1 if one is broken. A server can leave a whole chain out: ask an agent of the site too.",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			q := api.AuditQuery{Proofs: true}
			if c.Flags().Changed("site") {
				q.Site = a.site
			}
			v := &auditVerifier{}
			if err := cl.Audit(c.Context(), q, v.line); err != nil {
				return explainClient(err)
			}
			v.end()
			err = a.print(v.reports, func(t *table) {
				t.header("CHAIN OF", "ID", "RECORDS", "SIGNED", "HEADS", "STATE")
				for _, r := range v.reports {
					t.row(r.Of, r.Chain, fmt.Sprint(r.Records), fmt.Sprint(r.Sealed), fmt.Sprint(r.Heads), r.state())
				}
			})
			if err != nil {
				return err
			}
			for _, r := range v.reports {
				if r.Broken != "" {
					return hint(fmt.Errorf("cannot trust the audit chain of %s from record %d on: %s", r.Of, r.Records+1, r.Broken), "compare it with the site's own: `skerry --context SITE audit verify`")
				}
			}
			return nil
		},
	}
}

// auditVerifier takes the lines of GET /v1/audit?proofs=true.
type auditVerifier struct {
	reports []chainReport
	info    *api.AuditChain
	chain   doc.AuditChain
	keys    []ed25519.PublicKey
	hashes  map[uint64]intent.Digest // of the records so far: a head may come some records late
}

func (v *auditVerifier) line(l api.AuditLine) error {
	if l.Chain != nil {
		v.end()
		v.begin(l.Chain)
		return nil
	}
	if v.info == nil {
		return errors.New("cannot read the audit log: a record before its chain")
	}
	r := &v.reports[len(v.reports)-1]
	if r.Broken != "" {
		return nil // what follows a break proves nothing
	}
	if l.Head != nil {
		v.head(r, l.Head)
		return nil
	}
	if _, err := v.chain.Accept(l.Record); err != nil {
		r.Broken = why(err)
		return nil
	}
	r.Records, v.hashes[v.chain.Seq] = v.chain.Seq, v.chain.Hash
	return nil
}

func (v *auditVerifier) begin(c *api.AuditChain) {
	v.info, v.keys, v.hashes = c, nil, map[uint64]intent.Digest{}
	v.chain = doc.AuditChain{Site: c.Site, Agent: c.Agent, Chain: c.Chain}
	for _, der := range c.Keys {
		if k, err := doc.ParseKey(der); err == nil {
			v.keys = append(v.keys, k)
		}
	}
	v.reports = append(v.reports, chainReport{Of: v.chain.String(), Chain: c.Chain, Joined: c.Joined})
}

// head judges one signed head. A key that is unknown here is no break: the agent may have left the roster.
func (v *auditVerifier) head(r *chainReport, env *intent.Envelope) {
	if len(v.keys) == 0 {
		return
	}
	h, err := doc.OpenAuditHead(env, v.keys)
	switch {
	case err != nil:
		r.Broken = "a head is signed by none of the writer's keys"
	case h.Site != v.chain.Site || h.Agent != v.chain.Agent || h.Chain != v.chain.Chain:
		r.Broken = fmt.Sprintf("head %d is of another chain", h.Seq)
	case h.Seq > v.chain.Seq:
		r.Broken = fmt.Sprintf("records up to %d were signed and are not here", h.Seq)
	case v.hashes[h.Seq] != h.Hash:
		r.Broken = fmt.Sprintf("record %d is another than the one that was signed", h.Seq)
	default:
		r.Heads, r.Sealed, r.SealAge = r.Heads+1, max(r.Sealed, h.Seq), account.Age(h.Time, time.Now())
	}
}

// end closes the chain that was read: the server said how long it is, and whether its writer broke it.
func (v *auditVerifier) end() {
	if v.info == nil {
		return
	}
	r := &v.reports[len(v.reports)-1]
	switch {
	case r.Broken != "":
	case v.info.Broken != "":
		r.Broken = v.info.Broken
	case v.info.Seq > v.chain.Seq:
		r.Broken = fmt.Sprintf("it ends at record %d and should end at %d", v.chain.Seq, v.info.Seq)
	}
}

// why names the break without the chain's name, which stands beside it.
func why(err error) string {
	for e, text := range map[error]string{
		doc.ErrGap: "records are missing", doc.ErrFork: "a record does not follow the one before", doc.ErrReplay: "a record comes twice",
		doc.ErrKnown: "a record comes twice", doc.ErrOtherSite: "a record is of another chain",
	} {
		if errors.Is(err, e) {
			return text
		}
	}
	return "a record cannot be read"
}
