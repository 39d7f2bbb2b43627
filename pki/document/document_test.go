package document

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skerry-metal/skerry/mesh/intent"
)

var epoch0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// key returns the Ed25519 key whose seed is 32 times b: the same in each run, so that goldens can hold it.
func key(b byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, 32)) }

func pub(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sign(t testing.TB, payloadType string, v any, ks ...ed25519.PrivateKey) *intent.Envelope {
	t.Helper()
	ss := make([]crypto.Signer, len(ks))
	for i, k := range ks {
		ss[i] = k
	}
	env, err := Sign(payloadType, marshal(t, v), ss...)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func writer(k ed25519.PrivateKey, epoch uint64, state intent.KeyState) intent.Writer {
	return intent.Writer{Key: MarshalKey(pub(k)), Epoch: epoch, Mode: intent.ModeContinue, State: state}
}

func entry(head intent.Head, epoch uint64, site, stale string) *intent.Entry {
	return &intent.Entry{
		Header: Follow(head, intent.StreamIntent, epoch, epoch0), Site: site, StaleAfter: stale,
		Kind: intent.EntryPut, Body: json.RawMessage(`{"objects":[]}`),
	}
}

// line builds n entries of one site, each following the last.
func line(t testing.TB, n int, k ed25519.PrivateKey, epoch uint64, site string) []*intent.Envelope {
	t.Helper()
	var head intent.Head
	var envs []*intent.Envelope
	for range n {
		e := entry(head, epoch, site, "")
		env := sign(t, intent.PayloadIntent, e, k)
		head = e.Head(env.Payload)
		envs = append(envs, env)
	}
	return envs
}

func TestOpen(t *testing.T) {
	a, b := key(1), key(2)
	env := sign(t, intent.PayloadIntent, map[string]int{"n": 1}, a)
	twice := sign(t, intent.PayloadIntent, map[string]int{"n": 1}, a, a)
	both := sign(t, intent.PayloadIntent, map[string]int{"n": 1}, a, b)
	many := sign(t, intent.PayloadIntent, map[string]int{"n": 1}, a, a, a, a, a, a, a, a)
	many.Signatures = append(many.Signatures, many.Signatures[0])
	flipped := *env
	flipped.Payload = append([]byte(nil), env.Payload...)
	flipped.Payload[0] ^= 1

	f := func(env *intent.Envelope, typ string, threshold int, want error, keys ...ed25519.PublicKey) {
		t.Helper()
		if _, err := Open(env, typ, keys, threshold); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("Open = %v, want %v", err, want)
		}
	}
	f(env, intent.PayloadIntent, 1, nil, pub(a))
	f(env, intent.PayloadIntent, 1, nil, pub(b), pub(a))
	f(both, intent.PayloadIntent, 2, nil, pub(b), pub(a))
	f(env, intent.PayloadTrust, 1, ErrType, pub(a))
	f(env, intent.PayloadIntent, 1, ErrSignature, pub(b))
	f(env, intent.PayloadIntent, 1, ErrSignature)
	f(env, intent.PayloadIntent, 0, ErrSignature, pub(a))
	f(twice, intent.PayloadIntent, 2, ErrSignature, pub(a), pub(a), pub(b)) // one key counts once, however often it stands
	f(many, intent.PayloadIntent, 1, ErrSize, pub(a))
	f(&flipped, intent.PayloadIntent, 1, ErrSignature, pub(a))
	f(nil, intent.PayloadIntent, 1, ErrSize, pub(a))
}

func TestEncodeDecode(t *testing.T) {
	env := sign(t, intent.PayloadIntent, map[string]int{"n": 1}, key(1))
	b, err := Encode(env)
	if err != nil {
		t.Fatal(err)
	}
	// Ed25519 is deterministic: the whole wire form is a golden. A change here breaks every stored chain.
	const want = `{"payloadType":"application/vnd.skerry.intent.v1+json","payload":"eyJuIjoxfQ==","signatures":[{"keyid":"fd110d301d2f077de1414b8f99f441b1403fab207b2052fbd2c065e4ee8e7dc2","sig":"M/Cu8VL9/pvPLrry6CUfBXKZFN48Sa8s63odNxWZNICpYK3XqNm6oNgMlwL9H2NfN37PowfaqemygbrfUiQWDw=="}]}`
	if string(b) != want {
		t.Errorf("Encode = %s", b)
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(got, intent.PayloadIntent, []ed25519.PublicKey{pub(key(1))}, 1); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "null", "{}", `{"payloadType":"x","payload":"","signatures":[]}`, string(b) + "x", strings.Replace(string(b), "payloadType", "PayloadType", 1)} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("Decode(%.40q) accepted", bad)
		}
	}
}

