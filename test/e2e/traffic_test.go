package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/telemetry/sflow/sflowtest"
	"github.com/skerry-metal/skerry/test/e2e/procs"
)

// level tells whether each of the agents has all that was published, by its own word: what the coordinator knows is how far one of them is.
func level(ctx context.Context, s *procs.Site, agents ...string) bool {
	all, err := s.API("coordinator").SiteStatus(ctx, "lon1")
	if err != nil || procs.Alive(all) != strings.Join(agents, " ") || len(all.Machines) == 0 {
		return false
	}
	for _, a := range agents {
		if own, err := s.API(a).SiteStatus(ctx, "lon1"); err != nil || own.Head != all.Published {
			return false
		}
	}
	return true
}

// TestTraffic: a switch sends to both agents of a site, one of which is killed without a word; what it was is answered by the coordinator, by
// either agent, and by an agent when the coordinator is gone, each packet once.
func TestTraffic(t *testing.T) {
	t.Parallel() // it mostly waits
	s := procs.New(t, buildSkerry(t), "a1", "a2")
	s.Apply(`{"apiVersion":"skerry/v1","kind":"SubnetPool","metadata":{"name":"boot","site":"lon1"},"spec":{"prefix":"10.88.0.0/16"}}`,
		`{"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":"m1","site":"lon1"},"spec":{"nics":[{"mac":"52:54:00:88:00:01","address":"10.88.0.21"}]}}`,
		`{"apiVersion":"skerry/v1","kind":"Switch","metadata":{"name":"sw1","site":"lon1"},"spec":{"sflow":{"agents":["127.0.0.1"]},"ports":[{"index":1,"nic":"52:54:00:88:00:01"}]}}`)
	s.Until("both agents have the switch", func(ctx context.Context) bool { return level(ctx, s, "a1", "a2") })
	sflow, metrics := map[string]string{}, map[string]string{}
	for _, a := range []string{"a1", "a2"} {
		s.Kill(a)
		sflow[a], metrics[a] = procs.FreeAddr(t), procs.FreeAddr(t)
		s.Agent(a, "--sflow", sflow[a], "--metrics", metrics[a], "--probe", "nowhere0") // an interface that is not there keeps nobody from serving
	}
	shows := func(line string) func(context.Context) bool {
		return func(ctx context.Context) bool {
			for _, at := range metrics {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+"/metrics", nil)
				if err != nil {
					t.Fatal(err)
				}
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					return false
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || !strings.Contains(string(b), line+"\n") {
					return false
				}
			}
			return true
		}
	}
	s.Until("both agents count", shows(`skerry_sflow_dropped_total{reason="source"} 0`))

	s.Until("both agents say how they count at their interface", shows(`skerry_probe_attached{interface="nowhere0",method="off"} 0`))

	const packets = 200
	e := sflowtest.Exporter{Agent: netip.MustParseAddr("127.0.0.1"), Uptime: 600_000}
	at := map[string]net.Conn{}
	for a, addr := range sflow {
		c, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		at[a] = c
	}
	for i := range uint32(packets) {
		e.Uptime += 10
		b := e.Datagram(sflowtest.Flow{
			Seq: i, Source: 1, Rate: 100, Pool: i * 100, Input: 1, Output: 9, Len: 1018,
			Header: sflowtest.Frame(netip.MustParseAddr("10.88.0.21"), netip.MustParseAddr("203.0.113.9"), 0, 1000),
		}.Sample())
		for _, c := range at {
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Until("both agents heard all of it", shows(fmt.Sprintf(`skerry_sflow_samples_total{switch="sw1"} %d`, packets)))
	if !shows(`skerry_sflow_datagrams_lost_total{switch="sw1"} 0`)(t.Context()) {
		t.Error("datagrams were lost on loopback")
	}
	for _, who := range []string{"coordinator", "a1", "a2"} {
		s.Until("what there is just now is told by "+who, func(ctx context.Context) bool { return rateOf(ctx, s.API(who)) == packets })
	}
	s.Kill("a1")
	if err := s.Procs["a2"].Stop(); err != nil { // told to end, it writes the open minute
		t.Fatal(err)
	}
	delete(s.Procs, "a2")
	for _, a := range []string{"a1", "a2"} {
		s.Agent(a, "--sflow", sflow[a])
	}
	q := telemetry.TrafficQuery{From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour), By: []string{"machine", "switch", "direction"}}
	answered := func(who string) func(context.Context) bool {
		return func(ctx context.Context) bool {
			a, err := s.API(who).Traffic(ctx, "lon1", q)
			if err != nil || len(a.Missing) > 0 {
				return false // an agent is not up yet
			}
			if len(a.Rows) != 1 {
				t.Fatalf("%s: %+v", who, a.Rows)
			}
			if r := a.Rows[0]; r.Machine != "m1" || r.Switch != "sw1" || r.Direction != "out" || r.Samples != packets || r.Packets != packets*100 || r.Bytes != packets*100*1018 {
				t.Fatalf("%s: %+v", who, r)
			}
			return true
		}
	}
	s.Until("the coordinator answers", answered("coordinator"))
	s.Kill("coordinator")
	s.Until("a1, which lost it, answers", answered("a1"))
	s.Until("a2 answers", answered("a2"))
}

// rateOf returns how many samples the one rate that there is just now is of, 0 when it is not whole.
func rateOf(ctx context.Context, c *client.Client) (samples uint64) {
	err := c.Top(ctx, "lon1", telemetry.TopQuery{By: "port", Limit: 10}, 1, func(f telemetry.TopFrame) error {
		if len(f.Missing) == 0 && len(f.Rows) == 1 && f.Rows[0].Machine == "m1" && f.Rows[0].Switch == "sw1" && f.Rows[0].Coverage == 1 {
			samples = f.Rows[0].Samples
		}
		return nil
	})
	if err != nil {
		return 0
	}
	return samples
}
