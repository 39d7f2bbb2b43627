package traffic

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
)

// Shell is what the verb needs of the command line that it hangs in.
type Shell interface {
	Client() (*client.Client, error)
	Site() string
	Project() string
	// Output is where to write, and the form that -o chose.
	Output() (io.Writer, string)
	Print(v any, fill func(account.Table)) error
	// Line writes one value of a stream for programs.
	Line(v any) error
	Explain(err error) error
	Args(names ...string) cobra.PositionalArgs
}

// CSV is the annotation of commands that take -o csv.
const CSV = "csv"

// asked is what the flags say.
type asked struct {
	by, since, from, to, step string
}

// Command returns `skerry traffic`.
func Command(s Shell) *cobra.Command {
	var q asked
	c := &cobra.Command{
		Use: "traffic", Short: "Say who had how much traffic at a site, and how sure that is", Args: s.Args(), Annotations: map[string]string{CSV: "yes"},
		Long: "Say who had how much traffic at a site: from the sFlow samples of its switches, as all agents of the site heard them together,\n" +
			"and from what agents counted at interfaces of their own hosts, exactly (source probe).\n\n" +
			"Each figure stands with the range in which the truth lies with 95 %, and with its coverage: what part of the time and of the samples was\n" +
			"heard. ~ marks figures of fewer than 30 samples. Octets are those of frames, with FCS. Times are those of the site.",
		Example: "  skerry traffic --site lon1 --project acme --since 24h\n  skerry traffic --site lon1 --by machine --since 7d --step 3600 -o csv > bill.csv\n" +
			"  skerry traffic --site lon1 --by project,scope --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z -o json",
		RunE: func(c *cobra.Command, _ []string) error { return q.run(s, c) },
	}
	f := c.Flags()
	f.StringVar(&q.by, "by", "project,network", "any of project, network, subnet, machine, switch, direction, scope; direction is always there")
	f.StringVar(&q.since, "since", "24h", "from so long ago: 90m, 24h, 7d")
	f.StringVar(&q.from, "from", "", "from this time, RFC 3339, in place of --since")
	f.StringVar(&q.to, "to", "", "until this time, RFC 3339; none: now")
	f.StringVar(&q.step, "step", "total", "60 or 3600: a figure for each minute or hour; total: one")
	return c
}

func usage(err error, next string) error {
	return &account.HintError{Err: &account.UsageError{Err: err}, Next: next}
}

// query makes the question of the flags.
func (a *asked) query(project string, now time.Time) (q telemetry.TrafficQuery, err error) {
	q.To = now
	if a.to != "" {
		if q.To, err = time.Parse(time.RFC3339, a.to); err != nil {
			return q, usage(fmt.Errorf("cannot read --to %q", a.to), "--to 2026-11-21T10:00:00Z")
		}
	}
	if a.from != "" {
		if q.From, err = time.Parse(time.RFC3339, a.from); err != nil {
			return q, usage(fmt.Errorf("cannot read --from %q", a.from), "--from 2026-11-21T10:00:00Z")
		}
	} else {
		d, err := Since(a.since)
		if err != nil {
			return q, usage(fmt.Errorf("cannot read --since %q", a.since), "--since 90m, 24h or 7d")
		}
		q.From = q.To.Add(-d)
	}
	switch a.step {
	case "total":
	case "60":
		q.Step = time.Minute
	case "3600":
		q.Step = time.Hour
	default:
		return q, usage(fmt.Errorf("cannot use --step %q", a.step), "--step 60, 3600 or total")
	}
	q.By = slices.DeleteFunc(strings.Split(a.by, ","), func(s string) bool { return s == "" })
	if !slices.Contains(q.By, "direction") {
		q.By = append(q.By, "direction")
	}
	if project != "" {
		q.Projects = []string{project}
	}
	return q, nil
}

