package install

import (
	"fmt"
	"slices"
	"strings"

	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// DiskError says why no disk may be written. It unwraps to ErrDisk.
type DiskError struct {
	Want   intent.DiskID
	Reason string // none, several, unnamed, size, in-use, foreign, transport, read-only
	Detail string
}

// Error names the disk and the reason.
func (e *DiskError) Error() string {
	return fmt.Sprintf("disk (wwn %q, serial %q, %d octets) refused: %s: %s", e.Want.WWN, e.Want.Serial, e.Want.SizeBytes, e.Reason, e.Detail)
}

// Unwrap returns ErrDisk.
func (e *DiskError) Unwrap() error { return ErrDisk }

// foreign are signatures of storage that spans disks: overwriting one member harms data elsewhere.
func foreign() []string { return []string{"lvm", "md", "zfs", "ceph"} }

// SelectDisk finds the one disk that want names, and refuses it also while it bears a signature of storage that spans disks. It is found by WWN, else by serial, never by its kernel name; it must be
// the only one with that identity, have the size, and be free of what must not be destroyed. Errors: *DiskError.
func SelectDisk(disks []inventory.Disk, want intent.DiskID) (inventory.Disk, error) {
	d, err := selectDisk(disks, want)
	if err != nil {
		return d, err
	}
	for _, s := range d.Signatures {
		if slices.Contains(foreign(), s) {
			return inventory.Disk{}, &DiskError{want, "foreign", fmt.Sprintf("%s bears %s", d.Name, s)}
		}
	}
	return d, nil
}

// selectDisk is SelectDisk whatever the disk holds.
func selectDisk(disks []inventory.Disk, want intent.DiskID) (inventory.Disk, error) {
	refuse := func(reason, format string, a ...any) (inventory.Disk, error) {
		return inventory.Disk{}, &DiskError{want, reason, fmt.Sprintf(format, a...)}
	}
	if want.WWN == "" && want.Serial == "" || want.SizeBytes == 0 {
		return refuse("unnamed", "neither WWN nor serial, or no size")
	}
	var found []inventory.Disk
	for _, d := range disks {
		if want.WWN != "" && d.WWN == want.WWN || want.WWN == "" && d.Serial == want.Serial {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 0:
		return refuse("none", "%d disks here, none with that identity", len(disks))
	case len(found) > 1:
		return refuse("several", "%s and %s have the same identity", found[0].Name, found[1].Name)
	}
	d := found[0]
	if want.Serial != "" && d.Serial != want.Serial {
		return refuse("none", "%s has that WWN but serial %q", d.Name, d.Serial)
	}
	for _, o := range disks { // two disks that share the other half of the identity are as bad
		if o.Name != d.Name && d.Serial != "" && o.Serial == d.Serial && o.Vendor == d.Vendor && o.Model == d.Model {
			return refuse("several", "%s and %s have the same serial", d.Name, o.Name)
		}
	}
	switch {
	case d.SizeBytes != want.SizeBytes:
		return refuse("size", "%s has %d octets", d.Name, d.SizeBytes)
	case len(d.InUse) > 0:
		return refuse("in-use", "%s is held by %s", d.Name, strings.Join(d.InUse, ", "))
	case d.ReadOnly:
		return refuse("read-only", "%s", d.Name)
	case d.Transport == "usb" || d.Transport == "iscsi" || d.Removable:
		return refuse("transport", "%s is %s", d.Name, d.Transport)
	}
	return d, nil
}

// CheckPermission compares a permission that was verified with the work at hand and the hardware as it is now, and
// returns the disk. It is called directly before the first write. Errors: ErrPermission, *DiskError.
func CheckPermission(p *intent.Permission, w Work, hw *inventory.Report) (inventory.Disk, error) {
	if err := fits(p, intent.ActInstall, w, hw); err != nil {
		return inventory.Disk{}, err
	}
	if !slices.Contains(p.Disks, w.Install.Disk) {
		return inventory.Disk{}, fmt.Errorf("%w: disks is %v, want %v", ErrPermission, p.Disks, w.Install.Disk)
	}
	return SelectDisk(hw.Disks, w.Install.Disk)
}

// fits compares everything but the disks.
func fits(p *intent.Permission, act intent.Act, w Work, hw *inventory.Report) error {
	refuse := func(what string, got, want any) error {
		return fmt.Errorf("%w: %s is %v, want %v", ErrPermission, what, got, want)
	}
	switch {
	case p.Act != act:
		return refuse("act", p.Act, act)
	case p.ID == "":
		return refuse("id", "empty", "one")
	case p.Serial != hw.Serial:
		return refuse("machine serial", p.Serial, hw.Serial)
	case p.UUID != hw.UUID:
		return refuse("machine UUID", p.UUID, hw.UUID)
	case p.Generation != w.Generation:
		return refuse("generation", p.Generation, w.Generation)
	case p.Claim.Compare(w.Epoch) < 0: // a higher one is of an agent that took the machine over since the work was given
		return refuse("claim epoch", p.Claim, w.Epoch)
	}
	return nil
}

// CheckErase compares a permission that was verified with the work at hand and the hardware as it is now, and returns the disks, which
// are all that the work names, and the names of those that are left alone. Disks that span others are erased too: the permission names
// each by its identity. A disk that could be erased and is not named is refused: a receipt would not speak of it. Errors:
// ErrPermission, *DiskError.
func CheckErase(p *intent.Permission, w Work, hw *inventory.Report) (disks []inventory.Disk, left []string, err error) {
	if err := fits(p, intent.ActErase, w, hw); err != nil {
		return nil, nil, err
	}
	if len(w.Erase.Disks) == 0 || !slices.Equal(p.Disks, w.Erase.Disks) {
		return nil, nil, fmt.Errorf("%w: disks are %v, want %v", ErrPermission, p.Disks, w.Erase.Disks)
	}
	for _, id := range p.Disks {
		d, err := selectDisk(hw.Disks, id)
		if err != nil {
			return nil, nil, err
		}
		disks = append(disks, d)
	}
	for _, d := range hw.Disks {
		if slices.ContainsFunc(disks, func(o inventory.Disk) bool { return o.Name == d.Name }) {
			continue
		}
		if d.Fixed() {
			return nil, nil, &DiskError{d.ID(), "unnamed", d.Name + " is in no permission"}
		}
		left = append(left, fmt.Sprintf("%s, serial %q, %s: not the machine's own", d.Name, d.Serial, d.Transport))
	}
	return disks, left, nil
}
