package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/spf13/cobra"
)

// contactFresh is how old a contact may be before `pki status` names the agent: a report comes every 30 s, a bad line is not
// news within the hour.
const contactFresh = time.Hour

func (a *app) pkiStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "How old keys are, how far the signed streams got, and who was not heard", Args: args(),
		Long: "How old keys are, how far the signed streams got, and who was not heard for more than an hour, and since when. Nothing ends by\n" +
			"age: certificates do not expire. Exit code 3 when a fork was seen, or when a trust document waits for `skerry pki trust accept`. An\n" +
			"agent (--context) shows its own streams.",
		Example: "  skerry pki status\n  skerry pki status -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			s, err := cl.KeyStatus(c.Context())
			if err != nil {
				return explainClient(err)
			}
			if err := a.print(s, func(t *table) { keyTable(t, s) }); err != nil {
				return err
			}
			if s.Forks > 0 || s.Offered != nil || slices.ContainsFunc(s.Agents(), func(x api.AgentKeys) bool { return x.Offered != "" }) {
				return exitCode(exitPartial)
			}
			return nil
		},
	}
}

func keyTable(t *table, s *api.KeyStatus) {
	if len(s.Oldest) > 0 {
		t.row("oldest key", account.Age(s.Oldest[0].Made, s.At), s.Oldest[0].Kind+" "+s.Oldest[0].Owner)
	}
	t.row("trust", fmt.Sprint(s.Trust.Seq), seenBy(s, func(a api.AgentKeys) bool { return a.Trust >= s.Trust.Seq }))
	t.row("revocation", fmt.Sprint(s.Revocation.Seq), seenBy(s, func(a api.AgentKeys) bool { return a.Revocation >= s.Revocation.Seq }))
	t.row("contact", "< 1h", seenBy(s, func(a api.AgentKeys) bool { return !silent(a, s.At) }))
	clocks := map[string]int{}
	for _, a := range s.Agents() {
		clocks[a.Clock]++
	}
	t.row("clock", fmt.Sprintf("trusted %d", clocks[intent.ClockTrusted]), fmt.Sprintf("floor-only %d", clocks[intent.ClockFloor]))
	if s.Forks > 0 {
		t.row("FORKED", fmt.Sprintf("%d trust documents", s.Forks), "somebody else signs with the roots; the evidence is kept at the coordinator and the agents")
	}
	if s.Offered != nil {
		offerRows(t, s.Offered)
	}
	for _, k := range s.Oldest {
		t.row("key", account.Age(k.Made, s.At), k.Kind+" "+k.Owner)
	}
	for _, site := range s.Sites {
		for _, x := range site.Agents {
			if x.State != intent.StateAgent {
				continue
			}
			if x.Keys > 1 {
				t.row("rotating", site.Site+"/"+x.ID, fmt.Sprintf("%d keys in the roster", x.Keys))
			}
			if x.Offered != "" {
				t.row("offered", site.Site+"/"+x.ID, "a person there must accept "+x.Offered)
			}
			if silent(x, s.At) {
				t.row("offline", site.Site+"/"+x.ID, offline(x, s.At))
			}
		}
	}
}

func silent(a api.AgentKeys, now time.Time) bool {
	return !a.Up && (a.Contact == nil || now.Sub(*a.Contact) > contactFresh)
}

// offline says since when an agent is silent, and how far it had got.
func offline(a api.AgentKeys, now time.Time) string {
	if a.Contact == nil {
		return "never heard"
	}
	out := []string{account.Age(*a.Contact, now), fmt.Sprintf("at trust %d, revocation %d", a.Trust, a.Revocation)}
	if a.Seen == "yes" {
		out = append(out, "its site sees it")
	}
	return strings.Join(out, ", ")
}

// seenBy counts the agents for which ok holds; spares in their drawers do not count.
func seenBy(s *api.KeyStatus, ok func(api.AgentKeys) bool) string {
	n, all := 0, 0
	for _, a := range s.Agents() {
		if a.State != intent.StateAgent {
			continue
		}
		if all++; ok(a) {
			n++
		}
	}
	return fmt.Sprintf("%d/%d", n, all)
}
