// Package siteagent runs a site: it follows the signed intent, hands out addresses, boots and installs machines, and does so
// with nobody above it.
//
// Holds: Config and Run (the one wiring list), what is pulled and reported, the site's API backend, local changes, how
// a spare starts. Its rooms: replica (signed state), effective (with overrides), intake and catchup (signed state from above and from
// peers), sticks; bootnet (the boot network's answers), discovery, reconcile and claim (who does what to which machine), bmclogin, console (serial lines), operate (what people
// do to one), holds (how long something waited), receipts, explain, doctor; override, freshness, auditlog; members (who was cut off or came
// in), peers (what agents say to each other), keys; holdings, wan and abroad (assets, the line, other sites); traffic, history, devices
// and rota (telemetry); upkeep (the store).
//
// Imported by: cmd/skerry only. It never imports coordinator.
//
// Promises: 1 (nothing at start dials the coordinator), 3 (heads only move forward, kept in the store and in the marks), 4, 9,
// 10, 11, 12.
//
// Concurrency: Run owns every goroutine. Answers are read from immutable snapshots that a change of intent, journal or
// membership replaces.
//
// Tests: beside each file; the walk with real firmware in test/e2e and the demo.
package siteagent
