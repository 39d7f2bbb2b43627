package install

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSite is a Site of functions; a nil one answers with the zero value.
type fakeSite struct {
	mu         sync.Mutex // guards what follows
	calls      []string
	dones      []Done
	HelloFunc  func(Hello) (Session, error)
	WorkFunc   func() (Work, error)
	PermitFunc func(PermissionRequest) (PermissionEnvelope, error)
	ControlFn  func(Progress) (Control, error)

	ReceiptFunc func(erasure.Proof) (ReceiptPlace, error)
	proofs      []erasure.Proof
}

func (s *fakeSite) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, what)
}

func (s *fakeSite) Hello(_ context.Context, h Hello) (Session, error) {
	s.note("hello " + h.Token)
	if s.HelloFunc != nil {
		return s.HelloFunc(h)
	}
	return Session{ID: "s1", Machine: "m1"}, nil
}

func (s *fakeSite) Inventory(_ context.Context, id string, _ inventory.Report) error {
	s.note("inventory " + id)
	return nil
}

func (s *fakeSite) Work(context.Context, string, time.Duration) (Work, error) {
	s.note("work")
	return s.WorkFunc()
}

func (s *fakeSite) Permit(_ context.Context, _ string, r PermissionRequest) (PermissionEnvelope, error) {
	s.note("permission")
	return s.PermitFunc(r)
}

func (s *fakeSite) Progress(_ context.Context, _ string, p Progress) (Control, error) {
	if s.ControlFn != nil {
		return s.ControlFn(p)
	}
	return Control{}, nil
}

func (s *fakeSite) Log(context.Context, string, []LogLine) error { return nil }

func (s *fakeSite) Receipt(_ context.Context, _ string, p erasure.Proof) (ReceiptPlace, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, "receipt")
	s.proofs = append(s.proofs, p)
	if s.ReceiptFunc != nil {
		return s.ReceiptFunc(p)
	}
	return ReceiptPlace{Agent: "a1", Seq: 1}, nil
}

func (s *fakeSite) Done(_ context.Context, _ string, d Done) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, "done")
	s.dones = append(s.dones, d)
	return nil
}

var _ Site = (*fakeSite)(nil)

