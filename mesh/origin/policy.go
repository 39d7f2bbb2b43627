package origin

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/weburl"
)

const (
	maxRedirects = 5
	maxHeaders   = 64 << 10 // octets of one answer's headers
)

// Policy says which addresses may be dialled for a URL that a user gave, directly or by a redirect: none by which somebody would reach
// through this host what only this host reaches.
type Policy struct {
	// Allow are the networks that may be dialled although they are loopback, link-local, private or managed.
	Allow []netip.Prefix
	// Managed returns the networks of hardware and agents, which are refused wherever they lie; nil: none are known.
	Managed func() []netip.Prefix
	// Dial makes the connection to an address that was admitted; nil: this machine's network does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolver resolves names; nil: this machine's.
	Resolver *net.Resolver
}

// Limits say how a client of a Policy dials and waits.
type Limits struct {
	Dial   time.Duration // for one address, and for TLS; the next address is tried then
	Answer time.Duration // for an answer's headers, once it was asked; 0: as long as the request's context lasts
	// Conns is how many connections to one host there are at most, and that one of them is kept for a moment; 0: one for each request.
	Conns int
	// Now is the time by which certificates are good; nil: this machine's clock. They are checked by the roots of the system.
	Now func() time.Time
}

// keepConn is how long a connection is kept for the next part.
const keepConn = 10 * time.Second

// special are the networks that are not the internet's: the IANA special-purpose address registries (RFC 6890 and later), and
// multicast. Of IPv6 only 2000::/3 is assigned for unicast, see admit.
func special() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
		"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", // 2001::/32 and 2002::/16 carry an IPv4 address inside
	} {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// admit tells whether an address that a name resolved to may be dialled.
func (p *Policy) admit(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	in := func(ps []netip.Prefix) bool {
		return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	switch {
	case in(p.Allow):
		return nil
	case in(special()), a.Is6() && !netip.MustParsePrefix("2000::/3").Contains(a):
		return refuse(Forbidden, "%s is no address of the internet, and --url-allow does not name it", a)
	case p.Managed != nil && in(p.Managed()):
		return refuse(Forbidden, "%s is of a managed network, and --url-allow does not name it", a)
	}
	return nil
}

// Client dials what the policy admits, by the address that the name resolved to: a name that resolves to something else the next time
// gains nothing. Nothing of the environment (proxies) is used. Errors of a request that the policy refuses wrap a *Refusal.
func (p *Policy) Client(l Limits) *http.Client {
	t := &http.Transport{
		DialContext: p.dialer(l.Dial), TLSHandshakeTimeout: l.Dial, ResponseHeaderTimeout: l.Answer, MaxResponseHeaderBytes: maxHeaders,
		DisableCompression: true, // the octets as they are
		DisableKeepAlives:  l.Conns == 0, MaxConnsPerHost: l.Conns, MaxIdleConnsPerHost: 1, IdleConnTimeout: keepConn,
		TLSClientConfig: &tls.Config{Time: l.Now, MinVersion: tls.VersionTLS12},
	}
	return &http.Client{
		Transport: t,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return refuse(Forbidden, "more than %d redirects", maxRedirects)
			}
			if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
				return refuse(Forbidden, "a redirect leads from https to http")
			}
			if why := weburl.CheckParsed(req.URL); why != "" {
				return refuse(Forbidden, "a redirect: %s", why)
			}
			req.Header.Del("Referer") // where somebody came from is nobody's business
			return nil
		},
	}
}

// dialer dials addresses that are admitted.
func (p *Policy) dialer(limit time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	if p.Dial != nil {
		return func(ctx context.Context, network, address string) (net.Conn, error) {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return nil, fmt.Errorf("cannot read address %s: %w", address, err)
			}
			if err := p.admit(ap.Addr()); err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			return p.Dial(ctx, network, address)
		}
	}
	d := &net.Dialer{Timeout: limit, Resolver: p.Resolver, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("cannot read address %s: %w", address, err)
		}
		return p.admit(ap.Addr())
	}}
	return d.DialContext
}

// Managed returns the networks of hardware and agents that a catalog names: what boots, BMCs, and where agents listen.
func Managed(c *intent.Catalog) []netip.Prefix {
	var out []netip.Prefix
	add := func(text string) {
		if host, _, err := net.SplitHostPort(text); err == nil {
			text = host
		}
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		} else if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, netip.PrefixFrom(a.Unmap().WithZone(""), a.Unmap().BitLen()))
		}
	}
	for _, o := range c.List("") {
		switch s := o.Spec.(type) {
		case *intent.SubnetPoolSpec:
			add(s.Prefix)
		case *intent.AgentSpec:
			add(s.Management)
		case *intent.MachineSpec:
			if s.BMC != nil {
				add(s.BMC.Address)
			}
		}
	}
	return out
}
