package api

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
)

// TestRequestLine: each request has an id, in the answer and in one line of the log, which names no object and no secret.
func TestRequestLine(t *testing.T) {
	s := newScene(t)
	var out bytes.Buffer
	s.api.log = slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	seen := map[string]bool{}
	f := func(who, method, path, body string, want map[string]any) {
		t.Helper()
		out.Reset()
		w := s.ask(who, method, path, body)
		var got map[string]any
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%s %s: not one line: %q", method, path, out.String())
		}
		id := w.Header().Get(RequestHeader)
		if len(id) != 16 || seen[id] || got["request"] != id {
			t.Errorf("%s %s: header %q, line %v", method, path, id, got["request"])
		}
		seen[id] = true
		if ms, ok := got["ms"].(float64); !ok || ms < 0 {
			t.Errorf("%s %s: ms is %v", method, path, got["ms"])
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s %s: %s is %v, want %v", method, path, k, got[k], v)
			}
		}
		if text := out.String(); strings.Contains(text, "secretive") || strings.Contains(text, "sku1") {
			t.Errorf("%s %s: the line says too much: %s", method, path, text)
		}
	}
	f("auditor", "GET", "/v1/sites/secretive", "", map[string]any{"level": "DEBUG", "method": "GET", "status": 404.0, "user": "auditor", "route": "GET /v1/sites/{name}"})
	f("", "GET", "/v1/sites", "", map[string]any{"level": "DEBUG", "status": 401.0, "user": ""})
	f("auditor", "POST", "/v1/apply", "{", map[string]any{"level": "INFO", "method": "POST", "user": "auditor", "route": "POST /v1/apply"})
	f("auditor", "PUT", "/v1/assets/secretive/content", "x", map[string]any{"level": "INFO", "status": 403.0, "user": "auditor"})
	f("", "GET", "/secretive", "", map[string]any{"status": 404.0, "route": ""})
	if w := s.ask("", http.MethodGet, "/v1/info", "", RequestHeader, "mine"); w.Header().Get(RequestHeader) == "mine" {
		t.Error("a client chose the request's id")
	}
}
