package founding

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/storage/state"
)

// Issuer is the CA that a coordinator issues by, and its own certificates under it; they change while it runs. Safe for concurrent
// use; one call of Take at a time.
type Issuer struct {
	keys Keys
	key  *ecdsa.PrivateKey
	now  atomic.Pointer[issuing]
}

// issuing is what is used at one moment. It is replaced, never changed.
type issuing struct {
	ca        *ca.CA
	leaf, web tls.Certificate
}

// nameNextCA is the CA that waits: its key from when it was made, its certificate from when it is to take over.
const nameNextCA = "ca.next"

// Issuer reads the CA of the directory, and the certificates for key. It ends a change that a crash cut off.
func (k Keys) Issuer(key *ecdsa.PrivateKey, now time.Time) (*Issuer, error) {
	i := &Issuer{keys: k, key: key}
	return i, i.settle(now)
}

// CA is the one in use.
func (i *Issuer) CA() *ca.CA { return i.now.Load().ca }

// Leaf is the certificate for skerry protocols.
func (i *Issuer) Leaf() *tls.Certificate { return &i.now.Load().leaf }

// Web is the certificate for HTTP.
func (i *Issuer) Web() *tls.Certificate { return &i.now.Load().web }

// Next returns the public key (PKIX DER) of the CA that waits and a request for its certificate, and makes the key when there is none.
func (i *Issuer) Next() (spki, csr []byte, err error) {
	key, err := ca.LoadOrMakeKey(i.keys.Dir, nameNextCA)
	if err != nil {
		return nil, nil, err
	}
	if spki, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return nil, nil, fmt.Errorf("cannot encode key of the next CA: %w", err)
	}
	csr, err = ca.NewRequest(key)
	return spki, csr, err
}

// Waits tells whether a CA waits, and has that public key (PKIX DER).
func (i *Issuer) Waits(public []byte) bool {
	if _, err := os.Stat(filepath.Join(i.keys.Dir, nameNextCA+".key")); err != nil {
		return false
	}
	spki, _, err := i.Next()
	return err == nil && bytes.Equal(spki, public)
}

// Take makes the CA that waits the one in use; der is its certificate. A crash leaves the old one, or the next start goes on.
func (i *Issuer) Take(der []byte, now time.Time) error {
	if err := ca.SaveCert(i.keys.Dir, nameNextCA, der); err != nil {
		return err
	}
	return i.settle(now)
}

// settle puts a CA whose certificate waits in its place, and reads what is there.
func (i *Issuer) settle(now time.Time) error {
	path := func(name string) string { return filepath.Join(i.keys.Dir, name) }
	if _, err := os.Stat(path(nameNextCA + ".crt")); err == nil {
		next, err := ca.Load(i.keys.Dir, nameNextCA, i.keys.Domain)
		switch {
		case errors.Is(err, fs.ErrNotExist): // the key has its place already, and what follows it
		case err != nil:
			return err
		default:
			if err := i.keys.certify(next, i.key, now); err != nil {
				return err
			}
			if err := state.Rename(path(nameNextCA+".key"), path(NameCA+".key")); err != nil {
				return err
			}
		}
		if err := state.Rename(path(nameNextCA+".crt"), path(NameCA+".crt")); err != nil {
			return err
		}
	}
	c, err := ca.Load(i.keys.Dir, NameCA, i.keys.Domain)
	if err != nil {
		return err
	}
	leaf, err1 := os.ReadFile(path(fileLeaf))
	web, err2 := os.ReadFile(path(fileWeb))
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("cannot read certificates: %w", err)
	}
	i.now.Store(&issuing{
		ca:   c,
		leaf: tls.Certificate{Certificate: [][]byte{leaf, c.Cert.Raw}, PrivateKey: i.key},
		web:  tls.Certificate{Certificate: [][]byte{web, c.Cert.Raw}, PrivateKey: i.key},
	})
	return nil
}
