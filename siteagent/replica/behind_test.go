package replica_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// BenchmarkFarBehind brings a new agent to the head of a site of many machines: everything was put in once, then single machines
// changed for years. There is no shortcut: the whole chain is verified and replayed.
func BenchmarkFarBehind(b *testing.B) {
	const machines, changes, many = 10_000, 20_000, 200
	a := sitetest.NewAuthor(b)
	machine := func(i, rev int) string {
		return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":"m%05d","site":"lon1","uid":"u-%d","generation":%d,"labels":{"rack":"r%d"}},"spec":{"nics":[{"mac":"52:54:00:00:%02x:%02x","boot":true}]}}`,
			i, i, rev, rev, i/256, i%256)
	}
	chain := []*intent.Envelope{a.Put(`{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"lon1","uid":"u-s","generation":1},"spec":{"region":"eu","zone":"z"}}`)}
	octets := 0
	for i := 0; i < machines; i += many {
		var docs []string
		for j := i; j < i+many; j++ {
			docs = append(docs, machine(j, 1))
		}
		chain = append(chain, a.Put(docs...))
	}
	for i := range changes {
		chain = append(chain, a.Put(machine(i%machines, 2+i/machines)))
	}
	for _, env := range chain {
		octets += len(env.Payload)
	}
	for b.Loop() {
		r, db := sitetest.OpenReplica(b, b.TempDir(), a, "a1")
		in := replica.Intake{Replica: r}
		began := time.Now()
		for _, env := range chain {
			if err := in.Add(b.Context(), env, len(env.Payload)); err != nil {
				b.Fatal(err)
			}
		}
		if err := in.End(b.Context()); err != nil {
			b.Fatal(err)
		}
		took := time.Since(began)
		if st := r.State(); st.Head.Compare(a.Head) != 0 || len(st.Objects) != machines+1 {
			b.Fatalf("head %v of %v, %d objects, %s", st.Head, a.Head, len(st.Objects), st.Rejected)
		}
		began = time.Now()
		if _, err := r.Receive(b.Context(), []*intent.Envelope{a.Put(machine(7, 99))}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(chain))/took.Seconds(), "entries/s")
		b.ReportMetric(took.Seconds(), "s-behind")
		b.ReportMetric(time.Since(began).Seconds()*1000, "ms-one-change")
		b.ReportMetric(float64(octets)/1e6, "MB")
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
