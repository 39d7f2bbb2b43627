package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/siteagent/doctor"
	"github.com/skerry-metal/skerry/test/sim/ipmi"
)

// off is a machine that stays off.
type off struct{}

func (off) On(context.Context) error       { return nil }
func (off) Off(context.Context) error      { return nil }
func (off) Reset(context.Context) error    { return nil }
func (off) Shutdown(context.Context) error { return nil }
func (off) PowerOn() bool                  { return false }

// fake is a shell that keeps what is printed.
type fake struct {
	partial error // what Partial returns
	env     map[string]string
	json    []byte
	lines   []string
}

func (f *fake) Print(v any, fill func(account.Table)) error {
	fill(f)
	var err error
	f.json, err = json.Marshal(v)
	return err
}
func (f *fake) Header(cols ...string)     { f.lines = append(f.lines, strings.Join(cols, " ")) }
func (f *fake) Row(cols ...string)        { f.lines = append(f.lines, strings.Join(cols, " ")) }
func (f *fake) Getenv(name string) string { return f.env[name] }
func (f *fake) Partial() error            { f.partial = errors.New("partial"); return f.partial }
func (f *fake) ArgsUpTo(least int, names ...string) cobra.PositionalArgs {
	return cobra.RangeArgs(least, len(names))
}

func run(f *fake, args ...string) error {
	c := bmcCommand(f, options{rate: 500})
	c.SilenceUsage, c.SilenceErrors = true, true
	c.SetArgs(args)
	return c.ExecuteContext(context.Background())
}

// TestBMC runs the verb against a controller that speaks IPMI: IPMI has no fence, so the exit code is that of what works in part.
func TestBMC(t *testing.T) {
	b, addr := ipmi.Start(t, ipmi.Config{User: "admin", Password: "secret", UUID: "00112233-4455-4677-8899-aabbccddeeff", Serial: "SN1"}, off{})
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	f := &fake{}
	if err := run(f, addr, "--protocol", "ipmi", "--user", "admin", "--password-file", file); err == nil || err != f.partial {
		t.Fatal(err)
	}
	if text := strings.Join(f.lines, "\n"); !strings.Contains(text, "ipmi login works user admin logs in") || !strings.Contains(text, "ipmi boot-write skipped") || b.Writes() != 0 {
		t.Fatalf("%d writes:\n%s", b.Writes(), text)
	}
	var r doctor.Report
	if err := json.Unmarshal(f.json, &r); err != nil || r.Protocol != "ipmi" || r.Verdict != doctor.Limited {
		t.Fatalf("%s %v", f.json, err)
	}

	f = &fake{env: map[string]string{"SKERRY_BMC_PASSWORD": "secret"}}
	if err := run(f, addr, "--protocol", "ipmi", "--user", "admin", "--write", "--yes"); err == nil || err != f.partial || b.Writes() != 2 {
		t.Fatalf("%d writes: %v", b.Writes(), err)
	}
	f = &fake{env: map[string]string{"SKERRY_BMC_PASSWORD": "wrong"}}
	if err := run(f, addr, "--protocol", "ipmi", "--user", "admin"); err == nil || !strings.Contains(err.Error(), "neither protocol works") {
		t.Fatal(err)
	}
}

// TestUsage: what cannot be meant is refused before anything is asked.
func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{"192.0.2.1"}, {"192.0.2.1:623", "--user", "u"}, {"192.0.2.1", "--user", "u", "--protocol", "telnet"},
	} {
		var usage *account.UsageError
		if err := run(&fake{}, args...); !errors.As(err, &usage) {
			t.Errorf("%v: %v", args, err)
		}
	}
	if err := run(&fake{}, "192.0.2.1", "--user", "u", "--password-file", filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a password file that is not there")
	}
}
