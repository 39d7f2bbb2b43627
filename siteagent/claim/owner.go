package claim

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"
)

// HoldOff is how long gossip must have called an agent dead before its devices move (mesh.md section 7).
const HoldOff = 30 * time.Second

// Member is one rostered agent as gossip sees it.
type Member struct {
	ID    string
	Rank  uint16
	Alive bool
	Since time.Time // of Alive's last change
}

// usable tells whether an agent counts as living: it does, or it has not been dead for HoldOff.
func (m Member) usable(now time.Time) bool { return m.Alive || now.Sub(m.Since) < HoldOff }

// Owner returns the agent that owns id: the highest hash among the agents that are alive, or that have not been dead for
// HoldOff yet. Empty when there is none. Same members, same answer on every agent.
func Owner(id string, members []Member, now time.Time) string {
	var usable []string
	for _, m := range members {
		if m.usable(now) {
			usable = append(usable, m.ID)
		}
	}
	ranked := Rendezvous(id, usable)
	if len(ranked) == 0 {
		return ""
	}
	return ranked[0]
}

// Rendezvous orders candidates by sha256(id|candidate), highest first; equal hashes by name. Source: Thaler and
// Ravishankar, "A name-based mapping scheme for rendezvous", 1996.
func Rendezvous(id string, candidates []string) []string {
	out := slices.Clone(candidates)
	weight := func(c string) uint64 {
		sum := sha256.Sum256([]byte(id + "|" + c))
		return binary.BigEndian.Uint64(sum[:])
	}
	slices.SortFunc(out, func(a, b string) int {
		wa, wb := weight(a), weight(b)
		switch {
		case wa > wb:
			return -1
		case wa < wb:
			return 1
		case a < b:
			return -1
		case a > b:
			return 1
		}
		return 0
	})
	return out
}
