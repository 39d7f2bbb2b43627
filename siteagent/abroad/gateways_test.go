package abroad

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// TestGateways: of each site the two agents of the lowest ranks, of the sites that are named; to a third agent it is a pool of its own.
func TestGateways(t *testing.T) {
	roster := &intent.RosterBody{}
	c := intent.NewCatalog()
	for i, id := range []string{"a3", "a2", "a1"} {
		roster.Agents = append(roster.Agents, intent.RosterAgent{ID: id, Rank: uint16(i), State: intent.StateAgent, Addr: []string{"10.0.0." + id[1:] + ":7444"}})
		for _, site := range []string{"lon1", "par1", "ams1"} {
			o := &intent.Object{Kind: intent.KindAgent, Spec: &intent.AgentSpec{Rank: i, Management: fmt.Sprintf("10.9.0.%s:7444", id[1:])}}
			o.Metadata.Name, o.Metadata.Site = id, site
			c.Put(o)
		}
	}
	f := func(self, want string, peers ...string) {
		t.Helper()
		reached := Reached("lon1", &intent.SiteSpec{Peers: peers}, c)
		var got []string
		for _, n := range Gateways("lon1", self, roster, reached) {
			got = append(got, n.ID+"@"+n.Addr[0])
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %s, want %s", self, s, want)
		}
	}
	f("a3", "a2.lon1@10.0.0.2:7444 a3.lon1@10.0.0.3:7444")
	f("a3", "a2.lon1@10.0.0.2:7444 a2.par1@10.9.0.2:7444 a3.lon1@10.0.0.3:7444 a3.par1@10.9.0.3:7444", "par1")
	f("a1", "a1.lon1@10.0.0.1:7444", "par1")
	f("b9", "", "par1")
	spec := &intent.SiteSpec{Peers: []string{"ams1", "lon1"}, WAN: &intent.WANSpec{Metered: true}}
	if got := Askable(spec, Reached("lon1", spec, c)); len(got) != 0 || len(Reached("lon1", spec, c)) != 1 {
		t.Errorf("over a metered line: %v", got)
	}
	if got := Askable(nil, Reached("lon1", &intent.SiteSpec{Peers: []string{"ams1", "lon1"}}, c)); fmt.Sprint(got) != "map[ams1:[a3 a2 a1]]" {
		t.Error(got)
	}
	if Reached("lon1", nil, c) != nil {
		t.Error("without a spec")
	}
}
