package backup

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/storage/state"
)

func sample(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	db, err := state.Open(state.Config{Dir: filepath.Join(dir, "state"), Key: bytes.Repeat([]byte{7}, 32), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.OpenBadger(db)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	keys := filepath.Join(dir, "keys")
	asset := `{"apiVersion":"skerry/v1","kind":"Asset","metadata":{"name":"tiny","uid":"u1","generation":1},"spec":{"digest":"sha256:` +
		strings.Repeat("ab", 32) + `","manifest":"sha256:` + strings.Repeat("cd", 32) + `","size":4096,"class":"image"}}`
	_, err1 := st.Commit(t.Context(), store.Commit{Put: map[string][]byte{"a": []byte("1"), "b": nil, "object/Asset//tiny": []byte(asset)}})
	err2 := os.Mkdir(keys, 0o700)
	err3 := os.WriteFile(filepath.Join(keys, "writer.key"), []byte("k"), 0o600)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	h := Header{Domain: "edge.example", Coordinator: "c1", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	if _, err := Write(t.Context(), &out, h, keys, st); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestRoundTrip(t *testing.T) {
	var got []string
	c, err := Read(bytes.NewReader(sample(t)), func(r Record) error {
		got = append(got, r.Key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a", "b", "object/Asset//tiny"}, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if c.Domain != "edge.example" || len(c.Files) != 1 || len(c.Total.SHA256) != 32 || c.Bytes != 4096 || c.Content().Name != "tiny" {
		t.Errorf("content %+v", c)
	}
}

// Content is the first asset.
func (c *Content) Content() Asset { return c.Assets[0] }

// Whatever is cut, swapped, doubled, left out or changed is found.
func TestDamage(t *testing.T) {
	good := sample(t)
	lines := bytes.SplitAfter(bytes.TrimSuffix(good, []byte("\n")), []byte("\n"))
	f := func(what string, b []byte) {
		t.Helper()
		if _, err := Read(bytes.NewReader(b), func(Record) error { return nil }); !errors.Is(err, ErrBackup) {
			t.Errorf("%s: %v", what, err)
		}
	}
	join := func(ls ...[]byte) []byte {
		out := bytes.Join(ls, nil)
		return append(bytes.TrimSuffix(out, []byte("\n")), '\n')
	}
	f("empty", nil)
	for i := range lines {
		f(fmt.Sprintf("cut before line %d", i), join(lines[:i]...))
		f(fmt.Sprintf("without line %d", i), join(append(append([][]byte{}, lines[:i]...), lines[i+1:]...)...))
		f(fmt.Sprintf("line %d twice", i), join(append(append([][]byte{}, lines[:i+1]...), lines[i:]...)...))
	}
	for i := 0; i < len(good)-1; i += 3 {
		b := bytes.Clone(good)
		b[i] ^= 1
		f(fmt.Sprintf("bit flipped in octet %d", i), b)
	}
	boom := errors.New("boom")
	if _, err := Read(bytes.NewReader(good), func(Record) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("fn's error becomes %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte(`{"header":{"format":"skerry-coordinator-backup","version":1,"domain":"","coordinator":"","time":"2026-01-01T00:00:00Z"}}`))
	f.Add([]byte(`{"file":{"name":"../x","data":""}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Read(bytes.NewReader(b), func(Record) error { return nil })
		if (c == nil) == (err == nil) {
			t.Fatalf("content %v, %v", c, err)
		}
		if c != nil {
			for _, f := range c.Files {
				if f.Name != filepath.Base(f.Name) || f.Name == "." || f.Name == ".." {
					t.Errorf("file %q", f.Name)
				}
			}
		}
	})
}
