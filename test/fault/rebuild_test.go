package fault

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/skerry-metal/skerry/coordinator"
	"github.com/skerry-metal/skerry/coordinator/rebuild"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/join"
)

// Every coordinator and every backup is lost; the roots are kept elsewhere. A coordinator with new keys is made from what the agents
// of two sites have: they come back to it by themselves, with the catalog, the revocations and the users, and take new intent from it
// (F16).
func TestRebuildFromSites(t *testing.T) {
	d, dir := newDomain(t), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	d.coordinator(nil)
	d.must(d.apply(siteLon, sitePar, machineType("t1", 4), user("ana"), machine("m1", 1)))
	d.agent("lon1", "a1", at("a1"))
	d.agent("lon1", "a2", at("a2"))
	d.agent("par1", "b1", at("b1"))
	d.agent("par1", "b9", at("b9"))
	d.wait("both sites are level", func() bool {
		return d.level("lon1") && d.level("par1") && d.metric("par1/b9", "skerry_uplink_up") == "1"
	})
	d.end("par1/b9")
	_, err := d.api.Revoke(t.Context(), api.RevokeRequest{Kind: "agent", ID: "par1/b9", Reason: "stolen"})
	d.must(err)
	d.delete(intent.KindMachineType, "", "t1")
	d.wait("all know of it", func() bool {
		st, err := d.api.KeyStatus(t.Context())
		if err != nil || !d.level("lon1") || !d.level("par1") {
			return false
		}
		n := 0
		for _, a := range st.Agents() {
			if a.Revocation == 1 {
				n++
			}
		}
		return n == 3
	})
	want := d.catalog()
	d.end("coordinator")
	lost := d.data
	d.data = at("again")
	d.must(os.MkdirAll(filepath.Join(d.data, "keys"), 0o700))
	cfg := rebuild.Config{Agents: []string{d.sites["par1/b9"], d.sites["lon1/a1"], d.sites["par1/b1"]}, ID: "c1", Addr: []string{d.addr}}
	res, err := coordinator.Rebuild(t.Context(), d.data, nil, cfg, d.log)
	if err != nil || res.Offer == "" || res.Have != 0 {
		t.Fatalf("without the roots: %+v, %v", res, err)
	}
	for _, name := range []string{"root.key", "root.crt", "root-sign.key", "next-sign.key"} { // now they are brought
		b, err := os.ReadFile(filepath.Join(lost, "keys", name))
		d.must(err)
		d.must(os.WriteFile(filepath.Join(d.data, "keys", name), b, 0o600))
	}
	res, err = coordinator.Rebuild(t.Context(), d.data, nil, cfg, d.log)
	if err != nil || res.Offer != "" || res.Trust != 2 || res.Domain != "edge.example" {
		t.Fatalf("with the roots: %+v, %v", res, err)
	}
	if _, err := coordinator.Rebuild(t.Context(), d.data, nil, cfg, d.log); err == nil {
		t.Error("it was rebuilt again")
	}
	d.coordinator(nil)
	d.agent("par1", "b9", at("b9"))
	d.wait("both sites are taken over", func() bool { return d.level("lon1") && d.level("par1") })
	if diff := cmp.Diff(want, d.catalog()); diff != "" {
		t.Errorf("catalog: -lost +rebuilt\n%s", diff)
	}
	d.must(d.apply(machine("m2", 2)))
	d.wait("new intent is taken", func() bool { return d.level("lon1") })
	if up := d.metric("par1/b9", "skerry_uplink_up"); up != "0" {
		t.Errorf("the revoked agent's session: %q", up)
	}
	for _, what := range []string{api.RotateWriter, api.RotateCA} { // what the lost host had is of no use any more
		d.wait(what+" is retired", func() bool {
			st, err := d.api.Rotate(t.Context(), api.RotateRequest{What: what})
			return err == nil && st.Phase == api.PhaseDone
		})
	}
	last := d.newest()
	for i, c := range last.CAs {
		if want := i == len(last.CAs)-1; (c.State != intent.KeyRetire) != want {
			t.Errorf("CA %d is %s", i, c.State)
		}
	}
	for i, w := range last.Writers {
		if want := i == len(last.Writers)-1; (w.State != intent.KeyRetire) != want {
			t.Errorf("writer %d is %s", i, w.State)
		}
	}
	d.must(d.apply(machine("m3", 3)))
	d.wait("the sites live under the new ones", func() bool { return d.level("lon1") && d.level("par1") })
}

// newest is the newest trust document that the coordinator shows to everybody.
func (d *domain) newest() *intent.TrustBody {
	d.Helper()
	chain, _, err := join.Chain(d.Context(), &net.Dialer{}, d.addr)
	d.must(err)
	return chain.Body
}
