//go:build soak

package fault

import "time"

// The long tier: under an hour each (trust.md section 12).
const (
	tierKills      = 2000                // F1
	tierCuts       = 500                 // F3
	tierFlips      = 5000                // F4
	tierFulls      = 20                  // F5
	tierCopies     = 20                  // F6
	tierHostile    = 50_000              // F14
	tierHistories  = 250                 // F10: four times
	tierKeyPoints  = 1 << 20             // F18: all
	tierPoints     = 150                 // F2: of each victim
	tierRevoked    = 5000                // F15: keys
	tierGone       = 500                 // F15: agents, five a site
	tierHostility  = 3 * time.Minute     // F12
	tierAgents     = 8                   // F9
	tierFlaps      = 1000                // F9
	tierDecades    = 50                  // F7: twice
	tierAway       = 30 * 24 * time.Hour // F7: between two lives
	tierTurns      = 60                  // F18
	tierEverything = 200                 // F22
	tierPatience   = 48 * time.Hour      // F9: of the bubble
	tierApart      = 60 * time.Hour      // sites from each other
)

// F9: what crosses the wires, one after the other.
func tierCrossings() []crossing {
	return []crossing{{64 << 20, 20 * time.Millisecond}, {1 << 20, 800 * time.Millisecond}}
}
