package assets

import (
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// What becomes of the octets of a deleted asset.
const (
	Waits   = "waits"   // the time for which they stay is not over
	Named   = "named"   // another asset, or an upload, has the same octets
	Due     = "due"     // they would be removed
	Removed = "removed" // they were
)

// Collection is what becomes of the octets of deleted assets that are here still, or were until now.
type Collection struct {
	DryRun bool        `json:"dryRun,omitempty"`
	Held   string      `json:"held,omitempty"` // why nothing is removed
	Items  []Collected `json:"items"`
}

// Collected is one deleted asset.
type Collected struct {
	Name    string        `json:"name"`
	Digest  intent.Digest `json:"digest"`
	Size    uint64        `json:"size"`
	Deleted time.Time     `json:"deleted"`
	Due     time.Time     `json:"due"`
	State   string        `json:"state" enum:"waits,named,due,removed"`
}
