// Package graph draws series: text for terminals (braille, ASCII), SVG, PNG.
//
// Holds: Graph (rows to draw), Text, Spark, SVG, PNG.
//
// Imported by: cmd/skerry/cli. It imports the standard library only: what is drawn came over the API.
//
// Promises: unknown is a gap, never a line through it or a zero; pure: the same Graph is the same octets.
//
// Concurrency: values.
//
// Tests: goldens of each output, with gaps, one value, all unknown.
package graph
