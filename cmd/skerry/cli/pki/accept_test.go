package pki

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
)

var errPartial = errors.New("partial")

// contexts is a shell with servers by name.
type contexts struct {
	account.Shell
	servers map[string]string
	out     lines
}

func (c *contexts) ClientOf(name string) (*client.Client, error) {
	if c.servers[name] == "" {
		return nil, errors.New("cannot find context")
	}
	return client.New(c.servers[name], "t", http.DefaultTransport), nil
}

func (c *contexts) Args(names ...string) cobra.PositionalArgs { return cobra.ExactArgs(len(names)) }
func (c *contexts) Explain(err error) error                   { return err }
func (c *contexts) Partial() error                            { return errPartial }

func (c *contexts) Print(_ any, fill func(account.Table)) error {
	fill(&c.out)
	return nil
}

// Each server is asked for itself, with the site that it says it is of; who was not reached and who refused are told, and the rest goes on.
func TestAccept(t *testing.T) {
	digest := intent.DigestOf([]byte("x"))
	serve := func(info api.Info, refuse bool) string {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /v1/info", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(info) })
		mux.HandleFunc("POST /v1/trust/acceptance", func(w http.ResponseWriter, r *http.Request) {
			var q api.AcceptRequest
			if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Site != info.Site || q.Digest != digest.Hex() {
				t.Errorf("asked %+v, %v", q, err)
			}
			if refuse {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusConflict)
				_ = json.NewEncoder(w).Encode(client.Problem{Status: http.StatusConflict, Detail: "no such document is offered here"})
				return
			}
			_ = json.NewEncoder(w).Encode(api.AcceptResult{Who: info.Site + "/" + info.ID, Head: intent.Head{Seq: 8, Hash: digest}, Changes: []string{"roots"}, DryRun: q.DryRun})
		})
		s := httptest.NewServer(mux)
		t.Cleanup(s.Close)
		return s.URL
	}
	c := &contexts{servers: map[string]string{
		"": serve(api.Info{ID: "a0", Site: "lon1"}, false), "a1": serve(api.Info{ID: "a1", Site: "lon1"}, false), "a2": serve(api.Info{ID: "a2", Site: "lon1"}, true), "a4": serve(api.Info{ID: "a4", Site: "par1"}, false),
	}}
	f := func(want string, fails bool, args ...string) {
		t.Helper()
		c.out = nil
		cmd := AcceptCmd(c)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(append([]string{digest.Hex()}, args...))
		err := cmd.ExecuteContext(t.Context())
		if (err != nil) != fails || !strings.Contains(strings.Join(c.out, "\n"), want) {
			t.Errorf("%v: %v\n%s\nwant %s", args, err, strings.Join(c.out, "\n"), want)
		}
	}
	f("lon1/a0 | accepted | trust 8 ("+digest.Hex()+")\nlon1/a0 | change | roots", false)
	f("lon1/a0 | would accept |", false, "--dry-run")
	f("", true, "--at", "a2")
	f("a2 | NOT ACCEPTED | no such document is offered here\na3 | NOT ACCEPTED | cannot find context\npar1/a4 | accepted", true, "--at", "a1,a2,a3,a4")
}
