package cli

import (
	"io"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/asset"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/doctor"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/documents"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/graph"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/line"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/pki"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/traffic"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/spf13/cobra"
)

// shell is the app as verbs of other packages see it.
type shell struct{ a *app }

var (
	_ account.Shell   = shell{}
	_ asset.Shell     = shell{}
	_ doctor.Shell    = shell{}
	_ documents.Shell = shell{}
	_ graph.Shell     = shell{}
	_ line.Shell      = shell{}
	_ pki.Shell       = shell{}
	_ traffic.Shell   = shell{}
)

// Partial ends the command with the exit code of what is not finished.
func (s shell) Partial() error { return exitCode(exitPartial) }

// Client implements account.Shell, like the rest.
func (s shell) Client() (*client.Client, error) { return s.a.client() }

// ClientOf implements pki.Shell.
func (s shell) ClientOf(context string) (*client.Client, error) {
	if context == "" {
		return s.a.client()
	}
	a := *s.a
	a.context, a.site = context, ""
	return a.client()
}

// Site is the site that flags, environment or context chose.
func (s shell) Site() string {
	if s.a.site == "" {
		if c, err := s.a.server(); err == nil { // else Client says what is missing
			s.a.site = c.Site
		}
	}
	return s.a.site
}

// Project is the project that flags or environment chose.
func (s shell) Project() string { return s.a.project }

// Print writes v, or a table.
func (s shell) Print(v any, fill func(account.Table)) error {
	return s.a.print(v, func(t *table) { fill(rows{t}) })
}

// Line writes one value of a stream.
func (s shell) Line(v any) error { return s.a.printLine(v) }

// Token writes v, or the text alone.
func (s shell) Token(v any, text string) error { return s.a.printToken(v, text) }

// Output is where a verb writes, and in which form.
func (s shell) Output() (io.Writer, string) { return s.a.Out, s.a.output }

// Results writes what became of objects.
func (s shell) Results(res []api.Result, dryRun bool) error { return s.a.printResults(res, dryRun) }

// Objects writes a list.
func (s shell) Objects(items []*intent.Object) error { return s.a.printObjects(items) }

// Describe writes one object in full.
func (s shell) Describe(c *cobra.Command, info intent.KindInfo, name string) error {
	return s.a.describe(c, info, name)
}

// Progress is where progress is told, and whether a bar makes sense there.
func (s shell) Progress() (io.Writer, bool) { return s.a.Err, isTerminal(s.a.Err) }

// Out implements graph.Shell, as Getenv does.
func (s shell) Out() io.Writer { return s.a.Out }

// Getenv reads the environment.
func (s shell) Getenv(name string) string { return s.a.getenv(name) }

// Explain adds the next step to what a server refused.
func (s shell) Explain(err error) error { return explainClient(err) }

// FindKind accepts a kind's names.
func (s shell) FindKind(name string) (intent.KindInfo, error) { return findKind(name) }

// Args wants exactly the named arguments.
func (s shell) Args(names ...string) cobra.PositionalArgs { return args(names...) }

// ArgsUpTo wants at least the first of them.
func (s shell) ArgsUpTo(least int, names ...string) cobra.PositionalArgs {
	return argsUpTo(least, names...)
}

// rows is a table as others see it.
type rows struct{ t *table }

// Header adds the first row.
func (r rows) Header(cols ...string) { r.t.header(cols...) }

// Row adds a row.
func (r rows) Row(cols ...string) { r.t.row(cols...) }
