package siteagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/boot/console/sshd"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/gossip"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/abroad"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/bmclogin"
	"github.com/skerry-metal/skerry/siteagent/bootnet"
	"github.com/skerry-metal/skerry/siteagent/catchup"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/console"
	"github.com/skerry-metal/skerry/siteagent/discovery"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/explain"
	"github.com/skerry-metal/skerry/siteagent/freshness"
	"github.com/skerry-metal/skerry/siteagent/history"
	"github.com/skerry-metal/skerry/siteagent/holdings"
	"github.com/skerry-metal/skerry/siteagent/holds"
	"github.com/skerry-metal/skerry/siteagent/intake"
	"github.com/skerry-metal/skerry/siteagent/keys"
	"github.com/skerry-metal/skerry/siteagent/members"
	"github.com/skerry-metal/skerry/siteagent/operate"
	"github.com/skerry-metal/skerry/siteagent/origins"
	"github.com/skerry-metal/skerry/siteagent/peers"
	"github.com/skerry-metal/skerry/siteagent/receipts"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/sticks"
	"github.com/skerry-metal/skerry/siteagent/traffic"
	"github.com/skerry-metal/skerry/siteagent/upkeep"
	"github.com/skerry-metal/skerry/siteagent/wan"
	"github.com/skerry-metal/skerry/storage/blob"
	"github.com/skerry-metal/skerry/storage/state"
	"golang.org/x/sync/errgroup"
)

// Config says how an agent runs. See Default.
type Config struct {
	Data     string // directory for keys, state, assets
	Join     string // TOKEN@HOST:PORT, used once; ignored by an agent that has joined
	Spare    string // kit of a spare that takes the place of agent Replaces; used once, as Join is
	Replaces string
	Import   string // stick that a spare reads before it takes the place, so that it needs no live peer
	// What opens the kit: the file of an age identity, or one with the passphrase. An environment shows to whoever reads /proc.
	KitIdentity, KitPassphrase string
	Management                 string           // host:port of site API and mesh, TCP and UDP
	Boot                       []string         // addresses of this host on boot networks; DHCP, TFTP, HTTP listen there only
	IPXEDir                    string           // loaders, as Debian's package ipxe has them
	SFlow                      string           // host:port where switches send sFlow, UDP; empty: none is heard
	SSH                        string           // host:port at which SSH clients reach consoles; empty: none
	Metrics                    string           // host:port of /metrics over plain HTTP; empty: none
	Probe                      traffic.Counting // interfaces of this host at which machines' traffic is counted, and how; its Plan is the agent's
	// Spread bounds how long the first dial to a coordinator waits, so that a site that starts does not stampede. Default 5 s.
	Spread     time.Duration
	MaxBackoff time.Duration  // between dials to a coordinator that does not answer, default 60 s
	Reserve    uint64         // octets that assets leave free on the disk, default 3 GiB, or 5 % and 1 GiB
	Ballast    uint64         // octets of the file that `skerry agent recover` frees on a full disk; 0: none
	Journal    uint64         // the newest records of its own journal that an agent keeps all of; 0: claim.KeepRecords
	Bulk       string         // what carries assets between agents: quic, tcp, or auto: QUIC, and TCP where UDP is blocked; empty: auto
	URLAllow   []netip.Prefix // networks that an asset's URL may lead to although they are loopback, link-local, private or managed
	Version    string
	Logger     *slog.Logger
	Network    transport.Network // nil: this machine's; boot network and metrics are always this machine's
	Wall       func() time.Time  `json:"-"` // the clock of this machine; nil: time.Now
	NoHistory  bool              // no telemetry is kept and no sensors are read: for simulated years, and bubbles, which zstd's shared encoder leaves
}

// Default returns the defaults of Config.
func Default() Config {
	return Config{Data: "/var/lib/skerry", IPXEDir: "/usr/lib/ipxe", Spread: 5 * time.Second, MaxBackoff: time.Minute, Ballast: 256 << 20}
}

