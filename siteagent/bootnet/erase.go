package bootnet

import (
	"context"
	"errors"
	"fmt"

	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// eraseWork names every disk of the accepted inventory.
func eraseWork(v reconcile.MachineView) *install.EraseWork {
	w := &install.EraseWork{Level: v.Level()}
	for _, d := range v.Accepted.Disks {
		w.Disks = append(w.Disks, d.DiskID)
	}
	return w
}

// Receipt implements install.Site: any agent signs, for every field is compared with what all of them have in the journal.
func (i *installers) Receipt(ctx context.Context, session string, p erasure.Proof) (install.ReceiptPlace, error) {
	var none install.ReceiptPlace
	s, err := i.session(session)
	if err != nil {
		return none, err
	}
	v, ok := i.control.View(s.Machine)
	if !ok {
		return none, fmt.Errorf("%w: the machine is no longer declared", install.ErrStale)
	}
	done, err := i.receipts.Issue(ctx, v, p)
	switch {
	case errors.Is(err, erasure.ErrProof):
		why := err.Error()
		aerr := i.w.Journal.Append(ctx, claim.Local, reconcile.Event(s.Machine, v.TaskID(), intent.Epoch{}, "receipt.refused", why[:min(len(why), maxLogLine)], nil))
		return none, errors.Join(fmt.Errorf("%w: %w", install.ErrStale, err), aerr)
	case err != nil:
		return none, fmt.Errorf("%w: %w", install.ErrBusy, err)
	}
	return install.ReceiptPlace{Agent: done.Agent, Seq: done.Seq, Digest: done.Digest}, nil
}
