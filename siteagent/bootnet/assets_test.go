package bootnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"

	"github.com/skerry-metal/skerry/boot/httpboot"
	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	"github.com/skerry-metal/skerry/storage/blob"
)

type fakeRelay struct {
	content  func(*intent.AssetSpec) (io.ReadSeekCloser, error)
	manifest func(*intent.AssetSpec) (*chunk.Manifest, error)
}

// Relay implements Relay.
func (f fakeRelay) Relay(_ context.Context, s *intent.AssetSpec) (io.ReadSeekCloser, error) {
	return f.content(s)
}

// Manifest implements Relay.
func (f fakeRelay) Manifest(_ context.Context, s *intent.AssetSpec) (*chunk.Manifest, error) {
	return f.manifest(s)
}

var _ Relay = fakeRelay{}

// TestAssetElsewhere: what the intent names and this agent has not is relayed; while nobody has it the answer is `not yet`, which a machine
// takes for no fault, and never `no such asset`.
func TestAssetElsewhere(t *testing.T) {
	b := newBench(t)
	_, db := sitetest.OpenReplica(t, t.TempDir(), b.author, "a1")
	blobs, err := blob.Open(blob.Config{Dir: t.TempDir(), State: db, Logger: slog.New(slog.DiscardHandler), Reserve: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(blobs.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	b.answers.blobs = blobs
	m, err := chunk.ScanManifest(bytes.NewReader([]byte("a small one")))
	if err != nil {
		t.Fatal(err)
	}
	here, err := blobs.Import(t.Context(), bytes.NewReader([]byte("here")), 100)
	if err != nil {
		t.Fatal(err)
	}
	nobody := errors.New("nobody has it")
	f := func(d intent.Digest, want string, wantErr error) {
		t.Helper()
		r, err := b.answers.Open(t.Context(), d)
		if !errors.Is(err, wantErr) {
			t.Fatalf("%v, want %v", err, wantErr)
		}
		if err != nil {
			return
		}
		defer r.Close()
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Fatalf("%q, %v", got, err)
		}
	}
	tiny, ofTiny := intent.DigestOf([]byte("tiny")), intent.DigestOf([]byte("mtiny"))
	b.answers.relay = fakeRelay{
		content:  func(*intent.AssetSpec) (io.ReadSeekCloser, error) { return nil, nobody },
		manifest: func(*intent.AssetSpec) (*chunk.Manifest, error) { return nil, nobody },
	}
	f(here.Content, "here", nil)
	f(tiny, "", httpboot.ErrPending)
	f(ofTiny, "", httpboot.ErrPending)
	f(intent.DigestOf([]byte("never heard of")), "", httpboot.ErrAbsent)
	b.answers.relay = fakeRelay{
		content: func(s *intent.AssetSpec) (io.ReadSeekCloser, error) {
			return memory{bytes.NewReader([]byte(s.Class))}, nil
		},
		manifest: func(*intent.AssetSpec) (*chunk.Manifest, error) { return m, nil },
	}
	f(tiny, "image", nil)
	f(ofTiny, string(m.Encode()), nil)
}