// Agent is one running agent: the parts, wired.
type Agent struct {
	cfg   Config
	id    *keys.Identity // as it was at the start
	keys  *keys.Own
	life  string // random id of this process life
	floor *trust.Floor
	ring  *seal.Ring
	reset []byte // of the endpoint; it outlives changes of keys

	db      *state.DB
	raw     *state.Raw // telemetry's; nil where it does not open
	blobs   *blob.Store
	replica *replica.Replica
	desk    *intake.Desk
	chain   *intake.Chain
	sticks  *sticks.Desk
	fresh   *freshness.Keeper
	above   atomic.Pointer[uplink.Heads] // the coordinator's, as heard last
	site    *effective.Site
	holds   *holds.Ledger
	journal *claim.Journal
	claims  *claim.Claims
	line    *wan.Keeper // what the site's line may carry
	abroad  *abroad.Keeper
	origins *origins.Keeper
	swarm   *swarm.Swarm
	assets  *holdings.Keeper
	traffic *traffic.Desk
	bootnet *bootnet.Server
	strange *discovery.Strangers
	members *members.Keeper
	rekey   *keys.Worker
	back    *catchup.Keeper
	upkeep  *upkeep.Keeper
	control *reconcile.Controller
	logins  *bmclogin.Logins
	bmcs    *bmclogin.Sessions
	history *history.Keeper
	console *console.Keeper
	over    *overrides
	audit   *auditlog.Log
	proofs  *receipts.Desk
	end     *transport.Endpoint
	gossip  *gossip.Pool
	sites   *gossip.Pool // the gateways of this site and of those that it reaches
	beyond  around
	mesh    *peers.Mesh
	uplink  *uplink.Client
	backend *backend
	api     *api.API

	proposing sync.Mutex        // guards what follows; one proposal at a time
	answered  map[string]string // override -> the coordinator's last answer
}

// Run joins if it must, then serves its site until ctx ends. Nothing on this path waits for a coordinator once the agent has
// joined. Stop order: what answers first, then what writes, then the store.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Network == nil {
		cfg.Network = transport.Host{}
	}
	id, own, err := loadIdentity(ctx, cfg)
	if err != nil {
		return err
	}
	a := &Agent{cfg: cfg, id: id, keys: own, life: randomID(8), answered: map[string]string{}}
	if err := a.open(); err != nil {
		return errors.Join(err, a.close())
	}
	if err := a.begin(ctx); err != nil {
		return errors.Join(err, a.close())
	}
	if err := a.vacant(ctx); err != nil { // before this box listens: it may have the address of the one that it replaces
		return errors.Join(err, a.close())
	}
	if err := a.wire(); err != nil {
		return errors.Join(err, a.close())
	}
	if err := a.enter(ctx); err != nil {
		return errors.Join(err, a.end.Close(), a.close())
	}
	err = a.serve(ctx)
	return errors.Join(err, a.replica.SaveMarks(), a.close())
}

func (a *Agent) close() error {
	var errs []error
	if a.blobs != nil {
		errs = append(errs, a.blobs.Close())
	}
	if a.raw != nil {
		errs = append(errs, a.raw.Close())
	}
	if a.db != nil {
		errs = append(errs, a.db.Close())
	}
	return errors.Join(errs...)
}

