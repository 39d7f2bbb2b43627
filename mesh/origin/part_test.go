package origin

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// file is what the good servers have, 1,000 octets.
func file() []byte { return bytes.Repeat([]byte("0123456789"), 100) }

const (
	etag    = `"v1"`
	changed = "Sat, 28 Nov 2026 01:02:03 GMT"
)

// good serves the file as a good server does.
func good(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", etag)
	at, _ := http.ParseTime(changed)
	http.ServeContent(w, r, "", at, bytes.NewReader(file()))
}

func local() *Policy { return &Policy{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}} }

// read opens a part of what a handler serves, and reads it to its end.
func read(t *testing.T, h http.HandlerFunc, p Part, within time.Duration) ([]byte, error) {
	t.Helper()
	s := httptest.NewServer(h)
	defer s.Close()
	c := local().Client(Limits{Dial: time.Second, Conns: 1})
	defer c.CloseIdleConnections()
	p.URL = s.URL + "/" + strings.TrimPrefix(p.URL, "/")
	r, err := p.Open(t.Context(), c, within)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestPart(t *testing.T) {
	f := func(name string, h http.HandlerFunc, p Part) {
		t.Helper()
		p.Size = 1000
		b, err := read(t, h, p, 10*time.Second)
		if err != nil || !bytes.Equal(b, file()[p.Off:p.Off+p.N]) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	f("middle", good, Part{Off: 10, N: 25, Validator: etag})
	f("end, by date", good, Part{Off: 990, N: 10, Validator: changed})
	f("without a validator", good, Part{Off: 0, N: 1})
	f("all", good, Part{Off: 0, N: 1000, Validator: etag})
	f("all, of a server without ranges", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(file()) }, Part{Off: 0, N: 1000})
	f("by redirects", func(w http.ResponseWriter, r *http.Request) {
		if n := len(r.URL.Path); n < 6 {
			http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
			return
		}
		good(w, r)
	}, Part{Off: 5, N: 5, Validator: etag})
	f("more than it said is not read", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes 10-34/1000")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(file()[10:20])
		w.(http.Flusher).Flush() // no length is told
		_, _ = w.Write(file()[20:900])
	}, Part{Off: 10, N: 25})
}

// TestPartRefused: servers that lie, or that have something else now.
func TestPartRefused(t *testing.T) {
	f := func(name string, h http.HandlerFunc, why Why) {
		t.Helper()
		b, err := read(t, h, Part{Off: 10, N: 25, Size: 1000, Validator: etag}, 10*time.Second)
		if r, ok := RefusalOf(err); !ok || r.Why != why || len(b) > 0 {
			t.Errorf("%s: %q, %v; want %s", name, b, err, why)
		}
	}
	part := func(contentRange string, headers ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", contentRange)
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(file()[10:35])
		}
	}
	f("200 for 206", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", etag)
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write(file())
	}, NoRanges)
	f("200, and endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(file()); err != nil {
				return
			}
		}
	}, Changed)
	f("another ETag, all of it", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v2"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file()))
	}, Changed)
	f("another ETag, a part all the same", part("bytes 10-34/1000", "ETag", `"v2"`), Changed)
	f("another length", part("bytes 10-34/1001"), Changed)
	f("shorter now", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
	}, Changed)
	f("another part", part("bytes 11-35/1000"), WrongPart)
	f("a longer part", part("bytes 10-35/1000"), WrongPart)
	f("no range", part(""), WrongPart)
	f("ranges in pieces", part("", "Content-Type", "multipart/byteranges; boundary=x"), WrongPart)
	f("another length of the part", part("bytes 10-34/1000", "Content-Length", "24"), WrongPart)
	f("encoded", part("bytes 10-34/1000", "Content-Encoding", "gzip"), Encoded)
	f("gone", http.NotFound, Status)
	f("busy", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, Status)
	f("no content", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, Status)
	f("round and round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) }, Forbidden)
	f("to where only this host is", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
	}, Forbidden)
	f("headers without an end", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", maxHeaders))
	}, Unreachable)
	f("hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, Unreachable)
}

