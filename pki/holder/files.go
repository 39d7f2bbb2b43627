package holder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/storage/state"
)

// FileBundle is the public file that Save writes.
const FileBundle = "roots.json"

// markSuffix names the file beside a holder's in which he remembers what he signed.
const markSuffix = ".signed"

// Exists tells whether dir holds roots already. Save writes the bundle last: holders without one were never used.
func Exists(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, FileBundle))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Save writes the holders' files, each for its lock, and the bundle last, into dir (made with mode 0700). It returns their paths.
func Save(dir string, hs []*Holder, locks []seal.Lock, b *Bundle) (paths []string, err error) {
	if len(locks) != len(hs) {
		return nil, fmt.Errorf("cannot save roots: %d passphrases for %d holders", len(locks), len(hs))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot save roots: %w", err)
	}
	for i, h := range hs {
		var out bytes.Buffer
		if err := h.Write(&out, locks[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
		path := filepath.Join(dir, h.Name+".age")
		if err := state.WriteFile(path, out.Bytes()); err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	public, err := EncodeBundle(b)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, FileBundle)
	return append(paths, path), state.WriteFile(path, public)
}

// LoadBundle reads the bundle file at path. Errors: ErrFile.
func LoadBundle(path string) (*Bundle, error) {
	b, err := readFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	return DecodeBundle(b)
}

// LoadOffer reads the offer at path. Errors: ErrFile.
func LoadOffer(path string) (*Offer, error) {
	b, err := readFile(path, maxOffer)
	if err != nil {
		return nil, err
	}
	return DecodeOffer(b)
}

// SaveOffer writes the offer to path, whole or not at all.
func SaveOffer(path string, o *Offer) error {
	b, err := EncodeOffer(o)
	if err != nil {
		return err
	}
	return state.WriteFile(path, b)
}

// Unlock opens the holder's file at path.
func Unlock(path string, key seal.Key) (*Holder, error) {
	b, err := readFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	h, err := Open(bytes.NewReader(b), key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}

// LoadMark reads what the holder of the file at path remembers; the zero Mark when he signed nothing yet.
func LoadMark(path string) (m Mark, err error) {
	b, err := readFile(path+markSuffix, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = intent.DecodeStrict(b, &m)
	}
	if err != nil {
		return m, fmt.Errorf("cannot read what %s signed: %w", path, err)
	}
	return m, nil
}

// SaveMark makes the holder of the file at path remember m.
func SaveMark(path string, m Mark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("cannot encode mark: %w", err)
	}
	return state.WriteFile(path+markSuffix, b)
}

// readFile reads a file of at most limit octets.
func readFile(path string, limit int64) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read: %w", err)
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("cannot read %s: %d octets: %w", path, st.Size(), ErrFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read: %w", err)
	}
	return b, nil
}
