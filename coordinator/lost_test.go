package coordinator

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/coordinator/succession"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/stick"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/holder"
	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/test/sim/etcd"
)

// offer signs what a rotation offers with the keys of these holders, and brings it.
func (s *scene) offer(st *api.RotationStatus, hs ...*holder.Holder) *api.TrustOffer {
	s.Helper()
	o, err := holder.DecodeOffer([]byte(st.Offer))
	if err != nil {
		s.Fatalf("%+v: %v", st, err)
	}
	for _, h := range hs {
		if n, _, err := h.Sign(o, holder.Mark{}, time.Now()); err != nil || n != 1 {
			s.Fatalf("%d signatures, %v", n, err)
		}
	}
	words, err := o.Words()
	if err != nil || !strings.Contains(strings.Join(words, "\n"), "WITHOUT the roots of before") {
		s.Errorf("a holder reads %q, %v", words, err)
	}
	env, err := o.Envelope()
	if err != nil || env == nil {
		s.Fatalf("%v, %v", env, err)
	}
	res, err := s.server().AddTrust(s.Context(), env)
	if err != nil || res.Added || res.Offered == nil || res.Offered.Digest != env.Digest() {
		s.Fatalf("%+v, %v", res, err)
	}
	return res.Offered
}

func (s *scene) accept(d intent.Digest, site string, dry bool) (*api.AcceptResult, error) {
	return s.server().AcceptTrust(s.Context(), api.AcceptRequest{Digest: d.Hex(), Site: site, DryRun: dry})
}

// pin is what a new join token pins.
func (s *scene) pin(agent string) intent.Digest {
	s.Helper()
	res, err := s.server().JoinToken(s.Context(), "lon1", api.JoinTokenRequest{Agent: agent})
	if err != nil {
		s.Fatal(err)
	}
	tok, _, err := join.ParseTarget(res.Token)
	if err != nil {
		s.Fatal(err)
	}
	return tok.Pin
}

