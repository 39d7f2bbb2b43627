package bootnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/boot/httpboot"
	"github.com/skerry-metal/skerry/boot/ipxe"
	"github.com/skerry-metal/skerry/boot/metadata"
	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/discovery"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/storage/blob"
)

// answers gives the boot network what it asks for: DHCP, scripts, loaders, assets, metadata. They are functions of intent,
// bindings and windows; none needs the ownership of anything.
type answers struct {
	w         *effective.Site
	self      string
	inst      *installers
	blobs     *blob.Store
	relay     Relay
	modes     *modes
	local     []netip.Addr         // this agent's, on boot networks
	strangers *discovery.Strangers // nil: none are looked at
	log       *slog.Logger
	view      atomic.Pointer[dhcp.View]
	events    chan claim.Draft // what was seen, to be journaled; drops the newest when full

	mu      sync.Mutex                // guards what follows
	arch    map[string]string         // MAC -> arch of its last firmware packet
	ports   map[string]discovery.Port // MAC of a stranger -> where a relay said it is
	theirs  map[string]took           // MAC -> the address that it took of a server that is not ours
	seen    map[string]string         // MAC|stage -> window nonce that was journaled
	lost    uint64
	used    map[string]time.Time // address -> when it was told last that somebody else uses it
	offered time.Time            // when offer did last
	// The boot windows by MAC, as they were at that revision of the journal.
	windows  map[string]reconcile.Window
	windowed uint64
}

// took is an address that a machine chose of another server, as its REQUEST says.
type took struct {
	addr   netip.Addr
	subnet string
	at     time.Time
}

// tookFor is how long that counts: from the firmware's REQUEST, or iPXE's own, to its script.
const tookFor = 10 * time.Minute

// maxSeen bounds what is remembered per MAC: a site has some thousand machines; strangers beyond that are forgotten.
const maxSeen = 16384

// View implements dhcp.Site.
func (s *answers) View() *dhcp.View { return s.view.Load() }

// refresh makes the DHCP view anew; the last good one stays when it cannot.
func (s *answers) refresh() {
	defer s.forget()
	f, err := s.facts()
	if err == nil {
		var v *dhcp.View
		if v, err = dhcp.NewView(f); err == nil {
			s.view.Store(v)
			if !f.Aside {
				s.rooms(v)
			}
			return
		}
	}
	s.log.Error("cannot renew DHCP view; the last one stays", "err", err)
}

// forget drops what machines took of other servers where there is none any more, or long ago.
func (s *answers) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.theirs, func(_ string, t took) bool { return time.Since(t.at) >= tookFor || !s.modes.yields(t.subnet) })
}

// Seen implements dhcp.Site: the first packet of each stage of an awaited boot becomes an event.
func (s *answers) Seen(e dhcp.Event) {
	mac := e.MAC.String()
	if e.Stage == "firmware" && e.Arch != "" {
		s.mu.Lock()
		if len(s.arch) < maxSeen {
			s.arch[mac] = e.Arch
		}
		s.mu.Unlock()
	}
	if e.Reason == dhcp.ReasonDecline || e.Reason == dhcp.ReasonConflict {
		s.inUse(e)
	}
	s.plugged(e)
	if e.Server.IsValid() {
		s.modes.chosen(e.Subnet, e.Server)
		if v := s.View(); v != nil && v.Reserved(e.MAC) { // no more than the site has machines
			s.mu.Lock()
			s.theirs[mac] = took{e.Addr, e.Subnet, time.Now()}
			s.mu.Unlock()
		}
	}
	if e.Reason != dhcp.ReasonOffer && e.Reason != dhcp.ReasonAck && e.Reason != dhcp.ReasonProxy {
		return
	}
	addr := "no address"
	if e.Addr.IsValid() {
		addr = e.Addr.String()
	}
	fields := map[string]string{
		"address": addr, "arch": e.Arch, "stage": e.Stage, "file": e.File, "uuid": e.UUID, "subnet": e.Subnet, "type": e.Type,
	}
	if e.Relay.IsValid() { // where it is plugged in, as the relay says
		fields["relay"], fields["circuit"], fields["remote"] = e.Relay.String(), dhcp.PortID(e.Circuit), dhcp.PortID(e.Remote)
	}
	s.once(mac, "dhcp/"+e.Stage+"/"+e.Type, "machine.boot.dhcp", fmt.Sprintf("%s %s of %s (%s): %s", e.Type, e.Reason, e.Stage, e.Arch, addr), fields)
}

