package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
)

// table prints columns, left-aligned, two spaces apart. Widths come from the rows, so nothing is cut.
type table struct {
	rows [][]string
}

func (t *table) header(cols ...string) { t.rows = append(t.rows, cols) }

func (t *table) row(cols ...string) {
	for i, c := range cols {
		if c == "" {
			cols[i] = "-"
		}
	}
	t.rows = append(t.rows, cols)
}

func (t *table) write(w io.Writer) error {
	var width []int
	for _, r := range t.rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range t.rows {
		var b strings.Builder
		for i, c := range r {
			b.WriteString(c)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c)+2))
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// print writes v as JSON or YAML, or the table that fill makes: twins of one value.
func (a *app) print(v any, fill func(*table)) error {
	switch a.output {
	case "json":
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return fmt.Errorf("cannot print: %w", err)
		}
		_, err = fmt.Fprintf(a.Out, "%s\n", b)
		return err
	case "yaml":
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("cannot print: %w", err)
		}
		if b, err = yaml.JSONToYAML(b); err != nil {
			return fmt.Errorf("cannot print: %w", err)
		}
		_, err = a.Out.Write(b)
		return err
	}
	t := &table{}
	fill(t)
	return t.write(a.Out)
}

// structured tells whether the output is for programs.
func (a *app) structured() bool { return a.output == "json" || a.output == "yaml" }

// printLine writes one value of a stream: JSON on a line of its own, or a YAML document.
func (a *app) printLine(v any) error {
	if a.output == "yaml" {
		if _, err := fmt.Fprintln(a.Out, "---"); err != nil {
			return err
		}
		return a.print(v, nil)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	_, err = fmt.Fprintf(a.Out, "%s\n", b)
	return err
}
