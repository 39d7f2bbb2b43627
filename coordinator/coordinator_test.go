package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/coordinator/secrets"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
)

func TestInit(t *testing.T) {
	good := InitConfig{Domain: "edge.example", ID: "c1", Addr: []string{"127.0.0.1:7443"}, Admin: "admin", Logger: slog.New(slog.DiscardHandler)}
	f := func(want string, change func(*InitConfig)) {
		t.Helper()
		cfg := good
		cfg.Data = filepath.Join(t.TempDir(), "data")
		change(&cfg)
		_, err := Init(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Init = %v, want %q", err, want)
		}
		if _, err := os.Stat(cfg.Data); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a refused Init left %s", cfg.Data)
		}
	}
	f("--id", func(c *InitConfig) { c.ID = "C 1" })
	f("--admin", func(c *InitConfig) { c.Admin = "" })
	f("--domain", func(c *InitConfig) { c.Domain = "" })
	f("--addr", func(c *InitConfig) { c.Addr = nil })

	s := found1(t)
	if _, err := Init(t.Context(), InitConfig{Data: s.data, Domain: "x.example", ID: "c2", Addr: good.Addr, Admin: "eve", Logger: good.Logger}); err == nil || !strings.Contains(err.Error(), "holds a coordinator already") {
		t.Errorf("a second Init in one place says %v", err)
	}
	epoch, err := s.agents.pub.Epoch(s.agents.pub.Signer().Public())
	if s.domain != "edge.example" || s.id != "c1" || epoch != 1 || err != nil {
		t.Errorf("founded %s %s with epoch %d, %v", s.domain, s.id, epoch, err)
	}
	err = filepath.WalkDir(filepath.Join(s.data, "keys"), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := d.Info()
		if err == nil && i.Mode().Perm()&0o077 != 0 && !strings.HasSuffix(p, ".crt") {
			t.Errorf("%s may be read by others: %s", p, i.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestStartWithoutInit(t *testing.T) {
	_, _, err := openAt(t.Context(), Config{Data: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "skerry coordinator init") {
		t.Errorf("an empty directory says %v", err)
	}
}

// The bad input of the first slice: refused with place and fix, nothing stored.
func TestBadInput(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	before, rev := s.everything(), s.sync("lon1")
	f := func(text string, want ...string) {
		t.Helper()
		_, err := s.backend.Apply(t.Context(), s.admin, api.Batch{Put: s.docs(text)})
		if err == nil {
			t.Fatalf("%s is taken", text)
		}
		if d := cmp.Diff(want, s.problems(err)); d != "" {
			t.Errorf("-want +got\n%s", d)
		}
	}
	const site2 = `{"kind":"Site","metadata":{"name":"ok"},"spec":{"region":"eu","zone":"z"}}` + "\n" // what is good in a batch is not stored either
	f(site2+`{"kind":"SubnetPool","metadata":{"name":"more","site":"lon1"},"spec":{"prefix":"10.88.7.0/24"}}`,
		"SubnetPool lon1/more: spec.prefix: 10.88.7.0/24 overlaps 10.88.0.0/16 of SubnetPool lon1/boot; choose a free prefix; a site's subnets never overlap")
	f(site2+`{"kind":"Machine","metadata":{"name":"m2","site":"lon1"},"spec":{"nics":[{"mac":"52-54-00-88-00-01"}]}}`,
		"Machine lon1/m2: spec.nics[0].mac: 52:54:00:88:00:01 is already of Machine lon1/m1; every port has its own; correct one of them")
	f(site2+`{"kind":"InstanceArray","metadata":{"name":"web","project":"acme","site":"lon1"},"spec":{"infrastructure":"shop","count":1,"machineType":"small","image":"big"}}`,
		"InstanceArray acme/web: spec.image: there is no Image big; create it first, or see `skerry get images`")
	f(`{"kind":"InstanceArray","metadata":{"name":"web","project":"acme","site":"lon1"},"spec":{"infrastructure":"shop","count":3,"machineType":"small","image":"tiny"}}`,
		"Quota acme/lon1: spec.machines.small: 3 machines of type small are asked for, 2 are allowed; ask for fewer, or let security raise the quota")
	f(`{"kind":"Secret","metadata":{"name":"new","site":"lon1"},"spec":{"type":"opaque"}}`, "Secret lon1/new: spec.data: a new secret has no value; give spec.data")
	f(`{"kind":"Secret","metadata":{"name":"skerry-boot","site":"lon1"},"spec":{"type":"opaque","data":{"a":"b"}}}`, "Secret lon1/skerry-boot: metadata.name: skerry-boot is the site's own; choose another name")
	if _, err := s.backend.Apply(t.Context(), s.admin, api.Batch{Delete: []intent.Key{{Kind: intent.KindImage, Name: "tiny"}}}); err == nil {
		t.Error("an image in use is deleted")
	}
	if _, err := s.backend.Apply(t.Context(), s.admin, api.Batch{Put: s.docs(`{"kind":"Agent","metadata":{"name":"a9","site":"lon1"},"spec":{"management":"10.99.1.9:7444"}}`)}); err == nil || !strings.Contains(err.Error(), "skerry token create") {
		t.Errorf("an agent made by hand: %v", err)
	}
	if after := s.everything(); !bytes.Equal(without(before, "chain/", "head/", "published/"), without(after, "chain/", "head/", "published/")) {
		t.Error("something was stored")
	}
	if s.sync("lon1") != rev {
		t.Error("something was published")
	}
}

// without drops the lines that begin with a prefix.
func without(b []byte, prefixes ...string) []byte {
	var out []byte
line:
	for l := range bytes.Lines(b) {
		for _, p := range prefixes {
			if bytes.HasPrefix(l, []byte(p)) {
				continue line
			}
		}
		out = append(out, l...)
	}
	return out
}

func TestApplyVersions(t *testing.T) {
	s := found1(t)
	var got []string
	step := func(res []api.Result, err error) {
		t.Helper()
		if err != nil {
			got = append(got, err.Error())
			return
		}
		got = append(got, fmt.Sprintf("%s %d", res[0].Action, res[0].Rev))
	}
	apply := func(b api.Batch) { t.Helper(); step(s.backend.Apply(t.Context(), s.admin, b)) }
	site := func(zone string) []*intent.Object {
		return s.docs(`{"kind":"Site","metadata":{"name":"lon1"},"spec":{"region":"eu","zone":"` + zone + `"}}`)
	}
	key := intent.Key{Kind: intent.KindSite, Name: "lon1"}
	apply(api.Batch{Put: site("a"), DryRun: true})
	apply(api.Batch{Put: site("a"), IfMatch: map[intent.Key]string{key: "*"}})
	apply(api.Batch{Put: site("a"), IfNone: map[intent.Key]bool{key: true}})
	apply(api.Batch{Put: site("a")})
	apply(api.Batch{Put: site("b"), IfNone: map[intent.Key]bool{key: true}})
	apply(api.Batch{Put: site("b"), IfMatch: map[intent.Key]string{key: `"x.1"`}})
	uid := s.object(intent.KindSite, "", "lon1").Metadata.UID
	apply(api.Batch{Put: site("b"), IfMatch: map[intent.Key]string{key: `"` + uid + `.1"`}})
	apply(api.Batch{Delete: []intent.Key{key}, IfMatch: map[intent.Key]string{key: `"` + uid + `.1"`}})
	apply(api.Batch{Delete: []intent.Key{key}})
	apply(api.Batch{Delete: []intent.Key{key}})
	// The uid of the dead is not given again, even if a caller names it: instances are called after their array's.
	again := site("c")
	again[0].Metadata.UID = uid
	apply(api.Batch{Put: again})
	if s.object(intent.KindSite, "", "lon1").Metadata.UID == uid {
		t.Error("a caller chose the uid of an object that is gone")
	}
	changed := "the object changed meanwhile; get it again and repeat"
	want := []string{
		"created 1", changed, "created 1", "unchanged 1", changed, changed, "changed 2", changed, "deleted 2",
		"there is no such object, or you may not see it", "created 1",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// What was answered is there after a restart, with the same versions, and the chain goes on from its head.
func TestRestart(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	keys := s.join("lon1", "a1")
	head := s.sync("lon1")
	before, _ := s.objects.Snapshot()
	s.restart()
	after, _ := s.objects.Snapshot()
	for _, o := range before.List("") {
		if d := cmp.Diff(o, after.Get(o.Key())); d != "" {
			t.Errorf("%s: -before +after\n%s", o.Key(), d)
		}
	}
	if got := s.sync("lon1"); got != head {
		t.Errorf("a restart moved the head from %+v to %+v", head, got)
	}
	s.apply(`{"kind":"Secret","metadata":{"name":"late","site":"lon1"},"spec":{"type":"opaque","data":{"k":"v"}}}`)
	s.sync("lon1")
	if got := s.told("lon1", "a1", keys)["late"]; got != `1 {"k":"v"}` {
		t.Errorf("after a restart the agent is told %q", got)
	}
}

// Secrets are nowhere but sealed: not in the store, not in a chain, not in an answer (promise of the first entry on).
func TestSecretsStaySealed(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	a1, a2 := s.join("lon1", "a1"), s.join("lon1", "a2")
	s.sync("lon1")
	for name, keys := range map[string]*seal.Keys{"a1": a1, "a2": a2} {
		got := s.told("lon1", name, keys)
		if got["bmc"] != `1 {"password":"`+password+`","username":"root"}` || got[secrets.BootKey] == "" {
			t.Errorf("%s is told %v", name, got)
		}
	}
	if b := s.everything(); bytes.Contains(b, []byte(password)) {
		t.Error("the store holds the password in the clear")
	} else if !bytes.Contains(b, []byte("secret/lon1/bmc=")) {
		t.Error("the test looks at the wrong keys")
	}
	for _, e := range s.chain("lon1") {
		if b := marshal(t, e); bytes.Contains(b, []byte(password)) {
			t.Errorf("the chain tells the password: %s", b)
		}
	}
	err := filepath.WalkDir(s.data, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if bytes.Contains(b, []byte(password)) {
			t.Errorf("%s holds the password in the clear", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	cl := s.server()
	for _, info := range intent.Kinds() {
		list, err := cl.List(t.Context(), info, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(marshal(t, list), []byte(password)) {
			t.Errorf("the list of %s tells the password", info.Plural)
		}
	}
}

func TestSecretVersions(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	a1 := s.join("lon1", "a1")
	value := func(v string) string {
		return `{"kind":"Secret","metadata":{"name":"s","site":"lon1"},"spec":{"type":"opaque","data":{"k":"` + v + `"}}}`
	}
	f := func(want string) {
		t.Helper()
		s.sync("lon1")
		if got := s.told("lon1", "a1", a1)["s"]; got != want {
			t.Errorf("a1 is told %q, want %q", got, want)
		}
	}
	s.apply(value("one"))
	f(`1 {"k":"one"}`)
	s.apply(`{"kind":"Secret","metadata":{"name":"s","site":"lon1","labels":{"a":"b"}},"spec":{"type":"opaque"}}`) // without data: the value stays
	f(`1 {"k":"one"}`)
	s.apply(value("two"))
	f(`2 {"k":"two"}`)
	s.delete(intent.Key{Kind: intent.KindSecret, Scope: "lon1", Name: "s"})
	f(`2 {"k":"two"}`)
	s.apply(value("three")) // made again: a version that the agent has not seen
	f(`3 {"k":"three"}`)
	s.delete(intent.Key{Kind: intent.KindSecret, Scope: "lon1", Name: "s"})
	a2 := s.join("lon1", "a2")
	s.sync("lon1")
	if got, ok := s.told("lon1", "a2", a2)["s"]; ok {
		t.Errorf("a new agent is told a deleted secret: %q", got)
	}
}

// More secrets than one envelope holds: they go in several entries, and the chain does not stop.
func TestManySecrets(t *testing.T) {
	s := found1(t)
	s.apply(`{"kind":"Site","metadata":{"name":"lon1"},"spec":{"region":"eu","zone":"z"}}`)
	data := map[string]string{}
	for i := range 7 {
		data[fmt.Sprintf("k%d", i)] = strings.Repeat("x", 8192)
	}
	for i := range 14 {
		s.apply(fmt.Sprintf(`{"kind":"Secret","metadata":{"name":"s%d","site":"lon1"},"spec":{"type":"opaque","data":%s}}`, i, marshal(t, data)))
	}
	a1, a2 := s.join("lon1", "a1"), s.join("lon1", "a2")
	s.sync("lon1")
	for name, keys := range map[string]*seal.Keys{"a1": a1, "a2": a2} {
		if got := s.told("lon1", name, keys); len(got) != 15 || len(got["s13"]) < 7*8192 {
			t.Errorf("%s is told %d secrets", name, len(got))
		}
	}
}

func TestRosterFollowsAgents(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	s.join("lon1", "a2")
	r, err := s.agents.Roster(t.Context(), "lon1")
	if err != nil || len(r.Agents) != 2 || r.Generation != 2 || r.Agents[0].ID != "a1" || r.Agents[0].Rank == r.Agents[1].Rank {
		t.Fatalf("roster is %+v, %v", r, err)
	}
	head := s.sync("lon1")
	s.delete(intent.Key{Kind: intent.KindAgent, Scope: "lon1", Name: "a1"})
	if s.sync("lon1") == head {
		t.Error("an agent went and the chain is silent")
	}
	r, err = s.agents.Roster(t.Context(), "lon1")
	if err != nil || len(r.Agents) != 1 || r.Agents[0].ID != "a2" || r.Generation != 3 {
		t.Errorf("roster is %+v, %v", r, err)
	}
	a1 := s.join("lon1", "a1") // other keys: it must be able to read the secrets
	s.sync("lon1")
	if got := s.told("lon1", "a1", a1)["bmc"]; !strings.Contains(got, password) {
		t.Errorf("an agent that came back with new keys is told %q", got)
	}
}

// propose makes an override as an agent of the site would sign it.
func (s *scene) propose(site string, keys *seal.Keys, id, doc string, base uint64, change func(*intent.Override)) (string, error) {
	s.Helper()
	o := s.docs(doc)[0]
	o.Metadata.UID, o.Metadata.Rev = "0123456789abcdef", base+1
	if old := s.object(o.Kind, o.Key().Scope, o.Metadata.Name); old != nil {
		o.Metadata.UID = old.Metadata.UID
	}
	d := intent.Override{
		Site: site, Agent: "a1", Seq: 1, Time: time.Unix(0, 0).UTC(), ID: id, Author: intent.OverrideAuthor{User: "ana", Via: "token:t"},
		Base: intent.OverrideBase{Rev: base}, Op: intent.OverridePut, Key: o.Key(), Object: marshal(s, o),
	}
	if change != nil {
		change(&d)
	}
	env, err := document.Sign(intent.PayloadOverride, marshal(s, d), keys.Sign)
	if err != nil {
		s.Fatal(err)
	}
	return s.desk.Take(s.Context(), site, env)
}

const webOfTwo = `{"kind":"InstanceArray","metadata":{"name":"web","project":"acme","site":"lon1"},"spec":{"infrastructure":"shop","count":2,"machineType":"small","image":"tiny"}}`

func TestOverrideIsAdoptedOnce(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	keys := s.join("lon1", "a1")
	for range 3 { // told again, and again after a restart
		decision, err := s.propose("lon1", keys, "lon1-1", webOfTwo, 1, nil)
		if err != nil || decision != "adopt" {
			t.Fatalf("decided %q, %v", decision, err)
		}
		s.restart()
	}
	o := s.object(intent.KindInstanceArray, "acme", "web")
	if o.Spec.(*intent.InstanceArraySpec).Count != 2 || o.Metadata.Rev != 2 {
		t.Errorf("the object is %+v", o)
	}
	var story []string
	for _, e := range s.chain("lon1") {
		body, err := e.DecodeBody()
		if err != nil {
			t.Fatal(err)
		}
		switch b := body.(type) {
		case *intent.PutBody:
			for _, p := range b.Objects {
				if p.UID == o.Metadata.UID {
					story = append(story, fmt.Sprintf("put %d", p.Rev))
				}
			}
		case *intent.AckBody:
			story = append(story, fmt.Sprintf("%s %s %d", b.Decision, b.Override, b.Rev))
		}
	}
	if d := cmp.Diff([]string{"put 1", "put 2", "adopt lon1-1 2"}, story); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// A report is shown with its age; it changes no spec, and nobody reports of another site's arrays.
func TestReports(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.apply(`{"kind":"Site","metadata":{"name":"par1"},"spec":{"region":"eu","zone":"z"}}`)
	rep := intent.Report{Site: "lon1", Agent: "a1", Rev: 5, Machines: map[string]intent.MachineStatus{"m1": {State: intent.StateRunning}, "ghost": {}}}
	if err := s.objects.setReport(t.Context(), "lon1", rep, s.objects.now()); err != nil {
		t.Fatal(err)
	}
	foreign := intent.Report{Site: "par1", Agent: "a1", Rev: 1, Arrays: []intent.ArrayReport{{Project: "acme", Name: "web", Status: intent.ArrayStatus{Running: 99}}}}
	if err := s.objects.setReport(t.Context(), "par1", foreign, s.objects.now()); err != nil {
		t.Fatal(err)
	}
	if o := s.object(intent.KindInstanceArray, "acme", "web"); len(o.Status) != 0 {
		t.Errorf("par1 reports of lon1's array: %s", o.Status)
	}
	s.restart()
	var st intent.MachineStatus
	if err := json.Unmarshal(s.object(intent.KindMachine, "lon1", "m1").Status, &st); err != nil || st.State != intent.StateRunning {
		t.Errorf("m1 is %+v, %v", st, err)
	}
	older := rep
	older.Rev, older.Machines = 4, nil
	if err := s.objects.setReport(t.Context(), "lon1", older, s.objects.now()); err != nil {
		t.Fatal(err)
	}
	status, ok := s.objects.status("lon1")
	if !ok || status.Machines["running"] != 1 || status.ObservedAt.IsZero() {
		t.Errorf("after an older report the site is %+v", status)
	}
	if o := s.object(intent.KindMachine, "lon1", "m1"); o.Metadata.Rev != 1 {
		t.Errorf("a report made version %d", o.Metadata.Rev)
	}
}

func TestTokens(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	cl := s.server()
	tok, err := cl.UserToken(t.Context(), "admin", api.UserTokenRequest{TTL: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := s.objects.Snapshot()
	for _, token := range []string{tok.Token, s.token} { // the old one stays good
		if _, err := api.Authenticate(c, token, time.Now()); err != nil {
			t.Errorf("token refused: %v", err)
		}
	}
	if bytes.Contains(s.everything(), []byte(strings.Split(tok.Token, ".")[2])) {
		t.Error("the store holds a bearer token")
	}
	join, err := cl.JoinToken(t.Context(), "lon1", api.JoinTokenRequest{Agent: "a1", TTL: "1h"})
	if err != nil || !strings.HasSuffix(join.Token, "@127.0.0.1:7443") {
		t.Errorf("join token %+v, %v", join, err)
	}
	for _, r := range []api.JoinTokenRequest{{Agent: "A"}, {Agent: "a", TTL: "25h"}, {Agent: "a", TTL: "soon"}, {Agent: "a", TTL: "-1h"}} {
		if _, err := cl.JoinToken(t.Context(), "lon1", r); err == nil {
			t.Errorf("%+v is granted", r)
		}
	}
	if _, err := cl.JoinToken(t.Context(), "mars", api.JoinTokenRequest{Agent: "a1"}); err == nil {
		t.Error("a site that is not there admits agents")
	}
	if _, err := cl.UserToken(t.Context(), "nobody", api.UserTokenRequest{}); err == nil {
		t.Error("nobody gets a token")
	}
}

func TestAssets(t *testing.T) {
	s := found1(t)
	cl := s.server()
	body := strings.Repeat("kernel", 500_000)
	o, err := cl.Upload(t.Context(), "vmlinuz", "boot", strings.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	spec := o.Spec.(*intent.AssetSpec)
	if spec.Size != uint64(len(body)) || spec.Digest != intent.DigestOf([]byte(body)) || spec.Class != "boot" || o.Metadata.Rev != 1 {
		t.Errorf("uploaded as %+v %+v", o.Metadata, spec)
	}
	again, err := cl.Upload(t.Context(), "vmlinuz", "boot", strings.NewReader(body), int64(len(body)))
	if err != nil || again.Metadata.Rev != 1 || again.Metadata.UID != o.Metadata.UID {
		t.Errorf("the same bytes again are %+v, %v", again, err)
	}
	if _, err := cl.Upload(t.Context(), "x", "song", strings.NewReader(body), int64(len(body))); err == nil {
		t.Error("a class that is not known is taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := cl.Upload(ctx, "torn", "boot", &tearing{cancel: cancel}, 1<<20); err == nil {
		t.Error("half an upload is taken")
	}
	if s.object(intent.KindAsset, "", "torn") != nil || s.object(intent.KindAsset, "", "x") != nil {
		t.Error("a refused upload is registered")
	}
}

// tearing is a body that breaks off after some octets.
type tearing struct {
	n      int
	cancel func()
}

func (r *tearing) Read(b []byte) (int, error) {
	if r.n += len(b); r.n > 256<<10 {
		r.cancel()
		return 0, errors.New("the cable was pulled")
	}
	return len(b), nil
}

// The coordinator tells what is elsewhere or not to be reached, and shows a site that is away with the age of what it said.
func TestSitesAway(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	cl := s.server()
	st, err := cl.SiteStatus(t.Context(), "lon1")
	if err != nil || st.Reachable != "unknown" {
		t.Errorf("status is %+v, %v", st, err)
	}
	f := func(err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	_, err = cl.SiteStatus(t.Context(), "mars")
	f(err, "no such object")
	_, err = cl.Explain(t.Context(), "lon1", "m1")
	f(err, "ask an agent of the site")
	_, err = cl.Power(t.Context(), "lon1", "m1", "on")
	f(err, "--context")
	f(cl.Release(t.Context(), "lon1", "m1"), "--context")
	f(cl.Events(t.Context(), api.EventQuery{Site: "lon1"}, func(intent.Event) error { return nil }), "ask an agent of the site")
}

// Run starts, answers and stops; a second start on the same data follows.
func TestRun(t *testing.T) {
	s := found1(t)
	s.close()
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		var log bytes.Buffer
		up := &signalWriter{w: &log, word: []byte("coordinator is up"), seen: make(chan struct{})}
		done := make(chan error, 1)
		go func() {
			done <- Run(ctx, Config{Data: s.data, Listen: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(up, nil))})
		}()
		select {
		case <-up.seen:
		case err := <-done:
			t.Fatalf("Run ended: %v\n%s", err, log.String())
		case <-time.After(30 * time.Second): // far above a start
			t.Fatal("Run does not come up")
		}
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	}
}

// signalWriter closes seen when a word was written. slog serialises its writes.
type signalWriter struct {
	w    *bytes.Buffer
	word []byte
	seen chan struct{}
	done bool
}

func (s *signalWriter) Write(b []byte) (int, error) {
	if !s.done && bytes.Contains(b, s.word) {
		s.done = true
		close(s.seen)
	}
	return s.w.Write(b)
}
