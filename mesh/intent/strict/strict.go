package strict

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// MaxDepth bounds the nesting of any JSON that we read.
const MaxDepth = 32

// Problem is one thing wrong in a document. Path is dotted ("spec.nics[1].mac"); Line and Column count from 1 in the bytes
// that were decoded and are 0 where unknown. Fix says what to do; it may be empty.
type Problem struct {
	Path   string `json:"path"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	What   string `json:"what"`
	Fix    string `json:"fix,omitempty"`
}

// String returns "line 3, column 7: spec.mode: not known; use auto or off".
func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d, column %d: ", p.Line, p.Column)
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.What)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

// Problems is what a validation found, in document order. It is an error when not empty; use Err.
type Problems []Problem

// Error joins the problems by newlines.
func (ps Problems) Error() string {
	s := make([]string, len(ps))
	for i, p := range ps {
		s[i] = p.String()
	}
	return strings.Join(s, "\n")
}

// Err returns ps as an error, or nil when ps is empty.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// Decode reads exactly one JSON value into v, a pointer. It refuses unknown, duplicate and wrong-case fields, nesting
// deeper than MaxDepth, wrong types and anything after the value. Errors: Problems with path, line and column.
func Decode(b []byte, v any) error {
	s := &scan{dec: json.NewDecoder(bytes.NewReader(b)), src: b}
	s.dec.UseNumber()
	if p := s.value(reflect.TypeOf(v), "", 0); p != nil {
		return Problems{*p}
	}
	if _, err := s.dec.Token(); !errors.Is(err, io.EOF) {
		return Problems{*s.problem("", "more data after the document", "send one document")}
	}
	err := json.Unmarshal(b, v)
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		p := s.at(te.Offset, te.Field, "is "+article(te.Value), "give "+jsonName(te.Type))
		return Problems{*p}
	}
	if ps, ok := errors.AsType[Problems](err); ok {
		return ps
	}
	if err != nil {
		return Problems{Problem{What: err.Error()}}
	}
	return nil
}

// scan walks the tokens beside the Go type that they will be stored in.
type scan struct {
	dec *json.Decoder
	src []byte
}

func (s *scan) at(off int64, path, what, fix string) *Problem {
	off = min(max(off, 0), int64(len(s.src)))
	before := s.src[:off]
	return &Problem{
		Path: path, What: what, Fix: fix,
		Line:   1 + bytes.Count(before, []byte("\n")),
		Column: int(off) - bytes.LastIndexByte(before, '\n'),
	}
}

func (s *scan) problem(path, what, fix string) *Problem {
	return s.at(s.dec.InputOffset(), path, what, fix)
}

func (s *scan) syntax(path string, err error) *Problem {
	if se, ok := errors.AsType[*json.SyntaxError](err); ok {
		return s.at(se.Offset, path, se.Error(), "")
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return s.problem(path, "the document ends too early", "send it whole")
	}
	return s.problem(path, err.Error(), "")
}

func (s *scan) value(t reflect.Type, path string, depth int) *Problem {
	if depth > MaxDepth {
		return s.problem(path, "nested too deep", fmt.Sprintf("at most %d levels", MaxDepth))
	}
	tok, err := s.dec.Token()
	if err != nil {
		return s.syntax(path, err)
	}
	switch tok {
	case json.Delim('{'):
		return s.object(plainType(t), path, depth)
	case json.Delim('['):
		return s.array(plainType(t), path, depth)
	}
	return nil
}

func (s *scan) object(t reflect.Type, path string, depth int) *Problem {
	fields := structFields(t)
	var elem reflect.Type
	if t != nil && t.Kind() == reflect.Map {
		elem = t.Elem()
	}
	seen := map[string]bool{}
	for s.dec.More() {
		tok, err := s.dec.Token()
		if err != nil {
			return s.syntax(path, err)
		}
		name, ok := tok.(string)
		if !ok {
			return s.problem(path, "a field name is missing", "")
		}
		at := Join(path, Clip(name, 80))
		if seen[name] {
			return s.problem(at, "given twice", "keep one")
		}
		seen[name] = true
		next := elem
		if fields != nil {
			if next, ok = fields[name]; !ok {
				return s.problem(at, "unknown field", nearest(name, fields))
			}
		}
		if p := s.value(next, at, depth+1); p != nil {
			return p
		}
	}
	_, err := s.dec.Token()
	if err != nil {
		return s.syntax(path, err)
	}
	return nil
}

func (s *scan) array(t reflect.Type, path string, depth int) *Problem {
	var elem reflect.Type
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		elem = t.Elem()
	}
	for i := 0; s.dec.More(); i++ {
		if p := s.value(elem, fmt.Sprintf("%s[%d]", path, i), depth+1); p != nil {
			return p
		}
	}
	if _, err := s.dec.Token(); err != nil {
		return s.syntax(path, err)
	}
	return nil
}

// plainType strips pointers; it is nil for types that decode themselves, whose fields are not ours to judge.
func plainType(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() == reflect.Interface {
		return nil
	}
	p := reflect.PointerTo(t)
	if p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return nil
	}
	return t
}

// structFields maps JSON names to types, embedded structs included; nil when t is no struct.
func structFields(t reflect.Type) map[string]reflect.Type {
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	m := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || (!f.IsExported() && !f.Anonymous):
		case f.Anonymous && name == "":
			for n, ft := range structFields(plainType(f.Type)) {
				m[n] = ft
			}
		case name == "":
			m[f.Name] = f.Type
		default:
			m[name] = f.Type
		}
	}
	return m
}

// nearest suggests the field that was probably meant.
func nearest(name string, fields map[string]reflect.Type) string {
	best, bestDist := "", 16
	for f := range fields {
		// Four a change, one an octet of length: two letters that changed places are rather meant than two that differ.
		d := 4*distance(strings.ToLower(name), strings.ToLower(f)) + min(3, max(len(name)-len(f), len(f)-len(name)))
		if d < bestDist || (d == bestDist && f < best) {
			best, bestDist = f, d
		}
	}
	if best == "" {
		return "remove it"
	}
	return "did you mean " + best + "?"
}

// distance is the Levenshtein distance of two short names, cut at 32 octets each.
func distance(a, b string) int {
	a, b = a[:min(len(a), 32)], b[:min(len(b), 32)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			prev, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, prev+cost)
		}
	}
	return row[len(b)]
}

// Join puts a name below a path.
func Join(path, name string) string {
	switch {
	case path == "":
		return name
	case name == "":
		return path
	}
	return path + "." + name
}

// article returns what JSON calls a value, with its article: "an object", "a number 1.5".
func article(value string) string {
	if value == "object" || value == "array" {
		return "an " + value
	}
	return "a " + value
}

func jsonName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	default:
		return "a whole number that fits"
	}
}

// Clip bounds text from outside before it goes into an error.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "..."
}
