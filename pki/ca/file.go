package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Save writes NAME.crt (PEM) and NAME.key (PKCS #8 PEM, mode 0600) into dir, which must exist. Each file is fsynced and
// moved into place, the key first: after a crash there is no certificate without its key. Existing files are replaced.
func (c *CA) Save(dir, name string) error {
	key, err := x509.MarshalPKCS8PrivateKey(c.Key)
	if err != nil {
		return fmt.Errorf("cannot save CA %s: %w", name, err)
	}
	if err := writeFile(filepath.Join(dir, name+".key"), 0o600, "PRIVATE KEY", key); err != nil {
		return fmt.Errorf("cannot save CA %s: %w", name, err)
	}
	if err := writeFile(filepath.Join(dir, name+".crt"), 0o644, "CERTIFICATE", c.Cert.Raw); err != nil {
		return fmt.Errorf("cannot save CA %s: %w", name, err)
	}
	return nil
}

// LoadOrMakeKey returns the key of NAME.key in dir, and makes it (P-256) when there is none: its certificate comes from elsewhere.
func LoadOrMakeKey(dir, name string) (crypto.Signer, error) {
	key, err := loadKey(dir, name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make key of CA %s: %w", name, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(fresh)
	if err != nil {
		return nil, fmt.Errorf("cannot save CA %s: %w", name, err)
	}
	return fresh, writeFile(filepath.Join(dir, name+".key"), 0o600, "PRIVATE KEY", der)
}

// SaveCert writes NAME.crt alone into dir.
func SaveCert(dir, name string, der []byte) error {
	if err := writeFile(filepath.Join(dir, name+".crt"), 0o644, "CERTIFICATE", der); err != nil {
		return fmt.Errorf("cannot save CA %s: %w", name, err)
	}
	return nil
}

// Load reads what Save wrote.
func Load(dir, name, domain string) (*CA, error) {
	certDER, err := readFile(filepath.Join(dir, name+".crt"), "CERTIFICATE")
	if err != nil {
		return nil, fmt.Errorf("cannot load CA %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, fmt.Errorf("cannot load CA %s: %w", name, err)
	}
	key, err := loadKey(dir, name)
	if err != nil {
		return nil, err
	}
	return New(cert, key, domain)
}

func loadKey(dir, name string) (crypto.Signer, error) {
	keyDER, err := readFile(filepath.Join(dir, name+".key"), "PRIVATE KEY")
	if err != nil {
		return nil, fmt.Errorf("cannot load CA %s: %w", name, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, fmt.Errorf("cannot load key of CA %s: %w", name, err)
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("cannot load key of CA %s: type %T cannot sign", name, key)
	}
	return s, nil
}

func writeFile(path string, mode os.FileMode, kind string, der []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if err := pem.Encode(f, &pem.Block{Type: kind, Bytes: der}); err != nil {
		_ = f.Close() // the write error is what counts
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
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

func readFile(path, kind string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s holds no PEM block of type %s", path, kind)
	}
	return block.Bytes, nil
}
