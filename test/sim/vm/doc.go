// Package vm is one bare-metal machine made of QEMU: a disk and firmware variables that persist, and one QEMU process per
// power cycle, as testbench recipes R5 and R11 wire it.
//
// Holds: Config, Machine (Run, On, Off, Reset, Shutdown, State), the QEMU command line, the QMP client it needs.
//
// Imported by: test/sim/bmc's users, test/e2e, cmd/skerry-demo/demo. Never by product rooms.
//
// Promises: a guest's reboot ends QEMU and the machine starts again at once, asking Config.Boot anew, so that a one-time
// boot override is consumed by exactly one start; a guest's power-off leaves it off; only TCG is used.
//
// Concurrency: Run owns every goroutine and the QEMU process and returns after they are gone. All other methods may be
// called from anywhere while Run runs.
//
// Tests: goldens of the command line; a smoke test under QEMU with a boot sector of our own (reset, power-off, override).
package vm
