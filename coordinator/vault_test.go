package coordinator

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/coordinator/secrets"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
)

// under lists by which data key an agent was told each secret last.
func (s *scene) under(site, agent string) map[string]uint64 {
	s.Helper()
	out := map[string]uint64{}
	for _, e := range s.chain(site) {
		if e.Kind != intent.EntrySecret {
			continue
		}
		body, err := e.DecodeBody()
		if err != nil {
			s.Fatal(err)
		}
		for _, r := range body.(*intent.SecretBody).Records {
			if r.To == agent {
				out[r.Name] = r.DEK
			}
		}
	}
	return out
}

// A new data key tells an agent every secret again, and no other agent anything; a dry run nothing at all.
func TestRotateDataKeys(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	keys := map[string]*seal.Keys{"a1": s.join("lon1", "a1"), "a2": s.join("lon1", "a2")}
	s.sync("lon1")
	before := s.told("lon1", "a1", keys["a1"])
	all := func(n uint64) map[string]uint64 { return map[string]uint64{"bmc": n, secrets.BootKey: n} }
	f := func(what string, r api.SecretRotation, a1, a2 uint64, want ...api.DataKeyStatus) {
		t.Helper()
		told := 0
		s.agents.moved = func(string) { told++ }
		defer func() {
			if (told > 0) == r.DryRun {
				t.Errorf("%s: the site's sessions were told %d times that its chain moved", what, told)
			}
		}()
		st, err := s.vault.RotateSecrets(t.Context(), s.admin, "lon1", r)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if d := cmp.Diff(&api.SecretStatus{Site: "lon1", DataKeys: want, BMCs: []api.BMCSecret{}}, st); d != "" {
			t.Errorf("%s (-want +got)\n%s", what, d)
		}
		if d := cmp.Diff(all(a1), s.under("lon1", "a1")) + cmp.Diff(all(a2), s.under("lon1", "a2")); d != "" {
			t.Errorf("%s, by data key (-want +got)\n%s", what, d)
		}
		for name, k := range keys {
			if d := cmp.Diff(before, s.told("lon1", name, k)); d != "" {
				t.Errorf("%s: %s reads other values", what, name)
			}
		}
	}
	f("dry", api.SecretRotation{Agent: "a1", DryRun: true}, 1, 1, api.DataKeyStatus{Agent: "a1", From: 1, DEK: 2, Records: 2})
	f("one", api.SecretRotation{Agent: "a1"}, 2, 1, api.DataKeyStatus{Agent: "a1", From: 1, DEK: 2, Records: 2})
	s.restart()
	f("all", api.SecretRotation{Reason: "yearly"}, 3, 2, api.DataKeyStatus{Agent: "a1", From: 2, DEK: 3, Records: 2}, api.DataKeyStatus{Agent: "a2", From: 1, DEK: 2, Records: 2})
	for _, r := range []api.SecretRotation{{Agent: "a9"}, {BMC: "nothing"}} {
		if _, err := s.vault.RotateSecrets(t.Context(), s.admin, "lon1", r); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if _, err := s.revoke(intent.RevokeAgent, "lon1/a2", false); err != nil { // a reader of the same secrets
		t.Fatal(err)
	}
	s.sync("lon1")
	delete(keys, "a2")
	if got := s.under("lon1", "a1"); got["bmc"] != 4 {
		t.Errorf("after a co-reader was revoked, a1 is told under data key %d, want 4", got["bmc"])
	}
}

// bmcValues is what a1 can read of the BMC's secret.
func (s *scene) bmcValues(a1 *seal.Keys) (ver string, v map[string]string) {
	s.Helper()
	s.sync("lon1")
	ver, text, _ := strings.Cut(s.told("lon1", "a1", a1)["bmc"], " ")
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		s.Fatal(err)
	}
	return ver, v
}

// took is a report of lon1 in which machines' BMCs took a version.
func (s *scene) took(rev uint64, machines map[string]uint64) {
	s.Helper()
	r := intent.Report{Site: "lon1", Agent: "a1", Boot: "b", Rev: rev, Machines: map[string]intent.MachineStatus{}, Keys: &intent.KeyReport{}}
	for name, ver := range machines {
		r.Machines[name] = intent.MachineStatus{BMCSecret: ver}
	}
	if err := s.objects.setReport(s.Context(), "lon1", r, s.objects.now()); err != nil {
		s.Fatal(err)
	}
	s.vault.Finish(s.Context(), "lon1")
}

