package reconcile

import (
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Order is what an installer that asks for work is told.
type Order string

// The orders.
const (
	OrderWait    Order = "wait"
	OrderInspect Order = "inspect"
	OrderInstall Order = "install"
	OrderErase   Order = "erase"
	OrderReboot  Order = "reboot"
	OrderOff     Order = "off"
	OrderHalt    Order = "halt"
)

// DecideWork answers the installer of one machine. It is a function of shared state only, so every agent answers alike and
// none needs the claim: what is destructive still asks for its permission. spare says that nothing waits for this machine.
func DecideWork(v MachineView, spare bool) (Order, string) {
	if v.accused() {
		return OrderHalt, v.Evidence.What
	}
	switch v.Status.State {
	case intent.StateQuarantined:
		return OrderHalt, v.Status.Reason
	case intent.StateInstalling:
		if v.Done != nil && v.Done.Task == v.TaskID() {
			if v.Done.OK {
				return OrderReboot, "the image is on the disk"
			}
			return OrderWait, v.Done.Reason
		}
		if v.Status.Phase == PhaseFirstBoot {
			return OrderReboot, "the image is on the disk"
		}
		if v.Status.Phase == PhaseWrite && v.Binding != nil && !v.Binding.Released && v.Accepted != nil {
			return OrderInstall, ""
		}
	case intent.StateErasing:
		switch {
		case v.Done != nil && v.Done.Task == v.TaskID():
			return OrderWait, v.Done.Reason
		case v.Status.Phase == PhaseErase && v.owes() && v.Accepted != nil && v.MayErase() == nil:
			return OrderErase, ""
		}
	case intent.StateAvailable:
		if spare && (v.Binding == nil || v.Binding.Released) {
			return OrderOff, "nothing waits for this machine"
		}
	case intent.StateReleasing, intent.StateMaintenance:
		return OrderHalt, v.Status.Reason
	case intent.StateExpected, intent.StateDiscovered, "":
		if v.Session != nil && (v.Inventory == nil || !v.Newer) {
			return OrderInspect, ""
		}
	}
	return OrderWait, v.Status.Reason
}

// Spares returns the idle machines with a waiting installer that may be powered off: more than the machine type keeps warm,
// while no instance waits for a machine of the type. Views are of all machines of the site.
func Spares(views []MachineView, c *intent.Catalog, bindings map[string]Binding) map[string]bool {
	short := map[string]bool{}
	for _, o := range c.List(intent.KindInstanceArray) {
		spec := o.Spec.(*intent.InstanceArraySpec)
		for i := range spec.Count {
			if b, ok := bindings[InstanceUID(o.Metadata.UID, i)]; !ok || b.Released {
				short[spec.MachineType] = true
			}
		}
	}
	warm := map[string]int{}
	out := map[string]bool{}
	sorted := slices.Clone(views)
	slices.SortFunc(sorted, func(a, b MachineView) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	for _, v := range sorted {
		if v.Status.State != intent.StateAvailable || !v.live() || short[v.Status.MachineType] {
			continue
		}
		keep := 0
		if t := v.Types[v.Status.MachineType]; t != nil {
			keep = t.Warm
		}
		if warm[v.Status.MachineType] < keep {
			warm[v.Status.MachineType]++
			continue
		}
		out[v.Name] = true
	}
	return out
}

// ChooseDisk returns the disk that an image of the given size is written to: the smallest that fits, SSD and NVMe before
// others, then by serial; ok is false when none fits or when two disks have the same identity.
func ChooseDisk(disks []DiskFacts, sizeBytes uint64) (d DiskFacts, ok bool) {
	rank := func(d DiskFacts) int {
		if d.Media == "hdd" {
			return 1
		}
		return 0
	}
	seen := map[string]bool{}
	for _, x := range disks {
		id := x.WWN + "|" + x.Serial
		if (x.WWN == "" && x.Serial == "") || seen[id] {
			if seen[id] {
				return DiskFacts{}, false
			}
			continue
		}
		seen[id] = true
		if x.SizeBytes < sizeBytes {
			continue
		}
		better := rank(x) < rank(d) || (rank(x) == rank(d) && (x.SizeBytes < d.SizeBytes || (x.SizeBytes == d.SizeBytes && x.Serial < d.Serial)))
		if !ok || better {
			d, ok = x, true
		}
	}
	return d, ok
}
