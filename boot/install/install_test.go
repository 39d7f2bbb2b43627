package install

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSite is a Site of functions; a nil one answers with the zero value.
type fakeSite struct {
	mu         sync.Mutex // guards what follows
	calls      []string
	dones      []Done
	HelloFunc  func(Hello) (Session, error)
	WorkFunc   func() (Work, error)
	PermitFunc func(PermissionRequest) (PermissionEnvelope, error)
	ControlFn  func(Progress) (Control, error)
}

func (s *fakeSite) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, what)
}

func (s *fakeSite) Hello(_ context.Context, h Hello) (Session, error) {
	s.note("hello " + h.Token)
	if s.HelloFunc != nil {
		return s.HelloFunc(h)
	}
	return Session{ID: "s1", Machine: "m1"}, nil
}

func (s *fakeSite) Inventory(_ context.Context, id string, _ inventory.Report) error {
	s.note("inventory " + id)
	return nil
}

func (s *fakeSite) Work(context.Context, string, time.Duration) (Work, error) {
	s.note("work")
	return s.WorkFunc()
}

func (s *fakeSite) Permit(_ context.Context, _ string, r PermissionRequest) (PermissionEnvelope, error) {
	s.note("permission")
	return s.PermitFunc(r)
}

func (s *fakeSite) Progress(_ context.Context, _ string, p Progress) (Control, error) {
	if s.ControlFn != nil {
		return s.ControlFn(p)
	}
	return Control{}, nil
}

func (s *fakeSite) Log(context.Context, string, []LogLine) error { return nil }

func (s *fakeSite) Done(_ context.Context, _ string, d Done) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, "done")
	s.dones = append(s.dones, d)
	return nil
}

var _ Site = (*fakeSite)(nil)

