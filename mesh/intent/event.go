package intent

import "time"

// Event is one thing that happened at a site. Events are journaled by the agent that saw them and replicated to its peers.
// Type is one of boot.md section 1 ("machine.boot.dhcp", "permit.granted", ...).
type Event struct {
	Time    time.Time         `json:"time"`
	Site    string            `json:"site"`
	Agent   string            `json:"agent"`
	Seq     uint64            `json:"seq"` // of the agent's journal, dense per agent
	Type    string            `json:"type"`
	Machine string            `json:"machine,omitempty"`
	Task    string            `json:"task,omitempty"`
	Epoch   string            `json:"epoch,omitempty"`
	Message string            `json:"message"`
	Fields  map[string]string `json:"fields,omitempty"`
}

// MachineState is where a machine is in its life (boot.md section 1).
type MachineState string

// The states that are built.
const (
	StateExpected    MachineState = "expected"
	StateDiscovered  MachineState = "discovered"
	StateAvailable   MachineState = "available"
	StateAllocated   MachineState = "allocated"
	StateInstalling  MachineState = "installing"
	StateRunning     MachineState = "running"
	StateReleasing   MachineState = "releasing"
	StateErasing     MachineState = "erasing"
	StateQuarantined MachineState = "quarantined"
	StateMaintenance MachineState = "maintenance"
	StateBroken      MachineState = "broken"
)

// MachineStatus is what a site last saw of a machine; only the holder of its claim writes it.
type MachineStatus struct {
	State       MachineState `json:"state"`
	Phase       string       `json:"phase,omitempty"` // step of the running task
	Reason      string       `json:"reason,omitempty"`
	MachineType string       `json:"machineType,omitempty"`
	Instance    string       `json:"instance,omitempty"` // PROJECT/ARRAY/INDEX
	InstanceUID string       `json:"instanceUID,omitempty"`
	Project     string       `json:"project,omitempty"`
	Generation  uint64       `json:"generation,omitempty"` // of the allocation
	Attempts    int          `json:"attempts,omitempty"`
	Address     string       `json:"address,omitempty"`
	Firmware    string       `json:"firmware,omitempty"` // bios, uefi
	Owner       string       `json:"owner,omitempty"`    // agent that holds the claim
	Epoch       string       `json:"epoch,omitempty"`
	Percent     int          `json:"percent,omitempty"`   // of the image, while installing
	BMCSecret   uint64       `json:"bmcSecret,omitempty"` // version of spec.bmc.secret that its BMC was last seen to take
	Since       time.Time    `json:"since"`
}

// ArrayStatus is what a site last saw of an instance array.
type ArrayStatus struct {
	Wanted    int              `json:"wanted"`
	Running   int              `json:"running"`
	Instances []InstanceStatus `json:"instances,omitempty"`
	Message   string           `json:"message,omitempty"`
}

// InstanceStatus is one instance of an array.
type InstanceStatus struct {
	Index   int          `json:"index"`
	UID     string       `json:"uid"`
	Machine string       `json:"machine,omitempty"`
	State   MachineState `json:"state,omitempty"`
	Phase   string       `json:"phase,omitempty"`
	Reason  string       `json:"reason,omitempty"`
	Percent int          `json:"percent,omitempty"` // of the image, while installing
	Address string       `json:"address,omitempty"`
}
