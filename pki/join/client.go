package join

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
)

// dialTimeout covers TCP and TLS to one address over a bad WAN: three SYN retries take 7 s.
const dialTimeout = 15 * time.Second

// Result is what a joined agent keeps. Chain stands at the head of Trust.
type Result struct {
	Answer *Answer
	Trust  []*intent.Envelope // from the pinned document
	Chain  *document.TrustChain
	Leaf   *x509.Certificate
	Web    *x509.Certificate
	CA     *x509.Certificate
}

// Dialer opens the TCP connection; net.Dialer does.
type Dialer interface {
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
}

// About is what a newcomer says of itself. Serial is the SMBIOS serial, empty if unknown; Addr is where its management
// listener is reached (host:port, the first is tried first), Boot its addresses on boot networks.
type About struct {
	Serial string
	Addr   []string
	Boot   []string
}

// Join redeems token at the coordinator at addr (host:port) for keys.
// It dials once; the caller retries. Errors: ErrRefused, ErrBusy (both as told by the coordinator), trust's and document's.
func Join(ctx context.Context, d Dialer, addr string, token Token, keys *seal.Keys, about About) (*Result, error) {
	conn, err := dial(ctx, d, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_, end, err := bound(ctx, conn, talkTimeout)
	if err != nil {
		return nil, err
	}
	defer end()
	res, view, err := readTrust(conn, token.Pin)
	if err != nil {
		return nil, err
	}
	// Until here the peer could be anyone. From here it is a coordinator of the pinned domain.
	peer, err := trust.VerifyPeer(view, "", conn.ConnectionState().PeerCertificates, trust.Want{Kind: trust.Coordinator})
	if err != nil {
		return nil, fmt.Errorf("cannot trust coordinator at %s: %w", addr, err)
	}
	if err := ask(conn, token, keys, about); err != nil {
		return nil, err
	}
	m, err := readMsg(conn, maxAnswer)
	if err != nil {
		return nil, err
	}
	if m.Refused != nil {
		return nil, refused(m.Refused)
	}
	if m.Answer == nil {
		return nil, fmt.Errorf("cannot join: %s sent no answer", peer)
	}
	res.Answer = m.Answer
	return res, res.check(view, keys)
}

// dial opens a conversation. Until the trust chain is read nobody knows with whom.
func dial(ctx context.Context, d Dialer, addr string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot reach %s: %w", addr, err)
	}
	conn := tls.Client(raw, trust.JoinClient())
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot speak with %s: %w", addr, err), raw.Close())
	}
	return conn, nil
}