// agent serves h over TLS and returns its address, its pin and a function that kills it.
func agent(t *testing.T, h http.Handler) (addr, pin string, kill func()) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	var once sync.Once
	kill = func() { once.Do(func() { s.CloseClientConnections(); s.Close() }) }
	t.Cleanup(kill)
	return s.Listener.Addr().String(), Pin(cert), kill
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func newClient(t *testing.T, pins string, agents ...string) *Client {
	t.Helper()
	c, err := NewClient(ClientConfig{Agents: agents, Pins: strings.Fields(pins), Token: "tok", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestClientGoesOnAtTheNextAgent(t *testing.T) {
	s := &fakeSite{WorkFunc: func() (Work, error) { return Work{Kind: WorkReboot}, nil }}
	h := NewHandler(s)
	a1, p1, kill := agent(t, h)
	a2, p2, _ := agent(t, h)
	c := newClient(t, p1+" "+p2, a1, a2)
	ctx := deadline(t)
	if _, err := c.Hello(ctx, Hello{}); err != nil {
		t.Fatal(err)
	}
	kill()
	if w, err := c.Work(ctx); err != nil || w.Kind != WorkReboot {
		t.Fatalf("%+v, %v", w, err)
	}
	if err := c.Inventory(ctx, &inventory.Report{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hello(ctx, Hello{}); err == nil {
		t.Error("a second hello was sent")
	}
	if d := cmp.Diff([]string{"hello tok", "work", "inventory s1"}, s.calls); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// TestUnpinnedAgentIsNotTrusted: the hello must not reach a server with another key, for it carries the token.
func TestUnpinnedAgentIsNotTrusted(t *testing.T) {
	s := &fakeSite{}
	a, _, _ := agent(t, NewHandler(s))
	_, other, _ := agent(t, NewHandler(s))
	c := newClient(t, other, a)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.Hello(ctx, Hello{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hello: %v", err)
	}
	if len(s.calls) != 0 {
		t.Errorf("the site saw %v", s.calls)
	}
}

func TestErrorsKeepTheirNameOverTheWire(t *testing.T) {
	f := func(want error) {
		t.Helper()
		s := &fakeSite{HelloFunc: func(Hello) (Session, error) { return Session{}, fmt.Errorf("cannot x: %w", want) }}
		a, p, _ := agent(t, NewHandler(s))
		if _, err := newClient(t, p, a).Hello(deadline(t), Hello{}); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	f(ErrToken)
	f(ErrTokenReused)
	f(ErrStale)
	f(ErrSession)
	f(ErrBadRequest)
}

func TestHandlerRefuses(t *testing.T) {
	h := NewHandler(&fakeSite{WorkFunc: func() (Work, error) { return Work{}, errors.New("secret detail") }})
	f := func(want int, method, path, session, body string) {
		t.Helper()
		r := httptest.NewRequest(method, "/install/v1/"+path, strings.NewReader(body))
		if session != "" {
			r.Header.Set("Authorization", "Bearer "+session)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s %s %.40q = %d %s, want %d", method, path, body, w.Code, w.Body, want)
		}
	}
	f(200, "POST", "hello", "", `{"token":"t"}`)
	f(400, "POST", "hello", "", `{"token":"t","extra":1}`)
	f(400, "POST", "hello", "", `{"token":"t"} {}`)
	f(400, "POST", "hello", "", `{`)
	f(400, "POST", "hello", "", `{"token":"`+strings.Repeat("x", bodyLimit)+`"}`)
	f(401, "PUT", "inventory", "", `{}`)
	f(401, "PUT", "inventory", strings.Repeat("s", 513), `{}`)
	f(200, "PUT", "inventory", "s", `{}`)
	f(500, "GET", "work", "s", "")
	f(400, "GET", "work?wait=-1", "s", "")
	f(405, "GET", "hello", "", "")
	f(400, "POST", "log", "s", "["+strings.Repeat("{},", maxLogLines)+"{}]")
	if h.Rejected() != 6 {
		t.Errorf("rejected %d, want 6", h.Rejected())
	}
}

func FuzzHandler(f *testing.F) {
	f.Add("permission", []byte(`{"task":"t","disks":[{"name":"sda","sizeBytes":1}]}`))
	f.Add("done", []byte(`{"task":"t","ok":true}`))
	f.Add("hello", []byte(`{"macs":["x"]}`))
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		s := &fakeSite{PermitFunc: func(PermissionRequest) (PermissionEnvelope, error) { return PermissionEnvelope{}, nil }}
		h := NewHandler(s)
		r := &http.Request{Method: "POST", Header: http.Header{"Authorization": {"Bearer s"}}, Body: io.NopCloser(bytes.NewReader(body)), Host: "h"}
		var err error
		if r.URL, err = r.URL.Parse("http://h/install/v1/x"); err != nil {
			t.Fatal(err)
		}
		r.URL.Path = "/install/v1/" + path
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code == 500 {
			t.Fatalf("%s %q: %s", path, body, w.Body)
		}
	})
}

// blockSize of the fake writer.
const blockSize = 1 << 20

// fakeWriter is a disk in memory with the contract of storage/image.Writer, without a partition table.
type fakeWriter struct {
	m *intent.Manifest

	mu        sync.Mutex // guards what follows
	blocks    map[int][]byte
	writes    int
	aborted   bool
	finished  bool
	verifyErr error
	closed    bool
}

type badChunk int

func (b badChunk) Error() string { return fmt.Sprintf("chunk %d is bad", int(b)) }
func (b badChunk) BadChunk() int { return int(b) }

func (w *fakeWriter) Blocks() int              { return len(w.m.Chunks) }
func (w *fakeWriter) Block(i int) (int64, int) { return w.m.ChunkRange(i) }
func (w *fakeWriter) Buffer() []byte           { return make([]byte, blockSize) }
func (w *fakeWriter) IsZero(i int) bool {
	return w.m.Chunks[i] == intent.DigestOf(make([]byte, blockSize))
}
func (w *fakeWriter) Start(b []byte) error { return w.Put(0, b) }
func (w *fakeWriter) PutZero(i int) error  { return w.Put(i, make([]byte, blockSize)) }
func (w *fakeWriter) Busy() map[string]time.Duration {
	return map[string]time.Duration{"write": time.Second}
}

func (w *fakeWriter) Have(i int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.blocks[i] != nil
}

func (w *fakeWriter) Put(i int, b []byte) error {
	if !w.m.VerifyChunk(i, b) {
		return fmt.Errorf("cannot put: %w", badChunk(i))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blocks[i] = bytes.Clone(b)
	w.writes++
	return nil
}

func (w *fakeWriter) Verify(ctx context.Context, full bool, progress func(uint64)) error {
	return w.verifyErr
}
func (w *fakeWriter) Finish(map[string]string) (string, error) { w.finished = true; return "", nil }
func (w *fakeWriter) Abort() error                             { w.aborted = true; return nil }
func (w *fakeWriter) Begun() bool                              { return w.Written() > 0 }
func (w *fakeWriter) Close() error                             { w.closed = true; return nil }
func (w *fakeWriter) Written() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return uint64(w.writes)
}

var _ ImageWriter = (*fakeWriter)(nil)

// noVerifier accepts every signature; the door's own test is in test/e2e, pki/document has the rest.
type noVerifier struct{ err error }

func (v noVerifier) Verify(string, *intent.Envelope) error { return v.err }

// scene is one machine, one agent and image sources.
type scene struct {
	t      *testing.T
	img    []byte
	m      *intent.Manifest
	site   *fakeSite
	writer *fakeWriter
	opened int
	hw     inventory.Report
	perm   intent.Permission
	verify error
	order  []Work // given out one after the other, then reboot
}

const diskBytes = 100 << 20

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, img: make([]byte, 20*blockSize+4096)}
	if _, err := rand.Read(s.img); err != nil {
		t.Fatal(err)
	}
	clear(s.img[5*blockSize : 7*blockSize])
	var err error
	if s.m, err = intent.ScanManifest(bytes.NewReader(s.img)); err != nil {
		t.Fatal(err)
	}
	s.hw = inventory.Report{Serial: "SN1", UUID: "u1", Boot: inventory.Boot{Firmware: "bios"},
		Disks: []inventory.Disk{{Name: "sda", Serial: "D1", SizeBytes: diskBytes}, {Name: "sdb", Serial: "D2", SizeBytes: diskBytes}}}
	s.perm = intent.Permission{ID: "p1", Act: intent.ActInstall, Serial: "SN1", UUID: "u1", Generation: 3,
		Claim: intent.Epoch{Generation: 1, N: 1}, Disks: []intent.DiskID{{Serial: "D1", SizeBytes: diskBytes}}}
	s.writer = &fakeWriter{m: s.m, blocks: map[int][]byte{}}
	s.site = &fakeSite{
		WorkFunc: func() (Work, error) {
			if len(s.order) == 0 {
				return Work{Kind: WorkReboot}, nil
			}
			w := s.order[0]
			s.order = s.order[1:]
			return w, nil
		},
		PermitFunc: func(r PermissionRequest) (PermissionEnvelope, error) {
			p := s.perm
			b, err := json.Marshal(p)
			return PermissionEnvelope{intent.Envelope{Payload: b}}, err
		},
	}
	return s
}

// source serves the image through change, which may damage what it sends; nil = as it is.
func (s *scene) source(change func(w http.ResponseWriter, r *http.Request) bool) string {
	s.t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if change != nil && change(w, r) {
			return
		}
		b := s.img
		if strings.HasSuffix(r.URL.Path, "/manifest") {
			b = s.m.Encode()
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.t.Cleanup(srv.Close)
	return srv.URL
}

func (s *scene) work(sources ...string) Work {
	w := Work{Kind: WorkInstall, Task: "t1", Generation: 3, Epoch: intent.Epoch{Generation: 1, N: 1}, Install: &InstallWork{
		Image: s.m.Content, Manifest: s.m.Digest(), SizeBytes: s.m.Size, Disk: intent.DiskID{Serial: "D1", SizeBytes: diskBytes},
		Verify: VerifyFull}}
	for _, u := range sources {
		w.Install.Sources = append(w.Install.Sources, u+"/image")
		w.Install.Manifests = append(w.Install.Manifests, u+"/manifest")
	}
	return w
}

func (s *scene) run(orders ...Work) WorkKind {
	s.t.Helper()
	s.order = orders
	a, p, _ := agent(s.t, NewHandler(s.site))
	in := &Installer{Client: newClient(s.t, p, a), Version: "t", Log: quiet(),
		Collect: func(context.Context) (*inventory.Report, error) { r := s.hw; return &r, nil },
		Open: func(d inventory.Disk, m *intent.Manifest) (ImageWriter, error) {
			if d.Name != "sda" {
				s.t.Errorf("opened %s", d.Name)
			}
			s.opened++
			return s.writer, nil
		},
		Verifier: func([][]byte) (Verifier, error) { return noVerifier{s.verify}, nil },
	}
	kind, err := in.Run(deadline(s.t))
	if err != nil {
		s.t.Fatal(err)
	}
	return kind
}

func (s *scene) content() []byte {
	var b []byte
	for i := range s.writer.Blocks() {
		b = append(b, s.writer.blocks[i]...)
	}
	return b
}

func TestInstall(t *testing.T) {
	s := newScene(t)
	if kind := s.run(s.work(s.source(nil), s.source(nil))); kind != WorkReboot {
		t.Errorf("ended with %s", kind)
	}
	d := s.site.dones[0]
	if !d.OK || !s.writer.finished || !s.writer.closed || s.writer.aborted || !bytes.Equal(s.content(), s.img) {
		t.Fatalf("done %+v", d)
	}
	if len(d.Sources) != 2 || d.Blocks != 21 || d.Permission != "p1" {
		t.Errorf("done %+v", d)
	}
	var fetched uint64
	for _, n := range d.Sources {
		fetched += n
	}
	if want := s.m.Size - 2*blockSize; fetched != want { // zero chunks are not fetched
		t.Errorf("fetched %d octets, want %d", fetched, want)
	}
	if d := cmp.Diff([]string{"hello tok", "inventory s1", "work", "permission", "done", "work"}, s.site.calls); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// TestSourceFaults: one bad source beside a good one costs a blame; bad sources alone end in a named failure.
func TestSourceFaults(t *testing.T) {
	isImage := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/image") }
	f := func(name, reason string, change func(s *scene) func(http.ResponseWriter, *http.Request) bool) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.run(s.work(s.source(change(s)), s.source(nil)))
			d := s.site.dones[0]
			if !d.OK || !bytes.Equal(s.content(), s.img) {
				t.Fatalf("with a good source beside: %+v", d)
			}
			if len(d.Blames) == 0 || !strings.Contains(d.Blames[0].Reason, reason) {
				t.Errorf("blames %+v, want %q", d.Blames, reason)
			}
			s = newScene(t)
			s.run(s.work(s.source(change(s))))
			d = s.site.dones[0]
			if d.OK || d.Code != "sources" || s.writer.finished {
				t.Errorf("alone: %+v", d)
			}
		})
	}
	f("wrong octets", "hash", func(s *scene) func(http.ResponseWriter, *http.Request) bool {
		bad := bytes.Clone(s.img)
		for i := 0; i < len(bad); i += 4096 {
			bad[i] ^= 1
		}
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !isImage(r) {
				return false
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(bad))
			return true
		}
	})
	f("short answer", "short", func(s *scene) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !isImage(r) {
				return false
			}
			var from, to int64
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(s.img)))
			w.WriteHeader(206)
			w.Write(s.img[from : from+1000])
			return true
		}
	})
	f("truncated image", "416", func(s *scene) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !isImage(r) {
				return false
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.img[:blockSize]))
			return true
		}
	})
	f("no ranges", "status 200", func(s *scene) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !isImage(r) {
				return false
			}
			w.Write(s.img)
			return true
		}
	})
	f("gone", "404", func(s *scene) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !isImage(r) {
				return false
			}
			http.NotFound(w, r)
			return true
		}
	})
}

