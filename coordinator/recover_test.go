package coordinator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/recovery"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// sites answers for agents: they hold what lost published.
func (s *scene) sites(lost *scene) {
	s.recovery.Ask = func(site, _ string) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			if err := api.ServeIntent(lost.backend, w, r, site); err != nil {
				return nil, err
			}
			return w.Result(), nil
		})
	}
}

// copyOf opens a coordinator over a copy of the scene's directory, as it was on disk when the scene was closed; the scene goes on.
func (s *scene) copyOf() *scene {
	s.Helper()
	s.close()
	old := &scene{TB: s.TB, data: s.TempDir(), token: s.token}
	if err := os.CopyFS(old.data, os.DirFS(s.data)); err != nil {
		s.Fatal(err)
	}
	if err := os.Remove(filepath.Join(old.data, "state", "LOCK")); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.Fatal(err)
	}
	s.open()
	return old
}

func (s *scene) head(site string) intent.Head {
	s.Helper()
	h, _, err := s.agents.pub.Head(s.Context(), site)
	if err != nil {
		s.Fatal(err)
	}
	return h
}

func (s *scene) objectsNow() map[string]uint64 {
	out := map[string]uint64{}
	c, _ := s.objects.Snapshot()
	for _, o := range c.List("") {
		out[o.Key().String()+" "+o.Metadata.UID] = o.Metadata.Rev
	}
	return out
}

// change makes one random change of the catalog; what does not fit is refused and nothing.
func (s *scene) change(rng *rand.Rand) {
	s.Helper()
	site, n := []string{"lon1", "par1"}[rng.IntN(2)], rng.IntN(3)
	var text string
	del := intent.Key{}
	switch rng.IntN(6) {
	case 0:
		text = fmt.Sprintf(`{"kind":"Machine","metadata":{"name":"m%d","site":%q},"spec":{"position":%d,"nics":[{"mac":"52:54:00:%02x:00:%02x"}]}}`, n, site, rng.IntN(40), site[0], n)
		del = intent.Key{Kind: intent.KindMachine, Scope: site, Name: fmt.Sprint("m", n)}
	case 1:
		text = fmt.Sprintf(`{"kind":"MachineType","metadata":{"name":"t%d"},"spec":{"cpu":{"min":%d},"memoryMiB":{"min":1}}}`, n, 1+rng.IntN(9))
		del = intent.Key{Kind: intent.KindMachineType, Name: fmt.Sprint("t", n)}
	case 2: // a user whose reach moves between the sites
		text = fmt.Sprintf(`{"kind":"User","metadata":{"name":"u%d"},"spec":{"displayName":"%d","bindings":[{"role":"operator","site":%q}]}}`, n, rng.IntN(9), site)
		if rng.IntN(3) == 0 {
			text = fmt.Sprintf(`{"kind":"User","metadata":{"name":"u%d"},"spec":{"bindings":[{"role":"operator"}]}}`, n)
		}
		del = intent.Key{Kind: intent.KindUser, Name: fmt.Sprint("u", n)}
	case 3:
		text = fmt.Sprintf(`{"kind":"Project","metadata":{"name":"p%d"},"spec":{"sites":[%q]}}`, n, site)
		if rng.IntN(2) == 0 {
			text = fmt.Sprintf(`{"kind":"Project","metadata":{"name":"p%d"},"spec":{"sites":["lon1","par1"]}}`, n)
		}
		del = intent.Key{Kind: intent.KindProject, Name: fmt.Sprint("p", n)}
	case 4:
		text = fmt.Sprintf(`{"kind":"SSHKey","metadata":{"name":"k","project":"p%d"},"spec":{"publicKey":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl %d"}}`, n, rng.IntN(9))
		del = intent.Key{Kind: intent.KindSSHKey, Scope: fmt.Sprint("p", n), Name: "k"}
	case 5:
		text = fmt.Sprintf(`{"kind":"Secret","metadata":{"name":"s%d","site":%q},"spec":{"type":"opaque","data":{"v":"%d"}}}`, n, site, rng.IntN(1000))
		del = intent.Key{Kind: intent.KindSecret, Scope: site, Name: fmt.Sprint("s", n)}
	}
	b := api.Batch{Put: s.docs(text)}
	if rng.IntN(4) == 0 {
		b = api.Batch{Delete: []intent.Key{del}}
	}
	_, _ = s.backend.Apply(s.Context(), s.admin, b) // a refusal is part of the history
	if rng.IntN(2) == 0 {
		s.sync("lon1")
		s.sync("par1")
	}
}

