package sticks

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/stick"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/intake"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	"github.com/skerry-metal/skerry/storage/state"
)

// scene is one agent of site lon1 with an empty replica, and what its coordinator published.
type scene struct {
	*testing.T
	*Desk
	author  *sitetest.Author
	chain   []*intent.Envelope
	db      *state.DB
	keys    *seal.Keys
	refused []string // kinds
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{T: t, author: sitetest.NewAuthor(t)}
	var err error
	if s.keys, err = seal.Generate(); err != nil {
		t.Fatal(err)
	}
	sign, err := s.keys.SignPublic()
	if err != nil {
		t.Fatal(err)
	}
	s.chain = append(s.chain,
		s.author.Put(sitetest.SiteDoc, sitetest.MachineTypeDoc("small", 1)),
		s.author.Entry(intent.EntryRoster, intent.RosterBody{Generation: 1, Agents: []intent.RosterAgent{{ID: "a1", State: intent.StateAgent, Sign: [][]byte{sign}}}}),
		s.author.Put(sitetest.MachineTypeDoc("small", 2)))
	var r *replica.Replica
	r, s.db = sitetest.OpenReplicaOf(t, t.TempDir(), s.author, "a1", s.keys)
	t.Cleanup(func() {
		if err := s.db.Close(); err != nil {
			t.Error(err)
		}
	})
	log := slog.New(slog.DiscardHandler)
	s.Desk = &Desk{Site: "lon1", Self: "a1", Domain: pkitest.Name, Sign: func() ed25519.PrivateKey { return s.keys.Sign }, In: &intake.Desk{
		Replica: r, Moved: func(string, intent.Head) {}, Close: func() int { return 0 }, Event: func(string, string) error { return nil }, Log: log,
		Refused: func(kind string, err error) {
			if err != nil {
				s.refused = append(s.refused, kind)
			}
		},
	}}
	if s.Journal, err = claim.OpenJournal(s.db, "lon1", "a1", log); err != nil {
		t.Fatal(err)
	}
	return s
}

// A stick brings a document that only the announced roots signed, and those after it: it waits for a person, which is no refusal, and
// the rest of the stick counts.
func TestStickOffers(t *testing.T) {
	s, next := newScene(t), sitetest.NewAuthor(t)
	b := *s.author.Trust
	b.Next = next.Trust.Roots.Digest()
	after := func(head intent.Head, key ed25519.PrivateKey) *intent.Envelope {
		b.Header = document.Follow(head, intent.StreamTrust, 0, b.Issued.Add(time.Hour))
		return s.author.Sign(intent.PayloadTrust, &b, key)
	}
	second := after(s.In.Replica.TrustHead(), s.author.Root)
	b.Roots, b.Next = next.Trust.Roots, intent.Digest{}
	third := after(intent.Head{Seq: 2, Hash: second.Digest()}, next.Root)
	fourth := after(intent.Head{Seq: 3, Hash: third.Digest()}, next.Root)
	raw := s.down(nil, &stick.Line{Trust: s.author.Env}, &stick.Line{Trust: second}, &stick.Line{Trust: third}, &stick.Line{Trust: fourth}, &stick.Line{Intent: s.chain[0]})
	for _, dry := range []bool{true, false} {
		res, err := s.Take(t.Context(), bytes.NewReader(raw), dry)
		if err != nil || !res.Whole() || res.Taken["trust"] != 1 || res.Taken["intent"] != 1 || res.After.Trust.Seq != 2 || len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "pki trust accept") {
			t.Errorf("dry %v: %+v, %v", dry, res, err)
		}
	}
	if env := s.In.Replica.OfferedTrust(); env == nil || env.Digest() != third.Digest() || len(s.refused) != 1 || s.refused[0] != "trust.offered" {
		t.Errorf("offered %v, refused %q", env != nil, s.refused)
	}
	if _, _, err := s.In.Replica.AcceptTrust(third.Digest(), "ana", time.Now(), false); err != nil {
		t.Fatal(err)
	}
	if res, err := s.Take(t.Context(), bytes.NewReader(raw), false); err != nil || !res.Whole() || res.After.Trust.Seq != 4 || len(res.Notes) != 0 {
		t.Errorf("after it was accepted: %+v, %v", res, err)
	}
}

