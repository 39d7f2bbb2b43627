// Command skerry is the coordinator, the site agent and every user's verb in one static binary.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/skerry-metal/skerry/cmd/skerry/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Getenv)
	stop()
	os.Exit(code)
}
