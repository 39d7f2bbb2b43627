package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/pki"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	dsse "github.com/skerry-metal/skerry/pki/document"
	"github.com/spf13/cobra"
)

func (a *app) pkiCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "pki", Short: "Roots, certificates and keys of the domain", Args: args(),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.pkiStatusCmd(), a.pkiTrustCmd(), pki.RotateCmd(shell{a}), pki.FloorCmd(shell{a}), pki.InitCmd(shell{a}), pki.SignCmd(shell{a}))
	return c
}

func (a *app) pkiTrustCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "trust FILE", Short: "Bring a trust document that the roots signed", Args: args("FILE"),
		Long: "Bring the next trust document to the coordinator, which checks its signatures and its place and gives it to every agent; agents\n" +
			"give it to each other. A second document for a place that is taken is refused and kept as evidence of a fork. One that only the\n" +
			"announced roots signed waits for `skerry pki trust accept`. With --context an agent takes it that nobody else brings it to.",
		Example: "  skerry pki trust trust8.json",
		RunE: func(c *cobra.Command, given []string) error {
			b, err := readBounded(given[0], 2*intent.MaxEnvelope)
			if err != nil {
				return err
			}
			env, err := dsse.Decode(b)
			if err != nil {
				return fmt.Errorf("cannot read %s: %w", given[0], err)
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			res, err := cl.AddTrust(c.Context(), env)
			if err != nil {
				return explainClient(err)
			}
			return a.print(res, func(t *table) {
				if o := res.Offered; o != nil {
					offerRows(t, o)
					return
				}
				t.row("trust", fmt.Sprint(res.Head.Seq), res.Head.Hash.Short(), map[bool]string{true: "added", false: "known"}[res.Added])
			})
		},
	}
	c.AddCommand(pki.AcceptCmd(shell{a}))
	return c
}

// offerRows shows a document that waits for a person.
func offerRows(t *table, o *api.TrustOffer) {
	t.row("OFFERED", fmt.Sprintf("trust %d", o.Seq), o.Digest.Hex())
	for _, w := range o.Changes {
		t.row("change", "", w)
	}
	t.row("next", "", "skerry pki trust accept "+o.Digest.Hex())
}

// readBounded reads a file of at most limit octets.
func readBounded(path string, limit int64) ([]byte, error) {
	st, err := os.Stat(path)
	if err == nil && st.Size() > limit {
		err = errors.New("it is too large to be a signed document")
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return b, nil
}
