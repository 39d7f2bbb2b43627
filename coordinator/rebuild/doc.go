// Package rebuild makes a coordinator for a domain whose every coordinator was lost, and every backup: from what the sites have.
//
// Holds: Run. It reads the trust chain from agents, makes new keys and has the roots list them, and writes a store that knows nothing
// but that chain and that sites are to be heard. The rest is coordinator/recovery's: what agents bring when they are back.
//
// Imported by: coordinator.
//
// Promises: 3 (the roots decide: without their signatures no agent obeys the new coordinator), 4 (nothing is published to a site
// before all of its agents were heard).
//
// Concurrency: none; one command runs.
//
// Tests: test/fault.TestRebuildFromSites, with real agents.
package rebuild