func TestIntentChain(t *testing.T) {
	k, old, foreign := key(1), key(2), key(3)
	ws := []intent.Writer{writer(k, 4, intent.KeyUse), writer(old, 3, intent.KeyRetire)}
	envs := line(t, 3, k, 4, "lon1")
	at := func(n int) *IntentChain {
		c := &IntentChain{Site: "lon1", Writers: ws}
		for _, e := range envs[:n] {
			if _, err := c.Accept(e); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}
	f := func(c *IntentChain, env *intent.Envelope, want error) {
		t.Helper()
		before := c.Head
		_, err := c.Accept(env)
		if !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("Accept = %v, want %v", err, want)
		}
		if err != nil && c.Head != before {
			t.Error("a refused entry moved the head")
		}
	}
	f(at(3), envs[2], ErrKnown)
	f(at(3), envs[0], ErrReplay)
	f(at(1), envs[2], ErrGap)
	f(at(0), envs[1], ErrGap)
	f(at(2), sign(t, intent.PayloadIntent, entry(at(2).Head, 4, "par3", ""), k), ErrOtherSite)
	f(at(2), sign(t, intent.PayloadIntent, entry(at(2).Head, 4, "lon1", ""), foreign), ErrSigner)
	f(at(2), sign(t, intent.PayloadIntent, entry(at(2).Head, 5, "lon1", ""), k), ErrEpoch)
	f(at(2), sign(t, intent.PayloadIntent, entry(at(1).Head, 4, "lon1", "1h"), k), ErrFork) // same seq, other hash
	e := entry(at(2).Head, 4, "lon1", "")
	e.Prev = intent.DigestOf(nil).String()
	f(at(2), sign(t, intent.PayloadIntent, e, k), ErrFork)
	f(at(2), sign(t, intent.PayloadIntent, entry(at(2).Head, 3, "lon1", ""), old), ErrEpoch)
	f(at(2), sign(t, intent.PayloadTrust, entry(at(2).Head, 4, "lon1", ""), k), ErrType)

	// A retired writer counts only below an entry of a current one.
	c := &IntentChain{Site: "lon1", Writers: ws}
	olds := line(t, 2, old, 3, "lon1")
	f(c, olds[0], ErrSigner)
	if _, err := c.AcceptRun(olds); !errors.Is(err, ErrSigner) || c.Head.Seq != 0 {
		t.Errorf("AcceptRun of a retired epoch alone = %v, head %d", err, c.Head.Seq)
	}
	oldHead := intent.Head{Epoch: 3, Seq: 2, Hash: olds[1].Digest()}
	es, err := c.AcceptRun(append(olds, sign(t, intent.PayloadIntent, entry(oldHead, 4, "lon1", ""), k)))
	if err != nil || len(es) != 3 || c.Head.Seq != 3 || c.Head.Epoch != 4 {
		t.Errorf("AcceptRun = %d entries, head %v, %v", len(es), c.Head, err)
	}
}