// TestRefusedBeforeTheFirstWrite: whatever does not fit ends the task with nothing opened.
func TestRefusedBeforeTheFirstWrite(t *testing.T) {
	f := func(code string, change func(s *scene, w *Work)) {
		t.Helper()
		s := newScene(t)
		w := s.work(s.source(nil))
		change(s, &w)
		s.run(w)
		d := s.site.dones[0]
		if d.OK || d.Code != code || s.opened != 0 || d.Wrote {
			t.Errorf("want %s, got %+v, opened %d", code, d, s.opened)
		}
	}
	f("permission", func(s *scene, w *Work) { s.verify = errors.New("bad signature") })
	f("permission", func(s *scene, w *Work) { s.perm.Serial = "SN2" })
	f("permission", func(s *scene, w *Work) { s.perm.UUID = "u2" })
	f("permission", func(s *scene, w *Work) { s.perm.Act = intent.ActErase })
	f("permission", func(s *scene, w *Work) { s.perm.Generation = 2 })
	f("permission", func(s *scene, w *Work) { s.perm.Claim.N = 2 })
	f("permission", func(s *scene, w *Work) { s.perm.Disks[0].Serial = "D2" })
	f("permission", func(s *scene, w *Work) { s.perm.ID = "" })
	f("disk", func(s *scene, w *Work) { s.hw.Disks[0].Serial = "D9" })
	f("disk", func(s *scene, w *Work) { s.hw.Disks[1].Serial = "D1" })
	f("disk", func(s *scene, w *Work) { s.hw.Disks[0].SizeBytes-- })
	f("image", func(s *scene, w *Work) { w.Install.Firmware = "uefi" })
	f("image", func(s *scene, w *Work) { w.Install.Image = intent.DigestOf(nil) })
	f("image", func(s *scene, w *Work) { w.Install.SizeBytes = 0 })
	f("image", func(s *scene, w *Work) { w.Install = nil })
	f("sources", func(s *scene, w *Work) { w.Install.Manifest = intent.DigestOf(nil) })
	f("stale", func(s *scene, w *Work) {
		s.site.PermitFunc = func(PermissionRequest) (PermissionEnvelope, error) { return PermissionEnvelope{}, ErrStale }
	})
}

