// Package netlab makes network namespaces, links and processes of its own, and removes every one of them again.
//
// Holds: Lab (a stack of things to undo), Namespace (made by `ip netns add`), veth pairs, bridges, taps, Switch (Open vSwitch, with sFlow), and Proc (a child
// in its own process group: TERM, 2 s, KILL, wait).
//
// Imported by: test/sim/vm, test/e2e/lab, cmd/skerry-demo/demo. Product rooms must not import it; it needs root and iproute2.
//
// Promises: nothing outside namespaces with the lab's own prefix is touched; Close undoes in reverse order, goes on after
// an error and waits for each process. What a kill -9 of the owner leaves is removed by Sweep, which looks only at names
// `sk<pid>...` whose pid is gone.
//
// Concurrency: all methods may be called from several goroutines. Proc owns one goroutine from Start to the child's end;
// Stop and Close return after it. Namespace.Do locks one OS thread while its function runs.
//
// Tests: namespaces, veth traffic, stubborn children and Sweep; they need root and skip without it.
package netlab
