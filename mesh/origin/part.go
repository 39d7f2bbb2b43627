package origin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Part is a part of a file at a URL.
type Part struct {
	URL string
	// Validator is the strong ETag or the Last-Modified that the file had when it was registered; empty: it had none.
	Validator string
	Size      uint64 // octets of the whole file
	Off, N    int64  // the part: N octets, at least 1, from Off on; Off+N is at most Size
}

// Open asks for the part, and returns its octets, not verified and never more than N; fewer where the server breaks off. The first must
// be answered within a time, redirects and all. ctx bounds all reading. The caller closes it. Errors: *Refusal; ctx's.
// Source: RFC 9110, sections 13.1.5 (If-Range), 14.2 (Range), 15.3.7 (206).
func (p Part) Open(ctx context.Context, c *http.Client, within time.Duration) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	t := time.AfterFunc(within, func() { cancel(errLate) })
	res, err := p.ask(ctx, c)
	if err == nil && !t.Stop() {
		err = errors.Join(errLate, res.Body.Close())
	}
	if err != nil {
		t.Stop()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, unreachable(err)
	}
	if err := p.answer(res.StatusCode, res.Header, res.ContentLength); err != nil {
		cancel(nil) // what it sends is not read
		return nil, errors.Join(err, res.Body.Close())
	}
	return &body{io.LimitReader(res.Body, p.N), res.Body, cancel}, nil
}

var errLate = errors.New("the server does not answer in time")

// unreachable names an error of a request. It says nothing of the URL.
func unreachable(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if _, ok := RefusalOf(err); ok || errors.Is(err, context.Canceled) {
		return err
	}
	return refuse(Unreachable, "the server is not reached: %s", cause(err))
}

// cause says what is known to be no part of what a server sent: a redirect's address may bear a secret.
func cause(err error) string {
	if errors.Is(err, errLate) || errors.Is(err, context.DeadlineExceeded) {
		return err.Error()
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return err.Error()
	}
	for _, known := range []func(error) bool{
		is[*tls.CertificateVerificationError], is[x509.UnknownAuthorityError], is[x509.HostnameError], is[x509.CertificateInvalidError], is[tls.RecordHeaderError],
	} {
		if known(err) {
			return err.Error()
		}
	}
	return "what it answers is no HTTP, or it closed the connection"
}

// is tells whether err is, or wraps, a T.
func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

func (p Part) ask(ctx context.Context, c *http.Client) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return nil, refuse(Forbidden, "the URL is not readable")
	}
	req.Header.Set("User-Agent", "skerry")
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", p.Off, p.Off+p.N-1))
	if p.Validator != "" {
		req.Header.Set("If-Range", p.Validator)
	}
	return c.Do(req)
}

// answer checks that what comes is the part, of the file that was registered. length is what the server says of its body, -1: nothing.
func (p Part) answer(code int, h http.Header, length int64) error {
	if err := Plain(h); err != nil {
		return err
	}
	whole := p.Off == 0 && uint64(p.N) == p.Size
	etag := StrongETag(h)
	changed := etag != "" && strings.HasPrefix(p.Validator, `"`) && etag != p.Validator
	switch {
	case code == http.StatusRequestedRangeNotSatisfiable, code == http.StatusPreconditionFailed, changed && code < 300:
		return refuse(Changed, "it has another file now than was registered")
	case code == http.StatusOK && whole && length == p.N:
		return nil
	case code == http.StatusOK && p.Validator != "" && uint64(max(length, 0)) != p.Size:
		return refuse(Changed, "it has a file of another length than was registered")
	case code == http.StatusOK:
		return refuse(NoRanges, "it sends all where a part was asked for")
	case code != http.StatusPartialContent:
		return refuse(Status, "the server answers %d %s", code, http.StatusText(code))
	}
	from, to, total, ok := ContentRange(h.Get("Content-Range"))
	switch {
	case ok && total != 0 && total != p.Size:
		return refuse(Changed, "it has a file of another length than was registered")
	case !ok, from != uint64(p.Off), to != uint64(p.Off+p.N-1), length >= 0 && length != p.N:
		return refuse(WrongPart, "it answers with another part than it was asked for")
	}
	return nil
}

// body is a part on its way.
type body struct {
	io.Reader
	c      io.Closer
	cancel context.CancelCauseFunc
}

// Close ends the request: what the server sends beyond the part is not read.
func (b *body) Close() error {
	err := b.c.Close()
	b.cancel(nil)
	return err
}

// StrongETag returns the strong entity tag of an answer; empty where it has none, or a weak one: the same meaning is not the same octets.
// Source: RFC 9110, section 8.8.3.
func StrongETag(h http.Header) string {
	if etag := h.Get("ETag"); strings.HasPrefix(etag, `"`) {
		return etag
	}
	return ""
}

// MaxValidator bounds a validator, in octets.
const MaxValidator = 256

// Validator returns what a later request for a part of the same file may be tied to: the strong ETag, else the date of the last change;
// empty where an answer has neither, or one of more than MaxValidator octets.
func Validator(h http.Header) string {
	v := StrongETag(h)
	if v == "" {
		v = h.Get("Last-Modified")
		if _, err := http.ParseTime(v); err != nil {
			return ""
		}
	}
	if len(v) > MaxValidator {
		return ""
	}
	return v
}

// Plain refuses an answer whose octets are not the file's.
func Plain(h http.Header) error {
	if e := h.Get("Content-Encoding"); e != "" && e != "identity" {
		return refuse(Encoded, "the server sends it encoded (%s), though it was asked not to", strconv.Quote(e[:min(len(e), 32)]))
	}
	return nil
}

// ContentRange reads "bytes FROM-TO/TOTAL"; a TOTAL of * is 0. Source: RFC 9110, section 14.4.
func ContentRange(h string) (from, to, total uint64, ok bool) {
	span, all, ok := strings.Cut(strings.TrimPrefix(h, "bytes "), "/")
	if !ok || !strings.HasPrefix(h, "bytes ") {
		return 0, 0, 0, false
	}
	a, b, ok := strings.Cut(span, "-")
	from, err1 := strconv.ParseUint(a, 10, 63)
	to, err2 := strconv.ParseUint(b, 10, 63)
	if all != "*" {
		var err error
		if total, err = strconv.ParseUint(all, 10, 63); err != nil || to >= total {
			return 0, 0, 0, false
		}
	}
	return from, to, total, ok && err1 == nil && err2 == nil && from <= to
}
