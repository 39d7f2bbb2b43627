package join

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
)

// An agent that was away while its CA was retired, or while its peers changed their keys, knows nobody any more and nobody knows
// it by its certificate. It still has its place in the trust chain, and its signing key stands in the roster: with these two it is
// told what it missed (trust.md section 3, catch-up).

// Back is who returns, and how far it is.
type Back struct {
	Site  string `json:"site"`
	Agent string `json:"agent"`
	Sign  []byte `json:"sign"` // PKIX DER, of the roster
	// Offer asks a coordinator for certificates on the keys that the agent has, as pki/rotate makes it; a peer does not read it.
	Offer      []byte `json:"offer,omitempty"`
	Revocation uint64 `json:"revocation"` // the newest that it has of the stream
	Intent     uint64 `json:"intent"`     // and of the site's chain
	// Quarantine is the number of the newest order about itself that it knows, Replaced the spare that it knows to have its place; a
	// coordinator does not read them.
	Quarantine uint64 `json:"quarantine,omitempty"`
	Replaced   string `json:"replaced,omitempty"`
}

// Returner lets agents back in.
type Returner interface {
	// Missed checks that b is an agent that may speak, whose signing key is b.Sign, and calls send for each document that it has
	// not, in order: revocations first. Who is in quarantine, or was replaced, is told of that alone. Errors: ErrRefused, of whom it may not tell.
	Missed(ctx context.Context, b Back, send func(stream string, env *intent.Envelope) error) error
}

// backMsg is sent to a peer that the newest trust document vouches for.
type backMsg struct {
	Back
	Proof []byte `json:"proof"` // Ed25519 by Sign over the transcript
}

// What is told to who returns beside the streams: the newest order about it, and the admission of the spare that has its place.
const (
	StreamQuarantine = "quarantine"
	StreamAdmission  = "admission"
)

// docMsg is one document that was missed; without one nothing follows.
type docMsg struct {
	Stream string           `json:"stream,omitempty"` // revocation, intent, StreamQuarantine or StreamAdmission
	Env    *intent.Envelope `json:"env,omitempty"`
}

// returnTimeout bounds a whole return: ten years of a busy site's entries over a slow WAN. What came before it ended counts.
const returnTimeout = time.Hour

// Home is an agent's own side of a return: what it has, and who takes what it missed.
type Home struct {
	Keys  *seal.Keys           // in use
	Chain document.TrustChain  // the agent's own; the peer's must hold its head. An empty one has the pin alone
	Want  trust.Want           // who is meant to answer
	Back  func() (Back, error) // asked once trust was taken
	// TakeTrust takes the trust documents beyond Chain, the last of them perhaps one that waits for a person. Then Take takes what give gives: it calls its argument for each document, in
	// order, and passes on what that returns. What they took counts, whatever comes then.
	TakeTrust func([]*intent.Envelope) error
	Take      func(give func(take func(stream string, env *intent.Envelope) error) error) error
}

// ErrBehind says that the peer's trust chain ends before our own.
var ErrBehind = errors.New("it knows less than we do")

