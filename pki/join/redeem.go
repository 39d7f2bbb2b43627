package join

import (
	"context"
	"crypto/ed25519"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
)

// What a Store answers.
var (
	ErrAbsent   = errors.New("no such token")
	ErrConflict = errors.New("token changed meanwhile")
)

// ErrRefused is the one text for unknown, spent, expired and wrong serial: a guesser learns nothing.
var ErrRefused = errors.New("unknown, spent, expired, or not for this machine; make a new one with `skerry token create`")

// ErrBusy says that this source failed too often, or too many join at once.
var ErrBusy = errors.New("too many tries; wait a minute")

// Store keeps token records.
type Store interface {
	// Token returns the record. Errors: ErrAbsent.
	Token(ctx context.Context, id string) (Record, error)
	// Swap replaces the record old by new, durably, if it is still old. Errors: ErrConflict, ErrAbsent.
	Swap(ctx context.Context, old, new Record) error
}

// Grant is what a redeemed token entitles to. Keys were proven to be the newcomer's.
type Grant struct {
	Site, Agent string
	Roles       []string
	Spare       bool   // a spare says no addresses: it has none yet
	CSR         []byte // PKCS #10 DER; nothing but its key counts
	TLS         []byte // PKIX DER, of the CSR
	Sign        []byte // PKIX DER
	Seal        []byte
	Addr        []string   // where its management listener is reached, as it said; at most maxAddresses, parsed
	Boot        []string   // its addresses on boot networks, as it said
	Source      netip.Addr // where it dialled from
}

// Granter certifies the newcomer and puts it on the roster. It must answer the same grant again with the same identity: a
// coordinator may die between its work and our reply.
type Granter interface {
	Grant(ctx context.Context, g Grant) (*Answer, error)
}

// Config of a Redeemer. An agent, which lets nobody join, has neither Store nor Granter; without Returns nobody is let back in.
type Config struct {
	Store   Store
	Granter Granter
	Returns Returner
	Trust   func() []*intent.Envelope // the trust chain from document 1 to the head
	Now     func() time.Time
	Log     *slog.Logger
}

// Bounds of a redeemer.
const (
	maxTalks    = 256         // at once; 200 boxes powered on together must pass
	maxFailures = 5           // failed tries per source and window
	failWindow  = time.Minute //
	maxSources  = 4096        // remembered; the oldest is forgotten
	maxCached   = 1024        // answers kept for sameAnswer
)

// Redeemer is the coordinator's side.
type Redeemer struct {
	cfg   Config
	talks chan struct{}

	mu       sync.Mutex // guards what follows
	failures map[netip.Prefix][]time.Time
	cache    map[intent.Digest]cached // by SPKI and token
}

type cached struct {
	at     time.Time
	answer *Answer
}

// NewRedeemer returns a redeemer.
func NewRedeemer(cfg Config) *Redeemer {
	return &Redeemer{cfg: cfg, talks: make(chan struct{}, maxTalks), failures: map[netip.Prefix][]time.Time{}, cache: map[intent.Digest]cached{}}
}

// Handle holds one conversation on an established TLS connection with ALPN skerry-join, and closes it. source is the
// address of the peer. The error is for the log; the peer was told what it may know.
func (r *Redeemer) Handle(ctx context.Context, conn *tls.Conn, source netip.Addr) error {
	defer conn.Close()
	select {
	case r.talks <- struct{}{}:
		defer func() { <-r.talks }()
	default:
		_ = conn.SetDeadline(time.Now().Add(time.Second)) // a best effort: it is turned away
		_ = writeMsg(conn, &message{Refused: &refusedMsg{ErrBusy.Error()}})
		return fmt.Errorf("cannot hold more than %d joins at once: %w", maxTalks, ErrBusy)
	}
	m, err := r.listen(ctx, conn)
	if err == nil {
		err = r.answer(ctx, conn, source, m)
	}
	if err != nil {
		reason := ErrRefused
		if errors.Is(err, ErrBusy) {
			reason = ErrBusy
		}
		_ = writeMsg(conn, &message{Refused: &refusedMsg{reason.Error()}}) // the error of the conversation is what counts
		return fmt.Errorf("cannot let %s join: %w", source, err)
	}
	return nil
}

