package security

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/spf13/cobra"
)

type verbs struct{ account.Shell }

// Commands returns `revoke` and `secret`.
func Commands(s account.Shell) []*cobra.Command {
	v := verbs{s}
	return []*cobra.Command{v.revokeCmd(), v.secretCmd()}
}

// AgentCommands returns what hangs below `agent`.
func AgentCommands(s account.Shell) []*cobra.Command {
	v := verbs{s}
	return []*cobra.Command{v.agentListCmd(), v.agentRevokeCmd(), v.agentQuarantineCmd()}
}

func (v verbs) secretCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "secret", Short: "Set the secrets of a site and make them anew", Args: v.Args(),
		Long: "Secrets of a site: what opens BMCs, and other values that its agents need. Their values are sealed to each agent by itself, under a\n" +
			"data key of its own; nothing returns them. `skerry get secrets` lists names and versions.",
		Example: "  skerry secret set bmc --site lon1 --value username=root --value-file password=pw.txt\n  skerry secret status --site lon1",
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(v.setCmd(), v.rotateCmd(), v.statusCmd())
	return c
}

// values are the flags that give a secret its values.
type values struct{ plain, files []string }

// maxValue bounds one value, in octets (mesh/intent holds it to the same).
const maxValue = 8192

// tells says that the value of this name must not stand in a process list.
func tells(name string) bool {
	return slices.ContainsFunc([]string{"pass", "secret", "token", "key", "pin"}, func(t string) bool { return strings.Contains(strings.ToLower(name), t) })
}

// read returns all values. Names that tell of a secret are taken from files only; "-" is standard input.
func (x values) read(stdin io.Reader) (map[string]string, error) {
	out := map[string]string{}
	for i, kv := range append(slices.Clone(x.plain), x.files...) {
		k, val, ok := strings.Cut(kv, "=")
		if !ok || k == "" || val == "" {
			return nil, &account.UsageError{Err: fmt.Errorf("cannot read %q: give NAME=VALUE or, with --value-file, NAME=FILE", k)}
		}
		if _, twice := out[k]; twice {
			return nil, &account.UsageError{Err: fmt.Errorf("cannot set %s: it is given twice", k)}
		}
		if i < len(x.plain) {
			if tells(k) {
				return nil, &account.UsageError{Err: fmt.Errorf("cannot take %s from the command line, which every user of this host sees: --value-file %s=FILE, or %s=- for standard input", k, k, k)}
			}
			out[k] = val
			continue
		}
		b, err := readValue(val, stdin)
		if err != nil {
			return nil, fmt.Errorf("cannot read value of %s: %w", k, err)
		}
		out[k] = b
	}
	return out, nil
}

// readValue reads a file, without the line end that an editor leaves.
func readValue(path string, stdin io.Reader) (string, error) {
	r := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxValue+2))
	if err != nil {
		return "", err
	}
	s := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if len(s) > maxValue {
		return "", fmt.Errorf("%s holds more than %d octets", path, maxValue)
	}
	if s == "" {
		return "", errors.New("it is empty")
	}
	return s, nil
}

func (v verbs) setCmd() *cobra.Command {
	var x values
	var kind, reason string
	var dryRun bool
	c := &cobra.Command{
		Use: "set NAME --site SITE --value NAME=VALUE --value-file NAME=FILE", Short: "Make a secret, or give it new values", Args: v.Args("NAME"),
		Long: "Make a secret, or give it new values: all of them, as nothing returns the old ones. Type bmc wants username and password; without a\n" +
			"password it asks on the terminal. This is for what was changed at its source already; `skerry secret rotate --bmc` changes it there.",
		Example: "  skerry secret set bmc --site lon1 --value username=root\n  skerry secret set bmc --site lon1 --value username=root --value-file password=- < pw.txt\n" +
			"  skerry secret set api --site lon1 --type opaque --value-file token=token.txt --dry-run",
		RunE: func(c *cobra.Command, given []string) error {
			data, err := x.read(c.InOrStdin())
			if err != nil {
				return err
			}
			if kind == "bmc" && data["password"] == "" {
				b, err := account.AskSecret("password of " + data["username"] + " at the BMCs: ")
				if errors.Is(err, account.ErrNoTerminal) {
					return &account.UsageError{Err: fmt.Errorf("cannot set %s without a password: --value-file password=FILE", given[0])}
				}
				if err != nil {
					return err
				}
				data["password"] = string(b)
			}
			return v.set(c, given[0], kind, data, dryRun, reason)
		},
	}
	c.Flags().StringArrayVar(&x.plain, "value", nil, "NAME=VALUE of what is no secret by itself, like username=root")
	c.Flags().StringArrayVar(&x.files, "value-file", nil, "NAME=FILE that holds the value, without its last line end; - is standard input")
	c.Flags().StringVar(&kind, "type", "bmc", "bmc, snmp (community, or username, auth-password and priv-password), opaque")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check and say what would change, change nothing")
	c.Flags().StringVar(&reason, "reason", "", "kept in the audit log")
	if err := c.RegisterFlagCompletionFunc("type", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"bmc", "snmp", "opaque"}, cobra.ShellCompDirectiveNoFileComp
	}); err != nil {
		panic("cli: the flag was just made: " + err.Error())
	}
	return c
}

