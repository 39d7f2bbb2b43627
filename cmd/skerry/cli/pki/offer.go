package pki

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/pki/holder"
)

// carry brings the documents that a rotation offers to the holders, and what they signed back: both by way of a file in the working
// directory. It ends where a document has not enough signatures yet, and where nothing is offered.
func carry(ctx context.Context, cl *client.Client, r rotation, st *api.RotationStatus) (*api.RotationStatus, error) {
	for st.Offer != "" {
		o, err := holder.DecodeOffer([]byte(st.Offer))
		if err != nil {
			return nil, err
		}
		file := fmt.Sprintf("trust%d.json", o.Body.Seq)
		signed, err := holder.LoadOffer(file)
		if errors.Is(err, fs.ErrNotExist) {
			return st, holder.SaveOffer(file, o)
		}
		if err != nil {
			return nil, err
		}
		if !o.Same(signed) {
			return nil, &account.HintError{Err: fmt.Errorf("cannot go on: %s is not the document that the coordinator offers", file), Next: "if nobody signed it, remove it and run this again"}
		}
		have, of, err := signed.Count()
		if err != nil {
			return nil, err
		}
		if have < of {
			st.Next = fmt.Sprintf("%s has %d of %d signatures: another holder runs skerry pki sign %s, then run this command again", file, have, of, file)
			return st, nil
		}
		if _, err := cl.AddTrust(ctx, signed.Signed); err != nil {
			return nil, err
		}
		q := r.RotateRequest
		q.Again = false // begun once
		if st, err = cl.Rotate(ctx, q); err != nil {
			return nil, err
		}
	}
	return st, nil
}