// TestIntentChainProperties: whatever is done to a valid chain by someone without the key, the head stays a prefix of the
// true chain; what another holder of the key does is refused or a fork, never an acceptance off the line.
func TestIntentChainProperties(t *testing.T) {
	k := key(1)
	const n = 6
	envs := line(t, n, k, 4, "lon1")
	foreign := line(t, n, key(9), 4, "lon1")
	other := line(t, n, k, 4, "par3")
	forked := []*intent.Envelope{}
	for i := 1; i < n; i++ { // a second entry n+1 on each true head, by the true key
		head := intent.Head{Epoch: 4, Seq: uint64(i), Hash: envs[i-1].Digest()}
		forked = append(forked, sign(t, intent.PayloadIntent, entry(head, 4, "lon1", "9h"), k))
	}
	rapid.Check(t, func(t *rapid.T) {
		c := &IntentChain{Site: "lon1", Writers: []intent.Writer{writer(k, 4, intent.KeyUse)}}
		done := rapid.IntRange(1, n).Draw(t, "done")
		for _, e := range envs[:done] {
			if _, err := c.Accept(e); err != nil {
				t.Fatal(err)
			}
		}
		before := *c
		i := rapid.IntRange(0, n-1).Draw(t, "i")
		var env *intent.Envelope
		switch rapid.SampledFrom([]string{"rollback", "foreign", "other", "flip", "truncate", "fork"}).Draw(t, "attack") {
		case "rollback":
			env = envs[rapid.IntRange(0, done-1).Draw(t, "j")]
		case "foreign":
			env = foreign[i]
		case "other":
			env = other[i]
		case "flip":
			b := bytes.Clone(envs[min(done, n-1)].Payload)
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			env = &intent.Envelope{PayloadType: intent.PayloadIntent, Payload: b, Signatures: envs[min(done, n-1)].Signatures}
		case "truncate":
			e := envs[min(done, n-1)]
			env = &intent.Envelope{PayloadType: e.PayloadType, Payload: e.Payload[:rapid.IntRange(0, len(e.Payload)-1).Draw(t, "len")], Signatures: e.Signatures}
		case "fork":
			env = forked[rapid.IntRange(0, max(0, done-2)).Draw(t, "j")] // seq <= done: off the accepted line
			if done < 2 {
				env = foreign[i]
			}
		}
		if e, err := c.Accept(env); err == nil {
			t.Fatalf("accepted %d", e.Seq)
		}
		if c.Head != before.Head {
			t.Fatal("the head moved")
		}
	})
}

func trustBody(head intent.Head, roots intent.RootSet, next intent.Digest) *intent.TrustBody {
	return &intent.TrustBody{
		Header: Follow(head, intent.StreamTrust, 0, epoch0), Domain: "example.net", Roots: roots, Next: next,
		Writers: []intent.Writer{writer(key(1), 1, intent.KeyUse)},
	}
}

func rootSet(threshold int, ks ...ed25519.PrivateKey) intent.RootSet {
	s := intent.RootSet{Threshold: threshold}
	for _, k := range ks {
		s.Keys = append(s.Keys, MarshalKey(pub(k)))
	}
	return s
}

func TestTrustChain(t *testing.T) {
	r1, r2, r3, n1, n2 := key(11), key(12), key(13), key(21), key(22)
	roots, next := rootSet(2, r1, r2, r3), rootSet(2, n1, n2)
	first := sign(t, intent.PayloadTrust, trustBody(intent.Head{}, roots, next.Digest()), r1, r2)
	c := &TrustChain{Pin: first.Digest()}
	f := func(env *intent.Envelope, want error) {
		t.Helper()
		before := c.Head
		_, err := c.Accept(env)
		if !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("Accept = %v, want %v", err, want)
		}
		if err != nil && c.Head != before {
			t.Error("a refused document moved the head")
		}
	}
	f(sign(t, intent.PayloadTrust, trustBody(intent.Head{}, roots, intent.Digest{}), r1, r2), ErrSigner) // another pin
	weak := sign(t, intent.PayloadTrust, trustBody(intent.Head{}, roots, next.Digest()), r1)
	f(weak, ErrSigner) // the pinned bytes, one signature short
	f(first, nil)
	f(first, ErrKnown)
	f(sign(t, intent.PayloadTrust, trustBody(c.Head, roots, next.Digest()), r1, r1), ErrSigner)
	f(sign(t, intent.PayloadTrust, trustBody(c.Head, rootSet(1, r1), intent.Digest{}), r1, r2), ErrSigner) // roots nobody announced
	f(sign(t, intent.PayloadTrust, trustBody(c.Head, next, intent.Digest{}), r1, r2), ErrSigner)           // new set did not sign
	f(sign(t, intent.PayloadTrust, trustBody(c.Head, next, intent.Digest{}), n1, n2), ErrOffered)          // old set did not sign
	f(sign(t, intent.PayloadTrust, trustBody(c.Head, roots, next.Digest()), r3, r1), nil)
	f(sign(t, intent.PayloadTrust, trustBody(c.Head, next, intent.Digest{}), r1, r3, n1, n2), nil)
	f(sign(t, intent.PayloadTrust, trustBody(c.Head, next, intent.Digest{}), r1, r2), ErrSigner) // the old roots are gone
	moved := trustBody(c.Head, next, intent.Digest{})
	moved.Domain = "evil.net"
	f(sign(t, intent.PayloadTrust, moved, n1, n2), ErrOtherSite)
}

