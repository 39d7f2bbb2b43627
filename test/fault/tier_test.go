//go:build !soak

package fault

// The pull request's tier: seconds each.
const (
	tierKills   = 20  // F1
	tierCuts    = 8   // F3
	tierFlips   = 100 // F4
	tierFulls   = 1   // F5
	tierCopies  = 3   // F6
	tierHostile = 500 // F14
	tierTurns   = 1   // F18: rounds of two rotations, three kills each
)
