package peers

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/siteagent/claim"
)

const (
	holders = 2 // sessions of a site: one that works, and one that is there when it does not
	// unseen is how long no agent of the site may have reached a coordinator before all try, and not only the first two.
	unseen   = time.Minute
	callWait = 5 * time.Second // for a peer that is alive
)

// standing is when another agent of the site last showed that it reaches a coordinator.
type standing struct {
	mu sync.Mutex // guards at
	at time.Time
}

// holds tells whether self is of those that hold a session: the first two, in the order in which they pull the chain, of the agents that
// reach a coordinator, and of self; of all that live while none does, and everybody when no other one did for a while.
// Source: mesh.md section 2.
func holds(site, self string, live, reach []string, none time.Duration) bool {
	of := reach
	if len(reach) == 0 {
		if none >= unseen {
			return true
		}
		of = live
	}
	if !slices.Contains(of, self) {
		of = append(slices.Clone(of), self)
	}
	return slices.Index(claim.Rendezvous(site, of), self) < holders
}

// Holds tells whether this agent should hold a session with a coordinator now. Of the others each opens one when it has something to say.
func (m *Mesh) Holds() bool {
	var live, reach []string
	others := false
	for _, p := range m.Gossip.Members() {
		if !p.Alive && p.ID != m.Self {
			continue
		}
		live = append(live, p.ID)
		if p.Tags.WAN {
			reach = append(reach, p.ID)
			others = others || p.ID != m.Self
		}
	}
	m.standing.mu.Lock()
	defer m.standing.mu.Unlock()
	if others || m.standing.at.IsZero() {
		m.standing.at = time.Now()
	}
	return holds(m.Site, m.Self, live, reach, time.Since(m.standing.at))
}

// Call sends the agents that hold no session to the coordinator, if this one holds one: it wants something, and cannot tell them.
func (m *Mesh) Call(ctx context.Context) {
	line := m.Hearing()
	if slices.Index(line, m.Self) >= holders {
		return
	}
	for _, p := range line[min(holders, len(line)):] {
		ctx, cancel := context.WithTimeout(ctx, callWait)
		err := m.call(ctx, p, http.MethodPost, "/m/1/call", struct{}{}, nil)
		if cancel(); err != nil {
			m.Log.Debug("an agent was not called; it comes by itself", "peer", p, "err", err)
		}
	}
}

// called takes a peer's Call.
func (m *Mesh) called(w http.ResponseWriter, _ *http.Request) {
	m.Called()
	answerJSON(w, http.StatusOK, struct{}{})
}
