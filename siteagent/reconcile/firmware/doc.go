// Package firmware deals with what a released machine's user may have left in its BIOS settings and its controller.
//
// Holds: Record (how far it is, for the journal), Ask (for the defaults of the BIOS settings) and Prove (that they were taken, and that the
// controller lets us in), Baseline (the accounts from before).
//
// Imported by: siteagent/reconcile, which decides when; siteagent/bmclogin, which notes the accounts.
//
// Promises: 5 and 6 (what is asked of a controller is asked under the machine's claim, and may be asked again after a crash). A reset counts
// as proven only where the controller showed it as pending and then, after a start, did not. No account is changed or removed.
//
// Concurrency: none of its own; whoever calls holds the machine.
//
// Tests: against a controller of func fields; the drivers' in boot/bmc/bmctest; the whole way in siteagent/reconcile.
package firmware
