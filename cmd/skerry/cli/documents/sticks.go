package documents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/spf13/cobra"
)

// Shell is what the verbs need of the command line that they hang in.
type Shell interface {
	// Client returns a client of the chosen context.
	Client() (*client.Client, error)
	// Site is what flags, environment and context say.
	Site() string
	// Print writes v for programs, or the table that fill makes.
	Print(v any, fill func(account.Table)) error
	// Explain adds the next step to what a server refused.
	Explain(err error) error
	Args(names ...string) cobra.PositionalArgs
	ArgsUpTo(least int, names ...string) cobra.PositionalArgs
}

// ErrPartly says that something needs a person; what it is was printed.
var ErrPartly = errors.New("not all of it was taken")

type verbs struct{ Shell }

// Intent returns `skerry intent`.
func Intent(s Shell) *cobra.Command {
	v := &verbs{s}
	c := &cobra.Command{
		Use: "intent", Short: "How far signed intent is, and how it reaches a site without a line",
		Long: "How far the signed streams (trust, revocations, a site's intent) are, and how they reach a site by file.\n\n" +
			"A site without a line lives by sticks. Down, from the coordinator to any one agent of the site; the others take it from that one:\n\n" +
			"  skerry intent export lon1 -o lon1.jsonl\n  skerry --context lon1 intent import lon1.jsonl\n\n" +
			"Up, what the site changed and did; the answers go down with the next export:\n\n" +
			"  skerry --context lon1 site export -o up.jsonl\n  skerry site import up.jsonl\n\n" +
			"Everything on a stick is signed, secrets are sealed: whoever carries it can lose it, and do no more.",
	}
	c.AddCommand(v.statusCmd(), v.exportCmd("export [SITE] -o FILE", "Write the stick that goes down to a site: ask the coordinator", true), v.importCmd(
		"import FILE", "Take a stick that came down: ask an agent of the site", "intent import"))
	return c
}

// Site returns the subcommands of `skerry site`.
func Site(s Shell) []*cobra.Command {
	v := &verbs{s}
	return []*cobra.Command{
		v.exportCmd("export [SITE] -o FILE", "Write the stick that goes up: ask an agent of the site", false),
		v.importCmd("import FILE", "Take a stick that came up: ask the coordinator", "site import"),
	}
}

// site chooses the site: the argument, the flag, or the one that the asked agent is of.
func (v *verbs) site(ctx context.Context, cl *client.Client, given []string) (string, error) {
	if len(given) == 1 {
		return given[0], nil
	}
	if v.Site() != "" {
		return v.Site(), nil
	}
	info, err := cl.Info(ctx)
	if err != nil {
		return "", v.Explain(err)
	}
	if info.Site == "" {
		return "", &account.UsageError{Err: errors.New("cannot choose a site: name it, or give --site")}
	}
	return info.Site, nil
}

func (v *verbs) exportCmd(use, short string, down bool) *cobra.Command {
	out, from := "", uint64(1)
	c := &cobra.Command{
		Use: use, Short: short, Args: v.ArgsUpTo(0, "SITE"), ValidArgsFunction: v.completeSites,
		RunE: func(c *cobra.Command, given []string) error {
			if out == "" {
				return &account.UsageError{Err: errors.New("cannot write a stick without a file: give -o FILE, or -o - for standard output")}
			}
			cl, err := v.Client()
			if err != nil {
				return err
			}
			site, err := v.site(c.Context(), cl, given)
			if err != nil {
				return err
			}
			if err := v.check(c.Context(), cl, down); err != nil {
				return err
			}
			if out == "-" {
				_, err := cl.ExportStick(c.Context(), site, from, c.OutOrStdout())
				return v.Explain(err)
			}
			n, err := write(out, func(w io.Writer) (int64, error) { return cl.ExportStick(c.Context(), site, from, w) })
			if err != nil {
				return v.Explain(err)
			}
			return v.Print(map[string]any{"site": site, "file": out, "octets": n}, func(t account.Table) {
				t.Row("stick of "+site, out, fmt.Sprintf("%d octets", n))
			})
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "file to write; - for standard output")
	if down {
		c.Flags().Uint64Var(&from, "from", 1, "first entry of intent; the agent must have those before it")
	}
	return c
}

// check asks whether the right end was chosen, before a file is written there.
func (v *verbs) check(ctx context.Context, cl *client.Client, down bool) error {
	info, err := cl.Info(ctx)
	if err != nil {
		return v.Explain(err)
	}
	if down != (info.Role == "coordinator") {
		next := map[bool]string{true: "`skerry intent export` asks a coordinator: choose another --context", false: "`skerry --context SITE site export` asks an agent of the site"}[down]
		return &account.HintError{Err: fmt.Errorf("cannot export: %s %s is the other end", info.Role, info.ID), Next: next}
	}
	return nil
}

// write writes a file whole or not at all: what is under the name is on disk to its end.
func write(path string, fill func(io.Writer) (int64, error)) (n int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".stick-*")
	if err != nil {
		return 0, fmt.Errorf("cannot write stick: %w", err)
	}
	n, err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return n, errors.Join(err, os.Remove(f.Name()))
	}
	return n, nil
}

