package sites

import (
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Proposal is an override that the coordinator keeps for a person, with both values.
type Proposal struct {
	ID     string         `json:"id"`
	Site   string         `json:"site"`
	Object intent.Key     `json:"object"`
	Op     string         `json:"op"` // put, tombstone
	Author string         `json:"author"`
	Agent  string         `json:"agent"` // that signed it
	Time   time.Time      `json:"time"`
	Reason string         `json:"reason,omitempty"`
	Why    string         `json:"why"` // it was not adopted
	Since  time.Time      `json:"since"`
	Base   uint64         `json:"base"`            // version of the object that the site changed
	Here   *intent.Object `json:"here,omitempty"`  // as the coordinator has it; none: it is gone, or never was
	There  *intent.Object `json:"there,omitempty"` // as the site has it; of a tombstone, what it removed
}

// DecisionRequest settles a proposal.
type DecisionRequest struct {
	Decision string `json:"decision" enum:"adopt,discard"`
	Reason   string `json:"reason" minLength:"1" maxLength:"256"`
	DryRun   bool   `json:"dryRun,omitempty"`
}

// Explanation is the chain behind a machine's state.
type Explanation struct {
	Machine  string                `json:"machine"`
	Site     string                `json:"site"`
	Status   *intent.MachineStatus `json:"status"`
	Head     intent.Head           `json:"head"`
	Sections []ExplainSection      `json:"sections"`
	Events   []intent.Event        `json:"events"`
}

// ExplainSection is one link of the chain: packets, identity, intent, permission, bytes, sources, times.
type ExplainSection struct {
	Title string        `json:"title"`
	Facts []ExplainFact `json:"facts"`
}

// ExplainFact is one name and value.
type ExplainFact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}
