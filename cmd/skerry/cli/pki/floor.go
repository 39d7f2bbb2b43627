package pki

import (
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/spf13/cobra"
)

// FloorCmd returns `floor`.
func FloorCmd(s account.Shell) *cobra.Command {
	v := verbs{s}
	r := rotation{RotateRequest: api.RotateRequest{What: api.RotateFloor}, wait: time.Minute}
	c := &cobra.Command{
		Use: "floor TIME", Short: "Lower the time that every agent believes to have passed at least", Args: s.Args("TIME"),
		Long: "Every agent knows a time that certainly has passed: the newest that it read under a signature. A coordinator with a wrong clock can\n" +
			"raise it into the future, and then nothing lowers it but a trust document, which this command makes. Set the coordinator's clock\n" +
			"right first. TIME is RFC 3339, at or before the true time. Where holders keep the roots, they sign.",
		Example: "  skerry pki floor 2026-12-01T00:00:00Z --dry-run\n  skerry pki floor 2026-12-01T00:00:00Z",
		RunE: func(c *cobra.Command, given []string) error {
			t, err := time.Parse(time.RFC3339, given[0])
			if err != nil {
				return &account.UsageError{Err: fmt.Errorf("cannot read %q as a time: write it like 2026-12-01T00:00:00Z", given[0])}
			}
			r.Floor = &t
			return v.rotate(c, r)
		},
	}
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "check and say what would be done, change nothing")
	return c
}