// open reads marks, state, journal and assets.
func (a *Agent) open() error {
	key, err := upkeep.StateKey(a.cfg.Data)
	if err != nil {
		return err
	}
	a.reset = seal.ResetKey(key)
	if a.db, err = state.Open(state.Config{Dir: filepath.Join(a.cfg.Data, "state"), Key: key, Logger: a.cfg.Logger}); err != nil {
		return err
	}
	marks, mark, err := state.OpenMarks(a.cfg.Data, key)
	if errors.Is(err, state.ErrMarks) { // what they said is lost: peers know how far this agent was
		a.cfg.Logger.Error("marks are damaged", "err", err)
		err = a.db.SetRecovering("marks damaged")
	}
	if err != nil {
		return err
	}
	if v := a.db.MaxVersion(); v < mark.MaxVersion {
		// The store is older than it once was: a restored copy, or a lost tail. Boot goes on; nothing is claimed.
		if err := a.db.SetRecovering(fmt.Sprintf("state is at version %d, marks are at %d", v, mark.MaxVersion)); err != nil {
			return err
		}
	}
	mark.Boots++
	if err := marks.Save(mark); err != nil { // raised before the first word (trust.md section 3)
		return err
	}
	a.floor = trust.NewFloor(trust.BuildTime(), mark.Floor, a.cfg.Wall)
	a.ring = seal.NewRing(seal.Binding{Domain: a.id.Domain, Site: a.id.Site, Agent: a.id.Agent}, a.keys.All()...)
	a.replica, err = replica.Open(replica.Config{
		DB: a.db, Marks: marks, Mark: mark, Site: a.id.Site, Self: a.id.Agent, Pin: a.id.Pin, Ring: a.ring, Floor: a.floor, Log: a.cfg.Logger,
	})
	if err != nil {
		return err
	}
	// What this agent joined with may have gone out of force by an acceptance since; it stays that.
	if err := a.replica.AddTrust(a.id.Trust); err != nil && !errors.Is(err, document.ErrFork) && !errors.Is(err, document.ErrOffered) {
		return err
	}
	if err := a.replica.SeedRoster(append([]intent.RosterAgent{a.id.Roster}, a.id.Peers...)...); err != nil {
		return err
	}
	if a.journal, err = claim.OpenJournal(a.db, a.id.Site, a.id.Agent, a.cfg.Logger); err != nil {
		return err
	}
	if a.cfg.Journal > 0 {
		a.journal.Keep = a.cfg.Journal
	}
	if !a.cfg.NoHistory {
		a.raw = traffic.OpenStore(a.cfg.Data, a.cfg.Logger)
	}
	a.desk = &intake.Desk{Replica: a.replica, Moved: a.moved, Close: a.closeGone, Refused: a.auditRefusal, Event: a.journalEvent, Log: a.cfg.Logger}
	a.sticks = &sticks.Desk{Site: a.id.Site, Self: a.id.Agent, Domain: a.id.Domain, In: a.desk, Journal: a.journal, Sign: a.keys.Sign}
	a.blobs, err = blob.Open(blob.Config{Dir: filepath.Join(a.cfg.Data, "assets"), State: a.db, Logger: a.cfg.Logger, Reserve: a.cfg.Reserve})
	return err
}

