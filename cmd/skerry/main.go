// Command skerry is the coordinator, the site agent and every user's verb in one static binary.
//
// Holds: main: signals, no core dumps, cli.Main, the exit code. No logic.
//
// Imported by: nobody.
//
// Promises: it ends with the code that cli.Main returns (0 done, 1 error, 2 usage, 3 partial, 4 stale); the first interrupt
// or SIGTERM cancels the context, and everything that was started is gone before it ends.
//
// Concurrency: none of its own.
//
// Tests: test/script runs the same cli.Main; the demo runs the binary.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/skerry-metal/skerry/cmd/skerry/cli"
)

func main() {
	noCore()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Getenv)
	stop()
	os.Exit(code)
}
