package seal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
)

// Lock says for whom a file of an operator is encrypted (age, age-encryption.org/v1): for recipients, or by a passphrase.
type Lock struct {
	Recipients []string // age1…, also age1pq…
	Passphrase Secret
}

// minPassphrase is what a passphrase has at least: age's scrypt costs a guess a second, and a stolen backup can be guessed at for years.
const minPassphrase = 16

// Encrypt returns a writer whose Close ends the file; without it the file does not open.
func (l Lock) Encrypt(w io.Writer) (io.WriteCloser, error) {
	var to []age.Recipient
	switch {
	case len(l.Recipients) > 0 && !l.Passphrase.IsZero():
		return nil, errors.New("cannot encrypt: give recipients or a passphrase, not both")
	case len(l.Recipients) > 0:
		rs, err := age.ParseRecipients(strings.NewReader(strings.Join(l.Recipients, "\n")))
		if err != nil {
			return nil, fmt.Errorf("cannot encrypt: a recipient is age1…, as age-keygen prints it: %w", err)
		}
		to = rs
	case len(l.Passphrase.b) < minPassphrase:
		return nil, fmt.Errorf("cannot encrypt: name a recipient, or give a passphrase of at least %d characters", minPassphrase)
	default:
		r, err := age.NewScryptRecipient(string(l.Passphrase.b))
		if err != nil {
			return nil, fmt.Errorf("cannot encrypt: %w", err)
		}
		to = []age.Recipient{r}
	}
	out, err := age.Encrypt(w, to...)
	if err != nil {
		return nil, fmt.Errorf("cannot encrypt: %w", err)
	}
	return out, nil
}

// Key opens what a Lock closed: the file of an age identity, or the passphrase.
type Key struct {
	Identity   string // path of a file that age-keygen made
	Passphrase Secret
}

// Decrypt returns the plaintext; a damaged or cut file is an error where it is damaged, never a short end.
func (k Key) Decrypt(r io.Reader) (io.Reader, error) {
	var ids []age.Identity
	if k.Identity != "" {
		f, err := os.Open(k.Identity)
		if err != nil {
			return nil, fmt.Errorf("cannot read identity: %w", err)
		}
		defer f.Close()
		if ids, err = age.ParseIdentities(io.LimitReader(f, 64<<10)); err != nil {
			return nil, fmt.Errorf("cannot read identity %s: %w", k.Identity, err)
		}
	}
	if !k.Passphrase.IsZero() {
		id, err := age.NewScryptIdentity(string(k.Passphrase.b))
		if err != nil {
			return nil, fmt.Errorf("cannot use passphrase: %w", err)
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, errors.New("cannot decrypt: give the identity or the passphrase that it was made for")
	}
	out, err := age.Decrypt(r, ids...)
	if err != nil {
		return nil, fmt.Errorf("cannot decrypt: %w", err)
	}
	return out, nil
}
