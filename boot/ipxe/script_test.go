package ipxe

import (
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
)

var update = flag.Bool("update", false, "rewrite goldens")

func input(act Act) Input {
	in := Input{
		Act: act, Machine: "m1", MAC: "52-54-00-00-00-01", HTTP: []string{"10.88.0.12:7480", "10.88.0.11:7480"},
		Kernel: intent.DigestOf([]byte("kernel")), Ramdisk: intent.DigestOf([]byte("ramdisk")),
		Agents: []string{"10.88.0.12:7444", "10.88.0.11:7444"}, Pin: strings.Repeat("ab", 32),
		Addr: netip.MustParsePrefix("10.88.0.21/24"), Gateway: netip.MustParseAddr("10.88.0.1"), DNS: netip.MustParseAddr("10.88.0.1"),
	}
	if act == ActInstaller {
		in.Token = "skm1.abcDEF-_123"
	}
	return in
}

func TestScripts(t *testing.T) {
	f := func(name string, change func(*Input)) {
		t.Helper()
		in := input(Act(strings.SplitN(name, "_", 2)[0]))
		if change != nil {
			change(&in)
		}
		got, err := Script(in)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".ipxe")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	f("installer", nil)
	f("installer_one_agent", func(in *Input) {
		in.HTTP, in.Agents, in.Gateway, in.DNS = in.HTTP[:1], in.Agents[:1], netip.Addr{}, netip.Addr{}
		in.Console, in.ExtraArg = "ttyS1,115200", []string{"quiet"}
	})
	f("discover", func(in *Input) { in.Machine = "" })
	f("local_bios", nil)
	f("local_uefi", func(in *Input) { in.UEFI = true })
	f("local_quarantined", func(in *Input) { in.Reason = "quarantined: second hello with one token" })
	f("wait", func(in *Input) { in.Reason = "boot slots are taken" })
}

// TestRefused: nothing from outside breaks out of its place.
func TestRefused(t *testing.T) {
	f := func(act Act, change func(*Input)) {
		t.Helper()
		in := input(act)
		change(&in)
		if s, err := Script(in); !errors.Is(err, ErrInput) || s != "" {
			t.Fatalf("%v\n%s", err, s)
		}
	}
	for _, bad := range []string{"m1\nexit", "m1 || exit", "${net0/mac}", "m1;", "a b", "m\x01", "müll", "`x`"} {
		f(ActLocal, func(in *Input) { in.Machine = bad })
		f(ActInstaller, func(in *Input) { in.Token = bad })
		f(ActInstaller, func(in *Input) { in.HTTP[0] = bad })
		f(ActInstaller, func(in *Input) { in.ExtraArg = []string{bad} })
		f(ActInstaller, func(in *Input) { in.Console = bad })
	}
	f(ActLocal, func(in *Input) { in.Reason = "line\nbreak" })
	f(ActLocal, func(in *Input) { in.MAC = "" })
	f(ActInstaller, func(in *Input) { in.Token = "" })
	f(ActDiscover, func(in *Input) { in.Token = "x" }) // a stranger never gets one
	f(ActInstaller, func(in *Input) { in.HTTP = nil })
	f(ActInstaller, func(in *Input) { in.Kernel = intent.Digest{} })
	f(ActInstaller, func(in *Input) { in.Pin = "" })
	f(ActInstaller, func(in *Input) { in.ExtraArg = []string{strings.Repeat("x", MaxScript)} })
	f(Act("format"), func(*Input) {})
}

// TestSevenAgents: the largest site still fits.
func TestSevenAgents(t *testing.T) {
	in := input(ActInstaller)
	in.HTTP, in.Agents = nil, nil
	for range 3 { // what a site with seven agents may list: the first three of the machine's order
		in.HTTP = append(in.HTTP, "192.168.100.111:7480")
		in.Agents = append(in.Agents, "192.168.100.111:7444")
	}
	s, err := Script(in)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d octets", len(s))
}

func TestLoaders(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("ipxe.efi", "big")
	put("secret", "secret")
	l := Loaders{Dir: dir}
	f := func(name, want string) {
		t.Helper()
		r, err := l.Open(name)
		if want == "" {
			if !errors.Is(err, ErrNoLoader) {
				t.Fatalf("%s: %v", name, err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if b, err := io.ReadAll(r); err != nil || string(b) != want {
			t.Fatalf("%s: %q %v", name, b, err)
		}
	}
	f("snponly.efi", "big")
	put("snponly.efi", "small")
	f("snponly.efi", "small")
	f("undionly.kpxe", "")
	f("secret", "")
	f("../"+filepath.Base(dir)+"/secret", "")
	f("", "")
	put("undionly.kpxe", strings.Repeat("x", maxLoader+1))
	if _, err := l.Open("undionly.kpxe"); err == nil {
		t.Fatal("a loader of more than 1 MiB was served")
	}
}

func FuzzScript(f *testing.F) {
	f.Add("m1", "reason", "token", "10.88.0.11:7480", "quiet")
	f.Add("m1\n", "a\rb", "${x}", "", "|| exit")
	f.Fuzz(func(t *testing.T, machine, reason, token, http, arg string) {
		in := input(ActInstaller)
		in.Machine, in.Reason, in.Token, in.HTTP, in.ExtraArg = machine, reason, token, []string{http}, []string{arg}
		s, err := Script(in)
		if err != nil {
			return
		}
		plain := input(ActInstaller)
		plain.HTTP, plain.ExtraArg = []string{"h"}, []string{"a"}
		plain.Reason = map[bool]string{true: "r"}[reason != ""]
		p, err := Script(plain)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(s, "\n") != strings.Count(p, "\n") || strings.ContainsAny(s, "\r\x00") || len(s) > MaxScript {
			t.Fatalf("the shape changed:\n%q", s)
		}
	})
}
