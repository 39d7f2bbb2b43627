package bootnet

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/boot/httpboot"
	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/ipxe"
	"github.com/skerry-metal/skerry/boot/metadata"
	"github.com/skerry-metal/skerry/boot/tftp"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/discovery"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/receipts"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/storage/blob"
)

// Config says where a Server listens and whom it asks.
type Config struct {
	Site    *effective.Site
	Self    string // this agent
	Domain  string
	Boot    []string                  // addresses of this host on boot networks; nothing listens elsewhere
	IPXEDir string                    // loaders, as Debian's package ipxe has them
	Web     func() *tls.Certificate   // the certificate that is shown now
	Sign    func() ed25519.PrivateKey // the key that signs permissions now
	// BootKeys returns the site's boot keys: the one that makes tokens, then those that verify still.
	BootKeys func() ([]seal.Secret, error)
	Control  *reconcile.Controller
	Owners   func(device string) []string // who acts on it now, the likeliest first; empty: nobody
	// Fresh says by what a binding's machine may be written now: quota, beacon or operator. Errors: why it waits, with the way out.
	Fresh func(ctx context.Context, b reconcile.Binding) (string, error)
	// Forward asks the owner of a machine for a permission.
	Forward func(ctx context.Context, owner, session string, r install.PermissionRequest) (install.PermissionEnvelope, error)
	Blobs   *blob.Store
	Relay   Relay
	// Receipts signs for erased disks.
	Receipts *receipts.Desk
	// Strangers keeps what machines that nobody declared tell; nil: they are left to their own disks.
	Strangers *discovery.Strangers
	Log       *slog.Logger
}

// Server is the agent's side of the boot network.
type Server struct {
	cfg     Config
	inst    *installers
	answers *answers
	traffic traffic
}

// New returns a server that answers nothing before Refresh and Listen.
func New(cfg Config) *Server {
	inst := &installers{
		w: cfg.Site, self: cfg.Self, domain: cfg.Domain, sign: cfg.Sign, bootKeys: cfg.BootKeys, control: cfg.Control, forward: cfg.Forward,
		owners: cfg.Owners, receipts: cfg.Receipts, fresh: cfg.Fresh, log: cfg.Log, noted: map[string]time.Time{}, phases: map[string]string{}, waits: map[string]string{},
	}
	events := make(chan claim.Draft, maxPending)
	return &Server{cfg: cfg, inst: inst, answers: &answers{
		w: cfg.Site, self: cfg.Self, inst: inst, blobs: cfg.Blobs, relay: cfg.Relay, log: cfg.Log, events: events,
		modes: newModes(cfg.Site.Journal, cfg.Self, cfg.Log, events), local: parseAddrs(cfg.Boot),
		strangers: cfg.Strangers, ports: map[string]discovery.Port{}, arch: map[string]string{}, theirs: map[string]took{}, used: map[string]time.Time{}, seen: map[string]string{},
	}}
}

// maxPending is how many seen packets may wait for the journal; beyond it the newest are counted and dropped.
const maxPending = 1024

// Refresh makes the DHCP view of what is known now; call it before Listen, so that the first packet finds a view.
func (s *Server) Refresh() { s.answers.refresh() }

// Run journals what was seen and renews the DHCP view when something moved, until ctx ends.
func (s *Server) Run(ctx context.Context) error { return s.answers.Run(ctx) }

// WriteMetrics writes the traffic counters as Prometheus text.
func (s *Server) WriteMetrics(w io.Writer) {
	s.traffic.write(w)
	s.answers.modes.write(w)
	s.answers.writeRooms(w)
	if s.cfg.Strangers != nil {
		metrics.WriteGaugeUint64(w, "skerry_discovered_machines", uint64(s.cfg.Strangers.Count()))
	}
}

// DHCP says in a few words what DHCP does on each subnet, and which other servers are there.
func (s *Server) DHCP() string { return s.answers.modes.word() }

// Pending returns how many seen packets wait for the journal, at most 1,024; Lost how many were dropped because it was full.
func (s *Server) Pending() int { return len(s.answers.events) }

// Lost returns how many seen packets never came into the journal.
func (s *Server) Lost() uint64 { return s.answers.lostEvents() }

// Listen binds the boot network and hands run what serves it: DHCP and router advertisement by interface, TFTP, HTTP and the install protocol by
// address.
func (s *Server) Listen(run func(name string, fn func(context.Context) error)) error {
	log, loaders := s.cfg.Log, ipxe.Loaders{Dir: s.cfg.IPXEDir}
	handler := httpboot.NewHandler(httpboot.Config{
		Scripts: s.answers, Loaders: loaders, Assets: s.answers, NoCloud: metadata.NewHandler(s.answers, log), Logger: log,
		Seen: func(h httpboot.Served) { s.traffic.count(h); s.answers.served(h) },
	})
	inst := install.NewHandler(s.inst)
	inst.Welcome(s.answers)
	s.traffic.install = inst
	for _, addr := range s.cfg.Boot {
		ip, err := netip.ParseAddr(addr)
		if err != nil {
			return fmt.Errorf("cannot listen on boot address %q: %w", addr, err)
		}
		iface, err := interfaceOf(ip)
		if err != nil {
			return err
		}
		dl := dhcp.NewListener(dhcp.ListenerConfig{Iface: iface, Site: s.answers, Logger: log})
		s.traffic.addDHCP(dl)
		run("dhcp", dl.Run)
		run("dhcp servers", s.answers.modes.prober(iface, ip, s.answers.View).Run)
		run("router advertisement", (&dhcp.Advertiser{Iface: iface, Logger: log, Known: func(m dhcp.MAC) bool {
			v := s.answers.View()
			return v != nil && v.Known(m)
		}}).Run)
		udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 69)))
		if err != nil {
			return fmt.Errorf("cannot serve TFTP: %w", err)
		}
		ts := tftp.New(tftp.Config{Loaders: loaders, Logger: log, Seen: s.answers.sentLoader})
		s.traffic.addTFTP(ts)
		run("tftp", func(ctx context.Context) error { return ts.Serve(ctx, udp) })
		ln, err := net.Listen("tcp", netip.AddrPortFrom(ip, httpPort).String())
		if err != nil {
			return fmt.Errorf("cannot serve boot HTTP: %w", err)
		}
		run("boot http", func(ctx context.Context) error { return httpboot.Serve(ctx, ln, handler, s.traffic.count, log) })
		if err := serveInstall(run, ip, s.cfg.Web, inst, log); err != nil {
			return err
		}
	}
	return nil
}

// serveInstall serves /install/v1 on 7444 of a boot address: of all that listens there, nothing else is offered to machines.
func serveInstall(run func(string, func(context.Context) error), ip netip.Addr, web func() *tls.Certificate, h http.Handler, log *slog.Logger) error {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(ip, tlsPort).String())
	if err != nil {
		return fmt.Errorf("cannot serve the install protocol: %w", err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, NextProtos: []string{"http/1.1"}}
	conf.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return web(), nil }
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	run("install protocol", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
		defer stop()
		return ignoreClosed(srv.Serve(tls.NewListener(ln, conf)))
	})
	return nil
}

func interfaceOf(ip netip.Addr) (string, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("cannot list interfaces: %w", err)
	}
	for _, i := range ifaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away meanwhile
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == ip {
				return i.Name, nil
			}
		}
	}
	return "", fmt.Errorf("cannot find boot address %s on any interface; `ip addr` lists them", ip)
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
