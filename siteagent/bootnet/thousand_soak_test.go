//go:build soak

package bootnet

import (
	"flag"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var thousand = flag.Int("machines", 1000, "of TestThousand")

// TestThousand: a site of a thousand machines, all of them inspected and installed by one agent, 64 at once: no BMC sees two sessions, or
// more than two requests a second in bursts of four. It prints what it took; the simulators are in the same process as the agent.
func TestThousand(t *testing.T) {
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t, *thousand)
		defer p.over()
		start := time.Now()
		p.until(func() bool { return p.all((*unit).runs) }, "all run")
		requests, installed := 0, 0
		for _, u := range p.units {
			if said, really := u.runs(); said && really {
				installed++
			}
			requests += u.meter.n
			if u.meter.most > 1 || u.meter.fast > 0 {
				t.Errorf("%s: %d sessions at once, %d of %d requests too early", u.name, u.meter.most, u.meter.fast, u.meter.n)
			}
		}
		t.Logf("%d of %d installed in %v of the site's time, %d requests to BMCs; %s", installed, len(p.units), time.Since(start).Round(time.Second), requests, resident())
	})
	t.Logf("%v of this machine's time", time.Since(began).Round(time.Second))
}

// resident returns the process's resident set, now and at its most. Source: proc_pid_status(5).
func resident() string {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(l, "VmRSS:") || strings.HasPrefix(l, "VmHWM:") {
			out = append(out, strings.Join(strings.Fields(l), " "))
		}
	}
	return strings.Join(out, ", ")
}
