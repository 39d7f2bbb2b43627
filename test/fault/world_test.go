package fault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/coordinator"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/upkeep"
	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/test/sim/bmc"
	"github.com/skerry-metal/skerry/test/sim/memnet"
	"github.com/skerry-metal/skerry/test/sim/vm"
)

// world is a domain in virtual time: a coordinator and sites of two agents on a network in memory, each with machines whose BMCs are
// simulated. Processes are real but for their clock and their wires. It lives in a testing/synctest bubble.
type world struct {
	*testing.T
	net    *memnet.Net
	dir    string
	log    *slog.Logger
	logs   *lockedBuffer
	roots  *x509.CertPool
	token  map[string]string // by user
	boxes  map[string]*box
	sites  []string
	pair   []string // the agents of a site
	clock  bool     // the coordinator's clock was looked at
	racks  []*switched
	victim string                     // who is killed, of F2 and F18
	uneven string                     // why a site was not level when it was looked at last
	certs  map[string]tls.Certificate // of BMCs, by address: agents know them again
}

// box is one host with one process of ours on it.
type box struct {
	name string // coordinator, SITE/AGENT
	ip   string
	addr string
	dir  string
	life int
	stop func()       // nil: it is down
	jump atomic.Int64 // nanoseconds by which the clock on its wall is wrong
}

// wall is what the clock of the box says.
func (b *box) wall() time.Time { return time.Now().Round(0).Add(time.Duration(b.jump.Load())) }

const (
	worldMachines = 5
	worldJournal  = 8 // of an agent's records stay: all that happens in a world goes on over pruned journals
)

// newWorld founds a domain with n sites, all level, their machines inspected.
func newWorld(t *testing.T, n int) *world {
	t.Helper()
	return newWorldIn(t, t.TempDir(), n)
}

func newWorldIn(t *testing.T, dir string, n int) *world {
	t.Helper()
	return newWorldOf(t, dir, n, "a1", "a2")
}

// newWorldOf is newWorldIn with sites of the named agents.
func newWorldOf(t *testing.T, dir string, n int, agents ...string) *world {
	t.Helper()
	time.Sleep(time.Until(time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC))) // a bubble begins in 2000, before this code existed
	w := &world{T: t, net: memnet.New(), logs: &lockedBuffer{}, token: map[string]string{}, boxes: map[string]*box{}, pair: agents, certs: map[string]tls.Certificate{}}
	// The path is too long for a socket of backups, which no bubble's clock would wait for.
	w.dir = filepath.Join(dir, strings.Repeat("x", 90))
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.log = slog.New(slog.NewTextHandler(w.logs, nil))
	c := w.box("coordinator", "10.0.0.1", 7443)
	res, err := coordinator.Init(t.Context(), coordinator.InitConfig{Data: c.dir, Domain: "edge.example", ID: "c1", Addr: []string{c.addr}, Admin: "admin", Logger: w.log})
	w.must(err)
	pem, err := os.ReadFile(res.CA)
	w.must(err)
	w.roots = x509.NewCertPool()
	w.roots.AppendCertsFromPEM(pem)
	w.token["admin"] = res.Token
	w.start("coordinator", "")
	w.found(n)
	return w
}

// again is the world in another bubble, where it is another time: all are off, their disks are as they were left.
func (w *world) again(t *testing.T, at time.Time) *world {
	t.Helper()
	time.Sleep(time.Until(at))
	n := *w
	n.T, n.net, n.boxes, n.racks = t, memnet.New(), map[string]*box{}, nil
	for name, b := range w.boxes {
		if b.dir != "" {
			n.boxes[name] = &box{name: b.name, ip: b.ip, addr: b.addr, dir: b.dir, life: b.life}
		}
	}
	for i := range n.sites {
		for m := range worldMachines {
			n.rack(i, m)
		}
	}
	return &n
}

func (w *world) box(name, ip string, port int) *box {
	b := &box{name: name, ip: ip, addr: fmt.Sprintf("%s:%d", ip, port), dir: filepath.Join(w.dir, strings.ReplaceAll(name, "/", "-"))}
	w.boxes[name] = b
	return b
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// api is a client of a process, from a host that no cut concerns.
func (w *world) api(user, name string) *client.Client { return w.client(w.token[user], name) }

// client is a process's API to who shows a token.
func (w *world) client(token, name string) *client.Client {
	return client.New("https://"+w.boxes[name].addr, token, &http.Transport{
		DialContext: w.net.Host("10.9.9.9").DialContext, DisableKeepAlives: true,
		// Who asks has a clock that is right; those of the bubble's boxes may not be.
		TLSClientConfig: &tls.Config{RootCAs: w.roots, Time: func() time.Time { return time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC) }},
	})
}

