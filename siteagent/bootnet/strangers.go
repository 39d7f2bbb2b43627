package bootnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/ipxe"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/discovery"
)

// plugged notes where a client without reservation is, as a listed relay says.
func (s *answers) plugged(e dhcp.Event) {
	if v := s.View(); !e.Relay.IsValid() || v == nil || v.Reserved(e.MAC) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ports) >= maxSeen {
		clear(s.ports)
	}
	s.ports[e.MAC.String()] = discovery.Port{Relay: e.Relay.String(), Circuit: dhcp.PortID(e.Circuit), Remote: dhcp.PortID(e.Remote)}
}

// leased returns the subnet pool of the dynamic address that this site leased to a MAC, if from is that address and strangers are looked
// at there.
func (s *answers) leased(mac string, from netip.Addr) (name string, pool *intent.SubnetPoolSpec, ok bool) {
	if m, err := dhcp.ParseMAC(mac); err != nil || m.String() != mac {
		return "", nil, false
	}
	if l, ok := claim.Load[lease](s.w.Journal, kindLease, from.String()); !ok || l.MAC != mac || !time.Now().Before(s.ends(l)) {
		return "", nil, false
	}
	for _, o := range s.w.Now().Overlay.Catalog.List(intent.KindSubnetPool) {
		p := o.Spec.(*intent.SubnetPoolSpec)
		if o.Metadata.Site == s.w.ID() && p.Dynamic != nil && p.Dynamic.Contains(from) {
			return o.Metadata.Name, p, true
		}
	}
	return "", nil, false
}

// stranger fills in what a machine that nobody declared boots, and names the rule: the ramdisk without a token, if it has a dynamic address
// of this site. Where another server gives the addresses, and to who is ignored, it is left to its own disk.
func (s *answers) stranger(in *ipxe.Input, mac string, from netip.Addr) (rule string) {
	_, pool, ok := s.leased(mac, from)
	if !ok || s.strangers == nil {
		return "stranger without a lease of ours"
	}
	if why := s.strangers.Leave(mac, time.Now()); why != "" {
		return why
	}
	prefix, err := netip.ParsePrefix(pool.Prefix)
	if err != nil {
		return "stranger on a subnet that cannot be read"
	}
	s.way(in, mac, netip.PrefixFrom(from, prefix.Bits()), pool)
	switch {
	case in.Kernel.IsZero() || in.Ramdisk.IsZero():
		return "stranger, and the site has no installer"
	case s.w.Assets(nil) != "":
		in.Act, in.Reason = ipxe.ActWait, "the installer is not at this site yet"
		return "stranger, and assets are not here yet"
	}
	in.Act = ipxe.ActDiscover
	return "stranger: inventory only"
}

// Discover implements install.Strangers.
func (s *answers) Discover(ctx context.Context, from netip.Addr, d install.Discovery) (install.Discovered, error) {
	name, _, ok := s.leased(d.MAC, from)
	if !ok || s.strangers == nil {
		return install.Discovered{}, fmt.Errorf("%w: no lease of %s for that MAC address is known here", install.ErrBusy, from)
	}
	d.Report.Bound()
	if !slices.Contains(d.Report.MACs(), d.MAC) {
		return install.Discovered{}, fmt.Errorf("%w: the card that booted is not in the report", install.ErrBadRequest)
	}
	s.mu.Lock()
	port := s.ports[d.MAC]
	s.mu.Unlock()
	now := time.Now()
	owner, unwanted, err := s.strangers.See(ctx, discovery.Sighting{
		MAC: d.MAC, Address: from.String(), Subnet: name, Port: port, Facts: factsOf(&d.Report, now), Report: &d.Report,
	}, now)
	switch {
	case errors.Is(err, discovery.ErrReport):
		return install.Discovered{}, fmt.Errorf("%w: %w", install.ErrBadRequest, err)
	case err != nil:
		return install.Discovered{}, fmt.Errorf("%w: %w", install.ErrBusy, err)
	case owner != "":
		return install.Discovered{Standing: install.StandingDeclared}, nil
	case unwanted:
		return install.Discovered{Standing: install.StandingIgnored}, nil
	case s.strangers.Leave(d.MAC, now) != "":
		return install.Discovered{Standing: install.StandingInUse}, nil
	}
	return install.Discovered{Standing: install.StandingDiscovered}, nil
}

var _ install.Strangers = (*answers)(nil)