// The law of recovery: an older copy that heard every agent has the catalog that the lost one had published, and publishing from
// it says nothing new to anybody. Before, it publishes nothing.
func TestOldCopyLaw(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SKERRY_SEED"); s != "" {
		fmt.Sscan(s, &seed)
	}
	t.Logf("seed %d: SKERRY_SEED replays it", seed)
	for run := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, run))
		lost := found1(t)
		lost.apply(`{"kind":"Site","metadata":{"name":"lon1"},"spec":{"region":"eu","zone":"z"}}
{"kind":"Site","metadata":{"name":"par1"},"spec":{"region":"eu","zone":"z"}}`)
		lost.join("lon1", "a1")
		lost.join("par1", "b1")
		for range 10 {
			lost.change(rng)
		}
		lost.sync("lon1")
		lost.sync("par1")
		old := lost.copyOf()
		for range 15 {
			lost.change(rng)
		}
		if rng.IntN(2) == 0 {
			lost.join("lon1", "a2")
		}
		heads := map[string]intent.Head{"lon1": lost.sync("lon1"), "par1": lost.sync("par1")}
		old.open()
		old.sites(lost)
		for _, site := range []string{"lon1", "par1"} { // as a restore does
			v, err := recovery.Mark(time.Now(), "test")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := old.store.Commit(t.Context(), store.Commit{Put: map[string][]byte{publish.HeldKey(site): v}}); err != nil {
				t.Fatal(err)
			}
		}
		order := [][2]string{{"lon1", "a1"}, {"par1", "b1"}, {"lon1", "a2"}}
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, o := range order {
			if err := old.agents.Sync(t.Context(), o[0]); err == nil || !errors.Is(err, publish.ErrHeld) {
				if h := old.head(o[0]); h != heads[o[0]] {
					t.Fatalf("run %d: a site that was not heard stands at %d", run, h.Seq)
				}
			}
			old.recovery.Hear(t.Context(), o[0], o[1], intent.Head{})
			for site, h := range heads { // also while another one is held
				err := old.agents.Sync(t.Context(), site)
				if errors.Is(err, publish.ErrHeld) {
					continue
				}
				if got := old.head(site); err != nil || got != h {
					more := ""
					for _, e := range old.chain(site)[min(h.Seq, got.Seq):] {
						more += fmt.Sprintf("\n%s %s", e.Kind, e.Body)
					}
					t.Fatalf("run %d: after %v, %s stands at %d, %v; lost stood at %d%s", run, o, site, got.Seq, err, h.Seq, more)
				}
			}
		}
		for site, h := range heads {
			if got := old.head(site); got != h {
				t.Fatalf("run %d: %s stands at %d, lost stood at %d", run, site, got.Seq, h.Seq)
			}
			if err := old.agents.Sync(t.Context(), site); err != nil {
				t.Fatalf("run %d: %v", run, err)
			}
			if got := old.head(site); got != h {
				last := old.chain(site)[h.Seq:]
				t.Fatalf("run %d: %d entries are said to %s beyond what it had, the first a %s: %s", run, len(last), site, last[0].Kind, last[0].Body)
			}
		}
		want := lost.objectsNow()
		for k := range want { // users and projects without any site were never published: nobody else knows of them
			o := lost.object1(k)
			if (o.Kind == intent.KindUser || o.Kind == intent.KindProject || o.Kind == intent.KindSSHKey) && !lost.published(o.Metadata.UID) {
				delete(want, k)
			}
		}
		got := old.objectsNow()
		for k := range got {
			if o := old.object1(k); o.Kind == intent.KindUser || o.Kind == intent.KindProject || o.Kind == intent.KindSSHKey {
				if !lost.published(o.Metadata.UID) {
					delete(got, k)
				}
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("run %d: catalog: -lost +recovered\n%s", run, d)
		}
		old.close()
		lost.close()
	}
}

