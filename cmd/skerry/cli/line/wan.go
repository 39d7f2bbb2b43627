package line

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Shell is what the verb needs of the command line that it hangs in.
type Shell interface {
	Client() (*client.Client, error)
	Site() string
	Print(v any, fill func(account.Table)) error
	Results(res []api.Result, dryRun bool) error
	Explain(err error) error
	ArgsUpTo(least int, names ...string) cobra.PositionalArgs
}

// change is what the flags say.
type change struct {
	rate, out, limit string
	windows, peers   []string
	metered, urls    string
	off, dryRun      bool
	reason           string
}

// Wan returns `skerry site wan`.
func Wan(s Shell) *cobra.Command {
	var ch change
	c := &cobra.Command{
		Use: "wan [SITE]", Short: "Show or change what a site's line may carry of assets, and which sites it reaches", Args: s.ArgsUpTo(0, "SITE"),
		Long: "Show what a site's line may carry of assets and which other sites it reaches, or change it with the flags.\n\n" +
			"The rate is that of all agents together. In a window its rate counts instead; with 0 nothing comes but what a machine waits for.\n" +
			"At the daily cap nothing comes until midnight, but for machines that wait, up to a fifth more. Signed documents, reports and consoles\n" +
			"are never held back. Times are those of the agents' hosts; while an agent does not believe its clock no window holds.\n\n" +
			"What a site that is named with --peers has is taken from there, the nearest first, before the coordinator is asked: over the line too,\n" +
			"and once. --rate-out bounds what other sites take from this one. A site whose line is --metered takes nothing from others.",
		Example: "  skerry site wan lon1\n  skerry site wan lon1 --rate 20M --daily-cap 50G\n" +
			"  skerry site wan lon1 --window 'mon-fri 08:00-18:30 2M' --window '22:00-06:00 0' --dry-run\n" +
			"  skerry site wan par1 --peers lon1,ams1\n  skerry site wan lon1 --rate-out 5M\n  skerry site wan lon1 --off",
		RunE: func(c *cobra.Command, given []string) error {
			site := s.Site()
			if len(given) == 1 {
				site = given[0]
			}
			if site == "" {
				return &account.HintError{Err: &account.UsageError{Err: errors.New("cannot choose a site")}, Next: "`skerry site wan SITE`; `skerry get sites` lists them"}
			}
			return ch.run(s, c, site)
		},
	}
	f := c.Flags()
	f.StringVar(&ch.rate, "rate", "", "bits a second with k, M or G: 20M; none: what the line carries")
	f.StringVar(&ch.out, "rate-out", "", "bits a second of what other sites take from here; none: what the line carries")
	f.StringSliceVar(&ch.peers, "peers", nil, "sites that this one reaches, each once; none: no others")
	f.StringVar(&ch.limit, "daily-cap", "", "octets a day with M, G or T: 50G; none: no cap")
	f.StringVar(&ch.metered, "metered", "", "yes: the line costs by the octet, and nothing is taken from other sites; no: it does not")
	f.StringVar(&ch.urls, "urls", "", "when agents read the URLs of assets: first; last: after the coordinator, which compresses; never")
	f.StringArrayVar(&ch.windows, "window", nil, "'[DAYS] HH:MM-HH:MM RATE', again for more: 'mon-fri 08:00-18:30 2M'; none: no windows")
	f.BoolVar(&ch.off, "off", false, "take the whole budget away, not the sites that it reaches")
	f.BoolVar(&ch.dryRun, "dry-run", false, "say what would change")
	f.StringVar(&ch.reason, "reason", "", "why, for the audit log")
	return c
}

