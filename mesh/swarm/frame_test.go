package swarm

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// FuzzReadData: whatever a source sends, what comes out is no longer than the chunk and begins with what was there, and nothing panics.
func FuzzReadData(f *testing.F) {
	raw := []byte(strings.Repeat("skerry", 100))
	m, err := chunk.ScanManifest(bytes.NewReader(raw))
	if err != nil {
		f.Fatal(err)
	}
	c, err := chunk.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.Close)
	var b, rest bytes.Buffer
	if err := errors.Join(writeData(&b, c, 0, raw, false), writeData(&rest, c, 0, raw[50:], true)); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes(), 0)
	f.Add(b.Bytes()[:b.Len()-5], 0)
	plain := append([]byte{typeData, 0, 0, 0, 0, 0, 2, 0x68, 0, 0, 0, 0, 0, 0, 0, 0, encRaw, 0, 0, 0, 0, 0, 2, 0x58}, raw...)
	f.Add(plain, 0)
	f.Add(plain, 50)
	f.Add(plain[:100], 0)
	f.Add(rest.Bytes(), 50)
	f.Add(rest.Bytes()[:100], 50)
	f.Add(append([]byte{typeData, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, plain[8:]...), 599)
	f.Fuzz(func(t *testing.T, in []byte, had int) {
		had = min(max(had, 0), len(raw)-1)
		got, err := readData(bytes.NewReader(in), c, m, 0, raw[:had], nil)
		if len(got) > len(raw) || err == nil && len(got) != len(raw) {
			t.Fatalf("%d octets for a chunk of %d, %v", len(got), len(raw), err)
		}
		if err != nil && len(got) == len(raw) {
			t.Fatalf("a chunk that broke off is whole: %v", err)
		}
	})
}

// TestWords: what is told comes out again, and what does not fit is refused.
func TestWords(t *testing.T) {
	d := intent.DigestOf([]byte("m"))
	some := &word{manifest: d, octets: 1 << 40, today: 1 << 41, takes: true, stripe: 7, patience: time.Minute, able: true, chunks: 11, have: []byte{0x80, 0x20}}
	for name, w := range map[string]*word{
		"nothing": {stripe: noStripe, patience: leastPatience}, "some": some,
		"all": {manifest: d, stripe: noStripe, patience: mostPatience, chunks: 11, have: full(11)},
	} {
		got, err := readWord(bytes.NewReader(w.encode(false)), nil)
		if d := cmp.Diff(w, got, cmp.AllowUnexported(word{})); err != nil || d != "" {
			t.Errorf("%s: %v, -want +got\n%s", name, err, d)
		}
	}
	if got, err := readWord(bytes.NewReader(some.encode(true)), some); err != nil || !got.has(0) || got.has(1) || !got.has(10) || got.has(11) {
		t.Errorf("the same again: %v, %v", got, err)
	}
	f := func(what string, at int, v byte) {
		t.Helper()
		b := some.encode(false)
		b[at] = v
		if _, err := readWord(bytes.NewReader(b), nil); !errors.Is(err, errWord) {
			t.Errorf("%s: %v", what, err)
		}
	}
	f("another frame", 0, typeData)
	f("length", 7, 0)
	f("more chunks than bits", 58, 1)
	f("too many chunks", 56, 1)
	f("form", 60, 9)
	f("the same as nothing", 60, formSame)
	for _, b := range [][4]byte{{}, {0xff, 0xff, 0xff, 0xff}} {
		in := (&word{stripe: noStripe}).encode(false)
		copy(in[52:], b[:])
		if w, err := readWord(bytes.NewReader(in), nil); err != nil || w.patience < leastPatience || w.patience > mostPatience {
			t.Errorf("patience: %v, %v", w, err)
		}
	}
}

// FuzzReadWord: whatever a peer tells, its bits fit its chunks, and nothing panics.
func FuzzReadWord(f *testing.F) {
	w := &word{stripe: 1, patience: time.Minute, able: true, chunks: 100, have: make([]byte, 13)}
	f.Add(append(w.encode(false), w.encode(true)...))
	f.Add(w.encode(false)[:70])
	f.Add(append((&word{}).encode(false), (&word{chunks: 9, have: full(9)}).encode(false)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		for w := (*word)(nil); ; {
			var err error
			if w, err = readWord(r, w); err != nil {
				return
			}
			if w.chunks > chunk.MaxChunks || w.have != nil && len(w.have) != (w.chunks+7)/8 || w.patience < leastPatience || w.patience > mostPatience {
				t.Fatalf("%+v", w)
			}
			w.has(w.chunks)
		}
	})
}
