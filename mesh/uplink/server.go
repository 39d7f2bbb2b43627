package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/trust"
)

// ServerConfig of a Server.
type ServerConfig struct {
	Endpoint *transport.Endpoint
	// Welcome returns the welcome for an agent of site, heads included. An error turns the agent away.
	Welcome func(site string) (Welcome, error)
	// Handler serves requests of agents; the agent is transport.PeerFrom.
	Handler   http.Handler
	OnHello   func(context.Context, Hello)                           // optional: a session stands
	OnApplied func(ctx context.Context, site, agent string, h Heads) // optional: what is active there
	OnGone    func(site, agent string)                               // optional: the agent's last session ended
	Log       *slog.Logger

	MaxSessions int // default 30,000: 10,000 sites with two and room
}

const (
	maxSessions = 30_000
	busySeconds = 30
)

// Server is the coordinator's side.
type Server struct {
	cfg ServerConfig

	mu    sync.Mutex // guards what follows
	sites map[string]map[*session]bool
	count int
	rests map[string]rested // by SITE/AGENT: who ended its last session to rest; at most MaxSessions
}

// session is one agent's.
type session struct {
	conn  *transport.Conn
	hello Hello
	since time.Time
	moved chan struct{} // capacity 1: heads moved
	heads Heads         // applied; guarded by Server.mu
	heard time.Time     // guarded by Server.mu
	rests bool          // the agent ends it to rest; guarded by Server.mu
}

// NewServer registers its handlers on an endpoint that does not run yet.
func NewServer(cfg ServerConfig) *Server {
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = maxSessions
	}
	s := &Server{cfg: cfg, sites: map[string]map[*session]bool{}, rests: map[string]rested{}}
	if cfg.Handler != nil {
		cfg.Endpoint.HandleHTTP(trust.ALPNUplink, cfg.Handler)
	}
	cfg.Endpoint.HandleStream(trust.ALPNUplink, transport.KindUplink, func(ctx context.Context, st *transport.Stream) {
		defer st.Close()
		if err := s.serve(ctx, st); err != nil {
			cfg.Log.DebugContext(ctx, "uplink session ended", "agent", st.Peer().String(), "err", err)
		}
	})
	return s
}

// SessionInfo shows one session, or the last one of an agent that rests: it comes by again, and opens one when it is asked to.
type SessionInfo struct {
	Site, Agent, Boot, Version string
	Lane                       transport.Lane
	Addr                       string
	Since, Heard               time.Time
	Applied                    Heads
	Key, CA                    intent.Digest // of the agent's leaf, and of the CA that vouched for it: SHA-256 of their public keys
	Resting                    bool
}

// rested is the last session of an agent that rests.
type rested struct {
	info SessionInfo
	id   trust.Identity
}

// info of a session; the caller holds Server.mu.
func (x *session) info() SessionInfo {
	return SessionInfo{
		Site: x.hello.Site, Agent: x.hello.Agent, Boot: x.hello.Boot, Version: x.hello.Version, Lane: x.conn.Lane(),
		Addr: x.conn.RemoteAddr().String(), Since: x.since, Heard: x.heard, Applied: x.heads,
		Key: x.conn.Peer().SPKI, CA: x.conn.Peer().CA(), Resting: x.rests,
	}
}

// Standing returns how many sessions stand.
func (s *Server) Standing() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Sessions returns all sessions, and the last ones of agents that rest, by site and agent.
func (s *Server) Sessions() []SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	out := make([]SessionInfo, 0, len(s.rests)+s.count)
	for _, x := range s.rests {
		out = append(out, x.info)
	}
	for _, xs := range s.sites {
		for x := range xs {
			out = append(out, x.info())
		}
	}
	slices.SortStableFunc(out, func(a, b SessionInfo) int {
		switch {
		case a.Site+"/"+a.Agent < b.Site+"/"+b.Agent:
			return -1
		case a.Site+"/"+a.Agent > b.Site+"/"+b.Agent:
			return 1
		default:
			return a.Since.Compare(b.Since)
		}
	})
	return out
}

// Connected tells whether an agent of site has a session, or rests; "" is any agent, with a session.
func (s *Server) Connected(site, agent string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.sites[site] {
		if agent == "" || x.hello.Agent == agent {
			return true
		}
	}
	x, rests := s.rests[site+"/"+agent]
	return rests && !s.gone(x)
}

// Notify pushes the current heads to the sessions of site; "" means all sites. It does not block.
func (s *Server) Notify(site string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if site != "" {
		push(s.sites[site])
		return
	}
	for _, xs := range s.sites {
		push(xs)
	}
}

func push(xs map[*session]bool) {
	for x := range xs {
		select {
		case x.moved <- struct{}{}:
		default: // a push is pending and will carry the newest heads
		}
	}
}

