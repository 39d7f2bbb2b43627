package pki

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/pki/holder"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/spf13/cobra"
)

// roots is what `pki init` was asked for, and what it answers.
type roots struct {
	Domain    string   `json:"domain"`
	Holders   int      `json:"holders"`
	Threshold int      `json:"threshold"`
	Files     []string `json:"files"`
	DryRun    bool     `json:"dryRun,omitempty"`

	out         string
	passphrases []string
	nextOnly    bool
}

// InitCmd returns `init`, which makes the roots of a domain.
func InitCmd(s account.Shell) *cobra.Command {
	v, r := verbs{s}, roots{}
	c := &cobra.Command{
		Use: "init --domain DOMAIN --holders N --threshold M --out DIR", Short: "Make the roots of a domain, on a computer without network", Args: s.Args(),
		Long: "Make the roots of a domain, on a computer that no network reaches. Each holder gets one file, locked by his passphrase (age): a key\n" +
			"that signs trust documents, the key that will take over after it, and the key of the root certificate. roots.json holds the public\n" +
			"halves, for `skerry coordinator init --roots`. As many holders as --threshold says must sign whatever changes who may speak: a\n" +
			"lost file stops nothing, and a stolen one signs nothing alone. With its passphrase it makes certificates that browsers believe, so\n" +
			"change the roots then. Give each holder his file, and keep none of the others'.",
		Example: "  skerry pki init --domain edge.example --holders 3 --threshold 2 --out roots\n" +
			"  skerry pki init --domain edge.example --holders 3 --threshold 2 --out roots2 --next   # the next roots, for `skerry pki rotate root`",
		RunE: func(*cobra.Command, []string) error { return v.makeRoots(r) },
	}
	f := c.Flags()
	f.StringVar(&r.Domain, "domain", "", "DNS name below which every site lies")
	f.IntVar(&r.Holders, "holders", 3, "how many holders there are")
	f.IntVar(&r.Threshold, "threshold", 2, "how many of them must sign")
	f.StringVar(&r.out, "out", "", "directory for the files")
	f.StringSliceVar(&r.passphrases, "passphrase-file", nil, "file with the passphrase of the first holder; repeat for each. Without: it is asked for")
	f.BoolVar(&r.nextOnly, "next", false, "only keys that are to be announced as the next roots of a domain that is there")
	f.BoolVar(&r.DryRun, "dry-run", false, "check and say what would be made, make nothing")
	return c
}

func (v verbs) makeRoots(r roots) error {
	if r.Domain == "" || r.out == "" {
		return &account.UsageError{Err: errors.New("cannot make roots: give --domain and --out")}
	}
	there, err := holder.Exists(r.out)
	if err != nil {
		return err
	}
	if there {
		return &account.HintError{Err: fmt.Errorf("cannot make roots: %s holds some already", r.out), Next: "give another --out; roots are never overwritten"}
	}
	hs, b, err := holder.Create(r.Domain, r.Holders, r.Threshold, !r.nextOnly, time.Now())
	if err != nil {
		return &account.UsageError{Err: err}
	}
	if len(r.passphrases) > 0 && len(r.passphrases) != len(hs) {
		return &account.UsageError{Err: fmt.Errorf("cannot make roots: %d passphrase files for %d holders", len(r.passphrases), len(hs))}
	}
	if r.DryRun {
		for _, h := range hs {
			r.Files = append(r.Files, filepath.Join(r.out, h.Name+".age"))
		}
		r.Files = append(r.Files, filepath.Join(r.out, holder.FileBundle))
		return v.printRoots(r)
	}
	locks := make([]seal.Lock, len(hs))
	for i, h := range hs {
		if len(r.passphrases) > 0 {
			locks[i].Passphrase, err = passphraseFrom(r.passphrases[i])
		} else {
			locks[i].Passphrase, err = askTwice(h.Name)
		}
		if err != nil {
			return err
		}
	}
	if r.Files, err = holder.Save(r.out, hs, locks, b); err != nil {
		return err
	}
	return v.printRoots(r)
}

func (v verbs) printRoots(r roots) error {
	return v.Print(r, func(t account.Table) {
		t.Row("domain", r.Domain, fmt.Sprintf("%d of %d must sign", r.Threshold, r.Holders))
		for _, f := range r.Files {
			t.Row("file", f)
		}
		switch public := r.Files[len(r.Files)-1]; {
		case r.DryRun:
			t.Row("dry run", "nothing was made")
		case r.nextOnly:
			t.Row("next", "skerry pki rotate root --next "+public)
		default:
			t.Row("next", "skerry coordinator init --domain "+r.Domain+" --addr HOST:PORT --roots "+public)
		}
	})
}

