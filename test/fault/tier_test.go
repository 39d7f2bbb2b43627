//go:build !soak

package fault

import "time"

// The pull request's tier: seconds each.
const (
	tierKills      = 20                   // F1
	tierCuts       = 8                    // F3
	tierFlips      = 100                  // F4
	tierFulls      = 1                    // F5
	tierCopies     = 3                    // F6
	tierHostile    = 500                  // F14
	tierHistories  = 2                    // F10
	tierKeyPoints  = 3                    // F18: of each victim
	tierPoints     = 5                    // F2: of each victim
	tierRevoked    = 300                  // F15: keys
	tierGone       = 20                   // F15: agents, five a site
	tierHostility  = 30 * time.Second     // F12
	tierAgents     = 8                    // F9
	tierFlaps      = 20                   // F9
	tierDecades    = 1                    // F7
	tierAway       = 180 * 24 * time.Hour // F7: between two lives
	tierTurns      = 1                    // F18: rounds of two rotations, three kills each
	tierEverything = 1                    // F22
	tierPatience   = time.Hour            // F9: of the bubble
	tierApart      = 65 * time.Minute     // sites from each other: from an hour on nothing changes any more but Serf's ten years
)

// F9: what crosses the wires, one after the other.
func tierCrossings() []crossing { return []crossing{{512 << 10, 20 * time.Millisecond}} }
