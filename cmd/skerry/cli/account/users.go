package account

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/spf13/cobra"
)

func (a *verbs) userCmd() *cobra.Command {
	c := &cobra.Command{Use: "user", Short: "Users, their keys and their roles"}
	var w writing
	var display string
	create := &cobra.Command{
		Use: "create NAME", Short: "Make a user, without rights yet", Args: a.Args("NAME"),
		Example: "  skerry user create ana\n  skerry user bind ana --role member --project acme\n  skerry token user ana",
		RunE: func(c *cobra.Command, given []string) error {
			o := &intent.Object{Kind: intent.KindUser, Metadata: intent.Metadata{Name: given[0]}, Spec: &intent.UserSpec{DisplayName: display, Bindings: []intent.RoleBinding{}}}
			return a.create(c, o, w)
		},
	}
	create.Flags().StringVar(&display, "display-name", "", "the person's or program's name")
	w.flags(create)
	c.AddCommand(create)
	c.AddCommand(a.listing(intent.KindUser)...)
	c.AddCommand(a.bindCmds(intent.KindUser, func(o *intent.Object) *[]intent.RoleBinding { return &o.Spec.(*intent.UserSpec).Bindings })...)
	c.AddCommand(a.userKeyCmd(), a.breakGlassCmd())
	return c
}

func (a *verbs) groupCmd() *cobra.Command {
	c := &cobra.Command{Use: "group", Short: "Groups of users that share roles"}
	var w writing
	var display string
	var members []string
	create := &cobra.Command{
		Use: "create NAME", Short: "Make a group, without rights yet", Args: a.Args("NAME"),
		Example: "  skerry group create shop --member ana,bob\n  skerry group bind shop --role member --project acme",
		RunE: func(c *cobra.Command, given []string) error {
			o := &intent.Object{Kind: intent.KindGroup, Metadata: intent.Metadata{Name: given[0]}, Spec: &intent.GroupSpec{DisplayName: display, Members: append([]string{}, members...), Bindings: []intent.RoleBinding{}}}
			return a.create(c, o, w)
		},
	}
	create.Flags().StringVar(&display, "display-name", "", "what the group is for")
	create.Flags().StringSliceVar(&members, "member", nil, "user who belongs to it; repeat for more")
	w.flags(create)
	edit := func(use, short string, fn func(have []string, user string) ([]string, error)) *cobra.Command {
		var w writing
		c := &cobra.Command{
			Use: use + " NAME USER", Short: short, Args: a.Args("NAME", "USER"), ValidArgsFunction: a.completeNames(intent.KindGroup),
			RunE: func(c *cobra.Command, given []string) error {
				return a.change(c, intent.Key{Kind: intent.KindGroup, Name: given[0]}, w, func(o *intent.Object) (err error) {
					s := o.Spec.(*intent.GroupSpec)
					s.Members, err = fn(s.Members, given[1])
					return err
				})
			},
		}
		w.flags(c)
		return c
	}
	add := edit("add", "Let a user belong to a group", func(have []string, user string) ([]string, error) {
		if slices.Contains(have, user) {
			return have, nil
		}
		return append(have, user), nil
	})
	remove := edit("remove", "Take a user out of a group", func(have []string, user string) ([]string, error) {
		i := slices.Index(have, user)
		if i < 0 {
			return nil, hint(fmt.Errorf("cannot remove %s: not a member", user), "`skerry group describe NAME` lists the members")
		}
		return slices.Delete(have, i, i+1), nil
	})
	c.AddCommand(create, add, remove)
	c.AddCommand(a.listing(intent.KindGroup)...)
	c.AddCommand(a.bindCmds(intent.KindGroup, func(o *intent.Object) *[]intent.RoleBinding { return &o.Spec.(*intent.GroupSpec).Bindings })...)
	return c
}