// ask bounds one question.
func (w *world) ask() (context.Context, context.CancelFunc) {
	return context.WithTimeout(w.Context(), 20*time.Second)
}

// start runs the process of a box in a new life. join is used by one that has not joined.
func (w *world) start(name, join string) { w.startAs(name, siteagent.Config{Join: join}) }

// startAs is start for an agent that is told more.
func (w *world) startAs(name string, cfg siteagent.Config) {
	b := w.boxes[name]
	b.life++
	host, log := w.net.Host(b.ip), w.log.With("who", name)
	run := func(ctx context.Context) error {
		cfg.Data, cfg.Management, cfg.Spread, cfg.MaxBackoff, cfg.Reserve, cfg.Journal = b.dir, b.addr, time.Second, 10*time.Second, 1, worldJournal
		cfg.Logger, cfg.Network, cfg.Wall, cfg.NoHistory, cfg.URLAllow = log, host, b.wall, true, mirrors()
		return siteagent.Run(ctx, cfg)
	}
	if name == "coordinator" {
		run = func(ctx context.Context) error {
			return coordinator.Run(ctx, coordinator.Config{Data: b.dir, Listen: b.addr, Spread: time.Second, Reserve: 1, Logger: log, Network: host, Wall: b.wall, ClockOK: w.clock, URLAllow: mirrors()})
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var dead sync.Once
	killed := make(chan struct{})
	go func() {
		defer close(done)
		err := run(ctx)
		select {
		case <-killed: // what it says after its death counts nothing
		default:
			if err != nil && ctx.Err() == nil {
				w.Errorf("%s: %v", name, err)
			}
		}
	}()
	b.stop = func() {
		dead.Do(func() { close(killed) })
		cancel()
		<-done
		b.stop = nil
	}
}

// end stops a process in good order.
func (w *world) end(name string) { w.boxes[name].stop() }

// kill ends a process as a power cut ends it: what is on disk at this moment stays, nothing else, and nobody hears a word.
func (w *world) kill(name string) {
	b := w.boxes[name]
	w.net.Host(b.ip).Unplug()
	synctest.Wait()
	next := fmt.Sprintf("%s-%d", strings.TrimSuffix(b.dir, fmt.Sprintf("-%d", b.life-1)), b.life)
	w.must(copySparse(b.dir, next))
	b.stop()
	w.must(os.RemoveAll(b.dir))
	b.dir = next
}

// copySparse copies a directory and keeps the holes of its files: Badger's logs are mapped, and mostly empty.
func copySparse(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		at := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(at, 0o700)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		src, err := os.Open(path)
		if err != nil {
			return err
		}
		defer src.Close()
		st, err := src.Stat()
		if err != nil {
			return err
		}
		dst, err := os.OpenFile(at, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer dst.Close()
		if err := dst.Truncate(st.Size()); err != nil {
			return err
		}
		return copyData(dst, src, st.Size())
	})
}

// copyData copies what lies between the holes.
func copyData(dst, src *os.File, size int64) error {
	const seekData, seekHole = 3, 4 // lseek(2)
	for at := int64(0); at < size; {
		from, err := src.Seek(at, seekData)
		if err != nil {
			return nil // ENXIO: only a hole is left
		}
		until, err := src.Seek(from, seekHole)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, from), io.NewSectionReader(src, from, until-from)); err != nil {
			return err
		}
		at = until
	}
	return nil
}

// until waits up to ten minutes of the bubble.
func (w *world) until(what string, ok func() bool) {
	w.Helper()
	w.within(10*time.Minute, what, ok)
}

func (w *world) within(limit time.Duration, what string, ok func() bool) {
	w.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(time.Second) {
		if time.Now().After(end) {
			w.Fatalf("not within %v: %s; %s", limit, what, w.uneven)
		}
	}
}

