package account

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/spf13/cobra"
)

// madeKey is what making a key answers; the private half is in the file only.
type madeKey struct {
	File       string `json:"file"`
	Public     string `json:"public"`
	SPKI       string `json:"spki"` // what `skerry revoke spki` takes
	User       string `json:"user,omitempty"`
	Passphrase string `json:"passphrase,omitempty"` // of a break-glass key: shown once
}

func (a *verbs) userKeyCmd() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Keys with which users authenticate, instead of tokens"}
	var name string
	create := &cobra.Command{
		Use: "create [FILE]", Short: "Make a key and its certificate, and print the public half to put on the User", Args: a.ArgsUpTo(0, "FILE"),
		Long: "Make a key and a certificate that it signs for itself, into FILE with mode 0600. Nothing is issued: as soon as the public half\n" +
			"stands on a User, the file opens the coordinator and every agent of the user's sites, with or without a coordinator.",
		Example: "  skerry user key create ana.key\n  skerry user key add ana \"$(skerry user key create ana.key)\"\n  skerry context set lon1 --server https://10.99.1.11:7444 --ca root.crt --key ana.key",
		RunE: func(_ *cobra.Command, given []string) error {
			path := "skerry-user.key"
			if len(given) == 1 {
				path = given[0]
			}
			key, m, err := makeKey(name)
			if err != nil {
				return err
			}
			m.File = path
			if err := newFile(path, func(w io.Writer) error { _, err := w.Write(key.Reveal()); return err }); err != nil {
				return err
			}
			return a.Token(m, m.Public)
		},
	}
	create.Flags().StringVar(&name, "name", "skerry user", "name in the certificate, for people only")
	var w writing
	add := &cobra.Command{
		Use: "add USER KEY", Short: "Let a user authenticate with a public key, given as text or in a file", Args: a.Args("USER", "KEY"), ValidArgsFunction: a.completeNames(intent.KindUser),
		Long: "Let a user authenticate with a public key, given as text or in a file: what `skerry user key create` printed, or what ssh-keygen wrote\nfor an Ed25519 or a P-256 key. The same key counts at the API, by certificate, and at agents' consoles, by SSH.",
		RunE: func(c *cobra.Command, given []string) error {
			k, err := publicKey(given[1])
			if err != nil {
				return err
			}
			return a.change(c, intent.Key{Kind: intent.KindUser, Name: given[0]}, w, func(o *intent.Object) error {
				s := o.Spec.(*intent.UserSpec)
				if !slices.ContainsFunc(s.Keys, func(h intent.UserKey) bool { return sameKey(h, k) }) {
					s.Keys = append(s.Keys, k)
				}
				return nil
			})
		},
	}
	w.flags(add)
	var rw writing
	remove := &cobra.Command{
		Use: "remove USER SPKI|KEY", Short: "Take a key off a user; its sessions end", Args: a.Args("USER", "KEY"), ValidArgsFunction: a.completeNames(intent.KindUser),
		Long: "Take a key off a user: its sessions end where the change has arrived. A stolen key is better revoked: `skerry revoke spki` reaches\nevery site the fastest way, and for ever.",
		RunE: func(c *cobra.Command, given []string) error {
			return a.change(c, intent.Key{Kind: intent.KindUser, Name: given[0]}, rw, func(o *intent.Object) error {
				s := o.Spec.(*intent.UserSpec)
				n := len(s.Keys)
				s.Keys = slices.DeleteFunc(s.Keys, func(k intent.UserKey) bool {
					spki, err := k.SPKI()
					return k.Public == given[1] || err == nil && len(given[1]) >= 12 && strings.HasPrefix(spki.Hex(), given[1])
				})
				if len(s.Keys) == n {
					return hint(fmt.Errorf("cannot remove: %s has no such key", given[0]), "`skerry user key list "+given[0]+"`")
				}
				return nil
			})
		},
	}
	rw.flags(remove)
	c.AddCommand(create, add, remove, a.userKeyListCmd())
	return c
}

