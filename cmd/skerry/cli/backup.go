package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/skerry-metal/skerry/coordinator"
	"github.com/skerry-metal/skerry/coordinator/backup"
	"github.com/skerry-metal/skerry/coordinator/rebuild"
	"github.com/spf13/cobra"
)

func (a *app) coordinatorBackupCmd() *cobra.Command {
	cfg, level := coordinator.Default(), "warn"
	var where storeFlags
	var lock coordinator.Lock
	c := &cobra.Command{
		Use: "backup FILE|-", Short: "Write keys and state of the coordinator into one encrypted file", Args: args("FILE"),
		Long: "Write keys and state of the coordinator into one encrypted file (age). A coordinator that runs goes on running.\n" +
			"The bytes of assets are not in it; it lists them, so that they can be copied.",
		Example: "  skerry coordinator backup /mnt/c1.age --to age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\n" +
			"  skerry coordinator backup - --passphrase-file /root/pass | ssh vault 'cat > c1.age'",
		RunE: func(c *cobra.Command, given []string) (err error) {
			log, err := a.coordinatorSettings(c, &where, &cfg, level)
			if err != nil {
				return err
			}
			if given[0] == "-" {
				rep, err := coordinator.Backup(c.Context(), cfg.Data, cfg.Etcd, lock, log, a.Out)
				if err != nil {
					return backupHint(err)
				}
				_, err = fmt.Fprintf(a.Err, "backed up %d files, %d records; sha256 %s\n", rep.Files, rep.Records, rep.SHA256)
				return err
			}
			rep, err := saveBackup(given[0], func(w io.Writer) (*backup.Report, error) {
				return coordinator.Backup(c.Context(), cfg.Data, cfg.Etcd, lock, log, w)
			})
			if err != nil {
				return backupHint(err)
			}
			return a.printBackup(rep, "copy too")
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Data, "data", cfg.Data, "directory of the coordinator")
	f.StringSliceVar(&lock.Recipients, "to", nil, "age recipient (age1...) that can open it; repeat for more")
	f.StringVar(&lock.Passphrase, "passphrase-file", "", "file with the passphrase that opens it, instead of --to")
	where.add(c)
	return c
}

// saveBackup writes a file that is there whole or not at all.
func saveBackup(path string, write func(io.Writer) (*backup.Report, error)) (*backup.Report, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, hint(&usageError{fmt.Errorf("cannot back up into %s: it is there already", path)}, "give a new name; an old backup is never overwritten")
	}
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot write backup: %w", err)
	}
	rep, err := write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(part))
	}
	return rep, nil
}

func backupHint(err error) error {
	switch {
	case strings.Contains(err.Error(), "cannot encrypt"):
		return hint(&usageError{err}, "give --to age1..., or --passphrase-file FILE")
	case strings.Contains(err.Error(), "cannot decrypt"):
		return hint(&usageError{err}, "give --identity FILE or --passphrase-file FILE of the backup")
	}
	return err
}

func (a *app) printBackup(rep *backup.Report, assets string) error {
	return a.print(rep, func(t *table) {
		t.row("domain", rep.Domain, "made", rep.Made.Format("2006-01-02 15:04:05Z"))
		t.row("keys", fmt.Sprint(rep.Files), "records", fmt.Sprint(rep.Records))
		t.row("sha256", rep.SHA256.String())
		for _, x := range rep.Assets {
			t.row(assets, x.Name, x.Digest.String(), fmt.Sprintf("%d octets", x.Size))
		}
		for _, s := range rep.Held {
			t.row("held", s, "until all of its agents were heard")
		}
	})
}

func (a *app) coordinatorRestoreCmd() *cobra.Command {
	cfg, level := coordinator.Default(), "warn"
	var where storeFlags
	var key coordinator.Unlock
	c := &cobra.Command{
		Use: "restore FILE", Short: "Make a coordinator from a backup, in an empty directory", Args: args("FILE"),
		Long: "Make a coordinator from a backup, in an empty directory. The whole file is verified before anything is written.\n" +
			"The copy may be old: each site is held, and gets nothing published, until every agent of it was asked for what it has\nbeyond the copy. Make sure that the lost coordinator does not run any more.",
		Example: "  skerry coordinator restore /mnt/c1.age --identity /root/holder.key",
		RunE: func(c *cobra.Command, given []string) error {
			log, err := a.coordinatorSettings(c, &where, &cfg, level)
			if err != nil {
				return err
			}
			rep, err := coordinator.Restore(c.Context(), given[0], cfg.Data, cfg.Etcd, key, log)
			if err != nil {
				return backupHint(err)
			}
			return a.printBackup(rep, "upload again")
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Data, "data", cfg.Data, "directory that is made")
	f.StringVar(&key.Identity, "identity", "", "file of the age identity that opens it")
	f.StringVar(&key.Passphrase, "passphrase-file", "", "file with the passphrase that opens it")
	where.add(c)
	return c
}

func (a *app) coordinatorRebuildCmd() *cobra.Command {
	cfg, level := coordinator.Default(), "warn"
	re := rebuild.Config{ID: "c1"}
	var where storeFlags
	c := &cobra.Command{
		Use: "rebuild --from-sites HOST:PORT --addr HOST:PORT", Short: "Make a coordinator from what the sites have", Args: args(),
		Long: "Make a coordinator for a domain whose every coordinator and backup was lost. It gets new keys; holders of the roots sign the\n" +
			"trust document that lists them (`skerry pki sign`), and the same command then goes on. Where the roots lay on the lost host,\n" +
			"put a copy of root*.key, root.crt and next-sign.key into DATA/keys first. When it runs, agents come back by themselves and bring\n" +
			"what they have; a site gets nothing published until every agent of it was heard. Values of secrets, images and what\n" +
			"no site was ever told are not at the sites: set and upload them again.",
		Example: "  skerry coordinator rebuild --from-sites 10.1.0.11:7444,10.2.0.11:7444 --addr 10.99.0.1:7443\n" +
			"  skerry coordinator rebuild --from-sites 10.1.0.11:7444 --addr 10.99.0.1:7443 --signed trust9.json",
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := a.coordinatorSettings(c, &where, &cfg, level)
			if err != nil {
				return err
			}
			res, err := coordinator.Rebuild(c.Context(), cfg.Data, cfg.Etcd, re, log)
			if err != nil {
				return err
			}
			if res.Offer != "" {
				return a.offerFirst(res.Offer, res.Have, res.Of)
			}
			return a.print(res, func(t *table) {
				t.row("domain", res.Domain)
				t.row("trust pin", res.Pin.String())
				t.row("root certificate", res.CA)
				t.row("next", "skerry coordinator --data "+cfg.Data)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Data, "data", cfg.Data, "directory that is made")
	f.StringSliceVar(&re.Agents, "from-sites", nil, "HOST:PORT of the site API of agents: the newest trust chain counts; repeat for more")
	f.StringVar(&re.ID, "id", re.ID, "id of the new coordinator")
	f.StringSliceVar(&re.Addr, "addr", nil, "HOST:PORT at which agents and users reach it; repeat for more")
	f.StringVar(&re.Signed, "signed", "", "the file that holders signed; default: the one in --data")
	where.add(c)
	return c
}
