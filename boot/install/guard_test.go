package install

import (
	"errors"
	"slices"
	"testing"

	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent"
)

func TestSelectDisk(t *testing.T) {
	base := func() []inventory.Disk {
		return []inventory.Disk{
			{Name: "sda", WWN: "naa.1", Serial: "A", SizeBytes: 100, Transport: "sata"},
			{Name: "sdb", WWN: "naa.2", Serial: "B", SizeBytes: 100, Transport: "sata"},
		}
	}
	f := func(want string, id intent.DiskID, change func(d []inventory.Disk)) {
		t.Helper()
		disks := base()
		if change != nil {
			change(disks)
		}
		got, err := SelectDisk(disks, id)
		var de *DiskError
		switch {
		case err == nil && got.Name != want:
			t.Errorf("%+v: got %s, want %s", id, got.Name, want)
		case err != nil && (!errors.As(err, &de) || !errors.Is(err, ErrDisk) || de.Reason != want):
			t.Errorf("%+v: %v, want %s", id, err, want)
		}
	}
	a := intent.DiskID{WWN: "naa.1", Serial: "A", SizeBytes: 100}
	f("sda", a, nil)
	f("sda", a, func(d []inventory.Disk) { slices.Reverse(d) })
	f("sda", intent.DiskID{WWN: "naa.1", SizeBytes: 100}, nil)
	f("sdb", intent.DiskID{Serial: "B", SizeBytes: 100}, nil)
	f("sda", a, func(d []inventory.Disk) { d[0].Signatures = []string{"ext4", "gpt"} })
	f("unnamed", intent.DiskID{SizeBytes: 100}, nil)
	f("unnamed", intent.DiskID{Serial: "A"}, nil)
	f("none", intent.DiskID{WWN: "naa.9", Serial: "A", SizeBytes: 100}, nil)
	f("none", intent.DiskID{WWN: "naa.1", Serial: "X", SizeBytes: 100}, nil)
	f("several", a, func(d []inventory.Disk) { d[1].WWN = "naa.1" })
	f("several", a, func(d []inventory.Disk) { d[1].Serial = "A" })
	f("size", a, func(d []inventory.Disk) { d[0].SizeBytes = 99 })
	f("in-use", a, func(d []inventory.Disk) { d[0].InUse = []string{"md0"} })
	f("foreign", a, func(d []inventory.Disk) { d[0].Signatures = []string{"lvm"} })
	f("transport", a, func(d []inventory.Disk) { d[0].Transport = "usb" })
	f("transport", a, func(d []inventory.Disk) { d[0].Removable = true })
	f("read-only", a, func(d []inventory.Disk) { d[0].ReadOnly = true })
}
