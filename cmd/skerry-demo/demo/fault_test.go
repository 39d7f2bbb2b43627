package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	e2e "github.com/skerry-metal/skerry/test/e2e/lab"
	"golang.org/x/sync/errgroup"
)

const (
	assetDir = "../../../out"
	// cutImage is a truncated image: its partition table promises more than there is.
	cutImage   = 8 << 20
	faultLimit = 12 * time.Minute
)

// faultWalk stands the site of the demo up, with real processes and machines, and returns the walk.
func faultWalk(t *testing.T) *walk {
	t.Helper()
	if testing.Short() {
		t.Skip("boots machines: not in -short")
	}
	e2e.Need(t, e2e.Root, e2e.Tool("ip", "iproute2"), e2e.Tool("qemu-system-x86_64", "qemu-system-x86"), e2e.Tool("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
		e2e.Tool("/usr/lib/ipxe/undionly.kpxe", "ipxe"), e2e.Tool("/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu"),
		e2e.Built(assetDir+"/vmlinuz", "ramdisk"), e2e.Built(assetDir+"/ramdisk.gz", "ramdisk"), e2e.Built(assetDir+"/tiny.img", "image-tiny"))
	dir := t.TempDir()
	exe := filepath.Join(dir, "skerry")
	if out, err := exec.Command("go", "build", "-o", exe, "../../skerry").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), faultLimit)
	g, gctx := errgroup.WithContext(ctx)
	sim, stop := context.WithCancel(gctx)
	l := newLab(dir, exe, t.Output())
	w := &walk{cfg: Config{Exe: exe, Assets: assetDir, Examples: "../../../examples", Out: t.Output()}, l: l, r: &report{out: t.Output(), start: time.Now()}, ctx: gctx}
	l.event = func(s string) { w.r.line("  machine %s", s) }
	t.Cleanup(func() {
		stop()
		if err := errors.Join(g.Wait(), l.net.Close()); err != nil {
			t.Error(err)
		}
		cancel()
		if t.Failed() {
			for _, n := range []string{"coordinator", "a1", "a2"} {
				b, _ := os.ReadFile(filepath.Join(dir, n+".log"))
				t.Logf("%s:\n%s", n, b[max(0, len(b)-3000):])
			}
		}
	})
	if err := w.found(sim, g); err != nil {
		t.Fatal(err)
	}
	return w
}

// siteWith writes the example with the machine m1 alone and its image made of another asset.
func siteWith(t *testing.T, asset string) string {
	t.Helper()
	b, err := os.ReadFile("../../../examples/first-site.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var keep []string
	for _, doc := range strings.Split(string(b), "\n---\n") {
		if !strings.Contains(doc, "name: m2,") && !strings.Contains(doc, "name: m3,") {
			keep = append(keep, strings.Replace(doc, "\n  asset: tiny\n", "\n  asset: "+asset+"\n", 1))
		}
	}
	path := filepath.Join(t.TempDir(), "site.yaml")
	if err := os.WriteFile(path, []byte(strings.Join(keep, "\n---\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func (w *walk) mustCLI(t *testing.T, args ...string) {
	t.Helper()
	if _, err := w.l.cli(w.ctx, "coord", args...); err != nil {
		t.Fatal(err)
	}
}

// TestTruncatedImageThenRepaired: an image that was cut before it was uploaded has a good digest and is no image. The install
// fails as an event with its reason, the machine is broken, its disk cannot boot; with the right image the next attempt runs.
func TestTruncatedImageThenRepaired(t *testing.T) {
	w := faultWalk(t)
	img, err := os.ReadFile(filepath.Join(assetDir, "tiny.img"))
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut.img")
	if err := os.WriteFile(cut, img[:cutImage], 0o644); err != nil {
		t.Fatal(err)
	}
	for _, a := range [][3]string{{filepath.Join(assetDir, "vmlinuz"), "vmlinuz", "boot"}, {filepath.Join(assetDir, "ramdisk.gz"), "ramdisk", "boot"}, {cut, "cut", "image"}} {
		w.mustCLI(t, "asset", "upload", a[0], "--name", a[1], "--class", a[2])
	}
	w.mustCLI(t, "apply", "-f", siteWith(t, "cut"))
	if _, err := w.machine("a1", "m1", bootLimit, intent.StateRunning); err == nil || !strings.Contains(err.Error(), "m1 is broken") {
		t.Fatalf("with a truncated image: %v", err)
	}
	st, err := w.status("a1", "m1")
	if err != nil || st.State != intent.StateBroken || !strings.Contains(st.Reason, "image") {
		t.Fatalf("status %+v, %v", st, err)
	}
	t.Logf("broken: %s", st.Reason)
	w.checkFailed(t)
	w.mustCLI(t, "asset", "upload", filepath.Join(assetDir, "tiny.img"), "--name", "tiny", "--class", "image")
	w.mustCLI(t, "apply", "-f", siteWith(t, "tiny"))
	shown := intent.MachineState("")
	err = w.until(bootLimit, "m1 is running", func() (bool, error) {
		s, err := w.status("a1", "m1")
		if err == nil && s.State != shown {
			shown = s.State
			t.Logf("m1 is %s %s", s.State, s.Reason)
		}
		return err == nil && s.State == intent.StateRunning, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// checkFailed looks at the events of the failed install and at the disk that it left.
func (w *walk) checkFailed(t *testing.T) {
	t.Helper()
	c, err := w.l.api("a1", "admin")
	if err != nil {
		t.Fatal(err)
	}
	x, err := c.Explain(w.ctx, "lon1", "m1")
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]string{}
	for _, e := range x.Events {
		types[e.Type] = e.Message
	}
	if types["machine.broken"] == "" || types["image.verified"] != "" || types["machine.running"] != "" {
		b, _ := json.MarshalIndent(types, "", " ")
		t.Errorf("events: %s", b)
	}
	f, err := os.Open(filepath.Join(w.l.dir, "m1", "disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 1<<20)
	if _, err := io.ReadFull(f, head); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(head, make([]byte, len(head))) {
		t.Error("the first MiB of the disk is not blank: it may boot")
	}
}
