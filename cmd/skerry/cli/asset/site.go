package asset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/holdings"
)

// Placement returns the subcommands of `skerry asset` that say where assets are kept, and act on them at a site.
func Placement(s Shell) []*cobra.Command {
	v := &verbs{Shell: s, rest: rest, poll: time.Second}
	return []*cobra.Command{v.pinCmd(), v.prefetchCmd(), v.verifyCmd(), v.evictCmd()}
}

func (v *verbs) pinCmd() *cobra.Command {
	var sites []string
	var everywhere, used, dryRun bool
	var reason string
	c := &cobra.Command{
		Use: "pin NAME", Short: "Say which sites keep an asset while nothing there uses it", Args: v.Args("NAME"),
		Long: "Say which sites keep an asset while nothing there uses it. Where an installer, an instance array or a machine uses it, it is kept in any\n" +
			"case. A new asset is kept everywhere.",
		Example: "  skerry asset pin tiny --sites lon1,par1\n  skerry asset pin tiny --where-used --dry-run\n  skerry asset pin tiny --everywhere",
		RunE: func(c *cobra.Command, given []string) error {
			n := 0
			for _, given := range []bool{len(sites) > 0, used, everywhere} {
				if given {
					n++
				}
			}
			if n != 1 {
				return &account.HintError{Err: &account.UsageError{Err: errors.New("cannot pin an asset without one place, or to several kinds of place")}, Next: "one of --sites, --where-used and --everywhere"}
			}
			pin := &intent.AssetPin{Sites: sites}
			if everywhere {
				pin = nil
			}
			cl, err := v.Client()
			if err != nil {
				return err
			}
			info, _ := intent.KindAsset.Info()
			o, err := cl.Get(c.Context(), info, "", given[0])
			if err != nil {
				return v.Explain(err)
			}
			spec, ok := o.Spec.(*intent.AssetSpec)
			if !ok {
				return fmt.Errorf("cannot read asset %s: it is a %T", given[0], o.Spec)
			}
			spec.Pin, o.Status = pin, nil
			res, err := cl.Put(c.Context(), o, dryRun, reason)
			if err != nil {
				return v.Explain(err)
			}
			return v.Results(res, dryRun)
		},
	}
	f := c.Flags()
	f.StringSliceVar(&sites, "sites", nil, "these sites, and where it is used")
	f.BoolVar(&used, "where-used", false, "only where it is used")
	f.BoolVar(&everywhere, "everywhere", false, "every site")
	f.BoolVar(&dryRun, "dry-run", false, "say what would change")
	f.StringVar(&reason, "reason", "", "why, for the audit log")
	return c
}

func (v *verbs) prefetchCmd() *cobra.Command {
	return v.actCmd(holdings.Prefetch, "Fetch an asset at a site now, and show how far it is",
		"Let the agents of a site that keep an asset fetch it now, as if a machine waited for it: in quiet hours too, and before other assets. Shows\n"+
			"how far each is and what came from where: peers, other sites, the coordinator. Ended by a signal, the agents go on.",
		func(_, st holdings.AgentStatus, said string) bool {
			return st.State == holdings.Complete || st.Refused || !strings.HasPrefix(said, "fetches")
		})
}

func (v *verbs) verifyCmd() *cobra.Command {
	return v.actCmd(holdings.Verify, "Read an asset from the disks of a site's agents and hash it",
		"Let every agent of a site read all that it has of an asset from its disk, and hash it. Bad chunks are fetched again. Exit 1 when there was one.",
		func(before, st holdings.AgentStatus, said string) bool { // by the agent's own clock
			fresh := st.Checked != nil && (before.Checked == nil || !st.Checked.At.Equal(before.Checked.At))
			return fresh || !strings.HasPrefix(said, "is verified")
		})
}

func (v *verbs) evictCmd() *cobra.Command {
	return v.actCmd(holdings.Evict, "Give up copies of an asset that nothing needs",
		"Let the agents of a site give up their copies of an asset: those that no intent wants, and those beyond the two that keep it. What is wanted\n"+
			"stays, and so does the last whole copy of it; `skerry asset pin` says what is wanted.",
		func(_, _ holdings.AgentStatus, _ string) bool { return true })
}

// What ends an act with exit 1.
var (
	errBad    = errors.New("bad chunks were found, which are fetched again, or a disk could not be read")
	errNoRoom = errors.New("an agent has no room for it (disk_overcommitted)")
)

