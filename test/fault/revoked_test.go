package fault

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	agentkeys "github.com/skerry-metal/skerry/siteagent/keys"
)

// thief dials with what lies on an agent's disk, from a box of its own.
type thief struct {
	*transport.Endpoint
	ended chan error
	stop  context.CancelFunc
}

func (w *world) thief(dir, ip string) *thief {
	w.Helper()
	dir = filepath.Join(dir, "keys")
	id, err := agentkeys.ReadIdentity(dir)
	w.must(err)
	own, err := agentkeys.Load(dir, id)
	w.must(err)
	chain := document.TrustChain{Pin: id.Pin}
	for _, env := range id.Trust {
		_, err := chain.Accept(env)
		w.must(err)
	}
	v, err := trust.NewView(chain.Body)
	w.must(err)
	peer, err := agentkeys.ReadIdentity(filepath.Join(w.boxes[id.Site+"/a1"].dir, "keys"))
	w.must(err)
	v = v.WithRoster(id.Site, &intent.RosterBody{Agents: []intent.RosterAgent{peer.Roster, id.Roster}})
	e, err := transport.New(transport.Config{
		Listen: ip + ":7444", Network: w.net.Host(ip), Log: w.log.With("who", "thief"), Lane: transport.LaneTCP,
		TLS: &trust.TLS{Self: trust.Identity{Kind: trust.Agent, Site: id.Site, ID: id.Agent}, View: func() *trust.View { return v }, Leaf: own.Leaf},
		UDP: []string{trust.ALPNBulk}, TCP: []string{trust.ALPNBulk},
	})
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	t := &thief{Endpoint: e, ended: make(chan error, 1), stop: cancel}
	go func() { t.ended <- e.Run(ctx) }()
	return t
}

func (t *thief) over() error {
	t.stop()
	err := t.Close()
	<-t.ended
	return err
}

// enter opens a session of the lane that agents of any site may open, and proves that it stands.
func (t *thief) enter(w *world, name string) (*transport.Conn, error) {
	ctx, cancel := w.ask()
	defer cancel()
	c, err := t.DialAddr(ctx, w.boxes[name].addr, trust.ALPNBulk, trust.Want{Kind: trust.Agent, AnySite: true}, transport.LaneQUIC)
	if err != nil {
		return nil, err
	}
	time.Sleep(2 * time.Second) // a client's handshake is done before the server has looked at its certificate
	if c.Context().Err() != nil {
		return nil, context.Cause(c.Context())
	}
	return c, nil
}

// seen is what the coordinator has of one agent.
func (w *world) seen(site, agent string) (row api.AgentKeys, listed bool) {
	ctx, cancel := w.ask()
	defer cancel()
	k, err := w.api("admin", "coordinator").KeyStatus(ctx)
	w.must(err)
	for _, s := range k.Sites {
		for _, a := range s.Agents {
			if s.Site == site && a.ID == agent {
				return a, true
			}
		}
	}
	return row, false
}

func (w *world) revoke(q api.RevokeRequest) *api.RevokeResult {
	w.Helper()
	ctx, cancel := w.ask()
	defer cancel()
	res, err := w.api("admin", "coordinator").Revoke(ctx, q)
	w.must(err)
	return res
}

// hears tells how far an agent has the revocations.
func (w *world) hears(name string) uint64 {
	ctx, cancel := w.ask()
	defer cancel()
	l, err := w.api("admin", name).Revocations(ctx)
	if err != nil {
		return 0
	}
	return l.Head.Seq
}

