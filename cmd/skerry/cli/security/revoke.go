package security

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/spf13/cobra"
)

// splitAgent reads SITE/AGENT, or AGENT with the site of the context.
func (v verbs) splitAgent(s string) (site, agent string, err error) {
	site, agent, ok := strings.Cut(s, "/")
	if !ok {
		site, agent = v.Site(), s
	}
	if !intent.IsLabel(site) || !intent.IsLabel(agent) {
		return "", "", &account.UsageError{Err: fmt.Errorf("cannot read %q as SITE/AGENT", s)}
	}
	return site, agent, nil
}

// ErrNoReason says that a reason is wanted.
var ErrNoReason = errors.New("cannot go on without a reason: give --reason TEXT; it is kept in the audit log")

func (v verbs) agentRevokeCmd() *cobra.Command {
	r := api.RevokeRequest{Kind: string(intent.RevokeAgent)}
	var wait time.Duration
	c := &cobra.Command{
		Use: "revoke SITE/AGENT --reason TEXT", Short: "Take an agent's identity away for ever, at every site", Args: v.Args("SITE/AGENT"),
		Long: "Take an agent's identity away for ever: it leaves the roster, its sessions end, and no site speaks with it once it has heard.\n" +
			"Prints which secrets that host could read: change them at their source. --rotate-bmc changes the passwords of BMCs among them; the\n" +
			"same command goes on with it, and ends with 3 while a BMC was not reached. There is no way back: a box that returns\njoins under another id. A site that is cut off does it by itself, for itself: `skerry agent quarantine`.",
		Example:           "  skerry agent revoke lon1/a2 --reason stolen --dry-run\n  skerry agent revoke lon1/a2 --reason stolen --rotate-bmc",
		ValidArgsFunction: account.CompleteAgents(v),
		RunE: func(c *cobra.Command, given []string) error {
			site, agent, err := v.splitAgent(given[0])
			if err != nil {
				return err
			}
			r.ID = site + "/" + agent
			return v.revoke(c, r, wait)
		},
	}
	c.Flags().StringVar(&r.Reason, "reason", "", "why; kept in the stream and in the audit log")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "say what would be revoked and what was exposed, change nothing")
	c.Flags().BoolVar(&r.RotateBMC, "rotate-bmc", false, "give every BMC whose password that host could read a new one")
	c.Flags().DurationVar(&wait, "wait", time.Minute, "how long to follow BMCs that can be reached")
	return c
}

func (v verbs) revokeCmd() *cobra.Command {
	var r api.RevokeRequest
	c := &cobra.Command{
		Use: "revoke user|token|spki ID --reason TEXT", Short: "Take a user, a token or a key away for ever, at every site", Args: v.Args("KIND", "ID"),
		Long:    "Take a user, one bearer token or one key away for ever. Sites obey as soon as they hear of it, and pass it on to each other.\nAn agent is revoked with `skerry agent revoke`.",
		Example: "  skerry revoke token k3p9a1b2c3 --reason leaked\n  skerry revoke user ana --reason left",
		RunE: func(c *cobra.Command, given []string) error {
			r.Kind, r.ID = given[0], given[1]
			switch intent.RevocationKind(r.Kind) {
			case intent.RevokeUser, intent.RevokeToken, intent.RevokeSPKI:
				return v.revoke(c, r, 0)
			}
			return &account.UsageError{Err: fmt.Errorf("cannot revoke a %q: user, token or spki (agents: `skerry agent revoke`)", r.Kind)}
		},
	}
	c.Flags().StringVar(&r.Reason, "reason", "", "why; kept in the stream and in the audit log")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "say what would be revoked, change nothing")
	return c
}

func (v verbs) revoke(c *cobra.Command, r api.RevokeRequest, wait time.Duration) error {
	if r.Reason == "" {
		return &account.UsageError{Err: ErrNoReason}
	}
	cl, err := v.Client()
	if err != nil {
		return err
	}
	res, err := cl.Revoke(c.Context(), r)
	if err != nil {
		return v.Explain(err)
	}
	if len(res.Changing) > 0 && !r.DryRun {
		site, _, _ := strings.Cut(r.ID, "/")
		if err := v.follow(c.Context(), cl, site, res.Changing, wait); err != nil {
			return v.Explain(err)
		}
	}
	err = v.Print(res, func(t account.Table) {
		t.Row("revocation", fmt.Sprint(res.Head.Seq), fmt.Sprintf("sessions closed %d", res.Closed))
		for _, e := range res.Entries {
			t.Row(string(e.Kind), e.ID, e.Reason)
		}
		for _, s := range res.Exposed {
			if !slices.ContainsFunc(res.Changing, func(b api.BMCSecret) bool { return b.Name == s }) {
				t.Row("exposed", "secret "+s, "change it at its source, then `skerry secret set` the new value")
			}
		}
		rowsOf(t, res.Changing)
	})
	if err != nil || r.DryRun {
		return err
	}
	return v.unfinished(res.Changing)
}

func (v verbs) agentQuarantineCmd() *cobra.Command {
	r := api.QuarantineRequest{On: true}
	lift := false
	c := &cobra.Command{
		Use: "quarantine SITE/AGENT --reason TEXT", Short: "Cut an agent off at its site, with or without a coordinator; reversible", Args: v.Args("SITE/AGENT"),
		Long: "Cut an agent off at its site: the other agents close its sessions within a second, take its claims over and make a new boot key.\n" +
			"Ask another agent of the site, with its context. --lift lets it back. At reunion the coordinator sees the order in the events;\n`skerry agent revoke` makes it final everywhere.",
		Example: "  skerry --context lon1 agent quarantine lon1/a2 --reason stolen\n  skerry --context lon1 agent quarantine lon1/a2 --lift --reason found",
		RunE: func(c *cobra.Command, given []string) error {
			site, agent, err := v.splitAgent(given[0])
			if err != nil {
				return err
			}
			if r.Reason == "" {
				return &account.UsageError{Err: ErrNoReason}
			}
			cl, err := v.Client()
			if err != nil {
				return err
			}
			r.On = !lift
			res, err := cl.Quarantine(c.Context(), site, agent, r)
			if err != nil {
				return v.Explain(err)
			}
			return v.Print(res, func(t account.Table) {
				t.Row(res.Agent, map[bool]string{true: "quarantined", false: "let back"}[res.On], fmt.Sprintf("order %d", res.N), fmt.Sprintf("sessions closed %d", res.Closed))
				t.Row("agents", strings.Join(res.Agents, " "), fmt.Sprintf("generation %d", res.Generation))
			})
		},
	}
	c.Flags().StringVar(&r.Reason, "reason", "", "why; kept in the event log")
	c.Flags().BoolVar(&lift, "lift", false, "let it back")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "say how the site's agents would be then, change nothing")
	return c
}

func (v verbs) agentListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Who is revoked, and which agents have heard of it", Args: v.Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := v.Client()
			if err != nil {
				return err
			}
			l, err := cl.Revocations(c.Context())
			if err != nil {
				return v.Explain(err)
			}
			return v.Print(l, func(t account.Table) {
				t.Row("revocation", fmt.Sprint(l.Head.Seq), fmt.Sprintf("%d entries", len(l.Entries)))
				for _, s := range l.Agents {
					state := "has heard all"
					if s.Seq < l.Head.Seq {
						state = fmt.Sprintf("is at %d", s.Seq)
					}
					t.Row("agent", s.Agent, state, "heard "+account.Age(s.Heard, time.Now())+" ago")
				}
				for _, e := range l.Entries {
					t.Row("revoked", string(e.Kind), e.ID, e.Reason)
				}
			})
		},
	}
}
