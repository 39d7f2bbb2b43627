package join

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
)

// memStore is a Store in memory.
type memStore struct {
	mu sync.Mutex
	m  map[string]Record
}

func (s *memStore) Token(_ context.Context, id string) (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.m[id]
	if !ok {
		return Record{}, ErrAbsent
	}
	return r, nil
}

func (s *memStore) Swap(_ context.Context, old, new Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.m[old.ID]; now.SpentBy != old.SpentBy {
		return ErrConflict
	}
	s.m[old.ID] = new
	return nil
}

// granter certifies with the domain's CA and counts.
type granter struct {
	d *pkitest.Domain

	mu sync.Mutex
	n  int
}

func (g *granter) Grant(_ context.Context, want Grant) (*Answer, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n++
	leaf, err := g.d.CA.Issue(want.CSR, trust.Identity{Kind: trust.Agent, Site: want.Site, ID: want.Agent}, pkitest.Now())
	if err != nil {
		return nil, err
	}
	web, err := g.d.CA.IssueWeb(want.CSR, []string{want.Agent + "." + want.Site + "." + pkitest.Name}, nil, pkitest.Now())
	if err != nil {
		return nil, err
	}
	return &Answer{
		Domain: pkitest.Name, Site: want.Site, Agent: want.Agent, Leaf: leaf.Raw, Web: web.Raw, CA: g.d.CA.Cert.Raw,
		Roster: intent.RosterAgent{ID: want.Agent, State: "agent", TLS: [][]byte{want.TLS}, Sign: [][]byte{want.Sign}, Seal: [][]byte{want.Seal}},
	}, nil
}

// bench is a coordinator that listens on loopback.
type bench struct {
	t     *testing.T
	d     *pkitest.Domain
	store *memStore
	grant *granter
	back  *returner
	addr  string
}

func newBench(t *testing.T, d *pkitest.Domain, docs []*intent.Envelope) *bench {
	t.Helper()
	b := &bench{t: t, d: d, store: &memStore{m: map[string]Record{}}, grant: &granter{d: d}, back: &returner{}}
	r := NewRedeemer(Config{Store: b.store, Granter: b.grant, Returns: b.back, Trust: func() []*intent.Envelope { return docs }, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.addr = l.Addr().String()
	conf := d.Coordinator("c1").TLS.Server(trust.ALPNJoin)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				tc := tls.Server(c, conf)
				if err := tc.HandshakeContext(ctx); err != nil {
					c.Close()
					return
				}
				_ = r.Handle(ctx, tc, SourceOf(c))
			})
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	return b
}

// token stores a token with the record changed as wanted.
func (b *bench) token(change func(*Record)) Token {
	b.t.Helper()
	tok, err := NewToken(b.d.Env.Digest())
	if err != nil {
		b.t.Fatal(err)
	}
	rec := Record{ID: tok.ID, Hash: tok.Hash(), Site: "lon1", Agent: "a1", Expires: time.Now().Add(time.Hour)}
	if change != nil {
		change(&rec)
	}
	b.store.mu.Lock()
	b.store.m[tok.ID] = rec
	b.store.mu.Unlock()
	return tok
}