// TestPermissionIsUsedOnce: a second install under the same permission is refused (no wipe loops).
func TestPermissionIsUsedOnce(t *testing.T) {
	s := newScene(t)
	src := s.source(nil)
	s.run(s.work(src), s.work(src))
	if len(s.site.dones) != 2 || !s.site.dones[0].OK || s.site.dones[1].Code != "permission" {
		t.Errorf("dones %+v", s.site.dones)
	}
}

func TestFailedVerifyAborts(t *testing.T) {
	s := newScene(t)
	s.writer.verifyErr = errors.New("read back")
	s.run(s.work(s.source(nil)))
	d := s.site.dones[0]
	if d.OK || d.Code != "write" || !d.Wrote || !s.writer.aborted || s.writer.finished {
		t.Errorf("%+v, aborted %v", d, s.writer.aborted)
	}
}

// TestNewEpochKeepsWhatIsWritten: the claim moves in the middle; the next order goes on, and no block is written twice.
func TestNewEpochKeepsWhatIsWritten(t *testing.T) {
	s := newScene(t)
	gate := make(chan struct{})
	var once sync.Once
	src := s.source(func(w http.ResponseWriter, r *http.Request) bool {
		var from int64
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		if from >= 10*blockSize && strings.HasSuffix(r.URL.Path, "/image") {
			select { // the first claim never gets the second half
			case <-gate:
			case <-r.Context().Done():
			}
		}
		return false
	})
	s.site.ControlFn = func(Progress) (Control, error) {
		var c Control
		once.Do(func() {
			c.Epoch = intent.Epoch{Generation: 1, N: 2}
			s.perm.ID, s.perm.Claim = "p2", c.Epoch
			close(gate)
		})
		return c, nil
	}
	first, second := s.work(src), s.work(src)
	second.Epoch.N = 2
	s.run(first, second)
	if len(s.site.dones) != 1 || !s.site.dones[0].OK || s.site.dones[0].Permission != "p2" {
		t.Fatalf("dones %+v", s.site.dones)
	}
	if s.writer.writes != s.writer.Blocks() || s.opened != 1 || !bytes.Equal(s.content(), s.img) {
		t.Errorf("%d writes of %d blocks, opened %d times", s.writer.writes, s.writer.Blocks(), s.opened)
	}
}

