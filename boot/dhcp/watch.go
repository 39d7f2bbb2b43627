package dhcp

import (
	"fmt"
	"net/netip"
	"time"
)

// Server is a DHCP server that is none of the site's agents, as far as it showed itself.
type Server struct {
	ID   netip.Addr `json:"id"`             // option 54
	Addr netip.Addr `json:"addr,omitzero"`  // where its packets come from; zero if only a client named it
	MAC  string     `json:"mac,omitempty"`  // of the station that sent them; "" likewise
	Has  netip.Addr `json:"gave,omitzero"`  // the address that it offered or gave last
	By   string     `json:"from,omitempty"` // ByReply, ByClient
}

// How a server was noticed.
const (
	ByReply  = "its own reply"
	ByClient = "a client that chose it"
)

// String says whose it is: address, Ethernet address and server identifier.
func (s Server) String() string {
	switch {
	case !s.Addr.IsValid():
		return fmt.Sprintf("%s (named by a client)", s.ID)
	case s.Addr == s.ID:
		return fmt.Sprintf("%s at %s", s.ID, s.MAC)
	}
	return fmt.Sprintf("%s at %s, which sends from %s", s.ID, s.MAC, s.Addr)
}

// Times of the watch for other servers (boot.md section 2).
const (
	// ProbeWait is how long a probe is waited for; a later answer counts all the same.
	ProbeWait = 2 * time.Second
	// GoneAfter and goneProbes both must have passed without a sign of another server before it counts as gone.
	GoneAfter  = 10 * time.Minute
	goneProbes = 3
)

// Watch is what an agent knows about other DHCP servers on one subnet. It has no clock: times are given. Not safe for
// concurrent use.
type Watch struct {
	Settled bool   // false: nothing was found out yet
	Present bool   // another server is there
	Server  Server // the one noticed last; kept when it is gone
	heard   time.Time
	replied time.Time // when one was heard by its own reply last
	silent  int       // probes since then
}

// Heard notes a sign of s, and returns whether that is news: nobody was there before.
func (w *Watch) Heard(s Server, at time.Time) bool {
	news := !w.Present
	w.reply(s, at)
	if w.Server.ID == s.ID && s.By == ByClient && w.Server.By == ByReply {
		s.Addr, s.MAC, s.By = w.Server.Addr, w.Server.MAC, w.Server.By // what was seen of it stays
	}
	w.Settled, w.Present, w.Server, w.heard, w.silent = true, true, s, at, 0
	return news
}

// Silent notes a probe that nobody answered, and returns whether that is news: the first one at all, or the one that says
// that the other server is gone.
func (w *Watch) Silent(at time.Time) bool {
	w.silent++
	switch {
	case !w.Settled:
		w.Settled = true
		return true
	case w.Present && w.silent >= goneProbes && at.Sub(w.heard) >= GoneAfter:
		w.Present = false
		return true
	}
	return false
}

// Learn takes over what another agent, or this one in an earlier life, found out; the times count from now on.
func (w *Watch) Learn(present bool, s Server, at time.Time) {
	w.Settled, w.Present, w.Server, w.heard, w.silent = true, present, s, at, 0
	if present {
		w.reply(s, at)
	}
}

// reply notes how s was noticed.
func (w *Watch) reply(s Server, at time.Time) {
	if s.By == ByReply {
		w.replied = at
	}
}

// Answers tells whether another server was heard by its own reply within GoneAfter: what clients name anybody can make up.
func (w *Watch) Answers(at time.Time) bool {
	return w.Present && !w.replied.IsZero() && at.Sub(w.replied) < GoneAfter
}

// Forgive says that the server is one of the site's own, as a roster that came later shows.
func (w *Watch) Forgive() { w.Present = false }

// Mode is the mode in force under a wanted one: auto gives way to another server, and until something was found out.
func (w *Watch) Mode(want Mode) Mode {
	switch {
	case want != ModeAuto:
		return want
	case w.Present || !w.Settled:
		return ModeProxy
	}
	return ModeAuthoritative
}