// once journals an event the first time it is seen in the machine's present boot window.
func (s *answers) once(mac, what, kind, message string, fields map[string]string) {
	s.first(mac, what, func(win reconcile.Window) claim.Draft {
		return reconcile.Event(win.Machine, win.Task, win.Epoch, kind, message, fields)
	})
}

// first journals a record the first time that what it is about is seen in the machine's present boot window.
func (s *answers) first(mac, what string, draft func(reconcile.Window) claim.Draft) {
	win, ok := s.windowOf(mac)
	if !ok {
		return
	}
	key := mac + "|" + what
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[key] == win.Nonce {
		return
	}
	if len(s.seen) >= maxSeen {
		clear(s.seen)
	}
	s.seen[key] = win.Nonce
	select {
	case s.events <- draft(win):
	default:
		s.lost++
	}
}

// windowOf returns the last boot window of a MAC. The lock is not held. Each packet of a boot storm asks.
func (s *answers) windowOf(mac string) (reconcile.Window, bool) {
	rev, _ := s.w.Journal.Rev()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.windows == nil || s.windowed != rev {
		s.windows, s.windowed = map[string]reconcile.Window{}, rev
		for machine, r := range s.w.Journal.View(reconcile.KindWindow) {
			var w reconcile.Window
			if json.Unmarshal(r.Body, &w) == nil && !s.windows[w.MAC].Opened.After(w.Opened) { // a NIC may have moved
				w.Machine = machine
				s.windows[w.MAC] = w
			}
		}
	}
	w, ok := s.windows[mac]
	return w, ok
}

// Run journals what was seen and renews the DHCP view when something moved, until ctx ends.
func (s *answers) Run(ctx context.Context) error {
	tick := time.NewTicker(modesTick) // one for all rounds: a site that is busy begins them more often
	defer tick.Stop()
	for {
		_, wake := s.w.Journal.Rev()
		st := s.w.State()
		s.refresh()
		if !s.wait(ctx, tick.C, wake, st.Wake) {
			return nil
		}
	}
}

// wait journals events until something moves; false when ctx ended.
func (s *answers) wait(ctx context.Context, tick <-chan time.Time, wake, moved <-chan struct{}) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-wake:
			return true
		case <-moved:
			return true
		case <-s.modes.changed:
			return true
		case <-tick:
			s.modes.tick()
			return true // the view says up to when each agent was heard
		case d := <-s.events:
			if err := s.w.Journal.Append(ctx, claim.Local, d); err != nil {
				s.log.Warn("event not journaled", "err", err)
			}
		}
	}
}

// Script implements httpboot.Scripter. A token goes out only while a journaled power-on of that machine awaits its boot, and
// only to the address that is leased to its MAC.
func (s *answers) Script(_ context.Context, r httpboot.ScriptRequest) (text, decision string, err error) {
	mac := strings.ReplaceAll(r.MAC, "-", ":")
	s.mu.Lock()
	arch := s.arch[mac]
	s.mu.Unlock()
	in := ipxe.Input{Act: ipxe.ActLocal, MAC: r.MAC, UEFI: arch != "" && arch != "bios"}
	e := s.w.Now()
	n, known := effective.Addresses(e.Overlay.Catalog, e.State.Roster, s.w.ID())[mac]
	var rule string
	if known {
		in.Machine = n.Machine
		rule, err = s.decide(&in, mac, n, r.Remote)
	} else {
		rule = s.stranger(&in, mac, r.Remote.Unmap())
	}
	if err != nil {
		return "", "", err
	}
	if text, err = ipxe.Script(in); err != nil {
		return "", "", err
	}
	decision = intent.DigestOf(fmt.Appendf(nil, "%s|%s|%d.%d|%s", mac, r.Remote, e.State.Head.Epoch, e.State.Head.Seq, rule)).Short()
	s.once(mac, "script", "machine.boot.script", fmt.Sprintf("script %s: %s", in.Act, rule), map[string]string{"decision": decision, "act": string(in.Act), "from": r.Remote.String()})
	return text, decision, nil
}

