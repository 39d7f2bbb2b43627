package install

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/boot/inventory"
)

// hall takes strangers and answers with one standing after the other.
type hall struct {
	mu      sync.Mutex // guards what follows
	answers []Standing
	heard   []string
	err     error
}

// Guest lets those of one network in.
func (h *hall) Guest(a netip.Addr) bool { return !a.Is4() || a.As4()[0] != 198 }

func (h *hall) Discover(_ context.Context, from netip.Addr, d Discovery) (Discovered, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = append(h.heard, from.String()+" "+d.MAC+" "+d.Report.Serial)
	if h.err != nil || len(h.answers) == 0 {
		return Discovered{}, errors.Join(h.err, ErrBadRequest)
	}
	at := h.answers[0]
	h.answers = h.answers[1:]
	return Discovered{Standing: at}, nil
}

// TestStrangerTells: the ramdisk tells what the machine is, over TLS to a pinned agent and without a session, and leaves the machine to its
// own disk when it is not wanted.
func TestStrangerTells(t *testing.T) {
	at := &hall{answers: []Standing{StandingIgnored}}
	h := NewHandler(&fakeSite{})
	h.Welcome(at)
	addr, pin, _ := agent(t, h)
	s := &Stranger{Client: newClient(t, pin, addr), MAC: "52:54:00:88:00:99", Log: quiet(), Collect: func(context.Context) (*inventory.Report, error) {
		return &inventory.Report{Serial: "SN-9"}, nil
	}}
	if kind, err := s.Run(deadline(t)); kind != WorkReboot || err != nil {
		t.Errorf("%q, %v", kind, err)
	}
	if d := cmp.Diff([]string{"127.0.0.1 52:54:00:88:00:99 SN-9"}, at.heard); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// TestDiscoveryRefused: what is no discovery reaches nobody.
func TestDiscoveryRefused(t *testing.T) {
	at := &hall{answers: []Standing{StandingDiscovered, StandingDiscovered}}
	h := NewHandler(&fakeSite{})
	h.Welcome(at)
	f := func(want int, body string) {
		t.Helper()
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/install/v1/discovery", strings.NewReader(body))
		if want == 503 {
			r.RemoteAddr = "198.51.100.1:99"
		}
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%.40q = %d %s, want %d", body, w.Code, w.Body, want)
		}
	}
	f(503, `{"mac":"x","version":"1","report":{}}`) // of somebody without a lease
	f(400, `{"mac":"`+strings.Repeat("x", discoveryLimit)+`"}`)
	f(400, `[`)
	if len(at.heard) != 0 {
		t.Errorf("heard %v", at.heard)
	}
	f(200, `{"mac":"x","version":"1","report":{}}`)
	f(200, `{"mac":"x","extra":1}`) // of a newer ramdisk
}

// TestDiscoveriesAtOnce: nobody has two bodies read at once; beyond a few others are told to ask elsewhere; one that sends slowly ends.
func TestDiscoveriesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHandler(&fakeSite{})
		h.Welcome(&hall{answers: []Standing{StandingDiscovered, StandingDiscovered}})
		slow := make(chan struct{})
		var wg sync.WaitGroup
		post := func(i int) (code int) {
			w, r := httptest.NewRecorder(), httptest.NewRequest("POST", "/install/v1/discovery", stuck(slow))
			r.RemoteAddr = fmt.Sprintf("10.0.0.%d:99", i)
			h.ServeHTTP(w, r)
			return w.Code
		}
		for i := range discoveriesAtOnce - 1 {
			wg.Go(func() { post(i) })
		}
		synctest.Wait()
		if code := post(0); code != 503 {
			t.Errorf("a second one of the same: %d", code)
		}
		wg.Go(func() { post(9) })
		synctest.Wait()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/install/v1/discovery", strings.NewReader(`{"mac":"x"}`)))
		if w.Code != 503 {
			t.Errorf("one more: %d", w.Code)
		}
		close(slow)
		wg.Wait()
		w = httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/install/v1/discovery", strings.NewReader(`{"mac":"x"}`)))
		if w.Code != 200 {
			t.Errorf("after them: %d", w.Code)
		}
	})
}

// stuck is a body that does not come until it is closed.
type stuck chan struct{}

func (s stuck) Read([]byte) (int, error) {
	select {
	case <-s:
	case <-time.After(time.Hour):
	}
	return 0, errors.New("gone")
}
