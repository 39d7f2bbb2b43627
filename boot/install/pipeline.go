package install

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// supervise runs the pipeline with a reporter beside it, which stops it at the site's word.
func (in *Installer) supervise(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	end := make(chan error, 1)
	phases := make(chan struct{}, 1) // a phase ended; one that was not reported yet stands for the next too
	go func() { end <- in.pipeline(ctx, phases) }()
	for {
		select {
		case err := <-end:
			if cause := context.Cause(ctx); err != nil && cause != nil {
				return cause
			}
			return err
		case <-phases:
			in.report(ctx, cancel)
		case <-tick.C:
			in.report(ctx, cancel)
		}
	}
}

// report sends progress and obeys the answer.
func (in *Installer) report(ctx context.Context, stop func(error)) {
	in.obey(ctx, in.job.progress(in.job.work.Task), in.job.work.Epoch, stop)
}

// obey reports p, of work under epoch, and stops it at the site's word.
func (in *Installer) obey(ctx context.Context, p Progress, epoch intent.Epoch, stop func(error)) {
	in.Log.Info("progress", "phase", p.Phase, "mib", p.Bytes>>20, "of", p.Total>>20, "bottleneck", p.Bottleneck)
	ctl, err := in.Client.Report(ctx, p)
	switch {
	case errors.Is(err, ErrSession):
		stop(err)
	case err != nil:
		in.Log.Warn("cannot report progress", "err", err)
	case ctl.Abort:
		stop(fmt.Errorf("%w: %s", ErrAborted, ctl.Reason))
	case ctl.Epoch.Compare(epoch) > 0:
		stop(errEpoch)
	}
	in.flushLog(ctx)
}

// pipeline brings the image onto the disk.
func (in *Installer) pipeline(ctx context.Context, phases chan<- struct{}) error {
	j := in.job
	phase := func(name string, fn func() error) error {
		j.fetch.setPhase(name, j.work.Install.SizeBytes)
		at := time.Now()
		err := fn()
		j.seconds[name] = seconds(at)
		in.say(slog.LevelInfo, "phase ended", "phase", name, "seconds", j.seconds[name], "ok", err == nil)
		select {
		case phases <- struct{}{}:
		default:
		}
		return err
	}
	if err := phase("write", func() error { return j.write(ctx) }); err != nil {
		return err
	}
	full := j.work.Install.Verify != VerifySample
	err := phase("verify", func() error { return j.writer.Verify(ctx, full, j.fetch.setBytes) })
	if err != nil {
		return err
	}
	return phase("finish", func() error {
		what, err := j.writer.Finish(j.work.Install.Seed)
		if err == nil {
			in.say(slog.LevelInfo, "disk finished", "what", what)
		}
		return err
	})
}

// write fetches and writes all blocks that are missing: block 0 alone and first, for it says whether this is an image.
func (j *job) write(ctx context.Context) error {
	wr := j.writer
	for i := range wr.Blocks() { // what an earlier claim wrote
		if _, n := wr.Block(i); wr.Have(i) {
			j.fetch.addBytes(n)
		}
	}
	if !wr.Have(0) {
		if err := j.block(ctx, 0, wr.Buffer(), wr.Start); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	next := make(chan int)
	g.Go(func() error {
		defer close(next)
		for i := 1; i < wr.Blocks(); i++ {
			if wr.Have(i) {
				continue
			}
			select {
			case next <- i:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range min(Workers, wr.Blocks()) {
		g.Go(func() error {
			buf := wr.Buffer()
			for i := range next {
				if err := j.block(ctx, i, buf, func(b []byte) error { return wr.Put(i, b) }); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (j *job) block(ctx context.Context, i int, buf []byte, put func([]byte) error) error {
	off, n := j.writer.Block(i)
	if i > 0 && j.writer.IsZero(i) {
		if err := j.writer.PutZero(i); err != nil {
			return err
		}
	} else if err := j.fetch.block(ctx, i, off, buf[:n], int(off/chunk.Size), put); err != nil {
		return err
	}
	j.fetch.addBytes(n)
	return nil
}
