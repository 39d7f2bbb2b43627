package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/origin"
)

// mirror is a web server whose answers a test writes; it keeps what it was asked.
type mirror struct {
	*httptest.Server
	asked []string // Range and If-Range of each request
}

func newOrigin(t *testing.T, answer func(w http.ResponseWriter, r *http.Request)) *mirror {
	o := &mirror{}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.asked = append(o.asked, r.Header.Get("Range")+" "+r.Header.Get("If-Range"))
		answer(w, r)
	}))
	t.Cleanup(o.Close)
	return o
}

// file serves b as a good server does; the first requests break off after cut octets each.
func file(b []byte, etag string, cuts int, cut int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", etag)
		if cuts--; cuts >= 0 {
			w = &cutter{w, cut}
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(b)))
	}
}

// cutter breaks the connection off after left octets.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) > c.left {
		if _, err := c.ResponseWriter.Write(b[:c.left]); err != nil {
			return 0, err
		}
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

// step reads the URL that is due, once; its clock goes on to when one is.
func (s *shop) step(id string) *assets.Upload {
	s.Helper()
	x, wait := s.r.due()
	if x == nil {
		s.now = s.now.Add(wait)
		x, _ = s.r.due()
	}
	if x == nil || x.ID != id {
		s.Fatalf("not due: %+v", s.r.List())
	}
	s.r.read(s.Context(), x)
	u, err := s.r.Get(id)
	if err != nil {
		s.Fatal(err)
	}
	return u
}

func (s *shop) register(url string) *assets.Upload {
	s.Helper()
	return s.begin(assets.UploadRequest{Name: "remote", Class: "image", URL: url})
}

// A line that breaks again and again, and a coordinator that is killed in between: each octet is read once.
func TestURLResumes(t *testing.T) {
	s := newShop(t)
	want := random(11, 3<<20)
	o := newOrigin(t, file(want, `"v1"`, 2, 1<<20))
	u := s.register(o.URL)
	for i := range 2 {
		if u = s.step(u.ID); u.State != assets.Fetching || u.Offset != uint64(i+1)<<20 || u.Size != 3<<20 || !strings.Contains(u.Why, "EOF") {
			t.Fatalf("cut off: %+v", u)
		}
		s.crash()
		s.open()
	}
	if again := s.register(o.URL); again.ID != u.ID || again.Offset != u.Offset {
		t.Errorf("registered again: %+v", again)
	}
	if u = s.step(u.ID); u.State != assets.Whole || u.Why != "" {
		t.Fatalf("at the end: %+v", u)
	}
	if err := s.publish(u.ID); err != nil {
		t.Fatal(err)
	}
	s.holds("remote", want)
	if got := strings.Join(o.asked, ", "); got != ` , bytes=1048576- "v1", bytes=2097152- "v1"` {
		t.Errorf("asked for %s", got)
	}
}

// What may follow a broken connection: each row is what the second request is answered.
func TestURLSecondAnswer(t *testing.T) {
	want := random(12, 100_000)
	f := func(name, etag string, second http.HandlerFunc, state, why string) {
		t.Helper()
		s := newShop(t)
		first := file(want, etag, 1, 60_000)
		n := 0
		o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			if n++; n == 1 {
				first(w, r)
				return
			}
			second(w, r)
		})
		u := s.register(o.URL)
		if u = s.step(u.ID); u.Offset != 60_000 {
			t.Fatalf("%s: first: %+v", name, u)
		}
		u = s.step(u.ID)
		if u.State != state || !strings.Contains(u.Why, why) {
			t.Errorf("%s: %+v, want %s because %q", name, u, state, why)
		}
		if u.State == assets.Whole {
			if err := s.publish(u.ID); err != nil {
				t.Fatal(err)
			}
			s.holds("remote", want)
			return
		}
		s.refused(s.publish(u.ID), "refused", "octets")
		if u.State == assets.Failed && u.Offset != 0 {
			t.Errorf("%s: %d octets are kept that nobody can use", name, u.Offset)
		}
	}
	part := func(etag, span string, b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", etag)
			w.Header().Set("Content-Range", span)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(b)
		}
	}
	whole := func(etag string, b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", etag)
			w.Header().Set("Content-Length", strconv.Itoa(len(b)))
			_, _ = w.Write(b)
		}
	}
	f("the rest", `"v1"`, part(`"v1"`, "bytes 60000-99999/100000", want[60_000:]), assets.Whole, "")
	f("200 for 206: read from 0", `"v1"`, whole(`"v1"`, want), assets.Whole, "")
	f("a weak validator: read from 0", `W/"v1"`, file(want, `W/"v1"`, 0, 0), assets.Whole, "")
	f("no validator: read from 0", "", file(want, "", 0, 0), assets.Whole, "")
	f("the rest of a length that is known", `"v1"`, part(`"v1"`, "bytes 60000-99999/*", want[60_000:]), assets.Whole, "")
	f("a part of the rest", `"v1"`, part(`"v1"`, "bytes 60000-60009/100000", want[60_000:60_010]), assets.Fetching, "a part of what it was asked for")
	f("another file", `"v1"`, whole(`"v2"`, want), assets.Failed, "changed at the server")
	f("another file, in part", `"v1"`, part(`"v2"`, "bytes 60000-99999/100000", want[60_000:]), assets.Failed, "changed at the server")
	f("another length", `"v1"`, whole(`"v1"`, want[:99_999]), assets.Failed, "changed at the server")
	f("another part", `"v1"`, part(`"v1"`, "bytes 0-99999/100000", want), assets.Failed, "another part")
	f("no range", `"v1"`, part(`"v1"`, "", want[60_000:]), assets.Failed, "another part")
	f("shorter now", `"v1"`, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) }, assets.Failed, "changed at the server")
	f("gone", `"v1"`, http.NotFound, assets.Failed, "404 Not Found")
	f("busy", `"v1"`, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, assets.Fetching, "503 Service Unavailable")
	f("more than the rest", `"v1"`, part(`"v1"`, "bytes 60000-99999/100000", append(want[60_000:len(want):len(want)], 'x')), assets.Failed, "more than 100000 octets")
}