// decide fills in what a known machine boots, and names the rule.
func (s *answers) decide(in *ipxe.Input, mac string, n effective.NICAddress, from netip.Addr) (rule string, err error) {
	v, ok := s.inst.control.View(n.Machine)
	win := v.Window
	switch {
	case !ok || win == nil || win.MAC != mac || !v.Awaited():
		in.Reason = string(v.Status.State)
		return "no boot is awaited: " + string(v.Status.State), nil
	case from.Unmap() != n.Addr && !s.elsewhere(mac, n, from.Unmap()):
		return fmt.Sprintf("asked from %s, leased is %s", from, n.Addr), nil
	}
	n.Addr = from.Unmap()
	s.way(in, n.Machine, n.Prefix(), n.Pool)
	if in.Kernel.IsZero() || v.Assets != "" {
		in.Act, in.Reason = ipxe.ActWait, v.Assets
		return "assets are not here yet", nil
	}
	sg, err := s.inst.signers()
	if err != nil {
		return "", err
	}
	in.Act, in.Token = ipxe.ActInstaller, sg.boot(*win)
	if t := v.Types[v.Status.MachineType]; t != nil {
		in.Console = t.Console
	}
	return "a journaled power-on awaits this boot", nil
}

// elsewhere tells whether a machine has that address from the DHCP server of a subnet on which this site gives none. Anybody can send
// a REQUEST in its name: an address that is known to be another's is not believed.
func (s *answers) elsewhere(mac string, n effective.NICAddress, a netip.Addr) bool {
	m, err := dhcp.ParseMAC(mac)
	v := s.View()
	if err != nil || v == nil || !n.Prefix().Contains(a) || v.Another(a, m, time.Now()) || !s.modes.gives(n.PoolName) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, t := range s.theirs {
		if other != mac && t.addr == a && time.Since(t.at) < tookFor {
			return false
		}
	}
	t, ok := s.theirs[mac]
	return ok && t.addr == a && time.Since(t.at) < tookFor
}

// way fills in how a machine comes to the installer: its kernel and ramdisk, the agents in the machine's order, and the address that it has.
func (s *answers) way(in *ipxe.Input, machine string, addr netip.Prefix, pool *intent.SubnetPoolSpec) {
	c := s.w.Now().Overlay.Catalog
	if site := s.w.Spec(); site != nil && site.Installer != nil {
		in.Kernel, in.Ramdisk, in.ExtraArg = effective.AssetDigest(c, site.Installer.Kernel), effective.AssetDigest(c, site.Installer.Ramdisk), site.Installer.Args
	}
	in.Addr, in.Gateway = addr, parseAddr(pool.Gateway)
	if dns := parseAddrs(pool.DNS); len(dns) > 0 {
		in.DNS = dns[0]
	}
	var pins []string
	for _, a := range s.inst.agentsFor(machine) {
		host, _, _ := strings.Cut(a.Addr, ":")
		in.Agents, in.HTTP, pins = append(in.Agents, a.Addr), append(in.HTTP, fmt.Sprintf("%s:%d", host, httpPort)), append(pins, a.Pin)
	}
	in.Pin = strings.Join(pins, ",")
}

// Open implements httpboot.Opener. Manifests are served by their own digests.
func (s *answers) Open(ctx context.Context, d intent.Digest) (io.ReadSeekCloser, error) {
	f, err := s.blobs.Open(d)
	if !errors.Is(err, blob.ErrAbsent) && !errors.Is(err, blob.ErrPending) {
		return f, err
	}
	for _, o := range s.w.Now().Overlay.Catalog.List(intent.KindAsset) {
		var f io.ReadSeekCloser
		switch a := o.Spec.(*intent.AssetSpec); d {
		case a.Digest:
			f, err = s.relay.Relay(ctx, a)
		case a.Manifest:
			var m *chunk.Manifest
			if m, err = s.relay.Manifest(ctx, a); err == nil {
				f = memory{bytes.NewReader(m.Encode())}
			}
		default:
			continue
		}
		if err != nil { // it is wanted: whoever asks comes again, or asks another agent
			s.log.Debug("asset not here yet", "asset", o.Metadata.Name, "err", err)
			return nil, httpboot.ErrPending
		}
		return f, nil
	}
	if errors.Is(err, blob.ErrPending) {
		return nil, httpboot.ErrPending
	}
	return nil, httpboot.ErrAbsent
}

// Relay gives what other agents keep.
type Relay interface {
	// Relay returns the content of an asset of the active intent; each octet is verified first. ctx bounds all reading. The caller closes it.
	Relay(ctx context.Context, s *intent.AssetSpec) (io.ReadSeekCloser, error)
	// Manifest returns its manifest, from here or from another agent.
	Manifest(ctx context.Context, s *intent.AssetSpec) (*chunk.Manifest, error)
}

// memory is a small document served from memory.
type memory struct{ *bytes.Reader }

// Close does nothing.
func (memory) Close() error { return nil }

