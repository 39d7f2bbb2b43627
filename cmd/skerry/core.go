package main

import "syscall"

// coreLimit keeps the kernel from writing the memory of a process of ours, which has keys in it, when it dies: below a page no file is
// written, and exactly 1 keeps it from being piped to a collector too. Source: core(5); the kernel's fs/coredump.c.
const coreLimit = 1

// noCore sets the limit. Where that is not allowed it is lower already.
func noCore() {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{Cur: coreLimit, Max: coreLimit})
}
