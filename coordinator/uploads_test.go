package coordinator

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/recovery"
	"github.com/skerry-metal/skerry/coordinator/repository"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// An upload over HTTP whose client and whose coordinator go away in the middle is published once, as what it is.
func TestUploadGoesOn(t *testing.T) {
	s := found1(t)
	raw := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{4}).Read(raw)
	body := string(raw)
	q := assets.UploadRequest{Name: "vmlinuz", Class: "boot", Size: uint64(len(body)), Digest: intent.DigestOf(raw)}
	cl := s.server()
	u, err := cl.BeginUpload(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("the cable was pulled")
	torn := io.MultiReader(strings.NewReader(body[:100_000]), errReader{boom})
	if _, err := cl.AppendUpload(t.Context(), u.ID, 0, torn, int64(len(body))); err == nil {
		t.Fatal("half an upload is taken for a whole one")
	}
	if _, err := cl.PublishUpload(t.Context(), u.ID); !client.Is(err, http.StatusConflict) {
		t.Errorf("a part is published: %v", err)
	}
	u, err = cl.BeginUpload(t.Context(), q) // stops what hangs, so that what it says is final
	if err != nil || u.Offset > 100_000 {
		t.Fatalf("%+v, %v", u, err)
	}
	if _, err := cl.AppendUpload(t.Context(), u.ID, u.Offset+1, strings.NewReader("x"), 1); !client.IsType(err, "offset") {
		t.Errorf("a gap: %v", err)
	}
	if u, err = cl.AppendUpload(t.Context(), u.ID, u.Offset, strings.NewReader(body[u.Offset:200_000]), 200_000-int64(u.Offset)); err != nil {
		t.Fatal(err)
	}
	s.restart()
	cl = s.server()
	if again, err := cl.BeginUpload(t.Context(), q); err != nil || again.ID != u.ID || again.Offset != 200_000 {
		t.Fatalf("after a restart: %+v, %v", again, err)
	}
	if u, err = cl.AppendUpload(t.Context(), u.ID, 200_000, strings.NewReader(body[200_000:]), 100_000); err != nil || u.State != assets.Whole {
		t.Fatalf("%+v, %v", u, err)
	}
	o, err := cl.PublishUpload(t.Context(), u.ID)
	if err != nil {
		t.Fatal(err)
	}
	if spec := o.Spec.(*intent.AssetSpec); o.Metadata.UID == "" || spec.Digest != q.Digest || spec.Size != q.Size || spec.Class != "boot" {
		t.Errorf("published %+v %+v", o.Metadata, spec)
	}
	if l, err := cl.Uploads(t.Context()); err != nil || len(l.Items) != 0 {
		t.Errorf("left over: %+v, %v", l, err)
	}
	if _, err := cl.UploadStatus(t.Context(), u.ID); !client.Is(err, http.StatusNotFound) {
		t.Errorf("what is published: %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// An asset by URL: the coordinator reads it, who asked publishes it, the audit log has both; hardware's networks are not dialled.
func TestRegisterURL(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("a kernel")) }))
	defer srv.Close()
	read := func(url string) *assets.Upload {
		t.Helper()
		cl := s.server()
		u, err := cl.BeginUpload(t.Context(), assets.UploadRequest{Name: "remote", Class: "boot", URL: url})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- s.repository.Run(ctx) }()
		for u.State == assets.Fetching { // the answer comes over loopback
			if u, err = cl.UploadStatus(t.Context(), u.ID); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		return u
	}
	if u := read(srv.URL); u.State != assets.Failed || !strings.Contains(u.Why, "--url-allow") {
		t.Errorf("loopback: %+v", u)
	}
	s.close()
	s.allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	s.open()
	u := read(srv.URL)
	if u.State != assets.Whole || u.Size != 8 {
		t.Fatalf("%+v", u)
	}
	s.restart() // Run has ended for good
	cl := s.server()
	o, err := cl.PublishUpload(t.Context(), u.ID)
	if err != nil || o.Spec.(*intent.AssetSpec).Digest != intent.DigestOf([]byte("a kernel")) {
		t.Fatalf("%+v, %v", o, err)
	}
	audit := string(s.everything())
	for _, want := range []string{"reads " + srv.URL, "read from " + srv.URL} {
		if !strings.Contains(audit, want) {
			t.Errorf("the audit log does not have %q", want)
		}
	}
}

// A deleted asset's octets go after their grace; those of one that was made again stay, also when its name gets others later; and while a site is held everything does.
func TestCollectAssets(t *testing.T) {
	s := found1(t)
	cl := s.server()
	upload := func(name, body string) intent.Key {
		t.Helper()
		o, err := cl.Upload(t.Context(), name, "boot", strings.NewReader(body), int64(len(body)))
		if err != nil {
			t.Fatal(err)
		}
		return o.Key()
	}
	old, again := upload("old", "an old kernel"), upload("again", "a kernel that comes back")
	stays := upload("stays", "a kernel")
	twin := upload("twin", "an octet for two") // of one digest; that it is deleted under one name says nothing of the other
	upload("other-twin", "an octet for two")
	s.delete(twin)
	s.delete(old)
	s.delete(again)
	upload("again", "a kernel that comes back")
	collect := func(dryRun bool, want string) *assets.Collection {
		t.Helper()
		c, err := cl.CollectAssets(t.Context(), dryRun)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range c.Items {
			got = append(got, x.Name+" "+x.State)
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%v, want %s", got, want)
		}
		return c
	}
	collect(false, "old waits")
	later := time.Now().Add(repository.Grace + time.Hour)
	s.wall = func() time.Time { return later }
	s.restart()
	cl = s.server()
	collect(true, "old due")
	v, err := recovery.Mark(later, "restored")
	if err != nil {
		t.Fatal(err)
	}
	held := publish.HeldKey("lon1")
	if _, err := s.store.Commit(t.Context(), store.Commit{Put: map[string][]byte{held: v}}); err != nil {
		t.Fatal(err)
	}
	if c := collect(false, "old due"); !strings.Contains(c.Held, "lon1") {
		t.Errorf("a held site: %q", c.Held)
	}
	if _, err := s.store.Commit(t.Context(), store.Commit{Delete: []string{held}}); err != nil {
		t.Fatal(err)
	}
	upload("again", "another kernel")
	upload("other-twin", "other octets")
	collect(false, "old removed")
	if n := len(s.blobs.List()); n != 5 {
		t.Errorf("%d blobs, want both of again, both of other-twin, and that of %s", n, stays)
	}
}
