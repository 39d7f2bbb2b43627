package fault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/coordinator"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent"
)

// domain is a coordinator and agents of two sites, all in this process, on loopback.
type domain struct {
	*testing.T
	data, addr string
	token      string
	roots      *x509.CertPool
	api        *client.Client
	log        *slog.Logger
	logs       *lockedBuffer
	stop       map[string]func()
	metrics    map[string]string // address of an agent's metrics
	sites      map[string]string // and of its site API
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// freeAddr returns an address on loopback that nobody has, below the ports that the kernel gives to those who dial.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.N(20000))
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", addr)
		if err := tcp.Close(); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			continue
		}
		if err := udp.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
	t.Fatal("no free address on loopback")
	return ""
}

func newDomain(t *testing.T) *domain {
	t.Helper()
	d := &domain{T: t, data: filepath.Join(t.TempDir(), "c1"), addr: freeAddr(t), logs: &lockedBuffer{}, stop: map[string]func(){}, metrics: map[string]string{}, sites: map[string]string{}}
	d.log = slog.New(slog.NewTextHandler(d.logs, nil))
	res, err := coordinator.Init(t.Context(), coordinator.InitConfig{Data: d.data, Domain: "edge.example", ID: "c1", Addr: []string{d.addr}, Admin: "admin", Logger: d.log})
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(res.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	d.token, d.roots = res.Token, roots
	d.api = d.clientOf(d.addr)
	t.Cleanup(func() {
		for _, stop := range d.stop {
			stop()
		}
		if t.Failed() {
			t.Logf("logs:\n%s", d.logs)
		}
	})
	return d
}

// clientOf asks a coordinator or an agent as the administrator.
func (d *domain) clientOf(addr string) *client.Client {
	return client.New("https://"+addr, d.token, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: d.roots}, DisableKeepAlives: true})
}

// run starts fn under a name; end(name) stops it and waits.
func (d *domain) run(name string, fn func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fn(ctx); err != nil && ctx.Err() == nil {
			d.Errorf("%s: %v", name, err)
		}
	}()
	d.stop[name] = func() { cancel(); <-done }
}

func (d *domain) end(name string) {
	d.stop[name]()
	delete(d.stop, name)
}

func (d *domain) coordinator(change func(*coordinator.Config)) {
	cfg := coordinator.Config{Data: d.data, Listen: d.addr, Spread: time.Second, Reserve: 1, Logger: d.log}
	if change != nil {
		change(&cfg)
	}
	d.run("coordinator", func(ctx context.Context) error { return coordinator.Run(ctx, cfg) })
	d.wait("coordinator answers", func() bool { _, err := d.api.Info(d.Context()); return err == nil })
}

func (d *domain) agent(site, id, dir string) {
	d.Helper()
	if d.sites[site+"/"+id] == "" {
		d.sites[site+"/"+id] = freeAddr(d.T)
	}
	cfg := siteagent.Config{Data: dir, Management: d.sites[site+"/"+id], Spread: 10 * time.Millisecond, MaxBackoff: 500 * time.Millisecond, Reserve: 1, NoHistory: true, Logger: d.log.With("agent", site+"/"+id)}
	cfg.Metrics = freeAddr(d.T)
	d.metrics[site+"/"+id] = cfg.Metrics
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		tok, err := d.api.JoinToken(d.Context(), site, api.JoinTokenRequest{Agent: id})
		if err != nil {
			d.Fatal(err)
		}
		cfg.Join = tok.Token
		if err := os.Mkdir(dir, 0o700); err != nil {
			d.Fatal(err)
		}
	}
	d.run(site+"/"+id, func(ctx context.Context) error { return siteagent.Run(ctx, cfg) })
}

func (d *domain) wait(what string, ok func() bool) {
	d.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(60 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			d.Fatalf("not within a minute: %s", what)
		}
	}
}

func (d *domain) apply(docs ...string) error {
	var raw []json.RawMessage
	for _, x := range docs {
		raw = append(raw, json.RawMessage(strings.Replace(x, "{", `{"apiVersion":"skerry/v1",`, 1)))
	}
	_, err := d.api.Apply(d.Context(), raw, false, "")
	return err
}

func (d *domain) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

