package intent

import "github.com/skerry-metal/skerry/mesh/intent/strict"

// MaxDepth bounds the nesting of any JSON that we read.
const MaxDepth = strict.MaxDepth

// Problem is one thing wrong in a document.
type Problem = strict.Problem

// Problems is what a validation found, in document order. It is an error when not empty; use Err.
type Problems = strict.Problems

// DecodeStrict reads exactly one JSON value into v, a pointer. It refuses unknown, duplicate and wrong-case fields, nesting deeper
// than MaxDepth, wrong types and anything after the value. Errors: Problems with path, line and column.
func DecodeStrict(b []byte, v any) error { return strict.Decode(b, v) }

func join(path, name string) string { return strict.Join(path, name) }

// clip bounds text from outside before it goes into an error.
func clip(s string, n int) string { return strict.Clip(s, n) }
