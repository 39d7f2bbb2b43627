// Package account makes figures of sampled packets: who had how much traffic, how sure that is, and what is missing.
//
// Holds: Plan (switches, ports, projects and their prefixes), Engine (counts samples into intervals of one minute), Point (what a host
// counted by itself, in place of its access port), Ledger (the intervals on disk: minutes for 72 h, hours for 400 d), Merge (which of
// several agents' intervals count), Query and Table (sums with their 95 % bounds and coverage), reconciliation with the counters of
// interfaces; Live and Top (rates of the open minute).
//
// Imported by: siteagent/traffic. It declares Store, which storage/state.Raw is.
//
// Promises: 12 (streams, cells, labels and rows are bounded, and what does not fit is counted). An interval is on disk before
// Flush returns; a crash loses the open minute and what was closed since the last Flush, and coverage says so. Intervals of two
// agents whose datagrams overlap are never added.
//
// Concurrency: an Engine is safe for concurrent use: one reader of datagrams, one owner of Tick and Flush, any number of queries. No
// goroutines of its own. A Plan is immutable.
//
// Tests: tables beside each file; TestBound (1,000 seeded trials of the bound), TestTwoAgents (two agents with a kill between count
// nothing twice), FuzzDecode; totals beside pmacct's and interface counters in test/e2e.
package account
