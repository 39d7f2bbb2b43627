package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/spf13/cobra"
)

// findKind accepts Kind, plural, singular or alias, in any case.
func findKind(s string) (intent.KindInfo, error) {
	l := strings.ToLower(s)
	for _, i := range intent.Kinds() {
		if l == i.Plural || l == strings.ToLower(string(i.Kind)) || (i.Short != "" && l == i.Short) {
			return i, nil
		}
	}
	return intent.KindInfo{}, hint(&usageError{fmt.Errorf("cannot find kind %q", s)}, "`skerry get kinds`")
}

// scope returns the project or site that a kind's key needs, from flags and context.
func (a *app) scope(info intent.KindInfo) (string, error) {
	switch info.Scope {
	case intent.ScopeSite:
		if a.site == "" {
			return "", hint(&usageError{fmt.Errorf("cannot find a %s without its site", info.Kind)}, "give --site SITE, or set it in the context")
		}
		return a.site, nil
	case intent.ScopeProject:
		if a.project == "" {
			return "", hint(&usageError{fmt.Errorf("cannot find a %s without its project", info.Kind)}, "give --project PROJECT")
		}
		return a.project, nil
	}
	return "", nil
}

func completeKinds(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var out []string
	for _, i := range intent.Kinds() {
		out = append(out, i.Plural)
	}
	return append(out, "kinds"), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) getCmd() *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use: "get KIND [NAME]", Short: "List objects, or print one", ValidArgsFunction: completeKinds,
		Example: "  skerry get machines\n  skerry get machine m1 --site lon1 -o yaml\n  skerry get instancearrays -w\n  skerry get kinds",
		Args:    argsUpTo(1, "KIND", "NAME"),
		RunE: func(c *cobra.Command, given []string) error {
			if given[0] == "kinds" {
				return a.printKinds()
			}
			info, err := findKind(given[0])
			if err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			if watch {
				return a.watchKind(c, cl, info)
			}
			if len(given) == 1 {
				items, err := cl.List(c.Context(), info, a.site, a.project)
				if err != nil {
					return explainClient(err)
				}
				return a.printObjects(items)
			}
			scope, err := a.scope(info)
			if err != nil {
				return err
			}
			o, err := cl.Get(c.Context(), info, scope, given[1])
			if err != nil {
				return explainClient(err)
			}
			if a.structured() {
				return a.print(o, nil)
			}
			return a.printObjects([]*intent.Object{o})
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on printing changes")
	return c
}

func (a *app) printKinds() error {
	return a.print(kindNames(), func(t *table) {
		t.header("KIND", "NAME", "ALIAS", "SCOPE")
		for _, i := range intent.Kinds() {
			t.row(string(i.Kind), i.Plural, i.Short, [...]string{"global", "site", "project"}[i.Scope])
		}
	})
}

func kindNames() []string {
	var out []string
	for _, i := range intent.Kinds() {
		out = append(out, string(i.Kind))
	}
	return out
}

func (a *app) watchKind(c *cobra.Command, cl *client.Client, info intent.KindInfo) error {
	return explainClient(cl.Watch(c.Context(), info.Kind, func(ch api.Change) error {
		if ch.Object == nil || !info.Selects(ch.Object, a.site, a.project) {
			return nil
		}
		if a.structured() {
			return a.printLine(ch)
		}
		_, err := fmt.Fprintf(a.Out, "%-6s %s  %s\n", ch.Type, ch.Object.Key(), summary(ch.Object))
		return err
	}))
}

func (a *app) printObjects(items []*intent.Object) error {
	if a.output == "name" {
		for _, o := range items {
			fmt.Fprintln(a.Out, o.Key())
		}
		return nil
	}
	return a.print(items, func(t *table) {
		cols := []string{"NAME", "SCOPE", "GEN", "STATUS"}
		if a.output == "wide" {
			cols = append(cols, "UID", "AGE")
		}
		t.header(cols...)
		for _, o := range items {
			r := []string{o.Metadata.Name, o.Key().Scope, fmt.Sprint(o.Metadata.Rev), summary(o)}
			if a.output == "wide" {
				created := time.Time{}
				if o.Metadata.Created != nil {
					created = *o.Metadata.Created
				}
				r = append(r, o.Metadata.UID, account.Age(created, time.Now()))
			}
			t.row(r...)
		}
	})
}

// summary is one line about an object's status, or about its spec where there is none.
func summary(o *intent.Object) string {
	origin := ""
	if o.Metadata.Origin != "" {
		origin = " (" + o.Metadata.Origin + ")"
	}
	switch s := o.Spec.(type) {
	case *intent.MachineSpec:
		var st intent.MachineStatus
		if len(o.Status) > 0 && json.Unmarshal(o.Status, &st) == nil {
			return strings.TrimSpace(strings.Join([]string{string(st.State), st.Phase, st.Instance, st.Address, st.Reason}, " ")) + origin
		}
		return "expected" + origin
	case *intent.InstanceArraySpec:
		var st intent.ArrayStatus
		if len(o.Status) > 0 && json.Unmarshal(o.Status, &st) == nil {
			return fmt.Sprintf("%d of %d running%s", st.Running, s.Count, origin)
		}
		return fmt.Sprintf("%d wanted%s", s.Count, origin)
	case *intent.SubnetPoolSpec:
		return s.Prefix
	case *intent.SwitchSpec:
		at := strings.Join(s.SFlow.Agents, ", ")
		if at == "" && s.SNMP != nil {
			at = "SNMP " + s.SNMP.Address
		}
		return fmt.Sprintf("%s, %d ports", at, len(s.Ports))
	case *intent.AssetSpec:
		return fmt.Sprintf("%s %s %d bytes", s.Class, s.Digest.Short(), s.Size)
	case *intent.ImageSpec:
		return s.OS + " " + s.Version
	case *intent.SiteSpec:
		return s.Region + "/" + s.Zone
	case *intent.AgentSpec:
		return s.Management
	}
	return strings.TrimSpace(account.Summary(o) + origin)
}