// actCmd makes the command of an act, which is done at an agent when over says so.
func (v *verbs) actCmd(a holdings.Act, short, long string, over func(before, now holdings.AgentStatus, said string) bool) *cobra.Command {
	var dryRun, noWait bool
	c := &cobra.Command{
		Use: string(a) + " NAME", Short: short, Args: v.Args("NAME"), Long: long + "\n\nAn agent of the site is asked: choose it with --context.",
		Example: "  skerry --context lon1 asset " + string(a) + " tiny",
		RunE: func(c *cobra.Command, given []string) error {
			cl, err := v.Client()
			if err != nil {
				return err
			}
			who, err := cl.Info(c.Context())
			if err != nil {
				return v.Explain(err)
			}
			if who.Site == "" {
				return &account.HintError{Err: errors.New("cannot " + string(a) + " an asset at a coordinator"), Next: "choose an agent of the site with --context; `skerry context list` shows them"}
			}
			was, err := statusOf(c.Context(), cl, given[0])
			if err != nil {
				return v.Explain(err)
			}
			before := map[string]holdings.AgentStatus{}
			for _, st := range was.Agents {
				before[st.Agent] = st
			}
			res, err := cl.AssetAction(c.Context(), who.Site, given[0], assets.ActionRequest{Action: string(a), DryRun: dryRun})
			if err != nil {
				return v.Explain(err)
			}
			last := &holdings.Status{}
			if !dryRun && !noWait {
				if last, err = v.follow(c.Context(), cl, given[0], res, func(st holdings.AgentStatus) bool { return over(before[st.Agent], st, res.Agents[st.Agent]) }); err != nil {
					return err
				}
			}
			if err := v.Print(outcome{res.Agents, last.Agents}, func(t account.Table) { fill(t, a, res, last) }); err != nil {
				return err
			}
			for _, st := range last.Agents {
				switch {
				case a == holdings.Verify && st.Checked != nil && (st.Checked.Bad > 0 || st.Checked.Why != ""):
					return errBad
				case a == holdings.Prefetch && st.Refused:
					return errNoRoom
				}
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&dryRun, "dry-run", false, "say what would be done")
	if a != holdings.Evict {
		f.BoolVar(&noWait, "no-wait", false, "do not wait until it is done")
	}
	return c
}

// outcome is what -o json prints.
type outcome struct {
	Said   map[string]string      `json:"said"`
	Agents []holdings.AgentStatus `json:"agents"`
}

// follow waits until the act is over at every agent, and shows how far it is. Who is not heard is not waited for.
func (v *verbs) follow(ctx context.Context, cl *client.Client, name string, res *assets.ActionResult, over func(holdings.AgentStatus) bool) (*holdings.Status, error) {
	w, _ := v.Progress()
	shown, told := "", time.Time{}
	for {
		st, err := statusOf(ctx, cl, name)
		if err != nil {
			return nil, v.Explain(err)
		}
		done, words := true, []string{}
		for _, ag := range st.Agents {
			if ag.State != holdings.Unknown && !over(ag) {
				done = false
				words = append(words, strings.TrimSuffix(fmt.Sprintf("%s %d %% (%s)", ag.Agent, ag.Have*100/max(ag.Chunks, 1), Sources(ag.From)), " ()"))
			}
		}
		if done {
			return st, nil
		}
		if now := strings.Join(words, ", "); now != shown && time.Since(told) >= v.poll {
			shown, told = now, time.Now()
			fmt.Fprintln(w, now)
		}
		if err := pause(ctx, v.poll); err != nil {
			return nil, err
		}
	}
}

// statusOf asks an agent of the site what all of its agents have of an asset.
func statusOf(ctx context.Context, cl *client.Client, name string) (*holdings.Status, error) {
	info, _ := intent.KindAsset.Info()
	o, err := cl.Get(ctx, info, "", name)
	if err != nil {
		return nil, err
	}
	st := &holdings.Status{}
	if err := json.Unmarshal(o.Status, st); err != nil {
		return nil, fmt.Errorf("cannot read where asset %s is: %w", name, err)
	}
	return st, nil
}

// Sources says what came from where; empty: nothing.
func Sources(from map[string]uint64) string {
	var out []string
	for _, tier := range slices.Sorted(maps.Keys(from)) {
		out = append(out, tier+" "+mebibytes(from[tier]))
	}
	return strings.Join(out, ", ")
}

// CameFrom is Sources, and which URLs did not give what they should.
func CameFrom(ag holdings.AgentStatus) string {
	out := []string{Sources(ag.From)}
	for _, u := range ag.URLs {
		out = append(out, u.Said())
	}
	return strings.TrimPrefix(strings.Join(out, "; "), "; ")
}

func fill(t account.Table, a holdings.Act, res *assets.ActionResult, last *holdings.Status) {
	t.Header("AGENT", "SAID", "NOW")
	for _, agent := range slices.Sorted(maps.Keys(res.Agents)) {
		now := ""
		if i := slices.IndexFunc(last.Agents, func(st holdings.AgentStatus) bool { return st.Agent == agent }); i >= 0 {
			st := last.Agents[i]
			now = strings.TrimSuffix(st.State+" ("+Sources(st.From)+")", " ()")
			if a == holdings.Verify && st.Checked != nil {
				now = strings.TrimSuffix(fmt.Sprintf("%s, %d bad chunks, %s", st.State, st.Checked.Bad, st.Checked.Why), ", ")
			}
		}
		t.Row(agent, res.Agents[agent], now)
	}
}