func (a *verbs) roleCmd() *cobra.Command {
	c := &cobra.Command{Use: "role", Short: "Roles: the built-in ones, and your own"}
	var w writing
	var verbs, kinds []string
	create := &cobra.Command{
		Use: "create NAME --verb VERB --kind KIND", Short: "Make a role of your own over users' kinds", Args: a.Args("NAME"),
		Example: "  skerry role create dns --verb read,write --kind Network",
		RunE: func(c *cobra.Command, given []string) error {
			if len(verbs) == 0 || len(kinds) == 0 {
				return usage(errors.New("cannot make a role that allows nothing: give --verb and --kind"))
			}
			rule := intent.Rule{}
			for _, v := range verbs {
				rule.Verbs = append(rule.Verbs, intent.Verb(v))
			}
			for _, k := range kinds {
				info, err := a.FindKind(k)
				if err != nil {
					return err
				}
				rule.Kinds = append(rule.Kinds, info.Kind)
			}
			return a.create(c, &intent.Object{Kind: intent.KindRole, Metadata: intent.Metadata{Name: given[0]}, Spec: &intent.RoleSpec{Rules: []intent.Rule{rule}}}, w)
		},
	}
	create.Flags().StringSliceVar(&verbs, "verb", nil, "read, write, power or release; repeat for more")
	create.Flags().StringSliceVar(&kinds, "kind", nil, "users' kind; repeat for more")
	w.flags(create)
	builtin := &cobra.Command{
		Use: "builtin", Short: "Print the built-in roles, in order of reach", Args: a.Args(),
		RunE: func(*cobra.Command, []string) error {
			return a.Print(intent.BuiltinRoles(), func(t Table) {
				for _, r := range intent.BuiltinRoles() {
					t.Row(r)
				}
			})
		},
	}
	c.AddCommand(create, builtin)
	c.AddCommand(a.listing(intent.KindRole)...)
	return c
}

func (a *verbs) projectCmd() *cobra.Command {
	c := &cobra.Command{Use: "project", Short: "Projects, and the sites that they may use"}
	var w writing
	var display string
	create := &cobra.Command{
		Use: "create NAME --site SITE", Short: "Make a project that may use a site", Args: a.Args("NAME"),
		Example: "  skerry project create acme --site lon1\n  skerry quota set acme --site lon1 --machines small=2 --offline small=1",
		RunE: func(c *cobra.Command, given []string) error {
			sites := []string{}
			if c.Flags().Changed("site") {
				sites = append(sites, a.Site())
			}
			o := &intent.Object{Kind: intent.KindProject, Metadata: intent.Metadata{Name: given[0]}, Spec: &intent.ProjectSpec{DisplayName: display, Sites: sites}}
			return a.create(c, o, w)
		},
	}
	create.Flags().StringVar(&display, "display-name", "", "whose it is")
	w.flags(create)
	edit := func(use, short string, fn func(have []string, site string) ([]string, error)) *cobra.Command {
		var w writing
		c := &cobra.Command{
			Use: use + " NAME --site SITE", Short: short, Args: a.Args("NAME"), ValidArgsFunction: a.completeNames(intent.KindProject),
			RunE: func(c *cobra.Command, given []string) error {
				if !c.Flags().Changed("site") {
					return hint(usage(errors.New("cannot choose a site: give --site SITE")), "`skerry get sites`")
				}
				site := a.Site()
				return a.change(c, intent.Key{Kind: intent.KindProject, Name: given[0]}, w, func(o *intent.Object) (err error) {
					s := o.Spec.(*intent.ProjectSpec)
					s.Sites, err = fn(s.Sites, site)
					return err
				})
			},
		}
		w.flags(c)
		return c
	}
	bind := edit("bind", "Let a project use one more site", func(have []string, site string) ([]string, error) {
		if slices.Contains(have, site) {
			return have, nil
		}
		return append(have, site), nil
	})
	unbind := edit("unbind", "Take a site from a project; nothing of it may be there", func(have []string, site string) ([]string, error) {
		i := slices.Index(have, site)
		if i < 0 {
			return nil, hint(fmt.Errorf("cannot unbind: the project may not use site %s", site), "`skerry project describe NAME`")
		}
		return slices.Delete(have, i, i+1), nil
	})
	c.AddCommand(create, bind, unbind)
	c.AddCommand(a.listing(intent.KindProject)...)
	return c
}