// company is who an agent holds alive.
func (w *world) company(name string) string {
	ctx, cancel := w.ask()
	defer cancel()
	site, _, _ := strings.Cut(name, "/")
	s, err := w.api("admin", name).SiteStatus(ctx, site)
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, a := range s.Agents {
		if a.Alive == "yes" {
			out = append(out, a.ID)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// Experiment F15: who was revoked comes back. An agent is revoked while it is up, and goes on trying with all that it has: as it was, after
// a restart of itself and of those who refuse it, by the way back for who was away, with what it took of users meanwhile on a stick, and
// at a site that has not heard. Nobody who knows lets it in; what stood ends within a second of hearing; and who has not heard is named.
func TestRevokedComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.over()
		for _, a := range []string{"s2/a1", "s2/a2"} {
			w.net.Cut(w.boxes[a].ip, w.boxes["coordinator"].ip, true)
		}
		w.until("the coordinator misses the other site", func() bool { row, _ := w.seen("s2", "a1"); return !row.Up })
		th := w.thief(w.boxes["s1/a2"].dir, "10.66.6.6")
		defer func() { w.must(th.over()) }()
		near, err := th.enter(w, "s1/a1")
		w.must(err)
		far, err := th.enter(w, "s2/a1")
		w.must(err)

		res := w.revoke(api.RevokeRequest{Kind: "agent", ID: "s1/a2", Reason: "stolen"})
		if res.Closed == 0 {
			t.Error("no session ended at the coordinator")
		}
		time.Sleep(time.Second)
		if row, listed := w.seen("s1", "a2"); listed && row.Up {
			t.Errorf("a second later: %+v", row)
		}
		if w.hears("s1/a1") != 1 || near.Context().Err() == nil {
			t.Errorf("its peer has heard %d, and the session is %v", w.hears("s1/a1"), near.Context().Err())
		}
		if got := w.company("s1/a1"); got != "a1" {
			t.Errorf("its peer keeps company with %s", got)
		}
		if _, err := th.enter(w, "s1/a1"); err == nil {
			t.Error("its peer lets it in again")
		}

		// The site that has not heard lets it in; everybody can see that it has not.
		if far.Context().Err() != nil {
			t.Fatal("a site that cannot know ended its session: the test proves nothing")
		}
		if row, _ := w.seen("s2", "a1"); row.Revocation != 0 || row.Up {
			t.Errorf("the coordinator says of the site that has not heard: %+v", row)
		}
		if row, _ := w.seen("s1", "a1"); row.Revocation != 1 || !row.Up {
			t.Errorf("the coordinator says of the site that has heard: %+v", row)
		}

		// What it takes of users from now on is worth nothing. It counts as cut off, as nobody speaks with it.
		w.until("the thief's box takes changes", func() bool {
			ctx, cancel := w.ask()
			defer cancel()
			res, err := w.api("ana", "s1/a2").Apply(ctx, rawDocs(namedKey("planted", 1)), false, "")
			return err == nil && res[0].Override != ""
		})
		w.planted()

		// It is started again, then those who refuse it, and it goes on trying: also by the way back of who was away.
		for _, name := range []string{"s1/a2", "s1/a1", "coordinator"} {
			w.kill(name)
			w.start(name, "")
		}
		time.Sleep(5 * time.Minute)
		if got := w.company("s1/a1"); got != "a1" {
			t.Errorf("after restarts its peer keeps company with %s", got)
		}
		if row, listed := w.seen("s1", "a2"); listed && row.Up {
			t.Errorf("after restarts: %+v", row)
		}
		for _, name := range []string{"s1/a1", "coordinator"} {
			if _, err := th.enter(w, name); err == nil {
				t.Errorf("after restarts %s lets it in", name)
			}
		}
		refused := w.refused()
		for _, verb := range []string{"handshake", "join"} { // as it is, and by the way back of who was away
			if refused[verb] == 0 {
				t.Errorf("the coordinator's audit log has no refused %s: %v", verb, refused)
			}
		}
		w.absent("planted")

		// The line of the other site is back.
		for _, a := range []string{"s2/a1", "s2/a2"} {
			w.net.Cut(w.boxes[a].ip, w.boxes["coordinator"].ip, false)
		}
		w.until("the other site has heard", func() bool { return w.hears("s2/a1") == 1 })
		time.Sleep(time.Second)
		if far.Context().Err() == nil {
			t.Error("a second after it heard, the other site speaks with it")
		}
		if _, err := th.enter(w, "s2/a2"); err == nil {
			w.until("the other agent has heard too", func() bool { return w.hears("s2/a2") == 1 })
			if _, err := th.enter(w, "s2/a2"); err == nil {
				t.Error("the other agent of that site lets it in")
			}
		}
		w.masses()
	})
}

// planted carries what the revoked agent has up by a stick: nothing of it is adopted.
func (w *world) planted() {
	w.Helper()
	var stick bytes.Buffer
	ctx, cancel := w.ask()
	defer cancel()
	_, err := w.api("admin", "s1/a2").ExportStick(ctx, "s1", 1, &stick)
	w.must(err)
	_, err = w.api("admin", "coordinator").ImportStick(ctx, "s1", &stick, false)
	w.must(err)
	ps, err := w.api("admin", "coordinator").Proposals(ctx, "s1")
	w.must(err)
	if len(ps) != 1 || ps[0].Object.Name != "planted" || !strings.Contains(ps[0].Why, "a2") {
		w.Errorf("what came by a stick of the revoked agent does not wait for a person: %+v", ps)
	}
	w.absent("planted")
}

