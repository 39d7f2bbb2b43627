// Package redfish drives a management controller by Redfish.
//
// Holds: Controller, a bmc.Controller over gofish's session and transport; the governor, retries, the pin of the TLS key, and
// the fence in the system's AssetTag; accounts, and the reset of BIOS settings.
//
// Imported by: siteagent. gofish is used here and nowhere else.
//
// Promises: 6 (before each write the fence is read with the state that decides whether to write at all; a higher epoch is
// ErrFenced), 10, 12 (answers are bounded to 4 MiB, one request at a time, two a second, 30 s each). A password that was
// refused is not tried again for five minutes: three wrong logins lock many controllers.
//
// Not built: @Redfish.Settings and /SD, conditional GET, media, jobs, the shared quirk ledger.
//
// Concurrency: safe for concurrent use; requests go out one after another. No goroutine of ours; idle connections end in Close.
//
// Tests: boot/bmc/bmctest against test/sim/bmc with each fault; recorded trees of real controllers, read only.
package redfish
