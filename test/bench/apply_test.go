package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/e2e/procs"
)

const (
	resources = 1000
	batches   = 5   // of all resources at once
	singles   = 300 // changes of one resource, one after the other
	// activeWithin bounds the wait for one change; it is no figure, only the end of a hang.
	activeWithin = 60 * time.Second
)

// exe is the program as `make build` made it.
func exe(tb testing.TB) string {
	tb.Helper()
	lab.Need(tb, lab.Built("../../bin/skerry", "build"))
	path, err := filepath.Abs("../../bin/skerry")
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// seen collects when an agent had which generation of a resource active, from its own watch stream.
type seen struct {
	mu   sync.Mutex // guards what follows
	at   map[string]map[uint64]time.Time
	wake chan struct{}
}

func (s *seen) put(name string, rev uint64, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at[name] == nil {
		s.at[name] = map[uint64]time.Time{}
	}
	if _, ok := s.at[name][rev]; !ok {
		s.at[name][rev] = at
	}
	close(s.wake)
	s.wake = make(chan struct{})
}

// when waits until the generation is active.
func (s *seen) when(tb testing.TB, name string, rev uint64) time.Time {
	tb.Helper()
	end := time.NewTimer(activeWithin)
	defer end.Stop()
	for {
		s.mu.Lock()
		at, ok := s.at[name][rev]
		wake := s.wake
		s.mu.Unlock()
		if ok {
			return at
		}
		select {
		case <-wake:
		case <-end.C:
			tb.Fatalf("%s at generation %d is not active within %v", name, rev, activeWithin)
		}
	}
}

// follow watches one agent until the benchmark ends.
func follow(tb testing.TB, s *procs.Site, who string) *seen {
	tb.Helper()
	out := &seen{at: map[string]map[uint64]time.Time{}, wake: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	synced, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.API(who).Watch(ctx, intent.KindSSHKey, func(c api.Change) error {
			switch {
			case c.Object != nil:
				out.put(c.Object.Metadata.Name, c.Object.Metadata.Rev, time.Now())
			default:
				close(synced)
			}
			return nil
		})
	}()
	tb.Cleanup(func() { cancel(); <-done })
	select {
	case <-synced:
	case err := <-done:
		done <- err
		tb.Fatal(err)
	case <-time.After(time.Minute):
		tb.Fatal("no watch")
	}
	return out
}

func key(i, n int) string {
	return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"SSHKey","metadata":{"name":"k%04d","project":"acme"},`+
		`"spec":{"publicKey":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEGn0VUqPoyrDI2G2gQbSa0KpUxWS6qZr7E4x0xUOdPt k%d-%d"}}`, i, i, n)
}

// timed applies docs and returns, for each, the time from the begin of the call until both agents had it active.
func timed(tb testing.TB, s *procs.Site, watches []*seen, docs ...string) []time.Duration {
	tb.Helper()
	begin := time.Now()
	res := s.Apply(docs...)
	var out []time.Duration
	for _, r := range res {
		var last time.Duration
		for _, w := range watches {
			last = max(last, w.when(tb, r.Object.Name, r.Rev).Sub(begin))
		}
		out = append(out, last)
	}
	return out
}

// BenchmarkApply: from the begin of `apply` at the coordinator until both agents have the change active: 1,000 resources in
// one batch, several times over, then single changes with the 1,000 there. Then memory and sizes.
func BenchmarkApply(b *testing.B) {
	s := procs.New(b, exe(b), "a1", "a2")
	watches := []*seen{follow(b, s, "a1"), follow(b, s, "a2")}
	var all []time.Duration
	for n := range batches {
		var docs []string
		for i := range resources {
			docs = append(docs, key(i, n))
		}
		all = append(all, timed(b, s, watches, docs...)...)
	}
	Figure(os.Stdout, fmt.Sprintf("apply to active, %d batches of %d, p99 of a resource", batches, resources), Seconds(Quantile(all, 0.99)),
		"median "+Seconds(Quantile(all, 0.5)), "", "< 1 s")
	var one []time.Duration
	for n := range singles {
		one = append(one, timed(b, s, watches, key(n%resources, 1000+n))...)
	}
	Figure(os.Stdout, fmt.Sprintf("apply to active, single changes among %d, p99", resources), Seconds(Quantile(one, 0.99)),
		"median "+Seconds(Quantile(one, 0.5)), "", "< 1 s")
	for _, n := range []string{"a1", "a2", "coordinator"} {
		Figure(os.Stdout, "memory of "+n+" with 1,000 resources", fmt.Sprintf("%.0f MB", procs.ResidentMB(b, s.Procs[n].Pid())), "", "", "< 120 MB")
	}
	for name, asked := range map[string]string{"skerry": "< 30 MB", "skerry-installer": "< 12 MB"} {
		st, err := os.Stat("../../bin/" + name)
		if err != nil {
			b.Fatal(err)
		}
		Figure(os.Stdout, "size of "+name+", stripped", fmt.Sprintf("%.1f MB", float64(st.Size())/1e6), "", "", asked)
	}
}