// revoke signs the next document of the revocation stream.
func (s *scene) revoke(head intent.Head, ids ...string) (*intent.Envelope, intent.Head) {
	s.Helper()
	b := intent.RevocationBody{Header: document.Follow(head, intent.StreamRevocation, 1, time.Now())}
	for _, id := range ids {
		b.Entries = append(b.Entries, intent.Revocation{Kind: intent.RevokeUser, ID: id})
	}
	payload, err := json.Marshal(b)
	if err != nil {
		s.Fatal(err)
	}
	env, err := document.Sign(intent.PayloadRevocation, payload, s.author.Writer)
	if err != nil {
		s.Fatal(err)
	}
	return env, intent.Head{Epoch: 1, Seq: b.Seq, Hash: env.Digest()}
}

// down writes a stick as a coordinator does.
func (s *scene) down(change func(*stick.Header), ls ...*stick.Line) []byte {
	s.Helper()
	h := stick.Header{Way: stick.Down, Domain: pkitest.Name, Site: "lon1", By: "c1", Made: time.Unix(0, 0).UTC(), From: 1}
	if change != nil {
		change(&h)
	}
	var b bytes.Buffer
	w, err := stick.NewWriter(&b, h)
	for _, l := range ls {
		err = errors.Join(err, w.Put(l))
	}
	if err := errors.Join(err, w.End()); err != nil {
		s.Fatal(err)
	}
	return b.Bytes()
}

// all is the stick of everything that was published.
func (s *scene) all() []*stick.Line {
	out := []*stick.Line{{Trust: s.author.Env}}
	head := intent.Head{}
	for _, id := range []string{"eve", "mallory"} {
		var env *intent.Envelope
		env, head = s.revoke(head, id)
		out = append(out, &stick.Line{Revocation: env})
	}
	for _, env := range s.chain {
		out = append(out, &stick.Line{Intent: env})
	}
	return out
}

func (s *scene) take(b []byte, dry bool) *api.StickResult {
	s.Helper()
	res, err := s.Take(s.Context(), bytes.NewReader(b), dry)
	if err != nil {
		s.Fatal(err)
	}
	return res
}

// A stick brings everything, twice changes nothing, and a dry run says the same and does nothing.
func TestTake(t *testing.T) {
	s := newScene(t)
	whole := s.down(nil, s.all()...)
	dry := s.take(whole, true)
	if s.In.Replica.State().Staged.Seq != 0 || s.In.Replica.Revocations().Len() != 0 {
		t.Error("a dry run changed something")
	}
	res := s.take(whole, false)
	if d := cmp.Diff(map[string]int{"revocation": 2, "intent": 3}, res.Taken); d != "" || !res.Whole() {
		t.Errorf("%+v\n%s", res, d)
	}
	if res.After.Active != s.author.Head || res.After.Intent != s.author.Head || res.After.Revocation.Seq != 2 {
		t.Errorf("after: %+v, want %v", res.After, s.author.Head)
	}
	dry.DryRun = false
	if d := cmp.Diff(res, dry); d != "" {
		t.Errorf("the dry run said something else\n-done +dry\n%s", d)
	}
	again := s.take(whole, false)
	if len(again.Taken) > 0 || again.Before != again.After || !again.Whole() {
		t.Errorf("again: %+v", again)
	}
	if len(s.refused) > 0 {
		t.Errorf("refused %v", s.refused)
	}
}

// A file that breaks off anywhere is taken as far as it verified; the whole file then goes on from there.
func TestBrokenOff(t *testing.T) {
	s := newScene(t)
	whole := s.down(nil, s.all()...)
	lines := bytes.SplitAfter(whole, []byte("\n"))
	for n := 1; n < len(lines)-1; n++ {
		part := append(bytes.Join(lines[:n], nil), lines[n][:len(lines[n])/2]...)
		res := s.take(part, false)
		if res.Partial == "" || len(res.Refused) > 0 {
			t.Fatalf("%d lines and a half: %+v", n, res)
		}
		if want := uint64(max(0, n-4)); res.After.Active.Seq != want {
			t.Errorf("%d lines: active %d, want %d", n, res.After.Active.Seq, want)
		}
	}
	if res := s.take(whole, false); res.After.Active != s.author.Head || !res.Whole() {
		t.Errorf("whole: %+v", res)
	}
}

