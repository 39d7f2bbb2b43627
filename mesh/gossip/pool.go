package gossip

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/trust"
)

const (
	forever      = 87600 * time.Hour // Serf forgets a failed peer after that: ten years
	udpBuffer    = 1150              // with the pool octet and QUIC's framing it fits a 1,280 octet path
	joinTimeout  = 5 * time.Second
	joinAtOnce   = 2
	eventDepth   = 256         // for Serf and for the reader of Events; the oldest goes
	tagsEvery    = time.Second // a burst of heads is one update
	tagsMax      = 400         // octets encoded; Serf refuses more than 512
	queueDepth   = 1024        // intents that wait to be handed on; the oldest go
	queueCheck   = time.Second // how often that is looked at
	broadcastMax = time.Second // how long an update waits to be handed to a peer
)

// Scope says which pool it is: the first octet of its packets and streams.
type Scope byte

// The pools: of the agents of a site, and of the gateways of sites that reach each other.
const (
	Site Scope = 1
	WAN  Scope = 2
)

// Node is an agent that may be a member.
type Node struct {
	ID   string // in the pool: of the site pool the agent's, of the WAN pool AGENT.SITE
	Peer transport.Peer
	Addr []string // host:port; the first literal one counts
}

// Roster returns the nodes of a site pool: the agents of a roster that speak and decide.
func Roster(site string, r *intent.RosterBody) []Node {
	var out []Node
	for _, a := range r.Agents {
		if a.State == intent.StateAgent {
			out = append(out, Node{a.ID, transport.Peer{Site: site, ID: a.ID}, a.Addr})
		}
	}
	return out
}

// Config of a Pool.
type Config struct {
	Endpoint *transport.Endpoint
	Self     string // its ID as a Node
	Scope    Scope
	Nodes    func() []Node // who may be a member, this agent too; whoever is not in it is out, whatever gossip says. It does not block
	Tags     Tags          // at start
	Log      *slog.Logger
}

// Member is one node. Since is when Alive last changed as seen here; zero: never heard of.
type Member struct {
	ID    string
	Peer  transport.Peer
	Alive bool
	Since time.Time
	Addr  string
	Tags  Tags
}

// EventKind says what an Event tells.
type EventKind string

// The kinds of events.
const (
	EventAlive EventKind = "alive" // heard, or heard again
	EventDead  EventKind = "dead"  // not heard any more; absence is no removal
	EventHead  EventKind = "head"  // it names heads or versions that it did not name before
)

// Event is a change of one other agent. It is a hint: Members says how things stand.
type Event struct {
	Kind   EventKind
	Member Member
}

// Pool is one agent's part in a pool.
type Pool struct {
	cfg     Config
	carrier *carrier
	events  chan Event
	retag   chan struct{} // capacity 1
	serf    atomic.Pointer[serf.Serf]

	mu    sync.Mutex // guards what follows
	tags  Tags
	since map[string]change
}

type change struct {
	alive bool
	at    time.Time
}

// New returns a pool that hears nothing before it is registered.
func New(cfg Config) (*Pool, error) {
	p := &Pool{cfg: cfg, events: make(chan Event, eventDepth), retag: make(chan struct{}, 1), tags: cfg.Tags, since: map[string]change{}}
	if p.tags.State == "" {
		p.tags.State = Ready
	}
	if n := encodedSize(p.tags.encode()); n > tagsMax {
		return nil, fmt.Errorf("cannot gossip %d octets of tags, at most %d", n, tagsMax)
	}
	p.carrier = newCarrier(p)
	return p, nil
}

// Register lets the pools hear what comes to an endpoint that does not run yet.
func Register(e *transport.Endpoint, pools ...*Pool) {
	of := map[Scope]*carrier{}
	for _, p := range pools {
		of[p.cfg.Scope] = p.carrier
	}
	e.HandlePacket(func(from trust.Identity, b []byte) {
		if len(b) < 2 {
			return
		}
		if c := of[Scope(b[0])]; c != nil {
			c.onPacket(from, b[1:])
		}
	})
	e.HandleStream(trust.ALPNMesh, transport.KindGossip, func(_ context.Context, s *transport.Stream) {
		c := of[scopeOf(s)]
		if c == nil {
			_ = s.Close()
			return
		}
		c.onStream(s)
	})
}

func encodedSize(m map[string]string) int {
	n := 8
	for k, v := range m {
		n += len(k) + len(v) + 4
	}
	return n
}

