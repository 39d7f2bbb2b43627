//go:build soak

package gossip

import "time"

// tierApart are the runs of the long tier. 400 days of six agents that ask each other each second are hours of a CPU: what goes on in them
// is what goes on in the third hour.
func tierApart() []apartRun {
	return []apartRun{{time.Hour, 2 * time.Hour, 100}, {26 * time.Hour, time.Hour, 2}, {8 * 24 * time.Hour, time.Hour, 1}}
}
