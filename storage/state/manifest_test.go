package state

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestManifestFlips: every single flipped bit in MANIFEST is found before Badger deletes tables, or harmless; every cut of its
// end, which a crash may leave, still opens.
func TestManifestFlips(t *testing.T) {
	dir := t.TempDir()
	var b []byte
	b = append(b, "Bdgr\x00\x00\x00\x08"...)
	for _, p := range []string{"", "first change", "second", "the third and last change"} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = binary.BigEndian.AppendUint32(b, crc([]byte(p)))
		b = append(b, p...)
	}
	f := func(content []byte) error {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "MANIFEST"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		return checkManifest(dir)
	}
	if err := f(b); err != nil {
		t.Fatal(err)
	}
	last := len(b) - len("the third and last change")
	for i := manifestHead; i < len(b); i++ {
		for bit := range 8 {
			c := append([]byte(nil), b...)
			c[i] ^= 1 << bit
			err := f(c)
			// In payload or CRC of the last record: lengths are right, so Badger itself refuses the checksum.
			badgerSees := i >= last-4
			if err == nil && !badgerSees || err != nil && !errors.Is(err, ErrDamaged) {
				t.Fatalf("octet %d bit %d: %v", i, bit, err)
			}
		}
	}
	for n := last - recordHead; n < len(b); n++ {
		if err := f(b[:n]); err != nil {
			t.Fatalf("torn at %d of %d: %v", n, len(b), err)
		}
	}
}

func TestTablesWithoutManifest(t *testing.T) {
	dir := t.TempDir()
	if err := checkManifest(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "000001.sst"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkManifest(dir); !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v", err)
	}
}
