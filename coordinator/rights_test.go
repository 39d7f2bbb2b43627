package coordinator

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator/founding"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// door serves the coordinator's API over its real endpoint.
func (s *scene) door() {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	srv := &http.Server{Handler: s.api}
	done := make(chan struct{}, 2)
	go func() { _ = s.end.Run(ctx); done <- struct{}{} }()
	go func() { _ = srv.Serve(s.end.HTTPListener()); done <- struct{}{} }()
	s.Cleanup(func() {
		cancel()
		_ = srv.Close()
		<-done
		<-done
	})
}

// selfSigned makes a key, and the text that goes on the User.
func selfSigned(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, priv)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: priv}, base64.StdEncoding.EncodeToString(spki)
}

func (s *scene) dial(token string, certs ...tls.Certificate) (*client.Client, *http.Transport) {
	s.Helper()
	pem, err := os.ReadFile(filepath.Join(s.data, "keys", founding.NameRoot+".crt"))
	if err != nil {
		s.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	rt := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certs, ServerName: "127.0.0.1"}, ForceAttemptHTTP2: true}
	s.Cleanup(rt.CloseIdleConnections)
	return client.New("https://"+s.end.Addr().String(), token, rt), rt
}

// A certificate that a user made opens the door as soon as its key stands on the User, with nothing issued; who has none, or another's,
// is refused at the handshake, which is in the audit chain; and a live session ends when its key is revoked or taken off the User.
func TestCertificateAtTheDoor(t *testing.T) {
	s := found1(t)
	s.door()
	cert, spki := selfSigned(t)
	other, otherKey := selfSigned(t)
	whoami := func(c *client.Client) (*api.Caller, error) { return c.Whoami(t.Context()) }
	ana, _ := s.dial("", cert)
	if _, err := whoami(ana); err == nil {
		t.Fatal("a key that is on no user opened the door")
	}
	got := s.audited("handshake")
	for end := time.Now().Add(10 * time.Second); len(got) == 0 && time.Now().Before(end); got = s.audited("handshake") {
		runtime.Gosched() // the client hears of it before the record is on disk
	}
	if len(got) == 0 || !strings.Contains(got[0], "is on no user") {
		t.Errorf("the audit chain says %q", got)
	}
	user := func(keys string) {
		s.apply(`{"kind":"User","metadata":{"name":"ana"},"spec":{"keys":[` + keys + `],"bindings":[{"role":"auditor"}]}}`)
	}
	user(`{"public":"` + spki + `"},{"public":"` + otherKey + `"}`)
	who, err := whoami(ana)
	if err != nil || who.User != "ana" || !strings.HasPrefix(who.Via, "key:") {
		t.Fatalf("whoami says %+v, %v", who, err)
	}
	both, _ := s.dial(s.token, cert)
	if _, err := whoami(both); !client.Is(err, http.StatusUnauthorized) {
		t.Errorf("the administrator's token with ana's certificate: %v", err)
	}
	plain, _ := s.dial(s.token)
	if who, err := whoami(plain); err != nil || who.User != "admin" {
		t.Errorf("without a certificate: %+v, %v", who, err)
	}

	// Two live sessions, each with a stream that has no end of its own.
	watch := func(c tls.Certificate) <-chan struct{} {
		t.Helper()
		_, rt := s.dial("", c)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.end.Addr().String()+"/v1/watch", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		sc := bufio.NewScanner(res.Body)
		for sc.Scan() && !strings.Contains(sc.Text(), "synced") {
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			defer res.Body.Close()
			for sc.Scan() {
			}
		}()
		return ended
	}
	ends := func(what string, ended <-chan struct{}) {
		t.Helper()
		select {
		case <-ended:
		case <-time.After(10 * time.Second): // promised is 1 s; a busy machine
			t.Errorf("%s: the session lives on", what)
		}
	}
	one, two := watch(cert), watch(other)
	d, err := (intent.UserKey{Public: spki}).SPKI()
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.revoke(intent.RevokeSPKI, d.Hex(), false)
	if err != nil || res.Closed == 0 {
		t.Errorf("revoke closed %+v, %v", res, err)
	}
	ends("revoked", one)
	again, _ := s.dial("", cert)
	if _, err := whoami(again); err == nil {
		t.Error("a revoked key opened the door")
	}
	select {
	case <-two:
		t.Error("another key's session ended")
	default:
	}
	user(`{"public":"` + spki + `"}`)
	ends("taken off the user", two)
}

