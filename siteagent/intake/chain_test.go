package intake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// giver gives the chain as an agent or a coordinator does: at once, after a wait, never, or with an error.
type giver struct {
	mu    sync.Mutex // guards what follows
	chain []*intent.Envelope
	moved chan struct{}
	mute  bool
	fail  error
	asked int
}

func (g *giver) have(envs ...*intent.Envelope) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.chain = append(g.chain, envs...)
	close(g.moved)
	g.moved = make(chan struct{})
}

func (g *giver) RoundTrip(r *http.Request) (*http.Response, error) {
	from, err := strconv.Atoi(r.URL.Query().Get("from"))
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.asked++; g.fail == nil && (g.mute || r.URL.Query().Has("wait") && len(g.chain) < from); {
		moved := g.moved
		g.mu.Unlock()
		select {
		case <-moved:
			g.mu.Lock()
		case <-r.Context().Done():
			g.mu.Lock()
			return nil, r.Context().Err()
		}
	}
	if g.fail != nil {
		return nil, g.fail
	}
	var body bytes.Buffer
	for _, env := range g.chain[min(from-1, len(g.chain)):] {
		line, err := document.Encode(env)
		if err != nil {
			return nil, err
		}
		body.Write(append(line, '\n'))
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(&body), Request: r}, nil
}

// site is an agent's chain, its coordinator, and the agents that pull before and after it.
type site struct {
	*Chain
	author       *sitetest.Author
	above, first *giver
	rank         int // of this agent
}

// chained runs fn in a bubble with an agent that pulls by Chain.
func chained(t *testing.T, rank int, fn func(*testing.T, *site)) {
	synctest.Test(t, func(t *testing.T) {
		s := &site{author: sitetest.NewAuthor(t), above: &giver{moved: make(chan struct{})}, first: &giver{moved: make(chan struct{})}, rank: rank}
		r, db := sitetest.OpenReplica(t, t.TempDir(), s.author, "a1")
		s.Chain = NewChain(ChainConfig{
			Desk: &Desk{
				Replica: r, Log: slog.New(slog.DiscardHandler), Close: func() int { return 0 },
				Moved: func(string, intent.Head) {}, Refused: func(string, error) {},
			},
			Site: "lon1", Self: "a1", Above: s.above, Peer: func(string) http.RoundTripper { return s.first },
			Hearing:    func() []string { return slices.Insert([]string{"a2"}, s.rank, "a1") },
			MaxBackoff: time.Minute, Log: slog.New(slog.DiscardHandler),
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		fn(t, s)
		cancel()
		if err := errors.Join(<-ended, db.Close()); err != nil {
			t.Error(err)
		}
	})
}

// publish makes the next entry; who has it already is given it, and the agent is told.
func (s *site) publish(who ...*giver) {
	env := s.author.Put(sitetest.MachineTypeDoc("small", 1))
	for _, g := range who {
		g.have(env)
	}
	s.Want(s.author.Head)
}

// check says whether the agent is where the author is, and how often each was asked.
func (s *site) check(t *testing.T, at bool, above, first int) {
	t.Helper()
	synctest.Wait()
	if got := s.Desk.Replica.State().Staged.Compare(s.author.Head) >= 0; got != at {
		t.Errorf("level with the author: %v, want %v", got, at)
	}
	for g, n := range map[*giver]int{s.above: above, s.first: first} {
		g.mu.Lock()
		if g.asked != n {
			t.Errorf("asked %d times, want %d (coordinator: %v)", g.asked, n, g == s.above)
		}
		g.mu.Unlock()
	}
}

// TestChainFromTheFirst: the second agent of a site takes the chain from the first, also when that one has it a moment later.
func TestChainFromTheFirst(t *testing.T) {
	chained(t, 1, func(t *testing.T, s *site) {
		s.publish(s.above, s.first)
		s.check(t, true, 0, 1)
		s.publish(s.above)
		s.check(t, false, 0, 2)
		s.first.have(s.above.chain[1])
		s.check(t, true, 0, 2)
	})
}

// TestChainSlowFirst: who keeps the chain for itself costs the others two seconds a minute.
func TestChainSlowFirst(t *testing.T) {
	chained(t, 1, func(t *testing.T, s *site) {
		s.first.mute = true
		s.publish(s.above)
		time.Sleep(patience - time.Millisecond)
		s.check(t, false, 0, 1)
		time.Sleep(time.Millisecond)
		s.check(t, true, 1, 1)
		s.publish(s.above)
		s.check(t, true, 2, 1)
		s.first.mute = false
		time.Sleep(slowFor)
		s.first.have(s.above.chain...)
		s.publish(s.above, s.first)
		s.check(t, true, 2, 2)
	})
}

// TestChainOfTheFirst: the first agent asks the coordinator alone, and again while that fails, until its session is gone.
func TestChainOfTheFirst(t *testing.T) {
	chained(t, 0, func(t *testing.T, s *site) {
		s.above.fail = errors.New("no route")
		s.publish(s.above, s.first)
		s.check(t, false, 1, 0)
		s.above.mu.Lock()
		s.above.fail = nil
		s.above.mu.Unlock()
		time.Sleep(time.Second)
		s.check(t, true, 2, 0)
		s.above.mu.Lock()
		s.above.fail = uplink.ErrDown
		s.above.mu.Unlock()
		s.publish(s.above)
		time.Sleep(time.Hour)
		s.check(t, false, 3, 0)
	})
}
