package cli

import (
	"fmt"
	"os"

	"github.com/skerry-metal/skerry/cmd/skerry/demo"
	"github.com/spf13/cobra"
)

func (a *app) demoCmd() *cobra.Command {
	cfg := demo.Config{Assets: "out", Examples: "examples"}
	c := &cobra.Command{
		Use: "demo", Short: "Walk the main job on this host, with real firmware under QEMU", Args: args(),
		Long: "Walk the main job: a coordinator, a site of two agents and three machines, in network namespaces of their own.\nIt needs root for namespaces and taps, and the images that `make demo` builds.",
		RunE: func(c *cobra.Command, _ []string) error {
			exe, err := os.Executable()
			if err != nil {
				return fmt.Errorf("cannot find own binary: %w", err)
			}
			cfg.Exe, cfg.Out = exe, a.Out
			return demo.Run(c.Context(), cfg)
		},
	}
	c.Flags().StringVar(&cfg.Assets, "assets", cfg.Assets, "directory with vmlinuz, ramdisk.gz and tiny.img")
	c.Flags().StringVar(&cfg.Examples, "examples", cfg.Examples, "directory with first-site.yaml and one-more.yaml")
	c.Flags().BoolVar(&cfg.Keep, "keep", false, "leave it running until Ctrl-C")
	c.Flags().StringVar(&cfg.Dir, "dir", "", "directory for logs and data; default: a temporary one")
	return c
}
