package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// AlgDEK names the wrapping of SealedDEK.Alg: HPKE with ML-KEM-768 + P-256, HKDF-SHA256, AES-256-GCM (RFC 9180,
// draft-ietf-hpke-pq).
const AlgDEK = "hpke-mlkem768p256-hkdfsha256-aes256gcm"

const (
	dekSize   = 32 // AES-256
	MaxSecret = 64 << 10
)

// ErrSealed says that something sealed does not open with this key for this purpose, or was damaged.
var ErrSealed = errors.New("does not open")

// ErrNoDEK says that the data key of a record has not arrived.
var ErrNoDEK = errors.New("data key not known")

// Binding is what sealed bytes are bound to: they open in the same binding only. No part may hold '|'.
type Binding struct {
	Domain string
	Site   string
	Agent  string
}

func (b Binding) check(name string) error {
	for _, s := range []string{b.Domain, b.Site, b.Agent, name} {
		if s == "" || strings.ContainsRune(s, '|') {
			return fmt.Errorf("cannot bind a secret to %q: empty or with '|'", s)
		}
	}
	return nil
}

func (b Binding) info(dek uint64) []byte {
	return []byte("skerry/dek/v1|" + b.Site + "|" + b.Agent + "|" + strconv.FormatUint(dek, 10))
}

func (b Binding) aad(name string, ver uint64) []byte {
	return []byte(b.Domain + "|" + b.Site + "|" + b.Agent + "|" + name + "|" + strconv.FormatUint(ver, 10))
}

// DEK is a data key of one agent: N names it, counting from 1.
type DEK struct {
	N    uint64
	key  Secret
	aead cipher.AEAD
}

// NewDEK makes a random data key.
func NewDEK(n uint64) (*DEK, error) {
	k := make([]byte, dekSize)
	if _, err := rand.Read(k); err != nil {
		return nil, fmt.Errorf("cannot make data key: %w", err)
	}
	return dekOf(n, k)
}

// DEKFrom rebuilds a data key from what Key returned (32 octets).
func DEKFrom(n uint64, key Secret) (*DEK, error) { return dekOf(n, key.b) }

// Key returns the key's bytes, for the coordinator's own store.
func (d *DEK) Key() Secret { return d.key }

func dekOf(n uint64, k []byte) (*DEK, error) {
	if len(k) != dekSize {
		return nil, fmt.Errorf("cannot use data key %d of %d octets: %w", n, len(k), ErrSealed)
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, fmt.Errorf("cannot use data key %d: %w", n, err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("cannot use data key %d: %w", n, err)
	}
	return &DEK{N: n, key: NewSecret(k), aead: aead}, nil
}

// Wrap seals d to an agent's public seal key (Keys.SealPublic; 1249 octets).
func (d *DEK) Wrap(public []byte, b Binding) (intent.SealedDEK, error) {
	if err := b.check("dek"); err != nil {
		return intent.SealedDEK{}, err
	}
	pk, err := kem().NewPublicKey(public)
	if err != nil {
		return intent.SealedDEK{}, fmt.Errorf("cannot wrap data key for %s: %w", b.Agent, err)
	}
	enc, s, err := hpke.NewSender(pk, hpke.HKDFSHA256(), hpke.AES256GCM(), b.info(d.N))
	if err != nil {
		return intent.SealedDEK{}, fmt.Errorf("cannot wrap data key for %s: %w", b.Agent, err)
	}
	ct, err := s.Seal(nil, d.key.b)
	if err != nil {
		return intent.SealedDEK{}, fmt.Errorf("cannot wrap data key for %s: %w", b.Agent, err)
	}
	return intent.SealedDEK{To: b.Agent, DEK: d.N, Alg: AlgDEK, Enc: enc, CT: ct}, nil
}

// Seal encrypts plain (at most MaxSecret) under d as version ver of name. Each call gives other bytes.
func (d *DEK) Seal(b Binding, name string, ver uint64, plain Secret) (intent.SealedRecord, error) {
	if err := b.check(name); err != nil {
		return intent.SealedRecord{}, err
	}
	if len(plain.b) > MaxSecret {
		return intent.SealedRecord{}, fmt.Errorf("cannot seal %s: %d octets, at most %d", name, len(plain.b), MaxSecret)
	}
	ct := d.aead.Seal(nil, nil, plain.b, b.aad(name, ver))
	return intent.SealedRecord{Name: name, Ver: ver, To: b.Agent, DEK: d.N, CT: ct}, nil
}

// Open decrypts r. Errors: ErrNoDEK when r was sealed under another data key, ErrSealed.
func (d *DEK) Open(b Binding, r intent.SealedRecord) (Secret, error) {
	if r.DEK != d.N {
		return Secret{}, fmt.Errorf("cannot open %q: sealed under data key %d: %w", clip(r.Name), r.DEK, ErrNoDEK)
	}
	if r.To != b.Agent || len(r.CT) > MaxSecret+64 || b.check(r.Name) != nil {
		return Secret{}, fmt.Errorf("cannot open %q: %w", clip(r.Name), ErrSealed)
	}
	plain, err := d.aead.Open(nil, nil, r.CT, b.aad(r.Name, r.Ver))
	if err != nil {
		return Secret{}, fmt.Errorf("cannot open %q: %w", clip(r.Name), ErrSealed)
	}
	return Secret{plain}, nil
}

// Ring holds the data keys of one agent. Safe for concurrent use.
type Ring struct {
	binding Binding
	mu      sync.RWMutex // guards what follows
	keys    []*Keys
	deks    map[uint64]*DEK
}

// NewRing returns an empty ring for the agent that holds keys: one set, or in a rotation several.
func NewRing(b Binding, keys ...*Keys) *Ring {
	return &Ring{binding: b, keys: keys, deks: map[uint64]*DEK{}}
}

// OpensWith tells whether a data key opens with keys alone.
func (r *Ring) OpensWith(s intent.SealedDEK, keys *Keys) bool {
	_, err := Unwrap(s, r.binding, keys)
	return err == nil
}

// Hold adds a set of keys that data keys may be sealed to from now on.
func (r *Ring) Hold(keys *Keys) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = append(slices.Clone(r.keys), keys)
}

