package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/pki/holder"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/test/e2e/procs"
)

// cores counts the core dumps below a directory.
func cores(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if strings.HasPrefix(d.Name(), "core") && d.Type().IsRegular() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestNoCore (F21): a process that dies as badly as can be, where the kernel would write its memory into a file, leaves none.
func TestNoCore(t *testing.T) {
	exe, dir := buildSkerry(t), t.TempDir()
	shell := func(script string, args ...string) *exec.Cmd {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		t.Cleanup(cancel)
		cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", "ulimit -c unlimited; " + script, "sh"}, args...)...)
		cmd.Dir = filepath.Join(dir, fmt.Sprint(len(args)))
		if err := os.MkdirAll(cmd.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(os.Environ(), "GOTRACEBACK=crash")
		return cmd
	}
	if err := shell("kill -ABRT $$").Run(); err == nil {
		t.Fatal("the control lives")
	}
	control := cores(t, dir)
	addr := procs.FreeAddr(t)
	if out, err := exec.Command(exe, "coordinator", "init", "--data", filepath.Join(dir, "c"), "--domain", "edge.example", "--addr", addr).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := shell(`exec "$@"`, exe, "coordinator", "--data", filepath.Join(dir, "c"), "--listen", addr, "--reserve-bytes", "1")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limits := fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid)
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) { // another process: it has no event
		b, err := os.ReadFile(limits)
		if err == nil && strings.Contains(strings.Join(strings.Fields(string(b)), " "), "Max core file size 1 1 bytes") {
			break
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("the limit is not there: %s, %v", b, err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "aborted") || strings.Contains(err.Error(), "core dumped") {
		t.Errorf("it ended with %v\n%s", err, said.String())
	}
	if n := cores(t, dir); n != control {
		t.Errorf("%d core dumps of ours", n-control)
	}
	t.Logf("the control left %d core dumps", control)
}

// TestCeremonyLeavesNoTrace (F21): what holders of the roots type, and what they sign with, is in nothing that the ceremony writes or says
// but their sealed files; nor is the passphrase of a backup.
func TestCeremonyLeavesNoTrace(t *testing.T) {
	exe, dir, pocket := buildSkerry(t), t.TempDir(), t.TempDir()
	var said strings.Builder
	skerry := func(wrong bool, args ...string) {
		t.Helper()
		out, err := run(t.Context(), exe, args...)
		fmt.Fprintf(&said, "skerry %s\n%s", strings.Join(args, " "), out)
		if (err != nil) != wrong {
			t.Fatalf("skerry %v: %v\n%s", args, err, out)
		}
	}
	marked := map[string]string{}
	pass := func(name string) string {
		path := filepath.Join(pocket, name)
		marked["the passphrase of "+name] = "MARKED words of " + name + " alone"
		if err := os.WriteFile(path, []byte(marked["the passphrase of "+name]+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	h1, h2, h3, wrong, back := pass("h1"), pass("h2"), pass("h3"), pass("who guesses"), pass("the backup")
	at := func(name string) string { return filepath.Join(dir, name) }
	addr := procs.FreeAddr(t)
	initial := []string{"coordinator", "init", "--data", at("c"), "--domain", "edge.example", "--addr", addr, "--roots", at("roots/roots.json")}
	skerry(false, "pki", "init", "--domain", "edge.example", "--holders", "3", "--threshold", "2", "--out", at("roots"), "--passphrase-file", h1, "--passphrase-file", h2, "--passphrase-file", h3)
	skerry(true, initial...)
	offer := at("c/trust1.json")
	skerry(true, "pki", "sign", offer, "--holder", at("roots/h1.age"), "--passphrase-file", wrong, "--yes")
	skerry(false, "pki", "sign", offer, "--holder", at("roots/h1.age"), "--passphrase-file", h1, "--yes")
	skerry(false, "pki", "sign", offer, "--holder", at("roots/h2.age"), "--passphrase-file", h2, "--yes")
	skerry(false, append(initial, "--signed", offer)...)
	skerry(true, "coordinator", "backup", at("backup.age"), "--data", at("nowhere"), "--passphrase-file", back)
	skerry(false, "coordinator", "backup", at("backup.age"), "--data", at("c"), "--passphrase-file", back)
	for name, phrase := range map[string]string{"h1": h1, "h2": h2, "h3": h3} {
		h, err := holder.Unlock(at("roots/"+name+".age"), seal.Key{Passphrase: seal.NewSecret([]byte(marked["the passphrase of "+filepath.Base(phrase)]))})
		if err != nil {
			t.Fatal(err)
		}
		for i, k := range h.Keys {
			marked[fmt.Sprintf("key %d of %s", i, name)] = string(k.Seed())
		}
	}
	if err := os.WriteFile(at("said"), []byte(said.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	looked := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		looked++
		b, err := os.ReadFile(path)
		for what, secret := range marked {
			if holds(b, secret) {
				t.Errorf("%s is in %s", what, path)
			}
		}
		return err
	})
	if err != nil || looked < 10 || len(marked) < 11 {
		t.Errorf("looked at %d files for %d secrets, %v", looked, len(marked), err)
	}
}