func (ch *change) run(s Shell, c *cobra.Command, site string) error {
	f := c.Flags()
	budget := f.Changed("rate") || f.Changed("rate-out") || f.Changed("daily-cap") || f.Changed("window") || f.Changed("metered") || f.Changed("urls")
	if budget && ch.off {
		return &account.HintError{Err: &account.UsageError{Err: errors.New("cannot take the budget away and change it")}, Next: "--off alone"}
	}
	cl, err := s.Client()
	if err != nil {
		return err
	}
	info, _ := intent.KindSite.Info()
	o, err := cl.Get(c.Context(), info, "", site)
	if err != nil {
		return s.Explain(err)
	}
	spec, ok := o.Spec.(*intent.SiteSpec)
	if !ok {
		return fmt.Errorf("cannot read site %s: it is a %T", site, o.Spec)
	}
	if !budget && !ch.off && !f.Changed("peers") {
		return s.Print(shown{spec.WAN, spec.Peers}, func(t account.Table) {
			fill(t, spec.WAN)
			if len(spec.Peers) > 0 {
				t.Row("reaches", strings.Join(spec.Peers, ", "))
			}
		})
	}
	if f.Changed("peers") {
		if spec.Peers = ch.peers; slices.Equal(ch.peers, []string{"none"}) {
			spec.Peers = nil
		}
	}
	wan := intent.WANSpec{}
	if spec.WAN != nil {
		wan = *spec.WAN
	}
	if f.Changed("rate") {
		wan.RateIn = orNone(ch.rate)
	}
	if f.Changed("rate-out") {
		wan.RateOut = orNone(ch.out)
	}
	if f.Changed("daily-cap") {
		wan.DailyCap = orNone(ch.limit)
	}
	if f.Changed("metered") {
		if wan.Metered = ch.metered == "yes"; !wan.Metered && ch.metered != "no" {
			return &account.HintError{Err: &account.UsageError{Err: fmt.Errorf("cannot read --metered %q", ch.metered)}, Next: "yes or no"}
		}
	}
	if f.Changed("urls") {
		wan.URLs = strings.TrimPrefix(ch.urls, "first")
	}
	if f.Changed("window") {
		if wan.Windows, err = windows(ch.windows); err != nil {
			return &account.HintError{Err: &account.UsageError{Err: err}, Next: "--window 'mon-fri 08:00-18:30 2M'"}
		}
	}
	spec.WAN, o.Status = &wan, nil
	if ch.off || wan.RateIn == "" && wan.RateOut == "" && wan.DailyCap == "" && len(wan.Windows) == 0 && !wan.Metered && wan.URLs == "" {
		spec.WAN = nil
	}
	res, err := cl.Put(c.Context(), o, ch.dryRun, ch.reason)
	if err != nil {
		return s.Explain(err)
	}
	return s.Results(res, ch.dryRun)
}

func orNone(s string) string {
	if s == "none" {
		return ""
	}
	return s
}

// windows reads what people write; what is in it the server checks.
func windows(lines []string) (out []intent.WANWindow, err error) {
	for _, l := range lines {
		if l == "none" {
			continue
		}
		f := strings.Fields(l)
		w := intent.WANWindow{}
		if len(f) == 3 {
			if w.Days, err = days(f[0]); err != nil {
				return nil, err
			}
			f = f[1:]
		}
		if len(f) != 2 {
			return nil, fmt.Errorf("cannot read window %q", l)
		}
		w.Rate = f[1]
		var ok bool
		if w.From, w.To, ok = strings.Cut(f[0], "-"); !ok {
			return nil, fmt.Errorf("cannot read the times of window %q", l)
		}
		out = append(out, w)
	}
	return out, nil
}

// days reads mon-fri, or sat,sun, or both together.
func days(s string) (out []string, err error) {
	week := []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}
	index := func(d string) int {
		for i, w := range week {
			if w == d {
				return i
			}
		}
		return -1
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, span := strings.Cut(part, "-")
		if !span {
			last = first
		}
		i, k := index(first), index(last)
		if i < 0 || k < 0 {
			return nil, fmt.Errorf("cannot read days %q: they are mon, tue, wed, thu, fri, sat, sun", s)
		}
		for ; ; i = (i + 1) % 7 {
			out = append(out, week[i])
			if i == k {
				break
			}
		}
	}
	return out, nil
}

// shown is what -o json prints.
type shown struct {
	*intent.WANSpec
	Peers []string `json:"peers,omitempty"`
}

func fill(t account.Table, w *intent.WANSpec) {
	if w == nil {
		t.Row("no budget: assets come as fast as the line carries them")
		return
	}
	say := func(s, none string) string {
		if s == "" {
			return none
		}
		return s
	}
	t.Row("rate", say(w.RateIn, "what the line carries"))
	if w.RateOut != "" {
		t.Row("rate out", w.RateOut)
	}
	if w.Metered {
		t.Row("metered", "yes: nothing is taken from other sites")
	}
	if w.URLs != "" {
		t.Row("URLs of assets", w.URLs)
	}
	t.Row("daily cap", say(w.DailyCap, "none"))
	for _, win := range w.Windows {
		rate := win.Rate
		if rate == "0" {
			rate = "quiet"
		}
		t.Row("window", say(strings.Join(win.Days, ","), "each day"), win.From+"-"+win.To, rate)
	}
}
