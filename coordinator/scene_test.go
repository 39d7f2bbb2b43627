package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/pki/seal"
)

// password is what must never be seen outside a sealed record.
const password = "correct-horse-battery"

// scene is a coordinator that was founded in a temporary directory and wired, but whose goroutines do not run: a test
// publishes by hand, and so knows when.
type scene struct {
	testing.TB
	*Coordinator
	data  string
	admin api.Caller
	token string
	close func()

	wall   func() time.Time // the clock of its machine; nil: the true one
	looked bool             // somebody looked at it
	allow  []netip.Prefix   // that URLs may lead to
}

func found1(t testing.TB) *scene {
	t.Helper()
	s := &scene{TB: t, data: t.TempDir()}
	res, err := Init(t.Context(), InitConfig{Data: s.data, Domain: "edge.example", ID: "c1", Addr: []string{"127.0.0.1:7443"}, Admin: "admin", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.token = res.Token
	s.open()
	return s
}

// open starts the coordinator of the scene's directory; what ran before must be closed.
func (s *scene) open() {
	s.Helper()
	c, end, err := openAt(s.Context(), Config{Data: s.data, Wall: s.wall, ClockOK: s.looked, URLAllow: s.allow})
	if err != nil {
		s.Fatal(err)
	}
	s.Coordinator = c
	closed := false
	s.close = func() {
		if !closed {
			closed = true
			if err := c.end.Close(); err != nil {
				s.Error(err)
			}
			end()
		}
	}
	s.Cleanup(s.close)
	cat, _ := c.objects.Snapshot()
	if s.admin, err = api.Authenticate(cat, s.token, c.backend.now()); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) restart() {
	s.Helper()
	s.close()
	s.open()
}

const firstSite = `
{"kind":"Site","metadata":{"name":"lon1"},"spec":{"region":"eu","zone":"z"}}
{"kind":"MachineType","metadata":{"name":"small"},"spec":{"cpu":{"min":1},"memoryMiB":{"min":1}}}
{"kind":"SubnetPool","metadata":{"name":"boot","site":"lon1"},"spec":{"prefix":"10.88.0.0/16"}}
{"kind":"Secret","metadata":{"name":"bmc","site":"lon1"},"spec":{"type":"bmc","data":{"username":"root","password":"` + password + `"}}}
{"kind":"Machine","metadata":{"name":"m1","site":"lon1"},"spec":{"bmc":{"address":"10.88.1.1","protocol":"redfish","secret":"bmc"},"nics":[{"mac":"52:54:00:88:00:01","address":"10.88.0.21"}]}}
{"kind":"Asset","metadata":{"name":"tiny"},"spec":{"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","manifest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","size":1,"class":"image"}}
{"kind":"Image","metadata":{"name":"tiny"},"spec":{"asset":"tiny","boot":["bios"],"format":"raw"}}
{"kind":"Project","metadata":{"name":"acme"},"spec":{"sites":["lon1"]}}
{"kind":"Quota","metadata":{"name":"lon1","project":"acme","site":"lon1"},"spec":{"machines":{"small":2},"offline":{"machines":{"small":1}}}}
{"kind":"Infrastructure","metadata":{"name":"shop","project":"acme","site":"lon1"},"spec":{}}
{"kind":"InstanceArray","metadata":{"name":"web","project":"acme","site":"lon1"},"spec":{"infrastructure":"shop","count":1,"machineType":"small","image":"tiny"}}`

// docs decodes documents, one a line.
func (s *scene) docs(text string) []*intent.Object {
	s.Helper()
	var out []*intent.Object
	for line := range strings.Lines(strings.TrimSpace(text)) {
		o, err := intent.DecodeObject([]byte(strings.Replace(line, "{", `{"apiVersion":"skerry/v1",`, 1)))
		if err != nil {
			s.Fatalf("%s: %v", line, err)
		}
		out = append(out, o)
	}
	return out
}

func (s *scene) apply(text string) []api.Result {
	s.Helper()
	res, err := s.backend.Apply(s.Context(), s.admin, api.Batch{Put: s.docs(text)})
	if err != nil {
		s.Fatal(err)
	}
	return res
}

func (s *scene) delete(keys ...intent.Key) {
	s.Helper()
	if _, err := s.backend.Apply(s.Context(), s.admin, api.Batch{Delete: keys}); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) sync(site string) intent.Head {
	s.Helper()
	if err := s.agents.Sync(s.Context(), site); err != nil {
		s.Fatal(err)
	}
	h, _, err := s.agents.pub.Head(s.Context(), site)
	if err != nil {
		s.Fatal(err)
	}
	return h
}

func (s *scene) object(k intent.Kind, scope, name string) *intent.Object {
	c, _ := s.objects.Snapshot()
	return c.Get(intent.Key{Kind: k, Scope: scope, Name: name})
}

// join admits an agent as if it had shown a token, and returns its keys.
func (s *scene) join(site, id string) *seal.Keys {
	s.Helper()
	keys, err := seal.Generate()
	if err == nil {
		err = s.admit(site, id, keys)
	}
	if err != nil {
		s.Fatal(err)
	}
	return keys
}

func (s *scene) admit(site, id string, keys *seal.Keys) error {
	s.Helper()
	_, err := s.grant(join.Grant{Site: site, Agent: id, Addr: []string{"10.99.1.11:7444"}, Boot: []string{"10.88.0.11"}}, keys)
	return err
}

// grant fills in what a newcomer with keys proves, and asks for g.
func (s *scene) grant(g join.Grant, keys *seal.Keys) (*join.Answer, error) {
	s.Helper()
	var err, err1, err2 error
	g.CSR, err = ca.NewRequest(keys.TLS)
	g.TLS, err1 = keys.TLSPublic()
	g.Sign, err2 = keys.SignPublic()
	if err := errors.Join(err, err1, err2); err != nil {
		s.Fatal(err)
	}
	g.Seal, g.Source = keys.SealPublic(), netip.MustParseAddr("10.99.1.11")
	return s.agents.Grant(s.Context(), g)
}

// chain verifies a site's chain as an agent does and returns its entries.
func (s *scene) chain(site string) []*intent.Entry {
	s.Helper()
	chain := document.IntentChain{Site: site, Writers: s.trust.Body().Writers}
	var envs []*intent.Envelope
	err := s.agents.pub.Feed(s.Context(), site, 1, func(env *intent.Envelope) error { envs = append(envs, env); return nil })
	if err != nil {
		s.Fatal(err)
	}
	out, err := chain.AcceptRun(envs)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// told opens what the chain says to one agent and returns the newest value of each secret by name.
func (s *scene) told(site, agent string, keys *seal.Keys) map[string]string {
	s.Helper()
	ring := seal.NewRing(seal.Binding{Domain: s.domain, Site: site, Agent: agent}, keys)
	out := map[string]string{}
	for _, e := range s.chain(site) {
		if e.Kind != intent.EntrySecret {
			continue
		}
		body, err := e.DecodeBody()
		if err != nil {
			s.Fatal(err)
		}
		for _, d := range body.(*intent.SecretBody).DEKs {
			if err := ring.Add(d); err != nil {
				s.Logf("%s passes over a data key: %v", agent, err) // as an agent does; what counts is that records open
			}
		}
		for _, r := range body.(*intent.SecretBody).Records {
			if r.To != agent {
				continue
			}
			plain, err := ring.Open(r)
			if err != nil {
				continue // for keys that this name had before
			}
			out[r.Name] = fmt.Sprintf("%d %s", r.Ver, plain.Reveal())
		}
	}
	return out
}

// everything returns all that the store holds, keys and values.
func (s *scene) everything() []byte {
	s.Helper()
	var b bytes.Buffer
	err := s.store.Range(s.Context(), "", "", func(e store.Entry) error {
		fmt.Fprintf(&b, "%s=%s\n", e.Key, e.Value)
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	return b.Bytes()
}

// server returns a client of the API as the administrator.
func (s *scene) server() *client.Client { return s.serverFor(s.token) }

func (s *scene) serverFor(token string) *client.Client {
	srv := httptest.NewServer(s.api)
	s.Cleanup(srv.Close)
	return client.New(srv.URL, token, http.DefaultTransport)
}

func (s *scene) problems(err error) []string {
	s.Helper()
	e, ok := err.(*api.Error)
	if !ok {
		s.Fatalf("error is %T %v, want *api.Error", err, err)
	}
	var out []string
	for _, p := range e.Problems {
		out = append(out, p.Key.String()+": "+p.Problem.String())
	}
	return out
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openAt opens and wires a coordinator as Run does, without its goroutines.
func openAt(ctx context.Context, cfg Config) (*Coordinator, func(), error) {
	cfg.Listen, cfg.Logger = "127.0.0.1:0", slog.New(slog.DiscardHandler)
	c := newCoordinator(cfg)
	end, err := c.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := c.wire(); err != nil {
		end()
		return nil, nil, err
	}
	return c, end, nil
}
