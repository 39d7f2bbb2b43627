package chunk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
)

func TestManifestRoundTrip(t *testing.T) {
	f := func(size int) {
		t.Helper()
		data := bytes.Repeat([]byte{7}, size)
		m, err := ScanManifest(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseManifest(m.Encode())
		if err != nil {
			t.Fatalf("%d octets: %v", size, err)
		}
		if back.Digest() != m.Digest() || back.Size != uint64(size) || back.Content != intent.DigestOf(data) {
			t.Errorf("%d octets: read back as %+v", size, back)
		}
		end := int64(0)
		for i := range m.Chunks {
			off, n := m.ChunkRange(i)
			if off != end || n <= 0 || !m.VerifyChunk(i, data[off:off+int64(n)]) || m.VerifyChunk(i, data[off:off+int64(n)-1]) {
				t.Errorf("%d octets: chunk %d at %d of %d does not verify", size, i, off, n)
			}
			end = off + int64(n)
		}
		if end != int64(size) || m.VerifyChunk(len(m.Chunks), nil) || m.VerifyChunk(-1, nil) {
			t.Errorf("%d octets: chunks end at %d", size, end)
		}
	}
	f(0)
	f(1)
	f(Size - 1)
	f(Size)
	f(Size + 1)
	f(3*Size + 5)
}

func TestParseManifestHostile(t *testing.T) {
	m, err := ScanManifest(bytes.NewReader(make([]byte, 2*Size+1)))
	if err != nil {
		t.Fatal(err)
	}
	f := func(what string, change func([]byte) []byte) {
		t.Helper()
		_, err := ParseManifest(change(m.Encode()))
		if !errors.Is(err, ErrManifest) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	put32 := func(off int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[off:], v); return b }
	}
	f("magic or length", func([]byte) []byte { return nil })
	f("magic or length", func(b []byte) []byte { return b[:manifestHeader-1] })
	f("magic or length", func(b []byte) []byte { b[0] ^= 1; return b })
	f("layout or hash", func(b []byte) []byte { b[8] = 2; return b })
	f("layout or hash", func(b []byte) []byte { b[11] = 1; return b })
	f("chunk size", put32(12, 0))
	f("chunk size", put32(12, MaxSize*2))
	f("chunk size", put32(12, MinSize+1))
	f("chunk bounds", put32(28, 4096))
	f("chunk bounds", put32(36, 1))
	f("too large", put32(24, MaxChunks+1)) // refused before 32 MiB are asked for
	f("too large", func(b []byte) []byte { binary.BigEndian.PutUint64(b[16:], intent.MaxAssetSize+1); return b })
	f("chunk count", put32(24, 2))
	f("chunk count", func(b []byte) []byte { binary.BigEndian.PutUint64(b[16:], 1); return b })
	f("table length", func(b []byte) []byte { return b[:len(b)-1] })
	f("table length", func(b []byte) []byte { return append(b, 0) })
}

func FuzzParseManifest(f *testing.F) {
	for _, n := range []int{0, 1, Size + 1} {
		m, err := ScanManifest(bytes.NewReader(make([]byte, n)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := ParseManifest(b); err == nil && !bytes.Equal(m.Encode(), b) {
			t.Fatal("two texts of one manifest: its digest would not be its identity")
		}
	})
}
