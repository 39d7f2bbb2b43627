package coordinator

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator/founding"
	"github.com/skerry-metal/skerry/coordinator/rotation"
	"github.com/skerry-metal/skerry/coordinator/secrets"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/rotate"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
)

// turners are agents as the rotation sees them, with real keys: they answer orders, and go over when the roster lists their keys.
type turners struct {
	*scene
	clock  time.Time
	agents []*turner
}

type turner struct {
	site, id string
	keys     []*seal.Keys // the newest last
	used     int          // which of them its session shows
	ca       intent.Digest
	up       bool
	heard    time.Time
	at       uint64 // place in the chain
}

func newTurners(t *testing.T, s *scene, names ...string) *turners {
	t.Helper()
	x := &turners{scene: s, clock: time.Now()}
	for _, n := range names {
		site, id, _ := strings.Cut(n, "/")
		x.agents = append(x.agents, &turner{site: site, id: id, up: true, keys: []*seal.Keys{x.join(site, id)}, heard: x.clock})
	}
	x.hook()
	return x
}

// hook lets the rotation see these agents instead of sessions, and the test's clock; a restart needs it again.
func (x *turners) hook() {
	now := func() time.Time { return x.clock }
	x.rotation.Now, x.Coordinator.agents.now = now, now
	x.rotation.Sessions = func() (out []uplink.SessionInfo) {
		for _, a := range x.agents {
			if a.up {
				out = append(out, uplink.SessionInfo{Site: a.site, Agent: a.id, Heard: x.clock, Key: a.spki(x.TB, a.used), CA: a.ca, Applied: uplink.Heads{Intent: intent.Head{Seq: a.at}}})
			}
		}
		return out
	}
	x.rotation.Reports = func(site string) rotation.Heard {
		h := rotation.Heard{Contacts: map[string]rotation.Contact{}}
		for _, a := range x.agents {
			if a.site == site {
				h.Contacts[a.id] = rotation.Contact{At: a.heard}
			}
		}
		return h
	}
	x.rotation.Notify = func(string) {}
	x.rotation.Publish = func(ctx context.Context, site string) (intent.Head, *intent.RosterBody, error) {
		if err := x.Coordinator.agents.Sync(ctx, site); err != nil {
			return intent.Head{}, nil, err
		}
		r, err := x.Coordinator.agents.Roster(ctx, site)
		return x.head(site), r, err
	}
}

func (a *turner) spki(t testing.TB, n int) intent.Digest {
	t.Helper()
	b, err := a.keys[n].TLSPublic()
	if err != nil {
		t.Fatal(err)
	}
	return intent.DigestOf(b)
}

func (a *turner) who() trust.Identity {
	return trust.Identity{Kind: trust.Agent, Site: a.site, ID: a.id}
}

func (x *turners) entry(a *turner) intent.RosterAgent {
	x.Helper()
	r, err := x.Coordinator.agents.Roster(x.Context(), a.site)
	if err != nil {
		x.Fatal(err)
	}
	i := slices.IndexFunc(r.Agents, func(m intent.RosterAgent) bool { return m.ID == a.id })
	return r.Agents[i]
}

// act is what an agent does when it is told heads.
func (x *turners) act(a *turner) {
	x.Helper()
	if !a.up {
		return
	}
	a.at, a.heard = x.head(a.site).Seq, x.clock
	o, err := x.rotation.Order(x.Context(), a.who())
	if err != nil {
		x.Fatal(err)
	}
	if o.Want == rotate.WantKeys && a.used == len(a.keys)-1 {
		k, err := seal.Generate()
		if err != nil {
			x.Fatal(err)
		}
		a.keys = append(a.keys, k)
	}
	if o.Want != "" {
		x.offer(a, o, a.keys[len(a.keys)-1], "")
	}
	me := x.entry(a)
	if newest := len(a.keys) - 1; len(me.TLS) > 0 && intent.DigestOf(me.TLS[0]) == a.spki(x.TB, newest) {
		a.used = newest
	}
	for _, der := range me.Certs {
		if c, err := x509.ParseCertificate(der); err == nil && c.CheckSignatureFrom(x.rotation.CA()) == nil {
			a.ca = trust.SPKIOf(x.rotation.CA())
		}
	}
}

