// Package console holds the lines of the machines that this agent owns, and seats people at them.
//
// Holds: Keeper: which machines have a line, who holds it, who may sit down, what of it is on record; the way to the agent that holds a line.
//
// Imported by: siteagent only.
//
// Promises: 6 (only the agent that acts on a machine opens its line, and closes it when it does not any more), 12. Who sits down, takes the
// keyboard and leaves stands in the audit log, before it takes effect; what was typed and shown never does.
//
// A line is held always and not only while somebody reads: what a machine says before it dies is what one wants to read afterwards. It costs the
// BMC one session (IPMI 2.0 has room for four and more), which sends nothing but a question each 20 s while the machine is silent.
//
// Concurrency: Run owns the goroutines of the lines; Console and Peer run in their callers'.
//
// Tests: beside the files, with lines made by hand; boot/bmc/ipmi has the wire.
package console