func (a *verbs) userKeyListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list USER", Short: "List a user's keys", Args: a.Args("USER"), ValidArgsFunction: a.completeNames(intent.KindUser),
		RunE: func(c *cobra.Command, given []string) error {
			cl, err := a.Client()
			if err != nil {
				return err
			}
			info, _ := intent.KindUser.Info()
			o, err := cl.Get(c.Context(), info, "", given[0])
			if err != nil {
				return a.Explain(err)
			}
			keys := o.Spec.(*intent.UserSpec).Keys
			return a.Print(keys, func(t Table) {
				t.Header("SPKI", "EXPIRES", "PUBLIC")
				for _, k := range keys {
					spki, _ := k.SPKI() // the server has checked it
					expires := "never"
					if k.Expires != nil {
						expires = k.Expires.UTC().Format("2006-01-02T15:04:05Z")
					}
					t.Row(spki.Hex(), expires, strings.Join(strings.Fields(k.Public), " "))
				}
			})
		},
	}
}

func sameKey(a, b intent.UserKey) bool {
	x, err1 := a.SPKI()
	y, err2 := b.SPKI()
	return err1 == nil && err2 == nil && x == y
}

func makeKey(name string) (seal.Secret, madeKey, error) {
	key, der, err := seal.NewUserKey(name)
	if err != nil {
		return key, madeKey{}, err
	}
	return key, madeKey{Public: base64.StdEncoding.EncodeToString(der), SPKI: intent.DigestOf(der).Hex()}, nil
}

// newFile writes a file of mode 0600 that must not exist.
func newFile(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return hint(fmt.Errorf("cannot make key: %s is there already", path), "choose another FILE; a key is never overwritten")
	}
	if err != nil {
		return fmt.Errorf("cannot make key: %w", err)
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("cannot make key: %w", err), os.Remove(path))
	}
	return nil
}

func (a *verbs) breakGlassCmd() *cobra.Command {
	c := &cobra.Command{Use: "break-glass", Short: "Emergency users: every use of their key raises an alarm"}
	var w writing
	var out, name string
	create := &cobra.Command{
		Use: "create --site SITE --out FILE", Short: "Make an emergency user of one site, its key locked by a passphrase that is printed once", Args: a.Args(),
		Long: "Make a user with the roles operator and security at one site, for the day when nobody else gets in. Its key lies in FILE, encrypted\n" +
			"with age under a passphrase that is printed once: keep the two apart. Every use raises the event breakglass.used, a metric and an\n" +
			"audit record, and is shown by `skerry site status`. It opens the agents of the site with nobody above.",
		Example: "  skerry user break-glass create --site lon1 --out lon1-emergency.age\n  skerry context set lon1-emergency --server https://10.99.1.11:7444 --ca root.crt --key lon1-emergency.age",
		RunE: func(c *cobra.Command, _ []string) error {
			if !c.Flags().Changed("site") || out == "" {
				return hint(usage(errors.New("cannot make an emergency user: give --site SITE and --out FILE")), "`skerry get sites`")
			}
			if name == "" {
				name = "break-glass-" + a.Site()
			}
			key, m, err := makeKey(name)
			if err != nil {
				return err
			}
			m.File, m.User, m.Passphrase = out, name, passphrase()
			o := &intent.Object{Kind: intent.KindUser, Metadata: intent.Metadata{Name: name}, Spec: &intent.UserSpec{
				DisplayName: "emergencies at " + a.Site(), BreakGlass: true, Keys: []intent.UserKey{{Public: m.Public}},
				Bindings: []intent.RoleBinding{{Role: "operator", Site: a.Site()}, {Role: "security", Site: a.Site()}},
			}}
			if w.dryRun {
				return a.create(c, o, w)
			}
			if err := newFile(out, func(f io.Writer) error { return lockKey(f, key, m.Passphrase) }); err != nil {
				return err
			}
			if err := (&verbs{silent{a.Shell}}).create(c, o, w); err != nil {
				return errors.Join(err, os.Remove(out))
			}
			return a.Print(m, func(t Table) {
				t.Row("user", m.User)
				t.Row("key", m.File)
				t.Row("spki", m.SPKI)
				t.Row("passphrase", m.Passphrase, "shown once: keep it apart from the key")
			})
		},
	}
	create.Flags().StringVar(&out, "out", "", "file for the key; must not exist")
	create.Flags().StringVar(&name, "name", "", "of the user; default break-glass-SITE")
	w.flags(create)
	c.AddCommand(create)
	return c
}

// silent prints no results: what a verb says itself is enough.
type silent struct{ Shell }

// Results prints nothing.
func (silent) Results([]api.Result, bool) error { return nil }

