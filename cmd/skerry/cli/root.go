package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/doctor"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/documents"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/graph"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/machine"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/receipt"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/security"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/traffic"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/spf13/cobra"
)

// The exit codes (architecture section 10).
const (
	exitDone    = 0
	exitError   = 1
	exitUsage   = 2
	exitPartial = 3
	exitStale   = 4
)

// Streams are the standard streams of the process.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// app is what every verb shares. The flags are read by cobra before a verb runs.
type app struct {
	Streams
	getenv  func(string) string
	context string
	output  string
	site    string
	project string
}

// hintError carries the next command to try.
type hintError struct {
	err  error
	hint string
}

// Error returns the text of the wrapped error.
func (h *hintError) Error() string { return h.err.Error() }

// Unwrap returns the wrapped error.
func (h *hintError) Unwrap() error { return h.err }

func hint(err error, next string) error {
	if err == nil {
		return nil
	}
	return &hintError{err, next}
}

// exitCode is an error that only sets the exit code; its text was printed already.
type exitCode int

// Error returns nothing useful: Main prints nothing for it.
func (e exitCode) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// usageError is a wrong call.
type usageError struct{ err error }

// Error returns the text of the wrapped error.
func (u *usageError) Error() string { return u.err.Error() }

// Main runs one command and returns its exit code.
func Main(ctx context.Context, args []string, s Streams, getenv func(string) string) int {
	a := &app{Streams: s, getenv: getenv}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	if errors.Is(err, documents.ErrPartly) {
		return exitPartial
	}
	fmt.Fprintln(s.Err, "skerry:", err)
	if h, ok := errors.AsType[*hintError](err); ok {
		fmt.Fprintln(s.Err, "try:", h.hint)
	} else if h, ok := errors.AsType[*account.HintError](err); ok {
		fmt.Fprintln(s.Err, "try:", h.Next)
	}
	_, wrong := errors.AsType[*account.UsageError](err)
	if _, ok := errors.AsType[*usageError](err); ok || wrong || strings.HasPrefix(err.Error(), "unknown command") {
		return exitUsage
	}
	return exitError
}

func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use:   "skerry",
		Short: "Bare metal at many small, badly connected sites, as one self-service cloud",
		Long: `skerry runs the coordinator and the site agents, and is every verb for operators and users.

  skerry coordinator init --domain edge.example     make keys and the first administrator
  skerry coordinator --data DIR                     run the coordinator
  skerry agent --join TOKEN@HOST:PORT --data DIR    join a site and run its agent
  skerry apply -f site.yaml                         say what is wanted
  skerry get machines                               see what is
  skerry machine explain m1                         see why

A context names a server and a token; see "skerry context --help". With the WAN down, choose an agent of
the site: --context lon1.`,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	f := c.PersistentFlags()
	f.StringVar(&a.context, "context", "", "server to ask: a name from the configuration (SKERRY_CONTEXT)")
	f.StringVarP(&a.output, "output", "o", "table", "table, wide, json, yaml or name")
	f.StringVar(&a.site, "site", "", "site of the objects (SKERRY_SITE)")
	f.StringVarP(&a.project, "project", "p", "", "project of the objects (SKERRY_PROJECT)")
	c.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		for _, v := range []struct {
			to  *string
			env string
		}{{&a.context, "SKERRY_CONTEXT"}, {&a.site, "SKERRY_SITE"}, {&a.project, "SKERRY_PROJECT"}} {
			if *v.to == "" {
				*v.to = a.getenv(v.env)
			}
		}
		if slices.Contains([]string{"table", "wide", "json", "yaml", "name"}, a.output) || cmd.Annotations[a.output] != "" {
			return nil
		}
		return &usageError{fmt.Errorf("cannot print as %q: use table, wide, json, yaml or name", a.output)}
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	c.AddCommand(a.getCmd(), a.describeCmd(), a.applyCmd(), a.deleteCmd(), a.tokenCmd(), a.assetCmd(), machine.Command(shell{a}),
		a.siteCmd(), a.eventsCmd(), a.contextCmd(), a.whoamiCmd(), a.coordinatorCmd(), a.agentCmd(), a.pkiCmd(), a.overrideCmd(), a.auditCmd(), a.versionCmd())
	c.AddCommand(documents.Intent(shell{a}), receipt.Command(shell{a}), traffic.Command(shell{a}), traffic.Top(shell{a}), graph.Command(shell{a}), doctor.Command(shell{a}))
	c.AddCommand(account.Commands(shell{a})...)
	c.AddCommand(security.Commands(shell{a})...)
	return c
}

// args wants exactly the named arguments.
func args(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, given []string) error {
		if len(given) != len(names) {
			want := strings.Join(names, " ")
			if want == "" {
				want = "no arguments"
			}
			return &usageError{fmt.Errorf("want %s, got %d", want, len(given))}
		}
		return nil
	}
}

// argsUpTo wants at least the first of the named arguments, and no more than all.
func argsUpTo(least int, names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, given []string) error {
		if len(given) < least || len(given) > len(names) {
			want := strings.Join(names[:least], " ")
			for _, n := range names[least:] {
				want = strings.TrimSpace(want + " [" + n + "]")
			}
			return &usageError{fmt.Errorf("want %s, got %d", want, len(given))}
		}
		return nil
	}
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: args(), RunE: func(*cobra.Command, []string) error {
		fmt.Fprintln(a.Out, Version)
		return nil
	}}
}

// Version is the version of this build.
const Version = "0.1.0"

func (a *app) whoamiCmd() *cobra.Command {
	return &cobra.Command{Use: "whoami", Short: "Print who the server takes you for, and your roles", Args: args(), RunE: func(c *cobra.Command, _ []string) error {
		cl, err := a.client()
		if err != nil {
			return err
		}
		who, err := cl.Whoami(c.Context())
		if err != nil {
			return explainClient(err)
		}
		return a.print(who, func(t *table) {
			t.header("USER", "VIA", "ROLE", "PROJECT", "SITE")
			for _, b := range who.Bindings {
				t.row(who.User, who.Via, b.Role, orAll(b.Project), orAll(b.Site))
			}
		})
	}}
}

func orAll(s string) string {
	if s == "" {
		return "all"
	}
	return s
}

// explainClient adds the next step to what a server refused.
func explainClient(err error) error {
	switch {
	case errors.Is(err, account.ErrKeyRefused):
		return hint(err, "`skerry user key list USER` shows whose keys count; a site hears of a new one when its intent arrives")
	case client.Is(err, 401):
		return hint(err, "`skerry context set NAME --token TOKEN` with a fresh token of `skerry token user USER`, or --key FILE")
	case client.Is(err, 404):
		return hint(err, "`skerry get KIND` lists what you may see")
	case client.IsType(err, "elsewhere"):
		return hint(err, "`skerry --context SITE ...` asks an agent of the site")
	case client.Is(err, 412):
		return hint(err, "get the object again and repeat")
	}
	if _, ok := errors.AsType[*client.Problem](err); !ok && err != nil {
		return hint(err, "`skerry context list` shows the servers; with the WAN down use an agent of the site")
	}
	return err
}

// isTerminal tells whether progress bars make sense on w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
