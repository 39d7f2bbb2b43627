package publish

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/storage/state"
)

// Writer is the key that a coordinator signs intent with; it changes while it runs. Safe for concurrent use.
type Writer struct {
	path string
	now  atomic.Pointer[ed25519.PrivateKey]
}

// OpenWriter reads the key at path.
func OpenWriter(path string) (*Writer, error) {
	w := &Writer{path: path}
	return w, w.load()
}

func (w *Writer) load() error {
	k, err := LoadSigner(w.path)
	if err == nil {
		w.now.Store(&k)
	}
	return err
}

// Signer is the key as it is now. Whoever signs asks once: epoch and signature must be of one key.
func (w *Writer) Signer() crypto.Signer { return *w.now.Load() }

// Public is the public half of Signer.
func (w *Writer) Public() crypto.PublicKey { return w.Signer().Public() }

// Next returns the key that waits to take over, and makes it when there is none.
func (w *Writer) Next() (ed25519.PrivateKey, error) { return LoadOrMakeSigner(w.path + nextSuffix) }

// Waits tells whether the key that waits to take over is the one with that public half (PKIX DER).
func (w *Writer) Waits(public []byte) bool {
	next, err := LoadSigner(w.path + nextSuffix)
	return err == nil && bytes.Equal(document.MarshalKey(next.Public().(ed25519.PublicKey)), public)
}

// nextSuffix ends the file of the key that takes over.
const nextSuffix = ".next"

// Take makes the key that waits the one that signs. A crash leaves the old one or the new one.
func (w *Writer) Take() error {
	next, err := LoadSigner(w.path + nextSuffix)
	if err != nil {
		return err
	}
	if err := state.Rename(w.path+nextSuffix, w.path); err != nil {
		return err
	}
	w.now.Store(&next)
	return nil
}

// LoadOrMakeSigner returns the key at path, and makes it when there is none.
func LoadOrMakeSigner(path string) (ed25519.PrivateKey, error) {
	key, err := LoadSigner(path)
	if errors.Is(err, fs.ErrNotExist) {
		return MakeSigner(path)
	}
	return key, err
}

// MakeSigner makes an Ed25519 key and writes it to path.
func MakeSigner(path string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("cannot make signing key: %w", err)
	}
	return key, SaveSigner(path, key)
}

// SaveSigner writes a key, PEM of PKCS #8, mode 0600: whole or not at all.
func SaveSigner(path string, key ed25519.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("cannot encode signing key: %w", err)
	}
	return state.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// LoadSigner reads what SaveSigner wrote.
func LoadSigner(path string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read signing key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("cannot read signing key %s: no PEM block", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read signing key %s: %w", path, err)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("cannot use signing key %s: not Ed25519", path)
	}
	return key, nil
}