// listen shows the trust chain and hears what the peer wants.
func (r *Redeemer) listen(ctx context.Context, conn *tls.Conn) (*message, error) {
	_, end, err := bound(ctx, conn, talkTimeout)
	if err != nil {
		return nil, err
	}
	defer end()
	docs := r.cfg.Trust()
	for i, env := range docs {
		if err := writeMsg(conn, &message{Trust: &trustMsg{Env: env, Last: i == len(docs)-1}}); err != nil {
			return nil, err
		}
	}
	return readMsg(conn, maxAsk)
}

func (r *Redeemer) answer(ctx context.Context, conn *tls.Conn, source netip.Addr, m *message) error {
	limit := talkTimeout
	if m.Back != nil {
		limit = returnTimeout
	}
	ctx, end, err := bound(ctx, conn, limit)
	if err != nil {
		return err
	}
	defer end()
	switch {
	case m.Ask == nil && m.Back == nil:
		return errors.New("cannot join: the peer did not ask")
	case !r.mayTry(source):
		return ErrBusy
	case m.Back != nil:
		return r.letBack(ctx, conn, source, m.Back)
	}
	answer, err := r.letIn(ctx, conn, source, m.Ask)
	if err != nil {
		return err
	}
	if err := writeMsg(conn, &message{Answer: answer}); err != nil {
		return err
	}
	r.cfg.Log.InfoContext(ctx, "agent joined", "site", answer.Site, "agent", answer.Agent, "source", source.String())
	return nil
}

// letIn redeems the token of a newcomer.
func (r *Redeemer) letIn(ctx context.Context, conn *tls.Conn, source netip.Addr, a *askMsg) (*Answer, error) {
	if r.cfg.Store == nil {
		return nil, ErrRefused
	}
	g, spki, err := r.checkAsk(conn.ConnectionState(), a)
	if err != nil {
		r.failed(source)
		return nil, err
	}
	rec, err := r.check(ctx, a, spki)
	if err != nil {
		if errors.Is(err, ErrRefused) {
			r.failed(source)
		}
		return nil, err
	}
	if err := challenge(conn, a.Seal); err != nil {
		r.failed(source)
		return nil, err
	}
	if err := r.redeem(ctx, rec, spki, a); err != nil {
		if errors.Is(err, ErrRefused) {
			r.failed(source)
		}
		return nil, err
	}
	g.Site, g.Agent, g.Roles, g.Spare, g.Source = rec.Site, rec.Agent, rec.Roles, rec.Spare, source
	return r.grant(ctx, rec.ID, spki, g)
}

// checkAsk verifies the proofs of possession of the TLS and sign keys. The seal key is proven by challenge.
func (r *Redeemer) checkAsk(cs tls.ConnectionState, a *askMsg) (Grant, intent.Digest, error) {
	req, err := x509.ParseCertificateRequest(a.CSR)
	if err != nil || len(a.CSR) > ca.MaxRequest {
		return Grant{}, intent.Digest{}, errors.New("cannot join: certificate request does not parse")
	}
	if err := req.CheckSignature(); err != nil {
		return Grant{}, intent.Digest{}, fmt.Errorf("cannot join: tls key not proven: %w", err)
	}
	sign, err := document.ParseKey(a.Sign)
	if err != nil {
		return Grant{}, intent.Digest{}, err
	}
	tr, err := transcript(cs, a)
	if err != nil {
		return Grant{}, intent.Digest{}, err
	}
	if !ed25519.Verify(sign, tr, a.Proof) {
		return Grant{}, intent.Digest{}, errors.New("cannot join: sign key not proven")
	}
	if err := checkAddresses(a); err != nil {
		return Grant{}, intent.Digest{}, err
	}
	g := Grant{CSR: a.CSR, TLS: req.RawSubjectPublicKeyInfo, Sign: a.Sign, Seal: a.Seal, Addr: a.Addr, Boot: a.Boot}
	return g, intent.DigestOf(req.RawSubjectPublicKeyInfo), nil
}

// maxAddresses bounds what an agent may say of itself: a box with more networks than that is no edge box.
const maxAddresses = 16

