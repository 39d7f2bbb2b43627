package fault

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Experiment F8: hosts without a battery behind their clock. A site boots in 2000 (as others in 1970), ten years ahead, and three years
// back, each time alone: it is itself again within five minutes, nobody is refused for a date, and a token that had ended is not good
// again because the clock says so. Then everything is off for five years, and the coordinator comes back too: it signs nothing until a
// person has looked at its clock; then all is level, keys are turned as they are each year, and nobody is left in the ledger.
// Each boot is a bubble of its own, as the clock of one goes only forward.
func TestWrongClocks(t *testing.T) {
	dir := t.TempDir()
	var w *world
	var ended string
	synctest.Test(t, func(t *testing.T) {
		w = newWorldIn(t, dir, 1)
		defer w.over()
		ctx, cancel := w.ask()
		defer cancel()
		tok, err := w.api("admin", "coordinator").UserToken(ctx, "ana", api.UserTokenRequest{TTL: "1h"})
		w.must(err)
		ended = tok.Token
		w.until("the token is known at the site", func() bool { return w.level("s1") && w.answers("s1/a2", ended) == nil })
		time.Sleep(2 * time.Hour)
		w.off()
	})
	for n, at := range []time.Time{
		time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC), time.Date(2036, 12, 1, 0, 0, 0, 0, time.UTC), time.Date(2023, 12, 1, 0, 0, 0, 0, time.UTC),
	} {
		synctest.Test(t, func(t *testing.T) {
			w = w.again(t, at)
			defer w.over()
			booted := time.Now()
			w.start("s1/a1", "")
			w.start("s1/a2", "")
			w.alone("s1", n)
			if took := time.Since(booted); took > 5*time.Minute {
				t.Errorf("in %d the site is back after %v", at.Year(), took)
			}
			if err := w.answers("s1/a1", ended); !client.Is(err, 401) {
				t.Errorf("in %d a token that had ended is answered: %v", at.Year(), err)
			}
			w.off()
		})
	}
	synctest.Test(t, func(t *testing.T) {
		w = w.again(t, time.Date(2031, 12, 1, 0, 0, 0, 0, time.UTC))
		defer w.over()
		w.start("s1/a1", "")
		w.start("s1/a2", "")
		w.alone("s1", 3)
		w.start("coordinator", "")
		w.until("the coordinator says that its clock is not believed", func() bool {
			ctx, cancel := w.ask()
			defer cancel()
			s, err := w.api("admin", "coordinator").SiteStatus(ctx, "s1")
			return err == nil && s.Reachable == "yes" && strings.Contains(s.Held, "--clock-ok")
		})
		time.Sleep(10 * time.Minute) // what it would sign it would have signed
		ctx, cancel := w.ask()
		s, err := w.api("admin", "s1/a1").SiteStatus(ctx, "s1")
		cancel()
		if err != nil || len(s.Overrides) == 0 || s.Overrides[0].State == "adopted" {
			t.Errorf("a coordinator whose clock is not believed answered: %+v, %v", s, err)
		}
		w.end("coordinator")
		w.clock = true
		w.start("coordinator", "")
		back := time.Now()
		w.until("all is level, and every key is young", func() bool { return w.level("s1") && w.answered("s1") && w.young() })
		if took := time.Since(back); took > 5*time.Minute {
			t.Errorf("level, and every key turned, after %v", took)
		} else {
			t.Logf("level, and every key turned, after %v", took)
		}
	})
}

// off ends every process of ours, as when the power goes.
func (w *world) off() {
	for _, name := range []string{"coordinator", "s1/a1", "s1/a2"} {
		if b := w.boxes[name]; b.stop != nil {
			w.kill(name)
		}
	}
}

// answers asks a process with a token.
func (w *world) answers(name, token string) error {
	ctx, cancel := w.ask()
	defer cancel()
	info, _ := intent.KindSSHKey.Info()
	_, err := w.client(token, name).List(ctx, info, "", "acme")
	return err
}

// young tells whether no key of an agent is a year old, and no rotation waits for anybody.
func (w *world) young() bool {
	ctx, cancel := w.ask()
	defer cancel()
	c := w.api("admin", "coordinator")
	keys, err := c.KeyStatus(ctx)
	if err != nil {
		return false
	}
	for _, s := range keys.Sites {
		for _, a := range s.Agents {
			if a.Made == nil || time.Since(*a.Made) > 365*24*time.Hour || a.Clock != intent.ClockTrusted {
				return false
			}
		}
	}
	under, err := c.Rotations(ctx)
	return err == nil && len(under.Items) == 0 && len(keys.Sites) == 1
}
