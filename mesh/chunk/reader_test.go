package chunk

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/skerry-metal/skerry/mesh/intent"
)

func TestReader(t *testing.T) {
	b := make([]byte, 2*Size+777)
	rand.NewChaCha8([32]byte{5}).Read(b)
	m, err := ScanManifest(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	lost := errors.New("lost")
	bad := -1
	r := NewReader(m, func(i int, buf []byte) ([]byte, error) {
		off, n := m.ChunkRange(i)
		if copy(buf, b[off:off+int64(n)]); i == bad {
			return nil, lost
		}
		return buf[:n], nil
	})
	if err := iotest.TestReader(r, b); err != nil {
		t.Fatal(err)
	}
	at := func(off int64) ([]byte, error) {
		if _, err := r.Seek(off, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 16)
		_, err := io.ReadFull(r, p)
		return p, err
	}
	if _, err := at(5); err != nil {
		t.Fatal(err)
	}
	bad = 1
	if _, err := at(Size + 1); !errors.Is(err, lost) {
		t.Fatalf("a chunk that cannot be had: %v", err)
	}
	if p, err := at(9); err != nil || !bytes.Equal(p, b[9:25]) { // its buffer was used for the lost one
		t.Fatalf("after it: %x, %v, want %x", p, err, b[9:25])
	}
}

func TestReadManifest(t *testing.T) {
	m, err := ScanManifest(bytes.NewReader(make([]byte, 100)))
	if err != nil {
		t.Fatal(err)
	}
	enc := m.Encode()
	f := func(what string, r io.Reader, content, signed intent.Digest, want error) {
		t.Helper()
		if _, err := ReadManifest(r, content, signed); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	broken := errors.New("broken")
	f("the signed one", bytes.NewReader(enc), m.Content, m.Digest(), nil)
	f("another one", bytes.NewReader(append([]byte{0}, enc...)), m.Content, m.Digest(), ErrForged)
	f("one without an end", rand.NewChaCha8([32]byte{}), m.Content, m.Digest(), ErrForged)
	f("of another asset", bytes.NewReader(enc), intent.DigestOf(nil), m.Digest(), ErrForged)
	f("signed nonsense", bytes.NewReader([]byte("x")), m.Content, intent.DigestOf([]byte("x")), ErrManifest)
	f("a line that breaks", io.MultiReader(bytes.NewReader(enc[:9]), iotest.ErrReader(broken)), m.Content, m.Digest(), broken)
}
