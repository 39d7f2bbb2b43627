// Package fault breaks things on purpose: kills processes in the middle of writes, cuts the power under a file system, flips
// bits on disk, and looks whether the promises hold.
//
// Holds: tests only. F1 (SIGKILL), F3 (power cut), F4 (bit flips, marks too), F5 (full disk), F6 (older copies put back) of trust.md
// section 12, over real stores and, in F6, whole agents without sockets; F16 (a coordinator from an old backup, and from no backup), with
// whole agents; F10 (random partitions of a coordinator and three sites, in virtual time over test/sim/memnet: world_test.go is the scene);
// F2 (a kill at each moment at which a process says something), F7 (ten years alone) F8 (wrong clocks), F9 (bad wires), F12 (hostile peers), F15 (who was revoked)
// and F22 (everything at once; its load is test/bench.BenchmarkLoad) in the same scene;
// F18 (rotations under load), with processes that are killed, and with agents that were away.
//
// Imported by: nobody.
//
// Promises: tests 11 (an acknowledged write survives), 4 (damage is never absence, and never a wrong value), 5 (what was found permits
// nothing), 6 (no lease or claim twice).
//
// Concurrency: the test binary starts itself as the process that is hurt.
//
// Tests: -seed replays a run; -tags soak takes the long tier, -share a part of it. F3 and F5 need root, F3 e2fsprogs.
package fault
