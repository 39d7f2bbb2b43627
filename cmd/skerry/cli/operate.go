package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/documents"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/line"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/spf13/cobra"
)

func (a *app) tokenCmd() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Make tokens"}
	var jr api.JoinTokenRequest
	create := &cobra.Command{
		Use: "create --site SITE --agent ID", Short: "Make a single-use token with which one agent joins a site", Args: args(),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if a.site == "" || jr.Agent == "" {
				return &usageError{errors.New("cannot make a join token: give --site and --agent")}
			}
			t, err := cl.JoinToken(c.Context(), a.site, jr)
			if err != nil {
				return explainClient(err)
			}
			return a.printToken(t, t.Token)
		},
	}
	create.Flags().StringVar(&jr.Agent, "agent", "", "id that the agent gets")
	create.Flags().BoolVar(&jr.Spare, "spare", false, "for a kit that waits to take another agent's place: see `skerry agent kit`")
	create.Flags().StringVar(&jr.TTL, "ttl", "", "how long it may be used, at most 24h")
	var ur api.UserTokenRequest
	user := &cobra.Command{
		Use: "user NAME", Short: "Make a bearer token for a user; it is shown once", Args: args("NAME"),
		RunE: func(c *cobra.Command, given []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			t, err := cl.UserToken(c.Context(), given[0], ur)
			if err != nil {
				return explainClient(err)
			}
			return a.printToken(t, t.Token)
		},
	}
	user.Flags().StringVar(&ur.TTL, "ttl", "", "after which it is refused; default: never")
	c.AddCommand(create, user)
	return c
}

// printToken prints v as JSON or YAML, else the token alone, so that a script can catch it.
func (a *app) printToken(v any, token string) error {
	if a.structured() {
		return a.print(v, nil)
	}
	_, err := fmt.Fprintln(a.Out, token)
	return err
}

func (a *app) machineCmd() *cobra.Command {
	c := &cobra.Command{Use: "machine", Short: "Power, explain, release and clear machines"}
	needSite := func() error {
		if a.site == "" {
			return hint(&usageError{errors.New("cannot find a machine without its site")}, "give --site SITE, or set it in the context")
		}
		return nil
	}
	power := &cobra.Command{
		Use: "power NAME on|off|cycle|soft-off|status", Short: "Change a machine's power through its BMC", Args: args("NAME", "ACTION"),
		RunE: func(c *cobra.Command, given []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if err := needSite(); err != nil {
				return err
			}
			r, err := cl.Power(c.Context(), a.site, given[0], given[1])
			if err != nil {
				return explainClient(err)
			}
			return a.print(r, func(t *table) {
				t.header("MACHINE", "POWER", "PROVEN")
				t.row(r.Machine, r.Power, r.Effect)
			})
		},
	}
	explain := &cobra.Command{
		Use: "explain NAME", Short: "Print the whole chain behind a machine's state", Args: args("NAME"),
		RunE: func(c *cobra.Command, given []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if err := needSite(); err != nil {
				return err
			}
			e, err := cl.Explain(c.Context(), a.site, given[0])
			if err != nil {
				return explainClient(err)
			}
			if a.structured() {
				return a.print(e, nil)
			}
			return explainText(a.Out, e)
		},
	}
	release := &cobra.Command{
		Use: "release NAME", Short: "Take a machine back from its instance: off, erased, and available with a receipt", Args: args("NAME"),
		RunE: func(c *cobra.Command, given []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if err := needSite(); err != nil {
				return err
			}
			if err := cl.Release(c.Context(), a.site, given[0]); err != nil {
				return explainClient(err)
			}
			_, err = fmt.Fprintf(a.Out, "%s is being released; `skerry machine explain %s` follows it\n", given[0], given[0])
			return err
		},
	}
	clearCmd := a.reasonedCmd("clear", "Take a machine that is broken, quarantined or held back into service",
		"Take a machine that is broken, quarantined or held back into service, after the cause was settled: it is inspected again, and\ninstalled again, under a new permission, if it belongs to an instance; erased again, if it was released and has no receipt.",
		"is cleared", (*client.Client).Clear)
	approve := a.reasonedCmd("approve", "Let a machine be written though no coordinator was heard lately",
		"Let a machine be written, for its present allocation, though no coordinator was heard within the site's staleAfter. Ask an agent of\nthe site, with a context that has --key: a token is not enough. `machine explain` says whether a machine waits for this.",
		"is approved", (*client.Client).Approve)
	c.AddCommand(power, explain, release, clearCmd, approve)
	return c
}

// reasonedCmd is a verb that an operator gives a reason for.
func (a *app) reasonedCmd(verb, short, long, done string, do func(cl *client.Client, ctx context.Context, site, machine, reason string) error) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: verb + " NAME --reason TEXT", Short: short, Args: args("NAME"), Long: long,
		RunE: func(c *cobra.Command, given []string) error {
			if reason == "" {
				return &usageError{fmt.Errorf("cannot %s without a reason: give --reason TEXT; it is kept in the event log", verb)}
			}
			cl, site, err := a.siteClient()
			if err != nil {
				return err
			}
			if err := do(cl, c.Context(), site, given[0], reason); err != nil {
				return explainClient(err)
			}
			_, err = fmt.Fprintf(a.Out, "%s %s; `skerry machine explain %s` follows it\n", given[0], done, given[0])
			return err
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why; kept in the event log")
	return c
}

