package asset

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// maxFails is how often in a row nothing may come through: some two minutes.
const maxFails = 8

func rest(fails int) time.Duration { return min(30*time.Second, time.Second<<(fails-1)) }

// uploadFile hashes a file, then sends what the coordinator does not have of it.
func (v *verbs) uploadFile(ctx context.Context, path string, q assets.UploadRequest) (*intent.Object, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot upload: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, &within{ctx, f})
	if err != nil {
		return nil, fmt.Errorf("cannot upload: %w", err)
	}
	q.Size, q.Digest = uint64(n), intent.Digest(sum.Sum(nil))
	cl, err := v.Client()
	if err != nil {
		return nil, err
	}
	u, err := cl.BeginUpload(ctx, q) // a wrong server, or a refusal, is told at once
	if err != nil {
		return nil, v.Explain(err)
	}
	p := v.begin("upload", q.Name, q.Size)
	o, err := v.send(ctx, cl, q, u, f, p)
	p.end(err == nil)
	switch {
	case err == nil:
		return o, nil
	case passing(err) || ctx.Err() != nil:
		return nil, &account.HintError{Err: err, Next: "run the same command again: it goes on where it was"}
	}
	return nil, v.Explain(err)
}

// send sends until the asset is published. The coordinator's word, after each cut, is where it goes on.
func (v *verbs) send(ctx context.Context, cl *client.Client, q assets.UploadRequest, u *assets.Upload, f io.ReaderAt, p *progress) (*intent.Object, error) {
	for fails := 0; ; {
		had, err := u.Offset, error(nil)
		if p.at(had); u.State == assets.Open {
			left := int64(u.Size - had)
			_, err = cl.AppendUpload(ctx, u.ID, had, &told{io.NewSectionReader(f, int64(had), left), had, p}, left)
		}
		if err == nil {
			var o *intent.Object
			if o, err = cl.PublishUpload(ctx, u.ID); err == nil {
				return o, nil
			}
		}
		for fails++; ; fails++ {
			if !passing(err) || ctx.Err() != nil || fails > maxFails {
				return nil, err
			}
			if err := pause(ctx, v.rest(fails)); err != nil {
				return nil, err
			}
			var now *assets.Upload
			if now, err = cl.BeginUpload(ctx, q); err == nil {
				u = now
				break
			}
		}
		if u.Offset > had {
			fails = 0
		}
	}
}

// registerURL begins what the coordinator reads, looks on, and publishes it.
func (v *verbs) registerURL(ctx context.Context, q assets.UploadRequest) (*intent.Object, error) {
	cl, err := v.Client()
	if err != nil {
		return nil, err
	}
	u, err := cl.BeginUpload(ctx, q)
	if err != nil {
		return nil, v.Explain(err)
	}
	p := v.begin("read", q.Name, u.Size)
	fails := 0
	for err == nil && u.State == assets.Fetching {
		p.of(u.Size)
		p.at(u.Offset)
		if err = pause(ctx, v.poll); err != nil {
			break
		}
		now, aerr := cl.UploadStatus(ctx, u.ID)
		if fails++; passing(aerr) && fails <= maxFails {
			continue // the coordinator reads on, whoever looks
		}
		if err = aerr; err == nil {
			u, fails = now, 0
		}
	}
	var o *intent.Object
	switch {
	case ctx.Err() != nil:
		err = &account.HintError{Err: cmp.Or(err, ctx.Err()), Next: "the coordinator reads on; run the same command again"}
	case err == nil && u.State == assets.Failed:
		err = &account.HintError{Err: fmt.Errorf("cannot read %s: %s", q.URL, u.Why), Next: "run the same command again when that is mended, or `skerry asset drop " + u.ID + "`"}
	case err == nil:
		p.of(u.Size)
		p.at(u.Offset)
		if o, err = cl.PublishUpload(ctx, u.ID); err != nil {
			err = v.Explain(err)
		}
	default:
		err = v.Explain(err)
	}
	p.end(err == nil)
	return o, err
}

// passing tells whether an error may be another one a moment later: of the line, or of a server that is busy.
func passing(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	p, ok := errors.AsType[*client.Problem](err)
	return !ok || p.Status == 429 || p.Status >= 500 && p.Status != 507 || client.IsType(err, "cut-short") || client.IsType(err, "stopped") || client.IsType(err, "offset")
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// within ends a reader with its context.
type within struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (w *within) Read(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.r.Read(b)
}
