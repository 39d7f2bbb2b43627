package lab

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/test/sim/netlab"
)

// strictEnv makes a missing requirement a failure. It is an environment variable and no flag, because `go test` hands a
// flag to every test binary, and those that do not import this package would refuse it.
const strictEnv = "SKERRY_LAB_STRICT"

// Requirement tells what is missing: "" when nothing is, else a sentence for a person.
type Requirement func() string

// Root requires user id 0.
func Root() string {
	if os.Geteuid() != 0 {
		return "needs root (network namespaces, raw sockets)"
	}
	return ""
}

// Tool requires a program in PATH, or a file when name begins with a slash. pkg is the Debian package that has it.
func Tool(name, pkg string) Requirement {
	return func() string {
		if strings.HasPrefix(name, "/") {
			if _, err := os.Stat(name); err == nil {
				return ""
			}
		} else if _, err := exec.LookPath(name); err == nil {
			return ""
		}
		return fmt.Sprintf("needs %s: apt-get install %s", name, pkg)
	}
}

// Built requires a file that a make target makes.
func Built(path, target string) Requirement {
	return func() string {
		if _, err := os.Stat(path); err == nil {
			return ""
		}
		return fmt.Sprintf("needs %s: make %s", path, target)
	}
}

// Need skips t, in one line, unless all requirements hold; with SKERRY_LAB_STRICT=1 it fails t instead.
func Need(t testing.TB, reqs ...Requirement) {
	t.Helper()
	var missing []string
	for _, r := range reqs {
		if m := r(); m != "" {
			missing = append(missing, m)
		}
	}
	if len(missing) == 0 {
		return
	}
	if os.Getenv(strictEnv) == "1" {
		t.Fatalf("lab is strict: %s", strings.Join(missing, "; "))
		return
	}
	t.Skip(strings.Join(missing, "; "))
}

// New returns a lab that is closed at the end of t; what could not be removed fails t.
func New(t testing.TB) *netlab.Lab {
	t.Helper()
	l := netlab.New()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("cannot clean the lab: %v", err)
		}
	})
	return l
}
