package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/api/discovery"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/test/sim/bmc"
)

// stranger takes m3 in, which nobody declared, and whose BMC says yes to a boot order and forgets it.
func (w *walk) stranger(context.Context, *errgroup.Group) error {
	box := w.l.boxes[2]
	id := strings.ReplaceAll(box.mac, ":", "-")
	for _, step := range []struct {
		name string
		do   func() (string, error)
	}{
		{"3 m3 (UEFI HTTP Boot), which nobody declared, is racked and switched on: it is discovered", func() (string, error) {
			if err := box.bmc.Press(w.ctx); err != nil {
				return "", err
			}
			var m discovery.FoundMachine
			err := w.until(bootLimit, "m3 is discovered", func() (bool, error) {
				out, err := w.l.cli(w.ctx, "coord", "machine", "discovered", id, "-o", "json")
				return err == nil && json.Unmarshal([]byte(out), &m) == nil, nil
			})
			if err != nil {
				return "", err
			}
			out, err := w.l.cli(w.ctx, "coord", "machine", "discovered")
			fmt.Fprintf(w.cfg.Out, "\n%s\n", out)
			return "serial " + m.Serial + ", type " + m.MachineType, err
		}},
		{"3 its BMC says yes to a boot order and forgets it: skerry doctor bmc --write says so", func() (string, error) {
			if err := box.bmc.SetFaults(bmc.EnableReverts); err != nil {
				return "", err
			}
			password := filepath.Join(w.l.dir, "bmc.password")
			if err := os.WriteFile(password, []byte(bmcPass), 0o600); err != nil {
				return "", fmt.Errorf("cannot keep a password: %w", err)
			}
			out, err := w.l.cli(w.ctx, "a1", "doctor", "bmc", box.addr, "--protocol", "redfish", "--user", bmcUser, "--password-file", password, "--write", "--yes")
			fmt.Fprintf(w.cfg.Out, "\n%s\n", out)
			if err == nil || !strings.Contains(out, "enable-reverts") {
				return "", errors.Join(errors.New("nothing is said against it"), err)
			}
			return "quirk enable-reverts", nil
		}},
		{"3 m3 is accepted; the site names what its BMC does not do, and touches nothing", func() (string, error) {
			if _, err := w.l.cli(w.ctx, "coord", "machine", "accept", id, "--name", "m3", "--rack", "r1", "--position", "3", "--bmc", box.addr, "--bmc-secret", "bmc"); err != nil {
				return "", err
			}
			if err := w.applySwitch(3); err != nil {
				return "", err
			}
			said := ""
			return "quirk enable-reverts", w.until(bootLimit, "the quirk is told of", func() (bool, error) {
				st, err := w.status("a1", "m3")
				if err != nil {
					return false, nil
				}
				if now := fmt.Sprint(st.State, " ", st.Phase, " ", st.Reason); now != said {
					w.r.line("  m3: %s", now)
					said = now
				}
				out, err := w.l.cli(w.ctx, "coord", "events", "--site", "lon1", "--machine", "m3")
				return err == nil && strings.Contains(out, "enable-reverts"), nil
			})
		}},
		{"3 its BMC has new firmware: m3 and m2 are inventoried and wait", func() (string, error) {
			if err := box.bmc.SetFaults(); err != nil {
				return "", err
			}
			if _, err := w.machine("a1", "m3", bootLimit, intent.StateAvailable); err != nil {
				return "", err
			}
			st, err := w.machine("a1", "m2", bootLimit, intent.StateAvailable)
			if err != nil {
				return "", err
			}
			return "type " + st.MachineType, nil
		}},
	} {
		if err := w.r.step(step.name, step.do); err != nil {
			return err
		}
	}
	return nil
}
