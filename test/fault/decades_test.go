package fault

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// alone is what a site that is cut off must do at any time: both agents see each other, answer, and take a change of a user.
func (w *world) alone(site string, n int) {
	w.Helper()
	for _, a := range []string{"/a1", "/a2"} {
		w.until(fmt.Sprintf("%s%s goes on in year %d", site, a, time.Now().Year()), func() bool {
			ctx, cancel := w.ask()
			defer cancel()
			s, err := w.api("admin", site+a).SiteStatus(ctx, site)
			return err == nil && len(s.Agents) == 2 && s.Agents[0].Alive == "yes" && s.Agents[1].Alive == "yes" && s.Rejected == ""
		})
	}
	ctx, cancel := w.ask()
	defer cancel()
	res, err := w.api("ana", fmt.Sprintf("%s/a%d", site, 1+n%2)).Apply(ctx, rawDocs(longKey(n)), false, "alone")
	if err != nil || res[0].Override == "" {
		w.Fatalf("in year %d a change is refused: %+v, %v", time.Now().Year(), res, err)
	}
}

func longKey(n int) string {
	return fmt.Sprintf(`{"kind":"SSHKey","metadata":{"name":"long","project":"acme"},"spec":{"publicKey":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl life-%d"}}`, n)
}

// Experiment F7, in part: a site is alone for ten years, its agents restarted again and again, and nothing is refused for its date:
// not their certificates, a user's token, or each other. Then the coordinator is back, and within a minute everybody is level and every change of
// ten years is adopted or waits for a person. The processes live for a minute or so at a time, and the years go by between: a whole
// life of ten years of ticks would take days. Clocks only go forward in a bubble.
func TestTenYearsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.over()
		w.end("coordinator")
		began := time.Now()
		lives := 0
		for time.Since(began) < 10*365*24*time.Hour {
			w.alone("s1", lives)
			for _, a := range []string{"s1/a1", "s1/a2"} {
				w.end(a)
			}
			time.Sleep(tierAway)
			for _, a := range []string{"s1/a1", "s1/a2"} {
				w.start(a, "")
			}
			lives++
		}
		w.alone("s1", lives)
		w.clock = true // a person looks at it: it was off for ten years
		w.start("coordinator", "")
		back := time.Now()
		w.until("all is level", func() bool { return w.level("s1") && w.answered("s1") })
		took := time.Since(back)
		if took > time.Minute {
			t.Errorf("level after %v, want a minute", took)
		}
		t.Logf("%d lives until %s, level after %v", lives, began.AddDate(10, 0, 0).Format(time.DateOnly), took)
		ctx, cancel := w.ask()
		defer cancel()
		info, _ := intent.KindSSHKey.Info()
		o, err := w.api("ana", "coordinator").Get(ctx, info, "acme", "long")
		if err != nil || !strings.HasSuffix(o.Spec.(*intent.SSHKeySpec).PublicKey, fmt.Sprintf(" life-%d", lives)) {
			t.Errorf("the last change of ten years: %+v, %v", o, err)
		}
	})
}

// answered tells whether the coordinator has an answer to each override of a site, and none is a conflict: nobody else changed anything.
func (w *world) answered(site string) bool {
	ctx, cancel := w.ask()
	defer cancel()
	s, err := w.api("admin", site+"/a1").SiteStatus(ctx, site)
	if err != nil || len(s.Overrides) == 0 {
		return false
	}
	for _, o := range s.Overrides {
		if o.State != "adopted" {
			return false
		}
	}
	return true
}
