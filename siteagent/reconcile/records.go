package reconcile

import (
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Kinds of journal records and what their key is.
const (
	KindMachine    = "machine"    // machine: intent.MachineStatus, written by the holder of its claim
	KindInventory  = "inventory"  // machine: Facts as the installer last reported them
	KindAccepted   = "accepted"   // machine: Facts that permissions are made of
	KindBinding    = "binding"    // instance uid: Binding
	KindWindow     = "window"     // machine: Window
	KindSession    = "session"    // machine: Session
	KindEvidence   = "evidence"   // machine: Evidence
	KindFetched    = "fetched"    // machine: Fetched
	KindPermission = "permission" // machine: intent.Envelope of the last one
	KindProgress   = "progress"   // machine: Progress
	KindDone       = "done"       // machine: Done
	KindPhoneHome  = "phonehome"  // machine: PhoneHome
	KindTask       = "task"       // task id: TaskRecord
	KindRelease    = "release"    // machine: Release, written together with the binding's end
	KindErased     = "erased"     // machine: Erased, written together with the receipt
	KindApproval   = "approval"   // machine: Approval
)

// Facts are what an inventory says about a machine, as far as planning needs it.
type Facts struct {
	Serial    string      `json:"serial"`
	UUID      string      `json:"uuid"`
	Vendor    string      `json:"vendor,omitempty"`
	Product   string      `json:"product,omitempty"`
	Firmware  string      `json:"firmware"` // bios, uefi
	CPUs      int         `json:"cpus"`
	MemoryMiB int         `json:"memoryMiB"`
	Disks     []DiskFacts `json:"disks"`
	MACs      []string    `json:"macs"`
	Signed    bool        `json:"signed,omitempty"` // a disk bears a signature of some file system or volume
	Time      time.Time   `json:"time"`
}

// DiskFacts is one disk of the inventory.
type DiskFacts struct {
	intent.DiskID
	Media string `json:"media,omitempty"`
	Model string `json:"model,omitempty"`
}

// Binding gives a machine to an instance. It is sticky: only Released ends it.
type Binding struct {
	Instance   string        `json:"instance"` // uid
	Project    string        `json:"project"`
	Array      string        `json:"array"`
	ArrayUID   string        `json:"arrayUID"`
	Index      int           `json:"index"`
	Machine    string        `json:"machine"`
	Generation uint64        `json:"generation"` // rises with every installation that is wanted
	Image      string        `json:"image"`
	Digest     intent.Digest `json:"digest"` // of the image's asset when bound
	Cause      string        `json:"cause"`  // "intent 1.42" or "override ID"
	Released   bool          `json:"released,omitempty"`
	Displaced  bool          `json:"displaced,omitempty"` // released because another instance has the machine: it gets another one
}

// Release says that a machine was taken from an instance, and is not to be given to another one before its disks were erased. It is a
// record of its own: the instance's binding may name another machine a moment later.
type Release struct {
	Instance   string    `json:"instance"`
	Project    string    `json:"project"`
	Generation uint64    `json:"generation"` // of the binding that ended
	Cause      string    `json:"cause"`      // "intent 1.42", "override ID" or "operator NAME"
	Displaced  bool      `json:"displaced,omitempty"`
	Time       time.Time `json:"time"`
}

// Erased says that the machine's disks were erased after a release, and where the receipt is.
type Erased struct {
	Instance   string        `json:"instance"`
	Generation uint64        `json:"generation"`
	Task       string        `json:"task"`
	Agent      string        `json:"agent"`
	Seq        uint64        `json:"seq"`
	Digest     intent.Digest `json:"digest"` // of the receipt's payload
	Disks      int           `json:"disks"`
}

// Approval is an operator's word, given with a registered key, that one allocation of a machine may be written, or erased after it.
type Approval struct {
	Machine    string    `json:"machine"`
	Generation uint64    `json:"generation"` // of the allocation; the next one needs another
	Erase      bool      `json:"erase,omitempty"`
	User       string    `json:"user"`
	Via        string    `json:"via"` // key:…
	Reason     string    `json:"reason"`
	Time       time.Time `json:"time"`
}

// Window is a journaled power-on whose boot is awaited: only while it is open does a script with a token go out.
type Window struct {
	Machine    string       `json:"machine"`
	MAC        string       `json:"mac"`
	Nonce      string       `json:"nonce"` // random; the boot token is an HMAC over it
	Generation uint64       `json:"generation"`
	Epoch      intent.Epoch `json:"epoch"`
	Task       string       `json:"task"`
	Opened     time.Time    `json:"opened"` // by the clock of who opened it
}

// Session is one installer that said hello.
type Session struct {
	ID      string    `json:"id"`
	Machine string    `json:"machine"`
	Nonce   string    `json:"nonce"` // of the window whose token it burnt
	Boot    string    `json:"boot"`  // the installer's own nonce: the same boot may repeat a hello whose answer was lost
	Agent   string    `json:"agent"`
	Serial  string    `json:"serial"`
	UUID    string    `json:"uuid"`
	Since   time.Time `json:"since"`
}

// Evidence speaks against the machine behind one boot: a burnt token came again, or the hardware is another.
type Evidence struct {
	Nonce string    `json:"nonce"`
	What  string    `json:"what"`
	Time  time.Time `json:"time"`
}

// Fetched says that a machine has taken all of the installer's ramdisk, the last thing that it loads, in the boot of a window.
type Fetched struct {
	Nonce string    `json:"nonce"`
	Time  time.Time `json:"time"`
}

// Progress is how far an installer is.
type Progress struct {
	Session string           `json:"session"`
	Phase   string           `json:"phase"`
	Bytes   uint64           `json:"bytes"`
	Total   uint64           `json:"total"`
	Sources map[string]int64 `json:"sources,omitempty"` // octets by source
	Text    string           `json:"text,omitempty"`
}

// Done is the end of an installation as the installer tells it.
type Done struct {
	Session    string            `json:"session"`
	Task       string            `json:"task"`
	Generation uint64            `json:"generation"`
	OK         bool              `json:"ok"`
	Reason     string            `json:"reason,omitempty"`
	Facts      map[string]string `json:"facts,omitempty"` // octets written, rates, sources, digests
}

// PhoneHome is the first word of an installed system.
type PhoneHome struct {
	Generation uint64    `json:"generation"`
	Hostname   string    `json:"hostname,omitempty"`
	From       string    `json:"from"`
	Time       time.Time `json:"time"`
}

// TaskRecord is one step of a task in the journal: planned, started (on every live peer before it is acted upon), done or
// failed.
type TaskRecord struct {
	Task   string       `json:"task"`
	Device string       `json:"device"`
	Step   string       `json:"step"`
	Class  string       `json:"class"` // safe, checked, destructive
	State  string       `json:"state"` // started, done, failed
	Epoch  intent.Epoch `json:"epoch"`
	Result string       `json:"result,omitempty"`
}