// The coordinator's own rows of F20: users, tokens, revocations, join tokens and the audit are no other role's, no other site's and no
// project's.
func TestCoordinatorRights(t *testing.T) {
	s := found1(t)
	s.apply(firstSite + "\n" + `{"kind":"Site","metadata":{"name":"par1"},"spec":{"region":"eu","zone":"z"}}
{"kind":"User","metadata":{"name":"oper"},"spec":{"bindings":[{"role":"operator"}]}}
{"kind":"User","metadata":{"name":"paroper"},"spec":{"bindings":[{"role":"operator","site":"par1"}]}}
{"kind":"User","metadata":{"name":"parsec"},"spec":{"bindings":[{"role":"security","site":"par1"}]}}
{"kind":"User","metadata":{"name":"member"},"spec":{"bindings":[{"role":"member","project":"acme"}]}}
{"kind":"User","metadata":{"name":"late"},"spec":{"bindings":[{"role":"operator"},{"role":"security"}]}}`)
	tokens := map[string]string{"admin": s.token}
	for _, u := range []string{"oper", "paroper", "parsec", "member", "late"} {
		ttl := map[bool]string{true: "1ns"}[u == "late"]
		r, err := s.backend.UserToken(t.Context(), s.admin, u, api.UserTokenRequest{TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		tokens[u] = r.Token
	}
	acts := map[string]func(c *client.Client) error{
		"join token": func(c *client.Client) error {
			_, err := c.JoinToken(t.Context(), "lon1", api.JoinTokenRequest{Agent: "a1"})
			return err
		},
		"user token": func(c *client.Client) error {
			_, err := c.UserToken(t.Context(), "admin", api.UserTokenRequest{})
			return err
		},
		"revoke": func(c *client.Client) error {
			_, err := c.Revoke(t.Context(), api.RevokeRequest{Kind: "user", ID: "member", Reason: "x", DryRun: true})
			return err
		},
		"own rights": func(c *client.Client) error {
			_, err := c.Apply(t.Context(), []json.RawMessage{[]byte(`{"apiVersion":"skerry/v1","kind":"User","metadata":{"name":"member"},"spec":{"bindings":[{"role":"security"}]}}`)}, true, "")
			return err
		},
		"a group": func(c *client.Client) error {
			_, err := c.Apply(t.Context(), []json.RawMessage{[]byte(`{"apiVersion":"skerry/v1","kind":"Group","metadata":{"name":"g"},"spec":{"members":["member"],"bindings":[{"role":"security"}]}}`)}, true, "")
			return err
		},
		"audit":         func(c *client.Client) error { return c.Audit(t.Context(), api.AuditQuery{}, nothing) },
		"audit of lon1": func(c *client.Client) error { return c.Audit(t.Context(), api.AuditQuery{Site: "lon1"}, nothing) },
	}
	may := map[string]string{"join token": "admin oper", "user token": "admin", "revoke": "admin", "own rights": "admin", "a group": "admin", "audit": "admin", "audit of lon1": "admin"}
	refusals := 0
	for act, do := range acts {
		for who, token := range tokens {
			err := do(s.serverFor(token))
			want := fmt.Sprintf(" %s ", may[act])
			if ok := strings.Contains(want, " "+who+" "); ok != (err == nil) {
				t.Errorf("%s as %s: %v", act, who, err)
			} else if !ok {
				refusals++
			}
		}
		if err := do(s.serverFor("")); !client.Is(err, http.StatusUnauthorized) {
			t.Errorf("%s as nobody: %v", act, err)
		}
		refusals++
	}
	kept, missed := 0, uint64(0)
	for _, r := range s.auditChains("")["c1"] {
		if r.Result == intent.AuditRefused {
			kept++
			missed += r.Missed
		}
	}
	if kept != refusals || missed != 0 {
		t.Errorf("%d refusals are in the chain, %d were made", kept, refusals)
	}
	if err := s.serverFor(tokens["parsec"]).Audit(t.Context(), api.AuditQuery{Site: "par1"}, nothing); err != nil {
		t.Errorf("security of par1 reads the audit of par1: %v", err)
	}
}

func nothing(api.AuditLine) error { return nil }
