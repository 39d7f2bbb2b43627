package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Shell is what the verbs need of the command line.
type Shell interface {
	Client() (*client.Client, error)
	Site() string
	Print(v any, fill func(account.Table)) error
	Results(res []api.Result, dryRun bool) error
	Output() (io.Writer, string)
	Explain(err error) error
	Args(names ...string) cobra.PositionalArgs
}

type verbs struct{ Shell }

// Command returns `skerry machine`.
func Command(s Shell) *cobra.Command {
	v := &verbs{s}
	c := &cobra.Command{Use: "machine", Short: "Discover, accept, power, watch, explain, release, hold and clear machines"}
	power := &cobra.Command{
		Use: "power NAME on|off|cycle|soft-off|status", Short: "Change a machine's power through its BMC", Args: s.Args("NAME", "ACTION"),
		RunE: func(c *cobra.Command, given []string) error {
			cl, site, err := v.at()
			if err != nil {
				return err
			}
			r, err := cl.Power(c.Context(), site, given[0], given[1])
			if err != nil {
				return s.Explain(err)
			}
			return s.Print(r, func(t account.Table) {
				t.Header("MACHINE", "POWER", "PROVEN")
				t.Row(r.Machine, r.Power, r.Effect)
			})
		},
	}
	explain := &cobra.Command{
		Use: "explain NAME", Short: "Print the whole chain behind a machine's state", Args: s.Args("NAME"),
		RunE: func(c *cobra.Command, given []string) error {
			cl, site, err := v.at()
			if err != nil {
				return err
			}
			e, err := cl.Explain(c.Context(), site, given[0])
			if err != nil {
				return s.Explain(err)
			}
			out, form := s.Output()
			if form == "json" || form == "yaml" {
				return s.Print(e, nil)
			}
			return explainText(out, e)
		},
	}
	clearCmd := v.reasoned("clear", "Take a machine that is broken, quarantined or held back into service",
		"Take a machine that is broken, quarantined or held back into service, after the cause was settled: it is inspected again, and\ninstalled again, under a new permission, if it belongs to an instance; erased again, if it was released and has no receipt.",
		"is cleared", (*client.Client).Clear)
	approve := v.reasoned("approve", "Let a machine be written though no coordinator was heard lately",
		"Let a machine be written, for its present allocation, though no coordinator was heard within the site's staleAfter. Ask an agent of\nthe site, with a context that has --key: a token is not enough. `machine explain` says whether a machine waits for this.",
		"is approved", (*client.Client).Approve)
	quarantine := v.reasoned("quarantine", "Keep a machine that you do not trust out of use, until you clear it",
		"Keep a machine that you do not trust out of use: nothing is booted on it, installed or erased, and nobody gets it, until\n`skerry machine clear`. It stays as it is, powered or not. One that runs an instance is released first; a step that writes ends first.",
		"is quarantined", (*client.Client).QuarantineMachine)
	ignore := v.reasoned("ignore", "Leave a discovered machine to its own disk",
		"Leave a discovered machine to its own disk: it gets an address and no ramdisk. It stays on the list, and can be accepted. Ask an agent\nof the site.",
		"is ignored", (*client.Client).Ignore)
	c.AddCommand(power, explain, v.console(), v.release(), clearCmd, approve, quarantine, v.discovered(), v.accept(), ignore,
		v.hold("maintenance", "Hold a machine for work on it: nobody gets it, and nothing boots it", true),
		v.hold("resume", "End a machine's maintenance: it goes on where it was", false))
	return c
}

// at is the client and the site that the verbs are about.
func (v *verbs) at() (*client.Client, string, error) {
	cl, err := v.Client()
	if err != nil {
		return nil, "", err
	}
	if v.Site() == "" {
		return nil, "", &account.HintError{Err: &account.UsageError{Err: errors.New("cannot find a machine without its site")}, Next: "give --site SITE, or set it in the context"}
	}
	return cl, v.Site(), nil
}

// tell writes a line for people, and nothing for programs.
func (v *verbs) tell(format string, a ...any) error {
	out, form := v.Output()
	if form == "json" || form == "yaml" {
		return nil
	}
	_, err := fmt.Fprintf(out, format+"\n", a...)
	return err
}

func (v *verbs) release() *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use: "release NAME", Short: "Take a machine back from its instance: off, erased, and available with a receipt", Args: v.Args("NAME"),
		Long: "Take a machine back from its instance: it is powered off, all its disks are erased as Site.spec.erase says, and it is available\nagain once there is a receipt. What is on the disks is gone then. The array gets another machine, if one is free.",
		RunE: func(c *cobra.Command, given []string) error {
			cl, site, err := v.at()
			if err != nil {
				return err
			}
			if dryRun {
				return v.wouldRelease(c.Context(), cl, site, given[0])
			}
			if err := cl.Release(c.Context(), site, given[0]); err != nil {
				return v.Explain(err)
			}
			return v.tell("%s is being released; `skerry machine explain %s` follows it", given[0], given[0])
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say whose it is and what would become of its disks, change nothing")
	return c
}

