package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/skerry-metal/skerry/siteagent"
	"github.com/skerry-metal/skerry/siteagent/upkeep"
	"github.com/spf13/cobra"
)

// upkeepCmds are the verbs on the data directory of a stopped agent.
func (a *app) upkeepCmds() []*cobra.Command {
	return []*cobra.Command{a.agentScrubCmd(), a.agentBackupCmd(), a.agentRestoreCmd(), a.agentRecoverCmd()}
}

func dataFlag(c *cobra.Command, data *string) {
	c.Flags().StringVar(data, "data", "", "directory of the stopped agent (SKERRY_DATA); default "+siteagent.Default().Data)
}

func (a *app) dataOf(flag string) string {
	return cmp.Or(flag, a.getenv("SKERRY_DATA"), siteagent.Default().Data)
}

// offline runs fn on the directory of an agent that does not run.
func (a *app) offline(data string, fn func(*upkeep.Directory) error) error {
	log, err := a.logger("error")
	if err != nil {
		return err
	}
	d, err := upkeep.OpenDirectory(a.dataOf(data), log)
	if err == nil {
		err = errors.Join(fn(d), d.Close())
	}
	return explainOffline(err)
}

func explainOffline(err error) error {
	switch {
	case errors.Is(err, upkeep.ErrRunning):
		return hint(err, "stop the agent first, as with `systemctl stop skerry-agent`")
	case errors.Is(err, upkeep.ErrOccupied):
		return hint(err, "move the directory `state` below the data directory out of the way; its keys stay")
	case errors.Is(err, upkeep.ErrDamaged):
		return hint(err, "`skerry agent scrub` says what is damaged; a running agent repairs it from its peers and its coordinator")
	}
	return err
}

func (a *app) agentScrubCmd() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "scrub", Short: "Check every record of a stopped agent's state", Args: args(),
		Long: "Check every record, sum and table of a stopped agent's state, and its marks. Changes nothing. Exit 3 when something is damaged:\n" +
			"a running agent puts that on hold and repairs it from the signed chain, its peers and its coordinator.",
		Example: "  skerry agent scrub --data /var/lib/skerry",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.offline(data, func(d *upkeep.Directory) error {
				r, err := d.Scrub(c.Context())
				if err != nil {
					return err
				}
				if err := a.print(r, func(t *table) { scrubTable(t, r) }); err != nil {
					return err
				}
				if !r.Sound {
					return exitCode(exitPartial)
				}
				return nil
			})
		},
	}
	dataFlag(c, &data)
	return c
}

func scrubTable(t *table, r *upkeep.Report) {
	t.header("BUCKET", "RECORDS", "WANTED", "DAMAGED", "ROOT", "FOUND")
	for _, b := range slices.Sorted(maps.Keys(r.Buckets)) {
		s := r.Buckets[b]
		t.row(cmp.Or(b, "?"), strconv.FormatUint(s.Records, 10), strconv.FormatUint(s.Want, 10), strconv.FormatUint(s.Damaged, 10), s.Root[:16], cmp.Or(s.Reason, "sound"))
	}
	t.row("(tables)", "", "", "", "", r.Tables)
	t.row("(marks)", "", "", "", "", r.Marks)
	if r.Recovering {
		t.row("(state)", "", "", "", "", "recovering: older than it once was")
	}
}

func (a *app) agentBackupCmd() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "backup FILE|-", Short: "Write a verified copy of a stopped agent's state", Args: args("FILE"),
		Long: "Write every record of a stopped agent's state to a file, or to the standard output, as JSON Lines with counts and roots at its\n" +
			"end. Every record is verified while it is read: a damaged state has no backup. Assets are not in it (they are fetched again),\n" +
			"nor are the keys below keys/: copy those by yourself, to a safe place.",
		Example: "  skerry agent backup /mnt/stick/lon1-a1.jsonl\n  skerry agent backup - | zstd > a1.zst",
		RunE: func(c *cobra.Command, given []string) error {
			return a.offline(data, func(d *upkeep.Directory) error {
				if given[0] == "-" {
					_, err := d.Backup(c.Context(), a.count("backup", a.Out))
					return err
				}
				return a.backupTo(c, d, given[0])
			})
		},
	}
	dataFlag(c, &data)
	return c
}

// backupTo leaves the whole file or none.
func (a *app) backupTo(c *cobra.Command, d *upkeep.Directory, file string) error {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return hint(fmt.Errorf("cannot write backup: %s is there already", file), "give another name: an old backup is not overwritten")
	}
	f, err := os.OpenFile(file+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write backup: %w", err)
	}
	totals, err := d.Backup(c.Context(), a.count("backup", f))
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return a.printTotals("", totals)
}

func (a *app) printTotals(what string, totals map[string]upkeep.Total) error {
	return a.print(map[string]any{"result": cmp.Or(what, "written"), "buckets": totals}, func(t *table) {
		t.header("BUCKET", "RECORDS", "SHA256")
		for _, b := range slices.Sorted(maps.Keys(totals)) {
			t.row(b, strconv.FormatUint(totals[b].Count, 10), totals[b].SHA256[:16])
		}
		if what != "" {
			t.row("("+what+")", "", "")
		}
	})
}