func (v *verbs) importCmd(use, short, name string) *cobra.Command {
	dry := false
	c := &cobra.Command{
		Use: use, Short: short, Args: v.Args("FILE"),
		Long: short + ".\n\nEach document counts by its own signature and its place in its stream. A file that breaks off is taken as far as it verified; taking\n" +
			"it again changes nothing. Exit code 3: something was refused, is not in force, or is missing; the answer says what and why.",
		Example: "  skerry " + name + " lon1.jsonl --dry-run\n  skerry " + name + " lon1.jsonl",
		RunE: func(c *cobra.Command, given []string) error {
			cl, err := v.Client()
			if err != nil {
				return err
			}
			f, err := os.Open(given[0])
			if err != nil {
				return fmt.Errorf("cannot read stick: %w", err)
			}
			defer f.Close()
			site, err := v.site(c.Context(), cl, nil)
			if err != nil {
				return err
			}
			res, err := cl.ImportStick(c.Context(), site, f, dry)
			if err != nil {
				return v.Explain(err)
			}
			if err := v.Print(res, func(t account.Table) { resultTable(t, res) }); err != nil {
				return err
			}
			if !res.Whole() {
				return ErrPartly
			}
			return nil
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "verify and say what would be taken, change nothing")
	return c
}

func resultTable(t account.Table, r *api.StickResult) {
	state := "taken"
	if r.DryRun {
		state = "would be taken"
	}
	t.Row("stick of "+r.Site, "by "+r.By, "made "+account.Age(r.Made, time.Now())+" ago")
	for _, h := range []struct {
		name          string
		before, after intent.Head
	}{
		{"trust", r.Before.Trust, r.After.Trust},
		{"revocation", r.Before.Revocation, r.After.Revocation},
		{"intent", r.Before.Intent, r.After.Intent},
		{"active", r.Before.Active, r.After.Active},
	} {
		t.Row(h.name, place(h.before), "-> "+place(h.after))
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Taken)) {
		if n := r.Taken[kind]; n > 0 {
			t.Row(kind, fmt.Sprint(n), state)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Known)) {
		if n := r.Known[kind]; n > 0 {
			t.Row(kind, fmt.Sprint(n), "known")
		}
	}
	for _, n := range r.Notes {
		t.Row("note", n)
	}
	for _, x := range r.Refused {
		at := "refused"
		if x.Line > 0 {
			at = fmt.Sprintf("refused, line %d", x.Line)
		}
		t.Row(at, x.Kind, x.Why)
	}
	if r.Rejected != "" {
		t.Row("not in force", r.Rejected, "the last good state stays")
	}
	if r.Partial != "" {
		t.Row("not whole", r.Partial, "what came before it counts; take a whole file to go on")
	}
}

// place is EPOCH.SEQ and the beginning of the hash; trust has no epoch.
func place(h intent.Head) string {
	if h.Seq == 0 {
		return "-"
	}
	s := fmt.Sprint(h.Seq)
	if h.Epoch > 0 {
		s = fmt.Sprintf("%d.%d", h.Epoch, h.Seq)
	}
	if h.Hash != (intent.Digest{}) {
		s += " " + h.Hash.Short()
	}
	return s
}

// completeLimit is how long a shell waits for names.
const completeLimit = 3 * time.Second

// completeSites offers the sites that one may see.
func (v *verbs) completeSites(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), completeLimit)
	defer cancel()
	cl, err := v.Client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	info, _ := intent.KindSite.Info()
	items, err := cl.List(ctx, info, "", "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []string
	for _, o := range items {
		out = append(out, o.Metadata.Name)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
