package account

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/spf13/cobra"
)

// Table takes the rows of a table for people.
type Table interface {
	Header(cols ...string)
	Row(cols ...string)
}

// Shell is what the verbs need of the command line that they hang in.
type Shell interface {
	// Client returns a client of the chosen context.
	Client() (*client.Client, error)
	// Site and Project are what flags, environment and context say.
	Site() string
	Project() string
	// Print writes v for programs, or the table that fill makes; Token writes v, or the text alone.
	Print(v any, fill func(Table)) error
	Token(v any, text string) error
	Results(res []api.Result, dryRun bool) error
	Objects(items []*intent.Object) error
	Describe(c *cobra.Command, info intent.KindInfo, name string) error
	// Explain adds the next step to what a server refused.
	Explain(err error) error
	FindKind(name string) (intent.KindInfo, error)
	Args(names ...string) cobra.PositionalArgs
	ArgsUpTo(least int, names ...string) cobra.PositionalArgs
	// Partial ends a command with the exit code of what is not finished.
	Partial() error
}

// HintError carries the next command to try.
type HintError struct {
	Err  error
	Next string
}

// Error returns the text of the wrapped error.
func (h *HintError) Error() string { return h.Err.Error() }

// Unwrap returns the wrapped error.
func (h *HintError) Unwrap() error { return h.Err }

func hint(err error, next string) error {
	if err == nil {
		return nil
	}
	return &HintError{err, next}
}

// UsageError is a wrong call.
type UsageError struct{ Err error }

// Error returns the text of the wrapped error.
func (u *UsageError) Error() string { return u.Err.Error() }

// Unwrap returns the wrapped error.
func (u *UsageError) Unwrap() error { return u.Err }

func usage(err error) error { return &UsageError{err} }

type verbs struct{ Shell }

// Commands returns `user`, `group`, `role`, `project` and `quota`.
func Commands(s Shell) []*cobra.Command {
	a := &verbs{s}
	return []*cobra.Command{a.userCmd(), a.groupCmd(), a.roleCmd(), a.projectCmd(), a.quotaCmd()}
}

// writing are the flags of a verb that changes something.
type writing struct {
	dryRun bool
	reason string
}

func (w *writing) flags(c *cobra.Command) {
	c.Flags().BoolVar(&w.dryRun, "dry-run", false, "check and say what would change, change nothing")
	c.Flags().StringVar(&w.reason, "reason", "", "kept in the audit log")
}

// completeLimit is how long a shell waits for names.
const completeLimit = 3 * time.Second

// completeNames offers the names of a kind's objects as the first argument.
func (a *verbs) completeNames(kind intent.Kind) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return complete(a.Shell, kind, func(o *intent.Object) string { return o.Metadata.Name })
}

// CompleteAgents offers SITE/AGENT as the first argument, or as a flag's value.
func CompleteAgents(s Shell) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return complete(s, intent.KindAgent, func(o *intent.Object) string { return o.Metadata.Site + "/" + o.Metadata.Name })
}

func complete(s Shell, kind intent.Kind, text func(*intent.Object) string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(c *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(given) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), completeLimit)
		defer cancel()
		cl, err := s.Client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		info, _ := kind.Info()
		site, project := "", s.Project()
		if info.Scope == intent.ScopeSite {
			site, project = s.Site(), ""
		}
		items, err := cl.List(ctx, info, site, project)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var out []string
		for _, o := range items {
			out = append(out, text(o))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// change reads one object, changes it and puts it back if nobody was faster.
func (a *verbs) change(c *cobra.Command, k intent.Key, w writing, fn func(o *intent.Object) error) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	info, _ := k.Kind.Info()
	o, err := cl.Get(c.Context(), info, k.Scope, k.Name)
	if client.Is(err, 404) {
		return hint(err, fmt.Sprintf("`skerry %s create %s`; `skerry %s list` shows those that you may see", strings.ToLower(string(k.Kind)), k.Name, strings.ToLower(string(k.Kind))))
	}
	if err != nil {
		return a.Explain(err)
	}
	o.Status = nil
	if err := fn(o); err != nil {
		return err
	}
	return a.put(c, cl, o, w)
}

// create puts an object that must be new.
func (a *verbs) create(c *cobra.Command, o *intent.Object, w writing) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	o.APIVersion = intent.APIVersion
	err = a.put(c, cl, o, w)
	if client.Is(err, 412) {
		one := strings.ToLower(string(o.Kind))
		return hint(fmt.Errorf("cannot create %s: it exists already", o.Key()), fmt.Sprintf("`skerry %s describe %s`; `skerry apply` changes it", one, o.Metadata.Name))
	}
	return err
}

func (a *verbs) put(c *cobra.Command, cl *client.Client, o *intent.Object, w writing) error {
	res, err := cl.Put(c.Context(), o, w.dryRun, w.reason)
	if err != nil {
		return a.Explain(err)
	}
	return a.Results(res, w.dryRun)
}

// listing is `skerry KIND list` and `skerry KIND describe NAME`.
func (a *verbs) listing(kind intent.Kind) []*cobra.Command {
	info, _ := kind.Info()
	list := &cobra.Command{
		Use: "list", Short: "List " + info.Plural + " that you may see", Args: a.Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.Client()
			if err != nil {
				return err
			}
			items, err := cl.List(c.Context(), info, a.Site(), a.Project())
			if err != nil {
				return a.Explain(err)
			}
			return a.Objects(items)
		},
	}
	describe := &cobra.Command{
		Use: "describe NAME", Short: "Print one " + strings.ToLower(string(kind)) + " in full", Args: a.Args("NAME"), ValidArgsFunction: a.completeNames(kind),
		RunE: func(c *cobra.Command, given []string) error { return a.Describe(c, info, given[0]) },
	}
	return []*cobra.Command{list, describe}
}

