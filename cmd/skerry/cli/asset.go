package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/asset"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/holdings"
	"github.com/spf13/cobra"
)

func (a *app) assetCmd() *cobra.Command {
	c := &cobra.Command{Use: "asset", Short: "Bring assets in, and see where they are"}
	list := &cobra.Command{
		Use: "list", Short: "List assets; at a site with the agents that have them", Args: args(),
		Example: "  skerry --context lon1 asset list",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			info, _ := intent.KindAsset.Info()
			items, err := cl.List(c.Context(), info, "", "")
			if err != nil {
				return explainClient(err)
			}
			return a.printAssets(items)
		},
	}
	describe := &cobra.Command{
		Use: "describe NAME", Short: "Print an asset; at a site with what each agent has of it, and why", Args: args("NAME"),
		Example: "  skerry --context lon1 asset describe tiny",
		RunE: func(c *cobra.Command, given []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			info, _ := intent.KindAsset.Info()
			o, err := cl.Get(c.Context(), info, "", given[0])
			if err != nil {
				return explainClient(err)
			}
			return a.printAsset(o)
		},
	}
	c.AddCommand(list, describe)
	c.AddCommand(asset.Commands(shell{a})...)
	c.AddCommand(asset.Placement(shell{a})...)
	return c
}

// placed reads what the agents of a site have of an asset; false: a coordinator answered, which does not know.
func placed(o *intent.Object) (st holdings.Status, ok bool) {
	return st, len(o.Status) > 0 && json.Unmarshal(o.Status, &st) == nil
}

func (a *app) printAssets(items []*intent.Object) error {
	if a.output == "name" || !slices.ContainsFunc(items, func(o *intent.Object) bool { _, ok := placed(o); return ok }) {
		return a.printObjects(items)
	}
	return a.print(items, func(t *table) {
		t.header("NAME", "CLASS", "SIZE", "AGENTS")
		for _, o := range items {
			s, ok := o.Spec.(*intent.AssetSpec)
			if !ok {
				continue
			}
			st, _ := placed(o)
			var at []string
			for _, ag := range st.Agents {
				at = append(at, ag.Agent+" "+stateOf(ag))
			}
			t.row(o.Metadata.Name, s.Class, fmt.Sprint(s.Size), strings.Join(at, ", "))
		}
	})
}

func stateOf(ag holdings.AgentStatus) string {
	switch {
	case ag.Refused:
		return ag.State + " (disk_overcommitted)"
	case ag.State == holdings.Partial && ag.Chunks > 0:
		return fmt.Sprintf("%d %%", ag.Have*100/ag.Chunks)
	}
	return ag.State
}

func (a *app) printAsset(o *intent.Object) error {
	st, ok := placed(o)
	s, isAsset := o.Spec.(*intent.AssetSpec)
	if a.output == "name" || !ok || !isAsset {
		return a.printObjects([]*intent.Object{o})
	}
	return a.print(o, func(t *table) {
		t.header("AGENT", "STATE", "CHUNKS", "OCTETS", "PINNED BY", "LAST USED", "CAME FROM")
		for _, ag := range st.Agents {
			var pins []string
			for _, p := range ag.Pins {
				pins = append(pins, string(p))
			}
			t.row(ag.Agent, stateOf(ag), fmt.Sprintf("%d of %d", ag.Have, ag.Chunks), fmt.Sprintf("%d of %d", ag.Octets, s.Size), strings.Join(pins, ", "), ag.Day, asset.CameFrom(ag))
		}
	})
}
