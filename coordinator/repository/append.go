package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/blob"
)

const (
	checkpointBytes = 64 << 20        // sent again after a crash, as in storage/blob
	checkpointEvery = 5 * time.Second // the same bound for slow lines
	bufferBytes     = 256 << 10       // of each body that is read: 16 MiB for all sessions
)

// Body is what an append reads; Stop makes a Read that waits return.
type Body interface {
	io.Reader
	Stop()
}

// Append writes a body at the end of a session. What came before body ended is on disk, and counts, whatever the error; the session is
// returned whenever it is known. A newer Append or Begin stops this one.
// Errors: 409 offset (the session's true one is in it), 409 stopped, 400 cut-short, 422 too-long, api.ErrNotFound, api.ErrFull.
func (r *Repository) Append(ctx context.Context, id string, offset uint64, body Body) (*assets.Upload, error) {
	s, err := r.get(id)
	if err != nil {
		return nil, err
	}
	if s.URL != "" { // it never changes
		return nil, api.Refuse("the coordinator reads this asset from its URL; nothing can be sent")
	}
	release, err := r.hold(ctx, s, body.Stop)
	if err != nil {
		return nil, err
	}
	defer release()
	if offset != s.Offset {
		return s.view(), &api.Error{Status: http.StatusConflict, Type: "offset", Detail: fmt.Sprintf("the upload stands at octet %d, not at %d; go on there", s.Offset, offset)}
	}
	err = r.fill(s, body)
	switch {
	case errors.Is(err, api.ErrFull): // what else happened, it is what somebody must do something about
	case errors.Is(err, assets.ErrStopped):
		err = &api.Error{Status: http.StatusConflict, Type: "stopped", Detail: "another request goes on with this upload"}
	case errors.Is(err, errSource):
		err = &api.Error{Status: http.StatusBadRequest, Type: "cut-short", Detail: fmt.Sprintf("the body broke off; the upload stands at octet %d of %d: go on there", s.Offset, s.Size)}
	case errors.Is(err, errTooLong):
		err = refuse("too-long", fmt.Sprintf("more came than the %d octets that the upload was begun with", s.Size))
	}
	return s.view(), err
}

var (
	errSource  = errors.New("source broke off")
	errTooLong = errors.New("more octets than were declared")
)

// fill appends to the session's file what src has, and records it every 64 MiB or 5 s and at the end, whatever the error. At most the declared
// octets are taken, or MaxBytes where none are declared. The caller holds s.
// Errors: errSource wraps what src said; errTooLong; api.ErrFull.
func (r *Repository) fill(s *session, src io.Reader) (err error) {
	f, at, err := r.file(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	limit := s.Size
	if limit == 0 {
		limit = r.cfg.MaxBytes
	}
	if limit < at { // the bound was lowered since
		return errTooLong
	}
	buf, last := make([]byte, bufferBytes), time.Now()
	for {
		// One octet more than fits is asked for: a source that has it is refused, however long it would go on.
		n, rerr := src.Read(buf[:min(uint64(len(buf)), limit-at+1)])
		long := uint64(n) > limit-at
		n = int(min(uint64(n), limit-at))
		if n > 0 {
			if _, err := f.WriteAt(buf[:n], int64(at)); err != nil {
				return errors.Join(written(err), r.checkpoint(s, f, at))
			}
			at += uint64(n)
		}
		switch {
		case long:
			return errors.Join(errTooLong, r.checkpoint(s, f, at))
		case errors.Is(rerr, io.EOF):
			return r.checkpoint(s, f, at)
		case rerr != nil:
			return errors.Join(fmt.Errorf("%w: %w", errSource, rerr), r.checkpoint(s, f, at))
		case at-s.Offset >= checkpointBytes, time.Since(last) >= checkpointEvery:
			last = time.Now()
			if err := r.checkpoint(s, f, at); err != nil {
				return err
			}
			if err := full(r.cfg.Blobs.Room(0)); err != nil { // others fill the same disk
				return err
			}
		}
	}
}

// file opens the session's file with room for all of it, and nothing behind the octets that count.
func (r *Repository) file(s *session) (*os.File, uint64, error) {
	f, err := os.OpenFile(r.path(s.ID), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot open upload %s: %w", s.ID, err)
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case uint64(fi.Size()) < s.Offset: // zeros in their place would be an asset that nobody made
		return nil, 0, errors.Join(api.Refuse("octets of this upload are lost; begin it again"), f.Close())
	case uint64(fi.Size()) > s.Offset:
		err = f.Truncate(int64(s.Offset))
	}
	if err == nil && s.Size > s.Offset {
		err = r.allocate(f, s.record)
	}
	if err == nil && s.Offset == 0 {
		err = syncDir(r.cfg.Dir) // the file's name
	}
	if err != nil {
		return nil, 0, errors.Join(written(err), f.Close())
	}
	return f, s.Offset, nil
}

// allocate takes room for all of a session's octets, unless what assets leave free would go. Errors: api.ErrFull.
func (r *Repository) allocate(f *os.File, rec record) error {
	r.alloc.Lock() // of two sessions that both fit only one may
	defer r.alloc.Unlock()
	if err := r.room(rec); err != nil {
		return err
	}
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, int64(rec.Size))
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // a full disk shows later then
	}
	return err
}

