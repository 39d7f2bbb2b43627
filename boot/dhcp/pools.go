package dhcp

import (
	"net/netip"
	"slices"
	"time"
)

// Room is how full a subnet's dynamic range is.
type Room struct {
	Subnet string
	Size   int      // addresses of the range
	Used   int      // those that no new client may have
	Kept   int      // those among them of which the lease has ended, and that an agent may have renewed that was not heard since
	Unsure []string // those agents
}

// Low tells whether nine tenths are used.
func (r Room) Low() bool { return r.Used*10 >= r.Size*9 }

// Ample tells whether a fifth is free again, after it was low.
func (r Room) Ample() bool { return r.Used*5 <= r.Size*4 }

// Rooms says of each dynamic range how full it is at a time, in order of the subnets.
func (v *View) Rooms(now time.Time) (out []Room) {
	for _, s := range v.f.Subnets {
		if !s.DynFirst.IsValid() {
			continue
		}
		r := Room{Subnet: s.Name, Size: int(ip4(s.DynLast)-ip4(s.DynFirst)) + 1}
		for _, a := range []netip.Addr{s.Router, s.Prefix.Addr(), lastAddr(s.Prefix)} {
			if _, static := v.static[a]; !static && s.dynamic(a) {
				r.Used++
			}
		}
		for a := range v.static {
			if s.dynamic(a) {
				r.Used++
			}
		}
		for a := range v.f.Resting {
			if _, static := v.static[a]; !static && s.dynamic(a) && v.rests(a, now) {
				r.Used++
			}
		}
		for a, l := range v.taken {
			if _, static := v.static[a]; !static && s.dynamic(a) && !v.rests(a, now) {
				v.leased(&r, l, now)
			}
		}
		slices.Sort(r.Unsure)
		out = append(out, r)
	}
	return out
}

// dynamic tells whether an address lies in the dynamic range.
func (s Subnet) dynamic(a netip.Addr) bool {
	return a.Is4() && !a.Less(s.DynFirst) && !s.DynLast.Less(a)
}

// leased adds an address that is, or was, leased.
func (v *View) leased(r *Room, l Lease, now time.Time) {
	if v.released(l, now) {
		return
	}
	r.Used++
	end := l.Until.Add(quarantine)
	if now.Before(end) {
		return
	}
	r.Kept++
	for _, a := range v.f.Agents {
		if a.ID != v.self.ID && a.Heard.Before(end) && !slices.Contains(r.Unsure, a.ID) {
			r.Unsure = append(r.Unsure, a.ID)
		}
	}
}
