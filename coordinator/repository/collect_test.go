package repository

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/blob"
)

// Only what was deleted, long ago, and is nobody else's goes; what the catalog does not name stays.
func TestCollect(t *testing.T) {
	s := newShop(t)
	st, err := store.OpenBadger(s.db)
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string][]byte{}
	put := map[string][]byte{}
	for i, name := range []string{"deleted", "shared", "awaited", "lost", "late"} {
		bodies[name] = random(uint64(20+i), 1000+i)
		o, err := Import(t.Context(), s.blobs, name, "image", bytes.NewReader(bodies[name]))
		if err != nil {
			t.Fatal(err)
		}
		at := s.now
		if name == "late" {
			at = at.Add(time.Hour)
		}
		if name == "lost" {
			continue // its document is not there, and nobody deleted it
		}
		if err := Mark(put, o, intent.NewCatalog(), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := Mark(put, &intent.Object{Kind: intent.KindImage, Spec: &intent.ImageSpec{}}, intent.NewCatalog(), s.now); err != nil || len(put) != 4 {
		t.Errorf("%d marks, %v", len(put), err)
	}
	if _, err := st.Commit(t.Context(), store.Commit{Put: put}); err != nil {
		t.Fatal(err)
	}
	s.begin(requestFor("again", bodies["awaited"]))
	named := func(d intent.Digest) bool { return d == intent.DigestOf(bodies["shared"]) }
	collect := func(dryRun bool, want string) {
		t.Helper()
		c, err := s.r.Collect(t.Context(), st, named, dryRun)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range c.Items {
			got = append(got, fmt.Sprint(x.Name, " ", x.State))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
	here := func(name string) error {
		_, err := s.blobs.Manifest(intent.DigestOf(bodies[name]))
		return err
	}
	s.now = s.now.Add(Grace - time.Second)
	collect(false, "awaited waits, deleted waits, shared waits, late waits")
	s.now = s.now.Add(time.Second)
	collect(true, "awaited named, deleted due, shared named, late waits")
	if err := here("deleted"); err != nil {
		t.Errorf("a dry run removes: %v", err)
	}
	collect(false, "awaited named, deleted removed, shared named, late waits")
	collect(false, "awaited named, shared named, late waits")
	for name := range bodies {
		if err := here(name); (name == "deleted") != errors.Is(err, blob.ErrAbsent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.crash()
	s.open()
	if err := here("lost"); err != nil {
		t.Errorf("what nobody deleted: %v", err)
	}
}
