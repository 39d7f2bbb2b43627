package install

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

// EraseWork is which disks to erase, and how far. The disks are all of the accepted inventory.
type EraseWork struct {
	Disks []intent.DiskID `json:"disks"` // as the permission will name them, in this order
	Level erasure.Level   `json:"level"`
}

// ReceiptPlace is where the receipt of an erasure stands in the signing agent's chain.
type ReceiptPlace struct {
	Agent  string        `json:"agent"`
	Seq    uint64        `json:"seq"`
	Digest intent.Digest `json:"digest"` // of the payload
}

// Eraser is one disk that is being erased; storage/erase has the contract of each method.
type Eraser interface {
	// Run may be called again after it returned ctx's error, and then goes on; every other error is for good.
	Run(ctx context.Context, progress func(phase string, done, total uint64)) error
	// Drive is what a receipt says, after Run returned nil.
	Drive() erasure.Drive
	Begun() bool
	Close() error
}

// wipe is an erasure in progress: one Eraser per disk, in the permission's order.
type wipe struct {
	work   Work
	disks  []Eraser
	left   []string
	permit string

	mu     sync.Mutex // guards what follows
	phases []string
	done   []uint64
	total  []uint64
}

func (in *Installer) closeWipe() {
	if in.wipe == nil {
		return
	}
	for _, d := range in.wipe.disks {
		if err := d.Close(); err != nil {
			in.Log.Warn("cannot close disk", "err", err)
		}
	}
	in.wipe = nil
}

// erase does one order and hands in its proof, or reports the failure. The error is for Run: the session is lost, or ctx ended.
func (in *Installer) erase(ctx context.Context, w Work) error {
	if w.Erase == nil {
		return in.Client.Done(ctx, Done{Task: w.Task, Generation: w.Generation, Code: "erase", Error: "erase without details"})
	}
	proof, err := in.eraseAll(ctx, w)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errEpoch):
		in.say(slog.LevelWarn, "claim moved, asking anew", "task", w.Task)
		return nil // the disks stay open, and go on from where they are
	case errors.Is(err, ErrSession):
		return err
	case err == nil:
		at, rerr := in.Client.Receipt(ctx, *proof)
		if rerr == nil {
			in.say(slog.LevelInfo, "erased", "task", w.Task, "disks", len(proof.Drives), "receipt", fmt.Sprintf("%s/%d", at.Agent, at.Seq))
			in.closeWipe()
			return nil
		}
		if !errors.Is(rerr, ErrStale) && !errors.Is(rerr, ErrBadRequest) {
			return rerr
		}
		err = fmt.Errorf("cannot get a receipt: %w", rerr)
	}
	d := Done{Task: w.Task, Generation: w.Generation, Code: Code(err), Error: err.Error()}
	if in.wipe != nil {
		d.Permission = in.wipe.permit
		d.Wrote = slices.ContainsFunc(in.wipe.disks, Eraser.Begun)
	}
	in.say(slog.LevelError, "erasure failed", "task", w.Task, "code", d.Code, "err", err)
	in.closeWipe()
	if derr := in.Client.Done(ctx, d); derr != nil {
		return derr
	}
	if errors.Is(err, ErrStale) {
		return err
	}
	return nil
}

// eraseAll does one order: permission, guards, all disks at once, proof.
func (in *Installer) eraseAll(ctx context.Context, w Work) (*erasure.Proof, error) {
	hw, err := in.Collect(ctx)
	if err != nil {
		return nil, err
	}
	if in.wipe != nil && !in.wipe.same(w) {
		in.closeWipe()
	}
	if in.wipe != nil {
		for i := range hw.Disks { // our own exclusive hold must not look like somebody else's
			hw.Disks[i].InUse = nil
		}
	}
	p, err := in.permit(ctx, w, intent.ActErase, hw)
	if err != nil {
		return nil, err
	}
	disks, left, err := CheckErase(p, w, hw)
	if err != nil {
		return nil, err
	}
	in.used[p.ID] = true
	in.say(slog.LevelInfo, "permission granted", "id", p.ID, "disks", len(disks))
	if in.wipe == nil {
		in.wipe = &wipe{left: left, phases: make([]string, len(disks)), done: make([]uint64, len(disks)), total: make([]uint64, len(disks))}
		for _, d := range disks {
			e, err := in.Erase(d, w.Erase.Level)
			if err != nil {
				return nil, err
			}
			in.wipe.disks = append(in.wipe.disks, e)
		}
	}
	w.Epoch = p.Claim
	in.wipe.work, in.wipe.permit = w, p.ID
	if err := in.superviseWipe(ctx); err != nil {
		return nil, err
	}
	return in.proof(hw), nil
}

// proof gathers what the disks say. No field of it is believed by the site that it can compare.
func (in *Installer) proof(hw *inventory.Report) *erasure.Proof {
	p := &erasure.Proof{
		Task: in.wipe.work.Task, Generation: in.wipe.work.Generation, Permission: in.wipe.permit, Serial: hw.Serial, UUID: hw.UUID,
		Chassis: hw.Chassis.Serial, Tool: erasure.Tool{Version: "skerry-installer " + in.Version, Kernel: hw.Kernel}, Exceptions: in.wipe.left,
	}
	for _, d := range in.wipe.disks {
		p.Drives = append(p.Drives, d.Drive())
	}
	return p
}

// same tells whether w wants what k has begun.
func (k *wipe) same(w Work) bool {
	return k.work.Generation == w.Generation && k.work.Task == w.Task && k.work.Erase.Level == w.Erase.Level && slices.Equal(k.work.Erase.Disks, w.Erase.Disks)
}

// superviseWipe runs all disks with a reporter beside them. One that fails does not stop the others: each that is erased is one less.
func (in *Installer) superviseWipe(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	k := in.wipe
	end := make(chan error, 1)
	go func() { end <- k.run(ctx) }()
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-end:
			if cause := context.Cause(ctx); err != nil && cause != nil {
				return cause
			}
			return err
		case <-tick.C:
			in.obey(ctx, k.progress(), k.work.Epoch, cancel)
		}
	}
}

func (k *wipe) run(ctx context.Context) error {
	var g errgroup.Group
	errs := make([]error, len(k.disks))
	for i, d := range k.disks {
		g.Go(func() error {
			err := d.Run(ctx, func(phase string, done, total uint64) {
				k.mu.Lock()
				defer k.mu.Unlock()
				k.phases[i], k.done[i], k.total[i] = phase, done, total
			})
			if err != nil {
				errs[i] = fmt.Errorf("%w: %w", ErrErase, err)
			}
			return nil
		})
	}
	_ = g.Wait() // each error is in errs
	return errors.Join(errs...)
}

// progress sums the disks; the phase is that of the one that is least far.
func (k *wipe) progress() Progress {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := Progress{Task: k.work.Task, Phase: "erase"}
	for i := range k.disks {
		p.Bytes, p.Total = p.Bytes+k.done[i], p.Total+k.total[i]
	}
	if len(k.phases) > 0 {
		p.Bottleneck = fmt.Sprint(k.phases)
	}
	return p
}