// A BMC's new password is told together with the one before, which ends when every BMC took the new one, and not before, whatever
// restarts between. Nobody else gives or reads the one before.
func TestRotateBMCPassword(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.apply(`{"kind":"Machine","metadata":{"name":"m2","site":"lon1"},"spec":{"bmc":{"address":"10.88.1.2","protocol":"redfish","secret":"bmc"},"nics":[{"mac":"52:54:00:88:00:02"}]}}`)
	a1 := s.join("lon1", "a1")
	rotate := func(dry bool) (*api.SecretStatus, error) {
		return s.vault.RotateSecrets(t.Context(), s.admin, "lon1", api.SecretRotation{BMC: "bmc", Reason: "yearly", DryRun: dry})
	}
	if _, err := rotate(true); err != nil {
		t.Fatal(err)
	}
	if ver, v := s.bmcValues(a1); ver != "1" || v["password"] != password || len(v) != 2 {
		t.Fatalf("after a dry run: version %s of %v", ver, slices.Sorted(maps.Keys(v)))
	}
	st, err := rotate(false)
	if err != nil || len(st.BMCs) != 1 || st.BMCs[0].Since == nil || st.BMCs[0].Left() != 2 {
		t.Fatalf("%+v, %v", st, err)
	}
	s.restart()
	ver, v := s.bmcValues(a1)
	fresh := v["password"]
	if ver != "2" || v[secrets.Previous] != password || v["username"] != "root" || !regexp.MustCompile(`^[A-Za-z2-9]{16}$`).MatchString(fresh) {
		t.Fatalf("version %s has %v", ver, slices.Sorted(maps.Keys(v)))
	}
	if _, err := rotate(false); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("a second change: %v", err)
	}
	for i, have := range []map[string]uint64{{"m1": 1, "m2": 1}, {"m1": 2, "m2": 1}, {"m1": 2}} { // m2 has not, or was not heard of
		s.took(uint64(i+1), have)
		if ver, v := s.bmcValues(a1); ver != "2" || v[secrets.Previous] != password {
			t.Errorf("%v: the one before is forgotten", have)
		}
	}
	s.restart()
	s.took(9, map[string]uint64{"m1": 2, "m2": 2})
	if ver, v := s.bmcValues(a1); ver != "3" || v["password"] != fresh || len(v) != 2 {
		t.Errorf("version %s has %v, the new password %v", ver, slices.Sorted(maps.Keys(v)), v["password"] == fresh)
	}
	if st, err := s.vault.SecretStatus(t.Context(), "lon1"); err != nil || st.BMCs[0].Since != nil {
		t.Errorf("still under way: %+v, %v", st, err)
	}
	_, err = s.backend.Apply(t.Context(), s.admin, api.Batch{Put: s.docs(`{"kind":"Secret","metadata":{"name":"x","site":"lon1"},"spec":{"type":"opaque","data":{"` + secrets.Previous + `":"p"}}}`)})
	if err == nil || !strings.Contains(fmt.Sprint(err), "not given by hand") {
		t.Errorf("a document gives the one before: %v", err)
	}
	old := s.docs(`{"kind":"Secret","metadata":{"name":"bmc","site":"lon1"},"spec":{"type":"bmc","data":{"username":"root","password":"` + password + `"}}}`)
	if _, err := s.backend.Apply(t.Context(), s.admin, api.Batch{Put: old, DryRun: true}); err == nil || !strings.Contains(fmt.Sprint(err), "secret set bmc") {
		t.Errorf("a manifest of before is applied again: %v", err)
	}
	opaque := s.docs(`{"kind":"Secret","metadata":{"name":"bmc","site":"lon1"},"spec":{"type":"opaque","data":{"username":"root","password":"` + password + `"}}}`)
	if _, err := s.backend.Apply(t.Context(), s.admin, api.Batch{Put: opaque, DryRun: true}); err == nil || !strings.Contains(fmt.Sprint(err), "secret set bmc") {
		t.Errorf("as another type: %v", err)
	}
	if guards, err := s.vault.Check(t.Context(), api.Batch{Put: s.docs(`{"kind":"Secret","metadata":{"name":"bmc","site":"lon1"},"spec":{"type":"bmc","data":{"username":"root","password":"` + fresh + `"}}}`)}); err != nil || len(guards) != 1 || guards[0].Rev == 0 {
		t.Errorf("a change that begins between is not noticed: %+v, %v", guards, err)
	}
	same := s.docs(`{"kind":"Secret","metadata":{"name":"bmc","site":"lon1"},"spec":{"type":"bmc","data":{"username":"root","password":"` + fresh + `"}}}`)
	if _, err := s.backend.Apply(t.Context(), s.admin, api.Batch{Put: same, DryRun: true}); err != nil {
		t.Errorf("a manifest with what was drawn: %v", err)
	}
	for _, secret := range []string{password, fresh} {
		if b := s.everything(); strings.Contains(string(b), secret) {
			t.Error("the store holds a password in clear")
		}
	}
	meant := api.Batch{Put: old, IfMatch: map[intent.Key]string{old[0].Key(): api.ETag(s.vault.Catalog().Get(old[0].Key()))}}
	if _, err := s.backend.Apply(t.Context(), s.admin, meant); err != nil {
		t.Errorf("what was set by hand is told: %v", err)
	}
	if _, err := s.backend.Apply(t.Context(), s.admin, api.Batch{Put: same}); err != nil {
		t.Errorf("a manifest, where the password was given by hand: %v", err)
	}
}

