package api

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Who may write the object settles a site's change of it; who may read it sees both values; nobody else learns that there is one.
func TestSettleIsTheWriters(t *testing.T) {
	s := newScene(t)
	obj := func(doc string) *intent.Object {
		t.Helper()
		o, err := intent.DecodeObject([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	s.m.proposals = []Proposal{{ID: "lon1-1", Site: "lon1", There: obj(docInfra)}, {ID: "lon1-2", Site: "lon1", There: obj(docOther)}}
	f := func(who, id string, status int, listed string) {
		t.Helper()
		s.m.calls = nil
		w := s.ask(who, http.MethodPost, "/v1/sites/lon1/proposals/"+id, `{"decision":"discard","reason":"seen"}`)
		if w.Code != status || (status < 300) != slices.Equal(s.m.calls, []string{"settle lon1/" + id + " discard by " + who}) {
			t.Errorf("%s settles %s: %d, %v", who, id, w.Code, s.m.calls)
		}
		s.want(s.ask(who, http.MethodGet, "/v1/sites/lon1/proposals", ""), http.StatusOK, listed)
	}
	f("member", "lon1-1", http.StatusNoContent, `"id":"lon1-1"`)
	f("owner", "lon1-1", http.StatusNoContent, `"id":"lon1-1"`)
	f("reader", "lon1-1", http.StatusForbidden, `"id":"lon1-1"`)
	f("auditor", "lon1-1", http.StatusForbidden, `"id":"lon1-2"`)
	f("member", "lon1-2", http.StatusNotFound, `"id":"lon1-1"`) // another project's
	f("member", "lon1-9", http.StatusNotFound, `"id":"lon1-1"`)
	if w := s.ask("member", http.MethodGet, "/v1/sites/lon1/proposals", ""); strings.Contains(w.Body.String(), "lair") {
		t.Error("a member sees another project's proposal")
	}
	s.want(s.ask("member", http.MethodPost, "/v1/sites/lon1/proposals/lon1-1", `{"decision":"burn","reason":"x"}`), http.StatusUnprocessableEntity, "decision")
}