// explainText prints an explanation for people: each section has columns of its own.
func explainText(w io.Writer, e *api.Explanation) error {
	var b strings.Builder
	fmt.Fprintf(&b, "machine %s/%s", e.Site, e.Machine)
	if e.Status != nil {
		fmt.Fprintf(&b, " is %s since %s", strings.TrimSpace(string(e.Status.State)+" "+e.Status.Phase), e.Status.Since.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(&b, "\nintent head %d.%d %s\n", e.Head.Epoch, e.Head.Seq, e.Head.Hash.Short())
	for _, s := range e.Sections {
		width := 0
		for _, f := range s.Facts {
			width = max(width, min(len(f.Name), maxFactName))
		}
		fmt.Fprintf(&b, "\n%s\n", strings.ToUpper(s.Title))
		for _, f := range s.Facts {
			fmt.Fprintf(&b, "  %-*s  %s\n", width, f.Name, f.Value)
		}
	}
	b.WriteString("\nEVENTS\n")
	for _, ev := range e.Events {
		fmt.Fprintf(&b, "  %s  %-4s  %-26s  %s\n", ev.Time.UTC().Format("15:04:05.000"), ev.Agent, ev.Type, ev.Message)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// maxFactName is how far the values of a section are indented at most; a longer name moves its own value only.
const maxFactName = 48

func (a *app) siteCmd() *cobra.Command {
	c := &cobra.Command{Use: "site", Short: "See how a site is doing, and carry what it has to say"}
	status := &cobra.Command{
		Use: "status [SITE]", Short: "Agents, heads, machines and overrides of a site", Args: argsUpTo(0, "SITE"),
		RunE: func(c *cobra.Command, given []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			site := a.site
			if len(given) == 1 {
				site = given[0]
			}
			if site == "" {
				return hint(&usageError{errors.New("cannot choose a site")}, "`skerry site status SITE`; `skerry get sites` lists them")
			}
			s, err := cl.SiteStatus(c.Context(), site)
			if err != nil {
				return explainClient(err)
			}
			if err := a.print(s, func(t *table) { statusTable(t, s) }); err != nil {
				return err
			}
			if s.Reachable != "yes" {
				return exitCode(exitStale)
			}
			return nil
		},
	}
	c.AddCommand(status)
	c.AddCommand(line.Wan(shell{a}))
	c.AddCommand(documents.Site(shell{a})...)
	return c
}

func statusTable(t *table, s *api.SiteStatus) {
	t.row("site", s.Site, "reachable "+s.Reachable, "seen "+account.Age(s.ObservedAt, time.Now())+" ago")
	t.row("head", fmt.Sprintf("%d.%d %s", s.Head.Epoch, s.Head.Seq, s.Head.Hash.Short()), "published", fmt.Sprintf("%d.%d %s", s.Published.Epoch, s.Published.Seq, s.Published.Hash.Short()))
	if s.Held != "" {
		t.row("held", s.Held)
	}
	if s.Rejected != "" {
		t.row("rejected", s.Rejected)
	}
	for _, ag := range s.Agents {
		t.row("agent", ag.ID, "alive "+ag.Alive, "uplink "+ag.Uplink, "store "+cmp.Or(ag.Store, "unknown"), ag.Barred)
		if ag.Probe != "" {
			t.row("probe", ag.ID, ag.Probe)
		}
	}
	for _, g := range s.Gateways {
		t.row("reaches", g.Site+"/"+g.Agent, "alive "+g.Alive)
	}
	for _, st := range []string{"expected", "discovered", "available", "allocated", "installing", "running", "releasing", "erasing", "quarantined", "maintenance", "broken"} {
		if n := s.Machines[st]; n > 0 {
			t.row("machines", st, fmt.Sprint(n))
		}
	}
	for _, u := range s.BreakGlass {
		t.row("break-glass", u.User, "used "+account.Age(u.Last, time.Now())+" ago at "+u.Agent, u.What)
	}
	for _, o := range s.Overrides {
		t.row("override", o.ID, o.Object.String(), o.State, o.Reason)
	}
}

func (a *app) eventsCmd() *cobra.Command {
	var q api.EventQuery
	var since time.Duration
	c := &cobra.Command{
		Use: "events", Short: "Print what happened at a site", Args: args(),
		Example: "  skerry events --site lon1 -w\n  skerry events --machine m2 --since 1h -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if a.site == "" {
				return hint(&usageError{errors.New("cannot print events without a site")}, "give --site SITE")
			}
			q.Site = a.site
			if since > 0 {
				q.Since = time.Now().Add(-since)
			}
			return explainClient(cl.Events(c.Context(), q, func(e intent.Event) error {
				if a.structured() {
					return a.printLine(e)
				}
				_, err := fmt.Fprintf(a.Out, "%s  %-4s %-26s %-8s %s\n", e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), e.Agent, e.Type, e.Machine, e.Message)
				return err
			}))
		},
	}
	c.Flags().BoolVarP(&q.Follow, "watch", "w", false, "go on printing as things happen")
	c.Flags().StringVar(&q.Machine, "machine", "", "only this machine's")
	c.Flags().DurationVar(&since, "since", 0, "only the last, like 1h")
	return c
}
