package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/origin"
)

const (
	maxFetches    = 2                // URLs read at once: more would share one line
	dialLimit     = 10 * time.Second // one address; the next is tried then
	answerLimit   = 30 * time.Second // a mirror that has to look for the file first
	defMaxFetched = 64 << 30         // octets of a URL
	maxTries      = 8                // in a row without an octet: some 4 minutes
	maxRest       = time.Minute      // between two of them
	sourceIdle    = 1 * time.Minute  // a server that says nothing for so long is dialled anew
	dripFor       = 10 * time.Minute
	dripBytes     = 64 << 10 // a server that sends less in dripFor gives its place to the next
)

// Run reads URLs and removes idle sessions, until ctx ends; what is sent at the end is stopped, and on disk when Run returns.
func (r *Repository) Run(ctx context.Context) error {
	defer r.drain()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		t := time.NewTicker(sweepEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-t.C:
				r.Sweep()
				if r.cfg.Hourly == nil {
					continue
				}
				if err := r.cfg.Hourly(ctx); err != nil && ctx.Err() == nil {
					r.cfg.Logger.Warn("octets of deleted assets not removed; it is tried again", "err", err)
				}
			}
		}
	})
	for range maxFetches {
		g.Go(func() error { return r.readURLs(ctx) })
	}
	return g.Wait()
}

// drain takes every session and does not give it back: the store is closed next.
func (r *Repository) drain() {
	r.mu.Lock()
	var all []*session
	for _, s := range r.sessions {
		if s.stop != nil {
			s.stop()
		}
		all = append(all, s)
	}
	r.mu.Unlock()
	for _, s := range all {
		s.turn <- true
	}
}

// readURLs reads one URL after the other.
func (r *Repository) readURLs(ctx context.Context) error {
	for ctx.Err() == nil {
		s, wait := r.due()
		if s != nil {
			r.wake() // another may be due for somebody else
			r.read(ctx, s)
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-r.kick:
		case <-t.C:
		}
		t.Stop()
	}
	return nil
}

// due takes the session whose URL is to be read now, of several the one that waits longest, else it says how long there is none.
func (r *Repository) due() (*session, time.Duration) {
	now, wait := r.cfg.Now(), sweepEvery
	r.mu.Lock()
	defer r.mu.Unlock()
	var first *session
	for _, s := range r.sessions {
		if s.state() != assets.Fetching || s.taken || s.Moved.IsZero() {
			continue
		}
		if d := s.next.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		if first == nil || s.next.Before(first.next) {
			first = s
		}
	}
	if first == nil {
		return nil, wait
	}
	first.taken = true
	return first, 0
}

var errDropped = errors.New("the upload is dropped")

// read reads a session's URL once, and writes down what became of it.
func (r *Repository) read(ctx context.Context, s *session) {
	defer func() {
		r.mu.Lock()
		s.taken = false
		r.mu.Unlock()
	}()
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	release, err := r.hold(within, s, func() { cancel(errDropped) })
	if err != nil {
		return // dropped, or the end of Run
	}
	defer release()
	was := s.Offset
	err = r.fetch(within, cancel, s)
	if ctx.Err() != nil || errors.Is(context.Cause(within), errDropped) {
		return
	}
	rec := s.record
	if err == nil {
		rec.Size, rec.Ended = rec.Offset, true
		err = r.save(s, rec)
	}
	if err == nil {
		r.cfg.Logger.Info("asset read from its URL", "asset", rec.Name, "upload", rec.ID, "octets", rec.Size)
		return
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // the URL is in the session
	}
	r.mu.Lock()
	if s.fails++; s.Offset > was && !errors.Is(err, errDrip) {
		s.fails = 1
	}
	s.next, s.trouble = r.cfg.Now().Add(rest(s.fails)), err.Error()
	fails := s.fails
	r.mu.Unlock()
	why, ok := isFinal(err)
	if !ok && fails < maxTries && !errors.Is(err, api.ErrFull) {
		return // tried again
	}
	rec = s.record
	if rec.Failed = err.Error(); ok {
		rec.Failed = why
		rec.Offset, rec.ETag, rec.Size = 0, "", rec.Asked // what is here is of no use
	}
	r.cfg.Logger.Warn("asset not read from its URL", "asset", rec.Name, "upload", rec.ID, "err", rec.Failed)
	if err := r.save(s, rec); err != nil {
		r.cfg.Logger.Warn("upload not recorded; its URL is tried again", "upload", rec.ID, "err", err)
	}
}

// rest is full jitter over 1 s doubled per failure.
func rest(fails int) time.Duration {
	return rand.N(min(maxRest, time.Second<<min(fails, 10)) + time.Millisecond)
}

