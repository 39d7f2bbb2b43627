// Package console keeps the serial consoles of machines: one line each, many readers, one writer, and what the machine said.
//
// Holds: Console (a machine's line: dialled again when it is lost, read by all who are attached, written by one of them), Attachment (one
// person at it), Store and History (what was said, in memory and on disk), Record (a line of the history).
//
// Imported by: siteagent/console, which says which lines there are and who may attach; boot/console/sshd is the door for SSH clients.
//
// Promises: 12. A reader who is slow, or does not read at all, holds neither the line nor another reader: he misses what was overwritten
// meanwhile, and is told how much. Memory: at most 1 MiB a machine and 64 MiB in all; disk: 8 MiB a machine and 512 MiB in all; 16
// people at a console. What was read from the line is in the file before anybody sees it, and outlives the process being killed; after a
// loss of power what the kernel had not written yet is missing. A full disk ends no console. The history is escaped text: a machine writes what it
// likes, and a control character in a file that somebody looks at acts on his terminal.
//
// Concurrency: Console.Run and Console.Attach belong to their callers, and return when all that they started has ended; everything else is safe for
// concurrent use.
//
// Tests: synctest for lines, readers and writers; kill and restart of histories; FuzzRecord; the wire in boot/bmc/ipmi.
package console
