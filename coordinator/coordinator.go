package coordinator

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/backup"
	"github.com/skerry-metal/skerry/coordinator/clock"
	"github.com/skerry-metal/skerry/coordinator/founding"
	"github.com/skerry-metal/skerry/coordinator/measured"
	"github.com/skerry-metal/skerry/coordinator/proposals"
	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/recovery"
	"github.com/skerry-metal/skerry/coordinator/repository"
	"github.com/skerry-metal/skerry/coordinator/rotation"
	"github.com/skerry-metal/skerry/coordinator/secrets"
	"github.com/skerry-metal/skerry/coordinator/sticks"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/coordinator/succession"
	"github.com/skerry-metal/skerry/coordinator/telemetry"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/storage/blob"
	"golang.org/x/sync/errgroup"
)

// Etcd says which etcd several coordinators share; see store.EtcdConfig.
type Etcd = store.EtcdConfig

// DefaultEtcdPrefix is the default of Etcd.Prefix.
const DefaultEtcdPrefix = store.DefaultPrefix

// Config says how a coordinator runs. See Default.
type Config struct {
	Data    string        // directory that Init made
	Listen  string        // host:port for TCP and UDP, default 0.0.0.0:7443
	Metrics string        // host:port of /metrics over plain HTTP on the management network; empty: none
	Spread  time.Duration // agents of a lost coordinator return within, default 60 s
	Reserve uint64        // octets that uploads leave free, default 3 GiB, or 5 % and 1 GiB
	// URLAllow are networks that may be dialled for an asset's URL although they are loopback, link-local, private or managed.
	URLAllow []netip.Prefix
	Etcd     *Etcd // the shared store of several coordinators; nil: the embedded one below Data
	// Without names agents (site/agent) that are gone for good: a site that is held does not wait for their word.
	Without []string
	// Recovered ends what a restore began: agents of sites that nobody here knows are not admitted any more.
	Recovered bool
	// ClockOK says that a person has looked at this machine's clock, which leads by far what is known to have passed.
	ClockOK bool
	Version string
	Logger  *slog.Logger
	Network transport.Network // nil: this machine's
	Wall    func() time.Time  `json:"-"` // the clock of this machine; nil: time.Now
}

// Default returns the defaults of Config.
func Default() Config {
	return Config{Data: "/var/lib/skerry-coordinator", Listen: "0.0.0.0:7443", Metrics: "127.0.0.1:7490", Spread: time.Minute}
}

// Coordinator is one running coordinator.
type Coordinator struct {
	cfg    Config
	id     string
	domain string
	trust  *publish.Trust
	keys   *seal.Keys
	writer *publish.Writer
	issuer *founding.Issuer

	store   store.Store
	opened  uint64 // revision of the store that what is held in memory is no older than
	blobs   *blob.Store
	objects *objects
	agents  *agents
	revoker *revoker
	desk    *proposals.Desk
	vault   *secrets.Desk
	audit   *auditlog.Log
	viewing sync.Mutex // guards changes of view: two rosters that change at once must both be in it
	view    trust.Holder
	end     *transport.Endpoint
	uplink  *uplink.Server
	api     *api.API
	backend *backend

	mu    sync.Mutex      // guards what follows
	dirty map[string]bool // sites whose chain may have to say something new
	kick  chan struct{}
	locks map[string]*sync.Mutex // one writer per chain in this process

	clock      *clock.Clock
	recovery   *recovery.Recovery
	rotation   *rotation.Rotation
	sticks     *sticks.Desk
	repository *repository.Repository
	hearing    sync.WaitGroup // questions to agents
}

// publishRetry is how long a publication that failed rests: the store is full, or broken.
const publishRetry = 5 * time.Second

