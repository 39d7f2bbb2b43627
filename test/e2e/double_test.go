package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/test/e2e/procs"
)

// Experiment F17, a kit used twice: two boxes start from one kit. The site finds it out, cuts off both, and takes the right one back
// when a person turned the other off. Real processes, nobody above.
func TestKitTwice(t *testing.T) {
	s := procs.New(t, buildSkerry(t), "a1", "a2")
	ctx := t.Context()
	tok, err := s.API("coordinator").JoinToken(ctx, "lon1", api.JoinTokenRequest{Agent: "s1", Spare: true})
	if err != nil {
		t.Fatal(err)
	}
	kit := filepath.Join(t.TempDir(), "lon1-s1.kit")
	_, rest, _ := strings.Cut(s.CLI("agent", "kit", "--join", tok.Token, "--out", kit), "passphrase")
	file := kit + ".passphrase"
	if err := os.WriteFile(file, []byte(strings.Fields(rest)[0]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Until("the site knows the spare", func(ctx context.Context) bool {
		st, err := s.API("coordinator").SiteStatus(ctx, "lon1")
		return err == nil && st.Head == st.Published
	})
	s.Kill("coordinator")
	if _, err := s.API("a1").Quarantine(ctx, "lon1", "a2", api.QuarantineRequest{On: true, Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	s.Kill("a2")
	alive := func(want string) func(context.Context) bool {
		return func(ctx context.Context) bool {
			st, err := s.API("a1").SiteStatus(ctx, "lon1")
			return err == nil && procs.Alive(st) == want
		}
	}
	spare := []string{"--spare", kit, "--passphrase-file", file, "--replaces", "a2"}
	s.Agent("s1", spare...)
	s.Until("s1 is in a2's place", alive("a1 s1"))

	s.Agent("thief", spare...) // another box, another address, the same kit
	s.Until("both are cut off", alive("a1"))
	found := false
	err = s.API("a1").Audit(ctx, api.AuditQuery{Site: "lon1"}, func(l api.AuditLine) error {
		found = found || strings.Contains(string(l.Record), "agent.quarantined") && strings.Contains(string(l.Record), "two boxes")
		return nil
	})
	if err != nil || !found {
		t.Errorf("the audit log does not say why: %v", err)
	}

	s.Kill("thief")
	if _, err := s.API("a1").Quarantine(ctx, "lon1", "s1", api.QuarantineRequest{On: false, Reason: "the other box is off"}); err != nil {
		t.Fatal(err)
	}
	s.Until("the right one is back", alive("a1 s1"))
}
