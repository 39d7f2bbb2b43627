// Command skerry-demo walks the main job on one host, with real firmware under QEMU and simulated controllers. It is no part of the
// product: the binary that operators run holds no simulator.
//
// Holds: main: flags, signals, the exit code. The walk is in demo.
//
// Imported by: nobody.
//
// Promises: it ends with 0 when every chapter was seen, 1 else, 2 for wrong usage; what it started is gone by then.
//
// Concurrency: none of its own.
//
// Tests: test/e2e.TestWalk runs the same demo.Run; `make demo` runs the binary.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/skerry-metal/skerry/cmd/skerry-demo/demo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	cfg := demo.Config{Out: os.Stdout}
	if own, err := os.Executable(); err == nil {
		cfg.Exe = filepath.Join(filepath.Dir(own), "skerry")
	}
	f := flag.NewFlagSet("skerry-demo", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprint(f.Output(), "Walk the main job: a coordinator, a site of two agents and three machines, in network namespaces of their own.\n"+
			"It needs root for namespaces and taps, and the images that `make demo` builds.\n\nUsage: skerry-demo [flags]\n")
		f.PrintDefaults()
	}
	f.StringVar(&cfg.Exe, "exe", cfg.Exe, "the `skerry` to show")
	f.StringVar(&cfg.Assets, "assets", "out", "`directory` with vmlinuz, ramdisk.gz and tiny.img")
	f.StringVar(&cfg.Examples, "examples", "examples", "`directory` with first-site.yaml and one-more.yaml")
	f.BoolVar(&cfg.Keep, "keep", false, "leave it running until Ctrl-C")
	f.StringVar(&cfg.Dir, "dir", "", "`directory` for logs and data; default: a temporary one")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case f.NArg() > 0:
		fmt.Fprintf(os.Stderr, "skerry-demo: %q is not known; see skerry-demo --help\n", f.Arg(0))
		return 2
	}
	if err := demo.Run(ctx, cfg); err != nil {
		fmt.Fprintf(os.Stderr, "skerry-demo: %v\n", err)
		return 1
	}
	return 0
}
