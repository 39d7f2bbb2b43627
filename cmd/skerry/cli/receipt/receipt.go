package receipt

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/spf13/cobra"
)

// Shell is what the verbs need of the command line.
type Shell interface {
	// Client returns a client of the chosen context.
	Client() (*client.Client, error)
	// Site is what flags, environment and context say.
	Site() string
	// Print writes v for programs, or the table that fill makes.
	Print(v any, fill func(account.Table)) error
	// Output is where a verb writes, and in which form.
	Output() (io.Writer, string)
	// Explain adds the next step to what a server refused.
	Explain(err error) error
	Args(names ...string) cobra.PositionalArgs
	ArgsUpTo(least int, names ...string) cobra.PositionalArgs
}

// maxFile bounds a file of receipts, in octets: tens of thousands of them.
const maxFile = 256 << 20

type verbs struct{ Shell }

// Command returns `skerry receipt`.
func Command(s Shell) *cobra.Command {
	v := &verbs{s}
	c := &cobra.Command{
		Use: "receipt", Short: "Signed proofs that a machine's disks were erased", Args: s.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	list := &cobra.Command{
		Use: "list [MACHINE]", Short: "List receipts of a site, or save them to be verified elsewhere", Args: s.ArgsUpTo(0, "MACHINE"),
		Example: "  skerry receipt list --site lon1\n  skerry receipt list m2 -o json > m2.receipts.json",
		RunE: func(c *cobra.Command, given []string) error {
			l, err := v.fetch(c, append(given, "")[0])
			if err != nil {
				return err
			}
			return v.Print(l, func(t account.Table) { listTable(t, l) })
		},
	}
	show := &cobra.Command{
		Use: "show MACHINE", Short: "Print the last receipt of a machine as a page", Args: s.Args("MACHINE"),
		RunE: func(c *cobra.Command, given []string) error {
			l, err := v.fetch(c, given[0])
			if err != nil {
				return err
			}
			rs := bodies(l)
			if len(rs) == 0 {
				return &account.HintError{Err: fmt.Errorf("cannot show a receipt of %s: there is none", given[0]), Next: "`skerry machine explain " + given[0] + "` tells what it waits for"}
			}
			last := slices.MaxFunc(rs, func(a, b *erasure.Receipt) int {
				return cmp.Or(cmp.Compare(a.Generation, b.Generation), a.Time.Compare(b.Time))
			})
			out, form := v.Output()
			if form == "json" || form == "yaml" {
				return v.Print(last, nil)
			}
			return page(out, last)
		},
	}
	c.AddCommand(list, show, v.verifyCmd())
	return c
}

func (v *verbs) fetch(c *cobra.Command, machine string) (*erasure.List, error) {
	cl, err := v.Client()
	if err != nil {
		return nil, err
	}
	if v.Site() == "" {
		return nil, &account.HintError{Err: errors.New("cannot find receipts without a site"), Next: "give --site SITE, or set it in the context"}
	}
	l, err := cl.Receipts(c.Context(), v.Site(), machine)
	if err != nil {
		return nil, v.Explain(err)
	}
	return l, nil
}

// bodies reads the receipts of a list without verifying them.
func bodies(l *erasure.List) []*erasure.Receipt {
	var out []*erasure.Receipt
	for _, env := range l.Receipts {
		r := &erasure.Receipt{}
		if env != nil && json.Unmarshal(env.Payload, r) == nil {
			out = append(out, r)
		}
	}
	return out
}

func listTable(t account.Table, l *erasure.List) {
	t.Header("RECEIPT", "MACHINE", "SERIAL", "PROJECT", "GENERATION", "DISKS", "METHODS", "TIME")
	for _, r := range bodies(l) {
		t.Row(fmt.Sprintf("%s/%d", r.Agent, r.Seq), r.Machine.Name, r.Machine.Serial, r.Project, fmt.Sprint(r.Generation), fmt.Sprint(len(r.Drives)), methods(r), r.Time.UTC().Format(time.RFC3339))
	}
}

func methods(r *erasure.Receipt) string {
	var ms []string
	for _, d := range r.Drives {
		if !slices.Contains(ms, d.Method) {
			ms = append(ms, d.Method)
		}
	}
	return strings.Join(ms, ",")
}

// page prints a receipt for people.
func page(w io.Writer, r *erasure.Receipt) error {
	var b strings.Builder
	fmt.Fprintf(&b, "RECEIPT OF ERASURE %s/%s/%d\n\n", r.Site, r.Agent, r.Seq)
	fmt.Fprintf(&b, "machine     %s, serial %s, UUID %s\n", r.Machine.Name, r.Machine.Serial, r.Machine.UUID)
	fmt.Fprintf(&b, "was of      project %s, instance %s, generation %d\n", r.Project, r.Instance, r.Generation)
	fmt.Fprintf(&b, "required    %s (NIST SP 800-88)\n", r.Required)
	fmt.Fprintf(&b, "result      %s, signed %s by agent %s of %s\n", r.Result, r.Time.UTC().Format(time.RFC3339), r.Agent, r.Site)
	fmt.Fprintf(&b, "permission  %s, claim %s, task %s\n", r.Permission.Short(), r.Claim, r.Task)
	fmt.Fprintf(&b, "tool        %s, kernel %s\n", r.Tool.Version, r.Tool.Kernel)
	for i, d := range r.Drives {
		fmt.Fprintf(&b, "\ndisk %d      %s %s, serial %s, WWN %s, firmware %s\n", i+1, d.Vendor, d.Model, d.Serial, d.WWN, d.Firmware)
		fmt.Fprintf(&b, "            %d octets, %s\n", d.SizeBytes, d.Media)
		fmt.Fprintf(&b, "  method    %s, reaches %s\n", d.Method, d.Level)
		fmt.Fprintf(&b, "  time      %s to %s\n", d.Start.UTC().Format(time.RFC3339), d.End.UTC().Format(time.RFC3339))
		fmt.Fprintf(&b, "  device    %s\n", d.DeviceStatus)
		if d.Smart != "" {
			fmt.Fprintf(&b, "  health    %s, as the disk said before it was erased\n", d.Smart)
		}
		fmt.Fprintf(&b, "  canary    %d blocks were written before, %d can be read after\n", d.Canary.Blocks, d.Canary.Found)
		if d.Samples > 0 {
			fmt.Fprintf(&b, "  samples   %d pieces of 4 MiB read, all zeros\n", d.Samples)
		}
	}
	for _, e := range r.Exceptions {
		fmt.Fprintf(&b, "\nleft alone  %s\n", e)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verdict is what verify says of one receipt.
type verdict struct {
	Receipt string `json:"receipt"` // SITE/AGENT/SEQ
	Machine string `json:"machine"`
	Serial  string `json:"serial"`
	Disks   int    `json:"disks"`
	State   string `json:"state"`
}

func (v *verbs) verifyCmd() *cobra.Command {
	var trust, pin string
	c := &cobra.Command{
		Use: "verify [FILE] --trust FILE", Short: "Verify receipts offline: signatures, signers, places in their chains", Args: v.ArgsUpTo(0, "FILE"),
		Long: "Verify receipts of a file that `skerry receipt list -o json` made (`-` is standard input), or of the site. What counts is the trust\n" +
			"document alone: it lists the writers, a writer signed the roster that names the agent's key, and that key signed the receipt.\n" +
			"A part of a chain has gaps, which are told; a receipt in another's place, or that does not follow the one before, is a failure. Exit 1.\n\n" +
			"The trust document is a file that you vouch for, like trust.json of `skerry pki init`; or all of them, in a file of\n" +
			"`skerry intent export`, from wherever it came: they count from the one that --pin names, which `skerry coordinator init` printed.",
		Example: "  skerry receipt list --site lon1 -o json > lon1.receipts.json\n  skerry receipt verify lon1.receipts.json --trust trust.json\n" +
			"  skerry intent export lon1 -o lon1.jsonl\n  skerry receipt verify lon1.receipts.json --trust lon1.jsonl --pin sha256:...",
		RunE: func(c *cobra.Command, given []string) error {
			if trust == "" {
				return &account.HintError{Err: errors.New("cannot verify without a trust document"), Next: "give --trust FILE: trust.json of `skerry pki init`, or a file of `skerry intent export` with --pin"}
			}
			writers, err := writersOf(trust, pin)
			if err != nil {
				return err
			}
			var l *erasure.List
			if len(given) == 0 {
				l, err = v.fetch(c, "")
			} else {
				l, err = read(given[0], c.InOrStdin())
			}
			if err != nil {
				return err
			}
			vs, bad := judge(l, writers)
			err = v.Print(vs, func(t account.Table) {
				t.Header("RECEIPT", "MACHINE", "SERIAL", "DISKS", "STATE")
				for _, x := range vs {
					t.Row(x.Receipt, x.Machine, x.Serial, fmt.Sprint(x.Disks), x.State)
				}
			})
			if err == nil && bad > 0 {
				err = fmt.Errorf("cannot trust %d of %d receipts", bad, len(l.Receipts))
			}
			if err == nil && len(l.Receipts) == 0 {
				err = errors.New("cannot verify receipts: there is none")
			}
			return err
		},
	}
	c.Flags().StringVar(&trust, "trust", "", "file of a trust document of the domain, or of intent export")
	c.Flags().StringVar(&pin, "pin", "", "digest of the first trust document")
	return c
}

func read(path string, stdin io.Reader) (*erasure.List, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read receipts: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxFile))
	if err != nil {
		return nil, fmt.Errorf("cannot read receipts: %w", err)
	}
	l := &erasure.List{}
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("cannot read receipts of %s: %w", path, err)
	}
	return l, nil
}

