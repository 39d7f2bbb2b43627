package vm

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/test/e2e/lab"
)

var update = flag.Bool("update", false, "rewrite goldens")

func TestArgs(t *testing.T) {
	f := func(name string, first Device, c Config) {
		t.Helper()
		c.Dir = "/d"
		got := strings.Join(c.args(first, "/q"), "\n") + "\n"
		path := filepath.Join("testdata", name+".args")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s: -want +got\n%s", name, d)
		}
	}
	nic := []NIC{{MAC: "52:54:00:00:00:01", Tap: "m1"}}
	disks := []Disk{{Path: "/d/a.img", Serial: "A1"}, {Path: "/d/b.img", Serial: "B1", Bus: NVMe}}
	f("bios-net", BootNet, Config{Firmware: BIOS, NICs: nic, Disks: disks, Serial: "SN1", Manufacturer: "ACME", Product: "R1", UUID: "11111111-2222-3333-4444-555555555555"})
	f("uefi-pxe-disk", BootDisk, Config{Firmware: UEFIPXE, NICs: nic, Disks: disks[:1]})
	f("uefi-http-net", BootNet, Config{Firmware: UEFIHTTP, NICs: nic, Disks: []Disk{{Path: "/d/c.img", Serial: "C1", WWN: 0x5000c500a1b2c3d4, Bus: AHCI}}, MemoryMiB: 768})
}

func TestConfigRefused(t *testing.T) {
	f := func(c Config) {
		t.Helper()
		c.Dir = t.TempDir()
		if _, err := New(c); err == nil {
			t.Errorf("%+v was not refused", c)
		}
	}
	f(Config{Firmware: "coreboot"})
	f(Config{Firmware: BIOS, Serial: "a,b=c"})
	f(Config{Firmware: BIOS, NICs: []NIC{{MAC: "x"}}})
	f(Config{Firmware: BIOS, Disks: []Disk{{Path: "/a,b"}}})
}

// bootSector assembles a boot sector that writes word to COM1 and then does what tail says.
func bootSector(word string, tail []byte) []byte {
	b := make([]byte, 512)
	code := []byte{0xFA, 0x31, 0xC0, 0x8E, 0xD8, 0xBA, 0xF8, 0x03} // cli; ds=0; mov dx,3f8h
	for _, ch := range []byte(word) {
		code = append(code, 0xB0, ch, 0xEE) // mov al,ch; out dx,al
	}
	copy(b, append(code, tail...))
	b[510], b[511] = 0x55, 0xAA
	return b
}

// TestPowerCycles walks one BIOS machine through reset by the guest, override by the boot function, and power off.
func TestPowerCycles(t *testing.T) {
	lab.Need(t, lab.Tool("qemu-system-x86_64", "qemu-system-x86"))
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.img")
	// Reset through port CF9h; the next start writes the word again.
	if err := os.WriteFile(disk, append(bootSector("hello", []byte{0xBA, 0xF9, 0x0C, 0xB0, 0x06, 0xEE, 0xF4}), make([]byte, 1<<20-512)...), 0o644); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var kinds []string
	boots := 0
	m, err := New(Config{
		Name: "m1", Dir: filepath.Join(dir, "m1"), Firmware: BIOS, MemoryMiB: 64, Serial: "SN1",
		Disks: []Disk{{Path: disk, Serial: "D1"}},
		Boot:  func() Device { boots++; return BootDisk },
		OnEvent: func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			kinds = append(kinds, e.Kind)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	if err := m.Reset(ctx); err == nil {
		t.Error("reset of an off machine was not refused")
	}
	if err := m.On(ctx); err != nil {
		t.Fatal(err)
	}
	if !m.PowerOn() {
		t.Error("off after On")
	}
	at, err := m.WaitSerial(ctx, "hello", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitSerial(ctx, "hello", at); err != nil {
		t.Fatal(err) // the guest's own reset started it again
	}
	if err := m.Off(ctx); err != nil {
		t.Fatal(err)
	}
	if m.PowerOn() {
		t.Error("on after Off")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
	if err := m.On(t.Context()); err != ErrStopped {
		t.Errorf("On after Run: %v, want ErrStopped", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(kinds) < 4 || kinds[0] != "started" || kinds[1] != "rebooted" || kinds[2] != "started" || kinds[len(kinds)-1] != "killed" {
		t.Errorf("events %v", kinds)
	}
	if boots < 2 {
		t.Errorf("Boot was asked %d times, want once per start", boots)
	}
}