// passphrase returns 100 random bits in groups that a person can type.
func passphrase() string {
	s := strings.ToLower(rand.Text())[:20] // base32: five bits each
	return strings.Join([]string{s[:5], s[5:10], s[10:15], s[15:]}, "-")
}

func lockKey(w io.Writer, key seal.Secret, passphrase string) error {
	enc, err := seal.Lock{Passphrase: seal.NewSecret([]byte(passphrase))}.Encrypt(w)
	if err != nil {
		return err
	}
	if _, err := enc.Write(key.Reveal()); err != nil {
		return err
	}
	return enc.Close()
}

// ageHeader begins what seal.Lock wrote.
const ageHeader = "age-encryption.org/v1\n"

// Certificate reads the key file of a context. A locked one asks for its passphrase: from the file that SKERRY_PASSPHRASE_FILE
// names, else on the terminal; never from the environment itself, which other programs see.
func Certificate(path string, getenv func(string) string) (tls.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot read key: %w", err)
	}
	if bytes.HasPrefix(b, []byte(ageHeader)) {
		phrase, err := askPassphrase(path, getenv)
		if err != nil {
			return tls.Certificate{}, err
		}
		r, err := seal.Key{Passphrase: seal.NewSecret(phrase)}.Decrypt(bytes.NewReader(b))
		if err != nil {
			return tls.Certificate{}, fmt.Errorf("cannot unlock key %s: %w", path, err)
		}
		if b, err = io.ReadAll(io.LimitReader(r, 1<<20)); err != nil {
			return tls.Certificate{}, fmt.Errorf("cannot unlock key %s: %w", path, err)
		}
	}
	c, err := seal.UserCertificate(b)
	return c, hint(err, "`skerry user key create FILE` makes a key")
}

func askPassphrase(path string, getenv func(string) string) ([]byte, error) {
	if file := getenv("SKERRY_PASSPHRASE_FILE"); file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read passphrase: %w", err)
		}
		return bytes.TrimSpace(b), nil
	}
	b, err := AskSecret("passphrase of " + filepath.Base(path) + ": ")
	if errors.Is(err, ErrNoTerminal) {
		return nil, hint(fmt.Errorf("cannot unlock key %s: %w", path, err), "name a file that holds the passphrase: SKERRY_PASSPHRASE_FILE=FILE")
	}
	return b, err
}

// ErrNoTerminal says that there is nobody to ask.
var ErrNoTerminal = errors.New("there is no terminal to ask on")

// Ask shows prompt on the terminal and returns the line that is typed. Errors: ErrNoTerminal.
func Ask(prompt string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", ErrNoTerminal
	}
	defer tty.Close()
	b, err := readLine(tty, prompt)
	return string(b), err
}

// AskSecret is Ask for what nobody may see. Errors: ErrNoTerminal.
func AskSecret(prompt string) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, ErrNoTerminal
	}
	defer tty.Close()
	fd := int(tty.Fd())
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("cannot ask for the passphrase: %w", err)
	}
	silent := *was
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &silent); err != nil {
		return nil, fmt.Errorf("cannot ask for the passphrase: %w", err)
	}
	defer func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, was) }() // it was possible a moment ago
	defer fmt.Fprintln(tty)
	return readLine(tty, prompt)
}

func readLine(tty *os.File, prompt string) ([]byte, error) {
	fmt.Fprint(tty, prompt)
	line := make([]byte, 1024) // a terminal hands over one line
	n, err := tty.Read(line)
	if err != nil {
		return nil, fmt.Errorf("cannot read from the terminal: %w", err)
	}
	return bytes.TrimSpace(line[:n]), nil
}

// ErrKeyRefused says that a server most probably ended the handshake because of the key that it was shown.
var ErrKeyRefused = errors.New("the server does not take the key of this context")

// KeyTripper names what happens to a client whose certificate is refused. In TLS 1.3 its own handshake is over when the server judges
// it, so that the server's alert, or only the end of the connection, meets the first request.
type KeyTripper struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (k KeyTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := k.RoundTripper.RoundTrip(r)
	if err == nil || r.Context().Err() != nil {
		return res, err
	}
	text := err.Error()
	if strings.Contains(text, "tls: bad certificate") || strings.Contains(text, "http2: client conn") ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w (%w)", ErrKeyRefused, err)
	}
	return nil, err
}
