package receipt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
	"github.com/skerry-metal/skerry/mesh/stick"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "rewrite goldens")

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func key(b byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, 32)) }

func der(k ed25519.PrivateKey) []byte { return document.MarshalKey(k.Public().(ed25519.PublicKey)) }

func signed(t *testing.T, kind string, v any, k ed25519.PrivateKey) *intent.Envelope {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	env, err := document.Sign(kind, b, k)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func receipt(seq uint64, prev string) *erasure.Receipt {
	return &erasure.Receipt{
		Site: "lon1", Agent: "a1", Seq: seq, Prev: prev, Time: noon, Machine: erasure.Machine{Name: "m1", Serial: "SN1", UUID: "u1"}, Project: "shop", Instance: "i1",
		Generation: seq, Task: "erase/m1/1/1", Permission: intent.DigestOf([]byte("p")), Claim: intent.Epoch{Generation: 1, N: 65537}, Required: erasure.Clear,
		Drives: []erasure.Drive{{
			DiskID: intent.DiskID{Serial: "D1", SizeBytes: 1 << 30}, Vendor: "ACME", Model: "Spin", Media: "hdd", Method: "overwrite", Level: erasure.Clear, Start: noon,
			End: noon.Add(time.Minute), DeviceStatus: "wrote 1073741824 octets, flushed", Canary: erasure.Canary{Blocks: 66, SeedDigest: intent.DigestOf([]byte("s"))}, Samples: 28,
		}},
		Tool: erasure.Tool{Version: "skerry-installer 1", Kernel: "6.1"}, Exceptions: []string{"sdb: stick"}, Result: erasure.Erased,
	}
}

type shell struct {
	Shell
	rows [][]string
}

func (s *shell) Header(...string)                             {}
func (s *shell) Row(cols ...string)                           { s.rows = append(s.rows, cols) }
func (s *shell) Print(_ any, fill func(account.Table)) error  { fill(s); return nil }
func (s *shell) Args(n ...string) cobra.PositionalArgs        { return cobra.ExactArgs(len(n)) }
func (s *shell) ArgsUpTo(int, ...string) cobra.PositionalArgs { return cobra.ArbitraryArgs }

// TestVerify: files with each fault, verified with nothing but a trust document.
func TestVerify(t *testing.T) {
	root, w, a := key(1), key(2), key(3)
	trust := intent.TrustBody{
		Header: document.Follow(intent.Head{}, intent.StreamTrust, 0, noon), Domain: "edge.example", Roots: intent.RootSet{Threshold: 1, Keys: [][]byte{der(root)}},
		Writers: []intent.Writer{{Key: der(w), Epoch: 1, Mode: intent.ModeContinue, State: intent.KeyUse}},
	}
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	raw, err := document.Encode(signed(t, intent.PayloadTrust, trust, root))
	if err != nil {
		t.Fatal(err)
	}
	trustFile := write("trust.json", raw)
	body, err := json.Marshal(intent.RosterBody{Generation: 1, Agents: []intent.RosterAgent{{ID: "a1", State: "agent", Sign: [][]byte{der(a)}}}})
	if err != nil {
		t.Fatal(err)
	}
	e := intent.Entry{Header: document.Follow(intent.Head{}, intent.StreamIntent, 1, noon), Site: "lon1", Kind: intent.EntryRoster, Body: body}
	rosters := []*intent.Envelope{signed(t, intent.PayloadIntent, e, w)}
	one := signed(t, intent.PayloadReceipt, receipt(1, ""), a)
	two := signed(t, intent.PayloadReceipt, receipt(2, one.Digest().String()), a)
	three := signed(t, intent.PayloadReceipt, receipt(3, two.Digest().String()), a)
	fork := signed(t, intent.PayloadReceipt, receipt(2, intent.DigestOf([]byte("x")).String()), a)

	f := func(name, want string, ok bool, l *erasure.List) {
		t.Helper()
		b, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		s := &shell{}
		c := Command(s)
		c.SilenceErrors, c.SilenceUsage = true, true
		c.SetArgs([]string{"verify", write("receipts.json", b), "--trust", trustFile})
		err = c.Execute()
		var got []string
		for _, r := range s.rows {
			got = append(got, r[len(r)-1])
		}
		if text := strings.Join(got, " | "); !strings.HasPrefix(text, want) || (err == nil) != ok {
			t.Errorf("%s: %q, %v; want %q, %v", name, text, err, want, ok)
		}
	}
	f("a chain", "holds | holds | holds", true, &erasure.List{Receipts: []*intent.Envelope{one, two, three}, Rosters: rosters})
	f("in another order", "holds | holds | holds", true, &erasure.List{Receipts: []*intent.Envelope{three, one, two}, Rosters: rosters})
	f("a part", "holds | holds; what came before it is not here", true, &erasure.List{Receipts: []*intent.Envelope{one, three}, Rosters: rosters})
	f("a fork", "holds | holds | FAILED: another receipt has its place", false, &erasure.List{Receipts: []*intent.Envelope{one, two, fork}, Rosters: rosters})
	f("does not follow", "holds | FAILED: it does not follow", false, &erasure.List{Receipts: []*intent.Envelope{one, fork}, Rosters: rosters})
	f("no roster", "FAILED: cannot trust receipt 1 of lon1/a1", false, &erasure.List{Receipts: []*intent.Envelope{one}})
	f("signed by somebody else", "FAILED: ", false, &erasure.List{Receipts: []*intent.Envelope{signed(t, intent.PayloadReceipt, receipt(1, ""), w)}, Rosters: rosters})
	f("null", "FAILED: ", false, &erasure.List{Receipts: []*intent.Envelope{nil}, Rosters: []*intent.Envelope{nil}})
	f("none", "", false, &erasure.List{Rosters: rosters})
}

// TestWritersOf: what counts as the domain's writers comes from a file that somebody vouches for, or from the document that a pin names.
func TestWritersOf(t *testing.T) {
	root, w, later := key(1), key(2), key(4)
	body := func(head intent.Head, keys ...ed25519.PrivateKey) *intent.Envelope {
		b := intent.TrustBody{
			Header: document.Follow(head, intent.StreamTrust, 0, noon), Domain: "edge.example", Roots: intent.RootSet{Threshold: 1, Keys: [][]byte{der(root)}},
		}
		for _, k := range keys {
			b.Writers = append(b.Writers, intent.Writer{Key: der(k), Epoch: 1, Mode: intent.ModeContinue, State: intent.KeyUse})
		}
		return signed(t, intent.PayloadTrust, b, root)
	}
	one := body(intent.Head{}, w)
	two := body(intent.Head{Seq: 1, Hash: one.Digest()}, later)
	forged := body(intent.Head{}, later)
	dir := t.TempDir()
	save := func(name string, b []byte) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	single := func(env *intent.Envelope) string {
		b, err := document.Encode(env)
		if err != nil {
			t.Fatal(err)
		}
		return save(env.Digest().Short()+".json", b)
	}
	lines := func(envs ...*intent.Envelope) string {
		var b bytes.Buffer
		out, err := stick.NewWriter(&b, stick.Header{Way: stick.Down, Domain: "edge.example", Site: "lon1", By: "c1", Made: noon})
		for _, env := range envs {
			err = errors.Join(err, out.Put(&stick.Line{Trust: env}))
		}
		if err := errors.Join(err, out.End()); err != nil {
			t.Fatal(err)
		}
		return save(intent.DigestOf(b.Bytes()).Short()+".jsonl", b.Bytes())
	}
	pin := one.Digest().String()
	for _, c := range []struct {
		name, file, pin string
		want            ed25519.PrivateKey // nil: refused
	}{
		{"a document that is vouched for", single(one), "", w},
		{"the one of the pin", single(one), pin, w},
		{"another one than the pin's", single(forged), pin, nil},
		{"a stick, from the pin on", lines(one, two), pin, later},
		{"a stick without a pin", lines(one, two), "", nil},
		{"a stick that begins elsewhere", lines(forged), pin, nil},
		{"a stick with a fork", lines(one, two, body(intent.Head{Seq: 1, Hash: one.Digest()}, w)), pin, nil},
		{"a stick without trust", lines(), pin, nil},
		{"no such pin", single(one), "sha256:1", nil},
		{"no document", save("x", []byte("{}")), pin, nil},
	} {
		got, err := writersOf(c.file, c.pin)
		if c.want == nil {
			if err == nil {
				t.Errorf("%s: %d writers", c.name, len(got))
			}
			continue
		}
		if err != nil || len(got) != 1 || !bytes.Equal(got[0].Key, der(c.want)) {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
}

func TestPage(t *testing.T) {
	var b bytes.Buffer
	if err := page(&b, receipt(1, "")); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "page.txt"))
	if *update {
		err = os.WriteFile(filepath.Join("testdata", "page.txt"), b.Bytes(), 0o644)
		want = b.Bytes()
	}
	if err != nil || string(want) != b.String() {
		t.Errorf("%v\n%s", err, b.String())
	}
}
