package cli

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/siteagent/upkeep"
	"github.com/skerry-metal/skerry/storage/state"
)

// TestUpkeepCommands walks the verbs on a stopped agent's directory as an operator would.
func TestUpkeepCommands(t *testing.T) {
	data, key := t.TempDir(), make([]byte, 32)
	if err := os.MkdirAll(filepath.Join(data, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, upkeep.KeyFile), key, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(key []byte) *state.DB {
		t.Helper()
		db, err := state.Open(state.Config{Dir: filepath.Join(data, "state"), Key: key, Logger: slog.New(slog.DiscardHandler), UserFree: 1, VitalFree: 1, StopFree: 1, UserFraction: -1})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	write := func(db *state.DB, value string) {
		t.Helper()
		if err := db.Update(func(tx *state.Tx) error { return tx.Put("object", "u1", []byte(value)) }); err != nil {
			t.Fatal(err)
		}
	}
	f := func(code int, want string, args ...string) {
		t.Helper()
		got, out, errs := run(t, append(append([]string{"agent"}, args...), "--data", data)...)
		if got != code || !strings.Contains(out+errs, want) {
			t.Errorf("%v exits %d, want %d with %q:\n%s%s", args, got, code, want, out, errs)
		}
	}
	db := open(key)
	write(db, "v")
	f(exitError, "stop the agent first", "scrub")
	f(exitError, "stop the agent first", "recover", "--yes")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "a1.jsonl")
	f(exitDone, `"sound": true`, "scrub", "-o", "json")
	f(exitDone, "object  1", "backup", file)
	f(exitError, "an old backup is not overwritten", "backup", file)
	f(exitDone, `"format":"skerry-state-1"`, "backup", "-")
	f(exitDone, "nothing written", "restore", file)

	db = open(key)
	write(db, "newer")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f(exitError, "move the directory `state`", "restore", file)
	if err := os.Rename(filepath.Join(data, "state"), filepath.Join(data, "state.old")); err != nil {
		t.Fatal(err)
	}
	f(exitDone, "would be restored", "restore", file, "--dry-run")
	f(exitDone, "starts as recovering", "restore", file)
	f(exitDone, "recovering: older than it once was", "scrub")
	f(exitUsage, "--dry-run` says what that is", "recover")
	f(exitDone, "recovery would end", "recover", "--dry-run")
	f(exitDone, "recovery ended", "recover", "--yes")
	f(exitDone, "it was not recovering", "recover", "--yes")

	db = open([]byte(strings.Repeat("x", 32))) // what bears another MAC is damage
	write(db, "rotten")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f(exitPartial, "MAC does not fit", "scrub")
	f(exitError, "`skerry agent scrub` says what is damaged", "backup", file+"2")
	if _, err := os.Stat(file + "2.part"); !os.IsNotExist(err) {
		t.Errorf("half a backup was left: %v", err)
	}
}
