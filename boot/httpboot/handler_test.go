package httpboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// scripter and opener are fakes of func fields.
type scripter struct {
	f func(ScriptRequest) (string, string, error)
}

func (s *scripter) Script(_ context.Context, r ScriptRequest) (string, string, error) { return s.f(r) }

type opener struct {
	f func(intent.Digest) (io.ReadSeekCloser, error)
}

func (o *opener) Open(_ context.Context, d intent.Digest) (io.ReadSeekCloser, error) { return o.f(d) }

type loaders struct{}

func (loaders) Open(name string) (io.ReadSeekCloser, error) {
	if name == "snponly.efi" {
		return seeker{bytes.NewReader([]byte("loader"))}, nil
	}
	return nil, os.ErrNotExist
}

type seeker struct{ io.ReadSeeker }

func (seeker) Close() error { return nil }

// failing ends with an error after n octets, as a damaged chunk does.
type failing struct {
	*bytes.Reader
	n int64
}

func (f failing) Close() error { return nil }

func (f failing) Read(b []byte) (int, error) {
	at := f.Size() - int64(f.Len())
	if at >= f.n {
		return 0, errors.New("stored chunk damaged")
	}
	return f.Reader.Read(b[:min(int64(len(b)), f.n-at)])
}

var content = bytes.Repeat([]byte("0123456789"), 300_000)

func id(s string) intent.Digest { return intent.DigestOf([]byte(s)) }

type bench struct {
	url  string
	seen chan Served
}

func newBench(t *testing.T) *bench {
	b := &bench{seen: make(chan Served, 64)}
	file := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Logger: slog.New(slog.DiscardHandler), Loaders: loaders{}, Seen: func(s Served) { b.seen <- s },
		Scripts: &scripter{func(r ScriptRequest) (string, string, error) {
			if r.MAC == "52-54-00-00-00-09" {
				return "", "", errors.New("no view")
			}
			return "#!ipxe\necho " + r.MAC + "\n", "d1", nil
		}},
		Assets: &opener{func(d intent.Digest) (io.ReadSeekCloser, error) {
			switch d {
			case id("file"):
				return os.Open(file)
			case id("failing"):
				return failing{bytes.NewReader(content), 1_500_000}, nil
			case id("late"):
				return failing{bytes.NewReader(content), 0}, nil
			case id("endless"):
				return seeker{io.NewSectionReader(zeros{}, 0, 1<<40)}, nil
			case id("relayed"):
				return seeker{bytes.NewReader(content)}, nil
			case id("pending"):
				return nil, fmt.Errorf("x: %w", ErrPending)
			case id("broken"):
				return nil, errors.New("I/O error")
			}
			return nil, fmt.Errorf("x: %w", ErrAbsent)
		}},
		NoCloud: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "nocloud ", r.Method, " ", r.URL.Path) }),
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, NewHandler(cfg), cfg.Seen, cfg.Logger) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t)
	})
	b.url = "http://" + ln.Addr().String()
	return b
}