// site is the site that must be named.
func (v verbs) site() (string, error) {
	if !intent.IsLabel(v.Site()) {
		return "", &account.UsageError{Err: errors.New("cannot tell which site: give --site SITE")}
	}
	return v.Site(), nil
}

func (v verbs) set(c *cobra.Command, name, kind string, data map[string]string, dryRun bool, reason string) error {
	site, err := v.site()
	if err != nil {
		return err
	}
	cl, err := v.Client()
	if err != nil {
		return err
	}
	info, _ := intent.KindSecret.Info()
	o := &intent.Object{APIVersion: intent.APIVersion, Kind: intent.KindSecret, Metadata: intent.Metadata{Name: name, Site: site}, Spec: &intent.SecretSpec{Type: kind, Data: data}}
	switch have, err := cl.Get(c.Context(), info, site, name); {
	case client.Is(err, 404):
	case err != nil:
		return v.Explain(err)
	default:
		if s, ok := have.Spec.(*intent.SecretSpec); ok && s.Type != kind {
			return &account.UsageError{Err: fmt.Errorf("cannot set %s: it is of type %s; --type %s, or delete it first", name, s.Type, s.Type)}
		}
		o.Metadata = have.Metadata
	}
	res, err := cl.Put(c.Context(), o, dryRun, reason)
	if err != nil {
		return v.Explain(err)
	}
	return v.Results(res, dryRun)
}

func (v verbs) rotateCmd() *cobra.Command {
	var r api.SecretRotation
	var wait time.Duration
	c := &cobra.Command{
		Use: "rotate --agent SITE/AGENT | --site SITE [--bmc NAME]", Short: "Make data keys or BMC passwords anew", Args: v.Args(),
		Long: "Make the data keys anew under which an agent, or every agent of a site, is told its secrets; each secret is told again. With --bmc,\n" +
			"give every BMC that a secret opens a new password: an agent of the site sets it over Redfish, logs in with it, and only then is the\n" +
			"one before it forgotten. A BMC that refuses or cannot be reached keeps the one before until it can. Exit code 3 while one does.",
		Example: "  skerry secret rotate --agent lon1/a1\n  skerry secret rotate --site lon1 --dry-run\n  skerry secret rotate --site lon1 --bmc bmc --reason yearly",
		RunE: func(c *cobra.Command, _ []string) error {
			site := v.Site()
			if r.Agent != "" {
				var err error
				if site, r.Agent, err = v.splitAgent(r.Agent); err != nil {
					return err
				}
			} else if _, err := v.site(); err != nil {
				return err
			}
			return v.rotate(c, site, r, wait)
		},
	}
	c.Flags().StringVar(&r.Agent, "agent", "", "SITE/AGENT whose data key is made anew; without it, every agent's of --site")
	c.Flags().StringVar(&r.BMC, "bmc", "", "secret of type bmc whose password is made anew")
	c.Flags().StringVar(&r.Reason, "reason", "", "kept in the audit log")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "say what would be made anew, change nothing")
	c.Flags().DurationVar(&wait, "wait", time.Minute, "how long to follow BMCs that can be reached")
	if err := c.RegisterFlagCompletionFunc("agent", account.CompleteAgents(v)); err != nil {
		panic("cli: the flag was just made: " + err.Error())
	}
	return c
}

