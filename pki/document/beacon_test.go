package document

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// A beacon counts if a current writer signed it for who asks, over his nonce.
func TestBeacon(t *testing.T) {
	key := func(b byte) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(b)), 32)))
	}
	writer := func(k ed25519.PrivateKey, s intent.KeyState) intent.Writer {
		return intent.Writer{Key: MarshalKey(k.Public().(ed25519.PublicKey)), Epoch: 1, Mode: intent.ModeContinue, State: s}
	}
	now, old := key('n'), key('o')
	writers := []intent.Writer{writer(now, intent.KeyUse), writer(old, intent.KeyRetire)}
	nonce := strings.Repeat("a", 32)
	good := Beacon{Who: "c1", To: "lon1/a1", Time: time.Unix(1, 0).UTC(), Nonce: nonce, Intent: intent.Head{Epoch: 1, Seq: 7}}
	sign := func(b Beacon, k ed25519.PrivateKey) *intent.Envelope {
		t.Helper()
		env, err := b.Sign(k)
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	if got, err := OpenBeacon(sign(good, now), writers, "lon1/a1", nonce); err != nil || *got != good {
		t.Errorf("%+v, %v", got, err)
	}
	long := good
	long.Who = strings.Repeat("c", MaxBeacon)
	other := *sign(good, now)
	other.PayloadType = intent.PayloadIntent
	unknown, err := Sign(intent.PayloadBeacon, []byte(`{"who":"c1","more":1}`), now)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		env       *intent.Envelope
		to, nonce string
		want      error
	}{
		"a retired writer":  {sign(good, old), "lon1/a1", nonce, ErrSigner},
		"a stranger":        {sign(good, key('x')), "lon1/a1", nonce, ErrSigner},
		"another agent":     {sign(good, now), "lon1/a2", nonce, ErrBeacon},
		"another nonce":     {sign(good, now), "lon1/a1", strings.Repeat("b", 32), ErrBeacon},
		"no nonce":          {sign(good, now), "lon1/a1", "", ErrBeacon},
		"a large one":       {sign(long, now), "lon1/a1", nonce, ErrSize},
		"another type":      {&other, "lon1/a1", nonce, ErrType},
		"an unknown field":  {unknown, "lon1/a1", nonce, nil},
		"nothing":           {nil, "lon1/a1", nonce, ErrSize},
		"a changed payload": {&intent.Envelope{PayloadType: intent.PayloadBeacon, Payload: []byte("{}"), Signatures: sign(good, now).Signatures}, "lon1/a1", nonce, ErrSigner},
	} {
		if b, err := OpenBeacon(c.env, writers, c.to, c.nonce); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", what, b, err, c.want)
		}
	}
	for _, n := range []string{"", "short", strings.Repeat("x", 65)} {
		b := good
		b.Nonce = n
		if _, err := b.Sign(now); !errors.Is(err, ErrBeacon) {
			t.Errorf("signed over %q: %v", n, err)
		}
	}
}

// FuzzBeacon: whatever was signed, opening it costs an error at most.
func FuzzBeacon(f *testing.F) {
	k := ed25519.NewKeyFromSeed(make([]byte, 32))
	nonce := strings.Repeat("a", 32)
	ws := []intent.Writer{{Key: MarshalKey(k.Public().(ed25519.PublicKey)), Epoch: 1, Mode: intent.ModeContinue, State: intent.KeyUse}}
	b, err := json.Marshal(Beacon{Who: "c1", To: "lon1/a1", Nonce: nonce})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"who":"c1","nonce":1}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		env, err := Sign(intent.PayloadBeacon, payload, k)
		if err != nil {
			return
		}
		if b, err := OpenBeacon(env, ws, "lon1/a1", nonce); err == nil && (b.To != "lon1/a1" || b.Nonce != nonce) {
			t.Fatalf("took %+v", b)
		}
	})
}
