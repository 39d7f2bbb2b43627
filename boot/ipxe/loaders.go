package ipxe

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrNoLoader: the name is none of ours, or boot.ipxeDir lacks the file.
var ErrNoLoader = errors.New("no such loader")

// maxLoader bounds a loader: it may go over TFTP, block by block.
const maxLoader = 1 << 20

// Loaders finds loaders in a directory with the names of Debian's package ipxe.
type Loaders struct {
	Dir string // boot.ipxeDir, usually /usr/lib/ipxe
}

// candidates are file names in Dir for each name that we offer, best first: snponly uses the firmware's own driver and is
// smaller; ipxe.efi brings its own.
func candidates(name string) []string {
	switch name {
	case "undionly.kpxe":
		return []string{"undionly.kpxe"}
	case "snponly.efi":
		return []string{"snponly.efi", "x86_64-efi/snponly.efi", "ipxe.efi"}
	case "snponly-arm64.efi":
		return []string{"arm64-efi/snponly.efi", "snponly-arm64.efi", "ipxe-arm64.efi"}
	}
	return nil
}

// Open returns the loader of that name. The caller closes it. Errors: ErrNoLoader.
func (l Loaders) Open(name string) (io.ReadSeekCloser, error) {
	for _, c := range candidates(name) {
		f, err := os.Open(filepath.Join(l.Dir, c))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot open loader %s: %w", name, err)
		}
		fi, err := f.Stat()
		if err == nil && (!fi.Mode().IsRegular() || fi.Size() > maxLoader) {
			err = fmt.Errorf("%d octets, at most %d", fi.Size(), maxLoader)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot open loader %s: %w", name, err), f.Close())
		}
		return f, nil
	}
	return nil, fmt.Errorf("cannot open loader %.60q: %w", name, ErrNoLoader)
}
