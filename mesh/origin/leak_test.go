package origin

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestRedirectIsNotTold(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "https://bucket.example/x?X-Amz-Signature=SECRETSIG%zz\x7f&a=%")
		w.WriteHeader(302)
	}))
	defer s.Close()
	p := Policy{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	_, err := Part{URL: s.URL + "/a", Size: 100, Off: 0, N: 10}.Open(t.Context(), p.Client(Limits{Dial: time.Second, Conns: 1}), time.Second*3)
	t.Log(err)
	if err != nil && strings.Contains(err.Error(), "SECRETSIG") {
		t.Error("leaks the redirect's query")
	}
}