func (a *verbs) quotaCmd() *cobra.Command {
	c := &cobra.Command{Use: "quota", Short: "How many machines a project may have at a site"}
	var w writing
	var machines, offline map[string]int
	set := &cobra.Command{
		Use: "set PROJECT --site SITE", Short: "Bound a project at a site, and what it may add while the site is cut off", Args: a.Args("PROJECT"), ValidArgsFunction: a.completeNames(intent.KindProject),
		Long:    "Bound a project at a site. Of a machine type that is not named the project may have none; what --offline does not name it may\nnot add while the site is cut off.",
		Example: "  skerry quota set acme --site lon1 --machines small=2 --offline small=1",
		RunE: func(c *cobra.Command, given []string) error {
			cl, err := a.Client()
			if err != nil {
				return err
			}
			if a.Site() == "" {
				return hint(usage(errors.New("cannot choose a site: give --site SITE")), "`skerry get sites`")
			}
			info, _ := intent.KindQuota.Info()
			have, err := cl.List(c.Context(), info, a.Site(), given[0])
			if err != nil {
				return a.Explain(err)
			}
			o := &intent.Object{APIVersion: intent.APIVersion, Kind: intent.KindQuota, Metadata: intent.Metadata{Name: a.Site(), Project: given[0], Site: a.Site()}}
			if len(have) > 0 { // a project has one per site, whatever its name
				o = have[0]
				o.Status = nil
			}
			o.Spec = &intent.QuotaSpec{Machines: machines, Offline: intent.OfflineQuota{Machines: offline}}
			return a.put(c, cl, o, w)
		},
	}
	set.Flags().StringToIntVar(&machines, "machines", nil, "TYPE=N; repeat for more")
	set.Flags().StringToIntVar(&offline, "offline", nil, "TYPE=N that it may add while the site is cut off; repeat for more")
	w.flags(set)
	c.AddCommand(set)
	c.AddCommand(a.listing(intent.KindQuota)...)
	return c
}

// publicKey reads a public key that is given as text, or as a file that holds one.
func publicKey(s string) (intent.UserKey, error) {
	k := intent.UserKey{Public: ofSSH(s)}
	_, err := k.SPKI()
	if err == nil {
		return k, nil
	}
	b, ferr := os.ReadFile(s)
	if ferr != nil {
		return k, usage(fmt.Errorf("cannot use %.60q as a public key: it %w, and is no file", s, err))
	}
	k.Public = ofSSH(strings.TrimSpace(string(b)))
	if _, err := k.SPKI(); err != nil {
		return k, hint(fmt.Errorf("cannot use the public key in %s: it %w", s, err), "`skerry user key create FILE` prints one")
	}
	return k, nil
}

// ofSSH turns a public key as ssh-keygen writes it, `ssh-ed25519 AAAA... NAME` or `ecdsa-sha2-nistp256 AAAA... NAME`, into base64 of its
// SubjectPublicKeyInfo; everything else stays as it is. Source: RFC 8709 section 4, RFC 5656 section 3.1.
func ofSSH(s string) string {
	f := strings.Fields(s)
	if len(f) < 2 {
		return s
	}
	b, err := base64.StdEncoding.DecodeString(f[1])
	var parts [][]byte
	for err == nil && len(b) >= 4 && uint64(binary.BigEndian.Uint32(b)) <= uint64(len(b)-4) {
		n := 4 + binary.BigEndian.Uint32(b)
		parts, b = append(parts, b[4:n]), b[n:]
	}
	if err != nil || len(b) > 0 || len(parts) < 2 || string(parts[0]) != f[0] {
		return s
	}
	var pub any
	switch {
	case f[0] == "ssh-ed25519" && len(parts) == 2 && len(parts[1]) == ed25519.PublicKeySize:
		pub = ed25519.PublicKey(parts[1])
	case f[0] == "ecdsa-sha2-nistp256" && len(parts) == 3:
		if pub, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), parts[2]); err != nil {
			return s
		}
	default:
		return s
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return s
	}
	return base64.StdEncoding.EncodeToString(der)
}