// What is no stick for this site is refused before anything is looked at.
func TestForeignStick(t *testing.T) {
	s := newScene(t)
	f := func(what string, b []byte) {
		t.Helper()
		_, err := s.Take(t.Context(), bytes.NewReader(b), false)
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Status != 422 {
			t.Errorf("%s: %v", what, err)
		}
		if s.In.Replica.State().Staged.Seq != 0 {
			t.Errorf("%s: something was taken", what)
		}
	}
	f("another site", s.down(func(h *stick.Header) { h.Site = "par1" }, s.all()...))
	f("another domain", s.down(func(h *stick.Header) { h.Domain = "other.example" }, s.all()...))
	f("one that goes up", s.down(func(h *stick.Header) { h.Way = stick.Up }, s.all()...))
	f("rubbish", []byte("rubbish\n"))
	f("nothing", nil)
	if _, err := s.ImportStick(t.Context(), api.Caller{}, "par1", bytes.NewReader(nil), false); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("asked for another site: %v", err)
	}
}

// An entry that does not fit stops the run of intent and nothing else; dry run and import agree on it.
func TestBadEntry(t *testing.T) {
	s := newScene(t)
	all := s.all()
	fork := *s.author.At(intent.Head{})
	bad := fork.Put(sitetest.SiteDoc)
	all[4] = &stick.Line{Intent: bad} // in the place of entry 2
	more, _ := s.revoke(intent.Head{}, "trent")
	all = append(all, &stick.Line{Override: more})
	b := s.down(nil, all...)
	for _, dry := range []bool{true, false} {
		res := s.take(b, dry)
		if res.After.Intent.Seq != 1 || res.Taken["intent"] != 1 || len(res.Refused) != 2 || res.After.Revocation.Seq != 2 {
			t.Errorf("dry %v: %+v", dry, res)
		}
		if !strings.Contains(res.Refused[0].Why, "fork") || res.Refused[1].Kind != "override" {
			t.Errorf("dry %v: refused %+v", dry, res.Refused)
		}
		forks, err := s.In.Replica.IntentForks()
		if trust, terr := s.In.Replica.TrustForks(); err != nil || terr != nil || len(trust) > 0 || dry != (len(forks) == 0) {
			t.Errorf("dry %v: %d forks of intent, %d of trust kept, %v", dry, len(forks), len(trust), err)
		}
	}
	if d := cmp.Diff([]string{"intent.refused"}, s.refused); d != "" {
		t.Error(d)
	}
}

// endless is a stick whose one entry comes again and again; it measures what the process holds meanwhile.
type endless struct {
	head, line []byte
	rest       []byte
	left, read int
	peak       uint64
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		if e.left == 0 {
			return 0, io.EOF
		}
		if e.rest = e.line; e.read == 0 {
			e.rest = e.head
		}
		if e.left--; e.left%20 == 0 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			e.peak = max(e.peak, m.HeapAlloc)
		}
	}
	n := copy(p, e.rest)
	e.rest, e.read = e.rest[n:], e.read+n
	return n, nil
}

// A large file is read through, and not into memory.
func TestLargeStick(t *testing.T) {
	s := newScene(t)
	pad := strings.Repeat("x", 400_000)
	lines := bytes.SplitAfter(s.down(nil, &stick.Line{Intent: s.author.At(intent.Head{}).Entry(intent.EntryPut, map[string]any{"objects": []any{}, "pad": pad})}), []byte("\n"))
	big := &endless{head: lines[0], line: lines[1], left: 40_000_000/len(lines[1]) + 2}
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	res, err := s.Take(t.Context(), big, false)
	if err != nil {
		t.Fatal(err)
	}
	if big.read < 40_000_000 || res.Partial == "" {
		t.Errorf("%d octets read: %+v", big.read, res)
	}
	t.Logf("%d octets held at most", int64(big.peak)-int64(before.HeapAlloc))
	if held := int64(big.peak) - int64(before.HeapAlloc); big.peak == 0 || held > 10<<20 {
		t.Errorf("%d octets held of %d", held, big.read)
	}
}
