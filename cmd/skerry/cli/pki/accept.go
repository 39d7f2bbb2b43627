package pki

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
)

// Shell is an account.Shell that reaches more servers than one.
type Shell interface {
	account.Shell
	// ClientOf returns a client of a context by its name; "" is the chosen one.
	ClientOf(context string) (*client.Client, error)
}

// accepted is what became of one server.
type accepted struct {
	Context string            `json:"context,omitempty"`
	Result  *api.AcceptResult `json:"result,omitempty"`
	Error   string            `json:"error,omitempty"`
}

// AcceptCmd returns `accept`.
func AcceptCmd(s Shell) *cobra.Command {
	v := verbs{s}
	var at []string
	dry := false
	c := &cobra.Command{
		Use: "accept DIGEST", Short: "Let a trust document count that only the announced roots signed", Args: s.Args("DIGEST"),
		Long: "When the roots are lost or stolen, holders of the announced next ones sign a document alone (`skerry pki rotate root --lost`). Nobody\n" +
			"follows it by himself: it waits, and all goes on under the old roots. This command lets it count at the server that is asked, and\n" +
			"nowhere else: a person does so at the coordinator and at every agent. Compare DIGEST, all of it, with what the holders say, on\n" +
			"another way than the network. There is no way back to the old roots. --at goes through several contexts one after the other.",
		Example: "  skerry pki status                                     # shows what is offered\n  skerry pki trust accept DIGEST --dry-run\n" +
			"  skerry --context lon1-a1 pki trust accept DIGEST\n  skerry pki trust accept DIGEST --at lon1-a1,lon1-a2,lon1-a3",
		RunE: func(c *cobra.Command, given []string) error {
			if len(at) == 0 {
				at = []string{""}
			}
			return v.accept(c, s, api.AcceptRequest{Digest: given[0], DryRun: dry}, at)
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "check and say what it would change, change nothing")
	c.Flags().StringSliceVar(&at, "at", nil, "contexts of the servers that are asked, one after the other. Without: the chosen one")
	return c
}

func (v verbs) accept(c *cobra.Command, s Shell, q api.AcceptRequest, at []string) error {
	out, failed := make([]accepted, 0, len(at)), error(nil)
	for _, name := range at {
		a := accepted{Context: name}
		err := func() error {
			cl, err := s.ClientOf(name)
			if err != nil {
				return err
			}
			info, err := cl.Info(c.Context())
			if err != nil {
				return err
			}
			q.Site = info.Site
			a.Result, err = cl.AcceptTrust(c.Context(), q)
			return err
		}()
		if err != nil {
			a.Result, a.Error = nil, err.Error()
			failed = errors.Join(failed, err)
		}
		out = append(out, a)
	}
	if len(out) == 1 && failed != nil {
		return v.Explain(failed)
	}
	if err := v.Print(out, func(t account.Table) { printAccepted(t, out) }); err != nil || failed == nil {
		return err
	}
	return v.Partial()
}

func printAccepted(t account.Table, out []accepted) {
	for _, a := range out {
		if a.Result == nil {
			t.Row(a.Context, "NOT ACCEPTED", a.Error)
			continue
		}
		said := "accepted"
		if a.Result.DryRun {
			said = "would accept"
		}
		t.Row(a.Result.Who, said, fmt.Sprintf("trust %d (%s)", a.Result.Head.Seq, a.Result.Head.Hash.Hex()))
		for _, w := range a.Result.Changes {
			t.Row(a.Result.Who, "change", w)
		}
	}
}
