// Package bootnet is the agent's side of the boot network: what machines, their firmware and our installer ask of a site.
//
// Holds: Server (listeners on the boot addresses only), answers (DHCP view and leases, scripts, assets, NoCloud documents), modes
// (what DHCP does on each subnet, beside which other servers), the
// install protocol's counterpart with sessions and permissions, the site's short tokens, traffic counters.
//
// Imported by: siteagent only.
//
// Promises: 1 (nothing here asks a coordinator), 5 (permissions name accepted hardware and are on every live peer's disk before they
// are given), 7 (assets come from storage/blob, which verifies), 9 (answers are functions of intent and journal), 12.
//
// Concurrency: Run owns the journaling of what was seen; listeners run where Listen's caller runs them. Answers are read from
// immutable snapshots.
//
// Tests: beside the files; every fault of a simulated BMC x install and release in virtual time (faults_test.go; -seed replays a choice,
// -tags soak takes all); the walk with real firmware in test/e2e.
package bootnet
