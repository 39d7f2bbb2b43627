//go:build !soak

package gossip

import "time"

// tierApart are the runs of the pull request's tier.
func tierApart() []apartRun { return []apartRun{{time.Hour, 10 * time.Minute, 1}} }