func (x *turners) offer(a *turner, o rotate.Order, k *seal.Keys, refused string) {
	x.Helper()
	offer, err := rotate.NewOffer(o, a.site+"/"+a.id, k)
	if err != nil {
		x.Fatal(err)
	}
	err = x.rotation.Take(x.Context(), a.who(), marshal(x.TB, offer))
	if (err == nil) != (refused == "") || err != nil && !strings.Contains(err.Error(), refused) {
		x.Errorf("offer of %s/%s: %v, want %q", a.site, a.id, err, refused)
	}
}

func (x *turners) step() {
	x.Helper()
	if _, err := x.rotation.Step(x.Context()); err != nil {
		x.Fatal(err)
	}
}

// settle lets everybody act until nothing moves, checks the order of things on the way, and counts the keys that changed.
func (x *turners) settle() (changed int) {
	x.Helper()
	for idle := 0; idle < 3; {
		busy, err := x.rotation.Step(x.Context())
		if err != nil {
			x.Fatal(err)
		}
		idle++
		changing, sites, under := 0, map[string]string{}, x.under()
		for _, a := range x.agents {
			st := under[a.site+"/"+a.id]
			if st.Phase != "" && !strings.HasPrefix(st.Ledger[0].Held, "after ") && !strings.HasPrefix(st.Ledger[0].Held, "offline") && (st.Phase == api.PhaseAccept || st.Phase == api.PhaseUse) {
				changing++
				if o := sites[a.site]; o != "" {
					x.Errorf("%s and %s of %s change at once", o, a.id, a.site)
				}
				sites[a.site] = a.id
			}
		}
		if changing > 4 {
			x.Errorf("%d agents change at once", changing)
		}
		for _, a := range x.agents {
			used, at, keys := a.used, a.at, len(a.keys)
			x.act(a)
			changed += a.used - used
			if a.used != used || a.at != at || len(a.keys) != keys {
				idle = 0
			}
		}
		if !busy {
			idle++
		}
	}
	return changed
}

// under lists what is under way, by agent.
func (x *turners) under() map[string]api.RotationStatus {
	x.Helper()
	l, err := x.rotation.Rotations(x.Context())
	if err != nil {
		x.Fatal(err)
	}
	out := map[string]api.RotationStatus{}
	for _, s := range l.Items {
		out[s.Target] = s
	}
	return out
}

// status is what is under way of an agent, nil for nothing.
func (x *turners) status(a *turner) *api.RotationStatus {
	x.Helper()
	if st, ok := x.under()[a.site+"/"+a.id]; ok {
		return &st
	}
	return nil
}

func (x *turners) rotate(q api.RotateRequest) *api.RotationStatus {
	x.Helper()
	q.What = api.RotateAgent
	st, err := x.rotation.Rotate(x.Context(), x.admin, q)
	if err != nil {
		x.Fatal(err)
	}
	return st
}

