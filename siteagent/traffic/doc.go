// Package traffic makes a site's traffic countable: it listens for sFlow, says who hangs where, keeps the ledger, and answers queries
// together with the other agents of the site.
//
// Holds: Desk (the running part, and the answer to queries), PlanOf (switches, ports and projects' prefixes out of intent and
// bindings), PointsOf (what the host's own interfaces count, so that each direction of each link counts at one point), Top (what there is
// just now), Handler (what peers ask), gauges.
//
// Imported by: siteagent only.
//
// Promises: telemetry never stops an agent from starting or serving: a port that is taken and a store that does not open are told, and
// tried again or left out. 10 (an agent that does not answer is named, its rows are missing and coverage says so). 12 (what peers
// say is bounded). It sends nothing but answers.
//
// Concurrency: Run owns the reader of the socket and the clock of the ledger; both are gone when it returns, with all that was heard
// on disk.
//
// Tests: traffic_test.go: a plan of intent, two agents over an in-memory mesh, a killed one; points_test.go: counts of a real interface,
// over kills and beside a switch (root); test/e2e hears real exporters.
package traffic