// config returns Serf's configuration; reasons in mesh.md section 3.
func (p *Pool) config(events chan<- serf.Event) *serf.Config {
	logger := slog.NewLogLogger(p.cfg.Log.Handler(), slog.LevelDebug)
	ml := memberlist.DefaultLANConfig()
	if p.cfg.Scope == WAN {
		ml = memberlist.DefaultWANConfig()
	}
	ml.Transport = p.carrier
	ml.EnableCompression = false
	ml.UDPBufferSize = udpBuffer
	ml.TCPTimeout = joinTimeout
	ml.RequireNodeNames = true
	ml.DeadNodeReclaimTime = 30 * time.Second // an agent whose address changed by roster comes back under its name
	ml.Logger = logger
	c := serf.DefaultConfig()
	c.NodeName = p.cfg.Self
	c.MemberlistConfig = ml
	c.Tags = p.Tags().encode()
	c.EventCh = events
	c.ReconnectTimeout, c.TombstoneTimeout = forever, forever
	c.BroadcastTimeout = broadcastMax
	c.EnableNameConflictResolution = false
	c.QueueCheckInterval, c.MaxQueueDepth = queueCheck, queueDepth
	c.Logger = logger
	c.Merge = p
	return c
}

// Run takes part until ctx ends. It says stopping and goes without a Leave: a restart is no decommission.
func (p *Pool) Run(ctx context.Context) error {
	raw := make(chan serf.Event, eventDepth)
	s, err := serf.Create(p.config(raw))
	if err != nil {
		return fmt.Errorf("cannot join gossip as %s: %w", p.cfg.Self, err)
	}
	p.serf.Store(s)
	g, gctx := errgroup.WithContext(ctx)
	stopped := make(chan struct{})
	g.Go(func() error { p.relay(raw, stopped); return nil }) // ends last: Serf blocks while nobody takes its events
	g.Go(func() error { p.rejoin(gctx, s); return nil })
	g.Go(func() error { p.publish(gctx, s); return nil })
	<-gctx.Done()
	p.mu.Lock()
	p.tags.State = Stopping
	t := p.tags.encode()
	p.mu.Unlock()
	_ = s.SetTags(t) // a courtesy: peers notice the silence anyway
	p.serf.Store(nil)
	err = s.Shutdown()
	<-s.ShutdownCh()
	close(stopped)
	if werr := g.Wait(); err == nil {
		err = werr
	}
	if err != nil {
		return fmt.Errorf("cannot leave gossip cleanly: %w", err)
	}
	return nil
}

// NotifyMerge is Serf's question whether members may be ours. Each member comes alone too, so a list is not refused whole
// because of one that a newer roster may hold.
func (p *Pool) NotifyMerge(ms []*serf.Member) error {
	if len(ms) != 1 {
		return nil
	}
	m := ms[0]
	if m.Name == p.cfg.Self {
		return nil
	}
	n, ok := p.node(func(n Node) bool { return n.ID == m.Name })
	if !ok {
		return fmt.Errorf("cannot accept %q: not in the roster", m.Name)
	}
	if at := n.addr(); at != nil && (!at.IP.Equal(m.Addr) || at.Port != int(m.Port)) {
		return fmt.Errorf("cannot accept %s at %s:%d: the roster says %s", m.Name, m.Addr, m.Port, at)
	}
	return nil
}

func (p *Pool) node(is func(Node) bool) (Node, bool) {
	all := p.cfg.Nodes()
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i], true
	}
	return Node{}, false
}

// knows says whether a name may be a member.
func (p *Pool) knows(name string) bool {
	_, ok := p.node(func(n Node) bool { return n.ID == name })
	return ok
}

// addr returns the first literal address of the node, or nil.
func (n Node) addr() *net.UDPAddr {
	for _, s := range n.Addr {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			continue
		}
		k, err := strconv.Atoi(port)
		if ip := net.ParseIP(host); ip != nil && err == nil {
			return &net.UDPAddr{IP: ip, Port: k}
		}
	}
	return nil
}

// Tags returns what this agent says of itself.
func (p *Pool) Tags() Tags {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tags
}

// SetTags changes what this agent says of itself. It does not block; bursts are sent once a second.
func (p *Pool) SetTags(edit func(*Tags)) {
	p.mu.Lock()
	edit(&p.tags)
	p.mu.Unlock()
	select {
	case p.retag <- struct{}{}:
	default:
	}
}