// wire is the one list of who knows whom.
func (a *Agent) wire() (err error) {
	log, self := a.cfg.Logger, a.id.Agent
	a.end, err = transport.New(transport.Config{
		Network: a.cfg.Network, Bulk: transport.Lane(strings.TrimPrefix(a.cfg.Bulk, "auto")),
		Listen: a.cfg.Management, Log: log, ResetKey: a.reset,
		TLS: &trust.TLS{
			Self: trust.Identity{Kind: trust.Agent, Site: a.id.Site, ID: self}, View: a.replica.View,
			Leaf: a.keys.Leaf, Web: a.keys.Web,
			Refused: func(from net.Addr, err error) { a.auditRefusal("handshake.refused", fmt.Errorf("%s: %w", from, err)) },
		},
		UDP:      []string{trust.ALPNMesh, trust.ALPNBulk},
		TCP:      []string{trust.ALPNMesh, trust.ALPNBulk, trust.ALPNJoin, trust.ALPNH2, trust.ALPNHTTP},
		Resolver: transport.ResolverFunc(a.addressesOf),
	})
	if err != nil {
		return err
	}
	a.gossip, err = gossip.New(gossip.Config{
		Endpoint: a.end, Self: self, Scope: gossip.Site, Log: log,
		Nodes: func() []gossip.Node { return gossip.Roster(a.id.Site, a.replica.Neighbours()) },
	})
	if err != nil {
		return err
	}
	a.sites, err = gossip.New(gossip.Config{Endpoint: a.end, Self: abroad.Gateway(transport.Peer{Site: a.id.Site, ID: self}), Scope: gossip.WAN, Log: log, Nodes: a.gateways})
	if err != nil {
		return err
	}
	gossip.Register(a.end, a.gossip, a.sites)
	a.mesh = peers.New(peers.Config{
		Site: a.id.Site, Self: self, Life: a.life, Endpoint: a.end, Gossip: a.gossip, Replica: a.replica, Journal: a.journal, Log: log,
	})
	a.journal.SetPeers(a.mesh)
	a.audit = auditlog.New(auditlog.Config{Journal: a.journal, Site: a.id.Site, Self: self, Sign: a.keys.Sign, Live: a.mesh.Live, Log: log})
	a.members = members.New(members.Config{
		Domain: a.id.Domain, Site: a.id.Site, Self: self, Replica: a.replica, Journal: a.journal, Keys: a.keys.All,
		Alive: func() []claim.Member { _, m := a.mesh.Members(); return m }, Recovering: a.db.Recovering, Close: a.closeGone, Audit: a.audit, Log: log, Addr: []string{a.cfg.Management}, Boot: a.cfg.Boot,
	})
	a.mesh.Doubled = a.members.Double
	if _, err := a.members.Obey(); err != nil {
		return err
	}
	a.claims = claim.NewClaims(a.db, self, a.life, a.mesh, a.mesh, log)
	if err := a.claims.ReleaseStale(); err != nil {
		return err
	}
	a.mesh.Claims = a.claims
	a.wireSite()
	if err := a.wireConsoles(); err != nil {
		return err
	}
	a.wireUpkeep()
	a.wireAPI()
	a.wireCatchup()
	a.end.HandleHTTP(trust.ALPNMesh, a.mesh.Handler())
	a.end.HandleHTTP(trust.ALPNBulk, a.mesh.Bulk())
	return nil
}

// wireSite makes what decides and answers at the site.
func (a *Agent) wireSite() {
	log, self := a.cfg.Logger, a.id.Agent
	a.site, a.holds = effective.New(a.replica, a.journal), holds.Open(a.db, log)
	a.site.Held = a.holds.Since
	a.wireAssets()
	a.traffic = traffic.New(traffic.Config{
		Site: a.id.Site, Self: self, Listen: a.cfg.SFlow, Store: a.raw, Peers: a.mesh, Agents: traffic.Roster(a.site), Plan: traffic.Planner(a.site), Count: traffic.Counting{Interfaces: a.cfg.Probe.Interfaces, Method: a.cfg.Probe.Method, Dir: a.cfg.Probe.Dir, Plan: traffic.PointPlanner(a.site)}, Event: a.journalEvent, Log: log,
	})
	a.mesh.Traffic = a.traffic.Handler()
	a.logins = &bmclogin.Logins{Config: bmclogin.Config{Site: a.id.Site, Journal: a.journal, Secret: a.site.Secret, Version: a.site.SecretVersion, Now: time.Now, Log: log, Dial: a.cfg.Network.DialContext}}
	a.bmcs = &bmclogin.Sessions{Logins: a.logins}
	a.control = reconcile.New(reconcile.Config{
		Self: self, Journal: a.journal, Claims: a.claims, Want: a.site.Want, Members: a.mesh.Members, Around: a.site.Around,
		Dial: a.bmcs.Dial, Chore: a.logins.Chore, Recovering: func() bool { return a.db.Recovering() || !a.replica.Counts() }, Log: log, Fit: func() error { return a.upkeep.Fit() },
	})
	a.fresh = freshness.New(freshness.Config{
		Site: a.id.Site, Self: self, Life: a.life, Journal: a.journal, Replica: a.replica, Floor: a.floor, Post: a.post, Audit: a.audit, Log: log,
		Binding: a.control.Writes,
	})
	a.proofs = &receipts.Desk{Site: a.site, Self: self, Sign: a.keys.Sign}
	a.strange = &discovery.Strangers{Site: a.site, Self: self, Audit: a.audit, May: func() error { return a.backend.may() }}
	a.bootnet = bootnet.New(bootnet.Config{
		Site: a.site, Self: self, Domain: a.id.Domain, Boot: a.cfg.Boot, IPXEDir: a.cfg.IPXEDir, Web: a.keys.Web, Sign: a.keys.Sign,
		BootKeys: a.members.BootKeys, Control: a.control, Owners: a.mesh.Owners, Fresh: a.fresh.Fresh,
		Forward: a.mesh.Forward, Blobs: a.blobs, Relay: a.assets, Receipts: a.proofs, Strangers: a.strange, Log: log,
	})
	a.mesh.PermitHere = a.bootnet.PermitHere
	a.history = history.Open(history.Config{
		Site: a.id.Site, Self: self, Raw: a.raw, Log: log, Event: a.journalEvent,
		Catalog: func() *intent.Catalog { return a.site.Want().Catalog }, Owns: a.control.Owns, Signed: a.replica.State, Instance: func(m string) string { return reconcile.InstanceAt(a.site.Journal, m) }, Get: a.bmcs.Get, Sensors: a.bmcs.Sensors, Members: a.mesh.Members, Secret: a.site.Secret, Live: a.mesh.Live, Ask: a.mesh.Read,
	})
	a.mesh.Telemetry = a.history.Peer()
}