// Keys turn once a year by themselves, a few at a time and never two agents of a site at once, over virtual years. Who was away for
// five of them finds its old key in the roster, holds the retirement of its peer's with its name, and catches up when it returns.
func TestKeysTurnYearly(t *testing.T) {
	s := found1(t)
	var names []string
	sites := ""
	for i := range 6 {
		site := fmt.Sprintf("s%d", i)
		sites += fmt.Sprintf(`{"kind":"Site","metadata":{"name":%q},"spec":{"region":"eu","zone":"z"}}`, site) + "\n"
		names = append(names, site+"/a1", site+"/a2")
	}
	s.apply(sites)
	x := newTurners(t, s, names...)
	day := func(n int) (changed int) {
		x.clock = x.clock.Add(time.Duration(n) * 24 * time.Hour)
		return x.settle()
	}
	if n := day(300); n != 0 {
		t.Fatalf("%d keys changed after 300 days", n)
	}
	changed := day(66)
	for range 6 {
		changed += day(1)
	}
	if changed != len(names) {
		t.Errorf("%d keys changed after a year, want %d", changed, len(names))
	}
	for _, a := range x.agents {
		if me := x.entry(a); len(me.TLS) != 1 || len(me.Sign) != 1 || len(me.Seal) != 1 || len(me.Certs) != 2 || len(me.Past) != 1 || x.status(a) != nil {
			t.Errorf("%s/%s: %d tls, %d sign, %d seal keys, %d certificates, %d of before, %+v", a.site, a.id, len(me.TLS), len(me.Sign), len(me.Seal), len(me.Certs), len(me.Past), x.status(a))
		}
	}
	if n := day(20); n != 0 {
		t.Errorf("%d keys changed at once again", n)
	}

	// One that is away: the yearly turn leaves its site alone, an operator does not.
	away, peer := x.agents[0], x.agents[1]
	away.up = false
	changed = 0
	for range 8 { // two years
		changed += day(100)
	}
	if changed != 2*(len(names)-2) || x.status(peer) != nil {
		t.Errorf("%d keys changed in two years, want %d; %+v", changed, 2*(len(names)-2), x.status(peer))
	}
	x.rotate(api.RotateRequest{Site: "s0", Agent: "a2", Again: true})
	x.rotate(api.RotateRequest{Site: "s0", Agent: "a1", Again: true})
	for range 10 { // and three more
		day(100)
	}
	st := x.status(peer)
	if st == nil || peer.used != 2 || st.Phase != api.PhaseRetire || !strings.Contains(st.Ledger[0].Held, "waits for s0/a1, heard 18") || !st.Waits() {
		t.Errorf("the peer: %+v", st)
	}
	if st := x.status(away); st == nil || st.Phase != api.PhaseAccept || !strings.HasPrefix(st.Ledger[0].Held, "offline, heard 18") {
		t.Errorf("the absent: %+v", st)
	}
	if me := x.entry(away); len(me.TLS) != 1 || intent.DigestOf(me.TLS[0]) != away.spki(t, 1) {
		t.Error("the roster does not list the key that the absent agent has")
	}
	away.up = true
	for range 3 {
		day(1)
	}
	if away.used != 2 || x.status(away) != nil || x.status(peer) != nil || len(x.entry(peer).TLS) != 1 || len(x.entry(away).TLS) != 1 {
		t.Errorf("back: key %d is used, %+v, peer %+v", away.used, x.status(away), x.status(peer))
	}
}

