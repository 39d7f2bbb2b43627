package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The limits of the house; what we aim at is lower (file 400, function 60, package 1,500 lines, depth 3).
const (
	maxFile     = 600
	maxFunction = 100
	maxPackage  = 2500
	maxDepth    = 4
	maxTracked  = 1 << 20 // octets: a clone stays small
)

// large are the packages that may be larger, each with its own limit.
func large() map[string]int {
	return map[string]int{
		"cmd/skerry/cli": 3500, // flags, help and tables of every verb, a file a noun: no logic that could be parted
		"mesh/intent":    2850, // the model is one leaf: a kind, its validation and its references cannot be parted
		"coordinator":    2900, // secrets at rest are to move out into a room of their own
	}
}

func checkSizes(files []source, larger map[string]int) []string {
	var out []string
	packages := map[string]int{}
	for _, f := range files {
		if f.lines() > maxFile {
			out = append(out, fmt.Sprintf("%s has %d lines, at most %d: give its second noun a file", f.path, f.lines(), maxFile))
		}
		if d := strings.Count(f.dir, "/") + 1; d > maxDepth {
			out = append(out, fmt.Sprintf("%s lies %d folders deep, at most %d", f.dir, d, maxDepth))
		}
		if !f.test {
			packages[f.dir] += f.lines()
		}
		for _, d := range f.file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1
			if n > maxFunction {
				out = append(out, fmt.Sprintf("%s: %s has %d lines, at most %d", f.at(fn.Pos()), fn.Name.Name, n, maxFunction))
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		limit := maxPackage
		if l, ok := larger[dir]; ok {
			if limit = l; packages[dir] <= maxPackage {
				out = append(out, fmt.Sprintf("%s has %d lines and needs no exception any more: remove it", dir, packages[dir]))
			}
		}
		if packages[dir] > limit {
			out = append(out, fmt.Sprintf("%s has %d lines without tests, at most %d: divide it", dir, packages[dir], limit))
		}
	}
	return out
}

func TestSizes(t *testing.T) { report(t, checkSizes(tree(t), large())) }

func TestSizesSeen(t *testing.T) {
	of := func(name, body string) []source { return []source{parse(t, name, "package p\n"+body)} }
	wantRed(t, checkSizes(of("a/x.go", strings.Repeat("\n", maxFile)), nil), "has 601 lines")
	wantRed(t, checkSizes(of("a/x_test.go", strings.Repeat("\n", maxFile)), nil), "has 601 lines")
	wantRed(t, checkSizes(of("a/x.go", "func f() {"+strings.Repeat("\n", maxFunction)+"}\n"), nil), "x.go:2: f has 101 lines")
	wantRed(t, checkSizes(of("a/b/c/d/e/x.go", ""), nil), "5 folders deep")
	var many []source
	for i := range 6 {
		many = append(many, parse(t, fmt.Sprintf("a/x%d.go", i), "package p\n"+strings.Repeat("\n", 499)))
	}
	wantRed(t, checkSizes(many, nil), "a has 3000 lines without tests, at most 2500")
	wantGreen(t, checkSizes(many, map[string]int{"a": 3000}))
	wantRed(t, checkSizes(many[:1], map[string]int{"a": 3000}), "needs no exception")
	wantGreen(t, checkSizes(of("a/b/c/d/x.go", "func f() {"+strings.Repeat("\n", maxFunction-1)+"}\n"), nil))
}

// docWords are what every package comment must tell.
func docWords() []string { return []string{"Holds", "Imported by", "Promises", "Concurrency", "Tests"} }

func badNames() []string {
	return []string{"util", "utils", "common", "types", "helpers", "model", "misc"}
}

// checkDocs wants one package comment per package: in doc.go, or in main.go of a program.
func checkDocs(files []source) []string {
	var out []string
	docs := map[string]string{}
	for _, f := range files {
		if _, ok := docs[f.dir]; !ok {
			docs[f.dir] = ""
		}
		if f.file.Doc == nil || f.test {
			continue
		}
		base := f.path[strings.LastIndex(f.path, "/")+1:]
		if base != "doc.go" && !(f.file.Name.Name == "main" && base == "main.go") {
			out = append(out, fmt.Sprintf("%s has a package comment: it belongs into doc.go", f.path))
			continue
		}
		docs[f.dir] += f.file.Doc.Text()
	}
	for _, dir := range slices.Sorted(maps.Keys(docs)) {
		for _, w := range docWords() {
			if !strings.Contains(docs[dir], w+":") {
				out = append(out, fmt.Sprintf("%s: the package comment does not say %q", dir, w))
			}
		}
		if slices.Contains(badNames(), dir[strings.LastIndex(dir, "/")+1:]) {
			out = append(out, fmt.Sprintf("%s: a name that says nothing", dir))
		}
	}
	return out
}

func TestDocs(t *testing.T) { report(t, checkDocs(tree(t))) }

func TestDocsSeen(t *testing.T) {
	full := "// Package p is.\n//\n// Holds: x.\n// Imported by: x.\n// Promises: x.\n// Concurrency: x.\n// Tests: x.\npackage p\n"
	of := func(name, text string) []source { return []source{parse(t, name, text)} }
	wantGreen(t, checkDocs(of("a/doc.go", full)))
	wantRed(t, checkDocs(of("a/x.go", full)), "belongs into doc.go")
	wantRed(t, checkDocs(of("a/x.go", "package p\n")), `a: the package comment does not say "Holds"`)
	wantRed(t, checkDocs(of("a/doc.go", strings.Replace(full, "Promises", "Premises", 1))), `"Promises"`)
	wantRed(t, checkDocs(of("a/util/doc.go", full)), "says nothing")
	wantGreen(t, checkDocs(of("a/main.go", strings.Replace(full, "package p", "package main", 1))))
}

// blindTLS are the files that may switch the standard certificate check off, and why.
func blindTLS() map[string]string {
	return map[string]string{
		"pki/trust/tls.go":              "ours is decided by signed state, not by clock or host name",
		"boot/bmc/redfish/transport.go": "a controller's self-signed certificate is pinned at first use",
		"boot/install/client.go":        "the installer knows its agents by the keys that its signed boot arguments name",
	}
}

// globals are the package-level variables that may be, and why.
func globals() map[string]string {
	return map[string]string{
		"pki/ca/ca.go quietOnce": "guards a global of cfssl: its logger writes serials to stderr and can only be set once for all",
	}
}

// checkState complains of package-level state, init functions, and certificates that nobody checks.
func checkState(files []source, blind map[string]string) []string {
	var out []string
	for _, f := range files {
		ast.Inspect(f.file, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok && id.Name == "InsecureSkipVerify" && !f.test && blind[f.path] == "" {
				out = append(out, fmt.Sprintf("%s: InsecureSkipVerify: only pki/trust decides whom we believe", f.at(id.Pos())))
			}
			return true
		})
		for _, d := range f.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					out = append(out, fmt.Sprintf("%s: func init: nothing runs before main", f.at(d.Pos())))
				}
			case *ast.GenDecl:
				if d.Tok == token.VAR && !f.test {
					out = append(out, checkVars(f, d)...)
				}
			}
		}
	}
	return out
}

