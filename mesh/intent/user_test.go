package intent

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A user's key is read from PEM and from base64, and is what a certificate carries: anything else would match none.
func TestUserKey(t *testing.T) {
	pemOf := func(b64 string) string {
		return "-----BEGIN PUBLIC KEY-----\n" + b64 + "\n-----END PUBLIC KEY-----\n"
	}
	f := func(text, want string) {
		t.Helper()
		d, err := UserKey{Public: text}.SPKI()
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want || (err == nil) == d.IsZero() {
			t.Errorf("%.60q: %s, %q, want %q", text, d, got, want)
		}
	}
	f(keyAna, "")
	f(keyBob, "")
	f(pemOf(keyAna), "")
	f("  "+keyAna+"\n", "")
	a, _ := UserKey{Public: keyAna}.SPKI()
	if b, _ := (UserKey{Public: pemOf(keyAna)}).SPKI(); a != b {
		t.Error("PEM and base64 of one key have two names")
	}
	f("", "is no public key")
	f("hello", "is neither PEM nor base64")
	f(strings.Repeat("A", maxUserKey+1), "is too long for a public key")
	f(pemOf(keyAna)+pemOf(keyBob), "is not one PEM block of type PUBLIC KEY")
	f(strings.ReplaceAll(pemOf(keyAna), "PUBLIC", "PRIVATE"), "is not one PEM block of type PUBLIC KEY")
	f(base64.StdEncoding.EncodeToString([]byte("no key at all")), "is no public key")
	f("MCowBQYDK2VuAyEAbq3lnQjv43fFFn2QGh/aXcn+eEDhdSroD85bwjIvk3Q=", "is neither Ed25519 nor P-256") // X25519
	raw, err := base64.StdEncoding.DecodeString(keyAna)
	if err != nil {
		t.Fatal(err)
	}
	f(base64.StdEncoding.EncodeToString(append(raw, 0)), "is no public key")
}

func FuzzUserKey(f *testing.F) {
	f.Add(keyAna)
	f.Add(keyBob)
	f.Add("-----BEGIN PUBLIC KEY-----\n" + keyAna + "\n-----END PUBLIC KEY-----\n")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := (UserKey{Public: s}).SPKI(); (err == nil) == d.IsZero() {
			t.Fatalf("%q: %v, %v", s, d, err)
		}
	})
}

func TestUsersAndGroups(t *testing.T) {
	user := func(spec string, want ...string) {
		t.Helper()
		if d := cmp.Diff(want, problems(doc(KindUser, "a", "", spec))); d != "" {
			t.Errorf("%s: -want +got\n%s", spec, d)
		}
	}
	const both = `"bindings":[{"role":"operator","site":"lon1"},{"role":"security","site":"lon1"}]`
	const twoRoles = "spec.bindings: a break-glass user is operator and security at one site; make it with `skerry user break-glass create --site SITE --out FILE`"
	user(`{"breakGlass":true,"keys":[{"public":"` + keyAna + `"}],` + both + `}`)
	user(`{"breakGlass":true,`+both+`}`, "spec.breakGlass: wants a key and no token; `skerry user break-glass create --site SITE --out FILE` makes one")
	user(`{"breakGlass":true,"keys":[{"public":"`+keyAna+`"}],"bindings":[]}`, twoRoles)
	user(`{"breakGlass":true,"keys":[{"public":"`+keyAna+`"}],`+strings.Replace(both, "lon1", "par1", 1)+`}`, twoRoles)
	user(`{"breakGlass":true,"keys":[{"public":"`+keyAna+`"}],`+strings.Replace(both, "security", "operator", 1)+`}`, twoRoles)
	user(`{"breakGlass":true,"keys":[{"public":"`+keyAna+`"}],`+strings.ReplaceAll(both, `,"site":"lon1"`, ``)+`}`, twoRoles)
	user(`{"keys":[{"public":"x"}],"bindings":[]}`, "spec.keys[0].public: is neither PEM nor base64; `skerry user key create FILE` makes a key and prints its public half")
	user(`{"keys":[`+strings.Repeat(`{"public":"`+keyAna+`"},`, 16)+`{"public":"`+keyAna+`"}],"bindings":[]}`, "spec: more than 64 tokens or 16 keys; remove some, or make another user")
	if got := problems(doc(KindGroup, "g", "", `{"members":["a","a","B"],"bindings":[{"role":"X"}]}`)); len(got) != 3 {
		t.Errorf("a bad group has problems %q", got)
	}

	put := func(name, spec string) *Object {
		t.Helper()
		o, err := DecodeObject([]byte(doc(KindUser, name, "", spec)))
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	c := NewCatalog(
		put("ana", `{"keys":[{"public":"`+keyAna+`"}],"bindings":[{"role":"reader"}]}`), put("bob", `{"keys":[{"public":"`+keyBob+`"},{"public":"`+keyAna+`"}],"bindings":[]}`),
		put("bg", `{"breakGlass":true,"keys":[{"public":"`+keyBob+`"}],`+both+`}`), object(t, KindSite, "lon1", goodSpecs()[KindSite]))
	g, err := DecodeObject([]byte(doc(KindGroup, "ops", "", `{"members":["ana","eve","bg"],"bindings":[{"role":"auditor"},{"role":"reader"},{"role":"chef"}]}`)))
	if err != nil {
		t.Fatal(err)
	}
	c.Put(g)
	var got []string
	for _, p := range c.Check() {
		if p.Key.Kind == KindUser || p.Key.Kind == KindGroup {
			got = append(got, p.Key.String()+": "+p.Problem.String())
		}
	}
	if d := cmp.Diff([]string{
		"User bob: spec.keys[0].public: the key is already of User bg; a key names one user: make another",
		"User bob: spec.keys[1].public: the key is already of User ana; a key names one user: make another",
		"Group ops: spec.bindings[2].role: there is no Role chef; create it first, or see `skerry get roles`",
		"Group ops: spec.members[1]: there is no User eve; create it first, or see `skerry get users`",
		"Group ops: spec.members[2]: bg is a break-glass user; it has its two roles and no more: remove it",
	}, slices.Sorted(slices.Values(got)), cmp.Transformer("sort", func(s []string) []string { return slices.Sorted(slices.Values(s)) })); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if got := c.BindingsOf("ana"); len(got) != 3 || c.BindingsOf("bob") != nil && len(c.BindingsOf("bob")) != 0 || c.BindingsOf("eve") != nil {
		t.Errorf("ana has %v, bob %v, eve %v", got, c.BindingsOf("bob"), c.BindingsOf("eve"))
	}
	if k := c.UserKeys(); len(k) != 2 {
		t.Errorf("%d keys", len(k))
	}
}
