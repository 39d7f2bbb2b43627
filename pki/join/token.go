package join

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
)

// MaxTokenLife bounds a token's validity: it may lie in a shell history, so a day must be enough.
const MaxTokenLife = 24 * time.Hour

const (
	tokenPrefix = "skj1"
	secretSize  = 32
	idSize      = 5 // octets; 8 base32 letters
)

// ErrToken says that a text is not a join token.
var ErrToken = errors.New("not a join token (want skj1.ID.SECRET.PIN)")

// Token is what an operator carries from the coordinator to a new box. Pin is the SHA-256 of the payload of trust document 1.
type Token struct {
	ID     string
	Secret seal.Secret // 32 octets
	Pin    intent.Digest
}

// NewToken makes a token with random id and secret.
func NewToken(pin intent.Digest) (Token, error) {
	b := make([]byte, idSize+secretSize)
	if _, err := rand.Read(b); err != nil {
		return Token{}, fmt.Errorf("cannot make join token: %w", err)
	}
	id := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:idSize]))
	return Token{ID: id, Secret: seal.NewSecret(b[idSize:]), Pin: pin}, nil
}

// Text returns skj1.ID.SECRET.PIN, with secret and pin in unpadded base64url. It is shown once, when the token is made.
func (t Token) Text() string {
	enc := base64.RawURLEncoding
	return strings.Join([]string{tokenPrefix, t.ID, enc.EncodeToString(t.Secret.Reveal()), enc.EncodeToString(t.Pin[:])}, ".")
}

// String returns the token without its secret, for logs.
func (t Token) String() string { return tokenPrefix + "." + t.ID + ".[secret]" }

// Hash returns the SHA-256 of the secret, which is all that the coordinator stores of it.
func (t Token) Hash() intent.Digest { return intent.DigestOf(t.Secret.Reveal()) }

// Parse reads what Text wrote. Errors: ErrToken; the text itself is never repeated.
func Parse(s string) (Token, error) {
	p := strings.Split(s, ".")
	if len(s) > 200 || len(p) != 4 || p[0] != tokenPrefix || !validID(p[1]) {
		return Token{}, fmt.Errorf("cannot parse join token: %w", ErrToken)
	}
	enc := base64.RawURLEncoding.Strict()
	secret, err1 := enc.DecodeString(p[2])
	pin, err2 := enc.DecodeString(p[3])
	if err1 != nil || err2 != nil || len(secret) != secretSize || len(pin) != len(intent.Digest{}) {
		return Token{}, fmt.Errorf("cannot parse join token: %w", ErrToken)
	}
	t := Token{ID: p[1], Secret: seal.NewSecret(secret), Pin: intent.Digest(pin)}
	if t.Text() != s { // the decoder skips line ends
		return Token{}, fmt.Errorf("cannot parse join token: %w", ErrToken)
	}
	return t, nil
}

// ParseTarget reads TOKEN@HOST:PORT, as `skerry agent --join` takes it. Errors: ErrToken.
func ParseTarget(s string) (t Token, addr string, err error) {
	text, addr, ok := strings.Cut(s, "@")
	if !ok || addr == "" || len(addr) > 260 {
		return Token{}, "", fmt.Errorf("cannot parse join target: want TOKEN@HOST:PORT: %w", ErrToken)
	}
	t, err = Parse(text)
	return t, addr, err
}

func validID(s string) bool {
	if len(s) != 8 {
		return false
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '2' || r > '7') {
			return false
		}
	}
	return true
}

// Record is what the coordinator stores of a token. Serial, when set, is the SMBIOS serial of the only box that may use it.
type Record struct {
	ID      string        `json:"id"`
	Hash    intent.Digest `json:"hash"`
	Site    string        `json:"site"`
	Agent   string        `json:"agent"`
	Roles   []string      `json:"roles,omitempty"`
	Serial  string        `json:"serial,omitempty"`
	Spare   bool          `json:"spare,omitempty"` // the newcomer waits to take another agent's place
	Expires time.Time     `json:"expires"`
	SpentBy intent.Digest `json:"spentBy"` // SPKI of the TLS key; zero: unspent
	SpentAt time.Time     `json:"spentAt"`
}

// sameAnswer is how long the key that spent a token gets its answer again: a lost reply must not cost a walk to the rack.
const sameAnswer = 10 * time.Minute

// usable tells whether secret, serial and key may redeem r at now.
func (r *Record) usable(hash intent.Digest, serial string, spki intent.Digest, now time.Time) bool {
	ok := subtle.ConstantTimeCompare(hash[:], r.Hash[:]) == 1
	ok = ok && (r.Serial == "" || r.Serial == serial)
	if r.SpentBy.IsZero() {
		return ok && now.Before(r.Expires)
	}
	return ok && r.SpentBy == spki && now.Sub(r.SpentAt) < sameAnswer
}