func (a *app) describeCmd() *cobra.Command {
	var fields bool
	c := &cobra.Command{
		Use: "describe KIND [NAME]", Short: "Print one object in full, or the fields of a kind", Args: argsUpTo(1, "KIND", "NAME"), ValidArgsFunction: completeKinds,
		Example: "  skerry describe machine m1 --site lon1\n  skerry describe --fields instancearray",
		RunE: func(c *cobra.Command, given []string) error {
			info, err := findKind(given[0])
			if err != nil {
				return err
			}
			if fields {
				return a.printFields(info)
			}
			if len(given) == 1 {
				return hint(&usageError{fmt.Errorf("cannot describe a %s without its name", info.Kind)}, "`skerry describe --fields "+given[0]+"` lists the fields of the kind")
			}
			return a.describe(c, info, given[1])
		},
	}
	c.Flags().BoolVar(&fields, "fields", false, "list the fields that documents of the kind may have")
	return c
}

// describe prints one object in full.
func (a *app) describe(c *cobra.Command, info intent.KindInfo, name string) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	scope, err := a.scope(info)
	if err != nil {
		return err
	}
	o, err := cl.Get(c.Context(), info, scope, name)
	if err != nil {
		return explainClient(err)
	}
	if a.structured() {
		return a.print(o, nil)
	}
	if a.output == "name" {
		return a.printObjects([]*intent.Object{o})
	}
	b, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	y, err := yaml.JSONToYAML(b)
	if err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	_, err = fmt.Fprintf(a.Out, "# %s\n# %s\n%s", o.Key(), summary(o), y)
	return err
}

func (a *app) applyCmd() *cobra.Command {
	var file, reason string
	var dryRun bool
	var wait time.Duration
	c := &cobra.Command{
		Use: "apply -f FILE", Short: "Create or change what a file describes: all of it or nothing", Args: args(),
		Example: "  skerry apply -f examples/first-site.yaml --dry-run\n  cat site.yaml | skerry apply -f -\n  skerry --context lon1 apply -f one-more.yaml   # while the WAN is down",
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return &usageError{errors.New("cannot apply nothing: give -f FILE")}
			}
			docs, err := a.readDocuments(file)
			if err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			raw := make([]json.RawMessage, len(docs))
			for i, d := range docs {
				raw[i] = d.json
			}
			res, err := cl.Apply(c.Context(), raw, dryRun, reason)
			if err != nil {
				return explainClient(withPlaces(err, docs))
			}
			if err := a.printResults(res, dryRun); err != nil || dryRun || wait == 0 {
				return err
			}
			return a.waitFor(c.Context(), cl, docs, wait)
		},
	}
	c.Flags().DurationVar(&wait, "wait", 0, "wait until every instance array of the file runs, and show how it goes; exit 3 when time is up")
	c.Flags().StringVarP(&file, "file", "f", "", "file with YAML or JSON documents, - for standard input")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check and say what would change, change nothing")
	c.Flags().StringVar(&reason, "reason", "", "kept in the audit log")
	return c
}

// withPlaces puts the place in the file before each problem that the server found.
func withPlaces(err error, docs []*document) error {
	p, ok := errors.AsType[*client.Problem](err)
	if !ok {
		return err
	}
	for i := range p.Errors {
		e := &p.Errors[i]
		for _, d := range docs {
			if e.Object != nil && d.obj.Key() == *e.Object {
				e.Message = e.Location + ": " + e.Message
				e.Location = d.place(strings.TrimSpace(e.Location))
			}
		}
	}
	return err
}

func (a *app) printResults(res []api.Result, dryRun bool) error {
	sort.SliceStable(res, func(i, j int) bool { return res[i].Action < res[j].Action })
	return a.print(res, func(t *table) {
		t.header("OBJECT", "ACTION", "GEN", "OVERRIDE")
		for _, r := range res {
			action := r.Action
			if dryRun {
				action += " (dry run)"
			}
			t.row(r.Object.String(), action, fmt.Sprint(r.Rev), r.Override)
		}
	})
}

func (a *app) deleteCmd() *cobra.Command {
	var dryRun bool
	var reason string
	c := &cobra.Command{
		Use: "delete KIND NAME", Short: "Delete one object", Args: args("KIND", "NAME"), ValidArgsFunction: completeKinds,
		RunE: func(c *cobra.Command, given []string) error {
			info, err := findKind(given[0])
			if err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			scope, err := a.scope(info)
			if err != nil {
				return err
			}
			res, err := cl.Delete(c.Context(), info, scope, given[1], dryRun, reason)
			if err != nil {
				return explainClient(err)
			}
			return a.printResults(res, dryRun)
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check and say what would change, change nothing")
	c.Flags().StringVar(&reason, "reason", "", "kept in the audit log")
	return c
}
