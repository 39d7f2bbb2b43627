package install

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// blockSize of the fake writer.
const blockSize = 1 << 20

// fakeWriter is a disk in memory with the contract of storage/image.Writer, without a partition table.
type fakeWriter struct {
	m *chunk.Manifest

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
	m      *chunk.Manifest
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
	if s.m, err = chunk.ScanManifest(bytes.NewReader(s.img)); err != nil {
		t.Fatal(err)
	}
	s.hw = inventory.Report{
		Serial: "SN1", UUID: "u1", Boot: inventory.Boot{Firmware: "bios"},
		Disks: []inventory.Disk{{Name: "sda", Serial: "D1", SizeBytes: diskBytes}, {Name: "sdb", Serial: "D2", SizeBytes: diskBytes}},
	}
	s.perm = intent.Permission{
		ID: "p1", Act: intent.ActInstall, Serial: "SN1", UUID: "u1", Generation: 3,
		Claim: intent.Epoch{Generation: 1, N: 1}, Disks: []intent.DiskID{{Serial: "D1", SizeBytes: diskBytes}},
	}
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
		Verify: VerifyFull,
	}}
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
	in := &Installer{
		Client: newClient(s.t, p, a), Version: "t", Log: quiet(),
		Collect: func(context.Context) (*inventory.Report, error) { r := s.hw; return &r, nil },
		Open: func(d inventory.Disk, m *chunk.Manifest) (ImageWriter, error) {
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