func (d *domain) level(site string) bool {
	s, err := d.api.SiteStatus(d.Context(), site)
	return err == nil && s.Reachable == "yes" && s.Held == "" && s.Head == s.Published && s.Head.Seq > 0
}

// catalog lists all objects with their generations; Agent objects carry ports of this run and go by name.
func (d *domain) catalog() map[string]uint64 {
	d.Helper()
	out := map[string]uint64{}
	ctx, cancel := context.WithCancel(d.Context())
	defer cancel()
	err := d.api.Watch(ctx, "", func(c api.Change) error {
		if c.Type == "synced" {
			cancel()
			return context.Canceled
		}
		out[c.Object.Key().String()+" "+c.Object.Metadata.UID] = c.Object.Metadata.Rev
		return nil
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		d.Fatal(err)
	}
	return out
}

// chain reads a site's chain from the coordinator: payload digests by sequence number.
func (d *domain) chain(site string) []intent.Digest {
	d.Helper()
	req, err := http.NewRequestWithContext(d.Context(), http.MethodGet, "https://"+d.addr+"/v1/sites/"+site+"/intent?from=1", nil)
	if err != nil {
		d.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+d.token)
	pem, err := os.ReadFile(filepath.Join(d.data, "keys", "root.crt"))
	if err != nil {
		d.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	res, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}).Do(req)
	if err != nil {
		d.Fatal(err)
	}
	defer res.Body.Close()
	var out []intent.Digest
	for dec := json.NewDecoder(res.Body); dec.More(); {
		var env intent.Envelope
		if err := dec.Decode(&env); err != nil {
			d.Fatal(err)
		}
		out = append(out, env.Digest())
	}
	return out
}

const (
	siteLon  = `{"kind":"Site","metadata":{"name":"lon1"},"spec":{"region":"eu","zone":"z"}}`
	sitePar  = `{"kind":"Site","metadata":{"name":"par1"},"spec":{"region":"eu","zone":"z"}}`
	secretV1 = `{"kind":"Secret","metadata":{"name":"bmc","site":"lon1"},"spec":{"type":"bmc","data":{"username":"root","password":"first-password"}}}`
	secretV2 = `{"kind":"Secret","metadata":{"name":"bmc","site":"lon1"},"spec":{"type":"bmc","data":{"username":"root","password":"second-password"}}}`
)

func machineType(name string, cpus int) string {
	return fmt.Sprintf(`{"kind":"MachineType","metadata":{"name":%q},"spec":{"cpu":{"min":%d},"memoryMiB":{"min":1}}}`, name, cpus)
}

func machine(name string, n int) string {
	return fmt.Sprintf(`{"kind":"Machine","metadata":{"name":%q,"site":"lon1"},"spec":{"nics":[{"mac":"52:54:00:88:00:%02x"}]}}`, name, n)
}

func user(name string) string {
	return fmt.Sprintf(`{"kind":"User","metadata":{"name":%q},"spec":{"bindings":[{"role":"operator"}]}}`, name)
}

func (d *domain) delete(kind intent.Kind, scope, name string) {
	d.Helper()
	info, _ := kind.Info()
	_, err := d.api.Delete(d.Context(), info, scope, name, false, "")
	d.must(err)
}

