package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/security"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/spf13/cobra"
)

func (a *app) overrideCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "override", Short: "See and settle what a site changed by itself",
		Long: "See and settle what a site changed by itself while it was cut off. What fits is adopted when the site is back; what does not waits\n" +
			"here with both values, and the site's value stands at the site until somebody decides. Ask the coordinator; an agent shows what\nits site has pending.",
	}
	list := &cobra.Command{
		Use: "list", Short: "What waits for a person, and why", Args: args(),
		RunE: func(c *cobra.Command, _ []string) error {
			all, _, err := a.proposals(c)
			if err != nil {
				return err
			}
			return a.print(all, func(t *table) {
				t.row("ID", "OBJECT", "CHANGE", "AUTHOR", "AGE", "WHY")
				for _, p := range all {
					t.row(p.ID, p.Object.String(), p.Op, p.Author, account.Age(p.Time, time.Now()), p.Why)
				}
			})
		},
	}
	show := &cobra.Command{
		Use: "show ID", Short: "Print one with both values", Args: args("ID"),
		RunE: func(c *cobra.Command, given []string) error {
			all, _, err := a.proposals(c)
			if err != nil {
				return err
			}
			for _, p := range all {
				if p.ID == given[0] {
					return a.printProposal(p)
				}
			}
			return hint(fmt.Errorf("cannot find %s among what waits", given[0]), "`skerry override list` shows it")
		},
	}
	c.AddCommand(list, show, a.settleCmd("adopt", "The site's value becomes the catalog's"), a.settleCmd("discard", "The catalog's value goes to the site"))
	return c
}

func (a *app) settleCmd(decision, short string) *cobra.Command {
	r := api.DecisionRequest{Decision: decision}
	c := &cobra.Command{
		Use: decision + " ID --reason TEXT", Short: short, Args: args("ID"),
		Example: "  skerry override " + decision + " lon1-4a0dd7e7537dad08 --reason 'seen with ana'",
		RunE: func(c *cobra.Command, given []string) error {
			if r.Reason == "" {
				return &usageError{security.ErrNoReason}
			}
			cl, site, err := a.siteClient()
			if err != nil {
				return err
			}
			if err := cl.Settle(c.Context(), site, given[0], r); err != nil {
				return explainClient(err)
			}
			done := map[bool]string{true: "would be settled: ", false: ""}[r.DryRun] + decision
			return a.print(map[string]any{"id": given[0], "decision": decision, "dryRun": r.DryRun}, func(t *table) { t.row(given[0], done) })
		},
	}
	c.Flags().StringVar(&r.Reason, "reason", "", "why; kept in the audit log")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "say whether it fits, change nothing")
	return c
}

func (a *app) siteClient() (*client.Client, string, error) {
	cl, err := a.client()
	if err != nil {
		return nil, "", err
	}
	if a.site == "" {
		return nil, "", &usageError{errors.New("cannot ask without a site: give --site")}
	}
	return cl, a.site, nil
}

func (a *app) proposals(c *cobra.Command) ([]api.Proposal, string, error) {
	cl, site, err := a.siteClient()
	if err != nil {
		return nil, "", err
	}
	all, err := cl.Proposals(c.Context(), site)
	if err != nil {
		return nil, "", explainClient(err)
	}
	return all, site, nil
}

// printProposal prints the facts, then the value here and the value there.
func (a *app) printProposal(p api.Proposal) error {
	if a.structured() {
		return a.print(p, nil)
	}
	err := a.print(p, func(t *table) {
		t.row("override", p.ID, p.Op+" "+p.Object.String())
		t.row("author", p.Author, fmt.Sprintf("at %s on %s, version %d, %s ago: %s", p.Site, p.Agent, p.Base, account.Age(p.Time, time.Now()), p.Reason))
		t.row("waits", p.Why)
	})
	for _, v := range []struct {
		where string
		o     *intent.Object
	}{{"the coordinator's", p.Here}, {"the site's", p.There}} {
		text := "none\n"
		if v.o != nil {
			b, yerr := json.Marshal(v.o)
			if yerr == nil {
				b, yerr = yaml.JSONToYAML(b)
			}
			if yerr != nil {
				return errors.Join(err, fmt.Errorf("cannot print: %w", yerr))
			}
			text = string(b)
		}
		_, werr := io.WriteString(a.Out, "--- "+v.where+"\n"+text)
		err = errors.Join(err, werr)
	}
	return err
}
