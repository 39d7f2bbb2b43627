package holder

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/document"
)

// maxOffer bounds the file of an offer, in octets: a thousand trust documents of a dozen KiB.
const maxOffer = 16 << 20

// Offer is a trust document on its way round the holders. Its file tells all that a holder needs to judge it.
type Offer struct {
	Chain  []*intent.Envelope `json:"chain,omitempty"`  // the documents before it, from the first on; none: a domain is founded
	Body   intent.TrustBody   `json:"body"`             // a CA without certificate is certified by the first holder
	Next   *intent.RootSet    `json:"next,omitempty"`   // the set that Body.Next newly announces
	CSR    []byte             `json:"csr,omitempty"`    // of the CA without certificate, PKCS #10
	CA     string             `json:"ca,omitempty"`     // its name, like C2
	Lost   bool               `json:"lost,omitempty"`   // the announced roots take over and sign alone: the old ones are lost, or stolen
	Signed *intent.Envelope   `json:"signed,omitempty"` // what was signed so far
}

// Why an offer is not signed.
var (
	ErrForeign = errors.New("for other roots")
	ErrFollows = errors.New("it does not follow")
	ErrAltered = errors.New("the signed document is not the one that is offered")
	ErrTaken   = errors.New("another document was signed for its place")
)

// EncodeOffer returns the file of o.
func EncodeOffer(o *Offer) ([]byte, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("cannot encode offer: %w", err)
	}
	return append(b, '\n'), nil
}

// DecodeOffer reads what EncodeOffer wrote. It verifies nothing but shape. Errors: ErrFile.
func DecodeOffer(b []byte) (*Offer, error) {
	o := &Offer{}
	if len(b) > maxOffer {
		return nil, fmt.Errorf("cannot read offer of %d octets: %w", len(b), ErrFile)
	}
	if err := intent.DecodeStrict(b, o); err != nil {
		return nil, fmt.Errorf("cannot read offer: %w: %w", ErrFile, err)
	}
	for _, env := range append(slices.Clone(o.Chain), o.Signed) {
		if env != nil && (len(env.Signatures) == 0 || len(env.Signatures) > intent.MaxSignatures || len(env.Payload) > intent.MaxEnvelope) {
			return nil, fmt.Errorf("cannot read offer: a document in it has a wrong size: %w", ErrFile)
		}
	}
	if slices.Contains(o.Chain, nil) {
		return nil, fmt.Errorf("cannot read offer: a document before it is missing: %w", ErrFile)
	}
	return o, nil
}

// Same tells whether o and p offer the same document, whatever was signed of it.
func (o *Offer) Same(p *Offer) bool {
	a, err1 := json.Marshal(o.Body)
	b, err2 := json.Marshal(p.Body)
	return err1 == nil && err2 == nil && bytes.Equal(a, b) && bytes.Equal(o.CSR, p.CSR) && o.Lost == p.Lost
}

// review is an offer that was checked against itself.
type review struct {
	chain document.TrustChain // before the offered document
	sets  []intent.RootSet    // each must sign, by its threshold
	open  int                 // index of the CA without certificate, -1: none
}

// review checks that o's document follows the documents before it, and that what was signed is what is offered.
// Errors: ErrFollows, ErrAltered, those of document.TrustChain.
func (o *Offer) review() (*review, error) {
	r := &review{open: -1}
	chain, err := document.Believe(o.Chain)
	if err != nil {
		return nil, fmt.Errorf("cannot use offer: the documents before it: %w", err)
	}
	r.chain = *chain
	b := &o.Body
	if err := b.Validate(); err != nil {
		return nil, err
	}
	want := document.Follow(r.chain.Head, intent.StreamTrust, 0, b.Issued)
	if b.Seq != want.Seq || b.Prev != want.Prev {
		return nil, fmt.Errorf("cannot use offer: it is trust %d, the document before it is %d: %w", b.Seq, r.chain.Head.Seq, ErrFollows)
	}
	r.sets = []intent.RootSet{b.Roots}
	if old := r.chain.Body; old != nil {
		if b.Domain != old.Domain {
			return nil, fmt.Errorf("cannot use offer: it is for %s, the document before it for %s: %w", b.Domain, old.Domain, ErrFollows)
		}
		if !b.Roots.Equal(old.Roots) {
			if b.Roots.Digest() != old.Next {
				return nil, fmt.Errorf("cannot use offer: its roots are not the announced ones: %w", ErrFollows)
			}
			if r.sets = []intent.RootSet{old.Roots, b.Roots}; o.Lost {
				r.sets = r.sets[1:]
			}
		}
	}
	if o.Lost && (r.chain.Body == nil || b.Roots.Equal(r.chain.Body.Roots)) {
		return nil, fmt.Errorf("cannot use offer: it does without the roots of before, and no announced ones take over: %w", ErrFollows)
	}
	for _, s := range r.sets {
		if err := CheckSet(s); err != nil {
			return nil, err
		}
	}
	if err := o.checkNext(r.chain.Body); err != nil {
		return nil, err
	}
	if err := o.checkCAs(r); err != nil {
		return nil, err
	}
	return r, o.checkSigned(r)
}