// One rotation step by step, with a restart of the coordinator after each: secrets are sealed to the new key before it is used, the
// roster lists both keys until retire, the answer to an offer may be lost, a foreign offer is refused, a finished rotation is not begun
// again unasked, and the audit log has every step.
func TestRotateAgentStepByStep(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	x := newTurners(t, s, "lon1/a1", "lon1/a2")
	a1, a2 := x.agents[0], x.agents[1]
	x.sync("lon1")
	want := x.told("lon1", "a1", a1.keys[0])
	if !strings.Contains(want["bmc"], password) {
		t.Fatalf("told %q", want)
	}
	restart := func() {
		x.restart()
		x.hook()
	}
	again := func() *api.RotationStatus { return x.rotate(api.RotateRequest{Site: "lon1", Agent: "a1"}) }
	dry := x.rotate(api.RotateRequest{Site: "lon1", Agent: "a1", DryRun: true})
	if dry.Phase != api.PhaseAccept || dry.Next == "" || x.status(a1) != nil {
		t.Errorf("dry run: %+v", dry)
	}
	fresh, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	x.offer(a1, rotate.Order{N: 1}, fresh, "nobody asked")
	if st := again(); st.Phase != api.PhaseAccept || st.Ledger[0].Held != "" {
		t.Errorf("begun: %+v", st)
	}
	restart()
	x.step()
	x.offer(a1, rotate.Order{N: 2}, fresh, "nobody asked")
	x.offer(a1, rotate.Order{N: 1}, a1.keys[0], "no new ones")
	x.offer(a2, rotate.Order{N: 1}, fresh, "nobody asked")
	x.offer(a1, rotate.Order{N: 1}, fresh, "")
	x.offer(a1, rotate.Order{N: 1}, fresh, "") // the answer was lost
	restart()
	x.offer(a1, rotate.Order{N: 1}, fresh, "")
	if me := x.entry(a1); len(me.TLS) != 1 {
		t.Error("the roster was published by nobody")
	}
	x.step()
	me := x.entry(a1)
	if len(me.TLS) != 2 || intent.DigestOf(me.TLS[1]) != a1.spki(t, 0) || len(me.Sign) != 2 || len(me.Seal) != 2 || len(me.Certs) != 4 || len(me.Past) != 0 {
		t.Errorf("the roster lists %d, %d, %d keys, %d certificates", len(me.TLS), len(me.Sign), len(me.Seal), len(me.Certs))
	}
	if got := x.told("lon1", "a1", fresh); got["bmc"] != want["bmc"] || got[secrets.BootKey] != want[secrets.BootKey] {
		t.Errorf("sealed to the new key: %q", got)
	}
	for _, k := range []*seal.Keys{a1.keys[0], fresh} {
		if !x.admits(a1, k) {
			t.Error("one of the keys may not speak")
		}
	}
	a1.keys = append(a1.keys, fresh)
	restart()
	x.step()
	if st := again(); st.Phase != api.PhaseUse || st.Steps[0].Text != fmt.Sprintf("roster %d", x.generation("lon1")) {
		t.Errorf("use: %+v", st)
	}
	a1.used, a1.at, a1.heard = 1, x.head("lon1").Seq, x.clock
	x.step()
	restart()
	x.step()
	st := again()
	if st.Phase != api.PhaseRetire || !strings.HasPrefix(st.Ledger[0].Held, "waits for lon1/a2, heard") || st.Steps[0].Have != 1 || st.Steps[0].Of != 2 {
		t.Errorf("retire: %+v", st)
	}
	x.clock = x.clock.Add(400 * 24 * time.Hour)
	a2.up = false
	if st := x.rotate(api.RotateRequest{Site: "lon1", Agent: "a1", ForceAfterSeconds: 401 * 86400}); st.Phase != api.PhaseRetire {
		t.Errorf("forced too early: %+v", st)
	}
	x.step()
	if len(x.entry(a1).TLS) != 2 {
		t.Error("the old key was retired too early")
	}
	x.rotate(api.RotateRequest{Site: "lon1", Agent: "a1", ForceAfterSeconds: 400 * 86400})
	x.step()
	restart() // the entry is changed, the roster not published
	x.step()
	me = x.entry(a1)
	if len(me.TLS) != 1 || len(me.Sign) != 1 || len(me.Seal) != 1 || len(me.Certs) != 2 || len(me.Past) != 1 || x.admits(a1, a1.keys[0]) || !x.admits(a1, fresh) {
		t.Errorf("retired: %d, %d, %d keys, %d certificates, %d of before", len(me.TLS), len(me.Sign), len(me.Seal), len(me.Certs), len(me.Past))
	}
	if keys, err := x.signKeys(t.Context(), "lon1"); err != nil || len(keys["a1"]) != 2 {
		t.Errorf("%d keys verify what a1 signed, %v", len(keys["a1"]), err)
	}
	a1.at = x.head("lon1").Seq
	x.step()
	if st := again(); st.Phase != api.PhaseDone || !strings.Contains(st.Next, "--again") || x.status(a1) != nil {
		t.Errorf("done: %+v", st)
	}
	if st := x.rotate(api.RotateRequest{Site: "lon1", Agent: "a1", Again: true}); st.Phase != api.PhaseAccept {
		t.Errorf("again: %+v", st)
	}
	if got, want := x.audited("Agent lon1/a1"), "rotate rotate.accepted rotate.used rotate rotate rotate.retired rotate.done rotate"; got != want {
		t.Errorf("the audit log has %q, want %q", got, want)
	}
}