// released is what a release would do.
type released struct {
	Machine  string `json:"machine"`
	State    string `json:"state"`
	Instance string `json:"instance"`
	Disks    string `json:"disks"` // what becomes of them
	DryRun   bool   `json:"dryRun"`
}

func (v *verbs) wouldRelease(ctx context.Context, cl *client.Client, site, name string) error {
	m, st, err := v.machine(ctx, cl, site, name)
	if err != nil {
		return err
	}
	if st == nil || st.Instance == "" {
		return fmt.Errorf("cannot release %s: it belongs to no instance", m.Metadata.Name)
	}
	if st.State == intent.StateReleasing || st.State == intent.StateErasing {
		return fmt.Errorf("cannot release %s: it is being released already (%s)", m.Metadata.Name, st.State)
	}
	info, _ := intent.KindSite.Info()
	o, err := cl.Get(ctx, info, "", site)
	if err != nil {
		return v.Explain(err)
	}
	w := released{Machine: name, State: string(st.State), Instance: st.Instance, Disks: "erased to the level of purge (NIST SP 800-88), or the machine is quarantined", DryRun: true}
	switch spec, _ := o.Spec.(*intent.SiteSpec); {
	case spec == nil:
		return fmt.Errorf("cannot read site %s: it is a %T", site, o.Spec)
	case spec.Erase == "clear":
		w.Disks = "erased: purge (NIST SP 800-88) where the disk can, else overwritten"
	case spec.Erase == "none":
		w.Disks = "kept: the machine is held until `skerry machine clear`"
	}
	return v.Print(w, func(t account.Table) {
		t.Header("MACHINE", "STATE", "INSTANCE", "DISKS")
		t.Row(w.Machine, w.State, w.Instance, w.Disks)
	})
}

// machine reads one, with its status; nil: it has none yet.
func (v *verbs) machine(ctx context.Context, cl *client.Client, site, name string) (*intent.Object, *intent.MachineStatus, error) {
	info, _ := intent.KindMachine.Info()
	o, err := cl.Get(ctx, info, site, name)
	if err != nil {
		return nil, nil, v.Explain(err)
	}
	if len(o.Status) == 0 {
		return o, nil, nil
	}
	st := &intent.MachineStatus{}
	if err := json.Unmarshal(o.Status, st); err != nil {
		return nil, nil, fmt.Errorf("cannot read the status of %s: %w", name, err)
	}
	return o, st, nil
}

// hold changes spec.maintenance.
func (v *verbs) hold(verb, short string, on bool) *cobra.Command {
	var reason string
	var dryRun bool
	c := &cobra.Command{
		Use: verb + " NAME", Short: short, Args: v.Args("NAME"),
		Long: short + ".\n\nThis is spec.maintenance of the Machine. A step that writes ends first; an instance that runs on it goes on running.",
		RunE: func(c *cobra.Command, given []string) error {
			cl, site, err := v.at()
			if err != nil {
				return err
			}
			o, _, err := v.machine(c.Context(), cl, site, given[0])
			if err != nil {
				return err
			}
			spec, ok := o.Spec.(*intent.MachineSpec)
			if !ok {
				return fmt.Errorf("cannot read machine %s: it is a %T", given[0], o.Spec)
			}
			spec.Maintenance, o.Status = on, nil
			res, err := cl.Put(c.Context(), o, dryRun, reason)
			if err != nil {
				return v.Explain(err)
			}
			return v.Results(res, dryRun)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why; kept in the audit log")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would change, change nothing")
	return c
}

// reasoned is a verb that an operator gives a reason for.
func (v *verbs) reasoned(verb, short, long, done string, do func(cl *client.Client, ctx context.Context, site, machine, reason string) error) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: verb + " NAME --reason TEXT", Short: short, Args: v.Args("NAME"), Long: long,
		RunE: func(c *cobra.Command, given []string) error {
			if reason == "" {
				return &account.UsageError{Err: fmt.Errorf("cannot %s without a reason: give --reason TEXT; it is kept in the event log", verb)}
			}
			cl, site, err := v.at()
			if err != nil {
				return err
			}
			if err := do(cl, c.Context(), site, given[0], reason); err != nil {
				return v.Explain(err)
			}
			if verb == "ignore" { // there is nothing to follow
				return v.tell("%s %s", given[0], done)
			}
			return v.tell("%s %s; `skerry machine explain %s` follows it", given[0], done, given[0])
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why; kept in the event log")
	return c
}
