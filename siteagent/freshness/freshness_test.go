package freshness

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// scene is one agent, and a coordinator that answers as the test says.
type scene struct {
	*testing.T
	*Keeper
	author *sitetest.Author
	says   func(b *document.Beacon) // changes what the coordinator signs
	signer *seal.Keys               // nil: the writer
	down   bool
	asked  int
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{T: t, author: sitetest.NewAuthor(t), says: func(*document.Beacon) {}}
	r, db := sitetest.OpenReplica(t, t.TempDir(), s.author, "a1")
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := r.Receive(t.Context(), []*intent.Envelope{s.author.Put(sitetest.SiteDoc)}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	j, err := claim.OpenJournal(db, "lon1", "a1", log)
	if err != nil {
		t.Fatal(err)
	}
	s.open(r, j, trust.NewFloor(time.Now().Add(-24*time.Hour), time.Time{}, nil), "life-1")
	return s
}

// open starts the agent once more, over the same store.
func (s *scene) open(r *replica.Replica, j *claim.Journal, floor *trust.Floor, life string) {
	log := slog.New(slog.DiscardHandler)
	s.Keeper = New(Config{
		Site: "lon1", Self: "a1", Life: life, Journal: j, Replica: r, Floor: floor, Post: s.post, Log: log,
		Audit:   auditlog.New(auditlog.Config{Journal: j, Site: "lon1", Self: "a1", Log: log}),
		Binding: func(m string) (*reconcile.Binding, bool) { b := byIntent(); return &b, m == "m1" },
	})
}

func (s *scene) restart(floor *trust.Floor) { s.open(s.Replica, s.Journal, floor, "life-2") }

func (s *scene) post(_ context.Context, _ string, body []byte) (int, string, error) {
	s.asked++
	if s.down {
		return 0, "", uplink.ErrDown
	}
	var q struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal(body, &q); err != nil {
		s.Fatal(err)
	}
	b := document.Beacon{Who: "c1", To: "lon1/a1", Time: time.Now(), Nonce: q.Nonce, Trust: s.Replica.TrustHead(), Intent: s.author.Head}
	s.says(&b)
	by := s.author.Writer
	if s.signer != nil {
		by = s.signer.Sign
	}
	env, err := b.Sign(by)
	if err != nil {
		s.Fatal(err)
	}
	wire, err := document.Encode(env)
	if err != nil {
		s.Fatal(err)
	}
	return 200, string(wire), nil
}

func byIntent() reconcile.Binding {
	return reconcile.Binding{Machine: "m1", Generation: 4, Cause: "intent 1.1"}
}

// want checks the decision on a binding: by what it is fresh, or of what kind it waits and what its text has.
func (s *scene) want(what string, b reconcile.Binding, how, kind, text string) {
	s.Helper()
	got, err := s.Fresh(s.Context(), b)
	if st, ok := errors.AsType[*Stale](err); got != how || ok != (kind != "") || ok && (st.Kind != kind || !strings.Contains(st.Text, text)) {
		s.Errorf("%s: %q, %v; want %q, %s %s", what, got, err, how, kind, text)
	}
}

// TestFresh is experiment F13's part that is about time and heads: an act waits unless a coordinator was heard within stale_after, and
// while it is known that newer intent, trust or revocations are there; the text says the way out.
func TestFresh(t *testing.T) {
	s := newScene(t)
	override := byIntent()
	override.Cause = "override lon1-1"
	s.down = true
	s.want("nobody was ever heard", byIntent(), "", "never", "machine approve m1")
	s.want("within the offline quota", override, ByQuota, "", "")
	s.down = false
	s.want("a beacon", byIntent(), ByBeacon, "", "")
	asked := s.asked
	if s.want("again", byIntent(), ByBeacon, "", ""); s.asked != asked {
		t.Error("a beacon of a moment ago was asked for again")
	}
	old := func(age time.Duration) func(*document.Beacon) {
		return func(b *document.Beacon) { b.Time = time.Now().Add(-age) }
	}
	for _, c := range []struct {
		age  time.Duration
		how  string
		kind string
	}{{167 * time.Hour, ByBeacon, ""}, {169 * time.Hour, "", "age"}} {
		s.says = old(c.age)
		if err := s.ask(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.down = true
		s.want(c.age.String(), byIntent(), c.how, c.kind, "counts for 168h0m0s")
		s.want("quota at "+c.age.String(), override, ByQuota, "", "")
		s.down = false
	}
	for what, says := range map[string]func(*document.Beacon){
		"newer intent":      func(b *document.Beacon) { b.Intent.Seq++ },
		"newer trust":       func(b *document.Beacon) { b.Trust.Seq++ },
		"newer revocations": func(b *document.Beacon) { b.Revocation = intent.Head{Epoch: 1, Seq: 1} },
	} {
		s.says = says
		if err := s.ask(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.want(what, byIntent(), "", "head", "waits until it is level")
		s.want(what+", by quota", override, "", "head", "")
	}
	s.says = func(b *document.Beacon) { b.Intent.Hash = intent.DigestOf([]byte("another")) }
	if err := s.ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.want("another entry in place of ours", byIntent(), "", "fork", "forked")
}

// A site's own stale_after counts, as the entry at its head says.
func TestStaleAfterOfTheSite(t *testing.T) {
	s := newScene(t)
	s.says = func(b *document.Beacon) { b.Time = time.Now().Add(-3 * time.Hour) }
	if err := s.ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.down = true
	s.want("by default", byIntent(), ByBeacon, "", "")
	e := intent.Entry{Header: document.Follow(s.author.Head, intent.StreamIntent, 1, time.Now()), Site: "lon1", StaleAfter: "2h", Kind: intent.EntryPut, Body: json.RawMessage(`{"objects":[]}`)}
	payload, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	env, err := document.Sign(intent.PayloadIntent, payload, s.author.Writer)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.Replica.Receive(t.Context(), []*intent.Envelope{env}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	s.want("with 2h", byIntent(), "", "age", "counts for 2h0m0s")
	for _, bad := range []string{"5m", "200000h", "soon"} {
		e.StaleAfter = bad
		payload, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := intent.DecodeEntry(payload); err == nil {
			t.Errorf("stale_after %q is taken", bad)
		}
	}
}

// After a restart a beacon counts only if the wall clock is believed: nobody knows how long the box was off.
func TestRestart(t *testing.T) {
	s := newScene(t)
	s.want("before", byIntent(), ByBeacon, "", "")
	s.down = true
	s.restart(trust.NewFloor(time.Now().Add(-time.Hour), time.Time{}, nil))
	s.want("with a clock that is believed", byIntent(), ByBeacon, "", "")
	s.restart(trust.NewFloor(time.Now().Add(time.Hour), time.Time{}, nil))
	s.want("with a clock below the floor", byIntent(), "", "clock", "set the clock")
	s.down = false
	s.want("a new one in this life", byIntent(), ByBeacon, "", "")
}

// What is no answer to this agent's question is not kept.
func TestForgedBeacons(t *testing.T) {
	s := newScene(t)
	stranger, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	f := func(what string, says func(*document.Beacon), by *seal.Keys) {
		t.Helper()
		s.says, s.signer = says, by
		if err := s.ask(t.Context()); err == nil {
			t.Errorf("%s: taken", what)
		}
		s.want(what, byIntent(), "", "never", "")
	}
	f("an old nonce", func(b *document.Beacon) { b.Nonce = strings.Repeat("a", 32) }, nil)
	f("for another agent", func(b *document.Beacon) { b.To = "lon1/a2" }, nil)
	f("of another site", func(b *document.Beacon) { b.To = "par1/a1" }, nil)
	f("a stranger's", func(*document.Beacon) {}, stranger)
}

// An operator's word counts for one allocation, and only with a registered key.
func TestApprove(t *testing.T) {
	s := newScene(t)
	s.says = func(b *document.Beacon) { b.Intent.Seq++ } // it knows that it is behind
	if err := s.Approve(t.Context(), api.Caller{User: "ana", Via: "token:x"}, "lon1", "m1", "seen"); err == nil {
		t.Error("a token is enough")
	}
	for _, where := range [][2]string{{"lon1", "m9"}, {"par1", "m1"}} {
		if err := s.Approve(t.Context(), api.Caller{User: "ana", Via: "key:ab"}, where[0], where[1], "seen"); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%v: %v", where, err)
		}
	}
	s.want("not yet", byIntent(), "", "head", "")
	if err := s.Approve(t.Context(), api.Caller{User: "ana", Via: "key:ab"}, "lon1", "m1", "seen"); err != nil {
		t.Fatal(err)
	}
	s.want("approved", byIntent(), ByOperator, "", "")
	next := byIntent()
	next.Generation++
	s.want("the next allocation", next, "", "head", "")
	if facts := s.Explain("m1"); len(facts) != 1 || !strings.HasPrefix(facts[0].Value, ByOperator) {
		t.Errorf("explained as %v", facts)
	}
}

// A session that comes up is no reason to ask for another beacon while the newest one is young.
func TestKick(t *testing.T) {
	s := newScene(t)
	for _, c := range []struct {
		age  time.Duration // of the newest beacon; 0: none
		asks bool
	}{{0, true}, {time.Hour, false}, {11 * time.Hour, false}, {13 * time.Hour, true}} {
		if c.age > 0 {
			s.says = func(b *document.Beacon) { b.Time = time.Now().Add(-c.age) }
			if err := s.ask(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		s.Kick()
		select {
		case <-s.kick:
			if !c.asks {
				t.Errorf("asks while the newest is %v old", c.age)
			}
		default:
			if c.asks {
				t.Errorf("does not ask while the newest is %v old", c.age)
			}
		}
	}
}