// checkSkips complains of a test that skips for a missing program by itself: only lab.Need fails it where lab is strict. lab
// stands on netlab, whose own tests cannot use it: without root or iproute2 every test of lab fails strictly.
func checkSkips(files []source) []string {
	var out []string
	for _, f := range files {
		ast.Inspect(f.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !f.test || within(f.dir, "test/sim/netlab") || len(call.Args) == 0 {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			lit, isLit := call.Args[0].(*ast.BasicLit)
			if ok && isLit && strings.HasPrefix(sel.Sel.Name, "Skip") && strings.Contains(lit.Value, "needs ") {
				out = append(out, fmt.Sprintf("%s: a skip of its own: lab.Need says the package and fails in CI", f.at(call.Pos())))
			}
			return true
		})
	}
	return out
}

func TestSkips(t *testing.T) { report(t, checkSkips(tree(t))) }

func TestSkipsSeen(t *testing.T) {
	of := func(body string) []source {
		return []source{parse(t, "a/x_test.go", "package p\nfunc f() {"+body+"}\n")}
	}
	wantRed(t, checkSkips(of(`t.Skip("needs cpio")`)), "x_test.go:2")
	wantRed(t, checkSkips(of(`t.Skipf("needs %s", x)`)), "x_test.go:2")
	wantGreen(t, checkSkips(of(`t.Skip("takes long"); lab.Need(t)`)))
}

