package rotate

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
)

// MaxOffer bounds an Offer in JSON: three public keys, a request and a signature are 3 KiB.
const MaxOffer = 16 << 10

// What a coordinator asks for.
const (
	WantKeys        = "keys"        // new keys
	WantCertificate = "certificate" // a request for a certificate on the keys that are in use: the CA is another one
)

// Order is what a coordinator asks of an agent about its keys. The zero Order asks for nothing.
type Order struct {
	N    uint64 `json:"n"` // of the rotation; an offer names it
	Want string `json:"want,omitempty"`
}

// Offer is what an agent answers to an Order: its public keys. The request proves that it holds the TLS key, Proof the signing
// key. The sealing key is proven by use: the agent goes over to the new keys when it could open what was sealed to them.
type Offer struct {
	N     uint64 `json:"n"`
	CSR   []byte `json:"csr"`
	Sign  []byte `json:"sign"`
	Seal  []byte `json:"seal"`
	Proof []byte `json:"proof"`
}

// NewOffer answers the order with keys. who is SITE/AGENT.
func NewOffer(o Order, who string, keys *seal.Keys) (*Offer, error) {
	csr, err := ca.NewRequest(keys.TLS)
	if err != nil {
		return nil, err
	}
	sign, err := keys.SignPublic()
	if err != nil {
		return nil, err
	}
	out := &Offer{N: o.N, CSR: csr, Sign: sign, Seal: keys.SealPublic()}
	out.Proof = ed25519.Sign(keys.Sign, out.transcript(who))
	return out, nil
}

// ErrOffer says that an offer does not prove its keys.
var ErrOffer = errors.New("keys are not proven")

// Read reads and verifies an offer of who, SITE/AGENT, and returns the SubjectPublicKeyInfo of its TLS key with it. Errors: ErrOffer,
// and intent.Problems for what is malformed.
func Read(b []byte, who string) (o *Offer, tls []byte, err error) {
	if len(b) > MaxOffer {
		return nil, nil, fmt.Errorf("cannot read offer of %d octets, at most %d: %w", len(b), MaxOffer, ErrOffer)
	}
	o = &Offer{}
	if err := intent.DecodeStrict(b, o); err != nil {
		return nil, nil, err
	}
	bad := func(what string, err error) (*Offer, []byte, error) {
		return nil, nil, fmt.Errorf("cannot use offer of %s: %s: %w: %w", who, what, ErrOffer, err)
	}
	if len(o.CSR) > ca.MaxRequest {
		return bad("request", fmt.Errorf("it has %d octets", len(o.CSR)))
	}
	req, err := x509.ParseCertificateRequest(o.CSR)
	if err == nil {
		err = req.CheckSignature()
	}
	if err != nil {
		return bad("request", err)
	}
	sign, err := document.ParseKey(o.Sign)
	if err != nil {
		return bad("sign key", err)
	}
	if !ed25519.Verify(sign, o.transcript(who), o.Proof) {
		return bad("sign key", errors.New("wrong signature"))
	}
	if _, _, err := seal.Challenge(o.Seal); err != nil {
		return bad("seal key", err)
	}
	return o, req.RawSubjectPublicKeyInfo, nil
}

// transcript is what Proof signs: each part behind its length, so that none can pass for another.
func (o *Offer) transcript(who string) []byte {
	var b bytes.Buffer
	for _, p := range [][]byte{[]byte("skerry/rotate/v1"), []byte(who), binary.BigEndian.AppendUint64(nil, o.N), o.CSR, o.Sign, o.Seal} {
		b.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		b.Write(p)
	}
	return b.Bytes()
}