// bound ends a conversation after limit, and with ctx; end ends the watch.
func bound(ctx context.Context, conn *tls.Conn, limit time.Duration) (_ context.Context, end func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		cancel()
		return nil, nil, fmt.Errorf("cannot bound join: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() })
	return ctx, func() { stop(); cancel() }, nil
}

// ErrPin says that a token cannot lead to the trust chain that the peer shows.
var ErrPin = errors.New("this token was made under another trust document; make a new one with `skerry token create`")

// readTrust walks the trust chain from its pinned document to the head. What comes before that does not count.
func readTrust(conn *tls.Conn, pin intent.Digest) (*Result, *trust.View, error) {
	docs, err := readChain(conn)
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(docs, func(env *intent.Envelope) bool { return env.Digest() == pin })
	if i < 0 {
		return nil, nil, fmt.Errorf("cannot follow the trust chain: none of its %d documents is %s: %w", len(docs), pin.Short(), ErrPin)
	}
	res := &Result{Chain: &document.TrustChain{Pin: pin}, Trust: docs[i:]}
	for _, env := range res.Trust {
		_, err := res.Chain.Accept(env)
		if errors.Is(err, document.ErrOffered) {
			err = fmt.Errorf("cannot follow the trust chain from %s: the roots of then do not lead on, and people accepted new ones: %w", pin.Short(), ErrPin)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	view, err := trust.NewView(res.Chain.Body)
	return res, view, err
}

// readChain reads the trust chain that the peer shows, not verified.
func readChain(conn *tls.Conn) (docs []*intent.Envelope, err error) {
	for size := 0; ; {
		m, err := readMsg(conn, maxFrame)
		switch {
		case err != nil:
			return nil, err
		case m.Refused != nil:
			return nil, refused(m.Refused)
		case m.Trust == nil || m.Trust.Env == nil:
			return nil, errors.New("cannot join: the peer sent no trust document")
		}
		if size += len(m.Trust.Env.Payload); size > maxTrust || len(docs) == maxTrustDocs {
			return nil, fmt.Errorf("cannot follow a trust chain of more than %d documents or %d octets", maxTrustDocs, maxTrust)
		}
		if docs = append(docs, m.Trust.Env); m.Trust.Last {
			return docs, nil
		}
	}
}

// Chain returns the trust chain that a coordinator or an agent at addr (host:port) shows to everybody. Nothing vouches for its first
// document, nor for one that the peer accepted: whoever asks compares the roots that it leads to.
func Chain(ctx context.Context, d Dialer, addr string) (*document.TrustChain, []*intent.Envelope, error) {
	conn, err := dial(ctx, d, addr)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	_, end, err := bound(ctx, conn, talkTimeout)
	if err != nil {
		return nil, nil, err
	}
	defer end()
	docs, err := readChain(conn)
	if err != nil {
		return nil, nil, err
	}
	chain, err := document.Believe(docs)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot use the trust chain of %s: %w", addr, err)
	}
	return chain, docs, nil
}

// ask sends secret, request and proofs, and answers the challenge.
func ask(conn *tls.Conn, token Token, keys *seal.Keys, about About) error {
	csr, err := ca.NewRequest(keys.TLS)
	if err != nil {
		return err
	}
	sign, err := keys.SignPublic()
	if err != nil {
		return err
	}
	a := &askMsg{Token: token.ID, Secret: token.Secret.Reveal(), CSR: csr, Sign: sign, Seal: keys.SealPublic(), Serial: about.Serial, Addr: about.Addr, Boot: about.Boot}
	tr, err := transcript(conn.ConnectionState(), a)
	if err != nil {
		return err
	}
	a.Proof = ed25519.Sign(keys.Sign, tr)
	if err := writeMsg(conn, &message{Ask: a}); err != nil {
		return err
	}
	m, err := readMsg(conn, maxAsk)
	if err != nil {
		return err
	}
	if m.Refused != nil {
		return refused(m.Refused)
	}
	if m.Challenge == nil {
		return errors.New("cannot join: the coordinator sent no challenge")
	}
	answer, err := keys.Answer(m.Challenge.Sealed)
	if err != nil {
		return err
	}
	return writeMsg(conn, &message{Proof: &proofMsg{answer}})
}

// check compares the answer with what was asked: the certificates carry our key and the identity named.
func (res *Result) check(view *trust.View, keys *seal.Keys) error {
	a := res.Answer
	var err error
	for _, c := range []struct {
		der  []byte
		into **x509.Certificate
	}{{a.Leaf, &res.Leaf}, {a.Web, &res.Web}, {a.CA, &res.CA}} {
		if *c.into, err = x509.ParseCertificate(c.der); err != nil {
			return fmt.Errorf("cannot use the coordinator's answer: %w", err)
		}
	}
	want := trust.Want{Kind: trust.Agent, Site: a.Site, ID: a.Agent, AnySite: true}
	if _, err := trust.VerifyPeer(view, "-", []*x509.Certificate{res.Leaf}, want); err != nil {
		return fmt.Errorf("cannot use the coordinator's answer: %w", err)
	}
	pub, err := keys.TLSPublic()
	if err != nil {
		return err
	}
	if !bytes.Equal(pub, res.Leaf.RawSubjectPublicKeyInfo) || !bytes.Equal(pub, res.Web.RawSubjectPublicKeyInfo) {
		return errors.New("cannot use the coordinator's answer: its certificates are for another key")
	}
	if a.Domain != view.Domain || a.Roster.ID != a.Agent {
		return fmt.Errorf("cannot use the coordinator's answer: it names domain %q, roster entry %q", a.Domain, a.Roster.ID)
	}
	chain := document.RevocationChain{Writers: res.Chain.Body.Writers}
	for _, env := range a.Revocation {
		if _, err := chain.Accept(env); err != nil {
			return fmt.Errorf("cannot use the coordinator's answer: %w", err)
		}
	}
	return nil
}

func refused(m *refusedMsg) error {
	for _, known := range []error{ErrRefused, ErrBusy} {
		if m.Reason == known.Error() {
			return fmt.Errorf("cannot join: %w", known)
		}
	}
	return fmt.Errorf("cannot join: refused: %q", m.Reason[:min(len(m.Reason), 200)])
}
