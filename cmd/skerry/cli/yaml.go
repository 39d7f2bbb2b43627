package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// maxYAML bounds one file that we read.
const maxYAML = 1 << 20

// document is one YAML document and where it stands.
type document struct {
	file   string
	before int // lines before it in the file
	node   ast.Node
	json   json.RawMessage
	obj    *intent.Object
}

// place returns "FILE:LINE:COLUMN" of a dotted path, or of its nearest parent that is written.
func (d *document) place(path string) string {
	line, col := position(d.node, splitPath(path))
	return fmt.Sprintf("%s:%d:%d", d.file, line+d.before, col)
}

// readDocuments reads a file ("-" = standard input) of one or more YAML or JSON documents. Every problem of every document
// is told with its place.
func (a *app) readDocuments(file string) ([]*document, error) {
	var r io.Reader = a.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read documents: %w", err)
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxYAML+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read documents: %w", err)
	}
	if len(b) > maxYAML {
		return nil, fmt.Errorf("cannot read %s: more than %d octets; split the file", file, maxYAML)
	}
	return parseDocuments(file, b)
}

// part is one document's text and the number of lines before it.
type part struct {
	text   string
	before int
}

// splitDocuments cuts at the lines that begin with --- or ... (YAML 1.2.2, section 9.1.2: they mark documents wherever they
// stand). It is ours because the library stops without a word at the first empty document, and what follows would be lost.
func splitDocuments(b []byte) []part {
	var out []part
	var cur strings.Builder
	start, n := 0, 0
	for line := range strings.Lines(string(b)) {
		rest, mark := strings.CutPrefix(line, "---")
		if !mark {
			rest, mark = strings.CutPrefix(line, "...")
		}
		if mark && (strings.TrimSpace(rest) == "" || rest[0] == ' ' || rest[0] == '\t') {
			out = append(out, part{cur.String(), start})
			cur.Reset()
			start = n
			line = "   " + rest
		}
		if strings.HasPrefix(line, "%") && strings.TrimSpace(cur.String()) == "" {
			line = "\n" // a directive; we read one YAML only
		}
		cur.WriteString(line)
		n++
	}
	return append(out, part{cur.String(), start})
}

func parseDocuments(file string, b []byte) ([]*document, error) {
	var docs []*document
	var bad []string
	for _, p := range splitDocuments(b) {
		more, problems := parsePart(file, p)
		docs, bad = append(docs, more...), append(bad, problems...)
	}
	if len(bad) > 0 {
		return nil, hint(fmt.Errorf("cannot apply %s, nothing was sent:\n%s", file, strings.Join(bad, "\n")), "correct the places above; `skerry describe --fields KIND` lists the fields")
	}
	if len(docs) == 0 {
		return nil, fmt.Errorf("cannot apply %s: no document in it", file)
	}
	return docs, nil
}

// parsePart decodes one document, or none when there is only white space and comments.
func parsePart(file string, p part) (docs []*document, bad []string) {
	parsed, err := parser.ParseBytes([]byte(p.text), 0)
	if err != nil {
		return nil, []string{yamlError(file, p.before, err)}
	}
	for _, d := range parsed.Docs {
		if d.Body == nil || d.Body.Type() == ast.NullType || d.Body.Type() == ast.CommentType {
			continue
		}
		doc := &document{file: file, before: p.before, node: d.Body}
		var v any
		if err := yaml.NodeToValue(d.Body, &v); err != nil {
			bad = append(bad, yamlError(file, p.before, err))
			continue
		}
		if doc.json, err = json.Marshal(v); err != nil {
			bad = append(bad, fmt.Sprintf("%s: %v", doc.place(""), err))
			continue
		}
		if doc.obj, err = intent.DecodeObject(doc.json); err != nil {
			bad = append(bad, doc.problems(err)...)
			continue
		}
		docs = append(docs, doc)
	}
	return docs, bad
}

// problems renders decoding problems with positions in the YAML text.
func (d *document) problems(err error) []string {
	ps, ok := errors.AsType[intent.Problems](err)
	if !ok {
		return []string{d.place("") + ": " + err.Error()}
	}
	var out []string
	for _, p := range ps {
		p.Line, p.Column = 0, 0
		out = append(out, d.place(p.Path)+": "+p.String())
	}
	return out
}

// yamlError returns "FILE:LINE:COLUMN: what" out of the first line of the library's message, "[LINE:COLUMN] what"; the rest is
// a drawing. before is the number of lines before what the library saw.
func yamlError(file string, before int, err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	line = regexp.MustCompile(`\[(\d+):(\d+)\]`).ReplaceAllStringFunc(line, func(s string) string {
		var l, c int
		if _, err := fmt.Sscanf(s, "[%d:%d]", &l, &c); err != nil {
			return s
		}
		return fmt.Sprintf("[%d:%d]", l+before, c)
	})
	if place, what, ok := strings.Cut(strings.TrimPrefix(line, "["), "] "); ok && strings.HasPrefix(line, "[") {
		return file + ":" + place + ": " + what
	}
	return file + ": " + line
}

// splitPath turns "spec.nics[1].mac" into "spec", "nics", "1", "mac".
func splitPath(path string) []string {
	path = strings.NewReplacer("[", ".", "]", "").Replace(path)
	return strings.FieldsFunc(path, func(r rune) bool { return r == '.' })
}

// position walks the tree as far as the path goes and returns line and column, from 1, of the key there.
func position(n ast.Node, path []string) (line, col int) {
	tok := n.GetToken()
	line, col = tok.Position.Line, tok.Position.Column
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 {
		p := m.Values[0].Key.GetToken().Position
		line, col = p.Line, p.Column
	}
	if len(path) == 0 {
		return line, col
	}
	switch v := n.(type) {
	case *ast.MappingNode:
		for _, mv := range v.Values {
			if mv.Key.GetToken().Value == path[0] {
				return entry(mv, path)
			}
		}
	case *ast.MappingValueNode:
		if v.Key.GetToken().Value == path[0] {
			return entry(v, path)
		}
	case *ast.SequenceNode:
		if i, err := strconv.Atoi(path[0]); err == nil && i < len(v.Values) {
			return position(v.Values[i], path[1:])
		}
	}
	return line, col
}

func entry(mv *ast.MappingValueNode, path []string) (line, col int) {
	if len(path) == 1 {
		p := mv.Key.GetToken().Position
		return p.Line, p.Column
	}
	return position(mv.Value, path[1:])
}
