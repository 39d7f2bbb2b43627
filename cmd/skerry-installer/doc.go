// Command skerry-installer is PID 1 of the install ramdisk: it loads drivers, configures the card that booted, and does
// what the site orders.
//
// Holds: wiring and the parts of being PID 1 (mounts, modules, address, reboot); boot/install and storage/image do the work.
//
// Imported by: nobody.
//
// Promises: 5 and 7 by boot/install; ends in reboot, power-off or halt, never in a returned PID 1; stripped under 12 MB.
//
// Concurrency: one goroutine, and those of boot/install.
//
// Tests: the kernel command line in tables; the whole under QEMU in test/e2e.
package main
