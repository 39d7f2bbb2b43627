package fault

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/origin"
	"github.com/skerry-metal/skerry/siteagent/holdings"
)

// mirrors are the networks that URLs in a world may lead to.
func mirrors() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("10.0.50.0/24")} }

// mirror is a web server in a world.
type mirror struct {
	srv http.Server
	url string

	mu    sync.Mutex // guards what follows
	b     []byte
	etag  string
	sent  int
	asked []string // Range and If-Range of each request
}

// mirror serves b at an address that may be dialled.
func (w *world) mirror(b []byte) *mirror {
	w.Helper()
	m := &mirror{url: "http://10.0.50.1/image.raw", b: b, etag: `"v1"`}
	m.srv.Handler = http.HandlerFunc(m.serve)
	ln, err := w.net.Host("10.0.50.1").Listen("tcp", "10.0.50.1:80")
	w.must(err)
	go func() { _ = m.srv.Serve(ln) }()
	return m
}

func (m *mirror) serve(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	b, etag := m.b, m.etag
	m.asked = append(m.asked, r.Header.Get("Range")+" "+r.Header.Get("If-Range"))
	m.mu.Unlock()
	w.Header().Set("ETag", etag)
	http.ServeContent(&counted{w, m}, r, "", time.Time{}, bytes.NewReader(b))
}

// counted adds what is sent to a mirror's count.
type counted struct {
	http.ResponseWriter
	m *mirror
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.m.mu.Lock()
	c.m.sent += n
	c.m.mu.Unlock()
	return n, err
}

// reset forgets what was asked and sent, and gives the file other octets and another ETag, if they are named.
func (m *mirror) reset(b []byte, etag string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sent, m.asked = 0, nil
	if b != nil {
		m.b, m.etag = b, etag
	}
}

func (m *mirror) took() (int, []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sent, slices.Clone(m.asked)
}

// register has the coordinator read a URL, and publishes it.
func (w *world) register(name, url string) *intent.Object {
	w.Helper()
	admin := w.api("admin", "coordinator")
	u, err := admin.BeginUpload(w.Context(), assets.UploadRequest{Name: name, Class: "image", URL: url})
	w.must(err)
	w.until(url+" is read", func() bool {
		u, err = admin.UploadStatus(w.Context(), u.ID)
		w.must(err)
		if u.State == assets.Failed {
			w.Fatalf("%s: %s", url, u.Why)
		}
		return u.State == assets.Whole
	})
	o, err := admin.PublishUpload(w.Context(), u.ID)
	w.must(err)
	return o
}

// refusals are what the agents of s1 say of an asset's URLs.
func (w *world) refusals(at, asset string) (out []origin.Why) {
	ctx, cancel := w.ask()
	defer cancel()
	info, _ := intent.KindAsset.Info()
	o, err := w.api("admin", at).Get(ctx, info, "", asset)
	var st holdings.Status
	if err != nil || json.Unmarshal(o.Status, &st) != nil {
		return nil
	}
	for _, a := range st.Agents {
		for _, u := range a.URLs {
			out = append(out, u.Why)
		}
	}
	return out
}

// TestURLWithoutCoordinator: three agents that know of an image which lies at a URL, and whose coordinator is gone before a chunk of it could
// come, read it there: once for all of them, in parts that are tied to the file that was registered.
func TestURLWithoutCoordinator(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 7))
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOf(t, t.TempDir(), 1, "a1", "a2", "a3")
		defer w.over()
		_, _ = w.publish(300<<10, rnd)
		img := make([]byte, 20<<20+12345)
		for i := 0; i+8 <= len(img); i += 8 {
			copy(img[i:], bytes.Repeat([]byte{byte(rnd.Uint32())}, 1+rnd.IntN(8)))
			img[i] = byte(rnd.Uint32())
		}
		m := w.mirror(img)
		defer m.srv.Close()
		w.until("they boot without it", func() bool { return w.have("a1", "ramdisk")["a1"] == "complete" })
		w.change("s1", func(s *intent.SiteSpec) {
			s.WAN = &intent.WANSpec{Windows: []intent.WANWindow{{From: "00:00", To: "00:00", Rate: "0"}}}
		})
		o := w.register("tiny", m.url)
		spec := o.Spec.(*intent.AssetSpec)
		if n, _ := m.took(); n != len(img) || len(spec.Sources) != 1 || spec.Sources[0].URL != m.url || spec.Sources[0].Validator != `"v1"` {
			t.Fatalf("%d octets were read, and the asset has %+v", n, spec.Sources)
		}
		m.reset(nil, "")
		w.until("s1 is level", func() bool { return w.level("s1") })
		kept := 0
		w.until("who keeps it has its manifest in quiet hours, and nothing of it", func() bool {
			kept = 0
			for _, state := range w.have("a1", "tiny") {
				if state == holdings.Partial {
					kept++
				}
			}
			return kept == 2
		})
		if n, asked := m.took(); n > 0 {
			t.Errorf("in quiet hours %d octets: %v", n, asked)
		}
		w.end("coordinator")
		res, err := w.api("admin", "s1/a1").AssetAction(w.Context(), "s1", "tiny", assets.ActionRequest{Action: "prefetch"})
		w.must(err)
		began := time.Now()
		w.within(5*time.Minute, "both have the image", func() bool {
			n := 0
			for _, state := range w.have("a1", "tiny") {
				if state == holdings.Complete {
					n++
				}
			}
			return n == 2
		})
		n, asked := m.took()
		t.Logf("%d octets, %.4f times, in %d requests, after %v", n, float64(n)/float64(len(img)), len(asked), time.Since(began))
		if n < len(img) || n > len(img)*102/100 {
			t.Errorf("%d octets of %d left the URL: %v; %v", n, len(img), asked, res.Agents)
		}
		for _, a := range asked {
			if !strings.HasPrefix(a, "bytes=") || !strings.HasSuffix(a, ` "v1"`) {
				t.Errorf("it was asked for %q", a)
			}
		}
		if from := w.sources("s1", spec.Digest); from["site"] != 0 || from["origin"] != int64(n) {
			t.Errorf("by tier: %v, and %d left the URL", from, n)
		}
		for name, state := range w.have("a1", "tiny") {
			if state == holdings.Complete {
				w.end("s1/" + name)
				w.same("s1/"+name, spec.Digest, img)
				break
			}
		}
	})
}

// TestURLMoves: a URL that has another file than was registered is refused by name, and the image comes from the coordinator.
func TestURLMoves(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 8))
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.over()
		_, _ = w.publish(300<<10, rnd)
		img := make([]byte, 3<<20)
		for i := range img {
			img[i] = byte(rnd.Uint32())
		}
		m := w.mirror(img)
		defer m.srv.Close()
		w.change("s1", func(s *intent.SiteSpec) {
			s.WAN = &intent.WANSpec{Windows: []intent.WANWindow{{From: "00:00", To: "00:00", Rate: "0"}}}
		})
		o := w.register("tiny", m.url)
		m.reset(bytes.Repeat([]byte("other"), len(img)/5), `"v2"`)
		w.change("s1", func(s *intent.SiteSpec) { s.WAN = nil })
		w.until("both have the image", func() bool {
			got := w.have("a1", "tiny")
			return got["a1"] == holdings.Complete && got["a2"] == holdings.Complete
		})
		if why := w.refusals("s1/a1", "tiny"); !slices.Contains(why, origin.Changed) {
			t.Errorf("the agents say %v of its URL", why)
		}
		w.end("s1/a1")
		w.same("s1/a1", o.Spec.(*intent.AssetSpec).Digest, img)
	})
}