// bindingFlags names a binding by the flags that were given: a site or project of the context or the environment must not narrow it
// unsaid.
type bindingFlags struct{ role string }

func (b *bindingFlags) flags(a *verbs, c *cobra.Command) {
	c.Flags().StringVar(&b.role, "role", "", "reader, member, owner, operator, security, auditor, or one of your own")
	if err := c.RegisterFlagCompletionFunc("role", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return intent.BuiltinRoles(), cobra.ShellCompDirectiveNoFileComp
	}); err != nil {
		panic("cli: the flag was just made: " + err.Error())
	}
}

func (b *bindingFlags) binding(a *verbs, c *cobra.Command) (intent.RoleBinding, error) {
	if b.role == "" {
		return intent.RoleBinding{}, hint(usage(errors.New("cannot bind without a role: give --role ROLE")), "`skerry role list`")
	}
	r := intent.RoleBinding{Role: b.role}
	if c.Flags().Changed("site") {
		r.Site = a.Site()
	}
	if c.Flags().Changed("project") {
		r.Project = a.Project()
	}
	return r, nil
}

// bindCmds are bind and unbind of a kind whose bindings at points to.
func (a *verbs) bindCmds(kind intent.Kind, at func(o *intent.Object) *[]intent.RoleBinding) []*cobra.Command {
	one := strings.ToLower(string(kind))
	make1 := func(use, short, example string, edit func(have []intent.RoleBinding, b intent.RoleBinding) ([]intent.RoleBinding, error)) *cobra.Command {
		var b bindingFlags
		var w writing
		c := &cobra.Command{
			Use: use + " NAME --role ROLE [--project PROJECT] [--site SITE]", Short: short, Args: a.Args("NAME"), ValidArgsFunction: a.completeNames(kind), Example: example,
			RunE: func(c *cobra.Command, given []string) error {
				binding, err := b.binding(a, c)
				if err != nil {
					return err
				}
				return a.change(c, intent.Key{Kind: kind, Name: given[0]}, w, func(o *intent.Object) error {
					list, err := edit(*at(o), binding)
					*at(o) = list
					return err
				})
			},
		}
		b.flags(a, c)
		w.flags(c)
		return c
	}
	bind := make1("bind", "Give a "+one+" a role, in one project, at one site, or everywhere", "  skerry "+one+" bind NAME --role member --project acme\n  skerry "+one+" bind NAME --role operator --site lon1",
		func(have []intent.RoleBinding, b intent.RoleBinding) ([]intent.RoleBinding, error) {
			if slices.Contains(have, b) {
				return have, nil
			}
			return append(have, b), nil
		})
	unbind := make1("unbind", "Take a role from a "+one+"; the binding must be named as it stands", "  skerry "+one+" unbind NAME --role member --project acme",
		func(have []intent.RoleBinding, b intent.RoleBinding) ([]intent.RoleBinding, error) {
			i := slices.Index(have, b)
			if i < 0 {
				return nil, hint(fmt.Errorf("cannot unbind: there is no binding %s", bindingText(b)), "`skerry "+one+" describe NAME` lists them")
			}
			return slices.Delete(have, i, i+1), nil
		})
	return []*cobra.Command{bind, unbind}
}

// bindingText is "member of acme at lon1".
func bindingText(b intent.RoleBinding) string {
	s := b.Role
	if b.Project != "" {
		s += " of " + b.Project
	}
	if b.Site != "" {
		s += " at " + b.Site
	}
	return s
}

// Summary is one line about an account's spec, for tables.
func Summary(o *intent.Object) string {
	bindings := func(bs []intent.RoleBinding) string {
		var out []string
		for _, b := range bs {
			out = append(out, bindingText(b))
		}
		return strings.Join(out, ", ")
	}
	switch s := o.Spec.(type) {
	case *intent.UserSpec:
		text := fmt.Sprintf("%d keys, %d tokens: %s", len(s.Keys), len(s.Tokens), bindings(s.Bindings))
		if s.BreakGlass {
			text = "break-glass, " + text
		}
		return text
	case *intent.GroupSpec:
		return fmt.Sprintf("%d members: %s", len(s.Members), bindings(s.Bindings))
	case *intent.ProjectSpec:
		return "at " + strings.Join(s.Sites, ", ")
	case *intent.QuotaSpec:
		return fmt.Sprintf("at %s: %s, offline %s", o.Metadata.Site, counts(s.Machines), counts(s.Offline.Machines))
	case *intent.RoleSpec:
		var out []string
		for _, r := range s.Rules {
			out = append(out, fmt.Sprintf("%v %v", r.Verbs, r.Kinds))
		}
		return strings.Join(out, ", ")
	}
	return ""
}

func counts(m map[string]int) string {
	var out []string
	for k, n := range m {
		out = append(out, fmt.Sprintf("%s=%d", k, n))
	}
	slices.Sort(out)
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, " ")
}

// Age prints how long before now t was, in its largest unit.
func Age(t, now time.Time) string {
	switch d := max(now.Sub(t), 0); {
	case t.IsZero():
		return "never"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
