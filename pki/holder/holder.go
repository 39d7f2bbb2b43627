package holder

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
)

// maxFile bounds a holder's file and a bundle, in octets: ours have some 2 KiB.
const maxFile = 64 << 10

// MaxThreshold is how many signatures a document may need: at a change of roots twice as many lie on it.
const MaxThreshold = intent.MaxSignatures / 2

// ErrFile says that a file is none of ours, or was damaged.
var ErrFile = errors.New("malformed")

// Holder is one of those who keep the roots of a domain.
type Holder struct {
	Name   string // like h1
	Domain string
	Keys   []ed25519.PrivateKey // root signing keys: the one that counts, the announced next one
	Root   *ca.CA               // R; nil for one who holds only keys of a next set
}

// Bundle is the public side of all holders.
type Bundle struct {
	Domain string          `json:"domain"`
	Roots  *intent.RootSet `json:"roots,omitempty"` // nil where only a next set was made
	Next   intent.RootSet  `json:"next"`
	Root   []byte          `json:"root,omitempty"` // R, DER
}

// Create makes n holders, of whom threshold must sign. With founding they get the roots of a new domain, its next set and R; without,
// the keys of a next set alone. Errors: the numbers do not fit, or domain is no name.
func Create(domain string, n, threshold int, founding bool, now time.Time) ([]*Holder, *Bundle, error) {
	switch {
	case domain == "" || len(domain) > 200:
		return nil, nil, errors.New("cannot make roots: a domain has 1-200 characters, like edge.example")
	case n < 1 || n > intent.MaxRoots || threshold < 1 || threshold > n:
		return nil, nil, fmt.Errorf("cannot make roots: %d of %d; there are 1-%d holders, and not more sign than there are", threshold, n, intent.MaxRoots)
	case threshold > MaxThreshold:
		return nil, nil, fmt.Errorf("cannot make roots: at most %d need to sign, because at a change of roots twice as many signatures lie on a document", MaxThreshold)
	}
	b := &Bundle{Domain: domain, Next: intent.RootSet{Threshold: threshold}}
	sets := []*intent.RootSet{&b.Next}
	var root *ca.CA
	if founding {
		var err error
		if root, err = ca.NewRoot(domain, now); err != nil {
			return nil, nil, err
		}
		b.Root, b.Roots = root.Cert.Raw, &intent.RootSet{Threshold: threshold}
		sets = []*intent.RootSet{b.Roots, &b.Next}
	}
	var hs []*Holder
	for i := range n {
		h := &Holder{Name: "h" + strconv.Itoa(i+1), Domain: domain, Root: root}
		for _, set := range sets {
			pub, key, err := ed25519.GenerateKey(nil)
			if err != nil {
				return nil, nil, fmt.Errorf("cannot make root key: %w", err)
			}
			h.Keys, set.Keys = append(h.Keys, key), append(set.Keys, document.MarshalKey(pub))
		}
		hs = append(hs, h)
	}
	return hs, b, nil
}

// file is a Holder as it is written.
type file struct {
	Name     string   `json:"name"`
	Domain   string   `json:"domain"`
	Keys     [][]byte `json:"keys"` // PKCS #8
	RootCert []byte   `json:"rootCert,omitempty"`
	RootKey  []byte   `json:"rootKey,omitempty"` // PKCS #8
}

// Write writes h's file, encrypted for lock.
func (h *Holder) Write(w io.Writer, lock seal.Lock) error {
	f := file{Name: h.Name, Domain: h.Domain}
	for _, k := range h.Keys {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return fmt.Errorf("cannot encode root key: %w", err)
		}
		f.Keys = append(f.Keys, der)
	}
	if h.Root != nil {
		der, err := x509.MarshalPKCS8PrivateKey(h.Root.Key)
		if err != nil {
			return fmt.Errorf("cannot encode root CA key: %w", err)
		}
		f.RootCert, f.RootKey = h.Root.Cert.Raw, der
	}
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("cannot encode holder: %w", err)
	}
	enc, err := lock.Encrypt(w)
	if err != nil {
		return err
	}
	if _, err := enc.Write(b); err != nil {
		return fmt.Errorf("cannot write holder: %w", err)
	}
	return enc.Close()
}

