package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/sim/vm"
)

const nvmeSerial, scsiSerial = "NV-1", "SC-1"

// eraser is the site of a machine whose disks are to be erased.
type eraser struct {
	site
	disks []intent.DiskID
	proof chan erasure.Proof
}

func (s *eraser) Work(context.Context, string, time.Duration) (install.Work, error) {
	if len(s.proof) > 0 {
		return install.Work{Kind: install.WorkOff}, nil
	}
	return install.Work{
		Kind: install.WorkErase, Task: "e1", Generation: 3, Epoch: intent.Epoch{Generation: 1, N: 65536}, Erase: &install.EraseWork{Disks: s.disks, Level: erasure.Clear},
	}, nil
}

func (s *eraser) Permit(_ context.Context, _ string, r install.PermissionRequest) (install.PermissionEnvelope, error) {
	b, err := json.Marshal(intent.Permission{
		Site: "lon1", Agent: "a1", Seq: 1, ID: "p-" + r.Task, Act: r.Act, Machine: "m1", UUID: machineUUID, Serial: machineSerial, Disks: s.disks,
		Generation: 3, Claim: r.Epoch, Time: time.Unix(1, 0).UTC(),
	})
	if err != nil {
		return install.PermissionEnvelope{}, err
	}
	env, err := document.Sign(intent.PayloadPermission, b, s.key)
	if err != nil {
		return install.PermissionEnvelope{}, err
	}
	return install.PermissionEnvelope{Envelope: *env}, nil
}

func (s *eraser) Receipt(_ context.Context, _ string, p erasure.Proof) (install.ReceiptPlace, error) {
	s.proof <- p
	return install.ReceiptPlace{Agent: "a1", Seq: 1}, nil
}

// TestErase boots the ramdisk on a machine with an NVMe, a virtual and a SCSI disk full of data. The first is formatted with a secure erase
// setting, the others are overwritten, for QEMU's SCSI disk says that it cannot sanitize; all by the kernel's own drivers, and what QEMU's files hold afterwards is zeros.
func TestErase(t *testing.T) {
	lab.Need(t, lab.Root, lab.Tool("ip", "iproute2"), lab.Tool("qemu-system-x86_64", "qemu-system-x86"), lab.Built(ramdiskPath, "ramdisk"))
	dir := t.TempDir()
	const size = 64 << 20
	disks := []vm.Disk{
		{Path: filepath.Join(dir, "nvme.img"), SizeBytes: size, Serial: nvmeSerial, Bus: vm.NVMe},
		{Path: filepath.Join(dir, "virtio.img"), SizeBytes: size, Serial: diskSerial},
		{Path: filepath.Join(dir, "scsi.img"), SizeBytes: size, Serial: scsiSerial, Bus: vm.SCSI},
	}
	data := bytes.Repeat([]byte("somebody's data "), size/16)
	for _, d := range disks {
		if err := os.WriteFile(d.Path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := chunk.ScanManifest(bytes.NewReader(data[:1<<20]))
	if err != nil {
		t.Fatal(err)
	}
	s := &eraser{site: site{scenario: scenario{fw: vm.BIOS, limit: 3 * time.Minute, disks: disks}, key: key, manifest: m}, proof: make(chan erasure.Proof, 1)}
	s.disks = []intent.DiskID{{Serial: nvmeSerial, SizeBytes: size}, {Serial: diskSerial, SizeBytes: size}, {Serial: scsiSerial, SizeBytes: size}}
	s.as = s
	rack, pin, _ := s.open(t, nil)
	ctx, machine, controller := newMachine(t, s.scenario, rack, pin)
	redfish(t, controller, "PATCH", "/redfish/v1/Systems/1", `{"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}`)
	begun := time.Now()
	redfish(t, controller, "POST", "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", `{"ResetType":"On"}`)
	if _, err := machine.WaitSerial(ctx, "msg=erased", 0); err != nil {
		b, _ := os.ReadFile(machine.SerialLog())
		t.Fatalf("%v; the serial line ends in:\n%s", err, b[max(0, len(b)-4000):])
	}
	t.Logf("power-on to receipt: %.1f s", time.Since(begun).Seconds())
	p := <-s.proof
	if err := erasure.CheckDrives(p.Drives, s.disks, erasure.Clear); err != nil {
		t.Error(err)
	}
	b, _ := json.MarshalIndent(p, "", "  ")
	t.Logf("%s", b)
	if len(p.Drives) != 3 || p.Drives[2].Method != "overwrite" || p.Drives[0].Level != erasure.Purge || p.Drives[1].Method != "overwrite" {
		t.Errorf("the NVMe disk is to be formatted, the other two overwritten")
	}
	for _, d := range disks {
		zeros(t, d.Path)
	}
}

// zeros wants a file of zeros.
func zeros(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, none := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; off += int64(len(b)) {
		n, err := f.ReadAt(b, off)
		if !bytes.Equal(b[:n], none[:n]) {
			t.Fatalf("%s holds something between %d and %d", path, off, off+int64(n))
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