// passphraseFrom reads the first line of a file.
func passphraseFrom(path string) (seal.Secret, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return seal.Secret{}, fmt.Errorf("cannot read passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return seal.NewSecret(bytes.TrimSpace(line)), nil
}

// askTwice lets a holder type his passphrase two times.
func askTwice(name string) (seal.Secret, error) {
	first, err := account.AskSecret("passphrase of " + name + ": ")
	if err != nil {
		return seal.Secret{}, askHint(err)
	}
	again, err := account.AskSecret("again: ")
	if err != nil {
		return seal.Secret{}, askHint(err)
	}
	if !bytes.Equal(first, again) {
		return seal.Secret{}, errors.New("cannot make roots: the two passphrases differ")
	}
	return seal.NewSecret(first), nil
}

func askHint(err error) error {
	if errors.Is(err, account.ErrNoTerminal) {
		return &account.HintError{Err: err, Next: "give --passphrase-file FILE"}
	}
	return err
}

// signature is what `pki sign` was asked for, and what it answers.
type signature struct {
	File   string   `json:"file"`
	Holder string   `json:"holder"`
	Words  []string `json:"changes"`
	Added  int      `json:"added"`
	Have   int      `json:"have"`
	Of     int      `json:"of"`
	DryRun bool     `json:"dryRun,omitempty"`

	path, passphrase string
	yes, instead     bool
}

// SignCmd returns `sign`, with which a holder signs a trust document.
func SignCmd(s account.Shell) *cobra.Command {
	v, g := verbs{s}, signature{}
	c := &cobra.Command{
		Use: "sign FILE --holder HOLDER.age", Short: "Look at the next trust document and sign it, as a holder of the roots", Args: s.Args("FILE"),
		Long: "Look at the next trust document, and sign it. What it changes is said in words; read them, they are what you vouch for. The file is the\n" +
			"one that `skerry coordinator init` or `skerry pki rotate` wrote; the signature is added to it, and the next holder goes on with it.\n" +
			"It needs no network. A document that does not follow the one before it is refused, and so is a second one for a place that this\n" +
			"holder signed for: HOLDER.age.signed remembers it.",
		Example: "  skerry pki sign trust9.json --holder h1.age --dry-run\n  skerry pki sign trust9.json --holder h1.age",
		RunE: func(_ *cobra.Command, given []string) error {
			g.File = given[0]
			return v.sign(g)
		},
	}
	f := c.Flags()
	f.StringVar(&g.path, "holder", "", "file of the holder who signs")
	f.StringVar(&g.passphrase, "passphrase-file", "", "file with his passphrase. Without: it is asked for")
	f.BoolVar(&g.yes, "yes", false, "sign without asking")
	f.BoolVar(&g.instead, "instead", false, "this holder signed another document for the place; it never got enough signatures and is destroyed")
	f.BoolVar(&g.DryRun, "dry-run", false, "say what the document changes, sign nothing")
	return c
}

func (v verbs) sign(g signature) error {
	o, err := holder.LoadOffer(g.File)
	if err != nil {
		return &account.HintError{Err: err, Next: "FILE is what `skerry coordinator init --roots` or `skerry pki rotate` wrote"}
	}
	if g.Words, err = o.Words(); err != nil {
		return err
	}
	if g.Have, g.Of, err = o.Count(); err != nil {
		return err
	}
	if g.DryRun {
		return v.printSignature(g)
	}
	if g.path == "" {
		return &account.UsageError{Err: errors.New("cannot sign: give --holder FILE, or --dry-run to look at the document")}
	}
	if err := v.confirm(g); err != nil {
		return err
	}
	if err := unlockAndSign(&g, o); err != nil {
		return err
	}
	return v.printSignature(g)
}

// confirm asks for a yes after it has said what is signed.
func (v verbs) confirm(g signature) error {
	if g.yes {
		return nil
	}
	answer, err := account.Ask(strings.Join(g.Words, "\n") + "\nSign this? Type yes: ")
	if errors.Is(err, account.ErrNoTerminal) {
		return &account.HintError{Err: err, Next: "look at it with --dry-run, then give --yes"}
	}
	if err == nil && answer != "yes" {
		err = errors.New("not signed")
	}
	return err
}

func unlockAndSign(g *signature, o *holder.Offer) error {
	var phrase seal.Secret
	var err error
	if g.passphrase != "" {
		phrase, err = passphraseFrom(g.passphrase)
	} else {
		var b []byte
		b, err = account.AskSecret("passphrase of " + filepath.Base(g.path) + ": ")
		phrase, err = seal.NewSecret(b), askHint(err)
	}
	if err != nil {
		return err
	}
	h, err := holder.Unlock(g.path, seal.Key{Passphrase: phrase})
	if err != nil {
		return err
	}
	g.Holder = h.Name
	mark, err := holder.LoadMark(g.path)
	if err != nil {
		return err
	}
	if g.instead && mark.Seq == o.Body.Seq {
		mark = holder.Mark{}
	}
	if g.Added, mark, err = h.Sign(o, mark, time.Now()); errors.Is(err, holder.ErrTaken) {
		return &account.HintError{Err: err, Next: "two documents for one place tear the domain apart; only if the other never got enough signatures: destroy it, then --instead"}
	}
	if err != nil {
		return err
	}
	if err := holder.SaveMark(g.path, mark); err != nil { // before anybody sees the signature
		return err
	}
	if g.Have, g.Of, err = o.Count(); err != nil {
		return err
	}
	return holder.SaveOffer(g.File, o)
}

func (v verbs) printSignature(g signature) error {
	return v.Print(g, func(t account.Table) {
		for _, w := range g.Words {
			t.Row("change", w)
		}
		t.Row("signatures", fmt.Sprintf("%d of %d", g.Have, g.Of))
		switch {
		case g.DryRun:
			t.Row("dry run", "nothing was signed")
		case g.Have < g.Of:
			t.Row("next", "another holder: skerry pki sign "+g.File)
		default:
			t.Row("next", "give the file back to where it came from, and run the command that made it again")
		}
	})
}
