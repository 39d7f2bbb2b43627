package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/api/telemetry"
)

// mark is a moment, and the octets that the switch had sent to a machine by then, as its link counts them.
type mark struct {
	at     time.Time
	octets uint64
}

// sent returns what the switch sent to machine n so far: the octets of its tap, without FCS.
func (l *lab) sent(n int) (mark, error) {
	ctx, cancel := context.WithTimeout(context.Background(), quick)
	defer cancel()
	out, err := l.ns["rack"].Exec(ctx, "cat", fmt.Sprintf("/sys/class/net/tap%d/statistics/tx_bytes", n))
	if err != nil {
		return mark{}, err
	}
	v, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return mark{}, fmt.Errorf("cannot read counter of tap%d: %w", n, err)
	}
	return mark{time.Now(), v}, nil
}

// applySwitch tells the site of the switch and of which of the first machines hangs where; the numbers of its ports are this lab's.
func (w *walk) applySwitch(machines int) error {
	doc := "apiVersion: skerry/v1\nkind: Switch\nmetadata: {name: sw1, site: lon1}\nspec:\n  sflow: {agents: [10.88.1.1]}\n  ports:\n"
	for i, b := range w.l.boxes[:machines] {
		n, err := w.l.ns["rack"].Index(fmt.Sprintf("tap%d", i+1))
		if err != nil {
			return err
		}
		doc += fmt.Sprintf("    - {index: %d, name: tap%d, nic: %q}\n", n, i+1, b.mac)
	}
	file := filepath.Join(w.l.dir, "switch.yaml")
	if err := os.WriteFile(file, []byte(doc), 0o644); err != nil {
		return fmt.Errorf("cannot write switch: %w", err)
	}
	_, err := w.l.cli(w.ctx, "coord", "apply", "-f", file)
	return err
}

// traffic shows what the site accounted while it was alone, beside what the switch's own counter says. from is when both agents were up again,
// to when m2 was running.
func (w *walk) traffic(from, to mark) (string, error) {
	const minute = time.Minute // the switch counts its minutes by its own uptime
	c, err := w.l.api("coordinator", "admin")
	if err != nil {
		return "", err
	}
	want := float64(to.octets - from.octets)
	var row telemetry.TrafficRow
	err = w.until(3*quick, "the traffic of m2 is accounted", func() (bool, error) {
		a, err := c.Traffic(w.ctx, "lon1", telemetry.TrafficQuery{From: from.at.Add(-minute), To: time.Now(), By: []string{"project", "machine", "direction"}})
		if err != nil || len(a.Missing) > 0 {
			return false, nil
		}
		row = telemetry.TrafficRow{Project: "acme", Machine: "m2", Direction: "in"}
		for _, r := range a.Rows {
			if r.Project == row.Project && r.Machine == row.Machine && r.Direction == row.Direction {
				row = r
			}
		}
		return float64(row.Bytes+2*row.Bytes95) >= 0.97*want, nil
	})
	if err != nil {
		return "", errors.Join(err, fmt.Errorf("accounted are %+v of %.0f octets", row, want))
	}
	table, err := w.l.cli(w.ctx, "coord", "--context", "edge", "traffic", "--by", "project,machine", "--from", from.at.Add(-minute).UTC().Format(time.RFC3339), "--site", "lon1")
	if err != nil {
		return "", err
	}
	fmt.Fprintf(w.cfg.Out, "\n%s\n", table)
	now, err := w.l.sent(2)
	if err != nil {
		return "", err
	}
	// What the switch sent before both agents heard it again is in the same minute, and in no counter here.
	if most := 1.03*float64(now.octets-from.octets) + 2*float64(row.Bytes95); float64(row.Bytes) > most {
		return "", fmt.Errorf("accounted are %d octets to m2, the switch sent at most %.0f", row.Bytes, most)
	}
	return fmt.Sprintf("m2 got %d ± %d octets; the switch counted %.0f until it ran", row.Bytes, row.Bytes95, want), nil
}