// A name that was given again: what one site was told under it before does not take it from what another has under it now.
func TestOldCopyNameGivenAgain(t *testing.T) {
	user := func(sites ...string) string {
		var b []string
		for _, s := range sites {
			b = append(b, fmt.Sprintf(`{"role":"operator","site":%q}`, s))
		}
		return fmt.Sprintf(`{"kind":"User","metadata":{"name":"u"},"spec":{"bindings":[%s]}}`, strings.Join(b, ","))
	}
	f := func(first, second string, order ...[2]string) {
		t.Helper()
		lost := found1(t)
		lost.apply(`{"kind":"Site","metadata":{"name":"lon1"},"spec":{"region":"eu","zone":"z"}}
{"kind":"Site","metadata":{"name":"par1"},"spec":{"region":"eu","zone":"z"}}`)
		lost.join("lon1", "a1")
		lost.join("lon1", "a2")
		lost.join("par1", "b1")
		lost.sync("lon1")
		lost.sync("par1")
		old := lost.copyOf()
		lost.apply(first)
		lost.sync("lon1")
		lost.sync("par1")
		if _, err := lost.backend.Apply(t.Context(), lost.admin, api.Batch{Delete: []intent.Key{{Kind: intent.KindUser, Name: "u"}}}); err != nil {
			t.Fatal(err)
		}
		lost.sync("lon1")
		lost.sync("par1")
		lost.apply(second)
		heads := map[string]intent.Head{"lon1": lost.sync("lon1"), "par1": lost.sync("par1")}
		old.open()
		old.sites(lost)
		for site := range heads {
			v, err := recovery.Mark(time.Now(), "test")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := old.store.Commit(t.Context(), store.Commit{Put: map[string][]byte{publish.HeldKey(site): v}}); err != nil {
				t.Fatal(err)
			}
		}
		for _, o := range order {
			old.recovery.Hear(t.Context(), o[0], o[1], intent.Head{})
			if err := old.agents.Sync(t.Context(), o[0]); err != nil && !errors.Is(err, publish.ErrHeld) {
				t.Fatal(err)
			}
		}
		want, got := lost.object(intent.KindUser, "", "u"), old.object(intent.KindUser, "", "u")
		if got == nil || got.Metadata.UID != want.Metadata.UID {
			t.Errorf("%v: the user is %+v, want %s", order, got, want.Metadata.UID)
		}
		for site, h := range heads {
			if err := old.agents.Sync(t.Context(), site); err != nil || old.head(site) != h {
				t.Errorf("%v: %s stands at %d, %v; lost stood at %d", order, site, old.head(site).Seq, err, h.Seq)
			}
		}
		rest := 0
		for _, prefix := range []string{"rival/", "buried/"} {
			if err := old.store.Range(t.Context(), prefix, "", func(store.Entry) error { rest++; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if rest != 0 {
			t.Errorf("%v: %d records of the recovery are left", order, rest)
		}
		old.close()
		lost.close()
	}
	lon, lon2, par := [2]string{"lon1", "a1"}, [2]string{"lon1", "a2"}, [2]string{"par1", "b1"}
	for _, first := range []string{user("lon1", "par1"), user("par1"), user("lon1")} {
		for _, second := range []string{user("lon1"), user("par1"), user("lon1", "par1")} {
			f(first, second, lon, lon2, par)
			f(first, second, par, lon, lon2)
			f(first, second, lon, par, lon2)
		}
	}
}

func (s *scene) object1(k string) *intent.Object {
	c, _ := s.objects.Snapshot()
	return c.ByUID(k[strings.LastIndexByte(k, ' ')+1:])
}

func (s *scene) published(uid string) bool {
	s.Helper()
	ok, err := publish.ToldElsewhere(s.Context(), s.store, "", uid)
	if err != nil {
		s.Fatal(err)
	}
	return ok
}

// A copy that nobody calls one (a disk that was put back) is found when an agent says what it has; one that already said
// something else in an entry's place stays held, with both heads in its words.
func TestOldCopyIsFound(t *testing.T) {
	f := func(ahead bool, want string) {
		t.Helper()
		lost := found1(t)
		lost.apply(firstSite)
		lost.join("lon1", "a1")
		old := lost.copyOf()
		lost.apply(`{"kind":"Machine","metadata":{"name":"m8","site":"lon1"},"spec":{"nics":[{"mac":"52:54:00:88:00:08"}]}}`)
		has := lost.sync("lon1")
		old.open()
		old.sites(lost)
		if ahead {
			old.apply(`{"kind":"Machine","metadata":{"name":"m9","site":"lon1"},"spec":{"nics":[{"mac":"52:54:00:88:00:09"}]}}`)
			old.sync("lon1")
		}
		old.recovery.Hear(t.Context(), "lon1", "a1", has)
		text, err := old.recovery.Text(t.Context(), "lon1")
		if err != nil || !strings.Contains(text, want) || (want == "") != (text == "") {
			t.Errorf("held: %q, %v; want %q", text, err, want)
		}
		if want != "" {
			if err := old.agents.Sync(t.Context(), "lon1"); !errors.Is(err, publish.ErrHeld) {
				t.Errorf("a forked site is published to: %v", err)
			}
			return
		}
		if old.head("lon1") != has || old.object(intent.KindMachine, "lon1", "m8") == nil {
			t.Errorf("stands at %+v, want %+v", old.head("lon1"), has)
		}
	}
	f(false, "")
	f(true, "its chain cannot be taken over")
}

// Secrets after a recovery: no older value is told to anybody, a new one goes on above what the site has, and data keys get new
// numbers.
func TestSecretsAfterOldCopy(t *testing.T) {
	lost := found1(t)
	lost.apply(firstSite)
	a1 := lost.join("lon1", "a1")
	old := lost.copyOf()
	lost.apply(`{"kind":"Secret","metadata":{"name":"bmc","site":"lon1"},"spec":{"type":"bmc","data":{"username":"root","password":"newer"}}}`)
	a2 := lost.join("lon1", "a2")
	lost.sync("lon1")
	old.open()
	old.sites(lost)
	old.recovery.Hear(t.Context(), "lon1", "a1", lost.head("lon1"))
	old.recovery.Hear(t.Context(), "lon1", "a2", lost.head("lon1"))
	a3 := old.join("lon1", "a3")
	if got := old.told("lon1", "a3", a3)["bmc"]; got != "" {
		t.Errorf("a newcomer was told %q", got)
	}
	old.apply(`{"kind":"Secret","metadata":{"name":"bmc","site":"lon1"},"spec":{"type":"bmc","data":{"username":"root","password":"newest"}}}`)
	old.sync("lon1")
	for id, keys := range map[string]string{"a1": old.told("lon1", "a1", a1)["bmc"], "a2": old.told("lon1", "a2", a2)["bmc"], "a3": old.told("lon1", "a3", a3)["bmc"]} {
		if !strings.HasPrefix(keys, "3 ") || !strings.Contains(keys, "newest") {
			t.Errorf("%s has %q", id, keys)
		}
	}
}

// An agent that is gone for good is waited for until an operator says so; a stranger's chain is not taken.
func TestRecoverWithout(t *testing.T) {
	lost := found1(t)
	lost.apply(firstSite)
	lost.join("lon1", "a1")
	lost.join("lon1", "a2")
	old := lost.copyOf()
	lost.apply(`{"kind":"Machine","metadata":{"name":"m8","site":"lon1"},"spec":{"nics":[{"mac":"52:54:00:88:00:08"}]}}`)
	has := lost.sync("lon1")
	old.open()
	foreign := found1(t)
	foreign.apply(firstSite)
	foreign.join("lon1", "a1")
	old.sites(foreign)
	old.recovery.Hear(t.Context(), "lon1", "a1", has)
	if text, _ := old.recovery.Text(t.Context(), "lon1"); text == "" || old.head("lon1") == has {
		t.Errorf("a stranger's chain: %q", text)
	}
	old.sites(lost)
	old.recovery.Hear(t.Context(), "lon1", "a1", has)
	if text, err := old.recovery.Text(t.Context(), "lon1"); !strings.HasSuffix(text, "waits for a2") {
		t.Errorf("held: %q, %v", text, err)
	}
	old.recovery.Without = []string{"lon1/a2"}
	if err := old.recovery.Resume(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if text, err := old.recovery.Text(t.Context(), "lon1"); text != "" || err != nil {
		t.Errorf("held: %q, %v", text, err)
	}
	old.sync("lon1")
	if !slices.Equal(chainDigests(t, lost, "lon1"), chainDigests(t, old, "lon1")[:has.Seq]) {
		t.Error("the chains differ")
	}
}

func chainDigests(t *testing.T, s *scene, site string) []intent.Digest {
	t.Helper()
	var out []intent.Digest
	err := s.agents.pub.Feed(context.Background(), site, 1, func(env *intent.Envelope) error { out = append(out, env.Digest()); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return out
}
