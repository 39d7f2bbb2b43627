package install

import (
	"errors"
	"time"

	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// The sentinels a Site answers with; the handler maps each to a status, the client back.
var (
	ErrToken       = errors.New("token not accepted")               // 403: unknown, expired, of another boot
	ErrTokenReused = errors.New("token was used before")            // 410: a second hello; the site quarantines
	ErrSession     = errors.New("session not known")                // 401: the machine must boot anew
	ErrStale       = errors.New("hardware or generation is stale")  // 409: halt
	ErrBusy        = errors.New("this agent cannot answer now")     // 503: ask another agent
	ErrBadRequest  = errors.New("request not understood")           // 400, 413
	ErrAborted     = errors.New("the site stopped the work")        // by Control
	ErrUnreachable = errors.New("no agent answers")                 // installer side: boot anew
	ErrPermission  = errors.New("permission does not fit")          // installer side
	ErrDisk        = errors.New("disk refused")                     // installer side, see DiskError
	ErrImage       = errors.New("image refused")                    // installer side
	ErrSources     = errors.New("no source gives verified content") // installer side
	ErrErase       = errors.New("a disk was not erased")            // installer side
)

// Hello opens a session. Strings are as SMBIOS has them; MACs lower case.
//
// Nonce is new with each boot and travels over the pinned session only. A site that sees a burnt token again with the same
// nonce answers as it did the first time: that is the machine itself, whose first answer was lost with an agent.
type Hello struct {
	Token    string   `json:"token"`
	Nonce    string   `json:"nonce"`
	Serial   string   `json:"serial"`
	UUID     string   `json:"uuid"`
	MACs     []string `json:"macs"`
	Firmware string   `json:"firmware"` // bios, uefi
	Version  string   `json:"version"`  // of the installer
}

// Session is the answer to Hello. ID is a bearer string that every agent of the site accepts.
type Session struct {
	ID       string       `json:"id"`
	Machine  string       `json:"machine"`            // the site's name of the machine; "" while unknown
	Agents   []Agent      `json:"agents"`             // all agents of the site, in the machine's order
	Epoch    intent.Epoch `json:"epoch"`              // claim epoch under which the machine is handled now
	SignKeys [][]byte     `json:"signKeys,omitempty"` // PKIX DER, Ed25519: who may sign permissions
	Site     string       `json:"site,omitempty"`
}

// Agent is one door to the site.
type Agent struct {
	Addr string `json:"addr"` // host:port of /install/v1 on the boot network
	Pin  string `json:"pin"`  // hex SHA-256 of the server key's PKIX DER
}

// WorkKind says what to do.
type WorkKind string

// The kinds of work that are built.
const (
	WorkWait    WorkKind = "wait"    // nothing now: ask again
	WorkInspect WorkKind = "inspect" // send the inventory again
	WorkInstall WorkKind = "install"
	WorkErase   WorkKind = "erase"
	WorkReboot  WorkKind = "reboot"
	WorkOff     WorkKind = "off"
	WorkHalt    WorkKind = "halt" // stay, do nothing more: a person looks
)

// Work is one order. Install is set for WorkInstall only, Erase for WorkErase.
type Work struct {
	Kind       WorkKind     `json:"kind"`
	Task       string       `json:"task,omitempty"`
	Generation uint64       `json:"generation,omitempty"`
	Epoch      intent.Epoch `json:"epoch"`
	Reason     string       `json:"reason,omitempty"` // for the console
	Install    *InstallWork `json:"install,omitempty"`
	Erase      *EraseWork   `json:"erase,omitempty"`
}

// InstallWork is what to write where.
type InstallWork struct {
	Image     intent.Digest     `json:"image"`     // of the raw bytes
	Manifest  intent.Digest     `json:"manifest"`  // of the encoded manifest
	SizeBytes uint64            `json:"sizeBytes"` // of the image
	Disk      intent.DiskID     `json:"disk"`      // as the permission will name it
	Sources   []string          `json:"sources"`   // URLs of the image, each on another agent; Range must work
	Manifests []string          `json:"manifests"` // URLs of the manifest
	Seed      map[string]string `json:"seed"`      // NoCloud files by name: meta-data, user-data, vendor-data, network-config
	Verify    VerifyPolicy      `json:"verify"`
	Firmware  string            `json:"firmware,omitempty"` // bios, uefi: refused when the machine was started otherwise
}

// VerifyPolicy says how much is read back.
type VerifyPolicy string

// The policies.
const (
	VerifyFull   VerifyPolicy = "full"
	VerifySample VerifyPolicy = "sample" // every 16th block, the first and the last
)

// PermissionRequest shows the hardware as found now; the site compares it with the accepted inventory.
type PermissionRequest struct {
	Task       string           `json:"task"`
	Act        intent.Act       `json:"act"`
	Generation uint64           `json:"generation"`
	Epoch      intent.Epoch     `json:"epoch"`
	Serial     string           `json:"serial"`
	UUID       string           `json:"uuid"`
	Disks      []inventory.Disk `json:"disks"`
}

// PermissionEnvelope is a DSSE envelope with an intent.Permission.
type PermissionEnvelope struct {
	Envelope intent.Envelope `json:"envelope"`
}

// Progress is sent every 5 s, and at the end of each phase.
type Progress struct {
	Task       string            `json:"task"`
	Phase      string            `json:"phase"` // manifest, write, verify, finish
	Bytes      uint64            `json:"bytes"`
	Total      uint64            `json:"total"`
	Stages     []Stage           `json:"stages,omitempty"`
	Bottleneck string            `json:"bottleneck,omitempty"`
	Sources    map[string]uint64 `json:"sources,omitempty"` // octets accepted, by source URL
	Blames     []Blame           `json:"blames,omitempty"`
}

// Stage is the speed of one part of the pipeline while it was busy: what it could do alone.
type Stage struct {
	Name string  `json:"name"` // fetch, hash, write, readback
	MBps float64 `json:"mbps"`
}

// Blame names a source that gave something wrong. At most 100 are kept.
type Blame struct {
	Source string `json:"source"`
	Chunk  int    `json:"chunk"`
	Reason string `json:"reason"` // short, hash, status 404, ...
}

// Control is the answer to Progress.
type Control struct {
	Epoch  intent.Epoch `json:"epoch"` // higher than the work's: stop at the next block, ask for work anew
	Agents []Agent      `json:"agents,omitempty"`
	Abort  bool         `json:"abort,omitempty"`
	Reason string       `json:"reason,omitempty"`
}

// LogLine is one line of the installer's log.
type LogLine struct {
	Time  time.Time `json:"time"`
	Level string    `json:"level"` // info, warn, error
	Text  string    `json:"text"`
}

// Done ends a task. It is repeated until an agent took it, so a Site must take it twice.
type Done struct {
	Task       string            `json:"task"`
	Generation uint64            `json:"generation"`
	OK         bool              `json:"ok"`
	Code       string            `json:"code,omitempty"`  // named failure: see Code
	Error      string            `json:"error,omitempty"` // whole text
	Wrote      bool              `json:"wrote"`           // something on the disk was changed; it is not bootable unless OK
	Permission string            `json:"permission,omitempty"`
	Disk       intent.DiskID     `json:"disk"`
	Bytes      uint64            `json:"bytes"`
	Blocks     uint64            `json:"blocks"` // blocks written; a block is never written twice
	Seconds    map[string]string `json:"seconds,omitempty"`
	Sources    map[string]uint64 `json:"sources,omitempty"`
	Blames     []Blame           `json:"blames,omitempty"`
}

// Code gives a failure the name that events bear: permission, disk, image, sources, aborted, stale, erase, write.
func Code(err error) string {
	for _, c := range []struct {
		err  error
		name string
	}{
		{ErrPermission, "permission"},
		{ErrDisk, "disk"},
		{ErrImage, "image"},
		{ErrSources, "sources"},
		{ErrAborted, "aborted"},
		{ErrStale, "stale"},
		{ErrErase, "erase"},
	} {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	return "write"
}