// checkNext wants the full set behind a new announcement: nobody signs a digest that he cannot look behind.
func (o *Offer) checkNext(old *intent.TrustBody) error {
	if old != nil && o.Body.Next == old.Next {
		if !o.Body.Roots.Equal(old.Roots) {
			return errors.New("cannot use offer: the announced roots take over and no new ones are announced")
		}
		return nil
	}
	if o.Next == nil || o.Next.Digest() != o.Body.Next {
		return errors.New("cannot use offer: the next roots that it announces are not in it")
	}
	return CheckSet(*o.Next)
}

func (o *Offer) checkCAs(r *review) error {
	for i, c := range o.Body.CAs {
		root, err := x509.ParseCertificate(c.Root)
		if err != nil {
			return fmt.Errorf("cannot use offer: R of CA %d: %w", i, err)
		}
		if len(c.Cert) > 0 {
			cert, err := x509.ParseCertificate(c.Cert)
			if err == nil {
				err = cert.CheckSignatureFrom(root)
			}
			if err != nil {
				return fmt.Errorf("cannot use offer: CA %d: %w", i, err)
			}
			continue
		}
		if r.open >= 0 || len(o.CSR) == 0 || !intent.IsLabel(lower(o.CA)) {
			return errors.New("cannot use offer: one CA at most waits for its certificate, with a request and a name")
		}
		r.open = i
	}
	return nil
}

// lower makes a CA's name a label: they are called C1, C2.
func lower(s string) string {
	if s != "" && s[0] == 'C' {
		return "c" + s[1:]
	}
	return s
}

// checkSigned compares what was signed with what is offered; the certificate that a holder made may differ, and fits the request.
func (o *Offer) checkSigned(r *review) error {
	if o.Signed == nil {
		return nil
	}
	got := &intent.TrustBody{}
	if o.Signed.PayloadType != intent.PayloadTrust {
		return fmt.Errorf("cannot use offer: signed as %q: %w", o.Signed.PayloadType, ErrAltered)
	}
	if err := intent.DecodeStrict(o.Signed.Payload, got); err != nil {
		return fmt.Errorf("cannot use offer: %w: %w", ErrAltered, err)
	}
	if r.open >= 0 {
		if len(got.CAs) <= r.open {
			return fmt.Errorf("cannot use offer: a CA is missing: %w", ErrAltered)
		}
		c := got.CAs[r.open]
		if err := fits(c, o.CSR, o.CA); err != nil {
			return err
		}
		got.CAs[r.open].Cert = nil
	}
	is, err1 := json.Marshal(got)
	want, err2 := json.Marshal(o.Body)
	if err1 != nil || err2 != nil || !bytes.Equal(is, want) {
		return errors.Join(fmt.Errorf("cannot use offer: %w", ErrAltered), err1, err2)
	}
	return nil
}

// fits checks the certificate that another holder made for a request.
func fits(c intent.CACert, csr []byte, name string) error {
	req, err1 := x509.ParseCertificateRequest(csr)
	cert, err2 := x509.ParseCertificate(c.Cert)
	root, err3 := x509.ParseCertificate(c.Root)
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("cannot use offer: certificate of %s: %w: %w", name, ErrAltered, err)
	}
	if !bytes.Equal(req.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo) || cert.Subject.CommonName != ca.NamePrefix+name ||
		!cert.IsCA || cert.MaxPathLen != 0 || !cert.MaxPathLenZero || cert.CheckSignatureFrom(root) != nil {
		return fmt.Errorf("cannot use offer: certificate of %s is for another key or name, or not by R: %w", name, ErrAltered)
	}
	return nil
}

// Envelope returns the signed document once enough holders have signed it, nil before. Errors: o does not fit itself.
func (o *Offer) Envelope() (*intent.Envelope, error) {
	have, of, err := o.Count()
	if err != nil || have < of {
		return nil, err
	}
	return o.Signed, nil
}

// Count returns how many signatures there are and how many are needed, over all sets that must sign; more than a set needs do not
// count. Errors: o does not fit itself.
func (o *Offer) Count() (have, of int, err error) {
	r, err := o.review()
	if err != nil {
		return 0, 0, err
	}
	for _, s := range r.sets {
		have, of = have+o.signedBy(s), of+s.Threshold
	}
	return have, of, nil
}

