package discovery

import (
	"context"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Source knows what was discovered.
type Source interface {
	// Discovered lists the machines that booted from a site's network and that nobody declared, ignored ones too. With an id it lists that
	// one, if it is there, with its whole report.
	Discovered(ctx context.Context, site, id string) (*Found, error)
}

// Found is what a site discovered, those seen last first.
type Found struct {
	Site     string         `json:"site"`
	Max      int            `json:"max" doc:"how many the site keeps; beyond it the one that was not seen for longest goes"`
	Machines []FoundMachine `json:"machines"`
}

// FoundMachine is one machine as its own ramdisk told. All of it may be a lie, but for address, subnet and port.
type FoundMachine struct {
	ID        string      `json:"id" doc:"the MAC address that booted, with hyphens"`
	Serial    string      `json:"serial,omitempty"`
	UUID      string      `json:"uuid,omitempty"`
	Vendor    string      `json:"vendor,omitempty"`
	Product   string      `json:"product,omitempty"`
	Firmware  string      `json:"firmware,omitempty" doc:"bios or uefi"`
	CPUs      int         `json:"cpus" doc:"logical processors"`
	MemoryMiB int         `json:"memoryMiB"`
	Disks     []FoundDisk `json:"disks"`
	MACs      []string    `json:"macs"`
	Address   string      `json:"address" doc:"the dynamic address that it has"`
	Subnet    string      `json:"subnet" doc:"SubnetPool of that address"`
	Port      FoundPort   `json:"port"`
	Links     []FoundLink `json:"links,omitempty" doc:"who is at the other end of its cables, by LLDP, as the machine heard it"`
	First     time.Time   `json:"firstSeen"`
	Last      time.Time   `json:"lastSeen"`
	Agent     string      `json:"agent" doc:"who heard it last"`
	// What the site makes of it.
	MachineType string             `json:"machineType,omitempty" doc:"the type that fits"`
	Nearest     string             `json:"nearest,omitempty" doc:"the type that fits nearly, if none fits"`
	Differs     []string           `json:"differs,omitempty" doc:"what it has else than the nearest type wants"`
	HoldsData   bool               `json:"holdsData,omitempty" doc:"a disk bears a signature, or none was seen: it may run a system of its own"`
	Conflict    string             `json:"conflict,omitempty" doc:"why it cannot be accepted: a declared machine has its serial number or MAC address"`
	Notes       []string           `json:"notes,omitempty"`
	Ignored     *Ignored           `json:"ignored,omitempty"`
	Spec        intent.MachineSpec `json:"spec" doc:"of the Machine that accepting makes"`
	Inventory   any                `json:"inventory,omitempty" doc:"the whole report, where one machine was asked for"`
}

// Query asks for the list, as it comes.
type Query struct {
	Site    string `path:"site" maxLength:"63"`
	Machine string `query:"machine" maxLength:"63" doc:"only the discovered machine with this id, with its whole report"`
}

// FoundDisk is one fixed disk.
type FoundDisk struct {
	Serial    string `json:"serial,omitempty"`
	WWN       string `json:"wwn,omitempty"`
	SizeBytes uint64 `json:"sizeBytes"`
	Media     string `json:"media,omitempty"`
	Model     string `json:"model,omitempty"`
}

// FoundPort is where the machine is plugged in, as a listed DHCP relay said (option 82, RFC 3046); all empty: no relay said it.
type FoundPort struct {
	Relay   string `json:"relay,omitempty"`
	Circuit string `json:"circuit,omitempty"`
	Remote  string `json:"remote,omitempty"`
}

// FoundLink is one card's neighbour by LLDP.
type FoundLink struct {
	MAC         string `json:"mac"`
	System      string `json:"system,omitempty"`
	Chassis     string `json:"chassis,omitempty"`
	Port        string `json:"port"`
	Description string `json:"description,omitempty"`
}

// Ignored says who did not want the machine.
type Ignored struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
}
