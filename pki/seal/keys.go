package seal

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Keys are an agent's or coordinator's own: TLS (P-256) for connections, Sign (Ed25519) for what it signs, and a sealing key
// (ML-KEM-768 + P-256) that others seal to. Private halves never leave the machine.
type Keys struct {
	TLS  *ecdsa.PrivateKey
	Sign ed25519.PrivateKey
	seal hpke.PrivateKey
}

// The files of a key directory, PEM, mode 0600.
const (
	fileTLS  = "tls.key"
	fileSign = "sign.key"
	fileSeal = "seal.key"

	pemKey  = "PRIVATE KEY"             // PKCS #8
	pemSeal = "SKERRY SEAL PRIVATE KEY" // RFC 9180 SerializePrivateKey of MLKEM768-P256
)

// Generate makes fresh keys.
func Generate() (*Keys, error) {
	k := &Keys{}
	var err error
	if k.TLS, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("cannot make tls key: %w", err)
	}
	if _, k.Sign, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, fmt.Errorf("cannot make sign key: %w", err)
	}
	if k.seal, err = kem().GenerateKey(); err != nil {
		return nil, fmt.Errorf("cannot make seal key: %w", err)
	}
	return k, nil
}

// SealPublic returns the public sealing key, as RosterAgent.Seal carries it.
func (k *Keys) SealPublic() []byte { return k.seal.PublicKey().Bytes() }

// SignPublic returns the PKIX DER of the signing key, as RosterAgent.Sign carries it.
func (k *Keys) SignPublic() ([]byte, error) { return pkixPublic(k.Sign.Public()) }

// TLSPublic returns the PKIX DER of the TLS key, as RosterAgent.TLS carries it.
func (k *Keys) TLSPublic() ([]byte, error) { return pkixPublic(k.TLS.Public()) }

// ResetKey returns 32 octets derived from the signing key, the same in each run as long as that is: with it a QUIC endpoint tells peers
// at once that it restarted.
func (k *Keys) ResetKey() []byte { return ResetKey(k.Sign.Seed()) }

// ResetKey derives what Keys.ResetKey returns from another secret, for who changes his keys.
func ResetKey(secret []byte) []byte {
	b, err := hkdf.Key(sha256.New, secret, nil, "skerry/quic-reset/v1", sha256.Size)
	if err != nil {
		panic("seal: cannot derive 32 octets: " + err.Error()) // only lengths can be wrong
	}
	return b
}

func pkixPublic(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("cannot marshal public key: %w", err)
	}
	return der, nil
}

// challengeInfo separates the proof of the sealing key from every other use of it.
const challengeInfo = "skerry/join/seal-proof/v1"

// Challenge seals 32 random octets to a public sealing key: who answers with them holds the private half.
// Errors: public is not such a key.
func Challenge(public []byte) (sealed []byte, answer Secret, err error) {
	pk, err := kem().NewPublicKey(public)
	if err != nil {
		return nil, Secret{}, fmt.Errorf("cannot use sealing key: %w", err)
	}
	a := make([]byte, sha256.Size)
	if _, err := rand.Read(a); err != nil {
		return nil, Secret{}, fmt.Errorf("cannot make challenge: %w", err)
	}
	sealed, err = hpke.Seal(pk, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(challengeInfo), a)
	if err != nil {
		return nil, Secret{}, fmt.Errorf("cannot seal challenge: %w", err)
	}
	return sealed, Secret{a}, nil
}

// Answer opens a Challenge. Errors: ErrSealed.
func (k *Keys) Answer(sealed []byte) ([]byte, error) {
	a, err := hpke.Open(k.seal, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(challengeInfo), sealed)
	if err != nil {
		return nil, fmt.Errorf("cannot answer challenge: %w", ErrSealed)
	}
	return a, nil
}

// Save writes the keys into dir (made with mode 0700). Each file is fsynced and moved into place.
func (k *Keys) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot save keys: %w", err)
	}
	tlsDER, err := x509.MarshalPKCS8PrivateKey(k.TLS)
	if err != nil {
		return fmt.Errorf("cannot save tls key: %w", err)
	}
	signDER, err := x509.MarshalPKCS8PrivateKey(k.Sign)
	if err != nil {
		return fmt.Errorf("cannot save sign key: %w", err)
	}
	sealRaw, err := k.seal.Bytes()
	if err != nil {
		return fmt.Errorf("cannot save seal key: %w", err)
	}
	for _, f := range []struct {
		name, kind string
		b          []byte
	}{{fileSeal, pemSeal, sealRaw}, {fileSign, pemKey, signDER}, {fileTLS, pemKey, tlsDER}} {
		if err := writeFile(filepath.Join(dir, f.name), pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.b})); err != nil {
			return fmt.Errorf("cannot save %s: %w", f.name, err)
		}
	}
	return nil
}

// Load reads what Save wrote. Errors: fs.ErrNotExist when dir holds no keys.
func Load(dir string) (*Keys, error) {
	k := &Keys{}
	tlsKey, err := readPKCS8(filepath.Join(dir, fileTLS))
	if err != nil {
		return nil, err
	}
	signKey, err := readPKCS8(filepath.Join(dir, fileSign))
	if err != nil {
		return nil, err
	}
	var ok1, ok2 bool
	k.TLS, ok1 = tlsKey.(*ecdsa.PrivateKey)
	k.Sign, ok2 = signKey.(ed25519.PrivateKey)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("cannot load keys from %s: wrong kinds %T, %T", dir, tlsKey, signKey)
	}
	raw, err := readPEM(filepath.Join(dir, fileSeal), pemSeal)
	if err != nil {
		return nil, err
	}
	if k.seal, err = kem().NewPrivateKey(raw); err != nil {
		return nil, fmt.Errorf("cannot load seal key: %w", err)
	}
	return k, nil
}

// LoadOrGenerate loads the keys of dir, or makes and saves them when there is no TLS key. That file is written last, so a
// crash between files makes new keys instead of a mixed set.
func LoadOrGenerate(dir string) (*Keys, error) {
	k, err := Load(dir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if _, err := os.Stat(filepath.Join(dir, fileTLS)); err == nil {
		return nil, fmt.Errorf("cannot load keys from %s: tls key is there, others are missing: restore them or join anew", dir)
	}
	if k, err = Generate(); err != nil {
		return nil, err
	}
	return k, k.Save(dir)
}

// Remove deletes the key files of dir and tells whether there were any. The TLS key goes last: what a crash leaves is no set of keys,
// and is removed by the next call.
func Remove(dir string) (had bool, err error) {
	for _, name := range []string{fileSeal, fileSign, fileTLS} {
		for _, n := range []string{name, name + ".new"} {
			switch err := os.Remove(filepath.Join(dir, n)); {
			case err == nil:
				had = true
			case !errors.Is(err, fs.ErrNotExist):
				return had, fmt.Errorf("cannot remove key: %w", err)
			}
		}
	}
	return had, nil
}

func readPKCS8(path string) (any, error) {
	der, err := readPEM(path, pemKey)
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("cannot load %s: %w", filepath.Base(path), err)
	}
	return k, nil
}

func readPEM(path, kind string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot load key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("cannot load %s: no PEM block of type %s", filepath.Base(path), kind)
	}
	return block.Bytes, nil
}

func writeFile(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