// ByToken implements metadata.Instances.
func (s *answers) ByToken(_ context.Context, token string) (metadata.Instance, error) {
	v, err := s.byToken(token)
	if err != nil {
		return metadata.Instance{}, err
	}
	return s.inst.instance(v)
}

func (s *answers) byToken(token string) (reconcile.MachineView, error) {
	sg, err := s.inst.signers()
	if err != nil {
		return reconcile.MachineView{}, err
	}
	for _, b := range reconcile.Bindings(s.w.Journal) {
		if b.Released || !sg.verifies(token, func(s signer) string { return s.metadata(b) }) {
			continue
		}
		if v, ok := s.inst.control.View(b.Machine); ok && v.Binding != nil && v.Binding.Instance == b.Instance {
			return v, nil
		}
	}
	return reconcile.MachineView{}, metadata.ErrToken
}

// PhoneHome implements metadata.Instances.
func (s *answers) PhoneHome(ctx context.Context, token string, from netip.Addr, sent map[string]string) error {
	v, err := s.byToken(token)
	if err != nil {
		return err
	}
	if v.PhoneHome != nil && v.PhoneHome.Generation == v.Binding.Generation {
		return nil
	}
	p := reconcile.PhoneHome{Generation: v.Binding.Generation, Hostname: sent["hostname"], From: from.String(), Time: time.Now().UTC()}
	err = s.w.Journal.Append(ctx, claim.Replicated,
		claim.Draft{Kind: reconcile.KindPhoneHome, Key: v.Name, Body: p},
		reconcile.Event(v.Name, v.TaskID(), intent.Epoch{}, "machine.boot.phonehome", "phoned home as "+p.Hostname, map[string]string{"from": p.From, "instance": sent["instance_id"]}))
	if errors.Is(err, claim.ErrWaitingPeer) {
		return nil
	}
	return err
}

var (
	_ dhcp.Site          = (*answers)(nil)
	_ httpboot.Scripter  = (*answers)(nil)
	_ httpboot.Opener    = (*answers)(nil)
	_ metadata.Instances = (*answers)(nil)
)

// served notes what boot HTTP gave to whom; bulk is counted by the installer itself.
func (s *answers) served(h httpboot.Served) {
	if h.What != "loader" && h.What != "asset" {
		return
	}
	mac, ok := s.macOf(h.Remote)
	if !ok || h.Status >= 300 || h.Status == 206 {
		return
	}
	s.once(mac, "http/"+h.Name, "machine.boot.loader", fmt.Sprintf("HTTP %s %s, %d octets", h.What, h.Name, h.Octets), map[string]string{"from": remoteHost(h.Remote), "octets": fmt.Sprint(h.Octets)})
	if s.ramdisk(h) {
		s.first(mac, "fetched", func(win reconcile.Window) claim.Draft {
			return claim.Draft{Kind: reconcile.KindFetched, Key: win.Machine, Body: reconcile.Fetched{Nonce: win.Nonce, Time: time.Now().UTC()}}
		})
	}
}

// ramdisk tells whether all of the installer's ramdisk went out.
func (s *answers) ramdisk(h httpboot.Served) bool {
	site := s.w.Spec()
	if site == nil || site.Installer == nil {
		return false
	}
	a, _, ok := intent.Lookup[*intent.AssetSpec](s.w.Now().Overlay.Catalog, intent.KindAsset, "", site.Installer.Ramdisk)
	return ok && h.Name == a.Digest.Hex() && uint64(h.Octets) == a.Size
}

// sentLoader notes a loader that went out by TFTP.
func (s *answers) sentLoader(client netip.Addr, name string, octets int64, err error) {
	mac, ok := s.macOf(client)
	if !ok || err != nil {
		return
	}
	s.once(mac, "tftp/"+name, "machine.boot.loader", fmt.Sprintf("TFTP %s, %d octets", name, octets), map[string]string{"from": remoteHost(client), "octets": fmt.Sprint(octets)})
}

// macOf finds the machine's MAC by its leased address.
func (s *answers) macOf(a netip.Addr) (string, bool) {
	e := s.w.Now()
	for mac, n := range effective.Addresses(e.Overlay.Catalog, e.State.Roster, s.w.ID()) {
		if n.Addr == a.Unmap() {
			return mac, true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for mac, t := range s.theirs {
		if t.addr == a.Unmap() && time.Since(t.at) < tookFor {
			return mac, true
		}
	}
	return "", false
}

// remoteHost keeps the address of a boot client without its port.
func remoteHost(a netip.Addr) string { return a.Unmap().String() }

func (s *answers) lostEvents() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}
