package repository

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/blob"
	"github.com/skerry-metal/skerry/storage/state"
)

func TestImport(t *testing.T) {
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	db, err := state.Open(state.Config{Dir: filepath.Join(dir, "state"), Key: bytes.Repeat([]byte{3}, 32), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	blobs, err := blob.Open(blob.Config{Dir: filepath.Join(dir, "assets"), State: db, Logger: log, Reserve: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	body := strings.Repeat("0123456789abcdef", 100_000) // one chunk and a half
	o, err := Import(t.Context(), blobs, "tiny", "image", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	m, err := chunk.ScanManifest(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	want := &intent.AssetSpec{Digest: intent.DigestOf([]byte(body)), Size: uint64(len(body)), Manifest: m.Digest(), Class: "image"}
	if d := cmp.Diff(want, o.Spec); d != "" || o.Metadata.Name != "tiny" {
		t.Errorf("-want +got\n%s", d)
	}
	again, err := Import(t.Context(), blobs, "other", "boot", iotest.OneByteReader(strings.NewReader(body[:5000])))
	if err != nil || again.Spec.(*intent.AssetSpec).Size != 5000 {
		t.Errorf("a slow reader gives %+v, %v", again, err)
	}
	same, err := Import(t.Context(), blobs, "tiny", "image", strings.NewReader(body))
	if err != nil || !cmp.Equal(same.Spec, o.Spec) {
		t.Errorf("the same bytes again give %+v, %v", same, err)
	}
	boom := errors.New("the cable was pulled")
	if _, err := Import(t.Context(), blobs, "torn", "image", io.MultiReader(strings.NewReader(body[:1<<20]), iotest.ErrReader(boom))); !errors.Is(err, boom) {
		t.Errorf("a torn upload gives %v", err)
	}
	for _, bad := range [][2]string{{"Tiny", "image"}, {"tiny", "song"}} {
		if _, err := Import(t.Context(), blobs, bad[0], bad[1], strings.NewReader("x")); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
	if _, err := Import(t.Context(), blobs, "empty", "image", strings.NewReader("")); err == nil {
		t.Error("an empty asset is taken")
	}
}
