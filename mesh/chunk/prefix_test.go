package chunk

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestPrefix: of a frame that broke off the whole blocks are decoded, never one octet that was not in the chunk.
func TestPrefix(t *testing.T) {
	raw := make([]byte, Size)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range raw {
		raw[i] = byte(rnd.IntN(16))
	}
	c, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	frame, _ := c.Encode(raw)
	for n := 0; n <= len(frame); n += 10_001 {
		got := c.Prefix(frame[:n], len(raw))
		if want := max(0, int(float64(n)/float64(len(frame))*Size)-3*(128<<10)); len(got) < want || len(got) >= len(raw) || !bytes.Equal(got, raw[:len(got)]) {
			t.Errorf("%d octets of %d: %d decoded, want %d", n, len(frame), len(got), want)
		}
	}
	if got := c.Prefix(frame, len(raw)); len(got) != len(raw)-1 {
		t.Errorf("%d octets of a whole frame", len(got))
	}
	if got := c.Prefix([]byte("no frame"), 1000); got == nil || len(got) != 0 {
		t.Errorf("%q of no frame", got)
	}
}

func FuzzPrefix(f *testing.F) {
	c, err := New()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.Close)
	good, _ := c.Encode([]byte("skerry skerry skerry skerry"))
	f.Add(good, 27)
	f.Add(good[:20], 20)
	f.Add([]byte("(\xb5/\xfd100000"), 27)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0}, 1<<30)
	f.Fuzz(func(t *testing.T, frame []byte, most int) {
		if b := c.Prefix(frame, most); b == nil || len(b) > max(most-1, 0) || len(b) > MaxSize {
			t.Fatalf("%d octets, at most %d", len(b), most)
		}
	})
}