// judge verifies each receipt, and the order of those that are genuine. bad counts failures.
func judge(l *erasure.List, writers []intent.Writer) (out []verdict, bad int) {
	type signed struct {
		r    *erasure.Receipt
		hash intent.Digest
		at   int
	}
	chains := map[string][]signed{}
	for i, env := range l.Receipts {
		r, err := document.VerifyReceipt(env, l.Rosters, writers)
		if err != nil {
			out = append(out, verdict{Receipt: fmt.Sprintf("number %d of the file", i+1), State: "FAILED: " + err.Error()})
			bad++
			continue
		}
		id := r.Site + "/" + r.Agent
		chains[id] = append(chains[id], signed{r, env.Digest(), len(out)})
		out = append(out, verdict{Receipt: fmt.Sprintf("%s/%d", id, r.Seq), Machine: r.Machine.Name, Serial: r.Machine.Serial, Disks: len(r.Drives), State: "holds"})
	}
	for _, c := range chains {
		slices.SortStableFunc(c, func(a, b signed) int { return cmp.Compare(a.r.Seq, b.r.Seq) })
		for i, s := range c {
			v := &out[s.at]
			switch {
			case i == 0 && s.r.Seq > 1:
				v.State = "holds; what came before it is not here"
			case i == 0:
			case s.hash == c[i-1].hash:
				v.State = "holds; it comes twice"
			case s.r.Seq == c[i-1].r.Seq:
				v.State, bad = "FAILED: another receipt has its place: the chain forked", bad+1
			case s.r.Seq > c[i-1].r.Seq+1:
				v.State = "holds; what came before it is not here"
			case s.r.Prev != c[i-1].hash.String():
				v.State, bad = "FAILED: it does not follow the one before", bad+1
			}
		}
	}
	return out, bad
}