func checkAddresses(a *askMsg) error {
	if len(a.Addr) > maxAddresses || len(a.Boot) > maxAddresses {
		return fmt.Errorf("cannot join: more than %d addresses", maxAddresses)
	}
	for _, s := range a.Addr {
		if _, err := netip.ParseAddrPort(s); err != nil {
			return errors.New("cannot join: a management address is no host:port")
		}
	}
	for _, s := range a.Boot {
		if _, err := netip.ParseAddr(s); err != nil {
			return errors.New("cannot join: a boot address is no IP address")
		}
	}
	return nil
}

func challenge(conn *tls.Conn, sealKey []byte) error {
	sealed, want, err := seal.Challenge(sealKey)
	if err != nil {
		return err
	}
	if err := writeMsg(conn, &message{Challenge: &challengeMsg{sealed}}); err != nil {
		return err
	}
	m, err := readMsg(conn, maxAsk)
	if err != nil {
		return err
	}
	if m.Proof == nil || subtle.ConstantTimeCompare(m.Proof.Answer, want.Reveal()) != 1 {
		return errors.New("cannot join: seal key not proven")
	}
	return nil
}

func (r *Redeemer) check(ctx context.Context, a *askMsg, spki intent.Digest) (Record, error) {
	rec, err := r.cfg.Store.Token(ctx, a.Token)
	if errors.Is(err, ErrAbsent) {
		return Record{}, ErrRefused
	}
	if err != nil {
		return Record{}, fmt.Errorf("cannot look up token: %w", err)
	}
	if !rec.usable(intent.DigestOf(a.Secret), a.Serial, spki, r.cfg.Now()) {
		return Record{}, ErrRefused
	}
	return rec, nil
}

// redeem spends the token by one compare-and-swap. A lost race is looked at once more: the winner may have been this very
// key on another connection.
func (r *Redeemer) redeem(ctx context.Context, rec Record, spki intent.Digest, a *askMsg) error {
	if rec.SpentBy == spki {
		return nil
	}
	spent := rec
	spent.SpentBy, spent.SpentAt = spki, r.cfg.Now().UTC()
	err := r.cfg.Store.Swap(ctx, rec, spent)
	if errors.Is(err, ErrConflict) || errors.Is(err, ErrAbsent) {
		now, err := r.check(ctx, a, spki)
		if err != nil {
			return err
		}
		if now.SpentBy != spki {
			return ErrRefused
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot spend token: %w", err)
	}
	return nil
}

func (r *Redeemer) grant(ctx context.Context, token string, spki intent.Digest, g Grant) (*Answer, error) {
	key := intent.DigestOf([]byte(token + "|" + spki.Hex()))
	now := time.Now()
	r.mu.Lock()
	c, ok := r.cache[key]
	r.mu.Unlock()
	if ok && now.Sub(c.at) < sameAnswer {
		return c.answer, nil
	}
	a, err := r.cfg.Granter.Grant(ctx, g)
	if err != nil {
		return nil, fmt.Errorf("cannot grant %s/%s: %w", g.Site, g.Agent, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, c := range r.cache {
		if now.Sub(c.at) >= sameAnswer || len(r.cache) >= maxCached {
			delete(r.cache, k) // full: any one goes; the granter gives the same answer again
		}
	}
	r.cache[key] = cached{now, a}
	return a, nil
}

// sourceOf groups IPv6 by /64: one box has that many addresses.
func sourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // the zero address: all unknown sources share one budget
	}
	return p
}

// mayTry tells whether the source has failed fewer than maxFailures times in the last failWindow.
func (r *Redeemer) mayTry(a netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, at := range r.failures[sourceOf(a)] {
		if time.Since(at) < failWindow {
			n++
		}
	}
	return n < maxFailures
}

func (r *Redeemer) failed(a netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, now := sourceOf(a), time.Now()
	if len(r.failures) >= maxSources {
		for q, ats := range r.failures {
			if now.Sub(ats[len(ats)-1]) >= failWindow {
				delete(r.failures, q)
			}
		}
		if len(r.failures) >= maxSources {
			clear(r.failures) // a flood from 4,096 networks: forgetting is better than growing
		}
	}
	ats := append(r.failures[p], now)
	if len(ats) > maxFailures {
		ats = ats[len(ats)-maxFailures:]
	}
	r.failures[p] = ats
}

// SourceOf returns the IP address of a connection's peer, for Handle.
func SourceOf(c net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
