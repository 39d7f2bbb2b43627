package swarm

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// wire is a line in memory to the handler of another agent, or of a coordinator. It waits on channels and timers only, as a bubble needs.
type wire struct {
	h      http.Handler
	octets int // of chunks that arrive in a second; 0: at once
	// cut, when set, is asked before each part of an answer with chunks: how much of the n octets arrives before the stream breaks off,
	// and whether it does.
	cut  func(n int) (int, bool)
	dead atomic.Bool // nothing comes any more, and no word of it
	down atomic.Bool // it says so
	sent atomic.Int64
}

var errCut = errors.New("broke off")

func (l *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if l.down.Load() {
		return nil, errCut
	}
	if l.dead.Load() {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	ctx, cancel := context.WithCancel(r.Context())
	from, to := io.Pipe()
	w := &answer{l: l, to: to, header: http.Header{}, begun: make(chan int, 1), ctx: ctx, chunks: strings.HasSuffix(r.URL.Path, "/chunks")}
	stop := context.AfterFunc(ctx, func() { _ = to.CloseWithError(ctx.Err()) })
	go func() {
		l.h.ServeHTTP(w, r.WithContext(ctx))
		w.WriteHeader(http.StatusOK)
		stop()
		_ = to.Close()
	}()
	select {
	case code := <-w.begun:
		return &http.Response{StatusCode: code, Status: http.StatusText(code), Body: &answered{from, cancel}}, nil
	case <-ctx.Done():
		cancel()
		return nil, r.Context().Err()
	}
}

type answered struct {
	*io.PipeReader
	cancel func()
}

func (a *answered) Close() error {
	a.cancel()
	return a.PipeReader.Close()
}

type answer struct {
	l      *wire
	to     *io.PipeWriter
	header http.Header
	begun  chan int
	told   bool
	ctx    context.Context
	chunks bool
}

func (a *answer) Header() http.Header              { return a.header }
func (a *answer) Flush()                           {}
func (a *answer) SetWriteDeadline(time.Time) error { return nil }
func (a *answer) WriteHeader(code int) {
	if !a.told {
		a.told = true
		a.begun <- code
	}
}

func (a *answer) Write(b []byte) (done int, err error) {
	a.WriteHeader(http.StatusOK)
	for len(b) > 0 {
		k := len(b)
		if a.l.octets > 0 && a.chunks && len(b) > 100 { // headers take no time
			k = min(k, a.l.octets)
			if !sleep(a.ctx, time.Second) {
				return done, a.ctx.Err()
			}
		}
		if a.l.dead.Load() {
			<-a.ctx.Done()
			return done, a.ctx.Err()
		}
		ends := a.l.down.Load()
		if ends {
			k = 0
		} else if a.chunks && a.l.cut != nil {
			k, ends = a.l.cut(k)
		}
		if a.chunks { // before the reader has them: it may be done with all at once
			a.l.sent.Add(int64(k))
		}
		n, err := a.to.Write(b[:k])
		if a.chunks {
			a.l.sent.Add(int64(n - k))
		}
		b, done = b[n:], done+n
		if err == nil && ends {
			err = errCut
			_ = a.to.CloseWithError(err)
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}
