// Package probe counts what passes an interface of this host: exactly, by eBPF, where the kernel lets it; less well where it does not, and
// it says which.
//
// Holds: Probe (the ladder of ways to count, and on which rung each interface stands), Plan (whose address counts as what), the
// counts since the last Read. bpf/count.c is what runs in the kernel; `make bpf` compiles it.
//
// Imported by: siteagent/traffic.
//
// Promises: every frame passes, whatever happens here. Only a kernel that lacks a rung leads to the next one; a missing permission is
// told, and the interface is off. 12 (prefixes and slots are bounded; what does not fit counts under the empty label). Maps and
// attachments are pinned where there is a bpffs: the kernel goes on counting while no agent runs, and whoever keeps what Read gives to
// keep counts nothing twice.
//
// Concurrency: Attach, SetPlan, Read and Close belong to one goroutine; Run, States and Stats may be used beside it. Run owns the readers
// of packet sockets.
//
// Tests: in network namespaces with real traffic, each rung beside the counters of its interface (root); tables and FuzzPacket without.
package probe