// refuses asks for acceptances that are wrong.
func (s *scene) refuses(offered intent.Digest) {
	s.Helper()
	for what, c := range map[string]struct {
		digest intent.Digest
		site   string
		want   string
	}{
		"an unknown digest": {intent.DigestOf([]byte("x")), "", "no such document is offered"},
		"what is in force":  {s.trust.Head().Hash, "", "no such document is offered"},
		"for an agent":      {offered, "lon1", "for itself alone"},
		"no digest":         {intent.Digest{}, "", "no such document"},
	} {
		if _, err := s.accept(c.digest, c.site, false); err == nil || !strings.Contains(err.Error(), c.want) {
			s.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.server().AcceptTrust(s.Context(), api.AcceptRequest{Digest: offered.Short()}); err == nil || !strings.Contains(err.Error(), "whole digest") {
		s.Errorf("a part of the digest: %v", err)
	}
}

// The roots are lost. The announced ones sign alone; nothing follows them before a person says so, and all goes on; then all does, over
// crashes, and who finds the old roots makes nothing of it.
func TestLostRoots(t *testing.T) {
	s, hs := held(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	s.sync("lon1")
	q := api.RotateRequest{What: api.RotateRoot, Lost: true, DryRun: true}
	if st := s.rotate(q); st.Offer != "" || !strings.Contains(st.Next, "sign alone") {
		t.Errorf("dry run: %+v", st)
	}
	later, b, err := holder.Create("edge.example", 3, 2, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	q.DryRun, q.Next = false, &b.Next
	one := s.rotate(q)
	s.restart()
	if st := s.rotate(q); st.Offer != one.Offer || !strings.Contains(st.Steps[0].Text, "2 of next sign alone") {
		t.Errorf("after a crash: %+v", st)
	}
	old, next, pin := s.trust.Head(), s.trust.Body().Next, s.trust.Chain().Pin
	offered := s.offer(one, hs[0], hs[2])
	s.restart()
	if st := s.rotate(q); st.Offer != "" || !strings.Contains(st.Next, offered.Digest.Hex()) || !st.Waits() {
		t.Errorf("offered: %+v", st)
	}
	s.apply(`{"kind":"MachineType","metadata":{"name":"small"},"spec":{"cpu":{"min":2},"memoryMiB":{"min":1}}}`)
	if s.sync("lon1"); s.trust.Head() != old || s.pin("a2") != pin {
		t.Errorf("what is offered is followed: head %v", s.trust.Head())
	}
	ks, err := s.server().KeyStatus(t.Context())
	if err != nil || ks.Offered == nil || ks.Offered.Seq != 2 || ks.Offered.Digest != offered.Digest || len(ks.Offered.Changes) < 3 {
		t.Errorf("status: %+v, %v", ks, err)
	}
	s.refuses(offered.Digest)
	if res, err := s.accept(offered.Digest, "", true); err != nil || !res.DryRun || res.Head.Seq != 2 || s.trust.Head() != old {
		t.Errorf("dry run: %+v, %v", res, err)
	}
	res, err := s.accept(offered.Digest, "", false)
	if err != nil || res.Who != "c1" || s.trust.Head() != res.Head || s.trust.Body().Roots.Digest() != next {
		t.Fatalf("%+v, %v", res, err)
	}
	if got := s.audited("trust.accept"); len(got) != 1 || !strings.Contains(got[0], "admin") {
		t.Errorf("audit: %q", got)
	}
	if again, err := s.accept(offered.Digest, "", false); err != nil || again.Head != res.Head || !strings.Contains(again.Changes[0], "accepted before") {
		t.Errorf("again: %+v, %v", again, err)
	}
	s.restart()
	if s.trust.Head() != res.Head || s.trust.Offered() != nil || s.pin("a3") != offered.Digest {
		t.Errorf("after a restart: head %v, offered %v", s.trust.Head(), s.trust.Offered())
	}
	q.Next = nil
	if st := s.rotate(q); st.Phase != api.PhaseRetire && st.Phase != api.PhaseDone {
		t.Errorf("afterwards: %+v", st)
	}
	// Entries are not held up where nobody accepted yet, before a document of the new roots changes something.
	s.apply(`{"kind":"MachineType","metadata":{"name":"small"},"spec":{"cpu":{"min":3},"memoryMiB":{"min":1}}}`)
	s.sync("lon1")
	if es := s.chain("lon1"); es[len(es)-1].Requires.Trust != 1 {
		t.Errorf("the last entry waits for trust %d", es[len(es)-1].Requires.Trust)
	}
	// The old roots turn up again.
	thief := s.body(t, 1)
	thief.Header = document.Follow(old, intent.StreamTrust, 0, time.Now())
	stolen, err := document.Sign(intent.PayloadTrust, marshal(t, thief), hs[0].Keys[0], hs[1].Keys[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.server().AddTrust(t.Context(), stolen); err == nil || !strings.Contains(err.Error(), "forked") || s.trust.Forks() != 1 {
		t.Errorf("the old roots: %v, %d forks", err, s.trust.Forks())
	}
	// The new roots go on: they sign an ordinary document.
	w := s.rotate(api.RotateRequest{What: api.RotateWriter})
	o, err := holder.DecodeOffer([]byte(w.Offer))
	if err != nil {
		t.Fatal(err)
	}
	if words, err := o.Words(); err != nil || !strings.Contains(strings.Join(words, "\n"), "be sure that your sites accepted it") {
		t.Errorf("a holder reads %q, %v", words, err)
	}
	if _, _, err := later[0].Sign(o, holder.Mark{}, time.Now()); !errors.Is(err, holder.ErrForeign) {
		t.Errorf("the set after signs already: %v", err)
	}
	s.signed(w, hs[1], hs[2])
	if s.trust.Head().Seq != 3 {
		t.Errorf("head %v", s.trust.Head())
	}
	s.rotate(api.RotateRequest{What: api.RotateWriter}) // goes over to the new writer
	s.sync("lon1")
	if es := s.chain("lon1"); es[len(es)-1].Requires.Trust != 3 {
		t.Errorf("the last entry waits for trust %d", es[len(es)-1].Requires.Trust)
	}
}

// body returns a copy of a trust document in force.
func (s *scene) body(t *testing.T, seq uint64) intent.TrustBody {
	t.Helper()
	chain := s.trust.Chain()
	return *chain.At(seq)
}

// A thief of the old roots was faster, and the coordinator follows him. The announced set goes on after the last good document, and the
// person's word takes the place back. What the thief signed is evidence.
func TestLostRootsAfterTheft(t *testing.T) {
	s, hs := held(t)
	s.apply(firstSite)
	var gone []*intent.Envelope
	for range 2 {
		b := *s.trust.Body()
		b.Header, b.Next = document.Follow(s.trust.Head(), intent.StreamTrust, 0, time.Now()), intent.DigestOf([]byte("the thief's"))
		env, err := document.Sign(intent.PayloadTrust, marshal(t, b), hs[0].Keys[0], hs[1].Keys[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.server().AddTrust(t.Context(), env); err != nil {
			t.Fatal(err)
		}
		gone = append(gone, env)
	}
	_, b, err := holder.Create("edge.example", 3, 2, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.server().Rotate(t.Context(), api.RotateRequest{What: api.RotateRoot, Lost: true, Next: &b.Next, After: 9}); err == nil || !strings.Contains(err.Error(), "no trust document 9") {
		t.Errorf("after a document that is not there: %v", err)
	}
	if _, err := s.server().Rotate(t.Context(), api.RotateRequest{What: api.RotateRoot, After: 1}); err == nil || !strings.Contains(err.Error(), "--lost") {
		t.Errorf("after without lost: %v", err)
	}
	q := api.RotateRequest{What: api.RotateRoot, Lost: true, Next: &b.Next, After: 1}
	offered := s.offer(s.rotate(q), hs[1], hs[2])
	if !strings.Contains(offered.Changes[0], "2 to 3 go OUT OF FORCE") {
		t.Errorf("changes %q", offered.Changes)
	}
	if _, err := s.accept(offered.Digest, "", false); err != nil {
		t.Fatal(err)
	}
	f := func() {
		t.Helper()
		if s.trust.Head().Hash != offered.Digest || s.trust.Head().Seq != 2 || s.trust.Forks() != 2 || len(s.trust.From(1)) != 2 || len(s.trust.From(3)) != 0 {
			t.Errorf("head %v, %d forks, %d documents", s.trust.Head(), s.trust.Forks(), len(s.trust.From(1)))
		}
	}
	f()
	s.restart()
	f()
	if _, err := s.server().AddTrust(t.Context(), gone[0]); err == nil || !strings.Contains(err.Error(), "forked") {
		t.Errorf("the thief again: %v", err)
	}
	f()
	if st := s.rotate(q); st.Offer != "" || s.trust.Head().Seq != 2 {
		t.Errorf("the same command again: %+v", st)
	}
}

// A backup holds what was accepted: the restored coordinator follows it, and shows newcomers and sticks the chain over it. One from before
// the acceptance gets the document from its agents as an offer.
func TestLostRootsBackup(t *testing.T) {
	s, hs := held(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	s.sync("lon1")
	log, pass := slog.New(slog.DiscardHandler), filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(pass, []byte("a long passphrase\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	save := func() string {
		t.Helper()
		s.close()
		defer s.open()
		var b bytes.Buffer
		if _, err := Backup(t.Context(), s.data, nil, Lock{Passphrase: pass}, log, &b); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "backup")
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	restored := func(file string) *scene {
		t.Helper()
		r := &scene{TB: t, data: filepath.Join(t.TempDir(), "c"), token: s.token}
		if _, err := Restore(t.Context(), file, r.data, nil, Unlock{Passphrase: pass}, log); err != nil {
			t.Fatal(err)
		}
		r.open()
		return r
	}
	before := save()
	_, b, err := holder.Create("edge.example", 3, 2, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	offered := s.offer(s.rotate(api.RotateRequest{What: api.RotateRoot, Lost: true, Next: &b.Next}), hs[0], hs[1])
	if _, err := s.accept(offered.Digest, "", false); err != nil {
		t.Fatal(err)
	}
	s.signed(s.rotate(api.RotateRequest{What: api.RotateWriter}), hs[0], hs[2])
	after := restored(save())
	if after.trust.Head() != s.trust.Head() || after.trust.Head().Seq != 3 {
		t.Errorf("head %v, want %v", after.trust.Head(), s.trust.Head())
	}
	chain := after.trust.Chain()
	if chain.Anchor() != offered.Digest {
		t.Errorf("tokens pin %s", chain.Anchor().Short())
	}
	old := restored(before)
	for _, env := range s.trust.From(2) {
		if _, err := old.rotation.Trust.Add(t.Context(), env, store.Commit{}); err == nil {
			t.Error("an older copy follows it without a person")
		}
	}
	if old.trust.Head().Seq != 1 || old.trust.Offered() == nil || old.trust.Offered().Digest() != offered.Digest {
		t.Errorf("older copy: head %v, offered %v", old.trust.Head(), old.trust.Offered())
	}
	if _, err := old.accept(offered.Digest, "", false); err != nil {
		t.Fatal(err)
	}
	if _, err := old.rotation.Trust.Add(t.Context(), s.trust.From(3)[0], store.Commit{}); err != nil || old.trust.Head() != s.trust.Head() {
		t.Errorf("%v, head %v", err, old.trust.Head())
	}
	var out bytes.Buffer
	if err := s.backend.ExportStick(t.Context(), &out, api.StickQuery{Site: "lon1", From: 1}); err != nil {
		t.Fatal(err)
	}
	rd, err := stick.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	var docs []*intent.Envelope
	for {
		l, err := rd.Next()
		if err != nil {
			break
		}
		if l.Trust != nil {
			docs = append(docs, l.Trust)
		}
	}
	if c, err := document.Believe(docs); err != nil || c.Head != s.trust.Head() {
		t.Errorf("the stick holds %d trust documents: %v", len(docs), err)
	}
}

// The other coordinator of one store follows an acceptance too, also one that goes back over what a thief signed.
func TestTwoCoordinatorsFollowAcceptance(t *testing.T) {
	both := pair(t, etcd.New(t, 1, etcd.Limits()...))
	data := both[0].cfg.Data
	stolen := nextTrust(t, data, both[0].trust, func(b *intent.TrustBody) { b.Floor = nil })
	first := both[0].trust.Head()
	next, err := publish.LoadSigner(filepath.Join(data, "keys", "next-sign.key"))
	if err != nil {
		t.Fatal(err)
	}
	b := *both[0].trust.Body()
	b.Header = document.Follow(first, intent.StreamTrust, 0, time.Now())
	b.Roots = intent.RootSet{Threshold: 1, Keys: [][]byte{document.MarshalKey(publicOf(next))}}
	b.Next = intent.DigestOf([]byte("the set after"))
	lone, err := document.Sign(intent.PayloadTrust, marshal(t, b), next)
	if err != nil {
		t.Fatal(err)
	}
	by := api.Caller{User: "admin"}
	if _, err := both[0].rotation.AddTrust(t.Context(), by, stolen); err != nil {
		t.Fatal(err)
	}
	if err := both[1].rotation.Reload(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if res, err := both[0].rotation.AddTrust(t.Context(), by, lone); err != nil || res.Offered == nil {
		t.Fatalf("%+v, %v", res, err)
	}
	if _, err := both[1].rotation.AcceptTrust(t.Context(), by, api.AcceptRequest{Digest: lone.Digest().Hex()}); err == nil {
		t.Error("accepted where it was not read yet")
	}
	if err := both[1].rotation.Reload(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := both[1].rotation.AcceptTrust(t.Context(), by, api.AcceptRequest{Digest: lone.Digest().Hex()}); err != nil {
		t.Fatal(err)
	}
	if err := both[0].rotation.Reload(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	for i, c := range both {
		if c.trust.Head().Hash != lone.Digest() || c.trust.Forks() != 1 || len(c.trust.From(1)) != 2 {
			t.Errorf("coordinator %d: head %v, %d forks, %d documents", i, c.trust.Head(), c.trust.Forks(), len(c.trust.From(1)))
		}
	}
}

func publicOf(k crypto.Signer) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// A coordinator that was rebuilt from its sites knows the digest of the announced roots alone: they are brought, and no others are
// taken for them.
func TestLostRootsRebuilt(t *testing.T) {
	s, hs := held(t)
	announced, err := s.store.Get(t.Context(), succession.SetKey(s.trust.Body().Next))
	if err != nil {
		t.Fatal(err)
	}
	set := &intent.RootSet{}
	if err := json.Unmarshal(announced.Value, set); err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.Commit(t.Context(), store.Commit{Delete: []string{announced.Key}}); err != nil {
		t.Fatal(err)
	}
	_, b, err := holder.Create("edge.example", 3, 2, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, lost := range []bool{false, true} {
		q := api.RotateRequest{What: api.RotateRoot, Lost: lost, Next: &b.Next}
		if _, err := s.server().Rotate(t.Context(), q); err == nil || !strings.Contains(err.Error(), "--announced FILE") {
			t.Errorf("lost %v, not brought: %v", lost, err)
		}
		q.Announced = &b.Next
		if _, err := s.server().Rotate(t.Context(), q); err == nil || !strings.Contains(err.Error(), "not the announced roots") {
			t.Errorf("lost %v, others: %v", lost, err)
		}
	}
	q := api.RotateRequest{What: api.RotateRoot, Lost: true, Next: &b.Next, Announced: set}
	st := s.rotate(q)
	if q.Announced = nil; s.rotate(q).Offer != st.Offer {
		t.Error("what was brought is forgotten")
	}
	offered := s.offer(st, hs[0], hs[1])
	if _, err := s.accept(offered.Digest, "", false); err != nil || !s.trust.Body().Roots.Equal(*set) {
		t.Errorf("%v, the roots are %s", err, s.trust.Body().Roots.Digest().Short())
	}
}
