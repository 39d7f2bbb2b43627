package fault

import (
	"maps"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/siteagent"
)

// quarantined lets an agent cut another one of its site off, or let it back.
func (w *world) quarantined(site, at, who string, on bool) {
	w.Helper()
	ctx, cancel := w.ask()
	defer cancel()
	_, err := w.api("admin", site+"/"+at).Quarantine(ctx, site, who, api.QuarantineRequest{On: on, Reason: "suspected"})
	w.must(err)
}

// barred returns why an agent does not count, as at, another one or itself, has it.
func (w *world) barred(site, at, who string) string {
	w.Helper()
	ctx, cancel := w.ask()
	defer cancel()
	s, err := w.api("admin", site+"/"+at).SiteStatus(ctx, site)
	w.must(err)
	for _, a := range s.Agents {
		if a.ID == who {
			return a.Barred
		}
	}
	w.Fatalf("%s does not list %s", at, who)
	return ""
}

// changes lets an agent take a change of a user.
func (w *world) changes(site, at, name string) error {
	ctx, cancel := w.ask()
	defer cancel()
	_, err := w.api("admin", site+"/"+at).Apply(ctx, rawDocs(`{"kind":"SSHKey","metadata":{"name":"`+name+`","project":"acme"},"spec":{"publicKey":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPuN2Tl1aVrjrpVpWIlOpNHhJ7Tz9cPGPvFRPdvOjvmz a@b"}}`), false, "")
	return err
}

// An agent in quarantine learns it, though nobody has a session with it any more: it says so, also after a restart, changes nothing,
// and holds no claim. It learns too that it was let back. A box that was cut off cuts nobody off any more.
func TestQuarantinedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.over()
		w.end("coordinator")
		w.quarantined("s1", "a1", "a2", true)
		const told = "in quarantine, order 1 by admin at a1: suspected"
		w.within(2*time.Minute, "a2 knows that it is in quarantine", func() bool { return w.barred("s1", "a2", "a2") != "" })
		for _, at := range []string{"a1", "a2"} {
			if got := w.barred("s1", at, "a2"); got != told {
				t.Errorf("%s has of a2: %q", at, got)
			}
			if got := w.barred("s1", at, "a1"); got != "" {
				t.Errorf("%s has of a1: %q", at, got)
			}
		}
		w.until("the coordinator is missed", func() bool { return w.changes("s1", "a1", "one") == nil })
		if err := w.changes("s1", "a2", "two"); err == nil || !strings.Contains(err.Error(), told) {
			t.Errorf("a change at a2: %v", err)
		}
		w.end("s1/a2")
		w.start("s1/a2", "")
		w.until("a2 is up", func() bool { return w.answers("s1/a2", w.token["admin"]) == nil })
		if got := w.barred("s1", "a2", "a2"); got != told {
			t.Errorf("after a restart a2 has of itself: %q", got)
		}
		w.start("coordinator", "")
		w.until("the coordinator shows it", func() bool {
			ctx, cancel := w.ask()
			defer cancel()
			s, err := w.api("admin", "coordinator").SiteStatus(ctx, "s1")
			why := map[string]string{} // in the order in which they joined, which is any
			if err == nil {
				for _, a := range s.Agents {
					why[a.ID] = a.Barred
				}
			}
			return maps.Equal(why, map[string]string{"a1": "", "a2": told})
		})
		w.end("coordinator")
		w.quarantined("s1", "a1", "a2", false)
		w.within(2*time.Minute, "a2 is back", func() bool {
			return w.barred("s1", "a2", "a2") == "" && w.company("s1/a1") == "a1 a2" && w.company("s1/a2") == "a1 a2"
		})
		w.until("a2 takes changes", func() bool { return w.changes("s1", "a2", "three") == nil })

		w.quarantined("s1", "a1", "a2", true)
		w.within(2*time.Minute, "a2 knows it again", func() bool { return w.barred("s1", "a2", "a2") != "" })
		w.quarantined("s1", "a2", "a1", true) // it was a1 that was stolen
		if a1, a2 := w.barred("s1", "a2", "a1"), w.barred("s1", "a2", "a2"); a1 == "" || a2 != "" {
			t.Errorf("a2 has of a1 %q, of itself %q", a1, a2)
		}
		w.quarantined("s1", "a1", "a2", false)
		w.quarantined("s1", "a1", "a2", true)
		time.Sleep(5 * time.Minute)
		if got := w.barred("s1", "a2", "a2"); got != "" {
			t.Errorf("the stolen one cut a2 off once more: %q", got)
		}
		w.until("a2 takes changes alone", func() bool { return w.changes("s1", "a2", "four") == nil })
	})
}

// An agent that comes back after a spare took its place learns it, and changes nothing, until the spare is cut off.
func TestReplacedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.over()
		d := &decade{world: w}
		d.prepare()
		w.end("coordinator")
		w.end("s1/a2")
		w.until("a1 is sure that a2 is gone", func() bool { return w.company("s1/a1") == "a1" })
		w.must(os.MkdirAll(w.box("s1/s1", "10.1.0.9", 7444).dir, 0o700))
		w.startAs("s1/s1", siteagent.Config{Spare: d.kit, KitPassphrase: d.kit + ".pass", Replaces: "a2"})
		w.until("the spare is in", func() bool { return w.company("s1/a1") == "a1 s1" })
		w.start("s1/a2", "")
		w.until("a2 is up", func() bool { return w.answers("s1/a2", w.token["admin"]) == nil })
		w.within(2*time.Minute, "a2 knows that it was replaced", func() bool { return w.barred("s1", "a2", "a2") == "replaced by s1" })
		if err := w.changes("s1", "a2", "one"); err == nil || !strings.Contains(err.Error(), "replaced by s1") {
			t.Errorf("a change at a2: %v", err)
		}
		w.quarantined("s1", "a1", "s1", true)
		w.within(3*time.Minute, "a2 is back", func() bool { return w.barred("s1", "a2", "a2") == "" && w.company("s1/a1") == "a1 a2" })
		w.until("a2 takes changes", func() bool { return w.changes("s1", "a2", "two") == nil })
	})
}

// A spare whose kit is newer than the intent of the one agent that is left waits until that one knows it, and then takes its place.
func TestSpareNotKnownYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.over()
		d := &decade{world: w}
		w.end("s1/a1")
		w.end("s1/a2")
		d.pack()
		w.end("coordinator")
		w.start("s1/a1", "")
		w.until("a1 is up", func() bool { return w.answers("s1/a1", w.token["admin"]) == nil })
		w.must(os.MkdirAll(w.box("s1/s1", "10.1.0.9", 7444).dir, 0o700))
		w.startAs("s1/s1", siteagent.Config{Spare: d.kit, KitPassphrase: d.kit + ".pass", Replaces: "a2"})
		time.Sleep(2 * time.Minute)
		if got := w.company("s1/a1"); got != "a1" {
			t.Errorf("a1 sees %q, and knows no spare", got)
		}
		w.start("coordinator", "")
		w.until("the spare is in", func() bool { return w.company("s1/a1") == "a1 s1" })
	})
}