// All agents of a site turn one after the other, by rank; who has no session waits in the ledger and holds up nobody.
func TestRotateSite(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	x := newTurners(t, s, "lon1/a1", "lon1/a2", "lon1/a3")
	x.agents[1].up = false
	st := x.rotate(api.RotateRequest{Site: "lon1", All: true})
	if len(st.Ledger) != 3 || st.Phase != api.PhaseAccept || st.Waits() {
		t.Errorf("%+v", st)
	}
	x.settle()
	st = x.rotate(api.RotateRequest{Site: "lon1", All: true})
	if x.agents[0].used != 1 || x.agents[2].used != 1 || !st.Waits() || !strings.HasPrefix(st.Ledger[1].Held, "offline, heard") {
		t.Errorf("keys %d and %d, %+v", x.agents[0].used, x.agents[2].used, st)
	}
	x.agents[1].up = true
	x.settle()
	if st = x.rotate(api.RotateRequest{Site: "lon1", All: true}); st.Phase != api.PhaseDone || x.agents[1].used != 1 {
		t.Errorf("%+v", st)
	}
	for _, q := range []api.RotateRequest{{Site: "lon1"}, {Site: "lon1", Agent: "a1", All: true}, {Site: "lon1", Agent: "a9"}, {Site: "par1", All: true}} {
		q.What = api.RotateAgent
		if _, err := x.rotation.Rotate(t.Context(), x.admin, q); err == nil {
			t.Errorf("%+v passes", q)
		}
	}
	x.delete(intent.Key{Kind: intent.KindAgent, Scope: "lon1", Name: "a3"}) // in the middle of a rotation
	x.rotate(api.RotateRequest{Site: "lon1", All: true, Again: true})
	x.sync("lon1")
	x.agents = x.agents[:2]
	x.settle()
	if l, err := x.rotation.Rotations(t.Context()); err != nil || len(l.Items) != 0 {
		t.Errorf("under way: %+v, %v", l, err)
	}
}

// A coordinator that was put back to before a rotation, and took the roster over from the site, goes on with it.
func TestRotationAfterOldStore(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	x := newTurners(t, s, "lon1/a1", "lon1/a2")
	a1 := x.agents[0]
	x.rotate(api.RotateRequest{Site: "lon1", Agent: "a1"})
	x.step()
	o, err := x.rotation.Order(t.Context(), a1.who())
	if err != nil || o.Want != rotate.WantKeys {
		t.Fatalf("%+v, %v", o, err)
	}
	fresh, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	x.offer(a1, o, fresh, "")
	a1.keys = append(a1.keys, fresh)
	x.step()
	if _, err := x.store.Commit(t.Context(), store.Commit{Delete: []string{"rotation/agent/lon1/a1"}}); err != nil {
		t.Fatal(err)
	}
	x.settle()
	if me := x.entry(a1); len(me.TLS) != 1 || intent.DigestOf(me.TLS[0]) != a1.spki(t, 1) || a1.used != 1 {
		t.Errorf("%d keys, %d is used", len(me.TLS), a1.used)
	}
}

