// Package arch keeps the rules of the house as tests: who may import whom, where a third-party library lives, how large things
// grow, and what is never written. It has no code of its own.
//
// Holds: the table of forbidden arrows with a reason each (arrows_test.go), the table of libraries and their rooms
// (libraries_test.go), the limits of size, documentation and state (rules_test.go), and the reader of the tree (tree_test.go).
//
// Imported by: nobody; it has no exported names. Standard library only.
//
// Promises: a broken rule is told as file, line, what, and why the rule is there. An exception stands in a table with its
// reason and its own limit, and one that is no longer needed fails too, so that exceptions go away.
//
// Concurrency: none.
//
// Tests: each rule is run over the tree, and over a source that breaks it, so that a rule which sees nothing is red.
package arch
