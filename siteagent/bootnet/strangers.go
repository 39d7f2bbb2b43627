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
	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/boot/ipxe"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/discovery"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
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

// leased returns the subnet pool of the dynamic address that this site leased to a MAC, if from is that address.
func (s *answers) leased(mac string, from netip.Addr) (name string, pool *intent.SubnetPoolSpec, ok bool) {
	if m, err := dhcp.ParseMAC(mac); err != nil || m.String() != mac {
		return "", nil, false
	}
	if l, ok := s.leaseAt(from); !ok || l.MAC != mac {
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

// leaseAt returns the lease of an address that has not ended.
func (s *answers) leaseAt(a netip.Addr) (lease, bool) {
	l, ok := claim.Load[lease](s.w.Journal, kindLease, a.String())
	return l, ok && time.Now().Before(s.ends(l))
}

// Guest implements install.Strangers.
func (s *answers) Guest(from netip.Addr) bool {
	_, ok := s.leaseAt(from)
	return ok
}

// stays renews the lease of a machine that tells of itself, once half of it is gone: its ramdisk keeps the address that it began with.
func (s *answers) stays(ctx context.Context, mac string, a netip.Addr) error {
	l, ok := s.leaseAt(a)
	m, err := dhcp.ParseMAC(mac)
	if !ok || err != nil || time.Until(s.ends(l)) > dhcp.LeaseDynamic/2 {
		return err
	}
	return s.Commit(ctx, dhcp.Lease{MAC: m, Addr: a, Until: time.Now().Add(dhcp.LeaseDynamic), Agent: l.Agent, Name: l.Name})
}

// stranger fills in what a machine that nobody declared boots, and names the rule: the ramdisk without a token, if it has a dynamic address
// of this site. Where another server gives the addresses, and to who is ignored, it is left to its own disk.
func (s *answers) stranger(in *ipxe.Input, mac string, from netip.Addr) (rule string) {
	_, pool, ok := s.leased(mac, from)
	switch {
	case !ok || s.strangers == nil:
		return "stranger without a lease of ours"
	case !pool.Discovery:
		return "stranger, and the subnet looks at none"
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
	name, pool, ok := s.leased(d.MAC, from)
	if !ok || s.strangers == nil || !pool.Discovery {
		return install.Discovered{}, fmt.Errorf("%w: no lease of %s for that MAC address is known here", install.ErrBusy, from)
	}
	at, err := s.discover(ctx, from, name, d)
	if err != nil {
		// Nothing is kept of it. Should it be a server at work, it is to have its own system again when it gives up here.
		s.strangers.Failed(d.MAC, time.Now())
	}
	return install.Discovered{Standing: at}, err
}

func (s *answers) discover(ctx context.Context, from netip.Addr, subnet string, d install.Discovery) (install.Standing, error) {
	d.Report.Bound()
	if !slices.Contains(d.Report.MACs(), d.MAC) {
		return "", fmt.Errorf("%w: the card that booted is not in the report", install.ErrBadRequest)
	}
	s.mu.Lock()
	port := s.ports[d.MAC]
	s.mu.Unlock()
	now := time.Now()
	facts := factsOf(&d.Report, now)
	facts.Signed = mayHoldData(&d.Report)
	owner, unwanted, err := s.strangers.See(ctx, discovery.Sighting{
		MAC: d.MAC, Address: from.String(), Subnet: subnet, Port: port, Facts: facts, Report: &d.Report,
	}, now)
	switch {
	case errors.Is(err, discovery.ErrReport):
		return "", fmt.Errorf("%w: %w", install.ErrBadRequest, err)
	case err != nil:
		return "", fmt.Errorf("%w: %w", install.ErrBusy, err)
	case owner != "" && s.begins(owner):
		return install.StandingDeclared, s.stays(ctx, d.MAC, from)
	case owner != "":
		return install.StandingInUse, nil
	case unwanted:
		return install.StandingIgnored, nil
	case s.strangers.Leave(d.MAC, now) != "":
		return install.StandingInUse, nil
	}
	return install.StandingDiscovered, s.stays(ctx, d.MAC, from)
}

// begins tells whether a declared machine was not inspected yet: the site powers it on when it wants to.
func (s *answers) begins(machine string) bool {
	st := claim.Shared[intent.MachineStatus](s.w.Journal, reconcile.KindMachine, machine)
	return st == nil || st.State == "" || st.State == intent.StateExpected
}

// mayHoldData tells whether a machine may run a system of its own: a disk of any kind bears a signature, or there is no disk that the
// ramdisk can see, for want of a driver, or because it boots over a network.
func mayHoldData(r *inventory.Report) bool {
	fixed := false
	for _, d := range r.Disks {
		if len(d.Signatures) > 0 {
			return true
		}
		fixed = fixed || d.Fixed()
	}
	return !fixed
}

var _ install.Strangers = (*answers)(nil)