func (b *bench) do(t *testing.T, method, path string, header ...string) (*http.Response, []byte, error) {
	t.Helper()
	r, err := http.NewRequest(method, b.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

func TestPaths(t *testing.T) {
	b := newBench(t)
	f := func(method, path string, status int, body string) {
		t.Helper()
		r, got, err := b.do(t, method, path)
		if err != nil || r.StatusCode != status || !strings.Contains(string(got), body) {
			t.Fatalf("%s %s: %v %q, want %d %q (%v)", method, path, r.StatusCode, got, status, body, err)
		}
		if (status == 503) != (r.Header.Get("Retry-After") != "") {
			t.Fatalf("%s: Retry-After %q", path, r.Header.Get("Retry-After"))
		}
	}
	f("GET", "/boot/52-54-00-00-00-01/auto.ipxe", 200, "#!ipxe\necho 52-54-00-00-00-01\n")
	f("GET", "/boot/52-54-00-AA-00-01/auto.ipxe", 200, "52-54-00-aa-00-01")
	f("GET", "/boot/52-54-00-00-00-09/auto.ipxe", 503, "no script yet")
	f("GET", "/boot/52:54:00:00:00:01/auto.ipxe", 404, "")
	f("GET", "/boot/52-54-00-00-00-01/other", 404, "")
	f("POST", "/boot/52-54-00-00-00-01/auto.ipxe", 405, "")
	f("GET", "/loaders/snponly.efi", 200, "loader")
	f("GET", "/loaders/secret", 404, "")
	f("GET", "/loaders/..%2f..%2fetc%2fpasswd", 404, "")
	f("GET", "/assets/"+id("absent").Hex()+"/kernel", 404, "")
	f("GET", "/assets/"+id("pending").Hex()+"/kernel", 503, "not complete")
	f("GET", "/assets/"+id("broken").Hex()+"/kernel", 500, "cannot open asset")
	f("GET", "/assets/"+id("file").String()+"/kernel", 404, "")
	f("GET", "/assets/"+id("file").Hex(), 404, "")
	f("GET", "/assets/zz/kernel", 404, "")
	f("GET", "/nocloud/T/meta-data", 200, "nocloud GET /T/meta-data")
	f("POST", "/nocloud/T/phone-home", 200, "nocloud POST /T/phone-home")
	f("GET", "/", 404, "")
}

func TestAsset(t *testing.T) {
	b := newBench(t)
	path := "/assets/" + id("file").Hex() + "/image"
	f := func(method string, status int, want []byte, header ...string) *http.Response {
		t.Helper()
		r, got, err := b.do(t, method, path, header...)
		if err != nil || r.StatusCode != status || !bytes.Equal(got, want) {
			t.Fatalf("%s %v: %d, %d octets, %v", method, header, r.StatusCode, len(got), err)
		}
		return r
	}
	r := f("GET", 200, content)
	etag := `"sha256-` + id("file").Hex() + `"`
	if r.Header.Get("ETag") != etag || r.ContentLength != int64(len(content)) {
		t.Fatalf("headers %v", r.Header)
	}
	f("HEAD", 200, nil)
	f("GET", 206, content[1<<20:2<<20], "Range", "bytes=1048576-2097151", "If-Range", etag)
	f("GET", 200, content, "Range", "bytes=0-9", "If-Range", `"other"`)
	f("GET", 206, content[len(content)-5:], "Range", "bytes=-5")
	f("GET", 304, nil, "If-None-Match", etag)
}

// TestNoShort200: docker-netbootxyz#100. A source that fails in the middle must not look like a whole answer.
func TestNoShort200(t *testing.T) {
	b := newBench(t)
	for _, header := range [][]string{nil, {"Range", "bytes=1000000-1999999"}} {
		_, got, err := b.do(t, "GET", "/assets/"+id("failing").Hex()+"/image", header...)
		if err == nil {
			t.Fatalf("%d octets and no error", len(got))
		}
	}
	if _, _, err := b.do(t, "GET", "/assets/"+id("file").Hex()+"/image"); err != nil {
		t.Fatalf("the server did not live on: %v", err)
	}
}

// TestNothingInTime: a source that fails before the first octet was sent is no broken answer but one that comes later, and is not a promise of
// octets either.
func TestNothingInTime(t *testing.T) {
	b := newBench(t)
	for _, header := range [][]string{nil, {"Range", "bytes=1000000-1999999"}} {
		r, got, err := b.do(t, "GET", "/assets/"+id("late").Hex()+"/image", header...)
		if err != nil || r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" || r.Header.Get("ETag") != "" || !strings.Contains(string(got), "not here yet") {
			t.Errorf("%v: %v, %v, %q", header, r, err, got)
		}
	}
	f := func(method string, status, octets int, header ...string) {
		t.Helper()
		r, got, err := b.do(t, method, "/assets/"+id("relayed").Hex()+"/image", header...)
		if err != nil || r.StatusCode != status || len(got) != octets {
			t.Errorf("%s %v: %d octets, %v, %v", method, header, len(got), r, err)
		}
	}
	f("GET", 200, len(content))
	f("GET", 206, 7, "Range", "bytes=5-11")
	f("GET", 304, 0, "If-None-Match", `"sha256-`+id("relayed").Hex()+`"`)
	f("HEAD", 200, 0)
	f("GET", 416, len("one range at a time\n"), "Range", "bytes=0-1,5-6")
	if r, _, err := b.do(t, "GET", "/assets/"+id("relayed").Hex()+"/image", "Range", "bytes=9999999-"); err != nil || r.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("%v, %v", r, err)
	}
}

