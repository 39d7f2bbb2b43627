package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/coordinator/backup"
	"github.com/skerry-metal/skerry/coordinator/secrets"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/test/e2e/procs"
)

// forms are how a secret may be written: as it is, in hex, and in base64 (payloads of envelopes, octets in JSON) wherever in the
// encoded text it begins.
func forms(secret string) [][]byte {
	out := [][]byte{[]byte(secret), []byte(hex.EncodeToString([]byte(secret)))}
	for shift := range 3 {
		// Characters that hold bits of what stands before or behind are left out.
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + secret))
		first, last := (shift*8+5)/6, (shift+len(secret))*8/6
		out = append(out, []byte(text[first:last]), []byte(strings.NewReplacer("+", "-", "/", "_").Replace(text[first:last])))
	}
	return out
}

// holds tells whether a secret is written in b, in whatever form.
func holds(b []byte, secret string) bool {
	for _, f := range forms(secret) {
		if bytes.Contains(b, f) {
			return true
		}
	}
	return false
}

// TestFormsAreFound: noTrace finds what is there.
func TestFormsAreFound(t *testing.T) {
	const secret = "MARKED-correct-horse?~\xff\xfe"
	for before := range 7 {
		text := []byte("{\"password\":\""[:before] + secret + "\"}")
		for what, b := range map[string][]byte{
			"plain": text, "hex": []byte(hex.EncodeToString(text)),
			"base64": []byte(base64.StdEncoding.EncodeToString(text)), "base64 of URLs": []byte(base64.RawURLEncoding.EncodeToString(text)),
		} {
			if !holds(b, secret) {
				t.Errorf("%s, %d octets before it: not found", what, before)
			}
			if holds(b, "MARKED-another-horse") {
				t.Errorf("%s: found what is not there", what)
			}
		}
	}
}

// keysAtRest reads the data keys of a site's agents and its boot key from the store of a coordinator that does not run.
func keysAtRest(t *testing.T, data, when string, agents ...string) map[string]string {
	t.Helper()
	master, err := os.ReadFile(filepath.Join(data, "keys", backup.MasterFile))
	if err != nil {
		t.Fatal(err)
	}
	mac := intent.DigestOf(append([]byte("skerry/records/v1|"), master...))
	db, err := state.Open(state.Config{Dir: filepath.Join(data, "state"), Key: mac[:], Logger: slog.New(slog.DiscardHandler), UserFree: 1, VitalFree: 1, StopFree: 1, UserFraction: -1})
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.OpenBadger(db)
	if err != nil {
		t.Fatal(errors.Join(err, db.Close()))
	}
	defer st.Close()
	self, err := st.Get(t.Context(), "self")
	if err != nil {
		t.Fatal(err)
	}
	dek, err := seal.DEKFrom(1, seal.NewSecret(master))
	if err != nil {
		t.Fatal(err)
	}
	b := seal.Binding{Domain: "bench.example", Site: "at-rest", Agent: strings.Trim(string(self.Value), `"`)}
	out := map[string]string{}
	keys := map[string]string{"the boot key " + when: store.SecretKey("lon1", secrets.BootKey)}
	for _, a := range agents {
		keys["the data key of "+a+" "+when] = store.DEKKey("lon1", a)
	}
	for what, key := range keys {
		e, err := st.Get(t.Context(), key)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		var rec intent.SealedRecord
		if err := json.Unmarshal(e.Value, &rec); err != nil {
			t.Fatal(err)
		}
		plain, err := dek.Open(b, rec)
		if err != nil || len(plain.Reveal()) != 32 {
			t.Fatalf("%s: %d octets, %v", what, len(plain.Reveal()), err)
		}
		out[what] = string(plain.Reveal())
	}
	return out
}

// answers are what the API says about everything that touches a secret.
func answers(t *testing.T, s *procs.Site) map[string]any {
	t.Helper()
	c, ctx := s.API("coordinator"), t.Context()
	out := map[string]any{}
	put := func(what string, v any, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		out[what] = v
	}
	for _, kind := range []intent.Kind{intent.KindSecret, intent.KindMachine, intent.KindUser, intent.KindAgent} {
		info, _ := kind.Info()
		items, err := c.List(ctx, info, "", "")
		put(string(kind), items, err)
	}
	secrets, err := c.SecretStatus(ctx, "lon1")
	put("secret status", secrets, err)
	keys, err := c.KeyStatus(ctx)
	put("keys", keys, err)
	site, err := c.SiteStatus(ctx, "lon1")
	put("the site", site, err)
	var lines []api.AuditLine
	err = c.Audit(ctx, api.AuditQuery{}, func(l api.AuditLine) error { lines = append(lines, l); return nil })
	put("the audit log", lines, err)
	var events []intent.Event
	err = c.Events(ctx, api.EventQuery{Site: "lon1"}, func(e intent.Event) error { events = append(events, e); return nil })
	put("events", events, err)
	return out
}

// noTrace (F21) looks for marked secrets where they must never be: in what processes log and keep, in their environments and
// command lines, in what the API answers, and in the chains.
func noTrace(t *testing.T, s *procs.Site, marked map[string]string) {
	t.Helper()
	looked := 0
	look := func(where string, b []byte) {
		looked++
		for what, secret := range marked {
			if holds(b, secret) {
				t.Errorf("%s is in %s", what, where)
			}
		}
	}
	err := filepath.WalkDir(filepath.Dir(s.Data("a1")), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // a process that runs removes files
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		look(path, b)
		return err
	})
	for name, p := range s.Procs {
		for _, file := range []string{"environ", "cmdline"} {
			b, eerr := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.Pid(), file))
			err = errors.Join(err, eerr)
			look("the "+file+" of "+name, b)
		}
	}
	for what, v := range answers(t, s) {
		b, merr := json.Marshal(v)
		if err = errors.Join(err, merr); len(b) < 20 {
			t.Errorf("%s says only %q", what, b)
		}
		look("the answer about "+what, b)
	}
	for _, who := range []string{"coordinator", "a1"} { // what the site is told, and what it tells
		var stick bytes.Buffer
		if _, xerr := s.API(who).ExportStick(t.Context(), "lon1", 1, &stick); xerr != nil || stick.Len() < 1000 {
			t.Errorf("the stick of %s has %d octets, %v", who, stick.Len(), xerr)
		}
		look("the stick of "+who, stick.Bytes())
	}
	if err != nil || looked < 20 {
		t.Errorf("looked at %d places, %v", looked, err)
	}
}
