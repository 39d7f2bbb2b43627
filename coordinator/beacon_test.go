package coordinator

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator/beacon"
	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/pki/document"
)

// A coordinator gives a beacon with the heads that it stands at; one that is held, because it may be an older copy, gives none.
func TestBeacon(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	head := s.sync("lon1")
	g := s.giver()
	nonce := strings.Repeat("a", 32)
	wire, err := g.Give(t.Context(), "lon1", "a1", nonce)
	if err != nil {
		t.Fatal(err)
	}
	env, err := document.Decode(wire)
	if err != nil {
		t.Fatal(err)
	}
	b, err := document.OpenBeacon(env, s.trust.Body().Writers, "lon1/a1", nonce)
	if err != nil || b.Intent != head || b.Trust != s.trust.Head() || time.Since(b.Time) > time.Minute {
		t.Errorf("%+v, %v", b, err)
	}
	for _, body := range []string{"", "{}", `{"nonce":"short"}`, `{"nonce":"` + nonce + `","x":1}`, strings.Repeat("x", 5000)} {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/u/1/beacon", strings.NewReader(body)))
		if w.Code < 400 {
			t.Errorf("%.40q: %d", body, w.Code)
		}
	}
	if _, err := s.store.Commit(t.Context(), store.Commit{Put: map[string][]byte{publish.HeldKey("lon1"): []byte(`{"why":"a copy"}`)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Give(t.Context(), "lon1", "a1", nonce); err == nil {
		t.Error("a held site gets a beacon")
	}
}

func (s *scene) giver() *beacon.Giver {
	return &beacon.Giver{ID: s.id, Pub: s.agents.pub, Trust: s.trust.Head, Revocation: s.revoker.stream.Head, Held: s.recovery.Text, Now: time.Now}
}
