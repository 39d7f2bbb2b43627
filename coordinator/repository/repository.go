package repository

import (
	"context"
	"fmt"
	"io"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/blob"
)

// Import reads an upload to its end and returns the Asset document of its bytes: named, not stored as an object yet. The
// same bytes give the same asset again.
func Import(ctx context.Context, blobs *blob.Store, name, class string, r io.Reader) (*intent.Object, error) {
	m, err := blobs.Import(ctx, r, intent.MaxAssetSize)
	if err != nil {
		return nil, fmt.Errorf("cannot import asset %s: %w", name, err)
	}
	o := &intent.Object{
		APIVersion: intent.APIVersion, Kind: intent.KindAsset, Metadata: intent.Metadata{Name: name},
		Spec: &intent.AssetSpec{Digest: m.Content, Size: m.Size, Manifest: m.Digest(), Class: class},
	}
	if err := o.Validate().Err(); err != nil {
		return nil, fmt.Errorf("cannot register asset %s: %w", name, err)
	}
	return o, nil
}
