package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestPromisesNameTests: docs/promises.md names tests that exist, by package folder and function.
func TestPromisesNameTests(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, "docs", "promises.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9]+)`").FindAllSubmatch(page, -1)
	if len(named) < 20 {
		t.Fatalf("%d tests named in docs/promises.md: the page or this pattern is broken", len(named))
	}
	for _, m := range named {
		if !declares(t, filepath.Join(root, string(m[1])), string(m[2])) {
			t.Errorf("docs/promises.md names %s.%s, which does not exist", m[1], m[2])
		}
	}
}

// declares tells whether a _test.go file of dir declares the test.
func declares(t *testing.T, dir, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`(?m)^func ` + test + `\(`).Match(b) {
			return true
		}
	}
	return false
}
