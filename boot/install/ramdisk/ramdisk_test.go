package ramdisk

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/test/e2e/lab"
)

var update = flag.Bool("update", false, "rewrite goldens")

// module writes a minimal ELF64 file whose .modinfo names what it depends on.
func module(t *testing.T, path, depends string) {
	t.Helper()
	info := []byte("license=GPL\x00depends=" + depends + "\x00name=x\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	var b bytes.Buffer
	b.Write([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	le := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	le(uint16(1))
	le(uint16(62))
	le(uint32(1))
	le([2]uint64{})
	le(uint64(64 + len(info) + len(names))) // section headers
	le(uint32(0))
	le([]uint16{64, 0, 0, 64, 3, 2})
	b.Write(info)
	b.Write(names)
	section := func(name, kind uint32, off, size int) {
		le([]uint32{name, kind})
		le([]uint64{0, 0, uint64(off), uint64(size)})
		le([2]uint32{})
		le([]uint64{1, 0})
	}
	section(0, 0, 0, 0)
	section(1, 1, 64, len(info))
	section(10, 3, 64+len(info), len(names))
	write(t, path, b.Bytes())
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

func kernel(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	m := filepath.Join(root, "lib/modules/6.1.0-x/kernel/")
	module(t, filepath.Join(m, "drivers/virtio-net.ko"), "net_failover,virtio")
	module(t, filepath.Join(m, "drivers/net_failover.ko"), "failover")
	module(t, filepath.Join(m, "net/failover.ko"), "")
	module(t, filepath.Join(m, "virtio.ko"), "virtio_ring")
	module(t, filepath.Join(m, "broken.ko"), "nowhere")
	write(t, filepath.Join(m, "../modules.builtin"), []byte("kernel/virtio/virtio_ring.ko\n"))
	write(t, filepath.Join(root, "boot/vmlinuz-6.1.0-x"), []byte("kernel"))
	write(t, filepath.Join(root, "init"), []byte("init"))
	return root
}

func TestModuleOrder(t *testing.T) {
	root := kernel(t)
	f := func(want []string, wantErr error, ask ...string) {
		t.Helper()
		out, err := Build(Config{KernelRoot: root, Init: filepath.Join(root, "init"), Modules: ask})
		if !errors.Is(err, wantErr) {
			t.Fatalf("%v: %v, want %v", ask, err, wantErr)
		}
		if err != nil {
			return
		}
		if d := cmp.Diff(want, out.Modules); d != "" {
			t.Errorf("%v: -want +got\n%s", ask, d)
		}
	}
	f([]string{"failover", "net_failover", "virtio", "virtio_net"}, nil, "virtio_net", "virtio", "?absent", "virtio-ring")
	f(nil, ErrModule, "absent")
	f(nil, ErrModule, "broken")
	f(nil, nil, "?broken")
}

func TestArchiveIsReadByCpio(t *testing.T) {
	lab.Need(t, lab.Tool("cpio", "cpio"))
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Fatal(err)
	}
	root := kernel(t)
	c := Config{
		KernelRoot: root, Init: filepath.Join(root, "init"), Modules: []string{"virtio"},
		Files: map[string]string{"bin/tool": filepath.Join(root, "init")},
	}
	out, err := Build(c)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(out.Ramdisk))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(cpio, "-tv", "--quiet", "--numeric-uid-gid")
	cmd.Stdin = bytes.NewReader(raw)
	cmd.Env = []string{"TZ=UTC", "LC_ALL=C"}
	list, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/list", list, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/list")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(list)); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	again, err := Build(c)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Ramdisk, again.Ramdisk) {
		t.Error("the same inputs gave other bytes")
	}
}
