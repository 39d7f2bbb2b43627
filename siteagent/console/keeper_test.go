package console

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/api/consoles"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// machine is a serial port that many may dial; the newest has it, as at a BMC.
type machine struct {
	mu    sync.Mutex // guards what follows
	far   net.Conn
	dials int
}

type port struct{ net.Conn }

func (port) Break() error { return nil }

func (m *machine) dial(context.Context, string, *intent.BMCSpec) (bmc.Line, error) {
	near, far := net.Pipe()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.far != nil {
		m.far.Close()
	}
	m.far, m.dials = far, m.dials+1
	return port{near}, nil
}

// conn waits until the n-th line is there.
func (m *machine) conn(t *testing.T, n int) net.Conn {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) { // another goroutine dials, over real sockets
		m.mu.Lock()
		far, dials := m.far, m.dials
		m.mu.Unlock()
		if dials >= n {
			return far
		}
	}
	t.Fatalf("nobody has dialled the machine for the %d. time", n)
	return nil
}

// agent is a Keeper with its journal, its API, and its door for peers.
type agent struct {
	api.Backend
	*Keeper
	catalog *intent.Catalog
	journal *claim.Journal
	peer    *httptest.Server
	client  *client.Client
	api     *api.API
	mu      sync.Mutex // guards what follows
	rev     uint64
	wake    chan struct{}
}

func (a *agent) Snapshot(context.Context) (*intent.Catalog, uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.catalog, a.rev, nil
}

