package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// report shows steps as they happen, and a table of all at the end.
type report struct {
	out   io.Writer
	start time.Time

	mu    sync.Mutex // guards what follows
	steps []stepResult
	facts [][2]string
}

type stepResult struct {
	name   string
	detail string
	took   time.Duration
	err    error
}

func (r *report) line(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "%7.1fs  %s\n", time.Since(r.start).Seconds(), fmt.Sprintf(format, args...))
}

// step runs fn under a name and keeps how it ended.
func (r *report) step(name string, fn func() (string, error)) error {
	r.line("→ %s", name)
	began := time.Now()
	detail, err := fn()
	res := stepResult{name, detail, time.Since(began), err}
	r.mu.Lock()
	r.steps = append(r.steps, res)
	r.mu.Unlock()
	if err != nil {
		r.line("✗ %s: %v", name, err)
		return fmt.Errorf("%s: %w", name, err)
	}
	r.line("✓ %s (%.1f s) %s", name, res.took.Seconds(), detail)
	return nil
}

func (r *report) figure(name, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.facts = append(r.facts, [2]string{name, fmt.Sprintf(format, args...)})
}

// table prints every step and every figure.
func (r *report) table() {
	r.mu.Lock()
	defer r.mu.Unlock()
	width := 0
	for _, s := range r.steps {
		width = max(width, len([]rune(s.name)))
	}
	for _, f := range r.facts {
		width = max(width, len([]rune(f[0])))
	}
	rule := strings.Repeat("─", width+60)
	fmt.Fprintf(r.out, "\n%s\n%-*s  %8s  %s\n%s\n", rule, width, "step", "seconds", "result", rule)
	for _, s := range r.steps {
		result := "ok"
		if s.detail != "" {
			result += ", " + s.detail
		}
		if s.err != nil {
			result = "FAILED: " + s.err.Error()
		}
		fmt.Fprintf(r.out, "%s%s  %8.1f  %s\n", s.name, strings.Repeat(" ", width-len([]rune(s.name))), s.took.Seconds(), result)
	}
	fmt.Fprintln(r.out, rule)
	for _, f := range r.facts {
		fmt.Fprintf(r.out, "%s%s  %8s  %s\n", f[0], strings.Repeat(" ", width-len([]rune(f[0]))), "", f[1])
	}
	fmt.Fprintln(r.out, rule)
}
