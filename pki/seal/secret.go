package seal

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[secret]"

// Secret is bytes that must not be shown. Every formatter, JSON and slog print [secret]; Reveal is the only way in.
// The zero Secret is empty.
type Secret struct{ b []byte }

// NewSecret copies b.
func NewSecret(b []byte) Secret { return Secret{bytes.Clone(b)} }

// Reveal returns a copy of the bytes. Whoever calls it keeps them out of logs, errors and answers.
func (s Secret) Reveal() []byte { return bytes.Clone(s.b) }

// IsZero tells whether there is nothing inside.
func (s Secret) IsZero() bool { return len(s.b) == 0 }

// String returns [secret].
func (Secret) String() string { return redacted }

// GoString returns [secret].
func (Secret) GoString() string { return redacted }

// Format writes [secret] for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalJSON returns "[secret]".
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText returns [secret].
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns [secret].
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

var (
	_ fmt.Formatter  = Secret{}
	_ slog.LogValuer = Secret{}
)
