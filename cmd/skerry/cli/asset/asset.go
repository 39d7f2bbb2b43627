package asset

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/spf13/cobra"
)

// Shell is what the verbs need of the command line that they hang in.
type Shell interface {
	// Client returns a client of the chosen context.
	Client() (*client.Client, error)
	// Print writes v for programs, or the table that fill makes; Objects writes a list of objects.
	Print(v any, fill func(account.Table)) error
	Objects(items []*intent.Object) error
	// Results writes what a change did, or would do.
	Results(res []api.Result, dryRun bool) error
	// Progress is where progress is told, and whether a bar makes sense there.
	Progress() (w io.Writer, terminal bool)
	// Explain adds the next step to what a server refused.
	Explain(err error) error
	Args(names ...string) cobra.PositionalArgs
}

type verbs struct {
	Shell
	rest func(fails int) time.Duration // after as many failures in a row, 1 or more
	poll time.Duration                 // between two looks at what the coordinator reads
}

// Commands returns the subcommands of `skerry asset` that bring assets in.
func Commands(s Shell) []*cobra.Command {
	v := &verbs{Shell: s, rest: rest, poll: time.Second}
	return []*cobra.Command{v.uploadCmd(), v.registerCmd(), v.uploadsCmd(), v.dropCmd(), v.collectCmd()}
}

func (v *verbs) uploadCmd() *cobra.Command {
	q := assets.UploadRequest{}
	c := &cobra.Command{
		Use: "upload FILE", Short: "Upload a file and register it as an asset", Args: v.Args("FILE"),
		Long: "Upload a file and register it as an asset. When the line breaks the upload goes on by itself; when it was ended, the same command\n" +
			"goes on where it was. The coordinator keeps what came for 7 days, and publishes nothing before the digest matches.",
		Example: "  skerry asset upload out/tiny.img --name tiny --class image\n  skerry asset upload out/vmlinuz --class boot",
		RunE: func(c *cobra.Command, given []string) error {
			if q.Name == "" {
				q.Name = nameOf(given[0])
			}
			o, err := v.uploadFile(c.Context(), given[0], q)
			if err != nil {
				return err
			}
			return v.Objects([]*intent.Object{o})
		},
	}
	c.Flags().StringVar(&q.Name, "name", "", "name of the asset; default: the file's")
	c.Flags().StringVar(&q.Class, "class", "image", "image, boot or other")
	return c
}

func (v *verbs) registerCmd() *cobra.Command {
	q, digest := assets.UploadRequest{}, ""
	c := &cobra.Command{
		Use: "register NAME URL", Short: "Have the coordinator read an asset from a URL, and register it", Args: v.Args("NAME", "URL"),
		Long: "Have the coordinator read an asset from a URL, and register what it read. When this command is ended, the coordinator reads on, and\n" +
			"the same command looks on and registers. Loopback, link-local, private and managed addresses are refused, also behind a redirect,\n" +
			"unless the coordinator runs with --url-allow. Agents read their parts from the URL too, by the same rules (agent --url-allow).",
		Example: "  skerry asset register debian https://cloud.debian.org/images/cloud/trixie/latest/debian-13-generic-amd64.raw --digest sha256:...",
		RunE: func(c *cobra.Command, given []string) error {
			q.Name, q.URL = given[0], given[1]
			if digest != "" {
				d, err := intent.ParseDigest(digest)
				if err != nil {
					return &account.UsageError{Err: err}
				}
				q.Digest = d
			}
			o, err := v.registerURL(c.Context(), q)
			if err != nil {
				return err
			}
			return v.Objects([]*intent.Object{o})
		},
	}
	c.Flags().StringVar(&digest, "digest", "", "sha256:HEX that it must have; default: whatever it has")
	c.Flags().Uint64Var(&q.Size, "size", 0, "octets that it must have; default: what the server says")
	c.Flags().StringVar(&q.Class, "class", "image", "image, boot or other")
	return c
}

func (v *verbs) uploadsCmd() *cobra.Command {
	return &cobra.Command{Use: "uploads", Short: "List the assets that are on their way to the coordinator", Args: v.Args(), RunE: func(c *cobra.Command, _ []string) error {
		cl, err := v.Client()
		if err != nil {
			return err
		}
		l, err := cl.Uploads(c.Context())
		if err != nil {
			return v.Explain(err)
		}
		return v.Print(l, func(t account.Table) {
			t.Header("ID", "ASSET", "STATE", "HERE", "OF", "BY", "KEPT UNTIL", "FROM", "WHY")
			for _, u := range l.Items {
				size := "?"
				if u.Size > 0 {
					size = mebibytes(u.Size)
				}
				t.Row(u.ID, u.Name, u.State, mebibytes(u.Offset), size, u.By, day(u.Until), u.URL, u.Why)
			}
		})
	}}
}

func (v *verbs) dropCmd() *cobra.Command {
	return &cobra.Command{Use: "drop ID", Short: "Forget an upload, with the octets that came", Args: v.Args("ID"), RunE: func(c *cobra.Command, given []string) error {
		cl, err := v.Client()
		if err != nil {
			return err
		}
		u, err := cl.DropUpload(c.Context(), given[0])
		if err != nil {
			return v.Explain(err)
		}
		return v.Print(u, func(t account.Table) { t.Row("dropped", u.Name, mebibytes(u.Offset)) })
	}}
}

func (v *verbs) collectCmd() *cobra.Command {
	dry := false
	c := &cobra.Command{
		Use: "collect", Short: "Remove the octets of assets that were deleted more than 7 days ago", Args: v.Args(),
		Long: "Remove the octets of assets that were deleted more than 7 days ago and that no other asset has. The coordinator does it every hour;\n" +
			"this shows what it finds. What was never deleted stays, also when the catalog does not name it.",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := v.Client()
			if err != nil {
				return err
			}
			l, err := cl.CollectAssets(c.Context(), dry)
			if err != nil {
				return v.Explain(err)
			}
			return v.Print(l, func(t account.Table) {
				t.Header("ASSET", "DIGEST", "SIZE", "DELETED", "DUE", "STATE")
				for _, x := range l.Items {
					t.Row(x.Name, x.Digest.Short(), mebibytes(x.Size), day(x.Deleted), day(x.Due), x.State)
				}
				if l.Held != "" {
					t.Row("nothing is removed: " + l.Held)
				}
			})
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "only show what would be removed")
	return c
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }

// nameOf makes the name of an asset of that of a file.
func nameOf(file string) string {
	n := strings.ToLower(strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)))
	return strings.Trim(strings.Map(func(r rune) rune {
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') {
			return r
		}
		return '-'
	}, n), "-")
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