func newKeys(t testing.TB) *seal.Keys {
	t.Helper()
	k, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestJoin(t *testing.T) {
	d := pkitest.New(t)
	b := newBench(t, d, []*intent.Envelope{d.Env})
	tok, keys := b.token(nil), newKeys(t)
	res, err := Join(t.Context(), &net.Dialer{}, b.addr, tok, keys, About{Serial: "SN1"})
	if err != nil {
		t.Fatal(err)
	}
	if res.Answer.Agent != "a1" || res.Chain.Head.Seq != 1 || res.Leaf.URIs[0].String() != "spiffe://lon1.example.net/agent/a1" {
		t.Errorf("joined as %s, trust %d, %v", res.Answer.Agent, res.Chain.Head.Seq, res.Leaf.URIs)
	}
	// The same key gets the same answer; another key does not.
	again, err := Join(t.Context(), &net.Dialer{}, b.addr, tok, keys, About{Serial: "SN1"})
	if err != nil || string(again.Answer.Leaf) != string(res.Answer.Leaf) || b.grant.n != 1 {
		t.Errorf("second time: %v, %d grants", err, b.grant.n)
	}
	if _, err := Join(t.Context(), &net.Dialer{}, b.addr, tok, newKeys(t), About{Serial: "SN1"}); !errors.Is(err, ErrRefused) {
		t.Errorf("a spent token: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	d := pkitest.New(t)
	f := func(what, serial string, change func(*Record), bend func(*Token), want error) {
		t.Helper()
		b := newBench(t, d, []*intent.Envelope{d.Env}) // its own failure budget
		tok := b.token(change)
		if bend != nil {
			bend(&tok)
		}
		if _, err := Join(t.Context(), &net.Dialer{}, b.addr, tok, newKeys(t), About{Serial: serial}); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	f("good", "", nil, nil, nil)
	f("right serial", "SN1", func(r *Record) { r.Serial = "SN1" }, nil, nil)
	f("wrong serial", "SN2", func(r *Record) { r.Serial = "SN1" }, nil, ErrRefused)
	f("expired", "", func(r *Record) { r.Expires = time.Now().Add(-time.Second) }, nil, ErrRefused)
	f("unknown", "", nil, func(k *Token) { k.ID = "aaaaaaaa" }, ErrRefused)
	f("wrong secret", "", nil, func(k *Token) { k.Secret = seal.NewSecret(make([]byte, 32)) }, ErrRefused)
	f("spent by another long ago", "", func(r *Record) { r.SpentBy, r.SpentAt = intent.DigestOf(nil), time.Now() }, nil, ErrRefused)

	// Five failures a minute per source, then not even a good token is looked at.
	b := newBench(t, d, []*intent.Envelope{d.Env})
	good := b.token(nil)
	bad := good
	bad.Secret = seal.NewSecret(make([]byte, 32))
	for range maxFailures {
		if _, err := Join(t.Context(), &net.Dialer{}, b.addr, bad, newKeys(t), About{Serial: ""}); !errors.Is(err, ErrRefused) {
			t.Fatal(err)
		}
	}
	if _, err := Join(t.Context(), &net.Dialer{}, b.addr, good, newKeys(t), About{Serial: ""}); !errors.Is(err, ErrBusy) {
		t.Errorf("after %d failures: %v", maxFailures, err)
	}
}

// TestManInTheMiddle: someone who shows the true trust chain, or a chain of his own, but not a certificate of the pinned
// domain, is never told the secret.
func TestManInTheMiddle(t *testing.T) {
	d, evil := pkitest.New(t), pkitest.New(t)
	for what, docs := range map[string][]*intent.Envelope{"true chain": {d.Env}, "own chain": {evil.Env}} {
		b := newBench(t, evil, docs)
		tok, err := NewToken(d.Env.Digest())
		if err != nil {
			t.Fatal(err)
		}
		b.store.m[tok.ID] = Record{ID: tok.ID, Hash: tok.Hash(), Site: "lon1", Agent: "a1", Expires: time.Now().Add(time.Hour)}
		if _, err := Join(t.Context(), &net.Dialer{}, b.addr, tok, newKeys(t), About{Serial: ""}); err == nil || errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
		if b.store.m[tok.ID].SpentBy != (intent.Digest{}) || b.grant.n != 0 {
			t.Errorf("%s: the token was spent", what)
		}
	}
}

// stubborn is a store whose records always changed meanwhile.
type stubborn struct{ *memStore }

func (stubborn) Swap(context.Context, Record, Record) error { return ErrConflict }

// TestConflict: a lost swap grants nothing, unless the winner was this very key.
func TestConflict(t *testing.T) {
	r := NewRedeemer(Config{Store: stubborn{&memStore{m: map[string]Record{}}}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	tok, err := NewToken(intent.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	me, other := intent.DigestOf([]byte("me")), intent.DigestOf([]byte("other"))
	f := func(winner intent.Digest, want error) {
		t.Helper()
		rec := Record{ID: tok.ID, Hash: tok.Hash(), Expires: time.Now().Add(time.Hour)}
		won := rec
		won.SpentBy, won.SpentAt = winner, time.Now()
		r.cfg.Store.(stubborn).m[tok.ID] = won
		err := r.redeem(t.Context(), rec, me, &askMsg{Token: tok.ID, Secret: tok.Secret.Reveal()})
		if !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("redeem = %v, want %v", err, want)
		}
	}
	f(me, nil)
	f(other, ErrRefused)
	f(intent.Digest{}, ErrRefused) // changed in another way, still unspent: not ours
}

// TestCrowd is F17: 200 joins at once all pass; one token 200 times passes exactly once.
func TestCrowd(t *testing.T) {
	n := 200
	if testing.Short() {
		n = 20
	}
	d := pkitest.New(t)
	b := newBench(t, d, []*intent.Envelope{d.Env})
	run := func(tok func() Token) (ok int, errs []error) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range n {
			k, keys := tok(), newKeys(t)
			wg.Go(func() {
				_, err := Join(t.Context(), &net.Dialer{}, b.addr, k, keys, About{Serial: ""})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					ok++
				} else {
					errs = append(errs, err)
				}
			})
		}
		wg.Wait()
		return ok, errs
	}
	if ok, errs := run(func() Token { return b.token(nil) }); ok != n {
		t.Errorf("%d of %d joined: %v", ok, n, errs[0])
	}
	one := b.token(nil)
	if ok, _ := run(func() Token { return one }); ok != 1 {
		t.Errorf("one token let %d join", ok)
	}
}

func TestToken(t *testing.T) {
	tok, err := NewToken(intent.DigestOf([]byte("trust")))
	if err != nil {
		t.Fatal(err)
	}
	got, addr, err := ParseTarget(tok.Text() + "@coord.example.net:7443")
	if err != nil || got.ID != tok.ID || got.Hash() != tok.Hash() || got.Pin != tok.Pin || addr != "coord.example.net:7443" {
		t.Errorf("ParseTarget = %v, %q, %v", got, addr, err)
	}
	if strings.Contains(tok.String(), strings.Split(tok.Text(), ".")[2]) {
		t.Error("String shows the secret")
	}
	for _, bad := range []string{"", "skj1", "skj1.a.b.c", tok.Text() + ".x", "skj2" + tok.Text()[4:], tok.Text() + "=", tok.Text()[:20] + "\r\n" + tok.Text()[20:], strings.ToUpper(tok.Text())} {
		if _, err := Parse(bad); !errors.Is(err, ErrToken) {
			t.Errorf("Parse(%.20q) = %v", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("skj1.abcdefgh.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := Parse(s)
		if err == nil && tok.Text() != s {
			t.Fatalf("%q reads as %q", s, tok.Text())
		}
	})
}

// FuzzHandle speaks arbitrary bytes to the redeemer over real TLS: no panic, nothing granted.
func FuzzHandle(f *testing.F) {
	d := pkitest.New(f)
	g := &granter{d: d}
	docs := []*intent.Envelope{d.Env}
	conf := d.Coordinator("c1").TLS.Server(trust.ALPNJoin)
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte("\x00\x00\x00\x5f" + `{"ask":{"token":"aaaaaaaa","secret":"","csr":"","sign":"","seal":"","proof":"","serial":"SN1"}}`))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte("\x00\x00\x00\x56" + `{"back":{"site":"lon1","agent":"a1","sign":"","revocation":0,"intent":0,"proof":""}}  `))
	back := &returner{}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewRedeemer(Config{Store: &memStore{m: map[string]Record{}}, Granter: g, Returns: back, Trust: func() []*intent.Envelope { return docs }, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		x, y := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			s := tls.Server(x, conf)
			if err := s.Handshake(); err != nil {
				x.Close()
				return
			}
			if err := r.Handle(t.Context(), s, netip.Addr{}); err == nil {
				t.Error("joined")
			}
		})
		c := tls.Client(y, trust.JoinClient())
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		drained := make(chan struct{})
		go func() { defer close(drained); _, _ = io.Copy(io.Discard, c) }()
		_, _ = c.Write(b)
		_ = c.CloseWrite()
		<-drained
		y.Close()
		wg.Wait()
		if g.n != 0 || back.n != 0 {
			t.Fatal("something was granted, or told")
		}
	})
}