// Since reads a duration, in which a number of days may stand: 7d.
func Since(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(days+";", "%d;", &n); err != nil || n <= 0 || n > 400 {
			return 0, errors.New("not a number of days up to 400")
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err == nil && d <= 0 {
		err = errors.New("not above 0")
	}
	return d, err
}

func (a *asked) run(s Shell, c *cobra.Command) error {
	if s.Site() == "" {
		return usage(errors.New("cannot choose a site"), "--site SITE; `skerry get sites` lists them")
	}
	q, err := a.query(s.Project(), time.Now())
	if err != nil {
		return err
	}
	cl, err := s.Client()
	if err != nil {
		return err
	}
	ans, err := cl.Traffic(c.Context(), s.Site(), q)
	if err != nil {
		return s.Explain(err)
	}
	w, form := s.Output()
	if form == CSV {
		return telemetry.WriteTrafficCSV(w, ans.Rows)
	}
	if err := s.Print(ans.Rows, func(t account.Table) { table(t, q, ans.Rows) }); err != nil || (form != "table" && form != "wide") {
		return err
	}
	for _, n := range footnotes(ans) {
		if _, err := fmt.Fprintln(w, n); err != nil {
			return err
		}
	}
	return nil
}

// column returns what a row has of a field.
func column(r *telemetry.TrafficRow, field string) string {
	return map[string]string{
		"project": r.Project, "network": r.Network, "subnet": r.Subnet, "machine": r.Machine, "switch": r.Switch, "direction": r.Direction, "scope": r.Scope,
	}[field]
}

func table(t account.Table, q telemetry.TrafficQuery, rows []telemetry.TrafficRow) {
	var head []string
	if q.Step != 0 {
		head = append(head, "FROM")
	}
	for _, f := range q.By {
		head = append(head, strings.ToUpper(f))
	}
	t.Header(append(head, "BYTES", "± 95 %", "PACKETS", "± 95 %", "SAMPLES", "SOURCE", "COVERAGE", "FLAGS")...)
	for i := range rows {
		r := &rows[i]
		var cols []string
		if q.Step != 0 {
			cols = append(cols, r.From.UTC().Format("2006-01-02T15:04Z"))
		}
		for _, f := range q.By {
			cols = append(cols, column(r, f))
		}
		rough := ""
		if r.Confidence == "low" {
			rough = "~"
		}
		t.Row(append(cols, rough+Scaled(r.Bytes, "B"), Scaled(r.Bytes95, "B"), rough+Scaled(r.Packets, ""), Scaled(r.Packets95, ""),
			fmt.Sprint(r.Samples), r.Source, fmt.Sprintf("%.1f %%", math.Floor(r.Coverage*1000)/10), strings.Join(r.Flags, ","))...)
	}
}

// Scaled writes n with four digits and a prefix of powers of 1000.
func Scaled(n uint64, unit string) string {
	prefixes := []string{"", "k", "M", "G", "T", "P", "E"}
	v, i := float64(n), 0
	for v >= 999.95 && i < len(prefixes)-1 {
		v, i = v/1000, i+1
	}
	if i == 0 {
		return strings.TrimSpace(fmt.Sprintf("%d %s", n, unit))
	}
	return strings.TrimSpace(fmt.Sprintf("%.4g %s%s", v, prefixes[i], unit))
}

// footnotes explain what stands in the table.
func footnotes(a *telemetry.TrafficAnswer) (out []string) {
	low, set := false, map[string]bool{}
	for _, r := range a.Rows {
		low = low || r.Confidence == "low"
		for _, f := range r.Flags {
			set[f] = true
		}
	}
	if low {
		out = append(out, "~            fewer than 30 samples: the bound is rough")
	}
	for _, n := range [][2]string{
		{"loss", "samples were lost on the way; the figure is corrected by the switch's own count of packets"},
		{"rate", "the switch samples at another rate than it says; corrected by its count of packets"},
		{"reset", "a switch restarted: what was lost then is unknown"},
		{"clock", "a switch's clock runs off; intervals are cut by the agent's"},
		{"implausible", "more than the port's speed allows: somebody else may send in the switch's name"},
		{"mismatch", "samples and interface counters differ; `skerry events` has the port"},
		{"by_address", "counted by address, as the switch names no port"},
		{"truncated", "more distinct figures than a minute holds: some traffic is nobody's"},
	} {
		if set[n[0]] {
			out = append(out, fmt.Sprintf("%-12s %s", n[0], n[1]))
		}
	}
	if len(a.Missing) > 0 {
		out = append(out, "no answer from "+strings.Join(a.Missing, ", ")+": what only they heard is missing")
	}
	return out
}