// TestPartUnreached: who does not answer is left in time, and named; who ended it is not.
func TestPartUnreached(t *testing.T) {
	silent := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	_, err := read(t, silent, Part{N: 1, Size: 1000}, 10*time.Millisecond)
	if r, ok := RefusalOf(err); !ok || r.Why != Unreachable || !strings.Contains(r.Text, "in time") {
		t.Errorf("silent: %v", err)
	}
	for _, url := range []string{"http://127.0.0.2:1/", "http://10.1.2.3/x?token=secret", "http://[::ffff:127.0.0.2]/"} {
		_, err = Part{URL: url, N: 1, Size: 1}.Open(t.Context(), local().Client(Limits{Dial: time.Second}), time.Second)
		if r, ok := RefusalOf(err); !ok || r.Why != Forbidden || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", url, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Part{URL: "http://127.0.0.1:1/", N: 1, Size: 1}.Open(ctx, local().Client(Limits{Dial: time.Second}), time.Second)
	if _, ok := RefusalOf(err); ok || err == nil {
		t.Errorf("ended by us: %v", err)
	}
}

// TestOwnDial: where a network is given, its addresses are checked as well.
func TestOwnDial(t *testing.T) {
	dialled := ""
	p := &Policy{
		Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
		Dial: func(_ context.Context, _, address string) (net.Conn, error) {
			dialled += address + " "
			return nil, io.EOF
		},
	}
	for _, host := range []string{"10.0.0.7", "10.0.1.7", "mirror.example"} {
		_, err := Part{URL: "http://" + host + "/", N: 1, Size: 1}.Open(t.Context(), p.Client(Limits{Dial: time.Second}), time.Second)
		if _, ok := RefusalOf(err); !ok {
			t.Errorf("%s: %v", host, err)
		}
	}
	if dialled != "10.0.0.7:80 " {
		t.Errorf("dialled %s", dialled)
	}
}

// TestCertificate: one that is not good by the roots of the system is refused, whatever the octets would be.
func TestCertificate(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(good))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	_, err := Part{URL: s.URL, N: 1, Size: 1000}.Open(t.Context(), local().Client(Limits{Dial: time.Second}), 10*time.Second)
	if r, ok := RefusalOf(err); !ok || r.Why != Unreachable || !strings.Contains(r.Text, "certificate") {
		t.Error(err)
	}
}

func TestValidator(t *testing.T) {
	f := func(want string, headers ...string) {
		t.Helper()
		h := http.Header{}
		for i := 0; i < len(headers); i += 2 {
			h.Set(headers[i], headers[i+1])
		}
		if got := Validator(h); got != want {
			t.Errorf("%v: %q", headers, got)
		}
	}
	f(etag, "ETag", etag, "Last-Modified", changed)
	f(changed, "ETag", `W/"v1"`, "Last-Modified", changed)
	f("", "Last-Modified", "yesterday")
	f("", "ETag", `"`+strings.Repeat("x", MaxValidator)+`"`)
}

// FuzzAnswer: whatever a server says, what is taken is the part that was asked for, of a file of the length that was registered.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"bytes 10-34/1000", "bytes 10-34/*", "bytes */1000", "bytes 34-10/1000", "bytes 10-34/18446744073709551616", "bytes -34/1000"} {
		f.Add(206, s, etag, "", int64(25))
	}
	f.Add(200, "", `W/"v1"`, "gzip", int64(-1))
	f.Fuzz(func(t *testing.T, code int, contentRange, tag, encoding string, length int64) {
		h := http.Header{"Content-Range": {contentRange}, "Etag": {tag}, "Content-Encoding": {encoding}}
		err := Part{Off: 10, N: 25, Size: 1000, Validator: etag}.answer(code, h, length)
		if err == nil {
			from, to, total, ok := ContentRange(contentRange)
			if code != 206 || !ok || from != 10 || to != 34 || total != 0 && total != 1000 || encoding != "" && encoding != "identity" || length >= 0 && length != 25 {
				t.Errorf("taken: %d %q %q %q %d", code, contentRange, tag, encoding, length)
			}
			return
		}
		if r, ok := RefusalOf(err); !ok || len(fmt.Sprint(r)) > 300 {
			t.Errorf("no refusal: %v", err)
		}
	})
}
