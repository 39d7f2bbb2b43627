package bootnet

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// BootKeyName is the secret that every agent of the site holds, and nobody else (trust.md section 7).
const BootKeyName = "skerry-boot"

// signer makes the site's short tokens from its boot key: any agent verifies what another one made. Keys that were replaced
// lately verify still, so that a renewal ends no boot that is under way; they make nothing.
type signer struct {
	key []byte
	old [][]byte
}

func newSigner(keys []seal.Secret) (signer, error) {
	if len(keys) == 0 {
		return signer{}, errors.New("no boot key")
	}
	s := signer{key: keys[0].Reveal()}
	for _, k := range keys[1:] {
		s.old = append(s.old, k.Reveal())
	}
	return s, nil
}

// verifies tells whether make, under one of the keys, gives token.
func (s signer) verifies(token string, make func(signer) string) bool {
	ok := same(make(s), token)
	for _, k := range s.old {
		ok = same(make(signer{key: k}), token) || ok
	}
	return ok
}

func (s signer) mac(purpose string, parts ...string) string {
	h := hmac.New(sha256.New, s.key)
	fmt.Fprintf(h, "skerry/%s/v1", purpose)
	for _, p := range parts {
		fmt.Fprintf(h, "|%d:%s", len(p), p)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// boot returns the token that goes into the script of one journaled power-on.
func (s signer) boot(w reconcile.Window) string {
	return s.mac("boot", w.Machine, w.MAC, w.Nonce, fmt.Sprint(w.Generation), w.Epoch.String())
}

// session returns a new session id for a machine's installer: MACHINE.RANDOM.MAC.
func (s signer) session(machine, nonce string) string {
	r := make([]byte, 12)
	rand.Read(r) // never fails: crypto/rand, Go 1.24
	random := base64.RawURLEncoding.EncodeToString(r)
	return machine + "." + random + "." + s.mac("session", machine, nonce, random)
}

// sessionMachine returns whose session id this is, if it is one of the site under the given nonce.
func (s signer) sessionMachine(id string, nonceOf func(machine string) string) (string, bool) {
	parts := strings.Split(id, ".")
	if len(parts) != 3 || len(id) > 256 {
		return "", false
	}
	nonce := nonceOf(parts[0])
	return parts[0], s.verifies(parts[2], func(s signer) string { return s.mac("session", parts[0], nonce, parts[1]) })
}

// metadata returns the token of an installed machine's metadata; it dies with the generation.
func (s signer) metadata(b reconcile.Binding) string {
	return s.mac("metadata", b.Machine, b.Instance, fmt.Sprint(b.Generation))
}

// same compares two tokens in constant time.
func same(a, b string) bool { return hmac.Equal([]byte(a), []byte(b)) }
