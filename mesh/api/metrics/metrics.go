package metrics

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/VictoriaMetrics/metrics"
)

// Handler answers GET with what write writes, and what the process says of itself: text version 0.0.4.
func Handler(write func(io.Writer)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var b bytes.Buffer
		write(&b)
		metrics.WriteProcessMetrics(&b)
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(expose(b.Bytes())) // a broken connection is the asker's
	})
}

// expose puts lines of samples in order of their families and adds HELP and TYPE. VictoriaMetrics/metrics can write these by itself, by
// a switch for the whole process and without a text. What it counts under a name that ends with _count is left out: by that name
// Prometheus knows a part of a histogram.
func expose(samples []byte) []byte {
	var lines []string
	types := map[string]string{}
	for line := range strings.Lines(string(samples)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		lines = append(lines, line)
		name := line[:strings.IndexAny(line+" ", "{ ")]
		switch base, bucket := strings.CutSuffix(name, "_bucket"); {
		case bucket && strings.Contains(line, `le="`):
			types[base] = "histogram"
		case strings.Contains(line, `quantile="`):
			types[name] = "summary"
		case types[name] == "" && strings.HasSuffix(name, "_total"):
			types[name] = "counter"
		case types[name] == "":
			types[name] = "gauge"
		}
	}
	families := map[string][]string{}
	for _, line := range lines {
		name := line[:strings.IndexAny(line+" ", "{ ")]
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, part); ok && (types[base] == "histogram" || types[base] == "summary") {
				name = base
			}
		}
		if !strings.HasSuffix(name, "_count") {
			families[name] = append(families[name], line)
		}
	}
	var b bytes.Buffer
	help := Help()
	for _, name := range slices.Sorted(maps.Keys(families)) {
		text := help[name]
		if text == "" {
			text = "what the Go runtime and the operating system say of this process"
		}
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, text, name, types[name])
		for _, l := range families[name] {
			b.WriteString(l + "\n")
		}
	}
	return b.Bytes()
}
