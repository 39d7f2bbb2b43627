package fault

import (
	"crypto/tls"
	"crypto/x509"
	"path/filepath"
	"testing"

	"github.com/skerry-metal/skerry/mesh/api"
)

// The coordinator's CA is changed by command, with the coordinator stopped after the first step: who is there gets certificates under
// the new one, who is away is waited for, or not after a time, and finds back by itself; a new agent joins under it (F18).
func TestRotateCA(t *testing.T) {
	d, dir := newDomain(t), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	d.coordinator(nil)
	d.must(d.apply(siteLon))
	for _, id := range []string{"a1", "a2", "a3"} {
		d.agent("lon1", id, at(id))
	}
	d.wait("lon1 is level", func() bool { return d.level("lon1") && d.metric("lon1/a1", "skerry_agents_alive") == "3" })
	d.end("lon1/a3")
	d.wait("a3 is away", func() bool {
		st, err := d.api.KeyStatus(t.Context())
		if err != nil {
			return false
		}
		for _, a := range st.Agents() {
			if a.ID == "a3" {
				return !a.Up
			}
		}
		return false
	})
	before := d.shown()
	q := api.RotateRequest{What: api.RotateCA, DryRun: true}
	if st, err := d.api.Rotate(t.Context(), q); err != nil || st.Phase != api.PhaseAccept || !d.trustAt("lon1/a1", 1) {
		t.Fatalf("dry run: %+v, %v", st, err)
	}
	q.DryRun = false
	_, err := d.api.Rotate(t.Context(), q)
	d.must(err)
	d.end("coordinator")
	d.coordinator(nil)
	var st *api.RotationStatus
	d.wait("it waits for who is away alone", func() bool {
		st, err = d.api.Rotate(t.Context(), q)
		return err == nil && st.Phase == api.PhaseUse && rows(st) == 2
	})
	for _, row := range st.Ledger {
		if (row.Held != "") != (row.Agent == "lon1/a3") {
			t.Errorf("held: %+v", row)
		}
	}
	q.ForceAfterSeconds = 1
	d.wait("it is retired without a3", func() bool {
		st, err = d.api.Rotate(t.Context(), q)
		return err == nil && st.Phase == api.PhaseDone
	})
	if d.shown() == before {
		t.Error("the coordinator shows the certificate of before")
	}
	d.agent("lon1", "a4", at("a4"))
	d.agent("lon1", "a3", at("a3"))
	for _, id := range []string{"a1", "a2", "a3", "a4"} {
		d.wait(id+" is connected, and sees the others", func() bool {
			return d.metric("lon1/"+id, "skerry_uplink_up") == "1" && d.metric("lon1/"+id, "skerry_agents_alive") == "4" && d.trustAt("lon1/"+id, 3)
		})
	}
	q.Again, q.ForceAfterSeconds = true, 0
	d.wait("and once more", func() bool {
		st, err = d.api.Rotate(t.Context(), q)
		q.Again = false
		return err == nil && st.Phase == api.PhaseDone
	})
}

// rows counts who is through.
func rows(st *api.RotationStatus) (done int) {
	for _, row := range st.Ledger {
		if row.Phase == api.PhaseDone {
			done++
		}
	}
	return done
}

// shown is the issuer of the certificate that the coordinator shows to clients, by its key.
func (d *domain) shown() string {
	d.Helper()
	c, err := tls.Dial("tcp", d.addr, &tls.Config{RootCAs: d.roots})
	d.must(err)
	defer c.Close()
	var issuer *x509.Certificate
	if certs := c.ConnectionState().PeerCertificates; len(certs) > 1 {
		issuer = certs[1]
	}
	return string(issuer.RawSubjectPublicKeyInfo)
}