// Experiment F16: a coordinator is lost and comes back from a backup that is a month old. It publishes nothing until it heard
// every agent, takes over what it once signed, and goes on from there: no site ever sees another entry in the place of one it
// has, no deleted object returns, no older secret is told again, and sites that were founded since are found.
func TestCoordinatorFromOldBackup(t *testing.T) {
	d, dir := newDomain(t), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	id, err := age.GenerateX25519Identity()
	d.must(err)
	d.must(os.WriteFile(at("id"), []byte(id.String()+"\n"), 0o600))
	d.coordinator(nil)
	d.must(d.apply(siteLon, machineType("small", 1), machineType("gone", 1), machine("m1", 1), machine("m2", 2), user("ana"), user("eve"), secretV1))
	d.agent("lon1", "a1", at("a1"))
	d.wait("lon1 is level", func() bool { return d.level("lon1") })

	var file bytes.Buffer
	rep, err := coordinator.Backup(t.Context(), d.data, nil, coordinator.Lock{Recipients: []string{id.Recipient().String()}}, d.log, &file) // while it runs
	d.must(err)
	if rep.Records == 0 || rep.Files == 0 || bytes.Contains(file.Bytes(), []byte("small")) {
		t.Errorf("report %+v", rep)
	}
	d.must(os.WriteFile(at("backup"), file.Bytes(), 0o600))

	// The month that the backup does not know.
	d.must(d.apply(machineType("small", 2), machine("m3", 3), secretV2))
	d.must(d.apply(machineType("small", 3)))
	d.delete(intent.KindMachine, "lon1", "m2")
	d.delete(intent.KindMachineType, "", "gone")
	revoked, err := d.api.Revoke(t.Context(), api.RevokeRequest{Kind: "user", ID: "eve", Reason: "gone"})
	d.must(err)
	d.delete(intent.KindUser, "", "eve")
	d.agent("lon1", "a2", at("a2"))
	d.must(d.apply(sitePar))
	d.agent("par1", "b1", at("b1"))
	d.wait("both sites are level", func() bool { return d.level("lon1") && d.level("par1") })
	d.wait("a2 is level too", func() bool {
		s, err := d.api.SiteStatus(t.Context(), "lon1")
		if err != nil || len(s.Agents) != 2 {
			return false
		}
		return s.Agents[0].Head.Seq == s.Published.Seq && s.Agents[1].Head.Seq == s.Published.Seq
	})
	want, lon, par := d.catalog(), d.chain("lon1"), d.chain("par1")

	// It is lost with its disk, and restored. At first only one agent is there.
	d.end("lon1/a2")
	d.end("par1/b1")
	d.end("coordinator")
	old := d.data
	d.data = filepath.Join(t.TempDir(), "c1")
	rep, err = coordinator.Restore(t.Context(), at("backup"), d.data, nil, coordinator.Unlock{Identity: at("id")}, d.log)
	d.must(err)
	if diff := cmp.Diff([]string{"lon1"}, rep.Held); diff != "" {
		t.Errorf("held: -want +got\n%s", diff)
	}
	if _, err := coordinator.Restore(t.Context(), at("backup"), old, nil, coordinator.Unlock{Identity: at("id")}, d.log); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("restored over a coordinator: %v", err)
	}
	d.coordinator(nil)
	d.wait("one agent was heard, the other is waited for", func() bool {
		s, err := d.api.SiteStatus(t.Context(), "lon1")
		return err == nil && strings.HasSuffix(s.Held, "waits for a2") && int(s.Published.Seq) == len(lon)
	})
	if err := d.apply(machineType("small", 9)); err == nil || !strings.Contains(err.Error(), "is held") {
		t.Errorf("a change for a held site: %v", err)
	}
	if diff := cmp.Diff(lon, d.chain("lon1")); diff != "" {
		t.Errorf("chain of the held site: -want +got\n%s", diff)
	}
	d.agent("lon1", "a2", at("a2"))
	d.agent("par1", "b1", at("b1"))
	d.wait("both sites are level again", func() bool { return d.level("lon1") && d.level("par1") })
	if diff := cmp.Diff(want, d.catalog()); diff != "" {
		t.Errorf("catalog: -want +got\n%s", diff)
	}
	d.wait("what was revoked since is taken back from the agents", func() bool {
		l, err := d.api.Revocations(t.Context())
		return err == nil && l.Head == revoked.Head && len(l.Entries) == len(revoked.Entries)
	})

	// It goes on, and everybody follows.
	d.must(d.apply(machineType("small", 4), machine("m4", 4)))
	d.wait("a new change is there", func() bool {
		return len(d.chain("lon1")) > len(lon) && d.level("lon1") && d.level("par1")
	})
	for site, was := range map[string][]intent.Digest{"lon1": lon, "par1": par} {
		if now := d.chain(site); len(now) < len(was) || !cmp.Equal(was, now[:len(was)]) {
			t.Errorf("the chain of %s does not begin with what it was", site)
		}
	}
	if s := d.logs.String(); strings.Contains(s, "chain forked") || strings.Contains(s, "intent is rejected") || !strings.Contains(s, "set them again") || strings.Contains(s, "password") {
		t.Error("the logs tell of a fork or a rejection, or not of the lost secret")
	}
}