func (a *agent) Changed(ctx context.Context, since uint64) (uint64, error) {
	for {
		a.mu.Lock()
		rev, wake := a.rev, a.wake
		a.mu.Unlock()
		if rev > since {
			return rev, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// put changes the intent of an agent.
func (a *agent) put(o *intent.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.catalog = a.catalog.Clone()
	a.catalog.Put(o)
	a.rev++
	close(a.wake)
	a.wake = make(chan struct{})
}

func (a *agent) Now() time.Time                                 { return time.Now() }
func (a *agent) Revoked(intent.RevocationKind, string) bool     { return false }
func (a *agent) Note(context.Context, intent.AuditRecord) error { return nil }

// site is agents of one site, of which one at a time owns m1.
type site struct {
	*testing.T
	machine machine
	mu      sync.Mutex // guards owner
	owner   string
	agents  map[string]*agent
	stop    func()
}

func (s *site) owns(who string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owner == who
}

func (s *site) give(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owner = who
}

func newSite(t *testing.T, names ...string) *site {
	s := &site{T: t, owner: names[0], agents: map[string]*agent{}}
	token, half := api.NewUserToken(0, time.Now())
	user := &intent.Object{APIVersion: "skerry/v1", Kind: intent.KindUser, Metadata: intent.Metadata{Name: "ana"}, Spec: &intent.UserSpec{Tokens: []intent.UserToken{half}, Bindings: []intent.RoleBinding{{Role: "operator", Site: "lon1"}}}}
	box := &intent.Object{APIVersion: "skerry/v1", Kind: intent.KindMachine, Metadata: intent.Metadata{Name: "m1", Site: "lon1"}, Spec: &intent.MachineSpec{BMC: &intent.BMCSpec{Address: "10.0.0.1", Protocol: "ipmi", Secret: "s"}}}
	plain := &intent.Object{APIVersion: "skerry/v1", Kind: intent.KindMachine, Metadata: intent.Metadata{Name: "m2", Site: "lon1"}, Spec: &intent.MachineSpec{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	s.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	for _, name := range names {
		a := &agent{catalog: intent.NewCatalog(user, box, plain), rev: 1, wake: make(chan struct{})}
		dir := t.TempDir()
		_, db := sitetest.OpenReplica(t, dir, sitetest.NewAuthor(t), name)
		log := slog.New(slog.DiscardHandler)
		var err error
		if a.journal, err = claim.OpenJournal(db, "lon1", name, log); err != nil {
			t.Fatal(err)
		}
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		audit := auditlog.New(auditlog.Config{Journal: a.journal, Site: "lon1", Self: name, Sign: func() ed25519.PrivateKey { return key }, Log: log})
		a.Keeper, err = New(Config{
			Site: "lon1", Self: name, Dir: filepath.Join(dir, "consoles"), Journal: a.journal, Audit: audit, Log: log, Dial: s.machine.dial, Fit: func() bool { return true },
			Want: func() reconcile.Want {
				c, _, _ := a.Snapshot(ctx)
				return reconcile.Want{Catalog: c}
			}, Owning: func() func(string) bool { return func(string) bool { return s.owns(name) } },
			Owners: func(string) []string {
				s.mu.Lock()
				defer s.mu.Unlock()
				return []string{s.owner}
			},
			Live: func() (out []string) {
				for _, n := range names {
					if n != name {
						out = append(out, n)
					}
				}
				return out
			},
			Peer: func(id string) http.RoundTripper { return roundTrip{s.agents[id].peer} },
		})
		if err != nil {
			t.Fatal(err)
		}
		a.look = 20 * time.Millisecond
		a.peer = httptest.NewServer(a.Peer())
		a.api = api.New(a, log)
		server := httptest.NewUnstartedServer(a.api)
		server.EnableHTTP2 = name == "a2" // the other one is asked by HTTP/1.1
		server.StartTLS()
		a.client = client.New(server.URL, token, server.Client().Transport)
		s.agents[name] = a
		t.Cleanup(func() { s.stop(); server.Close(); a.peer.Close(); _ = db.Close() })
	}
	for _, a := range s.agents {
		wg.Go(func() { _ = a.Run(ctx) })
	}
	return s
}

// roundTrip sends what is for a peer to its server.
type roundTrip struct{ to *httptest.Server }

func (r roundTrip) RoundTrip(q *http.Request) (*http.Response, error) {
	q.URL.Host = strings.TrimPrefix(r.to.URL, "http://")
	return http.DefaultTransport.RoundTrip(q)
}

// seat is ana at an agent's API.
type seat struct {
	*testing.T
	keys   *io.PipeWriter
	screen *io.PipeReader
	seen   string
	done   chan error
}

func (s *site) sit(agent string, q consoles.Session) *seat {
	in, keys := io.Pipe()
	screen, out := io.Pipe()
	q.Site, q.Machine, q.In, q.Out = "lon1", "m1", in, out
	p := &seat{T: s.T, keys: keys, screen: screen, done: make(chan error, 1)}
	go func() {
		err := s.agents[agent].client.Console(s.Context(), q)
		out.Close()
		p.done <- err
	}()
	return p
}

// reads waits until he has seen want.
func (p *seat) reads(want string) {
	p.Helper()
	buf := make([]byte, 4096)
	for !strings.Contains(p.seen, want) {
		n, err := p.screen.Read(buf)
		if p.seen += string(buf[:n]); err != nil {
			p.Fatalf("he saw %q, want %q: %v", p.seen, want, err)
		}
	}
	_, p.seen, _ = strings.Cut(p.seen, want)
}

func (p *seat) types(text string) {
	p.Helper()
	if _, err := io.WriteString(p.keys, text); err != nil {
		p.Fatal(err)
	}
}

func (p *seat) leaves() {
	p.Helper()
	p.types("\x1d.")
	go func() { _, _ = io.Copy(io.Discard, p.screen) }()
	if err := <-p.done; err != nil {
		p.Fatal(err)
	}
}

// verbs are what the agent's audit log says of consoles.
func (a *agent) verbs(t *testing.T) (out []string) {
	t.Helper()
	err := a.cfg.Audit.Audit(t.Context(), nil, func(l api.AuditLine) error {
		if l.Record != nil {
			for _, v := range []string{"open", "write", "take", "leave"} {
				if strings.Contains(string(l.Record), `"console `+v+`"`) && strings.Contains(string(l.Record), `"ana"`) {
					out = append(out, v)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (a *agent) events(t *testing.T) (out []string) {
	t.Helper()
	if err := a.journal.Events(map[string]uint64{}, func(e intent.Event) error { out = append(out, e.Type+" "+e.Message); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func read(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("the machine got %q %v, want %q", got, err, want)
	}
}

// TestConsole: over the API, both ways; at the agent that holds the line and through another one; who did what is on record there.
func TestConsole(t *testing.T) {
	s := newSite(t, "a1", "a2")
	far := s.machine.conn(t, 1)
	io.WriteString(far, "login: ")
	ana := s.sit("a1", consoles.Session{Lines: 10})
	ana.reads("login: ")
	ana.reads("you write")
	ana.types("root\r")
	read(t, far, "root\r")
	other := s.sit("a2", consoles.Session{Lines: 10, Take: true})
	other.reads("login: ")
	other.reads("you write")
	ana.reads("has taken the keyboard over")
	other.types("ls\r")
	read(t, far, "ls\r")
	io.WriteString(far, "etc\r\n")
	ana.reads("etc\r\n")
	other.reads("etc\r\n")
	other.leaves()
	ana.leaves()
	if got := strings.Join(s.agents["a1"].verbs(t), " "); got != "open write open take leave leave" {
		t.Fatal(got)
	}
	if got := s.agents["a2"].verbs(t); got != nil {
		t.Fatal(got)
	}
	var out strings.Builder
	for _, a := range s.agents {
		if err := a.client.Console(t.Context(), consoles.Session{Site: "lon1", Machine: "m1", Lines: 1, Once: true, Out: &out}); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Count(out.String(), "etc\r\n") != 2 {
		t.Fatalf("%q", out.String())
	}
	err := s.agents["a1"].client.Console(t.Context(), consoles.Session{Site: "lon1", Machine: "m2", Out: &out})
	if !client.Is(err, http.StatusConflict) || !strings.Contains(err.Error(), "protocol: ipmi") {
		t.Fatal(err)
	}
	if err := s.agents["a1"].client.Console(t.Context(), consoles.Session{Site: "lon1", Machine: "m9", Out: &out}); !client.Is(err, http.StatusNotFound) {
		t.Fatal(err)
	}
}

// TestHandover: the console goes to another agent, which continues the history and says who had it; people at the first are sent away, and the
// line is open once.
func TestHandover(t *testing.T) {
	s := newSite(t, "a1", "a2")
	far := s.machine.conn(t, 1)
	io.WriteString(far, "from the first\r\n")
	ana := s.sit("a1", consoles.Session{Lines: 10})
	ana.reads("from the first\r\n")
	s.give("a2")
	ana.reads("the console is closed")
	far = s.machine.conn(t, 2)
	io.WriteString(far, "from the second\r\n")
	again := s.sit("a1", consoles.Session{Lines: 100}) // a1 passes her on
	again.reads("from the first\r\n")
	again.reads("agent a2 takes the console over from a1")
	again.reads("gap of")
	again.reads("from the second\r\n")
	again.leaves()
	found := ""
	for _, e := range s.agents["a2"].events(t) {
		if strings.HasPrefix(e, "console.") {
			found += strings.Fields(e)[0] + " "
		}
	}
	if found != "console.handover console.gap " {
		t.Fatal(found)
	}
	if err := s.agents["a1"].held("m1"); err != nil {
		t.Fatal("a1 holds it too")
	}
	s.give("a3") // who is not there
	far = s.machine.conn(t, 2)
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}
