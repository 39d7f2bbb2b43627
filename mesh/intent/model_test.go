package intent

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// first is a catalog in which everything fits: the good specs of every kind, at one site.
func first(t testing.TB) *Catalog {
	t.Helper()
	names := map[Kind]string{
		KindSite: "lon1", KindSubnetPool: "boot", KindSecret: "bmc", KindProject: "acme", KindMachineType: "small", KindAsset: "tiny",
		KindImage: "tiny", KindInfrastructure: "shop", KindNetwork: "default", KindSSHKey: "ana",
	}
	c := NewCatalog()
	for _, info := range Kinds() {
		name := names[info.Kind]
		if name == "" {
			name = "x"
		}
		c.Put(object(t, info.Kind, name, goodSpecs()[info.Kind]))
	}
	for _, n := range []string{"par1", "ams1"} {
		c.Put(object(t, KindSite, n, `{"region":"eu","zone":"z"}`))
	}
	for _, n := range []string{"k", "r"} {
		c.Put(object(t, KindAsset, n, strings.Replace(goodSpecs()[KindAsset], `"image"`, `"boot"`, 1)))
	}
	return c
}

func object(t testing.TB, k Kind, name, spec string) *Object {
	t.Helper()
	o, err := DecodeObject([]byte(doc(k, name, "lon1", spec)))
	if err != nil {
		t.Fatalf("%s %s: %v", k, name, err)
	}
	return o
}