// Open reads what Write wrote. Errors: the key is another, ErrFile.
func Open(r io.Reader, key seal.Key) (*Holder, error) {
	plain, err := key.Decrypt(io.LimitReader(r, maxFile))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(plain, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read holder: %w", err)
	}
	return decodeHolder(b)
}

func decodeHolder(b []byte) (*Holder, error) {
	bad := func(why string) (*Holder, error) {
		return nil, fmt.Errorf("cannot read holder: %s: %w", why, ErrFile)
	}
	f := &file{}
	if len(b) > maxFile {
		return bad("too large")
	}
	if err := intent.DecodeStrict(b, f); err != nil {
		return bad(err.Error())
	}
	if !intent.IsLabel(f.Name) || f.Domain == "" || len(f.Keys) == 0 || len(f.Keys) > 2 {
		return bad("it has no name, domain or keys")
	}
	h := &Holder{Name: f.Name, Domain: f.Domain}
	for _, der := range f.Keys {
		k, err := x509.ParsePKCS8PrivateKey(der)
		ed, ok := k.(ed25519.PrivateKey)
		if err != nil || !ok {
			return bad("a key is not Ed25519")
		}
		h.Keys = append(h.Keys, ed)
	}
	if len(f.RootKey)+len(f.RootCert) == 0 {
		return h, nil
	}
	cert, err1 := x509.ParseCertificate(f.RootCert)
	k, err2 := x509.ParsePKCS8PrivateKey(f.RootKey)
	if err1 != nil || err2 != nil {
		return bad("R does not parse")
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return bad("the key of R cannot sign")
	}
	var err error
	if h.Root, err = ca.New(cert, key, f.Domain); err != nil {
		return bad(err.Error())
	}
	return h, nil
}

// EncodeBundle returns the file of b.
func EncodeBundle(b *Bundle) ([]byte, error) {
	out, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot encode roots: %w", err)
	}
	return append(out, '\n'), nil
}

// DecodeBundle reads what EncodeBundle wrote; every key and R parse. Errors: ErrFile.
func DecodeBundle(b []byte) (*Bundle, error) {
	bad := func(why string) (*Bundle, error) {
		return nil, fmt.Errorf("cannot read roots: %s: %w", why, ErrFile)
	}
	if len(b) > maxFile {
		return bad("too large")
	}
	out := &Bundle{}
	if err := intent.DecodeStrict(b, out); err != nil {
		return bad(err.Error())
	}
	if out.Domain == "" || len(out.Domain) > 200 {
		return bad("no domain")
	}
	sets := []intent.RootSet{out.Next}
	if out.Roots != nil {
		sets = append(sets, *out.Roots)
		if _, err := x509.ParseCertificate(out.Root); err != nil {
			return bad("R does not parse")
		}
	}
	for _, s := range sets {
		if err := CheckSet(s); err != nil {
			return bad(err.Error())
		}
	}
	return out, nil
}

// CheckSet refuses a set of roots that could never sign, or whose keys do not parse.
func CheckSet(s intent.RootSet) error {
	if len(s.Keys) == 0 || len(s.Keys) > intent.MaxRoots || s.Threshold < 1 || s.Threshold > min(len(s.Keys), MaxThreshold) {
		return fmt.Errorf("cannot use roots: threshold %d of %d keys", s.Threshold, len(s.Keys))
	}
	for i, der := range s.Keys {
		if _, err := document.ParseKey(der); err != nil {
			return err
		}
		if slices.ContainsFunc(s.Keys[:i], func(o []byte) bool { return string(o) == string(der) }) {
			return errors.New("cannot use roots: a key is there twice")
		}
	}
	return nil
}