// level tells whether both agents of a site are up and at the coordinator's head.
func (w *world) level(site string) bool {
	ctx, cancel := w.ask()
	defer cancel()
	s, err := w.api("admin", "coordinator").SiteStatus(ctx, site)
	if err != nil || s.Reachable != "yes" || s.Held != "" || s.Published.Seq == 0 {
		w.uneven = fmt.Sprintf("at the coordinator %s is %+v, %v", site, s, err)
		return false
	}
	for _, a := range w.pair {
		one, err := w.api("admin", site+"/"+a).SiteStatus(ctx, site)
		if err != nil || one.Head.Epoch != s.Published.Epoch || one.Head.Seq != s.Published.Seq || one.Rejected != "" {
			w.uneven = fmt.Sprintf("%s was told up to %d.%d, and %s/%s is %+v, %v", site, s.Published.Epoch, s.Published.Seq, site, a, one, err)
			return false
		}
	}
	return true
}

// connected tells whether all agents of a site hold a session: one that has just started may be level by its peers.
func (w *world) connected(site string) bool {
	ctx, cancel := w.ask()
	defer cancel()
	k, err := w.api("admin", "coordinator").KeyStatus(ctx)
	if err != nil {
		return false
	}
	for _, s := range k.Sites {
		if s.Site == site && slices.ContainsFunc(s.Agents, func(a api.AgentKeys) bool { return a.State == intent.StateAgent && !a.Up }) {
			return false
		}
	}
	return true
}

// found makes the objects, the agents and the machines of n sites.
func (w *world) found(n int) {
	w.Helper()
	c := w.api("admin", "coordinator")
	w.until("the coordinator answers", func() bool {
		ctx, cancel := w.ask()
		defer cancel()
		_, err := c.Info(ctx)
		return err == nil
	})
	_, err := c.Upload(w.Context(), "tiny", "image", strings.NewReader("an image"), 8)
	w.must(err)
	for i := range n {
		w.sites = append(w.sites, fmt.Sprintf("s%d", i+1))
	}
	docs := []string{
		`{"kind":"MachineType","metadata":{"name":"small"},"spec":{"cpu":{"min":1},"memoryMiB":{"min":1}}}`,
		`{"kind":"Image","metadata":{"name":"tiny"},"spec":{"asset":"tiny","boot":["uefi"],"format":"raw"}}`,
	}
	for i, s := range w.sites {
		docs = append(docs, fmt.Sprintf(`{"kind":"Site","metadata":{"name":%q},"spec":{"region":"eu","zone":"z"}}`, s),
			fmt.Sprintf(`{"kind":"SubnetPool","metadata":{"name":"boot","site":%q},"spec":{"prefix":"10.88.%d.0/24"}}`, s, i),
			fmt.Sprintf(`{"kind":"Secret","metadata":{"name":"bmc","site":%q},"spec":{"type":"bmc","data":{"username":"root","password":"first-password"}}}`, s))
	}
	docs = append(docs, fmt.Sprintf(`{"kind":"Project","metadata":{"name":"acme"},"spec":{"sites":["%s"]}}`, strings.Join(w.sites, `","`)),
		`{"kind":"User","metadata":{"name":"ana"},"spec":{"bindings":[{"role":"member","project":"acme"}]}}`)
	for i, s := range w.sites {
		docs = append(docs, fmt.Sprintf(`{"kind":"Quota","metadata":{"name":%q,"project":"acme","site":%q},"spec":{"machines":{"small":4},"offline":{"machines":{"small":2}}}}`, s, s),
			fmt.Sprintf(`{"kind":"Infrastructure","metadata":{"name":"shop-%s","project":"acme","site":%q},"spec":{}}`, s, s))
		for m := range worldMachines {
			docs = append(docs, fmt.Sprintf(`{"kind":"Machine","metadata":{"name":"%s-m%d","site":%q},"spec":{"bmc":{"address":"%s:443","protocol":"redfish","secret":"bmc"},"nics":[{"mac":"52:54:00:%02x:00:%02x","boot":true}]}}`,
				s, m, s, w.rack(i, m), i, m))
		}
	}
	_, err = c.Apply(w.Context(), rawDocs(docs...), false, "")
	w.must(err)
	tok, err := c.UserToken(w.Context(), "ana", api.UserTokenRequest{})
	w.must(err)
	w.token["ana"] = tok.Token
	for i, s := range w.sites {
		for a, id := range w.pair {
			name := s + "/" + id
			b := w.box(name, fmt.Sprintf("10.1.%d.%d", i, a+1), 7444)
			w.must(os.MkdirAll(b.dir, 0o700))
			t, err := c.JoinToken(w.Context(), s, api.JoinTokenRequest{Agent: id})
			w.must(err)
			w.start(name, t.Token)
		}
	}
	for _, s := range w.sites {
		w.until(s+" is level", func() bool { return w.level(s) })
		w.inspected(s)
	}
}

