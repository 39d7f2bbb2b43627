package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
)

// Top returns `skerry top`.
func Top(s Shell) *cobra.Command {
	var by string
	var count int
	c := &cobra.Command{
		Use: "top", Short: "Say who has how much traffic at a site just now", Args: s.Args(),
		Long: "Say who has how much traffic at a site just now, every ten seconds: rates of the minute that is open, from its tenth second on, by the sFlow\n" +
			"samples of the site's switches. Each stands with the range in which the truth lies with 95 %, with the seconds that it is of, and with what\n" +
			"part of the samples was heard. ~ marks rates of fewer than 30 samples. On a terminal each screen takes the place of the one before.",
		Example: "  skerry top --site lon1\n  skerry top --site lon1 --by port\n  skerry --context lon1 top --by network --count 1 -o json",
		RunE:    func(c *cobra.Command, _ []string) error { return live(c.Context(), s, by, count) },
	}
	c.Flags().StringVar(&by, "by", "machine", "machine, network or port; ports are for who may read switches")
	c.Flags().IntVar(&count, "count", 0, "end after so many answers; 0: go on")
	return c
}

// atOnce is how many frames are asked for at once: what one answer of the API gives.
const atOnce = 60

func live(ctx context.Context, s Shell, by string, count int) error {
	if s.Site() == "" {
		return usage(errors.New("cannot choose a site"), "--site SITE; `skerry get sites` lists them")
	}
	if count < 0 {
		return usage(fmt.Errorf("cannot give %d answers", count), "--count 1 or more; 0: go on")
	}
	cl, err := s.Client()
	if err != nil {
		return err
	}
	q := telemetry.TopQuery{By: by, Limit: 100}
	if p := s.Project(); p != "" {
		q.Projects = []string{p}
	}
	for left := count; ; {
		ask := atOnce
		if count > 0 {
			ask = min(left, atOnce)
		}
		err := cl.Top(ctx, s.Site(), q, ask, func(f telemetry.TopFrame) error {
			left--
			return frame(s, f)
		})
		if ctx.Err() != nil {
			return nil // the user ended it
		}
		if _, refused := errors.AsType[*client.Problem](err); err != nil && (refused || count > 0) {
			return s.Explain(err)
		}
		if count > 0 && left <= 0 {
			return nil
		}
		select { // the answer ended, or the line broke: once more
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// frame writes one answer.
func frame(s Shell, f telemetry.TopFrame) error {
	w, form := s.Output()
	if form == "json" || form == "yaml" {
		return s.Line(f)
	}
	rows, high := f.Rows, height(w)
	if high > 0 {
		if _, err := io.WriteString(w, "\x1b[H\x1b[2J"); err != nil { // the cursor home, the screen empty
			return err
		}
		rows = rows[:min(len(rows), max(high-4, 1))] // a line above, the header, a footnote, the cursor
	}
	more := f.More + len(f.Rows) - len(rows)
	if _, err := fmt.Fprintf(w, "%s  %s  by %s\n", s.Site(), f.At.UTC().Format(time.RFC3339), f.By); err != nil {
		return err
	}
	if err := s.Print(f, func(t account.Table) { rates(t, f.By, rows) }); err != nil {
		return err
	}
	var notes []string
	if more > 0 {
		notes = append(notes, fmt.Sprintf("%d more", more))
	}
	if len(f.Missing) > 0 {
		notes = append(notes, "no answer from "+strings.Join(f.Missing, ", ")+": what only they hear is missing")
	}
	if len(notes) == 0 {
		return nil
	}
	_, err := fmt.Fprintln(w, strings.Join(notes, "; "))
	return err
}

// rates fills the table.
func rates(t account.Table, by string, rows []telemetry.TopRow) {
	head := []string{"PROJECT"}
	switch by {
	case "network":
		head = append(head, "NETWORK")
	case "port":
		head = append(head, "SWITCH", "PORT", "MACHINE")
	default:
		head = append(head, "MACHINE")
	}
	t.Header(append(head, "DIRECTION", "RATE", "± 95 %", "PACKETS", "± 95 %", "OF", "COVERAGE", "FLAGS")...)
	for _, r := range rows {
		cols := []string{r.Project}
		switch by {
		case "network":
			cols = append(cols, r.Network)
		case "port":
			cols = append(cols, r.Switch, r.Port, r.Machine)
		default:
			cols = append(cols, r.Machine)
		}
		rough := ""
		if r.Confidence == "low" {
			rough = "~"
		}
		t.Row(append(cols, r.Direction, rough+perSecond(r.Bytes, "B"), perSecond(r.Bytes95, "B"), rough+perSecond(r.Packets, ""), perSecond(r.Packets95, ""),
			fmt.Sprintf("%.0f s", r.Seconds), fmt.Sprintf("%.1f %%", math.Floor(r.Coverage*1000)/10), strings.Join(r.Flags, ","))...)
	}
}

func perSecond(v float64, unit string) string {
	return Scaled(uint64(math.Ceil(min(max(v, 0), 1e18))), unit) + "/s"
}

// height is the lines of the terminal that w is, 0 for none.
func height(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if ws.Row == 0 {
		return 24
	}
	return int(ws.Row)
}
