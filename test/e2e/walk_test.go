package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry-demo/demo"
	"github.com/skerry-metal/skerry/test/e2e/lab"
)

// walkLimit bounds the main job: quiet it takes five minutes; under load emulation is two to four times slower.
const walkLimit = 15 * time.Minute

// TestWalk is the main job as `make demo` shows it: a site from nothing, a machine installed, the coordinator gone, another
// machine installed while the agent that does it dies, the coordinator back. Promises 1, 5, 6 and 10 stand on it.
func TestWalk(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes: not in -short")
	}
	lab.Need(t, lab.Root, lab.Tool("ip", "iproute2"), lab.Tool("qemu-system-x86_64", "qemu-system-x86"), lab.Tool("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
		lab.Tool("/usr/lib/ipxe/snponly.efi", "ipxe"), lab.Tool("/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu"),
		lab.Built("../../out/vmlinuz", "ramdisk"), lab.Built("../../out/ramdisk.gz", "ramdisk"), lab.Built(imagePath, "image-tiny"))
	dir := t.TempDir()
	exe := filepath.Join(dir, "skerry")
	build := exec.Command("go", "build", "-o", exe, "../../cmd/skerry") // what is tested is what is written, not what was built once
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), walkLimit)
	defer cancel()
	if err := demo.Run(ctx, demo.Config{Exe: exe, Assets: "../../out", Examples: "../../examples", Dir: filepath.Join(dir, "walk"), Out: t.Output()}); err != nil {
		t.Fatal(err)
	}
}
