package repository

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	maxRedirects  = 5
	dialLimit     = 10 * time.Second // one address; the next is tried then
	answerLimit   = 30 * time.Second // a mirror that has to look for the file first
	maxHeaders    = 64 << 10         // octets of one answer's headers
	maxURL        = 2048             // octets
	defMaxFetched = 64 << 30         // octets of a URL
)

// Policy says which addresses may be dialled for a URL that a user gave, directly or by a redirect: none by which somebody would reach
// through the coordinator what only the coordinator reaches.
type Policy struct {
	// Allow are the networks that may be dialled although they are loopback, link-local, private or managed.
	Allow []netip.Prefix
	// Managed returns the networks of hardware and agents, which are refused wherever they lie; nil: none are known.
	Managed func() []netip.Prefix
	// MaxBytes bounds what is read where the request names no length, in octets. 0 is 64 GiB.
	MaxBytes uint64

	resolver *net.Resolver // nil: this machine's
}

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
		return final(fmt.Sprintf("%s is no address of the internet, and the coordinator is not configured to allow it (--url-allow)", a))
	case p.Managed != nil && in(p.Managed()):
		return final(fmt.Sprintf("%s is of a managed network, and the coordinator is not configured to allow it (--url-allow)", a))
	}
	return nil
}

// vet checks a URL before anything is dialled.
func (p *Policy) vet(text string) error {
	u, err := url.Parse(text)
	if err != nil || len(text) > maxURL {
		return final("the URL is not readable, or longer than 2048 octets")
	}
	return vetURL(u)
}

func vetURL(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return final("a URL begins with http:// or https://")
	case u.Hostname() == "":
		return final("the URL has no host")
	case u.User != nil:
		return final("a URL with a password in it would be shown to everybody who sees uploads; give one without")
	}
	return nil
}

// client dials what the policy admits, by the address that the name resolved to: a name that resolves to something else the next time
// gains nothing. Nothing of the environment (proxies) is used, and no connection is kept.
func (p *Policy) client() *http.Client {
	if p.MaxBytes == 0 {
		p.MaxBytes = defMaxFetched
	}
	d := &net.Dialer{Timeout: dialLimit, Resolver: p.resolver, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("cannot read address %s: %w", address, err)
		}
		return p.admit(ap.Addr())
	}}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: d.DialContext, TLSHandshakeTimeout: dialLimit, ResponseHeaderTimeout: answerLimit, MaxResponseHeaderBytes: maxHeaders,
			DisableCompression: true, DisableKeepAlives: true, // the octets as they are
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return final(fmt.Sprintf("more than %d redirects", maxRedirects))
			}
			if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
				return final("a redirect leads from https to http")
			}
			return vetURL(req.URL)
		},
	}
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

// finalError is why a URL is not tried again by itself.
type finalError struct{ why string }

func (e *finalError) Error() string { return e.why }

func final(why string) error { return &finalError{why} }

func isFinal(err error) (*finalError, bool) { return errors.AsType[*finalError](err) }