// Add unwraps a data key. One that is sealed to another agent is ignored. Errors: ErrSealed.
func (r *Ring) Add(s intent.SealedDEK) error {
	if s.To != r.binding.Agent {
		return nil
	}
	r.mu.RLock()
	keys := r.keys
	r.mu.RUnlock()
	k, err := Unwrap(s, r.binding, keys...)
	if err != nil {
		return err
	}
	d, err := dekOf(s.DEK, k.b)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deks[s.DEK] = d
	return nil
}

// Forget drops data key n.
func (r *Ring) Forget(n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.deks, n)
}

// Unwrap opens what Wrap sealed to one of the key sets of the agent of b. Errors: ErrSealed.
func Unwrap(s intent.SealedDEK, b Binding, keys ...*Keys) (Secret, error) {
	if s.Alg != AlgDEK {
		return Secret{}, fmt.Errorf("cannot unwrap data key %d: algorithm %q: %w", s.DEK, clip(s.Alg), ErrSealed)
	}
	err := fmt.Errorf("cannot unwrap data key %d: %w", s.DEK, ErrSealed)
	for _, k := range keys {
		var out Secret
		if out, err = unwrap(s, b, k); err == nil {
			return out, nil
		}
	}
	return Secret{}, err
}

func unwrap(s intent.SealedDEK, b Binding, keys *Keys) (Secret, error) {
	rec, err := hpke.NewRecipient(s.Enc, keys.seal, hpke.HKDFSHA256(), hpke.AES256GCM(), b.info(s.DEK))
	if err != nil {
		return Secret{}, fmt.Errorf("cannot unwrap data key %d: %w", s.DEK, ErrSealed)
	}
	k, err := rec.Open(nil, s.CT)
	if err != nil {
		return Secret{}, fmt.Errorf("cannot unwrap data key %d: %w", s.DEK, ErrSealed)
	}
	return Secret{k}, nil
}

// Open decrypts a record sealed to this agent. Errors: ErrNoDEK, ErrSealed.
func (r *Ring) Open(rec intent.SealedRecord) (Secret, error) {
	r.mu.RLock()
	d := r.deks[rec.DEK]
	r.mu.RUnlock()
	if d == nil {
		return Secret{}, fmt.Errorf("cannot open %q: data key %d: %w", clip(rec.Name), rec.DEK, ErrNoDEK)
	}
	return d.Open(r.binding, rec)
}

func kem() hpke.KEM { return hpke.MLKEM768P256() }

func clip(s string) string { return s[:min(len(s), 60)] }
