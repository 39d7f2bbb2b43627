package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// release is what the data directory of a release holds: testdata/RELEASE, made by TestGoldenDirectories -update and never changed
// after the release.
type release struct {
	name   string
	schema int
}

// releases lists all; the last is the one being made.
func releases() []release { return []release{{"v0.1.0", 1}} }

// goldenRecords are those of every directory: each bucket of an agent, small, large and binary values.
func goldenRecords() map[string]map[string]string {
	all := map[string]map[string]string{}
	for _, b := range []string{"meta", "trust", "revocation", "intent", "object", "tomb", "ack", "sealed", "roster", "journal", "view", "promise", "blob"} {
		all[b] = map[string]string{}
		for i := range 7 {
			all[b][fmt.Sprintf("%s/%016x", b, i)] = fmt.Sprintf(`{"bucket":%q,"n":%d}`, b, i)
		}
	}
	all["intent"]["large"] = strings.Repeat("0123456789abcdef", 500)
	all["sealed"]["binary\x00\xff"] = "\x00\x01\xfe\xff"
	return all
}

func goldenMarks() Marks {
	return Marks{
		Heads: map[string]intent.Head{"intent": {Epoch: 1, Seq: 42, Hash: intent.DigestOf([]byte("head"))}}, Floor: time.Unix(1_790_000_000, 0).UTC(),
		Boots: 7, MaxVersion: 1, Chains: map[string]uint64{"permission": 3},
	}
}

// TestGoldenDirectories: today's code opens the data directory of every release and reads every record and the marks.
func TestGoldenDirectories(t *testing.T) {
	for i, r := range releases() {
		golden := filepath.Join("testdata", r.name)
		if *update && i == len(releases())-1 {
			makeGolden(t, golden)
		}
		t.Run(r.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(golden)); err != nil {
				t.Fatal(err)
			}
			if v, err := readSchema(filepath.Join(dir, "state")); v != r.schema || err != nil {
				t.Fatalf("schema %d, %v; want %d", v, err, r.schema)
			}
			d := open(t, filepath.Join(dir, "state"))
			defer d.Close()
			if d.Recovering() {
				t.Fatal("it was moved aside")
			}
			n := 0
			for b, records := range goldenRecords() {
				for k, want := range records {
					if got, err := get(d, b, k); got != want || err != nil {
						t.Errorf("%s/%q: %.40q, %v", b, k, got, err)
					}
					n++
				}
			}
			if rep, err := d.Scrub(t.Context()); err != nil || rep.Held != nil || rep.Checksum != nil || rep.Records != uint64(n) {
				t.Errorf("scrub: %+v, %v; want %d records", rep, err, n)
			}
			if _, m, err := OpenMarks(dir, testKey); err != nil || fmt.Sprint(m) != fmt.Sprint(goldenMarks()) {
				t.Errorf("marks %v, %v", m, err)
			}
		})
	}
}

func makeGolden(t *testing.T, golden string) {
	t.Helper()
	dir := t.TempDir()
	d := open(t, filepath.Join(dir, "state"))
	for b, records := range goldenRecords() {
		for k, v := range records {
			put(t, d, b, k, v)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	f, _, err := OpenMarks(dir, testKey)
	if err == nil {
		err = errors.Join(f.Save(goldenMarks()), f.Save(goldenMarks()))
	}
	// The value log and the memtable that a clean end leaves are empty and mostly holes.
	for _, ext := range []string{"*.vlog", "*.mem", "DISCARD", "LOCK"} {
		names, gerr := filepath.Glob(filepath.Join(dir, "state", ext))
		err = errors.Join(err, gerr)
		for _, n := range names {
			err = errors.Join(err, os.Remove(n))
		}
	}
	err = errors.Join(err, os.RemoveAll(golden), os.CopyFS(golden, os.DirFS(dir)))
	if err != nil {
		t.Fatal(err)
	}
}

// TestNewerSchemaIsRefused: a directory of a newer release is refused before anything in it is touched, and says what to do.
func TestNewerSchemaIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	d := open(t, dir)
	put(t, d, "b", "k", "v")
	d.Close()
	if err := writeSchema(dir, schema+1); err != nil {
		t.Fatal(err)
	}
	for range openTries + 1 { // it is no failed open: nothing is moved aside
		_, err := Open(config(dir))
		if !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "install the release that wrote it") {
			t.Fatalf("open: %v", err)
		}
	}
	// A damaged version says nothing and stops nobody.
	f := func(text string) {
		t.Helper()
		if err := os.WriteFile(dir+".schema", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d := open(t, dir)
		defer d.Close()
		if v, err := get(d, "b", "k"); v != "v" || err != nil {
			t.Fatalf("%q: %q, %v", text, v, err)
		}
		if b, err := os.ReadFile(dir + ".schema"); err != nil || string(b) != schemaLine(schema) {
			t.Fatalf("%q was left as %q, %v", text, b, err)
		}
	}
	f("")
	f("2")
	f(strings.Replace(schemaLine(1), "1", "3", 1))
	f("\x00\x00\x00")
	if len(migrations()) != schema-1 {
		t.Errorf("%d migrations lead to schema %d", len(migrations()), schema)
	}
}

// FuzzReadBackup: a backup from outside costs an error at most, and what is accepted is in order and in bounds.
func FuzzReadBackup(f *testing.F) {
	d := fresh(f)
	for i := range 3 {
		put(f, d, "b", fmt.Sprint(i), "v")
	}
	var whole bytes.Buffer
	if _, err := d.Backup(f.Context(), &whole); err != nil {
		f.Fatal(err)
	}
	f.Add(whole.Bytes())
	f.Add([]byte(`{"format":"skerry-state-1","schema":9}` + "\n"))
	f.Add([]byte(`{"format":"skerry-state-1"}` + "\n" + `{"b":"b","k":"YQ==","v":"YQ=="}` + "\n" + `{"b":"b","k":"YQ==","v":"YQ=="}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		last := map[string]string{}
		totals, err := readBackup(t.Context(), bytes.NewReader(b), func(bucket string, key, value []byte) error {
			if len(bucket) > MaxBucket || len(key) > MaxKey || len(value) > MaxValue || string(key) <= last[bucket] {
				t.Fatalf("%q/%q after %q", bucket, key, last[bucket])
			}
			last[bucket] = string(key)
			return nil
		})
		if (err == nil) != (totals != nil) {
			t.Fatalf("%v, %v", totals, err)
		}
	})
}
