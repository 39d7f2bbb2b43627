package members

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/storage/state"
)

// A kit is the whole identity of a spare in one file, locked by age: what its keys directory would hold. Whoever opens it is that
// spare, so it is worth a passphrase and a safe.
type kit struct {
	Version int               `json:"version"`
	Files   map[string][]byte `json:"files"`
}

// maxKit bounds a kit: keys of some hundred octets, and an identity with the certificates of up to 64 agents.
const maxKit = 4 << 20

// kitFiles are the files of a keys directory, the one that makes an identity whole last.
func kitFiles() []string { return []string{"seal.key", "sign.key", "tls.key", "identity.json"} }

// PackKit writes the kit of the identity in dir.
func PackKit(dir string, lock seal.Lock, w io.Writer) error {
	k := kit{Version: 1, Files: map[string][]byte{}}
	for _, n := range kitFiles() {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			return fmt.Errorf("cannot pack kit: %w", err)
		}
		k.Files[n] = b
	}
	b, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("cannot pack kit: %w", err)
	}
	out, err := lock.Encrypt(w)
	if err != nil {
		return err
	}
	if _, err := out.Write(b); err != nil {
		return fmt.Errorf("cannot write kit: %w", err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("cannot write kit: %w", err)
	}
	return nil
}

// UnpackKit lays a kit into dir, which must hold no identity. The identity comes last: a crash leaves none, and it is done again.
func UnpackKit(r io.Reader, key seal.Key, dir string) error {
	plain, err := key.Decrypt(r)
	if err != nil {
		return fmt.Errorf("cannot open kit: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(plain, maxKit+1))
	if err != nil {
		return fmt.Errorf("cannot open kit: %w", err)
	}
	var k kit
	if err := json.Unmarshal(b, &k); err != nil || len(b) > maxKit {
		return errors.New("cannot open kit: it is not one")
	}
	if k.Version != 1 {
		return fmt.Errorf("cannot open kit of version %d: use the release that made it", k.Version)
	}
	for n := range k.Files {
		if !slices.Contains(kitFiles(), n) {
			return fmt.Errorf("cannot open kit: it holds %q", n)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "identity.json")); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot unpack kit: %s holds an identity already; take an empty --data", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot unpack kit: %w", err)
	}
	for _, n := range kitFiles() {
		if len(k.Files[n]) == 0 {
			return fmt.Errorf("cannot unpack kit: %s is missing", n)
		}
		if err := state.WriteFile(filepath.Join(dir, n), k.Files[n]); err != nil {
			return err
		}
	}
	return nil
}
