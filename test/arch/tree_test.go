package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is our module path; what lies below it is named by its folder, like "mesh/intent".
const module = "github.com/skerry-metal/skerry"

// source is one parsed Go file.
type source struct {
	path string // from the root of the repository, with slashes
	dir  string // folder of path: the package
	test bool   // a _test.go file
	fset *token.FileSet
	file *ast.File
}

// lines is the number of lines of the file, tests and comments included.
func (s source) lines() int { return s.fset.File(s.file.FileStart).LineCount() }

// at names the place of a position for a person.
func (s source) at(p token.Pos) string { return fmt.Sprintf("%s:%d", s.path, s.fset.Position(p).Line) }

// imports returns the import paths of the file; ours without the module's prefix.
func (s source) imports() []string {
	var out []string
	for _, i := range s.file.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		out = append(out, strings.TrimPrefix(p, module+"/"))
	}
	return out
}

// parse reads one source from text.
func parse(t testing.TB, name string, text any) source {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatalf("cannot parse %s: %v", name, err)
	}
	return source{path: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), fset: fset, file: f}
}

// root is the folder of go.mod.
func root(t testing.TB) string {
	t.Helper()
	r, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(r, "go.mod")); err != nil {
		t.Fatalf("cannot find the root of the repository: %v", err)
	}
	return r
}

// skipDirs are never part of the tree: version control, and what make builds.
func skipDirs() []string { return []string{".git", "bin", "out"} }

// tree parses every Go file below root, all build tags alike, in order of path. Folders called testdata are left out.
func tree(t testing.TB) []source {
	t.Helper()
	base := root(t)
	var out []source
	err := filepath.WalkDir(base, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(base, p)
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if slices.Contains(skipDirs(), rel) || d.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(rel, ".go") {
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			out = append(out, parse(t, rel, text))
		}
		return nil
	})
	if err != nil {
		t.Fatalf("cannot read the tree: %v", err)
	}
	if len(out) < 100 {
		t.Fatalf("found only %d Go files below %s: the reader is wrong", len(out), base)
	}
	return out
}

// within tells whether folder dir is room or lies below it.
func within(dir, room string) bool { return dir == room || strings.HasPrefix(dir, room+"/") }

// withinAny tells whether dir is in one of the rooms.
func withinAny(dir string, rooms []string) bool {
	return slices.ContainsFunc(rooms, func(r string) bool { return within(dir, r) })
}

// report fails t once per complaint.
func report(t *testing.T, complaints []string) {
	t.Helper()
	for _, c := range complaints {
		t.Error(c)
	}
}

// wantRed fails t unless a rule that was shown a broken source complained with the given words.
func wantRed(t *testing.T, complaints []string, words string) {
	t.Helper()
	if !slices.ContainsFunc(complaints, func(c string) bool { return strings.Contains(c, words) }) {
		t.Errorf("the rule does not see %q; it said %q", words, complaints)
	}
}

// wantGreen fails t when a rule complained of a source that keeps it.
func wantGreen(t *testing.T, complaints []string) {
	t.Helper()
	if len(complaints) != 0 {
		t.Errorf("the rule complains of what is right: %q", complaints)
	}
}
