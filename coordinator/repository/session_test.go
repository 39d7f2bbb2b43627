package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/origin"
	"github.com/skerry-metal/skerry/storage/blob"
	"github.com/skerry-metal/skerry/storage/state"
)

// shop is a repository with what it stands on, whose clock and disk a test sets.
type shop struct {
	testing.TB
	dir   string
	free  uint64
	now   time.Time
	db    *state.DB
	blobs *blob.Store
	r     *Repository
	given []*intent.Object // to register
}

func newShop(t testing.TB) *shop {
	s := &shop{TB: t, dir: t.TempDir(), free: 100 << 30, now: time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)}
	s.open()
	t.Cleanup(s.crash)
	return s
}

func (s *shop) open() {
	s.Helper()
	log, err := slog.New(slog.DiscardHandler), error(nil)
	s.db, err = state.Open(state.Config{Dir: filepath.Join(s.dir, "state"), Key: make([]byte, 32), Logger: log})
	if err != nil {
		s.Fatal(err)
	}
	s.blobs, err = blob.Open(blob.Config{
		Dir: filepath.Join(s.dir, "assets"), State: s.db, Logger: log, Reserve: 1,
		Statfs: func(string) (uint64, uint64, error) { return s.free - min(s.free, s.used()), 200 << 30, nil },
	})
	if err != nil {
		s.Fatal(err)
	}
	s.r, err = Open(Config{
		Dir: filepath.Join(s.dir, "assets", "uploads"), State: s.db, Blobs: s.blobs, Logger: log, Now: func() time.Time { return s.now },
		Policy: origin.Policy{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}, MaxBytes: 8 << 20,
	})
	if err != nil {
		s.Fatal(err)
	}
}

// used is what the files of uploads take of the disk, in octets.
func (s *shop) used() uint64 {
	s.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "assets", "uploads", "*"))
	if err != nil {
		s.Fatal(err)
	}
	n := uint64(0)
	for _, f := range files {
		if fi, err := os.Stat(f); err == nil {
			n += allocated(fi)
		}
	}
	return n
}

// crash ends everything without a last word: what SIGKILL leaves, short of torn pages.
func (s *shop) crash() {
	s.Helper()
	if err := s.db.Close(); err != nil {
		s.Fatal(err)
	}
}

func (s *shop) begin(q assets.UploadRequest) *assets.Upload {
	s.Helper()
	u, err := s.r.Begin(s.Context(), "ana", q)
	if err != nil {
		s.Fatal(err)
	}
	return u
}

func (s *shop) publish(id string) error {
	return s.r.Publish(s.Context(), id, func(o *intent.Object, _ string) error {
		s.given = append(s.given, o)
		return nil
	})
}

// holds fails unless the asset is published and its blob reads as body.
func (s *shop) holds(name string, body []byte) {
	s.Helper()
	o := s.given[len(s.given)-1]
	spec := o.Spec.(*intent.AssetSpec)
	if o.Metadata.Name != name || spec.Digest != intent.DigestOf(body) || spec.Size != uint64(len(body)) {
		s.Fatalf("published %+v %+v", o.Metadata, spec)
	}
	r, err := s.blobs.Open(spec.Digest)
	if err != nil {
		s.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, body) {
		s.Fatalf("the blob reads as %d octets, %v", len(got), err)
	}
}

// refused fails unless err is a refusal of that problem type.
func (s *shop) refused(err error, kind, text string) {
	s.Helper()
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Type != kind || !strings.Contains(e.Error(), text) {
		s.Errorf("refused by %v, want %s: %s", err, kind, text)
	}
}

// body is a Body that Stop ends.
type body struct {
	io.Reader
	once    sync.Once
	stopped chan struct{}
}

func bodyOf(r io.Reader) *body { return &body{Reader: r, stopped: make(chan struct{})} }

func (b *body) Stop() { b.once.Do(func() { close(b.stopped) }) }

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)}).Read(b)
	return b
}

