package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/api"
)

// theft loses an agent for good while the WAN is cut: quarantine, a spare in its place, revocation at reunion.
func (w *walk) theft(context.Context, *errgroup.Group) error {
	kit := filepath.Join(w.l.dir, "lon1-s1.kit")
	var made struct {
		Passphrase string `json:"passphrase"`
	}
	for _, step := range []struct {
		name string
		do   func() (string, error)
	}{
		{"7 a spare of lon1 is made, its kit goes into a safe", func() (string, error) {
			token, err := w.l.cli(w.ctx, "coord", "token", "create", "--site", "lon1", "--agent", "s1", "--spare")
			if err != nil {
				return "", err
			}
			before, err := w.siteStatus("coordinator", "admin")
			if err != nil {
				return "", err
			}
			out, err := w.l.cli(w.ctx, "a1", "agent", "kit", "--join", strings.TrimSpace(token), "--out", kit, "-o", "json")
			if err != nil {
				return "", err
			}
			if err := json.Unmarshal([]byte(out), &made); err != nil {
				return "", fmt.Errorf("cannot read what the kit is opened with: %w", err)
			}
			return "s1", w.until(quick, "a2, which will be alone with it, knows its spare", func() (bool, error) {
				s, err := w.siteStatus("coordinator", "admin")
				at, err2 := w.siteStatus("a2", "admin")
				return err == nil && err2 == nil && s.Published.Seq > before.Published.Seq && at.Head.Seq >= s.Published.Seq, nil
			})
		}},
		{"7 the WAN is cut, a1 is stolen; an operator quarantines it at a2", func() (string, error) {
			if err := w.l.cutWAN(true); err != nil {
				return "", err
			}
			ca := filepath.Join(w.l.dir, "coordinator", "keys", "root.crt")
			if _, err := w.l.cli(w.ctx, "coord", "context", "set", "lon1-ops", "--server", "https://10.99.1.12:7444", "--token", w.l.tokens["admin"], "--ca", ca, "--site", "lon1"); err != nil {
				return "", err
			}
			out, err := w.l.cli(w.ctx, "a2", "--context", "lon1-ops", "agent", "quarantine", "lon1/a1", "--reason", "stolen", "-o", "json")
			if err != nil {
				return "", err
			}
			var res api.QuarantineResult
			if err := json.Unmarshal([]byte(out), &res); err != nil || strings.Join(res.Agents, " ") != "a2" {
				return "", fmt.Errorf("cannot find a2 alone in the answer %q", out)
			}
			return fmt.Sprintf("%d session(s) ended, generation %d", res.Closed, res.Generation), w.l.procs["a1"].Kill()
		}},
		{"7 a new box starts from the kit in a1's place, with nobody above", func() (string, error) {
			if err := w.l.startSpare(1, kit, made.Passphrase); err != nil {
				return "", err
			}
			return "a2 and s1 are the site", w.until(2*quick, "a2 and s1 see each other", func() (bool, error) { return w.level("a2", "a2 s1"), nil })
		}},
		{"7 the WAN is back: the coordinator takes s1 for a1, the theft is revoked everywhere", func() (string, error) {
			if err := w.l.cutWAN(false); err != nil {
				return "", err
			}
			if err := w.until(2*quick, "the coordinator knows s1 as an agent", func() (bool, error) { return w.level("coordinator", "a2 s1"), nil }); err != nil {
				return "", err
			}
			if _, err := w.l.cli(w.ctx, "coord", "agent", "revoke", "lon1/a1", "--reason", "stolen"); err != nil {
				return "", err
			}
			c, err := w.l.api("a2", "admin")
			if err != nil {
				return "", err
			}
			return "a2 obeys revocation 1", w.until(quick, "a2 heard of the revocation", func() (bool, error) {
				l, err := c.Revocations(w.ctx)
				return err == nil && l.Head.Seq == 1, nil
			})
		}},
		{"7 every BMC gets another password than the thief read, set and proven by the agents of the site", func() (string, error) {
			out, err := w.l.cli(w.ctx, "coord", "agent", "revoke", "lon1/a1", "--reason", "stolen", "--rotate-bmc", "--wait", "5m")
			if err != nil {
				return "", err
			}
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, "secret") {
					return strings.Join(strings.Fields(line), " "), nil
				}
			}
			return "", fmt.Errorf("no password was changed:\n%s", out)
		}},
	} {
		if err := w.r.step(step.name, step.do); err != nil {
			return err
		}
	}
	return nil
}

// level tells whether who sees just these agents alive, and has the newest intent that it knows of active.
func (w *walk) level(who, agents string) bool {
	s, err := w.siteStatus(who, "admin")
	if err != nil || s.Head.Seq < s.Published.Seq {
		return false
	}
	var alive []string
	for _, a := range s.Agents {
		if a.Alive == "yes" {
			alive = append(alive, a.ID)
		}
	}
	slices.Sort(alive) // they stand in the order in which they joined
	return strings.Join(alive, " ") == agents
}