// Run serves until ctx ends. Stop order: listeners first, then publication, then the store, so that what was answered is on
// disk.
func Run(ctx context.Context, cfg Config) error {
	c := newCoordinator(cfg)
	db, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer db()
	if err := c.wire(); err != nil {
		return err
	}
	defer c.hearing.Wait() // sessions are gone by then
	if err := c.recovery.Resume(ctx, cfg.Recovered); err != nil {
		return err
	}
	if err := c.revoker.enforce(ctx); err != nil {
		if held, herr := recovery.Held(ctx, c.store); herr != nil || len(held) == 0 && !errors.Is(err, clock.ErrLeads) {
			return errors.Join(err, herr)
		}
		cfg.Logger.Warn("revocations are enforced when no site is held any more; their holders may not speak already", "err", err)
	}
	c.markDirty(c.objects.sitesNow())
	srv := &http.Server{Handler: c.api, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug)}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.end.Run(ctx) })
	g.Go(func() error { return ignoreClosed(srv.Serve(c.end.HTTPListener())) })
	g.Go(func() error { return c.publish(ctx) })
	g.Go(func() error { return c.follow(ctx) })
	g.Go(func() error { return backup.Serve(ctx, cfg.Data, c.store, cfg.Logger) })
	g.Go(func() error { return c.audit.Run(ctx) })
	g.Go(func() error { return c.clock.Run(ctx) })
	g.Go(func() error { return c.rotation.Run(ctx) })
	g.Go(func() error { return c.repository.Run(ctx) })
	g.Go(func() error { return c.serveMetrics(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		return ignoreClosed(srv.Close()) // watches and event streams have no end of their own
	})
	cfg.Logger.Info("coordinator is up", "id", c.id, "domain", c.domain, "listen", c.end.Addr().String())
	return g.Wait()
}