// zeros has as many of them as anybody likes to read.
type zeros struct{}

func (zeros) ReadAt(b []byte, _ int64) (int, error) { return len(b), nil }

// TestSlowReaders: one client that does not take what it asks for holds a bounded number of chunks in memory; of what is a file it may ask as
// often as it likes, and when it goes others can read.
func TestSlowReaders(t *testing.T) {
	b := newBench(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(name string) *http.Response {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/assets/"+id(name).Hex()+"/image", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	for range readersEach {
		if res := ask("endless"); res.StatusCode != http.StatusOK {
			t.Fatal(res.Status)
		}
	}
	for range 3 {
		if res := ask("endless"); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || res.Header.Get("ETag") != "" {
			t.Errorf("%s %v", res.Status, res.Header)
		}
		<-b.seen
	}
	if res := ask("file"); res.StatusCode != http.StatusOK {
		t.Error(res.Status)
	}
	stop()
	for range readersEach + 1 {
		<-b.seen
	}
	if res, got, err := b.do(t, http.MethodGet, "/assets/"+id("relayed").Hex()+"/image"); err != nil || res.StatusCode != http.StatusOK || !bytes.Equal(got, content) {
		t.Errorf("%d octets, %v", len(got), err)
	}
}

// TestSeen: what is reported, and that no token is in it.
func TestSeen(t *testing.T) {
	b := newBench(t)
	for _, p := range []string{"/nocloud/SECRET/meta-data", "/boot/52-54-00-00-00-01/auto.ipxe", "/assets/" + id("file").Hex() + "/k", "/x/SECRET"} {
		if _, _, err := b.do(t, "GET", p); err != nil {
			t.Fatal(err)
		}
	}
	lo := netip.MustParseAddr("127.0.0.1")
	want := []Served{{"nocloud", lo, "", 200, 29}, {"script", lo, "52-54-00-00-00-01", 200, 30}, {"asset", lo, id("file").Hex(), 200, 3_000_000}, {"other", lo, "", 404, 13}}
	var got []Served
	for range want {
		got = append(got, <-b.seen)
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Fatal(d)
	}
}

// TestMalformedIsSeen: what never becomes a request is refused by net/http before a handler hears of it; it is counted all the same,
// a good request and a port scan are not.
func TestMalformedIsSeen(t *testing.T) {
	b := newBench(t)
	send := func(what string) {
		t.Helper()
		c, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, what); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Fatal(err)
		}
	}
	send("")
	for _, garbage := range []string{"\x16\x03\x01\x02\x00", "GET /\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "GET / HT"} {
		send(garbage)
		if got := <-b.seen; got.What != "malformed" || got.Status != 400 || got.Remote != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("%q is seen as %+v", garbage, got)
		}
	}
	send("GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
	if got := <-b.seen; got.What != "other" {
		t.Errorf("a good request is seen as %+v", got)
	}
}

func FuzzHandler(f *testing.F) {
	for _, p := range []string{"/boot/52-54-00-00-00-01/auto.ipxe", "/assets/" + id("file").Hex() + "/k", "/loaders/x", "/nocloud/a/b", "//", "/boot//"} {
		f.Add("GET", p)
	}
	h := NewHandler(Config{
		Logger: slog.New(slog.DiscardHandler), Loaders: loaders{},
		Scripts: &scripter{func(ScriptRequest) (string, string, error) { return "x", "", nil }},
		Assets:  &opener{func(intent.Digest) (io.ReadSeekCloser, error) { return nil, ErrAbsent }},
	})
	f.Fuzz(func(t *testing.T, method, path string) {
		r, err := http.NewRequest(method, "http://x"+path, nil)
		if err != nil {
			return
		}
		h.ServeHTTP(&discard{h: http.Header{}}, r)
	})
}

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}
