package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/spf13/cobra"
)

// splitAgent reads SITE/AGENT, or AGENT with the site of the context.
func (a *app) splitAgent(s string) (site, agent string, err error) {
	site, agent, ok := strings.Cut(s, "/")
	if !ok {
		site, agent = a.site, s
	}
	if !intent.IsLabel(site) || !intent.IsLabel(agent) {
		return "", "", &usageError{fmt.Errorf("cannot read %q as SITE/AGENT", s)}
	}
	return site, agent, nil
}

var errNoReason = errors.New("cannot go on without a reason: give --reason TEXT; it is kept in the audit log")

func (a *app) agentRevokeCmd() *cobra.Command {
	r := api.RevokeRequest{Kind: string(intent.RevokeAgent)}
	c := &cobra.Command{
		Use: "revoke SITE/AGENT --reason TEXT", Short: "Take an agent's identity away for ever, at every site", Args: args("SITE/AGENT"),
		Long: "Take an agent's identity away for ever: it leaves the roster, its sessions end, and no site speaks with it once it has heard.\n" +
			"Prints which secrets that host could read: change them at their source. There is no way back: a box that returns joins under\nanother id. A site that is cut off does it by itself, for itself: `skerry agent quarantine`.",
		Example: "  skerry agent revoke lon1/a2 --reason stolen --dry-run\n  skerry agent revoke lon1/a2 --reason stolen",
		RunE: func(c *cobra.Command, given []string) error {
			site, agent, err := a.splitAgent(given[0])
			if err != nil {
				return err
			}
			r.ID = site + "/" + agent
			return a.revoke(c, r)
		},
	}
	c.Flags().StringVar(&r.Reason, "reason", "", "why; kept in the stream and in the audit log")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "say what would be revoked and what was exposed, change nothing")
	return c
}

func (a *app) revokeCmd() *cobra.Command {
	var r api.RevokeRequest
	c := &cobra.Command{
		Use: "revoke user|token|spki ID --reason TEXT", Short: "Take a user, a token or a key away for ever, at every site", Args: args("KIND", "ID"),
		Long:    "Take a user, one bearer token or one key away for ever. Sites obey as soon as they hear of it, and pass it on to each other.\nAn agent is revoked with `skerry agent revoke`.",
		Example: "  skerry revoke token k3p9a1b2c3 --reason leaked\n  skerry revoke user ana --reason left",
		RunE: func(c *cobra.Command, given []string) error {
			r.Kind, r.ID = given[0], given[1]
			switch intent.RevocationKind(r.Kind) {
			case intent.RevokeUser, intent.RevokeToken, intent.RevokeSPKI:
				return a.revoke(c, r)
			}
			return &usageError{fmt.Errorf("cannot revoke a %q: user, token or spki (agents: `skerry agent revoke`)", r.Kind)}
		},
	}
	c.Flags().StringVar(&r.Reason, "reason", "", "why; kept in the stream and in the audit log")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "say what would be revoked, change nothing")
	return c
}

func (a *app) revoke(c *cobra.Command, r api.RevokeRequest) error {
	if r.Reason == "" {
		return &usageError{errNoReason}
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	res, err := cl.Revoke(c.Context(), r)
	if err != nil {
		return explainClient(err)
	}
	return a.print(res, func(t *table) {
		t.row("revocation", fmt.Sprint(res.Head.Seq), fmt.Sprintf("sessions closed %d", res.Closed))
		for _, e := range res.Entries {
			t.row(string(e.Kind), e.ID, e.Reason)
		}
		for _, s := range res.Exposed {
			t.row("exposed", "secret "+s, "change it at its source, then `skerry apply` the new one")
		}
	})
}

func (a *app) agentQuarantineCmd() *cobra.Command {
	r := api.QuarantineRequest{On: true}
	lift := false
	c := &cobra.Command{
		Use: "quarantine SITE/AGENT --reason TEXT", Short: "Cut an agent off at its site, with or without a coordinator; reversible", Args: args("SITE/AGENT"),
		Long: "Cut an agent off at its site: the other agents close its sessions within a second, take its claims over and make a new boot key.\n" +
			"Ask another agent of the site, with its context. --lift lets it back. At reunion the coordinator sees the order in the events;\n`skerry agent revoke` makes it final everywhere.",
		Example: "  skerry --context lon1 agent quarantine lon1/a2 --reason stolen\n  skerry --context lon1 agent quarantine lon1/a2 --lift --reason found",
		RunE: func(c *cobra.Command, given []string) error {
			site, agent, err := a.splitAgent(given[0])
			if err != nil {
				return err
			}
			if r.Reason == "" {
				return &usageError{errNoReason}
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			r.On = !lift
			res, err := cl.Quarantine(c.Context(), site, agent, r)
			if err != nil {
				return explainClient(err)
			}
			return a.print(res, func(t *table) {
				t.row(res.Agent, map[bool]string{true: "quarantined", false: "let back"}[res.On], fmt.Sprintf("order %d", res.N), fmt.Sprintf("sessions closed %d", res.Closed))
				t.row("agents", strings.Join(res.Agents, " "), fmt.Sprintf("generation %d", res.Generation))
			})
		},
	}
	c.Flags().StringVar(&r.Reason, "reason", "", "why; kept in the event log")
	c.Flags().BoolVar(&lift, "lift", false, "let it back")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "say how the site's agents would be then, change nothing")
	return c
}

func (a *app) agentListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Who is revoked, and which agents have heard of it", Args: args(),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			l, err := cl.Revocations(c.Context())
			if err != nil {
				return explainClient(err)
			}
			return a.print(l, func(t *table) {
				t.row("revocation", fmt.Sprint(l.Head.Seq), fmt.Sprintf("%d entries", len(l.Entries)))
				for _, s := range l.Agents {
					state := "has heard all"
					if s.Seq < l.Head.Seq {
						state = fmt.Sprintf("is at %d", s.Seq)
					}
					t.row("agent", s.Agent, state, "heard "+account.Age(s.Heard, time.Now())+" ago")
				}
				for _, e := range l.Entries {
					t.row("revoked", string(e.Kind), e.ID, e.Reason)
				}
			})
		},
	}
}
