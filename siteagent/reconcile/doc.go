// Package reconcile moves machines from what they are to what is wanted: one pure plan per noun, one loop that carries plans
// out under claims.
//
// Holds: machine_plan.go and instance_plan.go (pure), erase_plan.go (what a released machine owes), firmware_plan.go (and its firmware), work_plan.go (what an installer is told), view.go (journal and intent
// folded into values), machine_apply.go and instance_apply.go (claims, journal, BMC), trouble.go (what is told of steps that fail), records.go (what is journaled).
//
// Imported by: siteagent only.
//
// Promises: 4 (an absent binding or array releases nothing), 5 and 6 (every write to a device is under a claim and was
// journaled as started on every live peer), 10 (nothing is done to a machine that another live agent owns). After a crash
// the journal says which step was started; each step reads back before it repeats.
//
// Concurrency: Controller.Run owns one goroutine per machine that has something to do, and waits for all of them.
//
// Tests: every state times every event is a golden (testdata/machine_plan.golden); rapid laws over PlanInstances (sticky,
// no machine twice, order does not matter); apply against a fake BMC with crashes at each step; two agents with real claims and
// journals that are parted and meet again (pair_test.go).
package reconcile
