package trust

import (
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
)

// The application protocols of the house (mesh.md section 1). Whoever offers a skerry-* protocol offers exactly one.
const (
	ALPNMesh   = "skerry-mesh/1"
	ALPNBulk   = "skerry-bulk/1"
	ALPNUplink = "skerry-uplink/1"
	ALPNJoin   = "skerry-join"
	ALPNH2     = "h2"
	ALPNHTTP   = "http/1.1"
)

// TLS makes every tls.Config of a process. All fields are set once, before use; functions are called per handshake.
type TLS struct {
	Self Identity                // own kind, site, id
	View func() *View            // current view; nil before the trust document is known
	Leaf func() *tls.Certificate // own agent or coordinator leaf; nil before joining
	Web  func() *tls.Certificate // web leaf and C, for h2 and http/1.1; nil: those are refused
	// Refused, if set, is told of each client that showed certificates and is not admitted, on whatever lane. It is called within the
	// handshake and bounds by itself what it keeps.
	Refused func(from net.Addr, err error)
}

// Server returns the config of a listener that speaks the given protocols. It picks by the client's offer.
func (t *TLS) Server(alpns ...string) *tls.Config {
	c := t.base()
	c.NextProtos = alpns // quic-go wants some here; the choice is made below
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		alpn, err := choose(hello.SupportedProtos, alpns)
		if err != nil {
			return nil, err
		}
		return t.serverFor(alpn, hello.Conn)
	}
	return c
}

func (t *TLS) serverFor(alpn string, conn net.Conn) (*tls.Config, error) {
	c := t.base()
	c.NextProtos = []string{alpn}
	cert := t.Leaf()
	switch alpn {
	case ALPNH2, ALPNHTTP:
		cert = nil
		if t.Web != nil {
			cert = t.Web()
		}
		c.ClientAuth = tls.RequestClientCert // a user brings a key, or a token inside
	case ALPNJoin:
		c.ClientAuth = tls.NoClientCert
	default:
		c.ClientAuth = tls.RequireAnyClientCert
	}
	if cert == nil {
		return nil, fmt.Errorf("cannot serve %s: no certificate yet", alpn)
	}
	c.Certificates = []tls.Certificate{*cert}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := t.identify(cs, alpn, t.wantOfClient(alpn))
		if t.Refused != nil && IsRefusal(err) {
			t.Refused(conn.RemoteAddr(), err)
		}
		return err
	}
	return c, nil
}

// wantOfClient says who may dial alpn here.
func (t *TLS) wantOfClient(alpn string) Want {
	switch alpn {
	case ALPNMesh, ALPNBulk: // what those of other sites get is told apart by whoever answers
		return Want{Kind: Agent, AnySite: true}
	default:
		return Want{Kind: Agent}
	}
}

// Client returns the config for dialling alpn; the handshake fails unless the server is who want says.
func (t *TLS) Client(alpn string, want Want) *tls.Config {
	c := t.base()
	c.NextProtos = []string{alpn}
	c.InsecureSkipVerify = true // VerifyConnection below is the check: by signed state, not by clock or host name
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if cert := t.Leaf(); cert != nil && alpn != ALPNJoin {
			return cert, nil
		}
		return &tls.Certificate{}, nil
	}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := t.identify(cs, alpn, want)
		return err
	}
	return c
}

// JoinClient returns the config of a newcomer, which knows no CA yet: the handshake checks shape only, and pki/join verifies
// the peer's certificate against the pinned trust chain before it says anything secret.
func JoinClient() *tls.Config {
	c := (&TLS{}).base()
	c.NextProtos = []string{ALPNJoin}
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := checkProtocol(cs, ALPNJoin); err != nil {
			return err
		}
		return checkShape(cs.PeerCertificates)
	}
	return c
}

// Identify returns who is at the other end of an established connection, under the current view. server tells whether we
// accepted it; want is what a dialler passed to Client and is ignored on the server's side. Errors: as VerifyPeer.
func (t *TLS) Identify(cs tls.ConnectionState, server bool, want Want) (Identity, error) {
	if server {
		want = t.wantOfClient(cs.NegotiatedProtocol)
	}
	alpn := cs.NegotiatedProtocol
	if alpn == "" {
		alpn = ALPNHTTP
	}
	return t.identify(cs, alpn, want)
}

func (t *TLS) identify(cs tls.ConnectionState, alpn string, want Want) (Identity, error) {
	if err := checkProtocol(cs, alpn); err != nil {
		return Identity{}, err
	}
	switch {
	case alpn == ALPNJoin && len(cs.PeerCertificates) == 0:
		return Identity{}, nil
	case alpn == ALPNH2 || alpn == ALPNHTTP:
		if len(cs.PeerCertificates) == 0 {
			return Identity{}, nil
		}
		return verifyUser(t.View(), cs.PeerCertificates)
	default:
		return VerifyPeer(t.View(), t.Self.Site, cs.PeerCertificates, want)
	}
}

func (t *TLS) base() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true, // a ticket resumes across a CA change (CVE-2025-68121) and past a revocation
		// Small records first would cost the bulk lane; nobody here waits for a first byte of HTML.
		DynamicRecordSizingDisabled: true,
	}
}

// choose picks the protocol. A skerry-* offer must stand alone, so that a client never ends up in another protocol than it
// meant; among HTTP versions ours come in our order.
func choose(offered, ours []string) (string, error) {
	for _, p := range offered {
		if strings.HasPrefix(p, "skerry-") && len(offered) != 1 {
			return "", fmt.Errorf("cannot choose among %d protocols: %w", len(offered), ErrShape)
		}
	}
	for _, p := range ours {
		if slices.Contains(offered, p) {
			return p, nil
		}
	}
	// A client without ALPN (old tools, health checks) speaks HTTP/1.1 where we do.
	if len(offered) == 0 && slices.Contains(ours, ALPNHTTP) {
		return ALPNHTTP, nil
	}
	return "", fmt.Errorf("cannot speak any of %d offered protocols: %w", len(offered), ErrShape)
}
