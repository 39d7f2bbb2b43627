package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/transport"
)

// hedge is how long a session may take to answer a read before another agent of the site is asked too: one that died without a word
// keeps its session for up to a minute.
const hedge = time.Second

// RoundTripper returns HTTP to an agent of a site over its session, preferably to agent (empty: any): over the newest of
// that agent, over the oldest of any, which is not one of a visit. A read
// that fails, or is not answered soon, goes over the other sessions too, and the first answer counts. Errors: ErrDown, at once,
// without a session.
func (s *Server) RoundTripper(site, agent string) http.RoundTripper {
	return tripperFunc(func(r *http.Request) (*http.Response, error) {
		cs := s.candidates(site, agent)
		switch {
		case len(cs) == 0:
			return nil, fmt.Errorf("cannot reach site %s: %w", site, ErrDown)
		case len(cs) == 1, r.Method != http.MethodGet, r.Body != nil && r.Body != http.NoBody:
			return cs[0].RoundTripper().RoundTrip(r)
		}
		return firstOf(cs, r)
	})
}

// candidates returns the sessions to ask, best first: those of agent if there are any, else of everybody.
func (s *Server) candidates(site, agent string) (cs []*transport.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var own, all []*session
	for x := range s.sites[site] {
		all = append(all, x)
		if x.hello.Agent == agent {
			own = append(own, x)
		}
	}
	slices.SortFunc(all, func(a, b *session) int { return a.since.Compare(b.since) })
	if len(own) > 0 {
		slices.SortFunc(own, func(a, b *session) int { return b.since.Compare(a.since) })
		all = own
	}
	for _, x := range all {
		cs = append(cs, x.conn)
	}
	return cs
}

// answer is what one of several questions came to.
type answer struct {
	i   int
	res *http.Response
	err error
}

// firstOf asks one session after the other, the next when one failed or was silent for hedge, and returns the first answer.
func firstOf(cs []*transport.Conn, r *http.Request) (*http.Response, error) {
	answers := make(chan answer, len(cs)) // who answers too late waits for nobody
	cancels := make([]context.CancelFunc, 0, len(cs))
	ask := func() {
		i := len(cancels)
		ctx, cancel := context.WithCancel(r.Context())
		cancels = append(cancels, cancel)
		go func() {
			res, err := cs[i].RoundTripper().RoundTrip(r.Clone(ctx))
			answers <- answer{i, res, err}
		}()
	}
	late := time.NewTimer(hedge)
	defer late.Stop()
	ask()
	var errs []error
	for {
		select {
		case <-late.C:
			if len(cancels) < len(cs) {
				ask()
				late.Reset(hedge)
			}
		case a := <-answers:
			if a.err == nil {
				for i, cancel := range cancels {
					if i != a.i {
						cancel()
					}
				}
				go forget(answers, len(cancels)-1-len(errs))
				a.res.Body = &ending{a.res.Body, cancels[a.i]}
				return a.res, nil
			}
			cancels[a.i]()
			errs = append(errs, a.err)
			switch {
			case len(cancels) < len(cs) && r.Context().Err() == nil:
				ask()
				late.Reset(hedge)
			case len(errs) == len(cancels):
				return nil, errors.Join(errs...)
			}
		}
	}
}

// forget closes the answers that came too late.
func forget(answers <-chan answer, n int) {
	for range n {
		if a := <-answers; a.err == nil {
			_ = a.res.Body.Close() // nobody reads it
		}
	}
}

// ending is a body that ends its request with it.
type ending struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close closes the body and ends the request.
func (e *ending) Close() error {
	defer e.cancel()
	return e.ReadCloser.Close()
}