func newCoordinator(cfg Config) *Coordinator {
	return &Coordinator{cfg: cfg, dirty: map[string]bool{}, kick: make(chan struct{}, 1), locks: map[string]*sync.Mutex{}}
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, transport.ErrClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// open reads keys, trust and catalog. The returned function closes the store.
func (c *Coordinator) open(ctx context.Context) (func(), error) {
	keys := filepath.Join(c.cfg.Data, "keys")
	master, err := os.ReadFile(filepath.Join(keys, fileMaster))
	if err != nil {
		return nil, fmt.Errorf("cannot start coordinator: %w (was `skerry coordinator init` run?)", err)
	}
	st, db, err := openStore(ctx, c.cfg.Data, c.cfg.Etcd, master, c.cfg.Logger)
	if err != nil {
		return nil, err
	}
	closeAll := func() {
		if c.blobs != nil {
			if err := c.blobs.Close(); err != nil {
				c.cfg.Logger.Error("assets not closed", "err", err)
			}
		}
		if err := closeStore(st, db); err != nil {
			c.cfg.Logger.Error("state not closed", "err", err)
		}
	}
	c.store = st
	if err := c.load(ctx, keys, master); err != nil {
		closeAll()
		return nil, err
	}
	c.blobs, err = blob.Open(blob.Config{Dir: filepath.Join(c.cfg.Data, "assets"), State: db, Logger: c.cfg.Logger, Reserve: c.cfg.Reserve})
	if err == nil {
		err = c.openRepository(db)
	}
	if err != nil {
		closeAll()
		return nil, err
	}
	return closeAll, nil
}

func (c *Coordinator) load(ctx context.Context, keys string, master []byte) error {
	if _, err := c.store.Get(ctx, backup.RestoringKey); !errors.Is(err, store.ErrAbsent) {
		return errors.Join(errors.New("cannot start coordinator: a restore did not end here; empty the directory and restore again"), err)
	}
	var err error
	e, err := c.store.Get(ctx, "self")
	if err != nil {
		return fmt.Errorf("cannot start coordinator: %w (was `skerry coordinator init` run?)", err)
	}
	c.id = strings.Trim(string(e.Value), `"`)
	if c.opened, err = c.store.Wait(ctx, 0); err != nil { // before anything is read that is followed
		return err
	}
	if c.trust, err = publish.OpenTrust(ctx, c.store); err != nil {
		return err
	}
	if c.trust.Body() == nil {
		return errors.New("cannot start coordinator: no trust document; run `skerry coordinator init`")
	}
	c.domain = c.trust.Body().Domain
	if c.keys, err = seal.Load(keys); err != nil {
		return err
	}
	if c.clock, err = clock.Open(ctx, c.store, trust.BuildTime(), c.cfg.Wall, c.cfg.ClockOK, c.cfg.Logger); err != nil {
		return err
	}
	if c.issuer, err = c.keyDir().Issuer(c.keys.TLS, c.clock.Now()); err != nil {
		return err
	}
	c.writer, err = publish.OpenWriter(filepath.Join(keys, fileWriter))
	if err != nil {
		return err
	}
	dek, err := seal.DEKFrom(1, seal.NewSecret(master))
	if err != nil {
		return err
	}
	sec := &secrets.Secrets{Store: c.store, Master: dek, Binding: seal.Binding{Domain: c.domain, Site: "at-rest", Agent: c.id}}
	c.audit = auditlog.New(auditlog.Config{Store: c.store, ID: c.id, Signer: c.writer.Signer, Writers: c.trust.Writers, Log: c.cfg.Logger, Now: c.clock.Now, Keys: c.signKeys})
	if c.objects, err = openObjects(ctx, c.store, sec, c.audit, c.clock.Now); err != nil {
		return err
	}
	c.objects.dirty, c.objects.users = c.markDirty, c.usersChanged
	pub := &publish.Publisher{
		Store: c.store, Signer: c.writer.Signer, Now: c.clock.Now, Epoch: c.epoch, Folds: &publish.Folds{},
		Catalog: func() *intent.Catalog { cat, _ := c.objects.Snapshot(); return cat },
		Requires: func() intent.Requires {
			chain := c.trust.Chain()
			return intent.Requires{Trust: chain.Needs(), Revocation: c.revoker.stream.Head().Seq}
		},
	}
	c.agents = &agents{store: c.store, objects: c.objects, secrets: sec, pub: pub, issuer: c.issuer, domain: c.domain, now: c.clock.Now, changed: c.rosterChanged, moved: c.tell, locked: c.lockSite}
	stream, err := publish.OpenRevocations(ctx, pub)
	if err != nil {
		return err
	}
	c.revoker = &revoker{
		stream: stream, store: c.store, audit: c.audit, objects: c.objects, agents: c.agents, act: c.obeyRevocations,
		sessions: func() []uplink.SessionInfo { return c.uplink.Sessions() }, writers: func() []intent.Writer { return c.trust.Body().Writers }, log: c.cfg.Logger,
		fetch: func(ctx context.Context, site, agent, stream string, take func(*intent.Envelope) error) error {
			return c.rotation.Fetch(ctx, site, agent, stream, take)
		},
	}
	c.agents.revoked = stream.Has
	c.desk = &proposals.Desk{
		Store: c.store, Audit: c.audit, Now: c.clock.Now, Catalog: func() *intent.Catalog { cat, _ := c.objects.Snapshot(); return cat }, Roster: c.agents.Roster,
		Apply: c.objects.Apply, Publish: c.agents.Sync, Lock: c.lockSite, Open: pub.Open, Notify: func(site string) { c.uplink.Notify(site) },
	}
	c.vault = &secrets.Desk{
		Secrets: sec, Audit: c.audit, Now: c.clock.Now, Catalog: c.desk.Catalog, Roster: c.agents.Roster, Apply: c.objects.Apply, Publish: c.agents.Sync,
		Reports: c.objects.said, Lock: c.lockSite, Log: c.cfg.Logger,
	}
	c.revoker.vault = c.vault
	return c.loadView(ctx)
}

// loadView builds who may speak from trust and all rosters.
func (c *Coordinator) loadView(ctx context.Context) error {
	v, err := trust.NewView(c.trust.Body())
	if err != nil {
		return err
	}
	for _, site := range c.objects.sitesNow() {
		r, err := c.agents.Roster(ctx, site)
		if err != nil {
			return err
		}
		if r != nil {
			v = v.WithRoster(site, r)
		}
	}
	if v, err = recovery.Open(ctx, c.store, v); err != nil {
		return err
	}
	cat, _ := c.objects.Snapshot()
	c.view.Set(v.WithRevocations(c.revoker.stream.Entries()).WithUsers(cat.UserKeys()))
	return nil
}

// usersChanged lets the keys that stand on users now authenticate, and ends the sessions of those that do no more.
func (c *Coordinator) usersChanged() {
	cat, _ := c.objects.Snapshot()
	c.editView(func(v *trust.View) *trust.View { return v.WithUsers(cat.UserKeys()) })
	c.closeGone()
}

// signKeys returns the keys that the agents of a site sign with, by agent, also of those that a spare replaced: what they saw before that
// is the site's history, and their peers bring it. Of those that were revoked none, also before the next roster is out.
func (c *Coordinator) signKeys(ctx context.Context, site string) (map[string][][]byte, error) {
	r, err := c.agents.Roster(ctx, site)
	if err != nil || r == nil {
		return nil, err
	}
	former, err := c.desk.Former(ctx, site)
	if err != nil {
		return nil, err
	}
	out := map[string][][]byte{}
	for _, a := range append(former, r.Agents...) {
		if !c.revoker.stream.Has(intent.RevokeAgent, site+"/"+a.ID) {
			out[a.ID] = a.SignKeys()
		}
	}
	return out, nil
}

func (c *Coordinator) editView(change func(*trust.View) *trust.View) {
	c.viewing.Lock()
	defer c.viewing.Unlock()
	c.view.Set(change(c.view.View()))
}

// closeGone ends the sessions of who may not speak any more, and returns how many.
func (c *Coordinator) closeGone() int {
	v := c.view.View()
	return c.end.CloseIf(func(id trust.Identity) bool { return !v.Admits(id) })
}

// obeyTrust makes everybody obey the trust document that is the head now.
func (c *Coordinator) obeyTrust() {
	c.editView(func(v *trust.View) *trust.View {
		n, err := v.WithTrust(c.trust.Body())
		if err != nil { // the chain parsed every certificate
			c.cfg.Logger.Error("trust not usable; the one before stays", "err", err)
			return v
		}
		return n
	})
	if f := c.trust.Body().Floor; f != nil {
		if err := c.clock.Lower(context.Background(), *f); err != nil {
			c.cfg.Logger.Error("the lower time floor is not saved; it counts until this process ends", "err", err)
		}
	}
	c.closeGone()
	c.uplink.Notify("")
}

// obeyRevocations makes everybody obey the revocations that stand now.
func (c *Coordinator) obeyRevocations() int {
	c.editView(func(v *trust.View) *trust.View { return v.WithRevocations(c.revoker.stream.Entries()) })
	closed := c.closeGone()
	c.uplink.Notify("")
	return closed
}

// epoch is that in which a key may sign now, which the clock must allow too.
func (c *Coordinator) epoch(k crypto.PublicKey) (uint64, error) {
	epoch, err := publish.EpochOf(c.trust.Body(), k)
	if err != nil {
		return 0, err
	}
	return epoch, c.clock.Sign()
}

// held says why nothing is published to a site, "" where it is.
func (c *Coordinator) held(ctx context.Context, site string) (string, error) {
	if err := c.clock.Leads(); err != nil {
		return err.Error(), nil
	}
	return c.recovery.Text(ctx, site)
}

// lockSite makes this process the only writer of a site's chain until the returned function is called.
func (c *Coordinator) lockSite(site string) func() {
	c.mu.Lock()
	l := c.locks[site]
	if l == nil {
		l = &sync.Mutex{}
		c.locks[site] = l
	}
	c.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// wire makes endpoint, uplink and API, in that order: handlers are set before the endpoint runs.
func (c *Coordinator) wire() (err error) {
	t := &trust.TLS{
		Self: trust.Identity{Kind: trust.Coordinator, ID: c.id}, View: c.view.View,
		Leaf: c.issuer.Leaf, Web: c.issuer.Web,
		Refused: func(from net.Addr, err error) {
			c.refused(context.Background(), from.String(), "handshake", err)
		},
	}
	c.end, err = transport.New(transport.Config{
		Listen: c.cfg.Listen, Network: c.cfg.Network, TLS: t, Log: c.cfg.Logger, ResetKey: c.keys.ResetKey(),
		UDP: []string{trust.ALPNUplink, trust.ALPNBulk},
		TCP: []string{trust.ALPNUplink, trust.ALPNBulk, trust.ALPNJoin, trust.ALPNH2, trust.ALPNHTTP},
	})
	if err != nil {
		return err
	}
	c.recovery = c.newRecovery()
	c.rotation = rotation.New(rotation.Config{
		Store: c.store, Trust: c.trust, Obey: c.obeyTrust, Audit: c.audit, Refused: c.refused, Log: c.cfg.Logger,
		Ask: func(site, agent string) http.RoundTripper { return c.uplink.RoundTripper(site, agent) },
		ID:  c.id, Leaf: func() []byte { return c.issuer.Leaf().Certificate[0] }, Writer: c.writer.Public, Revocations: c.revoker.stream, Reports: c.objects.heard, Now: c.clock.Now, Leads: c.clock.Leads,
		Sessions: func() []uplink.SessionInfo { return c.uplink.Sessions() }, CA: func() *x509.Certificate { return c.issuer.CA().Cert },
		Certify: c.agents.recertify, Reseal: c.agents.secrets.Reseal, Publish: c.published, Lock: c.lockSite, Notify: func(site string) { c.uplink.Notify(site) },
		Dirty: func(site string) { c.markDirty([]string{site}) },
	})
	redeemer := join.NewRedeemer(join.Config{Store: c.agents, Granter: c.agents, Returns: c.rotation, Trust: func() []*intent.Envelope { return c.trust.From(1) }, Now: c.clock.Now, Log: c.cfg.Logger})
	c.end.HandleJoin(func(ctx context.Context, conn *tls.Conn) {
		if err := redeemer.Handle(ctx, conn, join.SourceOf(conn)); err != nil {
			c.cfg.Logger.Warn("join refused", "from", conn.RemoteAddr().String(), "err", err)
			c.refused(ctx, conn.RemoteAddr().String(), "join", err)
		}
	})
	c.sticks = &sticks.Desk{
		ID: c.id, Domain: c.domain, Store: c.store, Trust: c.trust, Revocations: c.revoker.stream, Pub: c.agents.pub, Audit: c.audit, Proposals: c.desk,
		Roster: c.agents.Roster, Report: c.objects.setReport, Keys: c.rotation.KeyStatus, Reports: c.objects.heard, Held: c.held, Now: c.clock.Now,
		Admit: func(ctx context.Context, site string, env *intent.Envelope) error {
			return c.backend.Admit(ctx, site, env)
		},
		Sessions: func() []uplink.SessionInfo { return c.uplink.Sessions() },
	}
	c.rotation.Domain = &succession.Succession{
		Keys: c.keyDir(), Issuer: c.issuer, Lacks: c.rotation.Lacks, Ask: func() { c.uplink.Notify("") }, Store: c.store, Trust: c.trust, Writer: c.writer, Audit: c.audit,
		Add: c.rotation.AddTrust, Status: c.rotation.KeyStatus, Heads: c.appliedHeads, Sites: c.objects.sitesNow, Now: c.clock.Now,
		Publish: func(ctx context.Context, site string) (intent.Head, error) {
			head, _, err := c.published(ctx, site)
			return head, err
		},
	}
	c.backend = &backend{
		Documents: c.sticks, Vault: c.vault, uploads: uploads{c.repository, c.objects, c.audit}, carried: c.sticks.Events,
		Keys: c.rotation, info: api.Info{Role: "coordinator", ID: c.id, Domain: c.domain, Version: c.cfg.Version}, store: c.store, objects: c.objects,
		agents: c.agents, audit: c.audit, blobs: c.blobs, pin: func() intent.Digest { chain := c.trust.Chain(); return chain.Anchor() }, revoker: c.revoker, desk: c.desk, addr: c.trust.Body().Coordinators[0].Addr, now: c.clock.Now,
		reverse: c.reverse, connected: func(site, agent string) bool { return c.uplink.Connected(site, agent) }, held: c.held, Asker: telemetry.Asker{Known: c.objects.hasSite, Reverse: c.reverse, Contact: c.objects.contact, Now: c.clock.Now},
	}
	c.backend.Desk = &measured.Desk{Site: c.backend.site, Now: c.clock.Now, Heard: func(site string) (time.Time, bool) {
		s, ok := c.objects.status(site)
		return s.ObservedAt, ok
	}}
	c.api = api.New(c.backend, c.cfg.Logger)
	c.uplink = uplink.NewServer(uplink.ServerConfig{
		Endpoint: c.end, Welcome: c.welcome, Handler: c.sessionHandler(), Log: c.cfg.Logger,
		OnHello:   func(ctx context.Context, h uplink.Hello) { c.heard(ctx, h.Site, h.Agent, h.Heads) },
		OnApplied: c.heard,
	})
	c.recovery.Ask = c.uplink.RoundTripper
	return nil
}

// refused keeps that somebody was turned away before the API could say so.
func (c *Coordinator) refused(ctx context.Context, who, verb string, why error) {
	r := intent.AuditRecord{Via: "session", Verb: verb, Object: who, Result: intent.AuditRefused, Reason: why.Error()}
	if err := c.audit.Note(ctx, r); err != nil {
		c.cfg.Logger.Error("refusal not kept in the audit log", "err", err)
	}
}

func (c *Coordinator) reverse(site string) (http.RoundTripper, bool) {
	return c.uplink.RoundTripper(site, ""), c.uplink.Connected(site, "")
}

func (c *Coordinator) welcome(site string) (uplink.Welcome, error) {
	head, _, err := c.agents.pub.Head(context.Background(), site)
	if err != nil {
		return uplink.Welcome{}, err
	}
	epoch, err := c.agents.pub.Epoch(c.writer.Public())
	if err != nil {
		c.cfg.Logger.Warn("agents are heard, and nothing is published", "err", err)
	}
	return uplink.Welcome{
		Coordinator: c.id, Epoch: epoch, Now: c.clock.Now().UTC(), Heads: uplink.Heads{Trust: c.trust.Head(), Revocation: c.revoker.stream.Head(), Intent: head},
		SpreadSeconds: int(c.cfg.Spread / time.Second), Coordinators: c.trust.Body().Coordinators,
	}, nil
}

// markDirty asks for publication to sites.
func (c *Coordinator) markDirty(sites []string) {
	c.mu.Lock()
	for _, s := range sites {
		c.dirty[s] = true
	}
	c.mu.Unlock()
	select {
	case c.kick <- struct{}{}:
	default: // somebody asked already
	}
}

func (c *Coordinator) takeDirty() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for s := range c.dirty {
		out = append(out, s)
	}
	clear(c.dirty)
	return out
}

// tell tells the sessions of a site that its chain moved.
func (c *Coordinator) tell(site string) {
	if c.uplink != nil { // else nobody has a session yet
		c.uplink.Notify(site)
	}
}

// published brings one chain up to what is wanted now.
func (c *Coordinator) published(ctx context.Context, site string) (intent.Head, *intent.RosterBody, error) {
	err := c.agents.Sync(ctx, site)
	if err != nil {
		return intent.Head{}, nil, err
	}
	roster, err := c.agents.Roster(ctx, site)
	if err != nil {
		return intent.Head{}, nil, err
	}
	head, _, err := c.agents.pub.Head(ctx, site)
	return head, roster, err
}

// keyDir is where the keys lie; the certificates in it are for the addresses of the trust document.
func (c *Coordinator) keyDir() founding.Keys {
	k := founding.Keys{Dir: filepath.Join(c.cfg.Data, "keys"), Domain: c.domain, ID: c.id}
	for _, x := range c.trust.Body().Coordinators {
		if x.ID == c.id {
			k.Addr = x.Addr
		}
	}
	return k
}

// appliedHeads says how far each agent of a site has its intent: by its session, else by what the site reported last.
func (c *Coordinator) appliedHeads(site string) map[string]intent.Head {
	out := map[string]intent.Head{}
	if st, ok := c.objects.status(site); ok {
		for _, a := range st.Agents {
			out[a.ID] = a.Head
		}
	}
	for _, x := range c.uplink.Sessions() {
		if x.Site == site && x.Applied.Intent.Compare(out[x.Agent]) > 0 {
			out[x.Agent] = x.Applied.Intent
		}
	}
	return out
}

// publish brings chains up to the catalog whenever it moved.
func (c *Coordinator) publish(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.kick:
		}
		for _, site := range c.takeDirty() {
			err := c.agents.Sync(ctx, site)
			if errors.Is(err, publish.ErrHeld) {
				continue // the end of the hold asks again
			}
			if err != nil && ctx.Err() == nil {
				c.cfg.Logger.Error("site not published; it is tried again", "site", site, "err", err)
				time.AfterFunc(publishRetry, func() { c.markDirty([]string{site}) })
			}
		}
	}
}