// Return asks whoever is at addr for what this agent missed. It dials once. taken counts the documents. Errors: ErrBehind,
// ErrRefused, ErrBusy, document's and trust's, and those of TakeTrust and Take.
func Return(ctx context.Context, d Dialer, addr string, h Home) (taken int, err error) {
	conn, err := dial(ctx, d, addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	_, end, err := bound(ctx, conn, returnTimeout)
	if err != nil {
		return 0, err
	}
	defer end()
	if err := conn.SetReadDeadline(time.Now().Add(talkTimeout)); err != nil {
		return 0, fmt.Errorf("cannot bound return: %w", err)
	}
	docs, err := readChain(conn)
	if err != nil {
		return 0, err
	}
	news, offered, err := h.walk(addr, docs)
	if err != nil {
		return 0, err
	}
	view, err := trust.NewView(h.Chain.Body)
	if err != nil {
		return 0, err
	}
	// Its certificate is that of now. Its key may be newer than our roster: everything that follows is signed by writers.
	h.Want.AnySite = true
	if _, err := trust.VerifyPeer(view, "-", conn.ConnectionState().PeerCertificates, h.Want); err != nil {
		return 0, fmt.Errorf("cannot trust %s: %w", addr, err)
	}
	taken = len(news)
	if offered != nil {
		news = append(news, offered)
	}
	if len(news) > 0 {
		if err := h.TakeTrust(news); err != nil && !errors.Is(err, document.ErrOffered) {
			return 0, err
		}
	}
	n, err := h.ask(conn)
	return taken + n, err
}

// walk follows the peer's chain with our own. It returns what is new, and the document after it that only the announced roots signed:
// what follows that one is for when a person accepted it.
func (h *Home) walk(addr string, docs []*intent.Envelope) (news []*intent.Envelope, offered *intent.Envelope, err error) {
	if h.Chain.Body == nil { // what comes before the pin does not count
		docs = docs[max(0, slices.IndexFunc(docs, func(env *intent.Envelope) bool { return env.Digest() == h.Chain.Pin })):]
	}
	own, met := h.Chain.Head, h.Chain.Body == nil
	for _, env := range docs {
		met = met || env.Digest() == own.Hash
		_, err := h.Chain.Accept(env)
		switch {
		case errors.Is(err, document.ErrKnown), errors.Is(err, document.ErrReplay):
		case errors.Is(err, document.ErrOffered):
			return news, env, nil
		case errors.Is(err, document.ErrGap), errors.Is(err, document.ErrFork), err != nil && !met:
			return nil, nil, fmt.Errorf("cannot learn from %s: its trust chain does not hold our document %d: %w", addr, own.Seq, document.ErrFork)
		case err != nil:
			return nil, nil, err
		default:
			news = append(news, env)
		}
	}
	if !met {
		return nil, nil, fmt.Errorf("cannot learn from %s: %w", addr, ErrBehind)
	}
	return news, nil, nil
}

// ask shows who returns, and lets Take take the answer.
func (h *Home) ask(conn *tls.Conn) (taken int, err error) {
	b, err := h.Back()
	if err != nil {
		return 0, err
	}
	m := &backMsg{Back: b}
	tr, err := m.transcript(conn.ConnectionState())
	if err != nil {
		return 0, err
	}
	m.Proof = ed25519.Sign(h.Keys.Sign, tr)
	if err := writeMsg(conn, &message{Back: m}); err != nil {
		return 0, err
	}
	err = h.Take(func(take func(string, *intent.Envelope) error) error {
		for {
			d, err := readDoc(conn)
			if err != nil || d.Env == nil {
				return err
			}
			if err := take(d.Stream, d.Env); err != nil {
				return err
			}
			taken++
		}
	})
	return taken, err
}

func readDoc(conn *tls.Conn) (*docMsg, error) {
	if err := conn.SetReadDeadline(time.Now().Add(talkTimeout)); err != nil {
		return nil, fmt.Errorf("cannot bound return: %w", err)
	}
	m, err := readMsg(conn, maxFrame)
	switch {
	case err != nil:
		return nil, err
	case m.Refused != nil:
		return nil, refused(m.Refused)
	case m.Doc == nil:
		return nil, errors.New("cannot return: the peer sent no document")
	}
	return m.Doc, nil
}

// letBack serves one that returns.
func (r *Redeemer) letBack(ctx context.Context, conn *tls.Conn, source netip.Addr, m *backMsg) error {
	if err := r.mayReturn(conn, source, m); err != nil {
		return err
	}
	n := 0
	err := r.cfg.Returns.Missed(ctx, m.Back, func(stream string, env *intent.Envelope) error {
		if err := conn.SetWriteDeadline(time.Now().Add(talkTimeout)); err != nil {
			return fmt.Errorf("cannot bound return: %w", err)
		}
		n++
		return writeMsg(conn, &message{Doc: &docMsg{Stream: stream, Env: env}})
	})
	if errors.Is(err, ErrRefused) {
		r.failed(source)
	}
	if err != nil {
		return err
	}
	r.cfg.Log.InfoContext(ctx, "agent was told what it missed", "site", m.Site, "agent", m.Agent, "source", source.String(), "documents", n)
	return writeMsg(conn, &message{Doc: &docMsg{}})
}

// mayReturn verifies that the peer holds the signing key that it shows.
func (r *Redeemer) mayReturn(conn *tls.Conn, source netip.Addr, m *backMsg) error {
	if r.cfg.Returns == nil {
		return ErrRefused
	}
	if !intent.IsLabel(m.Site) || !intent.IsLabel(m.Agent) {
		r.failed(source)
		return errors.New("cannot let back: no names of a site and an agent")
	}
	sign, err := document.ParseKey(m.Sign)
	if err != nil {
		r.failed(source)
		return err
	}
	tr, err := m.transcript(conn.ConnectionState())
	if err != nil {
		return err
	}
	if !ed25519.Verify(sign, tr, m.Proof) {
		r.failed(source)
		return errors.New("cannot let back: sign key not proven")
	}
	return nil
}
