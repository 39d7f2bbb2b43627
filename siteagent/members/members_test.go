package members

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	"github.com/skerry-metal/skerry/storage/state"
)

// site is the agents of one site, joined in memory.
type site struct {
	*testing.T
	author *sitetest.Author
	dirs   map[string]string
	keys   map[string]*seal.Keys
	agents map[string]*agent
	gone   map[string]bool // do not answer
}

type agent struct {
	*Keeper
	db     *state.DB
	closed int // how often sessions were gone through
}

// newSite makes agents, and spares from names that begin with "spare:".
func newSite(t *testing.T, names ...string) *site {
	t.Helper()
	s := &site{T: t, author: sitetest.NewAuthor(t), dirs: map[string]string{}, keys: map[string]*seal.Keys{}, agents: map[string]*agent{}, gone: map[string]bool{}}
	r := intent.RosterBody{Generation: 1}
	for i, n := range names {
		st := intent.StateAgent
		if spare, ok := strings.CutPrefix(n, "spare:"); ok {
			names[i], n, st = spare, spare, intent.StateSpare
		}
		k, err := seal.Generate()
		if err != nil {
			t.Fatal(err)
		}
		sign, err := k.SignPublic()
		if err != nil {
			t.Fatal(err)
		}
		s.keys[n], s.dirs[n] = k, t.TempDir()
		r.Agents = append(r.Agents, intent.RosterAgent{ID: n, Rank: uint16(i), State: st, Sign: [][]byte{sign}, Seal: [][]byte{k.SealPublic()}})
	}
	roster := s.author.Entry(intent.EntryRoster, r)
	for _, n := range names {
		s.open(n)
		if _, err := s.agents[n].Replica.Receive(t.Context(), []*intent.Envelope{roster}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, a := range s.agents {
			if err := a.db.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

// open starts an agent; one that ran is closed first.
func (s *site) open(name string) {
	s.Helper()
	if a := s.agents[name]; a != nil {
		if err := a.db.Close(); err != nil {
			s.Fatal(err)
		}
	}
	a := &agent{}
	var r *replica.Replica
	r, a.db = sitetest.OpenReplicaOf(s.T, s.dirs[name], s.author, name, s.keys[name])
	log := slog.New(slog.DiscardHandler)
	j, err := claim.OpenJournal(a.db, s.author.Site, name, log)
	if err != nil {
		s.Fatal(err)
	}
	j.SetPeers(peers{s, name})
	a.Keeper = New(Config{
		Domain: pkitest.Name, Site: s.author.Site, Self: name, Replica: r, Journal: j, Keys: func() []*seal.Keys { return []*seal.Keys{s.keys[name]} }, Log: log,
		Audit:      auditlog.New(auditlog.Config{Journal: j, Site: s.author.Site, Self: name, Sign: func() ed25519.PrivateKey { return s.keys[name].Sign }, Log: log}),
		Recovering: a.db.Recovering, Close: func() int { a.closed++; return 1 },
		Alive: func() (out []claim.Member) {
			for _, m := range r.State().Roster.Agents {
				out = append(out, claim.Member{ID: m.ID, Rank: m.Rank, Alive: !s.gone[m.ID]})
			}
			return out
		},
	})
	s.agents[name] = a
	if _, err := a.Obey(); err != nil {
		s.Fatal(err)
	}
}

// peers is the mesh of one agent: it reaches who counts as a member and answers.
type peers struct {
	*site
	self string
}

func (p peers) Live() (out []string) {
	for n := range p.agents {
		if n != p.self && !p.gone[n] {
			out = append(out, n)
		}
	}
	return out
}

func (p peers) Push(_ context.Context, peer string, page claim.Page) (uint64, error) {
	return p.agents[peer].Journal.Receive(p.self, page)
}

func (p peers) Heads(_ context.Context, peer string) (map[string]uint64, error) {
	return p.agents[peer].Journal.Heads(), nil
}

func (p peers) Pull(_ context.Context, peer, agent string, from uint64) (claim.Page, error) {
	return p.agents[peer].Journal.Range(agent, from, claim.MaxPull)
}

func (s *site) quarantine(at, target string, on, dry bool) *api.QuarantineResult {
	s.Helper()
	res, err := s.agents[at].Quarantine(s.Context(), api.Caller{User: "sam"}, target, api.QuarantineRequest{On: on, Reason: "stolen", DryRun: dry})
	if err != nil {
		s.Fatal(err)
	}
	return res
}

// roster says who counts at an agent after it obeyed its journal.
func (s *site) roster(at string) string {
	s.Helper()
	if _, err := s.agents[at].Obey(); err != nil {
		s.Fatal(err)
	}
	got, _ := ids(s.agents[at].Replica.State().Roster)
	return strings.Join(got, " ")
}

func (s *site) want(at, roster string) {
	s.Helper()
	if got := s.roster(at); got != roster {
		s.Errorf("at %s count %q, want %q", at, got, roster)
	}
}

// One signed act cuts an agent off at all that are left, survives a restart, and is lifted by another act.
func TestQuarantine(t *testing.T) {
	s := newSite(t, "a1", "a2", "a3")
	if res := s.quarantine("a1", "a2", true, true); strings.Join(res.Agents, " ") != "a1 a3" || res.Generation != 2 {
		t.Errorf("the dry run says %+v", res)
	}
	s.want("a1", "a1 a2 a3")
	res := s.quarantine("a1", "a2", true, false)
	if res.Agent != "lon1/a2" || !res.On || res.N != 1 || res.Closed != 1 || res.Generation != 2 || strings.Join(res.Agents, " ") != "a1 a3" {
		t.Errorf("the order says %+v", res)
	}
	s.want("a3", "a1 a3")
	if s.agents["a3"].closed != 1 {
		t.Errorf("a3 went through its sessions %d times, want once", s.agents["a3"].closed)
	}
	if again := s.quarantine("a3", "a2", true, false); again.N != 1 || again.Closed != 0 {
		t.Errorf("the same wish again makes order %+v", again)
	}
	s.open("a1")
	s.want("a1", "a1 a3")
	s.gone["a2"] = true
	if res := s.quarantine("a3", "a2", false, false); res.N != 2 || res.Generation != 3 {
		t.Errorf("lifted by %+v", res)
	}
	s.want("a1", "a1 a2 a3")
	for at, target := range map[string]string{"a1": "a1", "a3": "b9"} {
		if res, err := s.agents[at].Quarantine(t.Context(), api.Caller{User: "sam"}, target, api.QuarantineRequest{On: true, Reason: "x"}); err == nil {
			t.Errorf("%s quarantined %s: %+v", at, target, res)
		}
	}
}

// A box that was cut off does not let itself back: not with its own signature, not with a stranger's, not in another's name.
func TestStolenBoxStaysOut(t *testing.T) {
	s := newSite(t, "a1", "a2", "a3")
	s.quarantine("a1", "a2", true, false)
	stranger, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	forge := func(what, named, siteID string, n uint64, by *seal.Keys) {
		t.Helper()
		payload, err := json.Marshal(intent.Quarantine{Site: siteID, Agent: named, Target: intent.QuarantineTarget{Agent: "a2"}, N: n})
		if err != nil {
			t.Fatal(err)
		}
		env, err := document.Sign(intent.PayloadQuarantine, payload, by.Sign)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.agents["a1"].Journal.Append(t.Context(), claim.Local, claim.Draft{Kind: kindQuarantine, Key: "a2/" + what, Body: env}); err != nil {
			t.Fatal(err)
		}
		if got := s.roster("a1"); got != "a1 a3" {
			t.Errorf("%s: %q count", what, got)
		}
	}
	forge("its own order", "a2", "lon1", 9, s.keys["a2"])
	forge("its own order in a1's name", "a1", "lon1", 9, s.keys["a2"])
	forge("a stranger's", "a1", "lon1", 9, stranger)
	forge("another site's", "a3", "par1", 9, s.keys["a3"])
	forge("number 0", "a3", "lon1", 0, s.keys["a3"])
	for _, body := range []any{"rubbish", 7, map[string]any{"payload": "AA=="}} {
		if err := s.agents["a1"].Journal.Append(t.Context(), claim.Local, claim.Draft{Kind: kindQuarantine, Key: "a2/rubbish", Body: body}); err != nil {
			t.Fatal(err)
		}
		s.want("a1", "a1 a3")
	}
}

// An agent obeys what it is told about itself alone, newer than what it knows, by who counts.
func TestTold(t *testing.T) {
	s := newSite(t, "a1", "a2", "a3")
	for n := range s.agents {
		s.gone[n] = true // nobody has a session
	}
	order := func(by, target string, n uint64, on bool) *intent.Envelope {
		t.Helper()
		payload, err := json.Marshal(intent.Quarantine{Site: "lon1", Agent: by, Target: intent.QuarantineTarget{Agent: target}, N: n, On: on, By: "sam", Reason: "stolen"})
		if err != nil {
			t.Fatal(err)
		}
		env, err := document.Sign(intent.PayloadQuarantine, payload, s.keys[by].Sign)
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	a2 := s.agents["a2"]
	f := func(what string, env *intent.Envelope, takes bool, roster string) {
		t.Helper()
		if err := a2.Told(t.Context(), env); (err == nil) != takes {
			t.Errorf("%s: %v", what, err)
		}
		s.want("a2", roster)
	}
	f("about another", order("a1", "a3", 1, true), false, "a1 a2 a3")
	f("its own", order("a2", "a2", 1, true), false, "a1 a2 a3")
	f("cut off", order("a1", "a2", 2, true), true, "a1 a3")
	if got := a2.Barred()["a2"]; got != "in quarantine, order 2 by sam at a1: stolen" {
		t.Errorf("it says %q", got)
	}
	f("told again", order("a1", "a2", 2, true), true, "a1 a3")
	f("an older lift", order("a3", "a2", 1, false), true, "a1 a3")
	f("a lift", order("a3", "a2", 3, false), true, "a1 a2 a3")
	s.quarantine("a2", "a1", true, false)
	f("by whom it cut off", order("a1", "a2", 4, true), false, "a2 a3")
	f("by a third", order("a3", "a2", 4, true), true, "a3")
	if env, n := a2.About("a2"); n != 4 || env == nil || a2.Barred()["a1"] != "in quarantine, order 1 by sam at a2: stolen" {
		t.Errorf("order %d about a2; barred are %v", n, a2.Barred())
	}
}

// A quarantine brings a new boot key: the same at all that are left, closed to the one that is out, while the old one verifies
// still; the coordinator's next version takes over.
func TestQuarantineRenewsBootKey(t *testing.T) {
	s := newSite(t, "a1", "a2", "a3")
	give := func(ver uint64) {
		t.Helper()
		b := intent.SecretBody{}
		for n, k := range s.keys {
			dek, err := seal.NewDEK(ver)
			if err != nil {
				t.Fatal(err)
			}
			bind := seal.Binding{Domain: pkitest.Name, Site: "lon1", Agent: n}
			w, err1 := dek.Wrap(k.SealPublic(), bind)
			rec, err2 := dek.Seal(bind, "skerry-boot", ver, seal.NewSecret([]byte(strings.Repeat("k", int(ver)))))
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			b.DEKs, b.Records = append(b.DEKs, w), append(b.Records, rec)
		}
		e := s.author.Entry(intent.EntrySecret, b)
		for _, a := range s.agents {
			if n, err := a.Replica.Receive(t.Context(), []*intent.Envelope{e}); n != 1 || err != nil {
				t.Fatalf("Receive = %d, %v", n, err)
			}
		}
	}
	keys := func(at string) []string {
		t.Helper()
		ks, err := s.agents[at].BootKeys()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, k := range ks {
			out = append(out, string(k.Reveal()))
		}
		return out
	}
	give(1)
	for _, n := range []string{"a1", "a2", "a3"} {
		if got := keys(n); !slices.Equal(got, []string{"k"}) {
			t.Fatalf("%s has %q, want the coordinator's key", n, got)
		}
	}
	s.quarantine("a1", "a2", true, false)
	s.gone["a2"] = true
	for _, n := range []string{"a3", "a1"} { // a3 is not the lowest rank: it makes none
		s.roster(n)
		if err := s.agents[n].renewBootKey(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n == "a3" && len(keys("a3")) != 1 {
			t.Error("a3 made a boot key though a1 is alive")
		}
	}
	s.deliver("a1", "a3")
	s.deliver("a1", "a2") // what it may have copied before it was out
	one, three := keys("a1"), keys("a3")
	if len(one) != 2 || one[1] != "k" || len(one[0]) != 32 || !slices.Equal(one, three) {
		t.Errorf("a1 has %q, a3 %q; want one new key of 32 octets, and the old", one, three)
	}
	if ks, err := s.agents["a2"].BootKeys(); err == nil {
		t.Errorf("the agent that is out opens the new boot key: %d keys", len(ks))
	}
	give(2)
	if got := keys("a1"); len(got) != 3 || got[0] != "kk" {
		t.Errorf("after the coordinator's next version a1 has %q", got)
	}
}

// deliver brings a peer what the journal of an agent has, as the mesh does in its own time.
func (s *site) deliver(from, to string) {
	s.Helper()
	records, err := s.agents[from].Journal.Range(from, 1, claim.MaxPull)
	if err != nil {
		s.Fatal(err)
	}
	if _, err := s.agents[to].Journal.Receive(from, records); err != nil {
		s.Fatal(err)
	}
}
