package succession

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// ca goes as far as it goes: the next CA is listed, takes over when everybody who is there has heard, every agent gets a certificate
// under it, and the old one is retired.
func (x *step) ca() error {
	if x.current() == x.rec.From {
		spki, csr, err := x.Issuer.Next()
		if err != nil {
			return err
		}
		if x.caOf(spki) == nil {
			x.st.Steps = append(x.st.Steps, api.RotationStep{Phase: api.PhaseAccept, Text: "key " + intent.DigestOf(spki).Short()})
			x.csr = csr
			own := x.Issuer.CA().Cert
			waits, err := x.propose(nil, func(b *intent.TrustBody) {
				for i := range b.CAs {
					if bytes.Equal(b.CAs[i].Cert, own.Raw) {
						b.CAs[i].State = intent.KeyAccept
						b.CAs = append(b.CAs, intent.CACert{Root: b.CAs[i].Root, State: intent.KeyUse})
						return
					}
				}
			})
			if err != nil || waits {
				return err
			}
			x.st.Steps = nil
		}
		next := x.caOf(spki)
		if next == nil {
			return api.Refuse("the trust document that was signed lists another CA than this coordinator made; sign the one that it offers")
		}
		if waits, err := x.heard(next); err != nil || waits {
			return err
		}
		if err := x.Issuer.Take(next.Raw, x.Now()); err != nil {
			return err
		}
		x.Ask()
	}
	return x.useCA()
}

// caOf returns the certificate of a listed CA by its key; nil for none.
func (x *step) caOf(spki []byte) *x509.Certificate {
	for _, c := range x.body.CAs {
		if cert, err := x509.ParseCertificate(c.Cert); err == nil && bytes.Equal(cert.RawSubjectPublicKeyInfo, spki) {
			return cert
		}
	}
	return nil
}

func (x *step) lists(cert []byte) func(*intent.TrustBody) bool {
	return func(b *intent.TrustBody) bool {
		return slices.ContainsFunc(b.CAs, func(c intent.CACert) bool { return bytes.Equal(c.Cert, cert) })
	}
}

// heard waits for the agents that are connected to have the document that lists the CA: they would refuse this coordinator. Who is away
// learns of it from a peer, or asks when it is back.
func (x *step) heard(next *x509.Certificate) (waits bool, err error) {
	since := x.firstWith(x.lists(next.Raw))
	have, of, _, err := x.ledger(api.PhaseAccept, func(_ string, a api.AgentKeys) string {
		if a.Trust < since {
			return fmt.Sprintf("at trust %d", a.Trust)
		}
		return ""
	})
	if err != nil {
		return false, err
	}
	var late []string
	for _, row := range x.st.Ledger {
		if row.Phase == api.PhaseAccept && row.Held == "" {
			late = append(late, row.Agent)
		}
	}
	if len(late) > 0 {
		x.st.Steps = append(x.st.Steps, api.RotationStep{Phase: api.PhaseAccept, Text: fmt.Sprintf("trust %d", since), Have: have, Of: of})
		x.waitFor(api.PhaseAccept, late)
		return true, nil
	}
	x.st.Ledger = []api.RotationRow{}
	return false, nil
}

// useCA waits until every agent has a certificate under the CA that is in use now, and retires the one of before.
func (x *step) useCA() error {
	own := x.Issuer.CA().Cert
	since := x.firstWith(x.lists(own.Raw))
	lacks, err := x.Lacks(x.ctx)
	if err != nil {
		return err
	}
	heard := 0
	have, of, waited, err := x.ledger(api.PhaseUse, func(site string, a api.AgentKeys) string {
		if a.Trust >= since {
			heard++
		}
		return lacks[site+"/"+a.ID]
	})
	if err != nil {
		return err
	}
	x.st.Steps = append(x.st.Steps, api.RotationStep{Phase: api.PhaseAccept, Text: fmt.Sprintf("trust %d", since), Have: heard, Of: of},
		api.RotationStep{Phase: api.PhaseUse, Text: strings.TrimSpace(own.Subject.CommonName + " " + intent.DigestOf(own.RawSubjectPublicKeyInfo).Short()), Have: have, Of: of})
	if len(waited) > 0 {
		x.waitFor(api.PhaseUse, waited)
		return nil
	}
	x.st.Phase = api.PhaseRetire
	// All others: coordinators that share a store have one CA, and one that was lost has none.
	old := func(c intent.CACert) bool { return c.State != intent.KeyRetire && !bytes.Equal(c.Cert, own.Raw) }
	if slices.ContainsFunc(x.body.CAs, old) {
		waits, err := x.propose(nil, func(b *intent.TrustBody) {
			for i := range b.CAs {
				if old(b.CAs[i]) {
					b.CAs[i].State = intent.KeyRetire
				}
			}
		})
		if err != nil || waits {
			x.st.Steps = append(x.st.Steps, api.RotationStep{Phase: api.PhaseRetire, Text: "trust " + fmt.Sprint(x.Trust.Head().Seq+1)})
			return err
		}
	}
	x.st.Steps = append(x.st.Steps, api.RotationStep{Phase: api.PhaseRetire, Text: fmt.Sprintf("trust %d", x.st.Trust.Seq)})
	return x.done()
}