// wireConsoles makes what holds the machines' serial lines.
func (a *Agent) wireConsoles() (err error) {
	a.console, err = console.New(console.Config{
		Site: a.id.Site, Self: a.id.Agent, Dir: filepath.Join(a.cfg.Data, "consoles"), Want: a.site.Want, Owning: a.control.Owning, Owners: a.mesh.Owners,
		Fit: func() bool { return !a.db.Recovering() && a.replica.Counts() }, Dial: a.bmcs.Console, Live: a.mesh.Live, Journal: a.journal, Audit: a.audit, Log: a.cfg.Logger,
		Peer: func(id string) http.RoundTripper { return a.end.RoundTripper(transport.Peer{Site: a.id.Site, ID: id}) },
	})
	if err != nil {
		return err
	}
	a.mesh.Consoles = a.console.Peer()
	key, err := upkeep.StateKey(a.cfg.Data)
	a.console.Door = console.Door{Listen: a.cfg.SSH, Key: sshd.HostKey(key)}
	return err
}

// wireAPI makes the session with a coordinator and the site's API.
func (a *Agent) wireAPI() {
	a.over = &overrides{w: a.site, self: a.id.Agent, sign: a.keys.Sign, claims: a.claims, log: a.cfg.Logger, audit: a.audit}
	a.backend = &backend{
		info: api.Info{Role: "site", ID: a.id.Agent, Site: a.id.Site, Domain: a.id.Domain, Version: a.cfg.Version}, w: a.site, db: a.db, floor: a.floor,
		mesh: a.mesh, logins: a.logins, gossip: a.gossip, others: a.heardSites, over: a.over, uplink: func() bool { return a.uplink.Status().Up },
		cutOff: a.cutOff, members: a.members, store: a.storeWord, probe: a.traffic.Probe, dhcp: a.bootnet.DHCP, assets: a.assets.Statuses, act: a.assets.All, audit: a.audit, Documents: a.sticks, Machines: explain.Machines{Site: a.site, Control: a.control, Fresh: a.fresh, Overrides: a.over.reports}, Source: a.history, Desk: a.proofs, Strangers: a.strange, Keeper: a.console,
	}
	a.backend.Operator = &operate.Operator{Site: a.site, Control: a.control, Fresh: a.fresh, Audit: a.audit, Owners: a.mesh.Owners, May: a.backend.may}
	door := &intake.Door{Desk: a.desk, Site: a.id.Site, Self: a.id.Agent, Now: a.backend.Now, Note: a.note}
	a.backend.Keys, a.backend.Vault = door, door
	a.backend.TrafficSource = a.traffic
	a.wireSticks()
	a.api = api.New(a.backend, a.cfg.Logger)
	a.console.Door.ByKey, a.console.Door.Changed = a.api.ByKey, a.backend.Changed
	a.rekey = a.newWorker()
	a.mesh.Called = a.rekey.Kick
	a.uplink = uplink.NewClient(uplink.ClientConfig{
		Endpoint: a.end, Log: a.cfg.Logger, StartSpread: a.cfg.Spread, MaxBackoff: a.cfg.MaxBackoff,
		Hello: func() uplink.Hello {
			return uplink.Hello{Agent: a.id.Agent, Site: a.id.Site, Boot: a.life, Version: a.cfg.Version, Heads: a.heads()}
		},
		Targets: a.targets, OnHeads: a.onHeads, OnUp: a.onUp, Reverse: a.reverse(),
		Active: a.mesh.Holds, Visit: uplink.VisitEvery, OnDown: func(error) { a.gossip.SetTags(func(t *gossip.Tags) { t.WAN = false }) },
	})
	a.chain = intake.NewChain(intake.ChainConfig{
		Desk: a.desk, Site: a.id.Site, Self: a.id.Agent, Above: a.uplink.RoundTripper(), Hearing: a.mesh.Hearing, MaxBackoff: a.cfg.MaxBackoff, Log: a.cfg.Logger,
		Peer: func(id string) http.RoundTripper { return a.end.RoundTripper(transport.Peer{Site: a.id.Site, ID: id}) },
	})
}

