package sites

import (
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// SiteStatus is how a site is doing.
type SiteStatus struct {
	Site       string         `json:"site"`
	Head       intent.Head    `json:"head"`      // active at the site
	Published  intent.Head    `json:"published"` // by the coordinator, as far as known
	Agents     []AgentStatus  `json:"agents"`
	Machines   map[string]int `json:"machines"` // by state
	Overrides  []Override     `json:"overrides,omitempty"`
	ObservedAt time.Time      `json:"observedAt"`
	Reachable  string         `json:"reachable"` // yes, unknown
	Rejected   string         `json:"rejected,omitempty"`
	Held       string         `json:"held,omitempty"`       // why the coordinator publishes nothing to the site
	BreakGlass []EmergencyUse `json:"breakGlass,omitempty"` // emergency keys that were used here
	Gateways   []Gateway      `json:"gateways,omitempty"`   // of other sites that this one reaches; by an agent that gossips with them
}

// Gateway is an agent of another site.
type Gateway struct {
	Site  string    `json:"site"`
	Agent string    `json:"agent"`
	Alive string    `json:"alive"`          // yes, no, unknown: never heard since this agent started
	Since time.Time `json:"since,omitzero"` // when that changed
}

// EmergencyUse says when an emergency key was used last.
type EmergencyUse struct {
	User  string    `json:"user"`
	Agent string    `json:"agent"` // that it was shown to
	Last  time.Time `json:"last"`
	What  string    `json:"what"`
}

// AgentStatus is one agent of a site.
type AgentStatus struct {
	ID      string      `json:"id"`
	Alive   string      `json:"alive"` // yes, no, unknown
	Head    intent.Head `json:"head"`
	Uplink  string      `json:"uplink"` // up, down
	Version string      `json:"version,omitempty"`
	Store   string      `json:"store,omitempty"`  // sound, not scrubbed yet, recovering, held BUCKETS, disk_overcommitted, disk_suspect; empty: not known here
	Probe   string      `json:"probe,omitempty"`  // how each interface is counted at which it counts traffic, like "eth1: tcx"; empty: none, or not known here
	DHCP    string      `json:"dhcp,omitempty"`   // what DHCP does on each subnet, like "boot proxy, DHCP server 10.0.0.1 at 52:54:00:00:00:09"; empty: not known here
	SSH     string      `json:"ssh,omitempty"`    // fingerprint of the key that its door for consoles shows; empty: it has none, or not known here
	Barred  string      `json:"barred,omitempty"` // why it does not count at its site: in quarantine, replaced, revoked; empty: it counts
}

// Override is a local change and how far it got.
type Override struct {
	ID     string     `json:"id"`
	Object intent.Key `json:"object"`
	Op     string     `json:"op"`
	State  string     `json:"state"` // local, pending, adopted, discarded, conflict
	Author string     `json:"author"`
	Time   time.Time  `json:"time"`
	Reason string     `json:"reason,omitempty"`
}