// When the trust document says to use another CA, which this coordinator has, every agent gets a certificate under it on the keys that
// it has, as it comes; the roster lists both until the old CA is retired. Who has it is counted.
func TestCertificatesUnderAnotherCA(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	x := newTurners(t, s, "lon1/a1", "lon1/a2")
	x.agents[1].up = false
	root, err := ca.Load(s.data+"/keys", founding.NameRoot, s.domain)
	if err != nil {
		t.Fatal(err)
	}
	second, err := root.Sub("c1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	first := s.trust.Body().CAs[0]
	say := func(was, is intent.KeyState) {
		t.Helper()
		env := nextTrust(t, s.data, s.trust, func(b *intent.TrustBody) {
			b.CAs = []intent.CACert{{Cert: first.Cert, Root: first.Root, State: was}, {Cert: second.Cert.Raw, Root: first.Root, State: is}}
		})
		if _, err := s.trust.Add(t.Context(), env, store.Commit{}); err != nil {
			t.Fatal(err)
		}
		x.settle()
	}
	count := func() string {
		t.Helper()
		l, err := x.rotation.Rotations(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range l.Items {
			if i.What == api.RotateCA {
				return fmt.Sprintf("%s %d/%d %d/%d", i.Phase, i.Steps[0].Have, i.Steps[0].Of, i.Steps[1].Have, i.Steps[1].Of)
			}
		}
		return "done"
	}
	under := func(a *turner) (n [2]int) {
		for _, der := range x.entry(a).Certs {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			if c.CheckSignatureFrom(second.Cert) == nil {
				n[1]++
			} else {
				n[0]++
			}
		}
		return n
	}
	say(intent.KeyUse, intent.KeyAccept)
	if err := second.Save(s.data+"/keys", "ca.next"); err != nil {
		t.Fatal(err)
	}
	if err := s.issuer.Take(second.Cert.Raw, time.Now()); err != nil {
		t.Fatal(err)
	}
	x.settle()
	if under(x.agents[0]) != [2]int{2, 0} {
		t.Error("certificates under a CA that is not to be used")
	}
	say(intent.KeyAccept, intent.KeyUse)
	x.sync("lon1")
	x.settle()
	if under(x.agents[0]) != [2]int{2, 2} || under(x.agents[1]) != [2]int{2, 0} || count() != "accept 1/2 1/2" {
		t.Errorf("certificates %v and %v, %s", under(x.agents[0]), under(x.agents[1]), count())
	}
	x.agents[1].up = true
	x.settle()
	x.sync("lon1")
	x.settle()
	if under(x.agents[1]) != [2]int{2, 2} || count() != "done" {
		t.Errorf("certificates %v, %s", under(x.agents[1]), count())
	}
	say(intent.KeyRetire, intent.KeyUse)
	x.sync("lon1")
	if under(x.agents[0]) != [2]int{0, 2} || len(x.entry(x.agents[0]).TLS) != 1 {
		t.Errorf("after the retirement: %v", under(x.agents[0]))
	}
}

func (x *turners) admits(a *turner, k *seal.Keys) bool {
	x.Helper()
	b, err := k.TLSPublic()
	if err != nil {
		x.Fatal(err)
	}
	id := a.who()
	id.SPKI = intent.DigestOf(b)
	return x.view.View().Admits(id)
}

func (x *turners) generation(site string) uint64 {
	x.Helper()
	r, err := x.Coordinator.agents.Roster(x.Context(), site)
	if err != nil {
		x.Fatal(err)
	}
	return r.Generation
}

// audited lists the verbs that the coordinator's audit log has of an object.
func (x *turners) audited(object string) string {
	x.Helper()
	var out []string
	err := x.audit.Audit(x.Context(), "", func(l api.AuditLine) error {
		var r intent.AuditRecord
		if l.Record != nil && json.Unmarshal(l.Record, &r) == nil && r.Object == object && strings.HasPrefix(r.Verb, "rotate") {
			out = append(out, r.Verb)
		}
		return nil
	})
	if err != nil {
		x.Fatal(err)
	}
	return strings.Join(out, " ")
}