func (v verbs) rotate(c *cobra.Command, site string, r api.SecretRotation, wait time.Duration) error {
	cl, err := v.Client()
	if err != nil {
		return err
	}
	st, err := cl.RotateSecrets(c.Context(), site, r)
	if err != nil {
		return v.Explain(err)
	}
	if r.BMC != "" {
		st.DataKeys = []api.DataKeyStatus{}
		st.BMCs = slices.DeleteFunc(st.BMCs, func(b api.BMCSecret) bool { return b.Name != r.BMC })
		if !r.DryRun {
			if err := v.follow(c.Context(), cl, site, st.BMCs, wait); err != nil {
				return v.Explain(err)
			}
		}
	}
	if err := v.Print(st, func(t account.Table) { printSecrets(t, st) }); err != nil || r.DryRun || r.BMC == "" {
		return err
	}
	return v.unfinished(st.BMCs)
}

// followEvery is how often a change that moves is asked for; a BMC takes some seconds.
const followEvery = time.Second

// follow asks until every BMC of the secrets took the newest password, or time is up. It writes what it saw last into bs.
func (v verbs) follow(ctx context.Context, cl *client.Client, site string, bs []api.BMCSecret, wait time.Duration) error {
	end := time.Now().Add(wait)
	for unfinished(bs) && time.Now().Before(end) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(followEvery, time.Until(end))):
		}
		st, err := cl.SecretStatus(ctx, site)
		if err != nil {
			return err
		}
		for i := range bs {
			for _, now := range st.BMCs {
				if now.Name == bs[i].Name {
					now.Held = bs[i].Held
					bs[i] = now
				}
			}
		}
	}
	return nil
}

// unfinished tells whether a change is under way, or was not begun.
func unfinished(bs []api.BMCSecret) bool {
	return slices.ContainsFunc(bs, func(b api.BMCSecret) bool { return b.Since != nil || b.Held != "" })
}

func (v verbs) unfinished(bs []api.BMCSecret) error {
	if unfinished(bs) {
		return v.Partial()
	}
	return nil
}

func (v verbs) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use: "status --site SITE", Short: "How far a site's data keys and BMC passwords are", Args: v.Args(),
		Example: "  skerry secret status --site lon1",
		RunE: func(c *cobra.Command, _ []string) error {
			site, err := v.site()
			if err != nil {
				return err
			}
			cl, err := v.Client()
			if err != nil {
				return err
			}
			st, err := cl.SecretStatus(c.Context(), site)
			if err != nil {
				return v.Explain(err)
			}
			return v.Print(st, func(t account.Table) { printSecrets(t, st) })
		},
	}
}

func printSecrets(t account.Table, st *api.SecretStatus) {
	for _, k := range st.DataKeys {
		dek, far := fmt.Sprintf("data key %d", k.DEK), "has it"
		if k.From != 0 {
			dek = fmt.Sprintf("data key %d -> %d", k.From, k.DEK)
		}
		switch {
		case k.Applied < k.DEK:
			far = fmt.Sprintf("reported %d", k.Applied)
		case k.Behind > 0:
			far = fmt.Sprintf("%d under an older one", k.Behind)
		}
		t.Row("agent", st.Site+"/"+k.Agent, dek, fmt.Sprintf("%d secrets", k.Records), far)
	}
	rowsOf(t, st.BMCs)
}

// rowsOf prints secrets of BMCs, and of those under way the machines that are left.
func rowsOf(t account.Table, bs []api.BMCSecret) {
	for _, b := range bs {
		state := "no change under way"
		switch {
		case b.Held != "":
			state = b.Held
		case b.Since != nil:
			state = "changing since " + account.Age(*b.Since, time.Now())
		}
		t.Row("secret", b.Name, fmt.Sprintf("version %d", b.Ver), fmt.Sprintf("%d of %d BMCs took it", len(b.Machines)-b.Left(), len(b.Machines)), state)
		for _, m := range b.Machines {
			if b.Since != nil && !m.Done {
				t.Row("machine", m.Machine, fmt.Sprintf("version %d", m.Ver), "keeps the password before", "`skerry events --machine "+m.Machine+"` says why")
			}
		}
	}
}
