package fault

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator/founding"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
)

// An agent was away while its only peer changed its keys, and the coordinator is gone when it returns: it knows the peer by no key,
// and is told what it missed by it (trust.md section 3, catch-up; F18).
func TestAwayWhilePeersRotated(t *testing.T) {
	d, dir := newDomain(t), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	d.coordinator(nil)
	d.must(d.apply(siteLon))
	d.agent("lon1", "a1", at("a1"))
	d.agent("lon1", "a2", at("a2"))
	d.wait("both see each other", func() bool { return d.level("lon1") && d.metric("lon1/a2", "skerry_agents_alive") == "2" })
	d.end("lon1/a2")
	d.wait("a1's keys are changed, and the old ones retired", func() bool {
		st, err := d.api.Rotate(t.Context(), api.RotateRequest{What: api.RotateAgent, Site: "lon1", Agent: "a1", ForceAfterSeconds: 1})
		return err == nil && st.Phase == api.PhaseDone
	})
	d.end("coordinator")
	d.agent("lon1", "a2", at("a2"))
	d.wait("a2 is back without a coordinator", func() bool {
		return d.metric("lon1/a2", "skerry_agents_alive") == "2" && d.metric("lon1/a1", "skerry_agents_alive") == "2"
	})
}

// A site was cut off while the coordinator's CA was replaced and the old one retired, whoever was away: its agents follow the trust
// stream by themselves, get certificates on the keys that they have, and one that was revoked meanwhile stays out.
func TestAwayWhileCARetired(t *testing.T) {
	d, dir := newDomain(t), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	d.coordinator(nil)
	d.must(d.apply(siteLon))
	for _, id := range []string{"a1", "a2", "a3"} {
		d.agent("lon1", id, at(id))
	}
	d.wait("lon1 is level", func() bool { return d.level("lon1") && d.metric("lon1/a3", "skerry_agents_alive") == "3" })
	body, head := d.first(at("a1"))
	for _, id := range []string{"a1", "a2", "a3"} {
		d.end("lon1/" + id)
	}
	_, err := d.api.Revoke(t.Context(), api.RevokeRequest{Kind: "agent", ID: "lon1/a3", Reason: "stolen"})
	d.must(err)
	first := body.CAs[0]
	second := d.nextCA()
	for _, states := range [][2]intent.KeyState{{intent.KeyUse, intent.KeyAccept}, {intent.KeyAccept, intent.KeyUse}, {intent.KeyRetire, intent.KeyUse}} {
		body.CAs = []intent.CACert{{Cert: first.Cert, Root: first.Root, State: states[0]}, {Cert: second.Cert.Raw, Root: first.Root, State: states[1]}}
		env, next, nextHead := d.signTrust(body, head)
		body, head = next, nextHead
		_, err := d.api.AddTrust(t.Context(), env)
		d.must(err)
		if states[0] == intent.KeyUse { // it is listed: the coordinator goes over to it
			d.end("coordinator")
			d.useCA(second)
			d.coordinator(nil)
		}
	}
	for _, id := range []string{"a1", "a2", "a3"} {
		d.agent("lon1", id, at(id))
	}
	d.wait("a1 and a2 are back with certificates of the new CA", func() bool {
		return d.metric("lon1/a1", "skerry_uplink_up") == "1" && d.metric("lon1/a2", "skerry_uplink_up") == "1" && d.trustAt("lon1/a2", 4)
	})
	d.wait("they see each other, and not the revoked one", func() bool {
		return d.metric("lon1/a1", "skerry_agents_alive") == "2" && d.metric("lon1/a2", "skerry_agents_alive") == "2"
	})
	if up := d.metric("lon1/a3", "skerry_uplink_up"); up != "0" {
		t.Errorf("the revoked agent's session: %q", up)
	}
	d.wait("nobody speaks with it", func() bool { return d.metric("lon1/a3", "skerry_agents_alive") == "1" })
}

// nextCA makes another CA below the root on the coordinator's host.
func (d *domain) nextCA() *ca.CA {
	d.Helper()
	root, err := ca.Load(filepath.Join(d.data, "keys"), founding.NameRoot, "edge.example")
	d.must(err)
	c, err := root.Sub("c1", time.Now())
	d.must(err)
	return c
}

// useCA makes it the one that the coordinator, which is stopped, issues by and shows itself with.
func (d *domain) useCA(c *ca.CA) {
	d.Helper()
	keys := filepath.Join(d.data, "keys")
	d.must(c.Save(keys, founding.NameCA))
	pair, err := seal.Load(keys)
	d.must(err)
	csr, err := ca.NewRequest(pair.TLS)
	d.must(err)
	leaf, err := c.Issue(csr, trust.Identity{Kind: trust.Coordinator, ID: "c1"}, time.Now())
	d.must(err)
	host, _, err := net.SplitHostPort(d.addr)
	d.must(err)
	web, err := c.IssueWeb(csr, []string{"c1.edge.example"}, []netip.Addr{netip.MustParseAddr(host)}, time.Now())
	d.must(err)
	d.must(os.WriteFile(filepath.Join(keys, "leaf.der"), leaf.Raw, 0o600))
	d.must(os.WriteFile(filepath.Join(keys, "web.der"), web.Raw, 0o600))
}
