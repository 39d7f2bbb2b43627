package machine

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/api/discovery"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// discovered lists what booted and nobody declared, or shows one of it.
func (v *verbs) discovered() *cobra.Command {
	return &cobra.Command{
		Use: "discovered [ID]", Short: "List machines that booted from the network and that nobody declared", Args: cobra.MaximumNArgs(1),
		Long: "List machines that booted from the site's network and that nobody declared; with an ID or MAC address, show that one with its whole\ninventory. A site looks at such machines on subnets with spec.dynamic and spec.discovery: they get an address and a ramdisk that reports, and nothing else.",
		RunE: func(c *cobra.Command, given []string) error {
			cl, site, err := v.at()
			if err != nil {
				return err
			}
			if len(given) == 1 {
				m, err := v.one(c.Context(), cl, site, given[0])
				if err != nil {
					return err
				}
				out, form := v.Output()
				if form == "json" || form == "yaml" {
					return v.Print(m, nil)
				}
				return describe(out, m)
			}
			l, err := cl.Discovered(c.Context(), site, "")
			if err != nil {
				return v.Explain(err)
			}
			return v.Print(l, func(t account.Table) {
				t.Header("ID", "SERIAL", "MACHINE", "CPU", "MEMORY", "DISKS", "TYPE", "PORT", "LAST SEEN", "NOTE")
				for _, m := range l.Machines {
					t.Row(plain(m.ID), plain(m.Serial), plain(strings.TrimSpace(m.Vendor+" "+m.Product)), fmt.Sprint(m.CPUs), fmt.Sprintf("%d MiB", m.MemoryMiB), fmt.Sprint(len(m.Disks)),
						plain(typeOf(m)), plain(portOf(m)), m.Last.UTC().Format(time.RFC3339), plain(noteOf(m)))
				}
			})
		},
	}
}

// one is the discovered machine with that id, or that MAC address.
func (v *verbs) one(ctx context.Context, cl *client.Client, site, id string) (*discovery.FoundMachine, error) {
	id = strings.ReplaceAll(strings.ToLower(id), ":", "-")
	l, err := cl.Discovered(ctx, site, id)
	if err != nil {
		return nil, v.Explain(err)
	}
	for i := range l.Machines {
		if l.Machines[i].ID == id {
			return &l.Machines[i], nil
		}
	}
	return nil, &account.HintError{Err: fmt.Errorf("cannot find %s among the discovered machines of %s", id, site), Next: "`skerry machine discovered` lists them; a declared one is no longer there"}
}

func typeOf(m discovery.FoundMachine) string {
	switch {
	case m.MachineType != "":
		return m.MachineType
	case m.Nearest != "":
		return "none; nearly " + m.Nearest
	}
	return "none"
}

// portOf is what a relay says, else what the machine says that its switch says.
func portOf(m discovery.FoundMachine) string {
	switch p := m.Port; {
	case p != (discovery.FoundPort{}):
		return cmp.Or(strings.TrimSpace(p.Remote+" "+p.Circuit), "relay "+p.Relay)
	case len(m.Links) > 0:
		return cmp.Or(m.Links[0].System, m.Links[0].Chassis) + " " + m.Links[0].Port
	}
	return "-"
}

func noteOf(m discovery.FoundMachine) string {
	switch {
	case m.Ignored != nil:
		return "ignored: " + m.Ignored.Reason
	case m.Conflict != "":
		return m.Conflict
	case len(m.Notes) > 0:
		return m.Notes[0]
	}
	return "-"
}

// plain makes text of a machine that nobody knows harmless on a terminal, whatever server tells it.
func plain(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s)
}