func TestCatalogCheck(t *testing.T) {
	f := func(change func(c *Catalog), want ...string) {
		t.Helper()
		c := first(t)
		change(c)
		var got []string
		for _, p := range c.Check() {
			got = append(got, p.Key.String()+": "+p.Problem.String())
			if p.Path == "" || p.Fix == "" {
				t.Errorf("problem without place or fix: %+v", p)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("-want +got\n%s", d)
		}
	}
	add := func(k Kind, name, old, fresh string) func(*Catalog) {
		return func(c *Catalog) {
			spec := goodSpecs()[k]
			if !strings.Contains(spec, old) {
				t.Fatalf("%s has no %q", k, old)
			}
			c.Put(object(t, k, name, strings.Replace(spec, old, fresh, 1)))
		}
	}
	drop := func(k Kind, scope, name string) func(*Catalog) {
		return func(c *Catalog) {
			if c.Get(Key{k, scope, name}) == nil {
				t.Fatalf("no %s %s/%s to drop", k, scope, name)
			}
			c.Delete(Key{k, scope, name})
		}
	}
	f(func(*Catalog) {})
	f(drop(KindAsset, "", "k"), "Site lon1: spec.installer.kernel: there is no Asset k; create it first, or see `skerry get assets`")
	f(add(KindSite, "lon1", `"ramdisk":"r"`, `"ramdisk":"tiny"`), "Site lon1: spec.installer.ramdisk: asset tiny is not of class boot; upload it with --class boot")
	f(drop(KindSite, "", "ams1"), "Site lon1: spec.peers[1]: there is no Site ams1; create it first, or see `skerry get sites`")
	f(add(KindSite, "lon1", `"par1"`, `"lon1"`), "Site lon1: spec.peers[0]: it is the site itself; name other sites")
	f(add(KindSite, "lon1", `"par1"`, `"ams1"`), "Site lon1: spec.peers[1]: ams1 is named twice; name it once")
	f(drop(KindSecret, "lon1", "bmc"), "Machine lon1/x: spec.bmc.secret: there is no Secret lon1/bmc; create it first, or see `skerry get secrets`")
	f(add(KindSecret, "bmc", `"bmc"`, `"opaque"`), "Machine lon1/x: spec.bmc.secret: secret bmc is not of type bmc; make one of type bmc")
	f(add(KindImage, "tiny", `"asset":"tiny"`, `"asset":"k"`), "Image tiny: spec.asset: asset k is not of class image; upload it with --class image")
	f(drop(KindImage, "", "tiny"), "InstanceArray acme/x: spec.image: there is no Image tiny; create it first, or see `skerry get images`")
	f(drop(KindMachineType, "", "small"), "InstanceArray acme/x: spec.machineType: there is no MachineType small; create it first, or see `skerry get machinetypes`")
	f(drop(KindInfrastructure, "acme", "shop"), "InstanceArray acme/x: spec.infrastructure: there is no Infrastructure acme/shop; create it first, or see `skerry get infrastructures`")
	f(drop(KindSSHKey, "acme", "ana"), "InstanceArray acme/x: spec.sshKeys[0]: there is no SSHKey acme/ana; create it first, or see `skerry get sshkeys`")
	f(drop(KindNetwork, "acme", "default"), "InstanceArray acme/x: spec.networks[0]: there is no Network acme/default; create it first, or see `skerry get networks`")
	f(add(KindUser, "x", `"role":"member"`, `"role":"chef"`), "User x: spec.bindings[0].role: there is no Role chef; create it first, or see `skerry get roles`")
	f(add(KindUser, "x", `"project":"acme"`, `"project":"emca"`), "User x: spec.bindings[0].project: there is no Project emca; create it first, or see `skerry get projects`")
	f(add(KindProject, "acme", `["lon1"]`, `[]`),
		"Quota acme/x: metadata.site: project acme may not use site lon1; an owner adds it to the project's spec.sites",
		"Network acme/default: metadata.site: project acme may not use site lon1; an owner adds it to the project's spec.sites",
		"Infrastructure acme/shop: metadata.site: project acme may not use site lon1; an owner adds it to the project's spec.sites",
		"InstanceArray acme/x: metadata.site: project acme may not use site lon1; an owner adds it to the project's spec.sites")

	// Two machines: every double is told at the second of them.
	second := func(mac, address, bmc string) func(*Catalog) {
		return func(c *Catalog) {
			c.Put(object(t, KindMachine, "y", fmt.Sprintf(`{"bmc":{"address":%q,"protocol":"redfish","secret":"bmc"},"nics":[{"mac":%q,"address":%q}]}`, bmc, mac, address)))
		}
	}
	f(second("52:54:00:88:00:02", "10.88.0.22", "10.88.1.2:443"))
	f(second("52-54-00-88-00-01", "10.88.0.22", "10.88.1.2:443"), "Machine lon1/y: spec.nics[0].mac: 52:54:00:88:00:01 is already of Machine lon1/x; every port has its own; correct one of them")
	f(second("52:54:00:88:00:02", "10.88.0.21", "10.88.1.2:443"), "Machine lon1/y: spec.nics[0].address: 10.88.0.21 is already of Machine lon1/x; choose another")
	f(second("52:54:00:88:00:02", "10.88.0.22", "10.88.1.1:443"), "Machine lon1/y: spec.bmc.address: 10.88.1.1:443 is already of Machine lon1/x; every machine has its own controller; correct one of them")
	f(second("52:54:00:88:00:02", "10.88.9.5", "10.88.1.2:443"), "Machine lon1/y: spec.nics[0].address: 10.88.9.5 lies in the dynamic range of SubnetPool lon1/boot; choose one outside 10.88.9.1-10.88.9.9")
	f(second("52:54:00:88:00:02", "10.88.0.1", "10.88.1.2:443"), "Machine lon1/y: spec.nics[0].address: 10.88.0.1 is the gateway of SubnetPool lon1/boot; choose another")
	f(second("52:54:00:88:00:02", "10.99.0.1", "10.88.1.2:443"), "Machine lon1/y: spec.nics[0].address: 10.99.0.1 is in no subnet pool of site lon1; add the pool or choose an address of one")

	f(add(KindSwitch, "x", `"52:54:00:88:00:01"`, `"52:54:00:88:00:77"`), "Switch lon1/x: spec.ports[0].nic: no machine of site lon1 has NIC 52:54:00:88:00:77; add it to a machine's nics, or correct it")
	f(add(KindSwitch, "y", `"10.88.2.1"`, `"10.88.2.2"`),
		"Switch lon1/y: spec.ports[0].nic: 52:54:00:88:00:01 is already of Switch lon1/x; its traffic would count twice; correct one of them",
		"Switch lon1/y: spec.sflow.agents[1]: fd00::1 is already of Switch lon1/x; its traffic would count twice; correct one of them")

	for name, kind := range map[string]string{"nowhere": "Switch", "bmc": "Machine"} {
		old, with := `"sflow"`, `"snmp":{"address":"10.88.2.1","version":"2c","secret":"`+name+`"},"sflow"`
		if kind == "Machine" {
			old, with = `"bmc"`, strings.Replace(with, "sflow", "bmc", 1)
		}
		f(add(Kind(kind), "x", old, with), kind+" lon1/x: spec.snmp.secret: "+map[string]string{
			"nowhere": "there is no Secret lon1/nowhere; create it first, or see `skerry get secrets`", "bmc": "secret bmc is not of type snmp; make one of type snmp",
		}[name])
	}

	f(func(c *Catalog) { c.Put(object(t, KindSubnetPool, "more", `{"prefix":"10.88.128.0/17"}`)) },
		"SubnetPool lon1/more: spec.prefix: 10.88.128.0/17 overlaps 10.88.0.0/16 of SubnetPool lon1/boot; choose a free prefix; a site's subnets never overlap")
	f(func(c *Catalog) {
		o := object(t, KindSubnetPool, "boot", `{"prefix":"10.88.0.0/16"}`)
		o.Metadata.Site = "par1" // the same prefix at another site is nobody's business
		c.Put(o)
		c.Put(&Object{APIVersion: APIVersion, Kind: KindSite, Metadata: Metadata{Name: "par1"}, Spec: &SiteSpec{Region: "eu", Zone: "z"}})
	})
	f(add(KindInstanceArray, "x", `"count":1`, `"count":4`), "Quota acme/x: spec.machines.small: 4 machines of type small are asked for, 3 are allowed; ask for fewer, or let security raise the quota")
	f(add(KindQuota, "z", `"small":3`, `"small":9`), "Quota acme/z: metadata.site: Quota acme/x bounds project acme at site lon1 already; change that one; a project has one quota per site")
}

func TestEpochLaws(t *testing.T) {
	epoch := rapid.Custom(func(t *rapid.T) Epoch {
		return Epoch{rapid.Uint64Range(0, 1<<40).Draw(t, "generation"), rapid.Uint64Range(0, 1<<60).Draw(t, "n")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := epoch.Draw(t, "a"), epoch.Draw(t, "b")
		if a.Compare(b) != -b.Compare(a) || (a.Compare(b) == 0) != (a == b) {
			t.Fatalf("order of %v and %v is not one", a, b)
		}
		g := rapid.Uint64Range(0, 1<<40).Draw(t, "roster")
		r1, r2 := rapid.Uint16().Draw(t, "rank1"), rapid.Uint16().Draw(t, "rank2")
		n1, n2 := a.Next(g, r1), a.Next(g, r2)
		if n1.Compare(a) <= 0 {
			t.Fatalf("%v.Next = %v does not rise", a, n1)
		}
		if n1.Generation < g {
			t.Fatalf("%v.Next(%d) = %v is below the roster", a, g, n1)
		}
		if (n1 == n2) != (r1 == r2) {
			t.Fatalf("ranks %d and %d share epoch %v", r1, r2, n1)
		}
		back, err := ParseEpoch(n1.String())
		if err != nil || back != n1 {
			t.Fatalf("%v is read as %v, %v", n1, back, err)
		}
	})
}

func TestParseEpoch(t *testing.T) {
	f := func(s string, ok bool) {
		t.Helper()
		e, err := ParseEpoch(s)
		if (err == nil) != ok || (err != nil && !errors.Is(err, ErrEpoch)) || (ok && e.String() != s) {
			t.Errorf("ParseEpoch(%q) = %v, %v", s, e, err)
		}
	}
	f("0.0", true)
	f("4.65537", true)
	f(fmt.Sprintf("%d.%d", uint64(math.MaxUint64), uint64(math.MaxUint64)), true)
	f("", false)
	f("4", false)
	f("4.", false)
	f("04.1", false)
	f("+4.1", false)
	f("4.1.1", false)
	f("18446744073709551616.0", false)
	f(strings.Repeat("1", 50)+".1", false)
}

func TestStrengthAndEffect(t *testing.T) {
	if got := fmt.Sprint(StrengthNone, StrengthSoft, StrengthHard, Strength(9)); got != "none soft hard none" {
		t.Error(got)
	}
	if got := fmt.Sprint(EffectNone, EffectAccepted, EffectReadback, EffectObserved, Effect(9), Effect(-1)); got != "none accepted readback observed observed none" {
		t.Error(got)
	}
}

func TestDecodeEntry(t *testing.T) {
	entry := func(kind, body string) string {
		return `{"stream":"intent","epoch":1,"seq":2,"prev":"x","issued":"2026-01-01T00:00:00Z","site":"lon1","requires":{},"kind":"` + kind + `","body":` + body + `}`
	}
	f := func(text, want string) {
		t.Helper()
		e, err := DecodeEntry([]byte(text))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", text, err, want)
		case want == "":
			if h := e.Head([]byte(text)); h != (Head{1, 2, DigestOf([]byte(text))}) {
				t.Errorf("head is %+v", h)
			}
		}
	}
	for kind, body := range map[string]string{"put": `{"objects":[]}`, "tombstone": `{"objects":[{"kind":"Site","uid":"u","rev":1}]}`, "roster": `{"generation":1,"agents":[]}`, "secret": `{}`, "ack": `{"override":"o","decision":"adopt","rev":1}`} {
		f(entry(kind, body), "")
		f(strings.Replace(entry(kind, body), `"stream":"intent"`, `"stream":"trust"`, 1), `stream: "trust" is not intent`)
		f(strings.Replace(entry(kind, body), `"seq":2`, `"seq":0`, 1), "seq and epoch begin at 1")
		f(strings.Replace(entry(kind, body), `"epoch":1`, `"epoch":0`, 1), "seq and epoch begin at 1")
		f(strings.Replace(entry(kind, body), `lon1`, `LON`, 1), "is not a site id")
		f(entry(kind, `{"extra":1}`), "extra: unknown field")
		f(entry(kind, body)+" ", "")
		f(entry(kind, body)+"{}", "more data after the document")
	}
	f(entry("dance", `{}`), `kind: "dance" is not known; update the agent`)
	many := strings.TrimSuffix(strings.Repeat(`{"kind":"Site","uid":"u","rev":1},`, MaxObjects+1), ",")
	f(entry("tombstone", `{"objects":[`+many+`]}`), "257 objects; at most 256")
	f(entry("put", `{"objects":[]}`)+strings.Repeat(" ", MaxEnvelope), "entry too large")
}

func TestHeadCompare(t *testing.T) {
	a, b, c := Head{Epoch: 1, Seq: 9}, Head{Epoch: 2, Seq: 1}, Head{Epoch: 2, Seq: 2}
	if a.Compare(b) != -1 || b.Compare(c) != -1 || c.Compare(a) != 1 || c.Compare(c) != 0 {
		t.Error("heads are not ordered by epoch, then seq")
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add([]byte(`{"stream":"intent","epoch":1,"seq":2,"prev":"x","issued":"2026-01-01T00:00:00Z","site":"lon1","requires":{},"kind":"put","body":{"objects":[{"uid":"u","rev":1,"doc":{}}]}}`))
	f.Add([]byte(`{"stream":"intent","epoch":1,"seq":2,"site":"lon1","kind":"roster","body":{"agents":[{"id":"a","tls":["AQ=="]}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := DecodeEntry(b)
		if err != nil {
			return
		}
		if e.Seq == 0 || e.Epoch == 0 || !IsLabel(e.Site) {
			t.Fatalf("accepted %+v", e)
		}
		if _, err := e.DecodeBody(); err != nil {
			t.Fatalf("accepted, then its body is refused: %v", err)
		}
	})
}

func FuzzParseDigest(f *testing.F) {
	f.Add(digestA)
	f.Add(strings.Repeat("a", 64))
	f.Add("sha256:" + strings.Repeat("A", 64))
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDigest(s)
		if err != nil {
			if !errors.Is(err, ErrDigest) {
				t.Fatalf("error is %v", err)
			}
			return
		}
		if d.Hex() != strings.TrimPrefix(s, "sha256:") {
			t.Fatalf("%q is read as %s", s, d)
		}
	})
}