func (a *app) agentRestoreCmd() *cobra.Command {
	var data string
	var dryRun bool
	c := &cobra.Command{
		Use: "restore FILE", Short: "Bring a backup back into a stopped agent's empty state", Args: args("FILE"),
		Long: "Verify a backup whole, write it into the empty state of a stopped agent, and compare what is there then with the backup's counts\n" +
			"and roots. A state that holds the same already is left as it is; one that holds anything else is refused. The agent then starts\n" +
			"as recovering: it answers DHCP and boots, and claims and promises nothing until it is level with its peers.",
		Example: "  skerry agent restore /mnt/stick/lon1-a1.jsonl --dry-run\n  skerry agent restore /mnt/stick/lon1-a1.jsonl",
		RunE: func(c *cobra.Command, given []string) error {
			f, err := os.Open(given[0])
			if err != nil {
				return fmt.Errorf("cannot read backup: %w", err)
			}
			defer f.Close()
			return a.offline(data, func(d *upkeep.Directory) error {
				r, err := d.Restore(c.Context(), f, dryRun)
				if err != nil {
					return err
				}
				what := "restored; the agent starts as recovering"
				switch {
				case r.Same:
					what = "the state holds this already; nothing written"
				case dryRun:
					what = "would be restored"
				}
				return a.printTotals(what, r.Buckets)
			})
		},
	}
	dataFlag(c, &data)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "verify and compare only, write nothing")
	return c
}

func (a *app) agentRecoverCmd() *cobra.Command {
	var data string
	var dryRun, yes bool
	c := &cobra.Command{
		Use: "recover --yes", Short: "Take a stopped agent's state as it is, for a site with nobody to ask; free the ballast", Args: args(),
		Long: "Free the ballast of a full disk, and end the recovery of an agent that has no peer and no coordinator to get level with.\n" +
			"It means: what this state does not hold never was. Promises and leases that it gave after the state was copied are forgotten; a\n" +
			"machine could be claimed twice if another agent of the site still lives. With one that lives, start the agent instead: it gets\n" +
			"level by itself. Signed intent comes again from a coordinator, whatever this command says.",
		Example: "  skerry agent recover --dry-run\n  skerry agent recover --yes",
		RunE: func(c *cobra.Command, _ []string) error {
			if !dryRun && !yes {
				return hint(&usageError{errors.New("cannot recover without --yes: what this state does not hold would be forgotten")}, "`skerry agent recover --dry-run` says what that is")
			}
			var freed uint64
			if !dryRun { // first of all: on a full disk the state may not even open
				var err error
				if freed, err = upkeep.FreeBallast(a.dataOf(data)); err != nil {
					return explainOffline(err)
				}
			}
			return a.offline(data, func(d *upkeep.Directory) error {
				r, err := d.Recover(dryRun)
				if err != nil {
					return err
				}
				r.Ballast += freed
				return a.print(r, func(t *table) { recoveryTable(t, r, dryRun) })
			})
		},
	}
	dataFlag(c, &data)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be freed and forgotten, change nothing")
	c.Flags().BoolVar(&yes, "yes", false, "confirm: no other agent of this site can know better")
	return c
}

func recoveryTable(t *table, r *upkeep.Recovery, dry bool) {
	done := map[bool][3]string{false: {"ballast freed", "recovery ended", "forgotten"}, true: {"ballast would be freed", "recovery would end", "would be forgotten"}}[dry]
	t.row(done[0], fmt.Sprintf("%d MiB", r.Ballast>>20))
	t.row(done[1], map[bool]string{true: "yes", false: "it was not recovering"}[r.Behind])
	for _, s := range slices.Sorted(maps.Keys(r.Lost)) {
		t.row(done[2], fmt.Sprintf("%s up to %d.%d, which the marks knew", s, r.Lost[s].Epoch, r.Lost[s].Seq))
	}
	for _, p := range r.Peers {
		t.row("roster", p)
	}
}

// countEvery is how often a terminal hears how far a count is.
const countEvery = 200 * time.Millisecond

// count counts what is written to w, on a terminal.
func (a *app) count(verb string, w io.Writer) io.Writer {
	if !isTerminal(a.Err) {
		return w
	}
	return &counter{verb: verb, to: w, say: a.Err}
}

type counter struct {
	verb string
	to   io.Writer
	say  io.Writer
	n    int
	last time.Time
}

// Write passes b on and says now and then how much that was.
func (p *counter) Write(b []byte) (int, error) {
	n, err := p.to.Write(b)
	p.n += n
	if time.Since(p.last) >= countEvery {
		p.last = time.Now()
		fmt.Fprintf(p.say, "\r%s %.1f MB ", p.verb, float64(p.n)/1e6)
	}
	return n, err
}