// SetHead tells the newest head of a stream: intent.StreamIntent, StreamRevocation or StreamTrust.
func (p *Pool) SetHead(stream string, h intent.Head) {
	p.SetTags(func(t *Tags) {
		switch stream {
		case intent.StreamIntent:
			t.Intent = HintOf(h)
		case intent.StreamRevocation:
			t.Revocation = HintOf(h)
		case intent.StreamTrust:
			t.Trust = HintOf(h)
		}
	})
}

// publish sends changed tags.
func (p *Pool) publish(ctx context.Context, s *serf.Serf) {
	for {
		select {
		case <-p.retag:
		case <-ctx.Done():
			return
		}
		if err := s.SetTags(p.Tags().encode()); err != nil {
			p.cfg.Log.DebugContext(ctx, "tags not yet sent", "err", err) // push/pull carries them
		}
		t := time.NewTimer(tagsEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// Events returns changes of other agents. One reader; when it is slow the oldest are dropped.
func (p *Pool) Events() <-chan Event { return p.events }

func (p *Pool) emit(e Event) {
	for {
		select {
		case p.events <- e:
			return
		default:
		}
		select {
		case <-p.events:
		default:
		}
	}
}

// relay turns Serf's events into ours.
func (p *Pool) relay(raw <-chan serf.Event, stopped <-chan struct{}) {
	for {
		select {
		case e := <-raw:
			me, ok := e.(serf.MemberEvent)
			if !ok {
				continue
			}
			for _, m := range me.Members {
				if m.Name != p.cfg.Self {
					p.note(m)
				}
			}
		case <-stopped:
			return
		}
	}
}

// note records a change of one member.
func (p *Pool) note(m serf.Member) {
	alive := m.Status == serf.StatusAlive
	p.mu.Lock()
	old, known := p.since[m.Name]
	if !known || old.alive != alive {
		p.since[m.Name] = change{alive, time.Now()}
	}
	p.mu.Unlock()
	kind := EventHead
	switch {
	case alive && (!known || !old.alive):
		kind = EventAlive
	case !alive:
		kind = EventDead
	}
	n, ok := p.node(func(n Node) bool { return n.ID == m.Name })
	if !ok { // it left the roster
		n.ID = m.Name
	}
	p.emit(Event{kind, p.member(n, m)})
}

func (p *Pool) member(n Node, m serf.Member) Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Member{
		ID: n.ID, Peer: n.Peer, Alive: m.Status == serf.StatusAlive, Since: p.since[m.Name].at,
		Addr: net.JoinHostPort(m.Addr.String(), strconv.Itoa(int(m.Port))), Tags: decodeTags(m.Tags),
	}
}

// Members returns every node, by id, this one included. Whom gossip knows and the roster does not is left out.
func (p *Pool) Members() []Member {
	heard := map[string]serf.Member{}
	if s := p.serf.Load(); s != nil {
		for _, m := range s.Members() {
			heard[m.Name] = m
		}
	}
	var out []Member
	for _, n := range p.cfg.Nodes() {
		m, ok := heard[n.ID]
		switch {
		case n.ID == p.cfg.Self:
			x := Member{ID: n.ID, Peer: n.Peer, Alive: true, Tags: p.Tags()}
			if at := n.addr(); at != nil {
				x.Addr = at.String()
			}
			out = append(out, x)
		case ok:
			out = append(out, p.member(n, m))
		default:
			out = append(out, Member{ID: n.ID, Peer: n.Peer})
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Sight is what gossip says of a node's life.
type Sight struct {
	Alive bool
	Since time.Time // when it came or went; zero: never heard
}

// Sights returns that of every node of the roster that was heard ever, and of this agent, which is always alive. Cheaper than Members.
func (p *Pool) Sights() map[string]Sight {
	out := map[string]Sight{}
	nodes := p.cfg.Nodes()
	if s := p.serf.Load(); s != nil {
		members := s.Members()
		p.mu.Lock()
		for _, m := range members {
			if slices.ContainsFunc(nodes, func(n Node) bool { return n.ID == m.Name }) {
				out[m.Name] = Sight{m.Status == serf.StatusAlive, p.since[m.Name].at}
			}
		}
		p.mu.Unlock()
	}
	out[p.cfg.Self] = Sight{Alive: true}
	return out
}

// Alive tells whether id is in the roster and was heard. This agent is always alive.
func (p *Pool) Alive(id string) bool { return p.Sights()[id].Alive }

var _ serf.MergeDelegate = (*Pool)(nil)