// A revocation with --rotate-bmc changes what the agent could read, once; asked again, it says how far that is, also after the agent
// and all that it was told are gone.
func TestRevokeRotatesBMC(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	a1 := s.join("lon1", "a1")
	s.join("lon1", "a2")
	s.sync("lon1")
	revoke := func() *api.RevokeResult {
		t.Helper()
		r, err := s.revoker.revoke(t.Context(), s.admin, api.RevokeRequest{Kind: "agent", ID: "lon1/a2", Reason: "stolen", RotateBMC: true})
		if err != nil {
			t.Fatal(err)
		}
		s.sync("lon1")
		return r
	}
	for i := range 3 {
		r := revoke()
		if len(r.Changing) != 1 || r.Changing[0].Ver != 2 || r.Changing[0].Since == nil || !cmp.Equal(r.Exposed, []string{"bmc"}) {
			t.Fatalf("time %d: %+v", i, r)
		}
		s.restart()
	}
	s.took(1, map[string]uint64{"m1": 2})
	if r := revoke(); r.Changing[0].Since != nil || r.Changing[0].Ver != 3 {
		t.Errorf("at the end: %+v", r.Changing)
	}
	if ver, v := s.bmcValues(a1); ver != "3" || v["password"] == password {
		t.Errorf("a1 has version %s, the password that a2 knows: %v", ver, v["password"] == password)
	}
}

// A revoked agent that is no object any more, as a spare took its place, still costs its site the keys that it read; the site is told.
func TestRevokedAndGone(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	a1 := s.join("lon1", "a1")
	s.join("lon1", "a2")
	s.sync("lon1")
	s.delete(intent.Key{Kind: intent.KindAgent, Scope: "lon1", Name: "a2"})
	s.sync("lon1")
	before := s.told("lon1", "a1", a1)[secrets.BootKey]
	var asked []string
	s.objects.dirty = func(sites []string) { asked = append(asked, sites...) }
	if r, err := s.revoke(intent.RevokeAgent, "lon1/a2", false); err != nil || !slices.Equal(r.Exposed, []string{"bmc"}) {
		t.Fatalf("%+v, %v; want bmc exposed", r, err)
	}
	if !slices.Equal(asked, []string{"lon1"}) {
		t.Errorf("publication is asked for at %v, want lon1 once", asked)
	}
	s.sync("lon1")
	if now := s.told("lon1", "a1", a1)[secrets.BootKey]; now == before || s.under("lon1", "a1")["bmc"] != 2 {
		t.Errorf("a1 has the boot key of before: %v; bmc under data key %d", now == before, s.under("lon1", "a1")["bmc"])
	}
}

// The value of a secret that a later store made is lost here: what we have is older than what the BMCs take, and no change starts from it.
func TestLostPasswordIsNotChanged(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	s.sync("lon1")
	if _, err := s.store.Commit(t.Context(), store.Commit{Delete: []string{store.SecretKey("lon1", "bmc")}}); err != nil { // as recovery does
		t.Fatal(err)
	}
	before := s.everything()
	_, err := s.vault.RotateSecrets(t.Context(), s.admin, "lon1", api.SecretRotation{BMC: "bmc"})
	if err == nil || !strings.Contains(err.Error(), "was lost") || string(before) != string(s.everything()) {
		t.Errorf("%v", err)
	}
}