// describe prints one for people.
func describe(w io.Writer, m *discovery.FoundMachine) error {
	var b strings.Builder
	line := func(what, f string, a ...any) { fmt.Fprintf(&b, "%-10s  %s\n", what, plain(fmt.Sprintf(f, a...))) }
	line("id", "%s", m.ID)
	line("machine", "%s %s, serial %q, UUID %s", m.Vendor, m.Product, m.Serial, m.UUID)
	line("is", "%d cpu, %d MiB, boots by %s", m.CPUs, m.MemoryMiB, m.Firmware)
	for _, d := range m.Disks {
		line("disk", "%d MiB %s %s, serial %q, WWN %q", d.SizeBytes>>20, d.Media, d.Model, d.Serial, d.WWN)
	}
	line("cards", "%s", strings.Join(m.MACs, " "))
	line("address", "%s of %s", m.Address, m.Subnet)
	line("port", "%s", portOf(*m))
	for _, l := range m.Links {
		line("link", "%s in %s of %s (%s), by LLDP: %s", l.MAC, l.Port, l.System, l.Chassis, l.Description)
	}
	line("seen", "%s to %s, by agent %s", m.First.UTC().Format(time.RFC3339), m.Last.UTC().Format(time.RFC3339), m.Agent)
	line("type", "%s", typeOf(*m))
	for _, d := range m.Differs {
		line("", "%s", d)
	}
	if m.Ignored != nil {
		line("ignored", "by %s at %s: %s", m.Ignored.By, m.Ignored.Time.UTC().Format(time.RFC3339), m.Ignored.Reason)
	}
	if m.Conflict != "" {
		line("conflict", "%s", m.Conflict)
	}
	for _, n := range m.Notes {
		line("note", "%s", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// accept declares a discovered machine.
func (v *verbs) accept() *cobra.Command {
	var name, reason string
	var dryRun, asIs, off bool
	bmc, add := intent.BMCSpec{}, intent.MachineSpec{}
	c := &cobra.Command{
		Use: "accept ID --name NAME", Short: "Declare a discovered machine: it is then one of the site's", Args: v.Args("ID"),
		Long: "Make the Machine of a discovered one: serial number, UUID and network cards as it told them. From then on it is declared as any other: the\nsite powers it through its BMC, inspects it anew, and it is available. Ask the coordinator: a site that is cut off declares nothing.\nOne whose serial number or MAC address is declared of another machine is refused: find out which is which first.",
		RunE: func(c *cobra.Command, given []string) error {
			if name == "" {
				return &account.UsageError{Err: fmt.Errorf("cannot accept %s without a name: give --name NAME", given[0])}
			}
			if (bmc.Address == "") != (bmc.Secret == "") {
				return &account.UsageError{Err: fmt.Errorf("cannot reach a BMC by one of --bmc and --bmc-secret: give both")}
			}
			cl, site, err := v.at()
			if err != nil {
				return err
			}
			m, err := v.one(c.Context(), cl, site, given[0])
			if err != nil {
				return err
			}
			if m.Conflict != "" {
				return &account.HintError{Err: fmt.Errorf("cannot accept %s: %s", m.ID, plain(m.Conflict)), Next: "if a part moved, change the Machine that it is declared of with `skerry apply`"}
			}
			if m.HoldsData && bmc.Address != "" && !off {
				return &account.HintError{
					Err:  fmt.Errorf("cannot accept %s without --power-off: it may run a system of its own, and is powered off at once to be inspected", m.ID),
					Next: "find out whose it is; with --power-off its disks stay as they are and it is held, with --as-is too it is available, and the next instance is written over them",
				}
			}
			spec := m.Spec
			spec.Rack, spec.Position = add.Rack, add.Position
			if asIs {
				spec.Onboard = "as-is"
			}
			if bmc.Address != "" {
				spec.BMC = &bmc
			}
			o := &intent.Object{APIVersion: intent.APIVersion, Kind: intent.KindMachine, Metadata: intent.Metadata{Name: name, Site: site}, Spec: &spec}
			res, err := cl.Put(c.Context(), o, dryRun, cmp.Or(reason, "discovered as "+m.ID))
			if err != nil {
				return v.Explain(err)
			}
			if err := v.Results(res, dryRun); err != nil || dryRun || spec.BMC != nil {
				return err
			}
			return v.tell("%s has no BMC: nothing can power it on to be inspected; give it spec.bmc with `skerry apply`", name)
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "name of the Machine")
	f.BoolVar(&off, "power-off", false, "accept a machine that may run a system of its own: it is powered off at once")
	f.StringVar(&bmc.Address, "bmc", "", "address of its BMC: host or host:port")
	f.StringVar(&bmc.Secret, "bmc-secret", "", "Secret of the site with username and password of the BMC")
	f.StringVar(&bmc.Protocol, "bmc-protocol", "redfish", "redfish or ipmi")
	f.StringVar(&add.Rack, "rack", "", "rack where it stands")
	f.IntVar(&add.Position, "position", 0, "rack unit, from 1")
	f.BoolVar(&asIs, "as-is", false, "take it into service though its disks hold data")
	f.StringVar(&reason, "reason", "", "why; kept in the audit log")
	f.BoolVar(&dryRun, "dry-run", false, "check and say what would be declared, change nothing")
	return c
}