// serve runs everything and waits for all of it.
func (a *Agent) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	run := func(name string, fn func(context.Context) error) {
		g.Go(func() error {
			if err := fn(ctx); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	a.bootnet.Refresh() // before anything is bound: the first packet finds a view
	run("answers", a.bootnet.Run)
	if err := a.bootnet.Listen(run); err != nil {
		cancel()
		return errors.Join(err, g.Wait())
	}
	srv := &http.Server{Handler: a.api, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(a.cfg.Logger.Handler(), slog.LevelDebug)}
	run("endpoint", a.end.Run)
	run("site api", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // watches have no end of their own
		defer stop()
		return ignoreClosed(srv.Serve(a.end.HTTPListener()))
	})
	run("gossip", a.gossip.Run)
	run("gossip of sites", a.sites.Run)
	run("journal", a.journal.Run)
	run("uplink", a.uplink.Run)
	run("chain", a.chain.Run)
	run("follow", a.follow)
	run("other sites", a.abroad.Run)
	run("URLs", a.origins.Run)
	run("follow other sites", a.followSites)
	run("members", a.members.Run)
	run("admission", a.keepOffering)
	run("upkeep", a.upkeep.Run)
	run("keys", a.rekey.Run)
	run("catch-up", a.back.Run)
	run("audit", func(ctx context.Context) error { return a.audit.Run(ctx, a.session) })
	run("beacon", a.fresh.Run)
	run("reports", a.reports)
	run("assets", a.assets.Run)
	run("traffic", a.traffic.Run)
	run("reconcile", a.control.Run)
	run("sessions with BMCs", a.bmcs.Run)
	run("history", a.history.Run)
	run("consoles", a.console.Run)
	run("consoles by SSH", a.console.Serve)
	run("marks", a.keepMarks)
	run("holds", a.holds.Run)
	run("metrics", a.serveMetrics)
	a.cfg.Logger.Info("agent is up", "site", a.id.Site, "agent", a.id.Agent, "management", a.end.Addr().String(), "boot", a.cfg.Boot)
	return g.Wait()
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, transport.ErrClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