func TestReusedTokenHalts(t *testing.T) {
	s := newScene(t)
	s.site.HelloFunc = func(Hello) (Session, error) { return Session{}, ErrTokenReused }
	if kind := s.run(); kind != WorkHalt {
		t.Errorf("ended with %s", kind)
	}
	s = newScene(t)
	s.site.HelloFunc = func(Hello) (Session, error) { return Session{}, ErrToken }
	if kind := s.run(); kind != WorkReboot {
		t.Errorf("ended with %s", kind)
	}
}

func TestSelectDisk(t *testing.T) {
	base := func() []inventory.Disk {
		return []inventory.Disk{
			{Name: "sda", WWN: "naa.1", Serial: "A", SizeBytes: 100, Transport: "sata"},
			{Name: "sdb", WWN: "naa.2", Serial: "B", SizeBytes: 100, Transport: "sata"},
		}
	}
	f := func(want string, id intent.DiskID, change func(d []inventory.Disk)) {
		t.Helper()
		disks := base()
		if change != nil {
			change(disks)
		}
		got, err := SelectDisk(disks, id)
		var de *DiskError
		switch {
		case err == nil && got.Name != want:
			t.Errorf("%+v: got %s, want %s", id, got.Name, want)
		case err != nil && (!errors.As(err, &de) || !errors.Is(err, ErrDisk) || de.Reason != want):
			t.Errorf("%+v: %v, want %s", id, err, want)
		}
	}
	a := intent.DiskID{WWN: "naa.1", Serial: "A", SizeBytes: 100}
	f("sda", a, nil)
	f("sda", a, func(d []inventory.Disk) { slices.Reverse(d) })
	f("sda", intent.DiskID{WWN: "naa.1", SizeBytes: 100}, nil)
	f("sdb", intent.DiskID{Serial: "B", SizeBytes: 100}, nil)
	f("sda", a, func(d []inventory.Disk) { d[0].Signatures = []string{"ext4", "gpt"} })
	f("unnamed", intent.DiskID{SizeBytes: 100}, nil)
	f("unnamed", intent.DiskID{Serial: "A"}, nil)
	f("none", intent.DiskID{WWN: "naa.9", Serial: "A", SizeBytes: 100}, nil)
	f("none", intent.DiskID{WWN: "naa.1", Serial: "X", SizeBytes: 100}, nil)
	f("several", a, func(d []inventory.Disk) { d[1].WWN = "naa.1" })
	f("several", a, func(d []inventory.Disk) { d[1].Serial = "A" })
	f("size", a, func(d []inventory.Disk) { d[0].SizeBytes = 99 })
	f("in-use", a, func(d []inventory.Disk) { d[0].InUse = []string{"md0"} })
	f("foreign", a, func(d []inventory.Disk) { d[0].Signatures = []string{"lvm"} })
	f("transport", a, func(d []inventory.Disk) { d[0].Transport = "usb" })
	f("transport", a, func(d []inventory.Disk) { d[0].Removable = true })
	f("read-only", a, func(d []inventory.Disk) { d[0].ReadOnly = true })
}

func TestNewClientRefuses(t *testing.T) {
	f := func(cfg ClientConfig) {
		t.Helper()
		if _, err := NewClient(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
	f(ClientConfig{})
	f(ClientConfig{Agents: []string{"a:1"}, Pins: []string{"xyz"}})
	f(ClientConfig{Agents: []string{"a:1"}, Pins: []string{strings.Repeat("a", 63)}})
}
