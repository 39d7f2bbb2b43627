package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/skerry-metal/skerry/siteagent"
	"github.com/spf13/cobra"
)

// agentKitCmd makes the kit of a spare: an identity that waits in a safe.
func (a *app) agentKitCmd() *cobra.Command {
	var cfg siteagent.KitConfig
	out := ""
	c := &cobra.Command{
		Use: "kit --join TOKEN@HOST:PORT --out FILE", Short: "Make the kit of a spare agent: for a box that is lost while the WAN is down", Args: args(),
		Long: "Make the kit of a spare agent. The spare stands in the site's roster from now on and is told its secrets, and does nothing.\n" +
			"When a box is lost, also with the coordinator out of reach, a new one takes its place:\n\n" +
			"  skerry agent --spare lon1-s1.kit --passphrase-file FILE --replaces a1 --management HOST:7444 --boot ADDRESS\n\n" +
			"Whoever opens a kit is that spare: keep it where the site's people reach it and a thief does not. A kit is used by one box.",
		Example: "  skerry token create --site lon1 --agent s1 --spare > token\n  skerry agent kit --join @token --out lon1-s1.kit\n  skerry agent kit --join @token --out lon1-s1.kit --to age1…",
		RunE: func(c *cobra.Command, _ []string) error {
			if cfg.Join == "" || out == "" {
				return &usageError{errors.New("cannot make a kit: give --join and --out")}
			}
			err := readJoin(&cfg.Join)
			if err != nil {
				return err
			}
			if cfg.Logger, err = a.logger("warn"); err != nil {
				return err
			}
			f, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return fmt.Errorf("cannot make kit: %w", err)
			}
			cfg.Out = f
			k, err := siteagent.MakeKit(c.Context(), cfg)
			if err == nil {
				err = f.Sync()
			}
			if err = errors.Join(err, f.Close()); err != nil {
				return errors.Join(err, os.Remove(out)) // half a kit helps nobody
			}
			return a.print(k, func(t *table) {
				t.row("kit", out, "of spare "+k.Spare+" at "+k.Site)
				if k.Passphrase != "" {
					t.row("passphrase", k.Passphrase, "shown once: write it down, away from the kit")
				}
			})
		},
	}
	c.Flags().StringVar(&cfg.Join, "join", "", "TOKEN@HOST:PORT of `skerry token create --spare`, or @FILE that holds it")
	c.Flags().StringVar(&out, "out", "", "file that must not exist yet")
	c.Flags().StringSliceVar(&cfg.Recipients, "to", nil, "age recipients that may open it, instead of a passphrase")
	return c
}
