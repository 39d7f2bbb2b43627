package documents

import (
	"fmt"
	"strings"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/spf13/cobra"
)

// statusCmd is `skerry intent status`.
func (v *verbs) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use: "status [SITE]", Short: "How far each stream is, here and at every agent, what is rejected, and the way out", Args: v.ArgsUpTo(0, "SITE"), ValidArgsFunction: v.completeSites,
		Long: "How far each stream is, here and at every agent, as of its last word; what is rejected and why, what forked, and the way out. An agent\n" +
			"of a site shows its site as it sees it. Exit code 3: something needs a person.",
		Example: "  skerry intent status\n  skerry intent status lon1 -o json\n  skerry --context lon1 intent status",
		RunE: func(c *cobra.Command, given []string) error {
			cl, err := v.Client()
			if err != nil {
				return err
			}
			site := v.Site()
			if len(given) == 1 {
				site = given[0]
			}
			s, err := cl.IntentStatus(c.Context(), site)
			if err != nil {
				return v.Explain(err)
			}
			if err := v.Print(s, func(t account.Table) { statusTable(t, s) }); err != nil {
				return err
			}
			if s.Wrong() {
				return ErrPartly
			}
			return nil
		},
	}
}

func statusTable(t account.Table, s *api.IntentStatus) {
	t.Header("SITE/AGENT", "TRUST", "REVOCATION", "INTENT", "ACTIVE", "HEARD", "STATE")
	for _, site := range s.Sites {
		heard, state := "here", ""
		if strings.HasPrefix(s.By, site.Site+"/") {
			heard = "never"
			if site.Heard != nil {
				heard = account.Age(*site.Heard, s.At)
			}
		}
		if state = site.Beacon; site.Out != "" {
			state = strings.TrimPrefix(state+"; "+site.Out, "; ")
		}
		t.Row(site.Site, place(site.Heads.Trust), place(site.Heads.Revocation), place(site.Heads.Intent), "", heard, state)
		for _, a := range site.Agents {
			heard = "never"
			if a.Contact != nil {
				heard = account.Age(*a.Contact, s.At)
			}
			t.Row(site.Site+"/"+a.ID, place(a.Heads.Trust), place(a.Heads.Revocation), place(a.Heads.Intent), place(a.Heads.Active), heard, words(a))
		}
	}
}

// words says what is wrong with one agent, and the way out.
func words(a api.AgentDocument) string {
	var out []string
	if a.Forks > 0 {
		out = append(out, fmt.Sprintf("FORKED: %d documents", a.Forks))
	}
	if a.Rejected != "" {
		out = append(out, "REJECTED: "+a.Rejected)
	}
	if a.Out != "" {
		out = append(out, a.Out)
	}
	if len(out) == 0 {
		return "level"
	}
	return strings.Join(out, "; ")
}
