package transport

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// halfOpen counts the handshakes under way on one socket, by address. The zero value is usable; it is safe for concurrent use.
type halfOpen struct {
	mu   sync.Mutex // guards what follows
	n    int
	born uint64
	of   map[netip.Addr][]*greeting // the oldest first
}

// greeting is one handshake under way.
type greeting struct {
	from netip.Addr
	born uint64
	cut  func() // nil: it cannot be cut
}

// begin counts one more. When all places are taken and this one could be cut in its turn, the oldest of the address that has the most
// goes for it: who opens thousands pushes out its own. Otherwise it is refused, nil, as is one more of an address that has half of all.
func (h *halfOpen) begin(from netip.Addr, cut func()) *greeting {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cut == nil && (h.n >= maxHalfOpen || len(h.of[from]) >= maxHalfOpen/2) {
		return nil
	}
	if h.n >= maxHalfOpen {
		g := h.worst()
		h.drop(g)
		g.cut()
	}
	if h.of == nil {
		h.of = map[netip.Addr][]*greeting{}
	}
	h.born++
	g := &greeting{from, h.born, cut}
	h.of[from] = append(h.of[from], g)
	h.n++
	return g
}

// end is for a handshake that is over, whoever ended it. False: it was cut before.
func (h *halfOpen) end(g *greeting) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drop(g)
}

// count returns how many are under way.
func (h *halfOpen) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n
}

func (h *halfOpen) worst() *greeting {
	var out *greeting
	for a, l := range h.of {
		if out == nil || len(l) > len(h.of[out.from]) || len(l) == len(h.of[out.from]) && l[0].born < out.born {
			out = h.of[a][0]
		}
	}
	return out
}

func (h *halfOpen) drop(g *greeting) bool {
	l := h.of[g.from]
	i := slices.Index(l, g)
	if i < 0 {
		return false
	}
	h.n--
	if l = slices.Delete(l, i, i+1); len(l) == 0 {
		delete(h.of, g.from)
		return true
	}
	h.of[g.from] = l
	return true
}

// ipOf is the address of a socket's other end; all that are none count as one.
func ipOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