func requestFor(name string, b []byte) assets.UploadRequest {
	return assets.UploadRequest{Name: name, Class: "image", Size: uint64(len(b)), Digest: intent.DigestOf(b)}
}

// An upload that is cut and whose coordinator is killed over and over goes on where it was: nothing that was told is sent again.
func TestResumes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := newShop(t)
	want := random(seed, 3<<20+rng.IntN(1<<20))
	q, sent := requestFor("tiny", want), 0
	for cuts := 0; ; cuts++ {
		u := s.begin(q)
		if int(u.Offset) != sent {
			t.Fatalf("it stands at %d, and %d were told", u.Offset, sent)
		}
		if u.State == assets.Whole {
			break
		}
		n := min(len(want)-sent, 1+rng.IntN(256<<10))
		src := io.Reader(bytes.NewReader(want[sent : sent+n]))
		if rng.IntN(2) == 0 {
			src = io.MultiReader(src, iotest.ErrReader(io.ErrUnexpectedEOF))
		}
		u, err := s.r.Append(t.Context(), u.ID, u.Offset, bodyOf(src))
		if err != nil {
			s.refused(err, "cut-short", fmt.Sprintf("at octet %d of %d", sent+n, len(want)))
		}
		if sent += n; int(u.Offset) != sent {
			t.Fatalf("%d came, %d were told", sent, u.Offset)
		}
		if rng.IntN(3) == 0 { // killed while octets came that nobody was told of
			f, err := os.OpenFile(s.r.path(u.ID), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write(random(1, rng.IntN(1000))); err != nil {
				t.Fatal(err)
			}
			f.Close()
			s.crash()
			s.open()
		}
	}
	u := s.begin(q)
	if err := s.publish(u.ID); err != nil {
		t.Fatal(err)
	}
	s.holds("tiny", want)
	if _, err := s.r.Get(u.ID); !errors.Is(err, api.ErrNotFound) || len(s.r.List().Items) != 0 {
		t.Errorf("what is published is there still: %v", err)
	}
	if u := s.begin(requestFor("other", want)); u.State != assets.Whole {
		t.Errorf("octets that are here already are asked for again: %+v", u)
	}
}