func written(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, api.ErrFull) {
		return api.ErrFull
	}
	return fmt.Errorf("cannot write upload: %w", err)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkpoint puts the octets below at onto stable storage, then says so in the record.
func (r *Repository) checkpoint(s *session, f *os.File, at uint64) error {
	if at == s.Offset {
		return nil
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return written(err)
	}
	rec := s.record
	rec.Offset = at
	return r.save(s, rec)
}

// Publish makes the asset of a session whose octets are all here: it hashes them, keeps them as a blob, hands the document to register
// and forgets the session. It may be asked again after any error and any crash. Errors: 409 incomplete, 422 wrong-digest (the octets are
// gone), those of register.
func (r *Repository) Publish(ctx context.Context, id string, register func(o *intent.Object, url string) error) error {
	s, err := r.get(id)
	if err != nil {
		return err
	}
	release, err := r.hold(ctx, s, func() {})
	if err != nil {
		return err
	}
	defer release()
	if s.state() != assets.Whole {
		return api.Refuse(fmt.Sprintf("%d octets of %d are here: the upload is %s", s.Offset, s.Size, s.state()))
	}
	b, ok := r.blob(s.record)
	if !ok {
		if b, err = r.take(ctx, s); err != nil {
			return err
		}
	}
	spec := &intent.AssetSpec{Digest: b.Digest, Size: b.Size, Manifest: b.Manifest, Class: s.Class}
	if s.URL != "" {
		spec.Sources = []intent.AssetSource{{URL: s.URL, Validator: s.Validator}}
	}
	if err := register(asset(s.Name, spec), s.URL); err != nil {
		return err
	}
	return r.remove(s)
}

// take makes the session's file a blob; see Publish.
func (r *Repository) take(ctx context.Context, s *session) (b blob.Info, err error) {
	f, _, err := r.file(s) // without what nobody was told of
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return b, err
	}
	var wrong *api.Error
	m, err := r.cfg.Blobs.Take(ctx, r.path(s.ID), func(m *chunk.Manifest) error {
		switch {
		case m.Size != s.Size:
			wrong = refuse("wrong-length", fmt.Sprintf("%d octets are here, not %d; upload it again", m.Size, s.Size))
			return wrong
		case !s.blobDigest().IsZero() && m.Content != s.blobDigest():
			wrong = refuse("wrong-digest", fmt.Sprintf("the octets have the digest %s, not %s; nothing was kept. Is the file whole, and did nobody write to it?", m.Content, s.blobDigest()))
			return wrong
		}
		rec := s.record
		rec.Found = m.Content
		return r.save(s, rec) // before the file is gone: the blob stands for it then
	})
	if wrong != nil {
		return b, errors.Join(wrong, r.remove(s))
	}
	if err != nil {
		return b, full(err)
	}
	return blob.Info{Digest: m.Content, Manifest: m.Digest(), Size: m.Size}, nil
}