// rack puts a controller of a machine without firmware on the network and returns its host.
func (w *world) rack(site, m int) string {
	ip := fmt.Sprintf("10.1.%d.%d", site, 100+m)
	ln, err := w.net.Host(ip).Listen("tcp", ip+":443")
	w.must(err)
	cert, known := w.certs[ip]
	if !known {
		cert, err = bmc.SelfSigned()
		w.must(err)
		w.certs[ip] = cert
	}
	sw := &switched{}
	w.racks = append(w.racks, sw)
	b := bmc.New(bmc.Config{User: "root", Password: "first-password", Firmware: vm.UEFIPXE}, sw)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.Serve(ctx, ln, cert) // ends with the world
	}()
	w.boxes[ip] = &box{name: ip, ip: ip, stop: func() { cancel(); <-done }}
	return ip
}

// switched is a machine that does what its switch says, and boots nothing.
type switched struct {
	mu    sync.Mutex
	on    bool
	boots int // times that it was switched on
}

func (s *switched) set(on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on && !s.on {
		s.boots++
	}
	s.on = on
	return nil
}

func (s *switched) booted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boots
}

func (s *switched) On(context.Context) error       { return s.set(true) }
func (s *switched) Off(context.Context) error      { return s.set(false) }
func (s *switched) Reset(context.Context) error    { return s.set(true) }
func (s *switched) Shutdown(context.Context) error { return s.set(false) }
func (s *switched) PowerOn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.on
}

// journal opens the journal of an agent that is down.
func (w *world) journal(name string, fn func(j *claim.Journal)) {
	w.Helper()
	b := w.boxes[name]
	key, err := upkeep.StateKey(b.dir)
	w.must(err)
	db, err := state.Open(state.Config{Dir: filepath.Join(b.dir, "state"), Key: key, Logger: slog.New(slog.DiscardHandler), UserFraction: -1, UserFree: 1, VitalFree: 1, StopFree: 1})
	w.must(err)
	site, id, _ := strings.Cut(name, "/")
	j, err := claim.OpenJournal(db, site, id, slog.New(slog.DiscardHandler))
	w.must(err)
	fn(j)
	w.must(db.Close())
}

// inspected journals what installers would find: there is no firmware here.
func (w *world) inspected(site string) {
	w.Helper()
	a1 := site + "/a1"
	w.end(a1)
	i := slices.Index(w.sites, site)
	w.journal(a1, func(j *claim.Journal) {
		for m := range worldMachines {
			f := reconcile.Facts{
				Serial: fmt.Sprintf("SN%d", m), Firmware: "uefi", CPUs: 2, MemoryMiB: 1024, Time: time.Now().UTC(), MACs: []string{fmt.Sprintf("52:54:00:%02x:00:%02x", i, m)},
				Disks: []reconcile.DiskFacts{{DiskID: intent.DiskID{Serial: fmt.Sprintf("d%d", m), SizeBytes: 8 << 30}, Media: "ssd"}},
			}
			w.must(j.Append(w.Context(), claim.Local, claim.Draft{Kind: reconcile.KindInventory, Key: fmt.Sprintf("%s-m%d", site, m), Body: f}))
		}
	})
	w.start(a1, "")
	w.until(site+" has inspected its machines", func() bool {
		ctx, cancel := w.ask()
		defer cancel()
		s, err := w.api("admin", a1).SiteStatus(ctx, site)
		return err == nil && s.Machines["available"] == worldMachines
	})
}

// over stops everything, and lets the last timers of the libraries go by: a bubble must end empty.
func (w *world) over() {
	for _, b := range w.boxes {
		if b.stop != nil {
			b.stop()
		}
	}
	time.Sleep(2 * time.Minute)
	if w.Failed() {
		if path := os.Getenv("SKERRY_WORLD_LOG"); path != "" {
			if err := os.WriteFile(path, []byte(w.logs.String()), 0o600); err != nil {
				w.Log(errors.Join(errors.New("log not kept"), err))
			}
		}
	}
}

// rawDocs are documents without their version.
func rawDocs(docs ...string) (out []json.RawMessage) {
	for _, d := range docs {
		out = append(out, json.RawMessage(strings.Replace(d, "{", `{"apiVersion":"skerry/v1",`, 1)))
	}
	return out
}
