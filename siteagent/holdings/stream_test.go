package holdings

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
)

// TestStream: an image that this agent fetches is given as far as it is here, the rest as it comes, from wherever a reader begins; what does not
// come in time for a first octet, and what belongs to class boot, is refused.
func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1", "a2")
		img, kernel := s.upload(2, 4*1024+1, "image"), s.upload(3, 2048, "boot")
		s.want(img, kernel)
		n, want := s.node("a1"), s.content[img.Digest]
		if _, err := n.Relay(t.Context(), img); !errors.Is(err, ErrNobody) {
			t.Errorf("it is not fetched yet: %v", err)
		}
		for _, b := range [][]byte{want, s.content[kernel.Digest]} {
			m, err := chunk.ScanManifest(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			if err := n.cfg.Blobs.Put(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := n.Relay(t.Context(), kernel); !errors.Is(err, ErrNobody) {
			t.Errorf("a kernel of which the half is here: %v", err)
		}
		bring := func(i int) error {
			return n.cfg.Blobs.WriteChunk(img.Digest, i, want[i<<20:min((i+1)<<20, len(want))])
		}
		var asked []int
		pace, idle := time.Duration(0), 0
		n.wait = func(ctx context.Context, i int) error {
			asked = append(asked, i)
			if idle > 0 {
				idle--
				return errors.New("nobody fetches it at the moment")
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pace):
			}
			return bring(i)
		}
		if err := bring(1); err != nil {
			t.Fatal(err)
		}
		read := func(from int64) ([]byte, error) {
			f, err := n.Relay(t.Context(), img)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.Seek(from, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			return io.ReadAll(f)
		}
		pace = firstChunk + time.Second
		if got, err := read(3 << 20); err == nil || len(got) > 0 {
			t.Errorf("nothing came in time: %d octets, %v", len(got), err)
		}
		if got, err := read(2<<20 - 5); err != nil || !bytes.Equal(got, want[2<<20-5:]) {
			t.Errorf("what follows the first chunk may take as long as it takes: %d octets, %v", len(got), err)
		}
		pace, idle, asked = firstChunk/4, 1, nil
		if got, err := read(7); err != nil || !bytes.Equal(got, want[7:]) {
			t.Errorf("%d octets of %d, %v", len(got), len(want)-7, err)
		}
		if len(asked) != 2 || asked[0] != 0 {
			t.Errorf("waited for %v", asked)
		}
	})
}
