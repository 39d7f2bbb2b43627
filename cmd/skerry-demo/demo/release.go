package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// release takes m2 back from its project. The agent that erases it is killed in the middle; the other one finishes, and signs the proof.
func (w *walk) release(context.Context, *errgroup.Group) error {
	array, receipts, stick := filepath.Join(w.l.dir, "one-less.yaml"), filepath.Join(w.l.dir, "lon1.receipts.json"), filepath.Join(w.l.dir, "lon1.jsonl")
	processes := map[string]string{"a2": "a2", "s1": "a1"} // agent -> host
	var owner, other string
	for _, step := range []struct {
		name string
		do   func() (string, error)
	}{
		{"8 web has one instance again: m2 is powered off, booted and being erased", func() (string, error) {
			b, err := os.ReadFile(filepath.Join(w.cfg.Examples, "one-more.yaml"))
			if err != nil {
				return "", fmt.Errorf("cannot read example: %w", err)
			}
			if err := os.WriteFile(array, bytes.Replace(b, []byte("count: 2"), []byte("count: 1"), 1), 0o644); err != nil {
				return "", fmt.Errorf("cannot write array: %w", err)
			}
			if _, err = w.l.cli(w.ctx, "coord", "apply", "-f", array); err == nil {
				owner, err = w.writer("a2", "m2", "erase")
			}
			other = map[string]string{"a2": "s1", "s1": "a2"}[owner]
			return "by order of " + owner, err
		}},
		{"8 the agent that does it is killed with kill -9; the other one finishes: m2 is available", func() (string, error) {
			if err := w.l.procs[owner].Kill(); err != nil {
				return "", err
			}
			_, err := w.machine(processes[other], "m2", 2*bootLimit, intent.StateAvailable) // it boots to be erased, and again to take its BIOS settings
			return other + " was left", err
		}},
		{"8 the proof is verified with nothing but the pin of the domain", func() (string, error) {
			list, err := w.l.cli(w.ctx, "coord", "receipt", "list", "--site", "lon1", "-o", "json")
			if err != nil {
				return "", err
			}
			if err := os.WriteFile(receipts, []byte(list), 0o644); err != nil {
				return "", fmt.Errorf("cannot keep receipts: %w", err)
			}
			if _, err := w.l.cli(w.ctx, "coord", "intent", "export", "lon1", "-o", stick); err != nil {
				return "", err
			}
			out, err := w.l.cli(w.ctx, "coord", "receipt", "verify", receipts, "--trust", stick, "--pin", w.pin)
			if err != nil {
				return "", err
			}
			return lastLine(out), w.restart(owner)
		}},
	} {
		if err := w.r.step(step.name, step.do); err != nil {
			return err
		}
	}
	return nil
}

// restart starts a killed agent of lon1 again, and waits until it is heard.
func (w *walk) restart(agent string) error {
	var err error
	switch agent {
	case "s1":
		err = w.l.start("s1", "a1", w.l.agentArgs("s1", 1)...)
	default:
		err = w.l.startAgent(2, "")
	}
	if err != nil {
		return err
	}
	return w.until(2*quick, agent+" is back", func() (bool, error) { return w.level("coordinator", "a2 s1"), nil })
}

// lastLine returns the last line of a table, its columns one space apart.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(strings.Fields(lines[len(lines)-1]), " ")
}
