package chunk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestCodec(t *testing.T) {
	c, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	noise := make([]byte, 100_000)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(noise)
	f := func(raw []byte, smaller bool) {
		t.Helper()
		frame, ok := c.Encode(raw)
		if ok != smaller {
			t.Fatalf("%d octets to %d: smaller %v", len(raw), len(frame), ok)
		}
		got, err := c.Decode(frame, len(raw))
		if err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("decode: %v", err)
		}
		for _, n := range []int{len(raw) - 1, len(raw) + 1, -1, MaxSize + 1} {
			if _, err := c.Decode(frame, n); !errors.Is(err, ErrBad) {
				t.Fatalf("decode to %d of %d: %v, want ErrBad", n, len(raw), err)
			}
		}
		if _, err := c.Decode(frame[:len(frame)-1], len(raw)); !errors.Is(err, ErrBad) {
			t.Fatalf("cut frame: %v", err)
		}
	}
	f(bytes.Repeat([]byte("skerry"), 1000), true)
	f(make([]byte, MaxSize), true)
	f(noise, false)
}

// TestBomb: a frame that unpacks to 64 MiB must not cost more than the chunk that it claims to be.
func TestBomb(t *testing.T) {
	c, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w, err := zstd.NewWriter(nil, zstd.WithWindowSize(32<<20))
	if err != nil {
		t.Fatal(err)
	}
	bomb := w.EncodeAll(make([]byte, 64<<20), nil)
	n := testing.AllocsPerRun(1, func() {
		if _, err := c.Decode(bomb, Size); !errors.Is(err, ErrBad) {
			t.Fatalf("bomb: %v", err)
		}
	})
	if n > 1000 {
		t.Fatalf("%v allocations for a bomb", n)
	}
}

func FuzzDecode(f *testing.F) {
	c, err := New()
	if err != nil {
		f.Fatal(err)
	}
	good, _ := c.Encode([]byte("skerry skerry skerry skerry"))
	f.Add(good, 27)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0}, 1)
	f.Fuzz(func(t *testing.T, frame []byte, n int) {
		b, err := c.Decode(frame, n)
		if err == nil && len(b) != n {
			t.Fatalf("%d octets, want %d", len(b), n)
		}
	})
}
