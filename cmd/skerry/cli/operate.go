package cli

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/documents"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/line"
	"github.com/skerry-metal/skerry/mesh/api"
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
		if ag.DHCP != "" {
			t.row("dhcp", ag.ID, ag.DHCP)
		}
		if ag.SSH != "" {
			t.row("ssh key", ag.ID, ag.SSH)
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
