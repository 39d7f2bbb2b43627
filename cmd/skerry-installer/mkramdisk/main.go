package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/skerry-metal/skerry/boot/install/ramdisk"
)

// budget is the largest ramdisk that a machine is made to fetch (boot.md section 6).
const budget = 25 << 20

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mkramdisk:", err)
		os.Exit(1)
	}
}

func run() error {
	kernel := flag.String("kernel-root", "", "`directory` with a Debian kernel package, unpacked by dpkg-deb -x")
	program := flag.String("init", "", "static `program` that becomes /init")
	modules := flag.String("modules", strings.Join(ramdisk.DefaultModules(), ","), "kernel modules; ? before a name = may be missing")
	out := flag.String("out", ".", "`directory` for vmlinuz and ramdisk.gz")
	files := map[string]string{}
	flag.Func("file", "`dst=src`: a further file; may be given several times", func(s string) error {
		dst, src, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("want dst=src")
		}
		files[dst] = src
		return nil
	})
	flag.Parse()
	if *kernel == "" || *program == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	o, err := ramdisk.Build(ramdisk.Config{KernelRoot: *kernel, Init: *program, Modules: strings.Split(*modules, ","), Files: files})
	if err != nil {
		return err
	}
	if len(o.Ramdisk) > budget {
		return fmt.Errorf("cannot accept a ramdisk of %d bytes: the budget is %d", len(o.Ramdisk), budget)
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return fmt.Errorf("cannot make output directory: %w", err)
	}
	for name, b := range map[string][]byte{"vmlinuz": o.Kernel, "ramdisk.gz": o.Ramdisk} {
		path := filepath.Join(*out, name)
		if err := os.WriteFile(path+".new", b, 0o644); err != nil {
			return fmt.Errorf("cannot write %s: %w", name, err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("cannot write %s: %w", name, err)
		}
	}
	fmt.Printf("kernel %s, %d modules, ramdisk %.1f MB\n", o.Release, len(o.Modules), float64(len(o.Ramdisk))/1e6)
	return nil
}
