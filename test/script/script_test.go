package script

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/skerry-metal/skerry/cmd/skerry/cli"
	"github.com/skerry-metal/skerry/mesh/intent"
)

var update = flag.Bool("update", false, "rewrite the texts that scripts compare")

// startLimit is far above a coordinator's start (0.2 s), and stopLimit above its end, on a busy machine.
const (
	startLimit = 30 * time.Second
	stopLimit  = 20 * time.Second
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"skerry": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := cli.Main(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Getenv)
		stop()
		os.Exit(code)
	}})
}

func TestScript(t *testing.T) {
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata", UpdateScripts: *update, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("EXAMPLES", examples)
			e.Values[runningKey{}] = &running{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"coordinator": start, "coordinator-stop": stop, "exits": exits, "context-as": contextAs, "context-key": contextKey, "spki": spki, "passphrase": passphrase,
		},
	})
}

type runningKey struct{}

// running is the coordinator of one script.
type running struct {
	cmd  *exec.Cmd
	done chan error
}

// start runs `skerry coordinator --data DATA` and sets the server of CONTEXT to where it listens.
func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: coordinator DATA CONTEXT")
	}
	r := ts.Value(runningKey{}).(*running)
	if r.cmd != nil {
		ts.Fatalf("a coordinator runs already")
	}
	exe, err := exec.LookPath("skerry")
	ts.Check(err)
	cmd := exec.Command(exe, "coordinator", "--data", ts.MkAbs(args[0]), "--listen", "127.0.0.1:0", "--metrics", "")
	cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"))
	logs, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	r.cmd, r.done = cmd, make(chan error, 1)
	addr := make(chan string, 1)
	go func() {
		sc := bufio.NewScanner(logs)
		for sc.Scan() {
			var line struct{ Msg, Listen string }
			if json.Unmarshal(sc.Bytes(), &line) == nil && line.Msg == "coordinator is up" {
				addr <- line.Listen
			}
		}
		r.done <- cmd.Wait()
	}()
	ts.Defer(func() { end(r) })
	select {
	case a := <-addr:
		ts.Check(ts.Exec("skerry", "context", "set", args[1], "--server", "https://"+a))
	case err := <-r.done:
		ts.Fatalf("the coordinator ended: %v", err)
	case <-time.After(startLimit):
		ts.Fatalf("the coordinator does not come up")
	}
}

// stop ends the coordinator and wants that it went well.
func stop(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: coordinator-stop")
	}
	ts.Check(end(ts.Value(runningKey{}).(*running)))
}

func end(r *running) error {
	if r.cmd == nil {
		return nil
	}
	cmd := r.cmd
	r.cmd = nil
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-r.done:
		return err
	case <-time.After(stopLimit):
		return errors.Join(errors.New("the coordinator does not end"), cmd.Process.Kill())
	}
}

// contextKey makes a context NAME like the current one with the key FILE instead of a token.
func contextKey(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: context-key NAME FILE")
	}
	ts.Check(ts.Exec("skerry", "context", "list", "-o", "json"))
	var all []struct{ Server, CA string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &all))
	ts.Check(ts.Exec("skerry", "context", "set", args[0], "--server", all[0].Server, "--ca", all[0].CA, "--key", args[1]))
}

// spki writes the hex SHA-256 of the public key in FILE to the file spki.
func spki(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: spki FILE")
	}
	d, err := intent.UserKey{Public: ts.ReadFile(args[0])}.SPKI()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("spki"), []byte(d.Hex()), 0o600))
}

// passphrase writes what the last command printed as .passphrase to FILE.
func passphrase(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: passphrase FILE")
	}
	var made struct{ Passphrase string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &made))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(made.Passphrase+"\n"), 0o600))
}

// contextAs makes a context NAME like the current one with the token that FILE holds.
func contextAs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: context-as NAME FILE")
	}
	ts.Check(ts.Exec("skerry", "context", "list", "-o", "json"))
	var all []struct{ Server, CA string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &all))
	token := strings.TrimSpace(ts.ReadFile(args[1]))
	ts.Check(ts.Exec("skerry", "context", "set", args[0], "--server", all[0].Server, "--ca", all[0].CA, "--token", token))
}

// exits runs a command and wants exactly one exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		e, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = e.ExitCode()
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}