// agent serves h over TLS and returns its address, its pin and a function that kills it.
func agent(t *testing.T, h http.Handler) (addr, pin string, kill func()) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	var once sync.Once
	kill = func() { once.Do(func() { s.CloseClientConnections(); s.Close() }) }
	t.Cleanup(kill)
	return s.Listener.Addr().String(), Pin(cert), kill
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func newClient(t *testing.T, pins string, agents ...string) *Client {
	t.Helper()
	c, err := NewClient(ClientConfig{Agents: agents, Pins: strings.Fields(pins), Token: "tok", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestClientGoesOnAtTheNextAgent(t *testing.T) {
	s := &fakeSite{WorkFunc: func() (Work, error) { return Work{Kind: WorkReboot}, nil }}
	h := NewHandler(s)
	a1, p1, kill := agent(t, h)
	a2, p2, _ := agent(t, h)
	c := newClient(t, p1+" "+p2, a1, a2)
	ctx := deadline(t)
	if _, err := c.Hello(ctx, Hello{}); err != nil {
		t.Fatal(err)
	}
	kill()
	if w, err := c.Work(ctx); err != nil || w.Kind != WorkReboot {
		t.Fatalf("%+v, %v", w, err)
	}
	if err := c.Inventory(ctx, &inventory.Report{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hello(ctx, Hello{}); err == nil {
		t.Error("a second hello was sent")
	}
	if d := cmp.Diff([]string{"hello tok", "work", "inventory s1"}, s.calls); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// TestUnpinnedAgentIsNotTrusted: the hello must not reach a server with another key, for it carries the token.
func TestUnpinnedAgentIsNotTrusted(t *testing.T) {
	s := &fakeSite{}
	a, _, _ := agent(t, NewHandler(s))
	_, other, _ := agent(t, NewHandler(s))
	c := newClient(t, other, a)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.Hello(ctx, Hello{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hello: %v", err)
	}
	if len(s.calls) != 0 {
		t.Errorf("the site saw %v", s.calls)
	}
}

func TestErrorsKeepTheirNameOverTheWire(t *testing.T) {
	f := func(want error) {
		t.Helper()
		s := &fakeSite{HelloFunc: func(Hello) (Session, error) { return Session{}, fmt.Errorf("cannot x: %w", want) }}
		a, p, _ := agent(t, NewHandler(s))
		if _, err := newClient(t, p, a).Hello(deadline(t), Hello{}); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	f(ErrToken)
	f(ErrTokenReused)
	f(ErrStale)
	f(ErrSession)
	f(ErrBadRequest)
}

func TestHandlerRefuses(t *testing.T) {
	h := NewHandler(&fakeSite{WorkFunc: func() (Work, error) { return Work{}, errors.New("secret detail") }})
	f := func(want int, method, path, session, body string) {
		t.Helper()
		r := httptest.NewRequest(method, "/install/v1/"+path, strings.NewReader(body))
		if session != "" {
			r.Header.Set("Authorization", "Bearer "+session)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s %s %.40q = %d %s, want %d", method, path, body, w.Code, w.Body, want)
		}
	}
	f(200, "POST", "hello", "", `{"token":"t"}`)
	f(400, "POST", "hello", "", `{"token":"t","extra":1}`)
	f(400, "POST", "hello", "", `{"token":"t"} {}`)
	f(400, "POST", "hello", "", `{`)
	f(400, "POST", "hello", "", `{"token":"`+strings.Repeat("x", bodyLimit)+`"}`)
	f(401, "PUT", "inventory", "", `{}`)
	f(401, "PUT", "inventory", strings.Repeat("s", 513), `{}`)
	f(200, "PUT", "inventory", "s", `{}`)
	f(500, "GET", "work", "s", "")
	f(400, "GET", "work?wait=-1", "s", "")
	f(405, "GET", "hello", "", "")
	f(400, "POST", "log", "s", "["+strings.Repeat("{},", maxLogLines)+"{}]")
	if h.Rejected() != 6 {
		t.Errorf("rejected %d, want 6", h.Rejected())
	}
}

func FuzzHandler(f *testing.F) {
	f.Add("permission", []byte(`{"task":"t","disks":[{"name":"sda","sizeBytes":1}]}`))
	f.Add("done", []byte(`{"task":"t","ok":true}`))
	f.Add("hello", []byte(`{"macs":["x"]}`))
	f.Add("discovery", []byte(`{"mac":"x","report":{"disks":[{"name":"sda"}]}}`))
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		s := &fakeSite{PermitFunc: func(PermissionRequest) (PermissionEnvelope, error) { return PermissionEnvelope{}, nil }}
		h := NewHandler(s)
		h.Welcome(&hall{})
		r := &http.Request{RemoteAddr: "10.88.9.1:1", Method: "POST", Header: http.Header{"Authorization": {"Bearer s"}}, Body: io.NopCloser(bytes.NewReader(body)), Host: "h"}
		var err error
		if r.URL, err = r.URL.Parse("http://h/install/v1/x"); err != nil {
			t.Fatal(err)
		}
		r.URL.Path = "/install/v1/" + path
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code == 500 {
			t.Fatalf("%s %q: %s", path, body, w.Body)
		}
	})
}

func TestNewClientRefuses(t *testing.T) {
	f := func(cfg ClientConfig) {
		t.Helper()
		if _, err := NewClient(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
	f(ClientConfig{})
	f(ClientConfig{Agents: []string{"a:1"}, Pins: []string{"xyz"}})
	f(ClientConfig{Agents: []string{"a:1"}, Pins: []string{strings.Repeat("a", 63)}})
}