// serve runs one control stream.
func (s *Server) serve(ctx context.Context, st *transport.Stream) error {
	id := st.Peer()
	if st.Session() == nil {
		return errors.New("cannot serve uplink: the stream came before its session")
	}
	if err := st.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return fmt.Errorf("cannot bound hello: %w", err)
	}
	r := newLineReader(st)
	l, err := r.next()
	if err != nil {
		return err
	}
	if l.Hello == nil || l.Hello.Agent != id.ID || l.Hello.Site != id.Site {
		st.Session().Close(transport.CodeProtocol, "hello of another agent")
		return fmt.Errorf("cannot serve uplink: %s says hello as another", id)
	}
	x := &session{conn: st.Session(), hello: *l.Hello, since: time.Now(), heard: time.Now(), heads: l.Hello.Heads, moved: make(chan struct{}, 1)}
	if !s.add(x) {
		return writeLine(st, &line{Busy: &busy{RetryAfter: busySeconds}})
	}
	defer s.remove(x)
	w, err := s.cfg.Welcome(id.Site)
	if err != nil {
		_ = writeLine(st, &line{Busy: &busy{RetryAfter: busySeconds}}) // the cause is what counts
		return fmt.Errorf("cannot welcome %s: %w", id, err)
	}
	if err := writeLine(st, &line{Welcome: &w}); err != nil {
		return err
	}
	if err := st.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("cannot serve uplink: %w", err)
	}
	if s.cfg.OnHello != nil {
		s.cfg.OnHello(ctx, *l.Hello)
	}
	return s.follow(ctx, st, r, x)
}

func (s *Server) follow(ctx context.Context, st *transport.Stream, r *lineReader, x *session) error {
	g, gctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(gctx, func() { _ = st.Close() })
	defer stop()
	tcp := x.conn.Lane() == transport.LaneTCP
	g.Go(func() error {
		for {
			if tcp {
				if err := st.SetReadDeadline(time.Now().Add(silence)); err != nil {
					return err
				}
			}
			l, err := r.next()
			if err != nil {
				return err
			}
			s.mu.Lock()
			x.heard = time.Now()
			if l.Applied != nil {
				x.heads = *l.Applied
			}
			x.rests = l.Rest != nil
			s.mu.Unlock()
			if l.Rest != nil {
				return errRest
			}
			if l.Applied != nil && s.cfg.OnApplied != nil {
				s.cfg.OnApplied(gctx, x.hello.Site, x.hello.Agent, *l.Applied)
			}
		}
	})
	g.Go(func() error {
		t := time.NewTicker(pingEvery)
		defer t.Stop()
		for {
			l := line{}
			select {
			case <-x.moved:
				w, err := s.cfg.Welcome(x.hello.Site)
				if err != nil {
					return err
				}
				l.Heads = &w.Heads
			case <-t.C:
				if !tcp {
					continue
				}
				l.Ping = &ping{}
			case <-gctx.Done():
				return gctx.Err()
			}
			if err := writeLine(st, &l); err != nil {
				return err
			}
		}
	})
	return g.Wait()
}

func (s *Server) add(x *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count >= s.cfg.MaxSessions {
		return false
	}
	s.count++
	delete(s.rests, x.hello.Site+"/"+x.hello.Agent)
	m := s.sites[x.hello.Site]
	if m == nil {
		m = map[*session]bool{}
		s.sites[x.hello.Site] = m
	}
	m[x] = true
	return true
}

// forget lets go who rested and is gone. The caller holds mu.
func (s *Server) forget() {
	maps.DeleteFunc(s.rests, func(_ string, x rested) bool { return s.gone(x) })
}

// gone tells whether who rested did not come by, or may not any more.
func (s *Server) gone(x rested) bool {
	return time.Since(x.info.Heard) > restKept || !s.cfg.Endpoint.Admits(x.id)
}

func (s *Server) remove(x *session) {
	s.mu.Lock()
	s.count--
	m := s.sites[x.hello.Site]
	delete(m, x)
	left := false
	for y := range m {
		left = left || y.hello.Agent == x.hello.Agent
	}
	if len(m) == 0 {
		delete(s.sites, x.hello.Site)
	}
	if len(s.rests) >= s.cfg.MaxSessions {
		s.forget()
	}
	if !left && x.rests && len(s.rests) < s.cfg.MaxSessions {
		s.rests[x.hello.Site+"/"+x.hello.Agent] = rested{x.info(), x.conn.Peer()}
	}
	s.mu.Unlock()
	if !left && s.cfg.OnGone != nil {
		s.cfg.OnGone(x.hello.Site, x.hello.Agent)
	}
}
