package document

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/skerry-metal/skerry/mesh/intent"
)

func auditLine(t testing.TB, n int, k ed25519.PrivateKey) (raws [][]byte, ends []AuditChain, heads []*intent.Envelope) {
	t.Helper()
	c := AuditChain{Site: "lon1", Agent: "a1", Chain: "c1"}
	for i := range n {
		raw, err := c.Next(intent.AuditRecord{Time: epoch0, User: "ana", Via: "token:k3p9", Verb: "power on", Object: fmt.Sprintf("Machine lon1/m%d", i), Result: intent.AuditDone})
		if err != nil {
			t.Fatal(err)
		}
		env, err := c.Seal(k, epoch0)
		if err != nil {
			t.Fatal(err)
		}
		raws, ends, heads = append(raws, raw), append(ends, c), append(heads, env)
	}
	return raws, ends, heads
}

// The first record is a golden: another form of it breaks every chain that was kept.
func TestAuditGolden(t *testing.T) {
	raws, _, heads := auditLine(t, 2, key(1))
	const first = `{"site":"lon1","agent":"a1","chain":"c1","seq":1,"prev":"","time":"2026-01-02T03:04:05Z","user":"ana","via":"token:k3p9","verb":"power on","object":"Machine lon1/m0","result":"done"}`
	if string(raws[0]) != first {
		t.Errorf("record 1 is %s", raws[0])
	}
	if want := `"prev":"` + intent.DigestOf(raws[0]).String() + `"`; !strings.Contains(string(raws[1]), want) {
		t.Errorf("record 2 is %s, want %s in it", raws[1], want)
	}
	if want := `{"site":"lon1","agent":"a1","chain":"c1","seq":2,"hash":"` + intent.DigestOf(raws[1]).String() + `","time":"2026-01-02T03:04:05Z"}`; string(heads[1].Payload) != want {
		t.Errorf("head 2 is %s, want %s", heads[1].Payload, want)
	}
}

func TestAuditChain(t *testing.T) {
	raws, ends, heads := auditLine(t, 4, key(1))
	f := func(at int, raw []byte, want error) {
		t.Helper()
		c := AuditChain{Site: "lon1", Agent: "a1", Chain: "c1"}
		if at > 0 {
			c = ends[at-1]
		}
		before := c
		r, err := c.Accept(raw)
		if !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("after %d: %v, want %v", at, err, want)
		}
		if err != nil && c != before {
			t.Error("a refused record moved the chain")
		}
		if err == nil && (r.Seq != uint64(at+1) || c != ends[at]) {
			t.Errorf("after %d: at %+v, record %d", at, c, r.Seq)
		}
	}
	f(0, raws[0], nil)
	f(3, raws[3], nil)
	f(0, raws[1], ErrGap)
	f(1, raws[3], ErrGap)
	f(2, raws[1], ErrKnown)
	f(3, raws[0], ErrReplay)
	other := ends[1]
	fork, err := other.Next(intent.AuditRecord{Time: epoch0, Verb: "nothing", Result: intent.AuditDone})
	if err != nil {
		t.Fatal(err)
	}
	f(3, fork, ErrFork)
	f(2, bytes.Replace(raws[2], []byte(`"prev":"sha256:`), []byte(`"prev":"sha256:0`), 1), ErrFork)
	f(0, bytes.Replace(raws[0], []byte(`lon1","agent`), []byte(`par1","agent`), 1), ErrOtherSite)
	f(0, bytes.Replace(raws[0], []byte(`"agent":"a1"`), []byte(`"agent":"a2"`), 1), ErrOtherSite)
	f(0, bytes.Replace(raws[0], []byte(`"chain":"c1"`), []byte(`"chain":"c2"`), 1), ErrOtherSite)

	head := func(i int, keys ...ed25519.PublicKey) error {
		h, err := OpenAuditHead(heads[i], keys)
		if err != nil {
			return err
		}
		return ends[2].Sealed(h)
	}
	for i, want := range []error{ErrUnsealed, ErrUnsealed, nil, ErrUnsealed} {
		if err := head(i, pub(key(1))); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("head %d of a chain of 3: %v, want %v", i+1, err, want)
		}
	}
	if err := head(2, pub(key(2))); !errors.Is(err, ErrSignature) {
		t.Errorf("a head by a foreign key: %v", err)
	}
}

// Whatever one changes in a sealed chain, it is found: a record altered, left out, put twice, swapped, or the end cut off.
func TestAuditTamper(t *testing.T) {
	const n = 6
	raws, _, heads := auditLine(t, n, key(1))
	verify := func(raws [][]byte) error {
		c := AuditChain{Site: "lon1", Agent: "a1", Chain: "c1"}
		for _, raw := range raws {
			if _, err := c.Accept(raw); err != nil {
				return err
			}
		}
		h, err := OpenAuditHead(heads[n-1], []ed25519.PublicKey{pub(key(1))})
		if err != nil {
			return err
		}
		return c.Sealed(h)
	}
	if err := verify(raws); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		bad := append([][]byte(nil), raws...)
		i := rapid.IntRange(0, n-1).Draw(t, "i")
		switch rapid.SampledFrom([]string{"flip", "drop", "twice", "swap", "cut"}).Draw(t, "how") {
		case "flip":
			b := bytes.Clone(bad[i])
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			bad[i] = b
		case "drop":
			bad = append(bad[:i:i], bad[i+1:]...)
		case "twice":
			bad = append(bad[:i+1:i+1], bad[i:]...)
		case "swap":
			j := (i + 1) % n
			bad[i], bad[j] = bad[j], bad[i]
		case "cut":
			bad = bad[:i]
		}
		if err := verify(bad); err == nil {
			t.Fatal("not found")
		}
	})
}

// Texts from outside are cut and made printable before they are signed.
func TestAuditClip(t *testing.T) {
	c := AuditChain{Agent: "c1", Chain: "x"}
	raw, err := c.Next(intent.AuditRecord{User: strings.Repeat("u", 1000), Object: "a\x1b[2Jb\n", Reason: strings.Repeat("\x00", 5000)})
	if err != nil || len(raw) > 2500 || bytes.ContainsAny(raw, "\x1b\n\x00") || bytes.Contains(raw, []byte(`\u001b`)) {
		t.Errorf("%v: %s", err, raw)
	}
	if _, err := (&AuditChain{Agent: "c1", Chain: "x"}).Accept(raw); err != nil {
		t.Error(err)
	}
	if _, err := c.Next(intent.AuditRecord{Did: make([]intent.AuditChange, 40_000)}); !errors.Is(err, ErrSize) {
		t.Errorf("a huge record: %v", err)
	}
}

func FuzzAudit(f *testing.F) {
	raws, ends, _ := auditLine(f, 2, key(1))
	f.Add(raws[0])
	f.Add(raws[1])
	f.Fuzz(func(t *testing.T, b []byte) {
		c := ends[0]
		if r, err := c.Accept(b); err == nil && (r.Seq != 2 || c.Hash != intent.DigestOf(b)) {
			t.Fatalf("accepted %+v", r)
		}
		_, _ = AuditChainAt(b)
	})
}