// refused counts the refusals in the coordinator's own audit log, by verb.
func (w *world) refused() map[string]int {
	w.Helper()
	ctx, cancel := w.ask()
	defer cancel()
	out, own := map[string]int{}, false
	w.must(w.api("admin", "coordinator").Audit(ctx, api.AuditQuery{Proofs: true}, func(l api.AuditLine) error {
		if l.Chain != nil {
			own = l.Chain.Site == ""
		}
		var r intent.AuditRecord
		if own && len(l.Record) > 0 && json.Unmarshal(l.Record, &r) == nil && r.Result == intent.AuditRefused {
			out[r.Verb]++
		}
		return nil
	}))
	return out
}

// absent fails when an object of a user is in the catalog.
func (w *world) absent(name string) {
	w.Helper()
	ctx, cancel := w.ask()
	defer cancel()
	info, _ := intent.KindSSHKey.Info()
	if o, err := w.api("ana", "coordinator").Get(ctx, info, "acme", name); !client.Is(err, 404) {
		w.Errorf("what the revoked agent took is in the catalog: %+v, %v", o, err)
	}
}

// crowd lets n agents join sites of their own, five a site; they run nowhere. It returns them as SITE/AGENT.
func (w *world) crowd(n int) (out []string) {
	w.Helper()
	var sites []string
	for i := range (n + 4) / 5 {
		sites = append(sites, fmt.Sprintf(`{"kind":"Site","metadata":{"name":"m%d"},"spec":{"region":"eu","zone":"z"}}`, i))
	}
	_, err := w.api("admin", "coordinator").Apply(w.Context(), rawDocs(sites...), false, "")
	w.must(err)
	for i := range n {
		site, id := fmt.Sprintf("m%d", i/5), fmt.Sprintf("a%d", i%5)
		t, err := w.api("admin", "coordinator").JoinToken(w.Context(), site, api.JoinTokenRequest{Agent: id})
		w.must(err)
		tok, addr, err := join.ParseTarget(t.Token)
		w.must(err)
		keys, err := seal.Generate()
		w.must(err)
		_, err = join.Join(w.Context(), w.net.Host("10.9.9.9"), addr, tok, keys, join.About{Addr: []string{"10.7.7.7:7444"}})
		w.must(err)
		out = append(out, site+"/"+id)
	}
	return out
}

// masses revokes many keys and agents, one after the other, and disturbs nobody else.
func (w *world) masses() {
	w.Helper()
	crowd := w.crowd(tierGone)
	ends := func() (n int) {
		for _, who := range []string{"s1/a1", "s2/a1", "s2/a2"} {
			n += strings.Count(w.logs.String(), `msg="uplink ended" who=`+who)
		}
		return n
	}
	up, _ := w.seen("s1", "a1")
	ended, began := ends(), time.Now()
	for range tierRevoked {
		b := make([]byte, 32)
		rand.Read(b) // never fails: crypto/rand, Go 1.24
		w.revoke(api.RevokeRequest{Kind: "spki", ID: hex.EncodeToString(b), Reason: "a lost list"})
	}
	for _, a := range crowd {
		w.revoke(api.RevokeRequest{Kind: "agent", ID: a, Reason: "a lost depot"})
	}
	w.until("every agent has heard of all", func() bool {
		for _, a := range []string{"s1/a1", "s2/a1", "s2/a2"} {
			if w.hears(a) != 1+tierRevoked+tierGone {
				return false
			}
		}
		return true
	})
	w.Logf("%d revocations of keys and %d of agents are with everybody after %v", tierRevoked, tierGone, time.Since(began))
	ctx, cancel := w.ask()
	defer cancel()
	l, err := w.api("admin", "s2/a1").Revocations(ctx)
	w.must(err)
	for _, a := range crowd {
		site, id, _ := strings.Cut(a, "/")
		if _, listed := w.seen(site, id); listed || !slices.ContainsFunc(l.Entries, func(r intent.Revocation) bool { return r.Kind == intent.RevokeAgent && r.ID == a }) {
			w.Errorf("%s is in a roster (%v), or nobody has heard that it is revoked", a, listed)
		}
	}
	w.until("the other site is level", func() bool { return w.level("s2") })
	if now, _ := w.seen("s1", "a1"); !now.Up || !up.Up {
		w.Errorf("who was not revoked: %+v, %+v", up, now)
	}
	if n := ends(); n != ended {
		w.Errorf("%d sessions of others ended meanwhile", n-ended)
	}
}
