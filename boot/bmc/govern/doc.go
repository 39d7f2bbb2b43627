// Package govern keeps a driver from asking more of a controller than it stands: one request at a time, few a second, and those who
// read sensors behind everybody else.
//
// Holds: Governor, Behind.
//
// Imported by: the drivers of boot/bmc.
//
// Promises: 12 (a controller wedges under more, and then nobody can switch its machine).
//
// Concurrency: a Governor is safe for concurrent use; it has no goroutines.
//
// Tests: the drivers' conformance suites; order and release in a bubble.
package govern
