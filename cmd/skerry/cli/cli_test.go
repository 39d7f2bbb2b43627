package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/intent"
)

var update = flag.Bool("update", false, "rewrite goldens")

// run runs one command without server, home or environment.
func run(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Main(t.Context(), args, Streams{In: strings.NewReader(""), Out: &o, Err: &e}, func(string) string { return "" })
	return code, o.String(), e.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
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
		t.Errorf("%s: -want +got\n%s", path, d)
	}
}

// Every help text, in one file: a reader sees what a change does to all of them.
func TestHelp(t *testing.T) {
	a := &app{Streams: Streams{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}}}
	var b strings.Builder
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		code, out, errs := run(t, args...)
		if code != exitDone || errs != "" {
			t.Errorf("%v exits %d and says %q", args, code, errs)
		}
		fmt.Fprintf(&b, "$ skerry %s\n%s\n", strings.Join(args, " "), out)
		if c.Short == "" {
			t.Errorf("%s says nothing of itself", c.CommandPath())
		}
		for _, s := range c.Commands() {
			walk(s)
		}
	}
	walk(a.root())
	golden(t, "help.txt", b.String())
}

// The fields of every kind, and each of them is one that the reader of documents knows.
func TestFields(t *testing.T) {
	var b strings.Builder
	for _, info := range intent.Kinds() {
		code, out, errs := run(t, "describe", "--fields", string(info.Kind))
		if code != exitDone || errs != "" {
			t.Fatalf("exit %d, %q", code, errs)
		}
		fmt.Fprintf(&b, "$ skerry describe --fields %s\n%s\n", info.Kind, out)
	}
	golden(t, "fields.txt", b.String())
}

func TestParseDocuments(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		docs, err := parseDocuments("f.yaml", []byte(text))
		var got []string
		if err != nil {
			got = strings.Split(err.Error(), "\n")[1:]
		}
		for _, d := range docs {
			got = append(got, d.obj.Key().String())
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: -want +got\n%s", text, d)
		}
	}
	const site = "apiVersion: skerry/v1\nkind: Site\nmetadata: {name: lon1}\nspec:\n  region: eu\n  zone: z\n"
	f(site, "Site lon1")
	f(site+"---\n"+strings.Replace(site, "lon1", "par1", 1), "Site lon1", "Site par1")
	f("---\n# only a comment\n---\n"+site+"---\n", "Site lon1")
	// After an empty document comes more: none of it may be lost.
	f(site+"---\n---\n"+strings.Replace(site, "lon1", "par1", 1), "Site lon1", "Site par1")
	f("%YAML 1.2\n--- # first\n"+site+"...\n"+strings.Replace(site, "lon1", "par1", 1), "Site lon1", "Site par1")
	f("---\r\n"+strings.ReplaceAll(site, "\n", "\r\n")+"---\r\n", "Site lon1")
	f(site+"---\n\n---\n"+strings.Replace(site, "zone", "zoen", 1), "f.yaml:15:3: spec.zoen: unknown field; did you mean zone?")
	f(site+"---\na: b: c\n", "f.yaml:8:4: mapping value is not allowed in this context")
	f(`{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"lon1"},"spec":{"region":"eu","zone":"z"}}`, "Site lon1")
	f(strings.Replace(site, "zone", "zoen", 1), "f.yaml:6:3: spec.zoen: unknown field; did you mean zone?")
	f(strings.Replace(site, "eu", "[eu]", 1), "f.yaml:5:3: spec.region: is an array; give a string")
	f(strings.Replace(site, "eu", "EU", 1)+"---\n"+strings.Replace(site, "z\n", "Z\n", 1),
		`f.yaml:5:3: spec.region: "EU" is not a name; use 1-63 of a-z, 0-9 and -, beginning and ending with a letter or digit`,
		`f.yaml:13:3: spec.zone: "Z" is not a name; use 1-63 of a-z, 0-9 and -, beginning and ending with a letter or digit`)
	f(strings.Replace(site, "Site", "Planet", 1), "f.yaml:2:1: kind: \"Planet\" is not known; `skerry get kinds` lists them")
	f(strings.Replace(site, "lon1", "1", 1), "f.yaml:3:12: metadata.name: is a number; give a string")
	f("a: &x [1]\nb: *x\n", "f.yaml:1:1: a: unknown field; remove it")
	f("a: b: c\n", "f.yaml:1:4: mapping value is not allowed in this context")
}

// Documents from outside cost an error at most, however they are nested or aliased.
func FuzzParseDocuments(f *testing.F) {
	f.Add([]byte("apiVersion: skerry/v1\nkind: Site\nmetadata: {name: lon1}\nspec: {region: eu, zone: z}\n"))
	f.Add([]byte("a: &a [x]\nb: &b [*a,*a]\nc: [*b,*b]\n"))
	f.Add([]byte("? [a]\n: b\n--- !!binary |\n  aGk=\n"))
	f.Add([]byte("{a: .nan, 1: ~, \"\\u0000\": !!str}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		docs, err := parseDocuments("f", b)
		if err == nil && len(docs) == 0 {
			t.Fatal("neither documents nor an error")
		}
	})
}

func TestTable(t *testing.T) {
	tb := &table{}
	tb.header("A", "LONGER", "C")
	tb.row("ü", "", "x")
	tb.row("wide one", "y", " ")
	var b strings.Builder
	if err := tb.write(&b); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff("A         LONGER  C\nü         -       x\nwide one  y\n", b.String()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestAge(t *testing.T) {
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	f := func(d time.Duration, want string) {
		t.Helper()
		if got := account.Age(now.Add(-d), now); got != want {
			t.Errorf("age(%s) = %s, want %s", d, got, want)
		}
	}
	f(5*time.Second, "5s")
	f(5*time.Minute, "5m")
	f(47*time.Hour, "47h")
	f(49*time.Hour, "2d")
	f(87600*time.Hour, "3650d")
	if got := account.Age(time.Time{}, now); got != "never" {
		t.Error(got)
	}
}

// Whatever -o says, no command crashes on it.
func TestOutputs(t *testing.T) {
	for _, o := range []string{"table", "wide", "json", "yaml", "name"} {
		for _, args := range [][]string{{"get", "kinds"}, {"describe", "--fields", "machine"}, {"version"}} {
			if code, out, errs := run(t, append(args, "-o", o)...); code != exitDone || out == "" {
				t.Errorf("%v -o %s exits %d: %s", args, o, code, errs)
			}
		}
	}
}