// fetch reads from where the session stands to the end. cancel ends ctx.
func (r *Repository) fetch(ctx context.Context, cancel context.CancelCauseFunc, s *session) error {
	rec := s.record
	if rec.Size > 0 && rec.Offset == rec.Size {
		return nil // a crash came after the last octet
	}
	if rec.ETag == "" {
		rec.Offset, rec.Size = 0, rec.Asked // nobody could say that the rest is of the same file
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rec.URL, nil)
	if err != nil {
		return final("the URL is not readable")
	}
	req.Header.Set("User-Agent", "skerry")
	if rec.Offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", rec.Offset))
		req.Header.Set("If-Range", rec.ETag)
	}
	res, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	rec, skip, err := answer(rec, res)
	if err != nil {
		return err
	}
	if rec.Asked == 0 && rec.Size > r.cfg.MaxBytes {
		return final(fmt.Sprintf("the server has %d octets, more than %d: give --size if that is right", rec.Size, r.cfg.MaxBytes))
	}
	if err := r.room(rec); err != nil {
		return err
	}
	if err := r.save(s, rec); err != nil {
		return err
	}
	t := time.AfterFunc(sourceIdle, func() { cancel(errIdle) })
	defer t.Stop()
	body := &watched{r: res.Body, t: t, since: time.Now()}
	if _, err := io.CopyN(io.Discard, body, int64(skip)); err != nil {
		return fmt.Errorf("cannot read again what is here already: %w", err)
	}
	err = r.fill(s, body)
	switch {
	case errors.Is(err, errTooLong):
		return final(fmt.Sprintf("the server sends more than %d octets", s.Offset))
	case err != nil:
		return err
	case s.Offset == 0:
		return final("the server has nothing: 0 octets")
	case s.Offset < s.Size && res.StatusCode == http.StatusPartialContent:
		return errors.New("the server sent a part of what it was asked for")
	case s.Offset < s.Size:
		return final(fmt.Sprintf("the server ended after %d octets, %d were declared", s.Offset, s.Size))
	}
	return nil
}

var (
	errIdle = errors.New("the server says nothing")
	errDrip = errors.New("the server sends less than 64 KiB in 10 minutes")
)

// watched puts the end of waiting off with every read, and ends with errDrip where too little comes.
type watched struct {
	r     io.Reader
	t     *time.Timer
	since time.Time
	n     int // octets since then
}

func (w *watched) Read(p []byte) (int, error) {
	if time.Since(w.since) >= dripFor {
		if w.n < dripBytes {
			return 0, errDrip
		}
		w.since, w.n = time.Now(), 0
	}
	w.t.Reset(sourceIdle)
	n, err := w.r.Read(p)
	w.n += n
	return n, err
}

// answer checks a server's answer against what is here: it returns the record that goes with it, and how many octets of the body are
// here already. Source: RFC 9110, sections 8.8 (strong validators), 13.1.5 (If-Range), 14.4 (Content-Range), 15.3.7 (206).
func answer(rec record, res *http.Response) (record, uint64, error) {
	etag := origin.StrongETag(res.Header)
	if err := origin.Plain(res.Header); err != nil {
		return rec, 0, err
	}
	var size, skip uint64
	switch code := res.StatusCode; {
	case code == http.StatusOK:
		size, skip = uint64(max(0, res.ContentLength)), rec.Offset
	case code == http.StatusPartialContent && rec.Offset > 0:
		from, _, total, ok := origin.ContentRange(res.Header.Get("Content-Range"))
		if !ok || from != rec.Offset {
			return rec, 0, final("the server answers with another part than it was asked for")
		}
		if total == 0 && rec.Size == 0 { // the end of a part would pass for the end of the file
			return rec, 0, final("the server gives a part and does not say of how much: give --size")
		}
		size = total
	case code == http.StatusRequestedRangeNotSatisfiable && rec.Offset > 0:
		return rec, 0, final(fileChanged)
	case code >= 500, code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests:
		return rec, 0, fmt.Errorf("the server answers %d %s", code, http.StatusText(code))
	default:
		return rec, 0, final(fmt.Sprintf("the server answers %d %s", code, http.StatusText(code)))
	}
	switch {
	case rec.Offset > 0 && etag != rec.ETag, rec.Offset > 0 && size > 0 && rec.Size > 0 && size != rec.Size:
		return rec, 0, final(fileChanged)
	case rec.Asked > 0 && size > 0 && size != rec.Asked:
		return rec, 0, final(fmt.Sprintf("the server has %d octets, %d were declared", size, rec.Asked))
	}
	if size > 0 {
		rec.Size = size
	}
	rec.ETag, rec.Validator = etag, origin.Validator(res.Header)
	return rec, skip, nil
}

const fileChanged = "the file changed at the server while it was read; nothing was kept"

// finalError is why a URL is not tried again by itself.
type finalError struct{ why string }

func (e *finalError) Error() string { return e.why }

func final(why string) error { return &finalError{why} }

// isFinal tells why a URL is not tried again by itself: what mesh/origin refuses does not pass either.
func isFinal(err error) (why string, ok bool) {
	if f, ok := errors.AsType[*finalError](err); ok {
		return f.why, true
	}
	if r, ok := origin.RefusalOf(err); ok {
		return r.Text, true
	}
	return "", false
}