// A server that never says how long the file is, and gives less than the rest of it: half a file is no asset.
func TestURLUnknownLength(t *testing.T) {
	want := random(15, 100_000)
	f := func(size uint64, state, why string) {
		t.Helper()
		s := newShop(t)
		o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"v1"`)
			if r.Header.Get("Range") == "" {
				_, _ = w.Write(want[:60_000])
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Content-Range", "bytes 60000-60009/*")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want[60_000:60_010])
		})
		u := s.begin(assets.UploadRequest{Name: "remote", Class: "image", URL: o.URL, Size: size})
		if u = s.step(u.ID); u.Offset != 60_000 {
			t.Fatalf("first: %+v", u)
		}
		if u = s.step(u.ID); u.State != state || !strings.Contains(u.Why, why) {
			t.Errorf("%+v, want %s because %q", u, state, why)
		}
	}
	f(0, assets.Failed, "does not say of how much")
	f(100_000, assets.Fetching, "a part of what it was asked for")
}

// Bad servers: each is refused with its reason, and nothing is kept.
func TestURLRefused(t *testing.T) {
	f := func(why string, answer http.HandlerFunc, change func(*assets.UploadRequest)) {
		t.Helper()
		s := newShop(t)
		o := newOrigin(t, answer)
		q := assets.UploadRequest{Name: "remote", Class: "image", URL: o.URL + "/x"}
		if change != nil {
			change(&q)
		}
		u := s.begin(q)
		if u = s.step(u.ID); u.State != assets.Failed || !strings.Contains(u.Why, why) || u.Offset != 0 {
			t.Errorf("%+v, want failed because %q", u, why)
		}
		if len(s.blobs.List()) != 0 {
			t.Errorf("%s: something is kept", why)
		}
		if again := s.begin(q); again.ID != u.ID || again.State != assets.Fetching {
			t.Errorf("%s: asked for again it is %+v", why, again)
		}
	}
	forever := func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}
	size := func(n uint64) func(*assets.UploadRequest) { return func(q *assets.UploadRequest) { q.Size = n } }
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
		}
	}
	f("more than 8388608 octets", forever, nil)
	f("more than 100 octets", forever, size(100))
	f("more than 8388608: give --size", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "8388609") }, nil)
	f("has 5 octets, 6 were declared", file([]byte("12345"), "", 0, 0), size(6))
	f("ended after 5 octets, 6 were declared", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("12345"))
		_ = http.NewResponseController(w).Flush() // no length
	}, size(6))
	f("0 octets", func(http.ResponseWriter, *http.Request) {}, nil)
	f("403 Forbidden", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, nil)
	f("206 Partial Content", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusPartialContent) }, nil)
	f(`encoded ("gzip")`, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Encoding", "gzip") }, nil)
	f("more than 5 redirects", redirect("/again"), nil)
	f("127.0.0.2 is no address of the internet", redirect("http://127.0.0.2:1/"), nil)
	f("169.254.169.254 is no address", redirect("http://169.254.169.254/latest/meta-data"), nil)
	f("::1 is no address of the internet", redirect("http://[::1]:1/"), nil)
	f("http:// or https://", redirect("file:///etc/shadow"), nil)
	f("http:// or https://", redirect("gopher://127.0.0.1/"), nil)
	f("a password in it", redirect("http://a:b@127.0.0.1/"), nil)
}

func TestURLRedirects(t *testing.T) {
	s := newShop(t)
	want := random(13, 1000)
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if n < 5 {
			http.Redirect(w, r, fmt.Sprint("/", n+1), http.StatusFound)
			return
		}
		file(want, `"v"`, 0, 0)(w, r)
	})
	u := s.register(o.URL + "/0")
	if u = s.step(u.ID); u.State != assets.Whole {
		t.Errorf("5 redirects: %+v", u)
	}
}

// A digest that was given is what decides, whatever the server says.
func TestURLDigest(t *testing.T) {
	s := newShop(t)
	want := random(14, 1000)
	o := newOrigin(t, file(want, `"v"`, 0, 0))
	u := s.begin(assets.UploadRequest{Name: "remote", Class: "image", URL: o.URL, Digest: intent.DigestOf([]byte("another"))})
	if u = s.step(u.ID); u.State != assets.Whole {
		t.Fatalf("%+v", u)
	}
	s.refused(s.publish(u.ID), "wrong-digest", intent.DigestOf(want).String())
	u = s.begin(assets.UploadRequest{Name: "remote", Class: "image", URL: o.URL, Digest: intent.DigestOf(want)})
	if err := errors.Join(func() error { s.step(u.ID); return nil }(), s.publish(u.ID)); err != nil {
		t.Fatal(err)
	}
	s.holds("remote", want)
	if u = s.begin(assets.UploadRequest{Name: "more", Class: "image", URL: o.URL, Digest: intent.DigestOf(want)}); u.State != assets.Whole || len(o.asked) != 2 {
		t.Errorf("octets that are here are read again: %+v", u)
	}
}

// A server that is away is tried 8 times and no more; who registers again tries again.
func TestURLAway(t *testing.T) {
	s := newShop(t)
	o := newOrigin(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	u := s.register(o.URL)
	for u.State == assets.Fetching && len(o.asked) < 20 {
		u = s.step(u.ID)
	}
	if u.State != assets.Failed || len(o.asked) != maxTries {
		t.Errorf("after %d: %+v", len(o.asked), u)
	}
	if u = s.register(o.URL); u.State != assets.Fetching || u.Why != "" {
		t.Errorf("registered again: %+v", u)
	}
}

type tripper func(*http.Request) *http.Response

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

// Servers that send an octet now and then do not keep the others out, and are given up as those that send none.
func TestURLDrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.r.cfg.Now = time.Now
		s.r.client = &http.Client{Transport: tripper(func(q *http.Request) *http.Response {
			var b io.Reader = strings.NewReader("an image")
			if q.URL.Path != "/good" {
				b = readerFunc(func(p []byte) (int, error) {
					select {
					case <-q.Context().Done():
						return 0, context.Cause(q.Context())
					case <-time.After(50 * time.Second):
						return copy(p, "x"), nil
					}
				})
			}
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(b), ContentLength: -1, Request: q}
		})}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.r.Run(ctx) }()
		var ids []string
		for _, name := range []string{"slow1", "slow2", "good"} {
			u := s.begin(assets.UploadRequest{Name: name, Class: "image", URL: "http://127.0.0.1/" + name})
			ids = append(ids, u.ID)
			synctest.Wait()
		}
		stands := func(i int, state, why string) {
			t.Helper()
			if u, err := s.r.Get(ids[i]); err != nil || u.State != state || !strings.Contains(u.Why, why) {
				t.Errorf("%+v, %v; want %s because %q", u, err, state, why)
			}
		}
		stands(2, assets.Fetching, "")
		time.Sleep(dripFor + sourceIdle)
		stands(2, assets.Whole, "")
		stands(0, assets.Fetching, "less than 64 KiB in 10 minutes")
		time.Sleep(maxTries * (dripFor + 2*maxRest))
		stands(0, assets.Failed, "less than 64 KiB in 10 minutes")
		stands(1, assets.Failed, "less than 64 KiB in 10 minutes")
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Run reads what is due; a drop ends the reading of a server that says nothing, and the end of Run leaves what came on disk.
func TestRun(t *testing.T) {
	s := newShop(t)
	reading := make(chan struct{}, 2)
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v"`)
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write(make([]byte, 600))
		_ = http.NewResponseController(w).Flush()
		reading <- struct{}{}
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.r.Run(ctx) }()
	u := s.register(o.URL + "/1")
	<-reading
	_, err := s.r.Append(t.Context(), u.ID, 0, bodyOf(strings.NewReader("x")))
	s.refused(err, "refused", "from its URL")
	if _, err := s.r.Drop(t.Context(), u.ID); err != nil {
		t.Fatal(err)
	}
	s.register(o.URL + "/2")
	<-reading
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s.crash()
	s.open()
	if l := s.r.List().Items; len(l) != 1 || !strings.HasSuffix(l[0].URL, "/2") || l[0].State != assets.Fetching {
		t.Errorf("after the end: %+v", l)
	}
}

func FuzzContentRange(f *testing.F) {
	for _, h := range []string{"bytes 0-9/10", "bytes 5-9/*", "bytes */10", "bytes 9-0/10", "bytes 0-10/10", "bytes 18446744073709551615-0/1"} {
		f.Add(h)
	}
	f.Fuzz(func(t *testing.T, h string) {
		from, _, total, ok := origin.ContentRange(h)
		if ok && total > 0 && from >= total {
			t.Fatalf("%q begins at %d of %d", h, from, total)
		}
		res := &http.Response{StatusCode: http.StatusPartialContent, Header: http.Header{"Content-Range": {h}, "Etag": {`"v"`}}, Body: io.NopCloser(nil)}
		if rec, skip, err := answer(record{Offset: 5, Size: 10, ETag: `"v"`}, res); err == nil && (rec.Offset+skip != 5 || rec.Size != 10) {
			t.Fatalf("%q is taken: %+v", h, rec)
		}
	})
}
