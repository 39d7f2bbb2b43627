package coordinator

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/holder"
)

// held founds a domain with three holders, of whom two sign, and returns them with its scene.
func held(t *testing.T) (*scene, []*holder.Holder) {
	t.Helper()
	hs, b, err := holder.Create("edge.example", 3, 2, true, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := holder.EncodeBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{TB: t, data: t.TempDir()}
	roots := filepath.Join(t.TempDir(), "roots.json")
	if err := os.WriteFile(roots, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := InitConfig{Data: s.data, Domain: "edge.example", ID: "c1", Addr: []string{"127.0.0.1:7443"}, Admin: "admin", Logger: slog.New(slog.DiscardHandler), Roots: roots}
	for want, h := range hs[:2] {
		res, err := Init(t.Context(), cfg)
		if err != nil || res.Have != want || res.Of != 2 {
			t.Fatalf("%+v, %v", res, err)
		}
		o, err := holder.LoadOffer(res.Offer)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := h.Sign(o, holder.Mark{}, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := holder.SaveOffer(res.Offer, o); err != nil {
			t.Fatal(err)
		}
	}
	res, err := Init(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.token = res.Token
	s.open()
	return s, hs
}

func (s *scene) rotate(q api.RotateRequest) *api.RotationStatus {
	s.Helper()
	st, err := s.server().Rotate(s.Context(), q)
	if err != nil {
		s.Fatal(err)
	}
	return st
}

// signed lets two holders sign what a rotation offers, and brings it.
func (s *scene) signed(st *api.RotationStatus, hs ...*holder.Holder) {
	s.Helper()
	o, err := holder.DecodeOffer([]byte(st.Offer))
	if err != nil {
		s.Fatalf("%+v: %v", st, err)
	}
	for _, h := range hs {
		if _, _, err := h.Sign(o, holder.Mark{}, time.Now()); err != nil {
			s.Fatal(err)
		}
	}
	if _, err := s.server().AddTrust(s.Context(), o.Signed); err != nil {
		s.Fatal(err)
	}
}

// report lets an agent say how far it is.
func (s *scene) report(site, agent string, trust uint64, head intent.Head) {
	s.Helper()
	r := intent.Report{Site: site, Agent: agent, Boot: "b", Rev: head.Seq, Head: head, Agents: []intent.AgentReport{{ID: agent, Alive: "yes", Head: head}}, Keys: &intent.KeyReport{Trust: trust}}
	if err := s.objects.setReport(s.Context(), site, r, s.objects.now()); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) writers() string {
	var out []string
	for _, w := range s.trust.Body().Writers {
		out = append(out, string(w.State))
	}
	return strings.Join(out, " ")
}

// The writer changes with holders elsewhere and a crash after each step: each time the same command goes on, offers the same bytes, and
// the site's chain is never forked. The old writer is retired once the site has heard; what it signed counts below the new one's entry.
func TestRotateWriter(t *testing.T) {
	s, hs := held(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	before := s.sync("lon1")
	q := api.RotateRequest{What: api.RotateWriter}
	dry := q
	dry.DryRun = true
	if st := s.rotate(dry); st.Phase != api.PhaseAccept || st.Offer != "" || s.trust.Head().Seq != 1 {
		t.Errorf("dry run: %+v", st)
	}
	one := s.rotate(q)
	s.restart()
	if st := s.rotate(q); st.Offer != one.Offer || !st.Waits() || st.Phase != api.PhaseAccept {
		t.Errorf("after a crash another document is offered: %+v", st)
	}
	s.signed(one, hs[1], hs[2])
	s.restart() // the document is in, the key has not taken over
	if h := s.sync("lon1"); h != before {
		t.Errorf("the chain moved to %v", h)
	}
	use := s.rotate(q)
	if use.Phase != api.PhaseUse || len(use.Ledger) != 1 || use.Ledger[0].Phase != api.PhaseUse || !strings.Contains(use.Ledger[0].Held, "offline") || use.Offer != "" {
		t.Errorf("use: %+v", use)
	}
	after := s.head("lon1")
	if after.Epoch != 2 || after.Seq != before.Seq+1 || s.writers() != "use accept" {
		t.Errorf("head %v after %v, writers %s", after, before, s.writers())
	}
	s.restart() // the key has taken over
	if h := s.sync("lon1"); h != after {
		t.Errorf("a second vouching entry: %v", h)
	}
	s.report("lon1", "a1", 2, before)
	if st := s.rotate(q); st.Phase != api.PhaseUse || !strings.Contains(st.Next, "waits for lon1/a1") || s.writers() != "use accept" {
		t.Errorf("an agent below the new epoch does not hold it: %+v", st)
	}
	s.report("lon1", "a1", 2, after)
	retire := s.rotate(q)
	if retire.Phase != api.PhaseRetire || retire.Offer == "" {
		t.Fatalf("retire: %+v", retire)
	}
	s.restart()
	if st := s.rotate(q); st.Offer != retire.Offer {
		t.Error("after a crash another document is offered")
	}
	s.signed(retire, hs[0], hs[2])
	s.restart()
	if st := s.rotate(q); st.Phase != api.PhaseDone || s.writers() != "retire use" {
		t.Errorf("%+v, writers %s", st, s.writers())
	}
	if st := s.rotate(q); st.Phase != api.PhaseDone || !strings.Contains(st.Next, "--again") || s.trust.Head().Seq != 3 {
		t.Errorf("a finished rotation began anew: %+v", st)
	}
	// A newcomer walks the whole chain; the audit log of both writers verifies.
	if got := s.chain("lon1"); len(got) != int(after.Seq) {
		t.Errorf("%d entries, want %d", len(got), after.Seq)
	}
	if keys := s.audit.Writers(); len(keys) != 2 {
		t.Errorf("%d keys of audit heads", len(keys))
	}
	q.Again = true
	if st := s.rotate(q); st.Offer == "" {
		t.Errorf("again: %+v", st)
	}
}

// One holder on the host: the command signs by itself, and goes as far as sites have followed. An agent that was away for long holds it,
// unless it is forced; it finds an entry of the new writer in its chain all the same.
func TestRotateWriterAlone(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	before := s.sync("lon1")
	q := api.RotateRequest{What: api.RotateWriter}
	if st := s.rotate(q); st.Phase != api.PhaseUse || st.Offer != "" || s.writers() != "use accept" || s.head("lon1").Epoch != 2 {
		t.Fatalf("%+v, writers %s", st, s.writers())
	}
	q.ForceAfterSeconds = 3600
	if st := s.rotate(q); st.Phase != api.PhaseUse {
		t.Errorf("forced over who was away for a moment: %+v", st)
	}
	s.rotation.Domain.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if st := s.rotate(q); st.Phase != api.PhaseDone || s.writers() != "retire use" {
		t.Errorf("%+v, writers %s", st, s.writers())
	}
	// The absent one: what it has ends on the retired writer, and the new entry vouches for it.
	chain := document.IntentChain{Site: "lon1", Writers: s.trust.Body().Writers}
	var envs []*intent.Envelope
	if err := s.agents.pub.Feed(t.Context(), "lon1", 1, func(env *intent.Envelope) error { envs = append(envs, env); return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := chain.AcceptRun(envs[:before.Seq]); !errors.Is(err, document.ErrRetired) {
		t.Errorf("entries of the retired writer alone: %v", err)
	}
	if _, err := chain.AcceptRun(envs); err != nil {
		t.Error(err)
	}
}

// A site that is held keeps the old writer, whatever is forced: its chain may not go on yet.
func TestRotateWriterHeldSite(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	s.sync("lon1")
	if _, err := s.store.Commit(t.Context(), store.Commit{Put: map[string][]byte{publish.HeldKey("lon1"): []byte(`{"why":"a test"}`)}}); err != nil {
		t.Fatal(err)
	}
	st := s.rotate(api.RotateRequest{What: api.RotateWriter, ForceAfterSeconds: 1})
	if st.Phase != api.PhaseUse || s.writers() != "use accept" || !slices.ContainsFunc(st.Ledger, func(r api.RotationRow) bool { return r.Agent == "lon1" && r.Held != "" }) {
		t.Errorf("%+v, writers %s", st, s.writers())
	}
}

// Roots change twice: old and announced holders sign one document that announces the next ones, and the old ones sign nothing more.
func TestRotateRoots(t *testing.T) {
	s, hs := held(t)
	q := api.RotateRequest{What: api.RotateRoot}
	if _, err := s.server().Rotate(t.Context(), q); err == nil || !strings.Contains(err.Error(), "pki init --next") {
		t.Errorf("without next roots: %v", err)
	}
	later, b, err := holder.Create("edge.example", 3, 2, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	q.Next = &b.Next
	one := s.rotate(q)
	s.restart()
	q.Next = nil
	if st := s.rotate(q); st.Offer != one.Offer {
		t.Error("after a crash another document is offered")
	}
	was := s.trust.Body().Next
	s.signed(one, hs[0], hs[2])
	if st := s.rotate(q); st.Phase != api.PhaseDone || s.trust.Body().Roots.Digest() != was || s.trust.Body().Next != b.Next.Digest() {
		t.Errorf("%+v", st)
	}
	_, b2, err := holder.Create("edge.example", 3, 2, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	q.Next, q.Again = &b2.Next, true
	two := s.rotate(q)
	s.signed(two, hs[0], hs[1], later[1], later[2])
	if s.trust.Head().Seq != 3 {
		t.Errorf("head %v", s.trust.Head())
	}
	w := s.rotate(api.RotateRequest{What: api.RotateWriter})
	o, err := holder.DecodeOffer([]byte(w.Offer))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := hs[0].Sign(o, holder.Mark{}, time.Now()); !errors.Is(err, holder.ErrForeign) {
		t.Errorf("an old root signs: %v", err)
	}
	s.signed(w, later...)
}

// With one holder on the host the keys move on, whatever step a crash comes after.
func TestRotateRootsAlone(t *testing.T) {
	s := found1(t)
	q := api.RotateRequest{What: api.RotateRoot}
	for turn := range uint64(3) {
		next := s.trust.Body().Next
		if st := s.rotate(q); st.Phase != api.PhaseDone || s.trust.Head().Seq != turn+2 || s.trust.Body().Roots.Digest() != next {
			t.Fatalf("%+v", st)
		}
		s.restart()
		q.Again = true
	}
}

// The CA changes with holders elsewhere and a crash after each step: the key is made here once, a holder certifies it, and an agent that
// was not there is waited for before the old one is retired.
func TestRotateCAByHolders(t *testing.T) {
	s, hs := held(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	s.sync("lon1")
	q := api.RotateRequest{What: api.RotateCA}
	first := s.issuer.CA().Cert
	one := s.rotate(q)
	s.restart()
	two := s.rotate(q)
	if one.Offer == "" || one.Offer != two.Offer || !s.issuer.CA().Cert.Equal(first) {
		t.Fatalf("offered %q, then %q", one.Next, two.Next)
	}
	s.signed(two, hs[1], hs[2])
	s.restart()
	st := s.rotate(q)
	second := s.issuer.CA().Cert
	if second.Equal(first) || st.Phase != api.PhaseUse || st.Offer != "" || !strings.Contains(st.Next, "lon1/a1") {
		t.Errorf("%s is used: %+v", second.Subject.CommonName, st)
	}
	s.restart()
	q.ForceAfterSeconds = 1
	s.rotation.Domain.Now = func() time.Time { return time.Now().Add(time.Hour) }
	st = s.rotate(q)
	if st.Phase != api.PhaseRetire || st.Offer == "" {
		t.Fatalf("the last document is not offered: %+v", st)
	}
	s.signed(st, hs[0], hs[1])
	if st = s.rotate(q); st.Phase != api.PhaseDone || !s.issuer.CA().Cert.Equal(second) {
		t.Errorf("not done: %+v", st)
	}
	var states []string
	for _, c := range s.trust.Body().CAs {
		states = append(states, string(c.State))
	}
	if got := strings.Join(states, " "); got != "retire use" {
		t.Errorf("CAs are %s", got)
	}
}

// A coordinator with a wrong clock signed, and raised what everybody believes to have passed: holders lower it, by the same file and
// signatures as any trust document; said again it is nothing new.
func TestLowerTheFloor(t *testing.T) {
	s, hs := held(t)
	leapt, right := time.Now().AddDate(3, 0, 0), time.Now().UTC().Truncate(time.Second)
	s.wall = func() time.Time { return leapt }
	s.restart()
	if err := s.clock.Sign(); err == nil {
		t.Fatal("a clock that leapt by three years signs")
	}
	s.looked = true // by mistake
	s.restart()
	if err := s.clock.Sign(); err != nil {
		t.Fatal(err)
	}
	s.wall, s.looked = nil, false
	s.restart()
	if d := s.clock.Now().Sub(leapt).Abs(); d > time.Minute {
		t.Fatalf("the floor is %v, want %v", s.clock.Now(), leapt)
	}
	q := api.RotateRequest{What: api.RotateFloor, Floor: &right}
	dry := q
	dry.DryRun = true
	if st := s.rotate(dry); st.Offer != "" || st.Next == "" {
		t.Errorf("dry run: %+v", st)
	}
	st := s.rotate(q)
	if st.Offer == "" || st.Phase != api.PhaseAccept {
		t.Fatalf("%+v", st)
	}
	s.signed(st, hs[0], hs[1])
	if st := s.rotate(q); st.Phase != api.PhaseDone || st.Trust.Seq != 2 {
		t.Errorf("%+v", st)
	}
	if d := time.Since(s.clock.Now()).Abs(); d > time.Minute {
		t.Errorf("the coordinator's own floor is off by %v", d)
	}
	if st := s.rotate(q); st.Phase != api.PhaseDone || st.Trust.Seq != 2 {
		t.Errorf("said again: %+v", st)
	}
	if _, err := s.server().Rotate(t.Context(), api.RotateRequest{What: api.RotateFloor}); err == nil {
		t.Error("lowered to nothing")
	}
}
