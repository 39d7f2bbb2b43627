package api

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/mesh/api/assets"
)

func TestUploads(t *testing.T) {
	s := newScene(t)
	f := func(role, method, path, body string, status int, text, call string, header ...string) {
		t.Helper()
		s.m.calls = nil
		s.want(s.ask(role, method, path, body, header...), status, text)
		if got := strings.Join(s.m.calls, "; "); got != call {
			t.Errorf("%s %s by %s called %q, want %q", method, path, role, got, call)
		}
	}
	const digest = `"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"`
	f("operator", "POST", "/v1/uploads", `{"name":"tiny","class":"image","size":5,"digest":`+digest+`}`, 200, `"state":"open"`, "begin tiny by operator")
	f("operator", "POST", "/v1/uploads", `{"name":"tiny","class":"image","url":"https://mirror.example/tiny"}`, 200, `"id":"u1"`, "begin tiny by operator")
	f("operator", "POST", "/v1/uploads", `{"name":"tiny","class":"image","colour":"red"}`, 422, "colour", "")
	f("operator", "POST", "/v1/uploads", `{"name":"tiny","class":"image","digest":"md5:00"}`, 422, "digest", "")
	f("operator", "POST", "/v1/uploads", `{"name":"tiny","class":"image","url":"`+strings.Repeat("x", 2049)+`"}`, 422, "url", "")
	f("auditor", "POST", "/v1/uploads", `{"name":"tiny","class":"image"}`, 403, "", "")
	f("auditor", "GET", "/v1/uploads", "", 200, `"items":[]`, "uploads")
	f("auditor", "GET", "/v1/uploads/u1", "", 200, `"id":"u1"`, "upload u1")
	f("operator", "PATCH", "/v1/uploads/u1", "abc", 200, `"offset":10`, "append u1 7 abc", assets.OffsetHeader, "7")
	f("operator", "PATCH", "/v1/uploads/u1", "abc", 409, "elsewhere", "", assets.OffsetHeader, "6")
	for _, at := range []string{"", "-1", "x", "9223372036854775808"} {
		f("operator", "PATCH", "/v1/uploads/u1", "abc", 422, "at which octet", "", assets.OffsetHeader, at)
	}
	w := s.ask("operator", "PATCH", "/v1/uploads/u1", "abc", assets.OffsetHeader, "6")
	if got := w.Header().Get(assets.OffsetHeader); got != "7" {
		t.Errorf("who is wrong about the offset is told %q", got)
	}
	f("operator", "POST", "/v1/uploads/u1/publish", "", 200, `"kind":"Asset"`, "publish u1 by operator")
	f("operator", "DELETE", "/v1/uploads/u1", "", 200, `"id":"u1"`, "drop u1 by operator")
	f("auditor", "DELETE", "/v1/uploads/u1", "", 403, "", "")
	f("operator", "POST", "/v1/assets/collect?dryRun=true", "", 200, `"dryRun":true`, "collect true")
	f("operator", "POST", "/v1/assets/collect", "", 200, `"items"`, "collect false")
	f("auditor", "POST", "/v1/assets/collect?dryRun=true", "", 403, "", "")
	f("member", "GET", "/v1/uploads", "", 404, "", "")

	s.api = New(struct{ Backend }{s.m}, slog.New(slog.DiscardHandler)) // an agent takes none
	for _, r := range [][2]string{{http.MethodPost, "/v1/uploads"}, {http.MethodGet, "/v1/uploads"}, {http.MethodPatch, "/v1/uploads/u1"}, {http.MethodDelete, "/v1/uploads/u1"}} {
		body := map[string]string{http.MethodPost: `{"name":"tiny","class":"image"}`, http.MethodPatch: "abc"}[r[0]]
		s.want(s.ask("operator", r[0], r[1], body, assets.OffsetHeader, "7"), http.StatusConflict, "--context")
	}
}