func TestRevocationChain(t *testing.T) {
	k := key(1)
	c := &RevocationChain{Writers: []intent.Writer{writer(k, 4, intent.KeyUse)}}
	body := func(head intent.Head, kind intent.RevocationKind) *intent.RevocationBody {
		return &intent.RevocationBody{Header: Follow(head, intent.StreamRevocation, 4, epoch0), Entries: []intent.Revocation{{Kind: kind, ID: "lon1/a7"}}}
	}
	first := sign(t, intent.PayloadRevocation, body(intent.Head{}, intent.RevokeAgent), k)
	second := sign(t, intent.PayloadRevocation, body(intent.Head{Epoch: 4, Seq: 1, Hash: first.Digest()}, intent.RevokeSPKI), k)
	if _, err := c.Accept(second); !errors.Is(err, ErrGap) {
		t.Errorf("Accept over a gap = %v", err)
	}
	if r, err := c.Peek(second); err != nil || len(r.Entries) != 1 {
		t.Errorf("Peek over a gap = %v: a revocation acts on receipt", err)
	}
	for _, e := range []*intent.Envelope{first, second} {
		if _, err := c.Accept(e); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Accept(sign(t, intent.PayloadRevocation, body(c.Head, "planet"), k)); err == nil {
		t.Error("accepted an unknown kind")
	}
	if _, err := c.Accept(sign(t, intent.PayloadRevocation, body(c.Head, intent.RevokeUser), key(7))); !errors.Is(err, ErrSigner) {
		t.Errorf("foreign signer = %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := Encode(sign(f, intent.PayloadIntent, map[string]int{"n": 1}, key(1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"payloadType":"","payload":"","signatures":[{"keyid":"","sig":""}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		env, err := Decode(b)
		if err != nil {
			return
		}
		if _, err := Open(env, intent.PayloadIntent, []ed25519.PublicKey{pub(key(2))}, 1); err == nil {
			t.Fatal("opened with a key that never signed")
		}
		again, err := Encode(env)
		if err != nil {
			t.Skip() // base64 grew past the bound
		}
		if _, err := Decode(again); err != nil {
			t.Fatalf("cannot read back what was read: %v", err)
		}
	})
}

// FuzzChain feeds signed but arbitrary payloads: no panic, and only true successors move a head.
func FuzzChain(f *testing.F) {
	k := key(1)
	f.Add(marshal(f, entry(intent.Head{}, 4, "lon1", "")))
	f.Add(marshal(f, trustBody(intent.Head{}, rootSet(1, k), intent.Digest{})))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) > 1<<16 {
			return
		}
		ws := []intent.Writer{writer(k, 4, intent.KeyUse)}
		for _, typ := range []string{intent.PayloadIntent, intent.PayloadRevocation, intent.PayloadTrust} {
			env, err := Sign(typ, payload, k)
			if err != nil {
				return
			}
			ic := &IntentChain{Site: "lon1", Writers: ws}
			if e, err := ic.Accept(env); err == nil && (e.Seq != 1 || e.Site != "lon1" || ic.Head.Seq != 1) {
				t.Fatalf("accepted %+v", e)
			}
			_, _ = (&RevocationChain{Writers: ws}).Accept(env)
			_, _ = (&TrustChain{Pin: env.Digest()}).Accept(env)
		}
	})
}
