package keys

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
)

// Of two CAs that certified a key, the one that the coordinator listed first counts, whatever order trust has, and whatever the clock of
// the coordinator said: within one second, or years earlier than the one before.
func TestOffered(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	offered(t, now, now, now)
	offered(t, now, now.AddDate(9, 0, 0), now)
	offered(t, now, now, now.AddDate(9, 0, 0))
}

// offered has the certificates of C1 and C2 issued at these times, under a root that is made now.
func offered(t *testing.T, now time.Time, times ...time.Time) {
	t.Helper()
	root, err := ca.NewRoot("edge.example", now)
	if err != nil {
		t.Fatal(err)
	}
	k, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.NewRequest(k.TLS)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := k.TLSPublic()
	if err != nil {
		t.Fatal(err)
	}
	me := intent.RosterAgent{ID: "a1", TLS: [][]byte{spki}}
	var cas []*x509.Certificate
	for i, name := range []string{"C1", "C2"} {
		now := times[i]
		c, err := root.Sub(name, now)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := c.Issue(csr, trust.Identity{Kind: trust.Agent, Site: "lon1", ID: "a1"}, now)
		if err != nil {
			t.Fatal(err)
		}
		web, err := c.IssueWeb(csr, []string{"a1.lon1.edge.example"}, nil, now)
		if err != nil {
			t.Fatal(err)
		}
		cas, me.Certs = append(cas, c.Cert), append([][]byte{leaf.Raw, web.Raw}, me.Certs...)
	}
	o := &Own{sets: map[uint64]*seal.Keys{0: k}}
	for range 2 {
		got, ok := o.offered(me, cas)
		if want := "CN=" + ca.NamePrefix + "C2"; !ok || got.ca.Subject.String() != want {
			t.Errorf("offered under %v, want %s", got.ca.Subject, want)
		}
		cas[0], cas[1] = cas[1], cas[0]
	}
}
