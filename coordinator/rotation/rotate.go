package rotation

import (
	"context"
	"fmt"

	"github.com/skerry-metal/skerry/mesh/api"
)

// Rotate implements api.Keys.
func (r *Rotation) Rotate(_ context.Context, _ api.Caller, q api.RotateRequest) (*api.RotationStatus, error) {
	switch q.What {
	default: // ca, writer, root: made by trust documents
		return nil, api.Refuse(fmt.Sprintf("cannot rotate %s yet: sign a trust document that lists the new key and bring it with `skerry pki trust FILE`", q.What))
	}
}

// Rotations implements api.Keys.
func (r *Rotation) Rotations(context.Context) (*api.RotationList, error) {
	return &api.RotationList{Items: []api.RotationStatus{}}, nil
}
