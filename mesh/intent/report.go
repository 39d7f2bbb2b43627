package intent

import (
	"cmp"
	"encoding/json"
	"time"
)

// Report is what a site tells its coordinator about itself, from one agent; the newest per agent life counts.
type Report struct {
	Site      string                   `json:"site"`
	Agent     string                   `json:"agent"`
	Boot      string                   `json:"boot"` // random id of the agent's process life
	Rev       uint64                   `json:"rev"`  // rises within one boot
	Time      time.Time                `json:"time"`
	Head      Head                     `json:"head"`
	Rejected  string                   `json:"rejected,omitempty"`
	Machines  map[string]MachineStatus `json:"machines"`
	Arrays    []ArrayReport            `json:"arrays"`
	Agents    []AgentReport            `json:"agents"`
	Overrides []OverrideReport         `json:"overrides,omitempty"`
	Keys      *KeyReport               `json:"keys,omitempty"`
}

// KeyReport is what an agent says of itself about who may speak.
type KeyReport struct {
	Trust       uint64 `json:"trust"`                 // seq of its head
	Revocation  uint64 `json:"revocation"`            // seq of its head
	Generation  uint64 `json:"generation"`            // of the roster as signed
	Clock       string `json:"clock"`                 // ClockTrusted or ClockFloor
	Forks       int    `json:"forks"`                 // forked trust documents that it holds as evidence, at most 16
	IntentForks int    `json:"intentForks,omitempty"` // those of its site's chain
	DEK         uint64 `json:"dek,omitempty"`         // newest data key
	Behind      int    `json:"behind,omitempty"`      // secrets that are sealed under an older one
	Offered     string `json:"offered,omitempty"`     // digest of a trust document that waits there for a person
}

// How an agent takes its wall clock.
const (
	ClockTrusted = "trusted"
	ClockFloor   = "floor-only" // it lies below what signed documents prove
)

// ArrayReport is the status of one instance array.
type ArrayReport struct {
	Project string      `json:"project"`
	Name    string      `json:"name"`
	Status  ArrayStatus `json:"status"`
}

// AgentReport is one agent as its site sees it.
type AgentReport struct {
	ID      string `json:"id"`
	Alive   string `json:"alive"` // yes, no, unknown
	Head    Head   `json:"head"`
	Version string `json:"version,omitempty"`
	Store   string `json:"store,omitempty"`  // of the reporting agent alone: sound, not scrubbed yet, recovering, held BUCKETS, disk_overcommitted, disk_suspect
	Probe   string `json:"probe,omitempty"`  // of the reporting agent alone: how each interface that it counts at is counted
	DHCP    string `json:"dhcp,omitempty"`   // of the reporting agent alone: what it does on each subnet, and which other servers are there
	SSH     string `json:"ssh,omitempty"`    // of the reporting agent alone: fingerprint of the key that its door for consoles shows
	Barred  string `json:"barred,omitempty"` // why it does not count at its site, as the reporting agent has it: in quarantine, replaced, revoked
}

// OverrideReport is one override that is not settled, or was settled lately.
type OverrideReport struct {
	ID     string    `json:"id"`
	Object Key       `json:"object"`
	Op     string    `json:"op"`
	State  string    `json:"state"`
	Author string    `json:"author"`
	Time   time.Time `json:"time"`
	Reason string    `json:"reason,omitempty"`
}

// OverrideOp is what an override does to its object.
type OverrideOp string

// The operations.
const (
	OverridePut       OverrideOp = "put"
	OverrideTombstone OverrideOp = "tombstone"
)

// Override is the payload of one override document: a change of a users' object made at a site (trust.md section 9). It is
// signed by the agent that took it.
type Override struct {
	Site   string         `json:"site"`
	Agent  string         `json:"agent"`
	Seq    uint64         `json:"seq"` // per agent, dense from 1
	Prev   string         `json:"prev"`
	Time   time.Time      `json:"time"`
	ID     string         `json:"id"` // SITE-<uuid>
	Author OverrideAuthor `json:"author"`
	Reason string         `json:"reason,omitempty"`
	Base   OverrideBase   `json:"base"`
	Op     OverrideOp     `json:"op"`
	Key    Key            `json:"key"`
	// Object is the whole object wanted; for a tombstone, the object as it was.
	Object json.RawMessage `json:"object"`
	Charge map[string]int  `json:"charge,omitempty"` // machines by type that the change adds
	// Turn is one above that of every override that the agent knew: what was made later has a higher one, whatever the clocks say.
	Turn uint64 `json:"turn,omitempty"`
}

// maxTurn bounds what a number that somebody else wrote can do to the next.
const maxTurn = 1 << 62

// Compare puts overrides in the order in which they were made; those that knew nothing of each other by time.
func (o Override) Compare(p Override) int {
	return cmp.Or(cmp.Compare(o.Turn, p.Turn), o.Time.Compare(p.Time), cmp.Compare(o.ID, p.ID))
}

// NextTurn is the Turn of an override that is made when known are known.
func NextTurn(known []Override) uint64 {
	turn := uint64(0)
	for _, o := range known {
		turn = max(turn, min(o.Turn, maxTurn))
	}
	return turn + 1
}

// OverrideAuthor says who asked and how that was proven.
type OverrideAuthor struct {
	User string `json:"user"`
	Via  string `json:"via"` // token:<id>
}

// OverrideBase is what the change was made on: the site's head, the object's version there (0: it did not exist), and the override
// that stood over it then, if one did.
type OverrideBase struct {
	Seq   uint64 `json:"seq"`
	Rev   uint64 `json:"rev"`
	After string `json:"after,omitempty"`
}
