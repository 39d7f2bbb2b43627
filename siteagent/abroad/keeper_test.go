package abroad

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
)

var asset = intent.DigestOf([]byte("an image"))

// world is what a keeper asks, in a bubble: the answer of each agent of another site, and how long it takes.
type world struct {
	mu    sync.Mutex // guards what follows
	asked []string
	say   map[transport.Peer]string // absent: nothing is heard
	after map[string]time.Duration  // by site
}

type line struct {
	w *world
	p transport.Peer
}

func (l line) RoundTrip(r *http.Request) (*http.Response, error) {
	l.w.mu.Lock()
	l.w.asked = append(l.w.asked, l.p.String())
	answer, ok := l.w.say[l.p]
	after := l.w.after[l.p.Site]
	l.w.mu.Unlock()
	if !ok {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	time.Sleep(after)
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Body: io.NopCloser(strings.NewReader(answer))}, nil
}

func (w *world) keeper(sites map[string][]string) *Keeper {
	return New(Config{
		Sites: func() map[string][]string { return sites }, To: func(p transport.Peer) http.RoundTripper { return line{w, p} },
		Log: slog.New(slog.DiscardHandler),
	})
}

func names(k *Keeper) (out []string, asking bool) {
	sources, asking := k.Sources(asset)
	for _, s := range sources {
		out = append(out, s.Name)
	}
	return out, asking
}

// TestSources: the agents that have it, of the nearest site first; a site whose first agent is silent answers by its second; who was never
// named, or is no agent of that site, is no source; until all have answered the coordinator waits, but no longer than 2 s.
func TestSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{say: map[transport.Peer]string{
			{Site: "far", ID: "a1"}: `{"agents":["a1","a2","stranger"]}`, {Site: "near", ID: "b1"}: `{"agents":["b2"]}`,
			{Site: "half", ID: "c2"}: `{"agents":["c2"]}`, {Site: "liar", ID: "d1"}: `{"agents":["/etc"]}`,
		}, after: map[string]time.Duration{"far": 200 * time.Millisecond, "near": 20 * time.Millisecond}}
		k := w.keeper(map[string][]string{"far": {"a1", "a2"}, "near": {"b1", "b2"}, "half": {"c1", "c2"}, "liar": {"d1"}})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = k.Run(ctx) }()
		if got, asking := names(k); got != nil || !asking {
			t.Errorf("at first: %v, asking %v", got, asking)
		}
		time.Sleep(time.Second)
		if got, asking := names(k); fmt.Sprint(got) != "[near/b2 far/a1 far/a2]" || !asking {
			t.Errorf("after a second: %v, asking %v", got, asking)
		}
		time.Sleep(2 * time.Second)
		if _, asking := names(k); asking {
			t.Error("the coordinator waits longer than 2 s")
		}
		time.Sleep(10 * time.Second)
		if got, asking := names(k); fmt.Sprint(got) != "[half/c2 near/b2 far/a1 far/a2]" && fmt.Sprint(got) != "[near/b2 far/a1 far/a2 half/c2]" || asking {
			t.Errorf("after all answered: %v, asking %v", got, asking)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		slices.Sort(w.asked)
		if got := strings.Join(w.asked, " "); got != "far/a1 half/c1 half/c2 liar/d1 near/b1" {
			t.Errorf("asked %s", got)
		}
	})
}

// TestAskedAgain: an answer counts 30 s; what nobody wants any more is not asked for.
func TestAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{say: map[transport.Peer]string{{Site: "near", ID: "b1"}: `{"agents":["b1"]}`}}
		k := w.keeper(map[string][]string{"near": {"b1"}})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = k.Run(ctx) }()
		for range 100 {
			k.Sources(asset)
			time.Sleep(time.Second)
		}
		w.mu.Lock()
		during := len(w.asked)
		w.mu.Unlock()
		time.Sleep(time.Hour)
		w.mu.Lock()
		defer w.mu.Unlock()
		if during < 3 || during > 4 || len(w.asked) > during+1 {
			t.Errorf("asked %d times in 100 s, %d in the hour after", during, len(w.asked)-during)
		}
	})
}

// TestServes: another site learns who has an asset and gets manifests and chunks, slowly where there is a rate, and of nine at once one is
// told to come again. Nothing else is there.
func TestServes(t *testing.T) {
	hold := make(chan struct{})
	inside := make(chan struct{}, maxServed)
	k := New(Config{
		Holders: func(d intent.Digest) []string { return []string{"a1", "a3"} },
		Assets: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("hold") {
				inside <- struct{}{}
				<-hold
			}
			_, _ = w.Write([]byte("0123456789"))
		}),
		Out: func(_ context.Context, n int) (int, error) { return min(n, 4), nil },
		Log: slog.New(slog.DiscardHandler),
	})
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		k.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w
	}
	at := "/m/1/assets/" + asset.Hex()
	f := func(path string, code int, body string) {
		t.Helper()
		if w := get(path); w.Code != code || strings.TrimSpace(w.Body.String()) != body {
			t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
		}
	}
	f(at+"/who", 200, `{"agents":["a1","a3"]}`)
	f(at+"/chunks?first=0&n=1", 200, "0123456789")
	f(at+"/manifest", 200, "0123456789")
	f(at+"/content", 404, "404 page not found")
	f(at+"/have", 404, "404 page not found")
	f("/m/1/assets/held", 404, "404 page not found")
	if w := get("/m/1/assets/x/who"); w.Code != http.StatusBadRequest {
		t.Errorf("a digest that is none: %d", w.Code)
	}
	var wg sync.WaitGroup
	for range maxServed {
		wg.Go(func() { get(at + "/chunks?hold=1") })
		<-inside
	}
	f(at+"/chunks", 503, "busy with other sites")
	f(at+"/who", 200, `{"agents":["a1","a3"]}`)
	close(hold)
	wg.Wait()
	f(at+"/chunks", 200, "0123456789")
}

func FuzzParseHolders(f *testing.F) {
	f.Add([]byte(`{"agents":["a1","a2"]}`))
	f.Add([]byte(`{"agents":[""]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHolders(b)
		if err == nil && (len(h) > maxHolders || slices.ContainsFunc(h, func(a string) bool { return !intent.IsLabel(a) })) {
			t.Fatalf("%q", h)
		}
	})
}