// signedBy counts the keys of s that signed, up to its threshold.
func (o *Offer) signedBy(s intent.RootSet) int {
	n := 0
	for _, der := range s.Keys {
		if o.hasSigned(der) {
			n++
		}
	}
	return min(n, s.Threshold)
}

func (o *Offer) hasSigned(der []byte) bool {
	k, err := document.ParseKey(der)
	if err != nil || o.Signed == nil {
		return false
	}
	_, err = document.Open(o.Signed, intent.PayloadTrust, []ed25519.PublicKey{k}, 1)
	return err == nil
}

// Mark is what a holder remembers: the newest document that he signed.
type Mark struct {
	Seq  uint64        `json:"seq"`
	Hash intent.Digest `json:"hash"`
}

// Sign adds h's signatures to o; added is how many: a key signs once, and not where enough of its set did. mark is what h
// remembers, the zero Mark at first; the new one must be on disk before o leaves the house. On an error o is as it was.
// Errors: ErrForeign, ErrFollows, ErrTaken, ErrAltered, those of document.TrustChain.
func (h *Holder) Sign(o *Offer, mark Mark, now time.Time) (added int, next Mark, err error) {
	r, err := o.review()
	if err != nil {
		return 0, mark, err
	}
	if o.Body.Domain != h.Domain {
		return 0, mark, fmt.Errorf("cannot sign for %s with a key of %s: %w", o.Body.Domain, h.Domain, ErrForeign)
	}
	if err := h.checkMark(o, mark); err != nil {
		return 0, mark, err
	}
	keys, mine := h.keysFor(o, r)
	if mine == 0 {
		return 0, mark, fmt.Errorf("cannot sign trust %d: none of its roots is in this file: %w", o.Body.Seq, ErrForeign)
	}
	env := o.Signed
	if env == nil {
		if env, err = h.envelope(o, r, now, keys[0]); err != nil {
			return 0, mark, err
		}
		keys, added = keys[1:], 1
	} else {
		with := *env
		with.Signatures = slices.Clone(env.Signatures)
		env = &with
	}
	if mark.Seq == o.Body.Seq && mark.Hash != env.Digest() {
		return 0, mark, fmt.Errorf("cannot sign trust %d again: %w", o.Body.Seq, ErrTaken)
	}
	for _, k := range keys {
		if err := document.AddSignature(env, k); err != nil {
			return 0, mark, err
		}
		added++
	}
	o.Signed = env
	return added, Mark{Seq: o.Body.Seq, Hash: env.Digest()}, nil
}

// checkMark refuses an offer that leaves out what h signed before.
func (h *Holder) checkMark(o *Offer, mark Mark) error {
	if mark.Seq > 0 && mark.Seq < o.Body.Seq && o.Chain[mark.Seq-1].Digest() != mark.Hash {
		// A document that never got enough signatures leaves its place to another; whoever signed it decides whether that is so.
		return fmt.Errorf("cannot sign trust %d: this holder signed another trust %d than the one before it: %w", o.Body.Seq, mark.Seq, ErrTaken)
	}
	if mark.Seq > o.Body.Seq {
		return fmt.Errorf("cannot sign trust %d: this holder signed trust %d: %w", o.Body.Seq, mark.Seq, ErrTaken)
	}
	return nil
}

// keysFor returns those of h's keys whose signature is missing, and how many of his keys belong to the sets that sign.
func (h *Holder) keysFor(o *Offer, r *review) (missing []crypto.Signer, mine int) {
	for _, k := range h.Keys {
		der := document.MarshalKey(k.Public().(ed25519.PublicKey))
		for _, s := range r.sets {
			if !slices.ContainsFunc(s.Keys, func(b []byte) bool { return bytes.Equal(b, der) }) {
				continue
			}
			mine++
			if !o.hasSigned(der) && o.signedBy(s) < s.Threshold {
				missing = append(missing, k)
			}
		}
	}
	return missing, mine
}

// envelope makes the document, with the certificate that it waits for, and signs it first.
func (h *Holder) envelope(o *Offer, r *review, now time.Time, key crypto.Signer) (*intent.Envelope, error) {
	body := o.Body
	if r.open >= 0 {
		body.CAs = slices.Clone(body.CAs)
		c := &body.CAs[r.open]
		if h.Root == nil || !bytes.Equal(h.Root.Cert.Raw, c.Root) {
			return nil, fmt.Errorf("cannot certify %s: its R is not in this file; another holder signs first: %w", o.CA, ErrForeign)
		}
		cert, err := h.Root.Certify(o.CSR, o.CA, now)
		if err != nil {
			return nil, err
		}
		c.Cert = cert.Raw
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("cannot encode trust document: %w", err)
	}
	return document.Sign(intent.PayloadTrust, payload, key)
}