func checkVars(f source, d *ast.GenDecl) []string {
	var out []string
	for _, s := range d.Specs {
		v := s.(*ast.ValueSpec)
		for i, name := range v.Names {
			var value ast.Expr
			if i < len(v.Values) {
				value = v.Values[i]
			}
			if name.Name != "_" && globals()[f.path+" "+name.Name] == "" && !sentinel(value) && !embedded(d) && !strings.HasPrefix(name.Name, "Err") {
				out = append(out, fmt.Sprintf("%s: var %s at package level: state belongs to a struct that somebody owns", f.at(name.Pos()), name.Name))
			}
		}
	}
	return out
}

// sentinel tells whether a value never changes after it was made: an error, a compiled expression.
func sentinel(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && slices.Contains([]string{"errors.New", "fmt.Errorf", "regexp.MustCompile"}, pkg.Name+"."+sel.Sel.Name)
}

func embedded(d *ast.GenDecl) bool {
	return d.Doc != nil && slices.ContainsFunc(d.Doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

func TestState(t *testing.T) {
	files := tree(t)
	report(t, checkState(files, blindTLS()))
	for name, why := range blindTLS() {
		var one []source
		for _, f := range files {
			if f.path == name {
				one = append(one, f)
			}
		}
		if len(checkState(one, nil)) == 0 {
			t.Errorf("%s does not switch the certificate check off any more (%s): remove its row", name, why)
		}
	}
}

func TestStateSeen(t *testing.T) {
	of := func(body string) []source { return []source{parse(t, "a/x.go", "package p\n"+body+"\n")} }
	wantRed(t, checkState(of("var cache = map[string]int{}"), nil), "x.go:2: var cache")
	wantRed(t, checkState(of("var mu sync.Mutex"), nil), "var mu")
	wantRed(t, checkState(of("var a, b = errors.New(\"x\"), new(int)"), nil), "var b")
	wantRed(t, checkState(of("var (\n\tx = &T{}\n)"), nil), "x.go:3: var x")
	wantRed(t, checkState(of("func init() {}"), nil), "func init")
	wantRed(t, checkState(of("var _ = tls.Config{InsecureSkipVerify: true}"), nil), "InsecureSkipVerify")
	wantRed(t, checkState(of("func f() { c.InsecureSkipVerify = true }"), nil), "x.go:2: InsecureSkipVerify")
	wantGreen(t, checkState(of("var ErrX = errors.New(\"x\")\nvar _ I = (*T)(nil)\n//go:embed x\nvar page string"), nil))
	wantGreen(t, checkState(of("func (t *T) init() { var m map[string]int }"), nil))
}

// checkFiles complains of what is too large for a clone. sizes holds octets by path.
func checkFiles(sizes map[string]int64) []string {
	var out []string
	for _, p := range slices.Sorted(maps.Keys(sizes)) {
		if sizes[p] > maxTracked {
			out = append(out, fmt.Sprintf("%s has %d octets, at most %d: build it or fetch it", p, sizes[p], maxTracked))
		}
	}
	return out
}

func TestFiles(t *testing.T) {
	base := root(t)
	sizes := map[string]int64{}
	err := filepath.WalkDir(base, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(base, p)
		if d.IsDir() {
			if slices.Contains(skipDirs(), rel) {
				return fs.SkipDir
			}
			return nil
		}
		i, err := d.Info()
		if err == nil {
			sizes[filepath.ToSlash(rel)] = i.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	report(t, checkFiles(sizes))
}

func TestFilesSeen(t *testing.T) {
	wantRed(t, checkFiles(map[string]int64{"a.img": maxTracked + 1}), "a.img has 1048577 octets")
	wantGreen(t, checkFiles(map[string]int64{"a.img": maxTracked}))
}
