package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// asked is a server that writes down what it is asked and gives one answer.
func asked(t *testing.T, status int, contentType, answer string) (*Client, *[]string) {
	t.Helper()
	var log []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		log = append(log, fmt.Sprintf("%s %s %s %s", r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), body))
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		io.WriteString(w, answer)
	}))
	t.Cleanup(srv.Close)
	return New(srv.URL+"/", "TOKEN", http.DefaultTransport), &log
}

// Every method asks the path that the API serves.
func TestRequests(t *testing.T) {
	c, log := asked(t, 200, "application/json", `{}`)
	ctx := t.Context()
	machines, _ := intent.KindMachine.Info()
	sites, _ := intent.KindSite.Info()
	keys, _ := intent.KindSSHKey.Info()
	ok := func(err error) {
		t.Helper()
		// An object without a kind is refused by the reader: what matters here is what was asked.
		if err != nil && !strings.Contains(err.Error(), "apiVersion") {
			t.Error(err)
		}
	}
	_, err := c.Info(ctx)
	ok(err)
	_, err = c.Whoami(ctx)
	ok(err)
	_, err = c.List(ctx, machines, "lon1", "acme")
	ok(err)
	_, err = c.Get(ctx, machines, "lon1", "m 1")
	ok(err)
	_, err = c.Get(ctx, sites, "", "lon1")
	ok(err)
	_, err = c.Apply(ctx, []json.RawMessage{json.RawMessage(`{"a":1}`)}, true, "why not")
	ok(err)
	_, err = c.Delete(ctx, keys, "acme", "ana", false, "")
	ok(err)
	_, err = c.SiteStatus(ctx, "lon1")
	ok(err)
	_, err = c.Explain(ctx, "lon1", "m1")
	ok(err)
	_, err = c.Power(ctx, "lon1", "m1", "off")
	ok(err)
	ok(c.Release(ctx, "lon1", "m1"))
	_, err = c.JoinToken(ctx, "lon1", api.JoinTokenRequest{Agent: "a1"})
	ok(err)
	_, err = c.UserToken(ctx, "ana", api.UserTokenRequest{TTL: "1h"})
	ok(err)
	_, err = c.Upload(ctx, "tiny", "boot", strings.NewReader("bytes"), 5)
	ok(err)
	_, err = c.BeginUpload(ctx, assets.UploadRequest{Name: "tiny", Class: "boot", Size: 5})
	ok(err)
	_, err = c.AppendUpload(ctx, "u1", 3, strings.NewReader("bytes"), 5)
	ok(err)
	_, err = c.PublishUpload(ctx, "u1")
	ok(err)
	_, err = c.DropUpload(ctx, "u1")
	ok(err)
	_, err = c.UploadStatus(ctx, "u1")
	ok(err)
	_, err = c.CollectAssets(ctx, true)
	ok(err)
	_, err = c.Uploads(ctx)
	ok(err)
	ok(c.Events(ctx, api.EventQuery{Site: "lon1", Machine: "m1", Follow: true, Since: time.Unix(0, 0)}, func(intent.Event) error { return nil }))
	ok(c.Watch(ctx, intent.KindSite, func(api.Change) error { return nil }))
	want := []string{
		"GET /v1/info Bearer TOKEN ",
		"GET /v1/whoami Bearer TOKEN ",
		"GET /v1/machines?project=acme&site=lon1 Bearer TOKEN ",
		"GET /v1/sites/lon1/machines/m%201 Bearer TOKEN ",
		"GET /v1/sites/lon1 Bearer TOKEN ",
		`POST /v1/apply?dryRun=true&reason=why+not Bearer TOKEN {"objects":[{"a":1}]}`,
		"DELETE /v1/projects/acme/sshkeys/ana Bearer TOKEN ",
		"GET /v1/sites/lon1/status Bearer TOKEN ",
		"GET /v1/sites/lon1/machines/m1/explain Bearer TOKEN ",
		`POST /v1/sites/lon1/machines/m1/power Bearer TOKEN {"action":"off"}`,
		"POST /v1/sites/lon1/machines/m1/release Bearer TOKEN ",
		`POST /v1/sites/lon1/jointokens Bearer TOKEN {"agent":"a1"}`,
		`POST /v1/users/ana/tokens Bearer TOKEN {"ttl":"1h"}`,
		"PUT /v1/assets/tiny/content?class=boot Bearer TOKEN bytes",
		`POST /v1/uploads Bearer TOKEN {"name":"tiny","class":"boot","size":5}`,
		"PATCH /v1/uploads/u1 Bearer TOKEN bytes",
		"POST /v1/uploads/u1/publish Bearer TOKEN ",
		"DELETE /v1/uploads/u1 Bearer TOKEN ",
		"GET /v1/uploads/u1 Bearer TOKEN ",
		"POST /v1/assets/collect?dryRun=true Bearer TOKEN ",
		"GET /v1/uploads Bearer TOKEN ",
		"GET /v1/sites/lon1/events?follow=true&machine=m1&since=1970-01-01T00%3A00%3A00Z Bearer TOKEN ",
		"GET /v1/watch?kind=Site Bearer TOKEN ",
	}
	if d := cmp.Diff(want, *log); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestProblems(t *testing.T) {
	f := func(status int, answer, want string) {
		t.Helper()
		c, _ := asked(t, status, "application/problem+json", answer)
		for _, err := range []error{
			func() error { _, err := c.Info(t.Context()); return err }(),
			func() error { _, err := c.Upload(t.Context(), "a", "boot", strings.NewReader(""), 0); return err }(),
		} {
			p, ok := errors.AsType[*Problem](err)
			if !ok || p.Status != status || !Is(err, status) || Is(err, 1) {
				t.Errorf("%d gives %#v", status, err)
				continue
			}
			if !strings.HasSuffix(p.Error(), want) {
				t.Errorf("%d says %q, want %q", status, p, want)
			}
		}
	}
	f(404, `{"status":404,"detail":"there is no such object"}`, "there is no such object")
	f(422, `{"status":422,"detail":"no","errors":[{"message":"is bad; mend it","location":"spec.x","value":{"kind":"Site","name":"lon1"}},{"message":"bare"}]}`,
		"no\n  Site lon1: spec.x: is bad; mend it\n  bare")
	f(422, `{"status":422,"detail":"validation failed","errors":[{"message":"expected length <= 63","location":"body.name","value":"long"},{"message":"expected integer","location":"body.size","value":1.5}]}`,
		"validation failed\n  body.name: expected length <= 63\n  body.size: expected integer")
	f(502, `<html>gateway</html>`, "answered 502 Bad Gateway")
	f(500, ``, "answered 500 Internal Server Error")
	f(500, `{}`, "answered 500 Internal Server Error")
}

func TestStreams(t *testing.T) {
	stop := errors.New("enough")
	c, _ := asked(t, 200, "application/x-ndjson", `{"type":"a"}`+"\n"+`{"type":"b"}`+"\n"+`{"type":`)
	var got []string
	err := c.Events(t.Context(), api.EventQuery{Site: "lon1"}, func(e intent.Event) error {
		got = append(got, e.Type)
		return nil
	})
	if len(got) != 2 || err == nil || !strings.Contains(err.Error(), "cannot read stream") {
		t.Errorf("a torn stream gives %v, %v", got, err)
	}
	if err := c.Events(t.Context(), api.EventQuery{}, func(intent.Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("fn's error becomes %v", err)
	}
	c, _ = asked(t, 200, "application/x-ndjson", strings.Repeat("x", 3<<20))
	if err := c.Watch(t.Context(), "", func(api.Change) error { return nil }); err == nil {
		t.Error("a line of 3 MiB is read")
	}
}

func TestUnreachable(t *testing.T) {
	c := New("http://127.0.0.1:1", "", http.DefaultTransport)
	_, err := c.Info(t.Context())
	if err == nil || !strings.Contains(err.Error(), "cannot ask http://127.0.0.1:1") || Is(err, 0) {
		t.Errorf("nobody there gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Whoami(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call gives %v", err)
	}
}
