package founding

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/holder"
	"github.com/skerry-metal/skerry/pki/seal"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func keysAt(dir string) Keys {
	return Keys{Dir: dir, Domain: "edge.example", ID: "c1", Addr: []string{"192.0.2.1:7443", "c1.example:7443"}}
}

// alone founds a domain whose one holder is the host.
func alone(t *testing.T, k Keys) (*holder.Offer, *intent.Envelope) {
	t.Helper()
	b, err := k.MakeHolder(now)
	if err != nil {
		t.Fatal(err)
	}
	o, err := k.Offer(b, now)
	if err != nil {
		t.Fatal(err)
	}
	h, err := k.Holder()
	if err != nil || h == nil {
		t.Fatal(h, err)
	}
	if _, _, err := h.Sign(o, holder.Mark{}, now); err != nil {
		t.Fatal(err)
	}
	env, err := k.Finish(o, o, now)
	if err != nil {
		t.Fatal(err)
	}
	return o, env
}

// A directory that lost any one file, as a crash before it was written leaves it, is gone on with: what is there stays, but for the
// agent-like keys, of which the last file is the TLS key.
func TestGoesOn(t *testing.T) {
	whole := t.TempDir()
	alone(t, keysAt(whole))
	names, err := os.ReadDir(whole)
	if err != nil || len(names) < 10 {
		t.Fatal(names, err)
	}
	for _, lost := range names {
		if lost.Name() == "seal.key" || lost.Name() == "sign.key" {
			continue // written before tls.key: lost alone, they are damage and no crash
		}
		dir := filepath.Join(t.TempDir(), "keys")
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, lost.Name())); err != nil {
			t.Fatal(err)
		}
		alone(t, keysAt(dir))
		for _, name := range []string{FileRootSign, FileNextSign, FileWriter, NameCA + ".key"} {
			was, err1 := os.ReadFile(filepath.Join(whole, name))
			is, err2 := os.ReadFile(filepath.Join(dir, name))
			if err1 != nil || err2 != nil || bytes.Equal(was, is) != (name != lost.Name()) {
				t.Errorf("%s lost: %s was made again, or is not there: %v %v", lost.Name(), name, err1, err2)
			}
		}
	}
}

// Only what this directory offered founds its domain, and only with enough signatures.
func TestFinishRefuses(t *testing.T) {
	k := keysAt(t.TempDir())
	hs, b, err := holder.Create("edge.example", 3, 2, true, now)
	if err != nil {
		t.Fatal(err)
	}
	own, err := k.Offer(b, now)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := k.Holder(); h != nil || err != nil {
		t.Errorf("roots lie here: %v, %v", h, err)
	}
	signed := *own
	for i, h := range hs[:2] {
		if _, err := k.Finish(own, &signed, now); err == nil {
			t.Errorf("founded with %d signatures", i)
		}
		if _, _, err := h.Sign(&signed, holder.Mark{}, now); err != nil {
			t.Fatal(err)
		}
	}
	other, err := keysAt(t.TempDir()).Offer(b, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Finish(other, &signed, now); err == nil {
		t.Error("founded with the document of another directory")
	}
	if _, err := k.Finish(own, &signed, now); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(k.Dir, NameRoot+".key")); err == nil {
		t.Error("the key of R lies here")
	}
	if _, err := seal.Load(k.Dir); err != nil {
		t.Error(err)
	}
	foreign := b
	foreign.Domain = "other.example"
	if _, err := k.Offer(foreign, now); err == nil {
		t.Error("offered for roots of another domain")
	}
}
