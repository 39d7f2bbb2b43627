package rotation

import (
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// The phases of a rotation, in the order that it walks them.
const (
	PhaseAccept = "accept" // the new key is made, and everybody is to learn that it counts
	PhaseUse    = "use"    // it is used; the old one counts still
	PhaseRetire = "retire" // the old one is to count no more, once those who must know do
	PhaseDone   = "done"
)

// RotateRequest begins a rotation, or goes on with the one that is under way.
type RotateRequest struct {
	What  string `json:"what" enum:"agent,ca,writer,root,floor"`
	Site  string `json:"site,omitempty" maxLength:"63" doc:"site of the agents; of what agent only"`
	Agent string `json:"agent,omitempty" maxLength:"63" doc:"one agent of the site"`
	All   bool   `json:"all,omitempty" doc:"every agent of the site, one after the other"`
	// Again begins a new rotation where the last one is done.
	Again  bool       `json:"again,omitempty"`
	DryRun bool       `json:"dryRun,omitempty"`
	Floor  *time.Time `json:"floor,omitempty" doc:"of what floor only: no agent believes any more that it is later"`
	// Next are the roots to announce, of what root only.
	Next *intent.RootSet `json:"next,omitempty"`
	// Announced are the roots that the head announces, of what root only: a coordinator rebuilt from its sites knows their digest alone.
	Announced *intent.RootSet `json:"announced,omitempty"`
	// Lost lets the announced roots alone sign, of what root only: whoever is to follow must accept it.
	Lost              bool   `json:"lost,omitempty"`
	After             uint64 `json:"after,omitempty" doc:"with lost: the last document that still counts, where somebody else signed those after it; 0: the head"`
	ForceAfterSeconds int64  `json:"forceAfterSeconds,omitempty" minimum:"0" doc:"retire without those who were not heard for that long; 0: wait for everybody"`
}

// RotationStatus is how far a rotation is.
type RotationStatus struct {
	What    string         `json:"what" enum:"agent,ca,writer,root,floor"`
	Target  string         `json:"target,omitempty"` // SITE/AGENT, SITE for all of its agents, empty for what belongs to the domain
	Phase   string         `json:"phase" enum:"accept,use,retire,done"`
	Started time.Time      `json:"started"`
	Trust   intent.Head    `json:"trust"`
	Steps   []RotationStep `json:"steps"`  // the phases that were begun, in order
	Ledger  []RotationRow  `json:"ledger"` // every agent that has a part in it
	Next    string         `json:"next,omitempty"`
	// Offer is the file that holders of the roots sign before it goes on.
	Offer string `json:"offer,omitempty"`
}

// Waits tells whether everybody who can be reached has done his part, and somebody else is waited for.
func (s *RotationStatus) Waits() bool {
	if s.Phase == PhaseDone {
		return false
	}
	if s.Offer != "" {
		return true
	}
	for _, r := range s.Ledger {
		if r.Phase != PhaseDone && r.Held == "" {
			return false
		}
	}
	return true
}

// RotationStep is one phase and how many are through it.
type RotationStep struct {
	Phase string `json:"phase" enum:"accept,use,retire"`
	Text  string `json:"text,omitempty"` // the document or key, like "roster 13"
	Have  int    `json:"have"`
	Of    int    `json:"of"`
}

// RotationRow is one agent in the ledger of a rotation.
type RotationRow struct {
	Agent string    `json:"agent"` // SITE/AGENT
	Phase string    `json:"phase" enum:"accept,use,retire,done"`
	Since time.Time `json:"since"`          // in this phase
	Held  string    `json:"held,omitempty"` // why it does not move: who or what is waited for
}

// RotationList is what is under way.
type RotationList struct {
	Items []RotationStatus `json:"items"`
}
