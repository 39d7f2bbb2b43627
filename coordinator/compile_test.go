package coordinator

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/test/bench"
)

// BenchmarkCompile: the first publication of a site of 10,000 machines, compiled, signed and committed, and then of one change.
func BenchmarkCompile(b *testing.B) {
	const machines, batch = 10_000, 1000
	s := found1(b)
	s.apply(firstSite)
	for from := 0; from < machines; from += batch {
		var docs strings.Builder
		for i := from; i < from+batch; i++ {
			fmt.Fprintf(&docs, `{"kind":"Machine","metadata":{"name":"n%d","site":"lon1"},"spec":{"bmc":{"address":"10.%d.%d.1","protocol":"redfish","secret":"bmc"},"nics":[{"mac":"52:54:01:%02x:%02x:01"}]}}`+"\n",
				i, 100+i/250, i%250, i/250, i%250)
		}
		if _, err := s.backend.Apply(b.Context(), s.admin, api.Batch{Put: s.docs(docs.String())}); err != nil {
			b.Fatal(err)
		}
	}
	sync := func(what, asked string) {
		b.Helper()
		at := time.Now()
		if err := s.agents.Sync(b.Context(), "lon1"); err != nil {
			b.Fatal(err)
		}
		head, _, err := s.agents.pub.Head(b.Context(), "lon1")
		if err != nil {
			b.Fatal(err)
		}
		bench.Figure(os.Stdout, fmt.Sprintf("a site of %d machines, %s compiled, signed and on disk (head %d)", machines, what, head.Seq), bench.Seconds(time.Since(at)), "", "", asked)
	}
	sync("all of it", "< 2 s")
	s.apply(`{"kind":"MachineType","metadata":{"name":"small"},"spec":{"cpu":{"min":2},"memoryMiB":{"min":1}}}`)
	sync("one change", "")
}
