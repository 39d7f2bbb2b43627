package inventory

import (
	"strings"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Report is what a machine is made of, as its own kernel and firmware tell. Lists are sorted by Name; empty strings and
// zeros mean "not told".
type Report struct {
	Serial  string `json:"serial"` // SMBIOS type 1
	UUID    string `json:"uuid"`   // SMBIOS type 1, lower case, 8-4-4-4-12; "" when unset or all ones
	Vendor  string `json:"vendor"`
	Product string `json:"product"`
	SKU     string `json:"sku,omitempty"`

	BIOS    BIOS    `json:"bios"`
	Board   Board   `json:"board"`
	Chassis Board   `json:"chassis"`
	CPUs    []CPU   `json:"cpus"`
	Memory  uint64  `json:"memoryBytes"` // installed: the sum of DIMMs, else what the kernel sees
	DIMMs   []DIMM  `json:"dimms,omitempty"`
	Disks   []Disk  `json:"disks"`
	NICs    []NIC   `json:"nics"`
	Boot    Boot    `json:"boot"`
	Kernel  string  `json:"kernel,omitempty"` // release
	Faults  []Fault `json:"faults,omitempty"` // what could not be read; never hides the rest
}

// BIOS is SMBIOS type 0.
type BIOS struct {
	Vendor  string `json:"vendor,omitempty"`
	Version string `json:"version,omitempty"`
	Date    string `json:"date,omitempty"`
}

// Board is SMBIOS type 2 or 3.
type Board struct {
	Vendor   string `json:"vendor,omitempty"`
	Product  string `json:"product,omitempty"`
	Serial   string `json:"serial,omitempty"`
	AssetTag string `json:"assetTag,omitempty"`
}

// CPU is one socket, SMBIOS type 4.
type CPU struct {
	Socket  string `json:"socket,omitempty"`
	Model   string `json:"model,omitempty"`
	Cores   int    `json:"cores"`
	Threads int    `json:"threads"`
	MHz     int    `json:"mhz,omitempty"` // current speed
}

// DIMM is one populated memory device, SMBIOS type 17.
type DIMM struct {
	Slot      string `json:"slot,omitempty"`
	SizeBytes uint64 `json:"sizeBytes"`
	Vendor    string `json:"vendor,omitempty"`
	Serial    string `json:"serial,omitempty"`
	Part      string `json:"part,omitempty"`
	MTs       int    `json:"mts,omitempty"` // configured or rated speed, MT/s
}

// Disk is one whole block device that could be written. Partitions, loop, ram and optical devices are left out.
type Disk struct {
	Name       string   `json:"name"` // kernel name: sda, nvme0n1; for people only, never an identity
	WWN        string   `json:"wwn,omitempty"`
	Serial     string   `json:"serial,omitempty"`
	Vendor     string   `json:"vendor,omitempty"`
	Model      string   `json:"model,omitempty"`
	Firmware   string   `json:"firmware,omitempty"`
	SizeBytes  uint64   `json:"sizeBytes"`
	BlockBytes int      `json:"blockBytes"` // logical
	Media      string   `json:"media"`      // hdd, ssd, nvme, unknown (virtual disks do not tell)
	Transport  string   `json:"transport"`  // nvme, sata, sas, virtio, usb, iscsi, unknown
	PCIPath    string   `json:"pciPath,omitempty"`
	ReadOnly   bool     `json:"readOnly,omitempty"`
	Removable  bool     `json:"removable,omitempty"`
	Signatures []string `json:"signatures,omitempty"` // of the disk and its partitions: gpt, mbr, ext4, lvm, md, zfs, ceph, luks, xfs, btrfs, swap, vfat
	InUse      []string `json:"inUse,omitempty"`      // mount points and holders (md0, dm-1)
}

// ID returns the identity by which permissions name this disk.
func (d Disk) ID() intent.DiskID {
	return intent.DiskID{WWN: d.WWN, Serial: d.Serial, SizeBytes: d.SizeBytes}
}

// Fixed tells whether the disk belongs to the machine: it can be written, and is no medium that is plugged in or of the network.
func (d Disk) Fixed() bool {
	return !d.Removable && !d.ReadOnly && d.Transport != "usb" && d.Transport != "iscsi"
}

// NIC is one physical network card.
type NIC struct {
	Name    string `json:"name"`
	MAC     string `json:"mac"` // lower case
	Driver  string `json:"driver,omitempty"`
	PCIPath string `json:"pciPath,omitempty"`
	Mbps    int    `json:"mbps,omitempty"` // 0 when the link is down or the driver does not tell
	Link    bool   `json:"link"`
	// Neighbour is who is at the other end, by LLDP; nil: nobody said. Strangers alone tell it.
	Neighbour *Neighbour `json:"neighbour,omitempty"`
}

// Boot says how the machine was started.
type Boot struct {
	Firmware   string `json:"firmware"` // bios, uefi
	SecureBoot bool   `json:"secureBoot,omitempty"`
}

// Fault is a source that could not be read.
type Fault struct {
	Source string `json:"source"`
	Error  string `json:"error"`
}

// MACs returns the MACs of all NICs in the report's order.
func (r *Report) MACs() []string {
	macs := make([]string, 0, len(r.NICs))
	for _, n := range r.NICs {
		macs = append(macs, n.MAC)
	}
	return macs
}

// clean makes text from firmware fit for JSON and logs: printable ASCII, no outer or doubled blanks, at most 128 octets.
func clean(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return ' '
		}
		return c
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	return s[:min(len(s), 128)]
}