func TestRefuses(t *testing.T) {
	s := newShop(t)
	want := random(7, 100_000)
	u := s.begin(requestFor("tiny", want))
	send := func(at int, r io.Reader) (*assets.Upload, error) {
		return s.r.Append(t.Context(), u.ID, uint64(at), bodyOf(r))
	}
	stands := func(n uint64, got *assets.Upload) {
		t.Helper()
		if now, err := s.r.Get(u.ID); err != nil || now.Offset != n || got == nil || got.Offset != n {
			t.Errorf("it stands at %+v, told %+v; want %d", now, got, n)
		}
	}
	got, err := send(0, bytes.NewReader(want[:40_000]))
	if err != nil {
		t.Fatal(err)
	}
	stands(40_000, got)
	for _, at := range []int{0, 39_999, 40_001, 100_000} { // a piece that came already, and a gap
		got, err := send(at, bytes.NewReader(want[:10]))
		s.refused(err, "offset", "stands at octet 40000")
		stands(40_000, got)
	}
	s.refused(s.publish(u.ID), "refused", "40000 octets of 100000")
	counted := &counter{r: endless{}}
	got, err = send(40_000, counted)
	s.refused(err, "too-long", "100000 octets")
	stands(100_000, got)
	if counted.n > 60_001 {
		t.Errorf("%d octets were read of an endless body", counted.n)
	}
	s.refused(s.publish(u.ID), "wrong-digest", "nothing was kept")
	if _, err := s.r.Get(u.ID); !errors.Is(err, api.ErrNotFound) || len(s.blobs.List()) != 0 || len(s.given) != 0 {
		t.Errorf("something of wrong octets is kept: %v, %v, %v", err, s.blobs.List(), s.given)
	}
	if files, err := os.ReadDir(s.r.cfg.Dir); err != nil || len(files) != 0 {
		t.Errorf("files left: %v, %v", files, err)
	}
	if _, err := send(0, strings.NewReader("x")); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("an upload that is gone takes octets: %v", err)
	}

	f := func(text string, change func(*assets.UploadRequest)) {
		t.Helper()
		q := requestFor("tiny", want)
		change(&q)
		if _, err := s.r.Begin(t.Context(), "ana", q); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v, want %s", q, err, text)
		}
	}
	f("name", func(q *assets.UploadRequest) { q.Name = "Tiny" })
	f("class", func(q *assets.UploadRequest) { q.Class = "song" })
	f("size", func(q *assets.UploadRequest) { q.Size = 0 })
	f("size", func(q *assets.UploadRequest) { q.Size = intent.MaxAssetSize + 1 })
	f("digest", func(q *assets.UploadRequest) { q.Digest = intent.Digest{} })
	f("too full", func(q *assets.UploadRequest) { q.Size = s.free })
	if n := len(s.r.List().Items); n != 0 {
		t.Errorf("%d sessions after refusals", n)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

type counter struct {
	r io.Reader
	n int
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += n
	return n, err
}

// The number of uploads is bounded, and each goes its own way beside the others.
func TestManyAtOnce(t *testing.T) {
	s := newShop(t)
	var wg sync.WaitGroup
	bodies := make([][]byte, maxSessions)
	for i := range bodies {
		bodies[i] = random(uint64(i), 1000+i)
		wg.Go(func() {
			u, err := s.r.Begin(t.Context(), "ana", requestFor(fmt.Sprint("a", i), bodies[i]))
			for err == nil && u.State == assets.Open {
				u, err = s.r.Append(t.Context(), u.ID, u.Offset, bodyOf(bytes.NewReader(bodies[i][u.Offset:min(len(bodies[i]), int(u.Offset)+400)])))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	one := requestFor("more", random(1, 77))
	_, err := s.r.Begin(t.Context(), "ana", one)
	s.refused(err, "refused", "64 uploads are under way")
	for i, u := range s.r.List().Items {
		if i == 0 {
			if _, err := s.r.Drop(t.Context(), u.ID); err != nil {
				t.Fatal(err)
			}
		} else if err := s.publish(u.ID); err != nil {
			t.Fatal(err)
		}
	}
	s.begin(one)
	if n := len(s.blobs.List()); n != maxSessions-1 {
		t.Errorf("%d blobs", n)
	}
}

// Uploads that failed keep nobody out: the one that failed first makes way.
func TestFailedMakesWay(t *testing.T) {
	s := newShop(t)
	o := newOrigin(t, http.NotFound)
	for i := range 2 {
		u := s.begin(assets.UploadRequest{Name: fmt.Sprint("bad", i), Class: "image", URL: o.URL})
		if u = s.step(u.ID); u.State != assets.Failed {
			t.Fatalf("%+v", u)
		}
		s.now = s.now.Add(time.Minute)
	}
	for i := range maxSessions - 2 {
		s.begin(requestFor(fmt.Sprint("a", i), random(uint64(i), 10)))
	}
	failed := func(want string) {
		t.Helper()
		var got []string
		for _, u := range s.r.List().Items {
			if u.State == assets.Failed {
				got = append(got, u.Name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("failed: %v, want %s", got, want)
		}
	}
	failed("bad0 bad1")
	s.begin(requestFor("more", random(1, 11)))
	failed("bad1")
	s.begin(requestFor("more", random(1, 11)))
	failed("bad1")
	s.begin(requestFor("most", random(1, 12)))
	failed("")
	_, err := s.r.Begin(t.Context(), "ana", requestFor("too-many", random(1, 13)))
	s.refused(err, "refused", "64 uploads are under way")
}

// A request that could not be written down leaves no upload behind.
func TestBeginNotSaved(t *testing.T) {
	s := newShop(t)
	s.crash()
	if _, err := s.r.Begin(t.Context(), "ana", requestFor("tiny", random(1, 10))); err == nil || len(s.r.List().Items) != 0 {
		t.Errorf("%v; %+v", err, s.r.List())
	}
	s.open()
}

// Whoever comes again, because his line died, does not wait for the request that hangs in it.
func TestSecondStopsTheFirst(t *testing.T) {
	s := newShop(t)
	want := random(3, 50_000)
	u := s.begin(requestFor("tiny", want))
	hung, done := bodyOf(nil), make(chan error, 1)
	reading := make(chan struct{})
	hung.Reader = io.MultiReader(bytes.NewReader(want[:20_000]), readerFunc(func([]byte) (int, error) {
		close(reading)
		<-hung.stopped
		return 0, assets.ErrStopped
	}))
	go func() {
		_, err := s.r.Append(t.Context(), u.ID, 0, hung)
		done <- err
	}()
	<-reading
	if u = s.begin(requestFor("tiny", want)); u.Offset != 20_000 {
		t.Errorf("what came by the line that died does not count: %+v", u)
	}
	s.refused(<-done, "stopped", "another request")
	if u, err := s.r.Append(t.Context(), u.ID, 20_000, bodyOf(bytes.NewReader(want[20_000:]))); err != nil || u.State != assets.Whole {
		t.Errorf("%+v, %v", u, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestIdleIsRemoved(t *testing.T) {
	s := newShop(t)
	old, busy := s.begin(requestFor("old", random(1, 10))), s.begin(requestFor("busy", random(2, 10)))
	s.now = s.now.Add(keepIdle)
	s.r.Sweep()
	if n := len(s.r.List().Items); n != 2 {
		t.Fatalf("%d left after exactly 7 days", n)
	}
	held, err := s.r.get(busy.ID)
	if err != nil {
		t.Fatal(err)
	}
	release, err := s.r.hold(t.Context(), held, func() {})
	if err != nil {
		t.Fatal(err)
	}
	s.now = s.now.Add(time.Second)
	s.r.Sweep()
	if _, err := s.r.Get(old.ID); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("an idle upload is kept: %v", err)
	}
	if _, err := s.r.Get(busy.ID); err != nil {
		t.Errorf("an upload that somebody holds is removed: %v", err)
	}
	release()
	if u := s.begin(requestFor("busy", random(2, 10))); u.ID == busy.ID {
		t.Error("an upload that is too old is gone on with")
	}
	s.crash()
	s.open()
	if n := len(s.r.List().Items); n != 1 {
		t.Errorf("%d after a restart", n)
	}
}

// A crash, or a refusal, between the blob and the document that names it: publishing again ends it.
func TestPublishAgain(t *testing.T) {
	s := newShop(t)
	want := random(5, 2<<20)
	u := s.begin(requestFor("tiny", want))
	if _, err := s.r.Append(t.Context(), u.ID, 0, bodyOf(bytes.NewReader(want))); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("the store is full")
	for range 2 {
		if err := s.r.Publish(t.Context(), u.ID, func(*intent.Object, string) error { return boom }); !errors.Is(err, boom) {
			t.Errorf("not registered: %v", err)
		}
		s.crash()
		s.open()
		if got := s.begin(requestFor("tiny", want)); got.ID != u.ID || got.State != assets.Whole {
			t.Errorf("after it: %+v", got)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_ = s.r.Publish(gone, u.ID, func(*intent.Object, string) error { return gone.Err() }) // who leaves loses nothing
	if err := s.publish(u.ID); err != nil {
		t.Fatal(err)
	}
	s.holds("tiny", want)
}

// A disk that fills refuses, keeps what was told, and goes on when there is room.
func TestFullDisk(t *testing.T) {
	s := newShop(t)
	want := random(6, 100_000)
	u := s.begin(requestFor("tiny", want))
	if _, err := s.r.Append(t.Context(), u.ID, 0, bodyOf(bytes.NewReader(want[:60_000]))); err != nil {
		t.Fatal(err)
	}
	s.free = 0
	if _, err := s.r.Begin(t.Context(), "ana", requestFor("tiny", want)); !errors.Is(err, api.ErrFull) {
		t.Errorf("a full disk says %v", err)
	}
	if _, err := s.r.Begin(t.Context(), "ana", requestFor("new", want[1:])); !errors.Is(err, api.ErrFull) {
		t.Errorf("a full disk says %v", err)
	}
	s.free = 1 << 30
	if got := s.begin(requestFor("tiny", want)); got.Offset != 60_000 || len(s.r.List().Items) != 1 {
		t.Errorf("with room again: %+v of %v", got, s.r.List())
	}
}

// Uploads that were each begun while they fitted do not eat together what is to stay free; one that has its room goes on in it.
func TestReserve(t *testing.T) {
	s := newShop(t)
	s.free = 100 << 20
	var ids []string
	request := func(i int) assets.UploadRequest {
		return assets.UploadRequest{Name: fmt.Sprint("a", i), Class: "image", Size: 60 << 20, Digest: intent.DigestOf([]byte{byte(i)})}
	}
	for i := range 3 {
		ids = append(ids, s.begin(request(i)).ID)
	}
	for i, id := range ids {
		if _, err := s.r.Append(t.Context(), id, 0, bodyOf(strings.NewReader("x"))); errors.Is(err, api.ErrFull) != (i > 0) {
			t.Errorf("upload %d: %v", i, err)
		}
	}
	if n := s.used(); n >= s.free {
		t.Errorf("%d octets are allocated of %d", n, s.free)
	}
	if u := s.begin(request(0)); u.Offset != 1 {
		t.Errorf("it goes on at %+v", u)
	}
	if _, err := s.r.Append(t.Context(), ids[0], 1, bodyOf(strings.NewReader("y"))); err != nil {
		t.Errorf("an upload that has its room: %v", err)
	}
}

// On a slow line what came is written down every 5 s: a crash does not cost all of it.
func TestSlowLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		want := random(9, 100)
		u := s.begin(requestFor("tiny", want))
		n := 0
		_, err := s.r.Append(t.Context(), u.ID, 0, bodyOf(readerFunc(func(b []byte) (int, error) {
			if n == 60 {
				if got, err := s.r.Get(u.ID); err != nil || got.Offset < 50 {
					t.Errorf("after a minute %+v is written down, %v", got, err)
				}
				return 0, io.ErrUnexpectedEOF
			}
			time.Sleep(time.Second)
			b[0] = want[n]
			n++
			return 1, nil
		})))
		s.refused(err, "cut-short", "at octet 60 of 100")
	})
}

// A blob that lost a chunk between publishing and the document of a URL without a digest: nothing is made up in its place.
func TestLostBlob(t *testing.T) {
	s := newShop(t)
	want := random(10, 2<<20)
	o := newOrigin(t, file(want, `"v"`, 0, 0))
	u := s.register(o.URL)
	s.step(u.ID)
	boom := errors.New("the store is full")
	if err := s.r.Publish(t.Context(), u.ID, func(*intent.Object, string) error { return boom }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if err := s.blobs.Delete(intent.DigestOf(want)); err != nil {
		t.Fatal(err)
	}
	s.refused(s.publish(u.ID), "refused", "octets of this upload are lost; begin it again")
	if again := s.register(o.URL); again.ID != u.ID || again.Offset != 0 || again.State != assets.Fetching {
		t.Errorf("begun again: %+v", again)
	}
	s.step(u.ID)
	if err := s.publish(u.ID); err != nil {
		t.Fatal(err)
	}
	s.holds("remote", want)
}

// A file that lost octets which were told is damage: the upload goes on before it.
func TestLostOctets(t *testing.T) {
	s := newShop(t)
	want := random(8, 10_000)
	u := s.begin(requestFor("tiny", want))
	if _, err := s.r.Append(t.Context(), u.ID, 0, bodyOf(bytes.NewReader(want))); err != nil {
		t.Fatal(err)
	}
	s.crash()
	if err := os.Truncate(s.r.path(u.ID), 4000); err != nil {
		t.Fatal(err)
	}
	s.open()
	if got := s.begin(requestFor("tiny", want)); got.Offset != 4000 || got.State != assets.Open {
		t.Errorf("it goes on at %+v", got)
	}
}
