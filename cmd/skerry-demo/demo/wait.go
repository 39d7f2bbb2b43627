package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/test/sim/netlab"
)

// figures reads memory and sizes.
func (w *walk) figures() {
	for name, p := range w.l.procs {
		if kb, err := residentKiB(p.Pid()); err == nil {
			w.r.figure("RSS of "+name, "%.0f MB (asked: 120 MB)", float64(kb)*1024/1e6)
		}
	}
	if st, err := os.Stat(w.cfg.Exe); err == nil {
		w.r.figure("size of skerry", "%.1f MB (budget: 36 MB stripped)", float64(st.Size())/1e6)
	}
}

func residentKiB(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("cannot read memory of %d: %w", pid, err)
	}
	_, rest, ok := strings.Cut(string(b), "VmRSS:")
	if !ok {
		return 0, fmt.Errorf("cannot read memory of %d: no VmRSS", pid)
	}
	kb := 0
	_, err = fmt.Sscan(rest, &kb)
	return kb, err
}

// until polls cond, which has no event to wait for across processes, until it holds or the limit passes.
func (w *walk) until(limit time.Duration, what string, cond func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(w.ctx, limit)
	defer cancel()
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		ok, err := cond()
		if ok || err != nil {
			return err
		}
		for name, p := range w.l.procs {
			select {
			case <-p.Done():
				if !killedByUs(p) {
					return fmt.Errorf("%s ended by itself while waiting until %s; see %s.log", name, what, name)
				}
			default:
			}
		}
		select {
		case <-ctx.Done():
			if w.ctx.Err() != nil {
				return errInterrupted
			}
			return fmt.Errorf("not within %s: %s", limit, what)
		case <-t.C:
		}
	}
}

// errInterrupted ends the walk at the wish of whoever watches it.
var errInterrupted = errors.New("interrupted; everything that was started is stopped and removed")

// killedByUs tells whether a process that has ended was killed by the walk, and not by its own failure.
func killedByUs(p *netlab.Proc) bool {
	err := p.Wait(context.Background())
	var exit interface{ Sys() any }
	if errors.As(err, &exit) {
		ws, ok := exit.Sys().(syscall.WaitStatus)
		return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
	}
	return false
}

func (w *walk) siteStatus(who, token string) (*api.SiteStatus, error) {
	c, err := w.l.api(who, token)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	return c.SiteStatus(ctx, "lon1")
}

func (w *walk) status(agent, machine string) (*intent.MachineStatus, error) {
	c, err := w.l.api(agent, "admin")
	if err != nil {
		return nil, err
	}
	info, _ := intent.KindMachine.Info()
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	o, err := c.Get(ctx, info, "lon1", machine)
	if err != nil {
		return nil, err
	}
	st := &intent.MachineStatus{}
	if len(o.Status) == 0 {
		return st, nil
	}
	return st, json.Unmarshal(o.Status, st)
}

// machine waits until a machine is in a state, and shows how it goes.
func (w *walk) machine(agent, name string, limit time.Duration, want intent.MachineState) (*intent.MachineStatus, error) {
	var st *intent.MachineStatus
	shown := ""
	err := w.until(limit, fmt.Sprintf("%s is %s", name, want), func() (bool, error) {
		s, err := w.status(agent, name)
		if err != nil {
			return false, nil
		}
		st = s
		now := strings.TrimSpace(fmt.Sprintf("%s %s %s", s.State, s.Phase, s.Reason))
		if s.Percent > 0 {
			now += fmt.Sprintf(" %d %%", s.Percent)
		}
		if now != shown {
			w.r.line("  %s: %s", name, now)
			shown = now
		}
		if s.State == intent.StateQuarantined || s.State == intent.StateBroken {
			return false, fmt.Errorf("%s is %s: %s", name, s.State, s.Reason)
		}
		return s.State == want, nil
	})
	return st, err
}
