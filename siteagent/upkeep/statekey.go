package upkeep

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/skerry-metal/skerry/storage/state"
)

// StateKey returns the key of the record MACs, making it the first time.
func StateKey(data string) ([]byte, error) {
	path := filepath.Join(data, KeyFile)
	b, err := os.ReadFile(path)
	if err == nil && len(b) == 32 {
		return b, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read state key: %w", err)
	}
	if err == nil {
		return nil, fmt.Errorf("cannot use state key %s: %d octets, want 32", path, len(b))
	}
	b = make([]byte, 32)
	rand.Read(b) // never fails: crypto/rand, Go 1.24
	return b, state.WriteFile(path, b)
}
