package intent

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Epoch orders claims on one device: by roster generation, then by N = counter*2^16 + rank of the owner, so that two owners
// never share one (mesh.md section 7). The zero epoch is below every granted one.
type Epoch struct {
	Generation uint64 `json:"generation"`
	N          uint64 `json:"n"`
}

// ErrEpoch says that a text is not an epoch.
var ErrEpoch = errors.New("not an epoch (want GENERATION.N)")

// Compare returns -1, 0 or 1.
func (e Epoch) Compare(o Epoch) int {
	if c := cmp.Compare(e.Generation, o.Generation); c != 0 {
		return c
	}
	return cmp.Compare(e.N, o.N)
}

// Next returns the lowest epoch above e that the agent of the given rank (0-65535) may hold in the given roster generation.
func (e Epoch) Next(generation uint64, rank uint16) Epoch {
	generation = max(generation, e.Generation)
	if generation > e.Generation {
		return Epoch{generation, 1<<16 | uint64(rank)}
	}
	return Epoch{generation, (e.N>>16+1)<<16 | uint64(rank)}
}

// String returns GENERATION.N in decimal, as device fences carry it.
func (e Epoch) String() string {
	return strconv.FormatUint(e.Generation, 10) + "." + strconv.FormatUint(e.N, 10)
}

// ParseEpoch reads what String wrote. Errors: ErrEpoch.
func ParseEpoch(s string) (Epoch, error) {
	g, n, ok := strings.Cut(s, ".")
	if !ok || len(s) > 41 {
		return Epoch{}, fmt.Errorf("cannot parse epoch %q: %w", clip(s, 60), ErrEpoch)
	}
	var e Epoch
	var err1, err2 error
	e.Generation, err1 = strconv.ParseUint(g, 10, 64)
	e.N, err2 = strconv.ParseUint(n, 10, 64)
	if err1 != nil || err2 != nil || e.String() != s {
		return Epoch{}, fmt.Errorf("cannot parse epoch %q: %w", clip(s, 60), ErrEpoch)
	}
	return e, nil
}

// Claim is the right to write to one device or to decide one thing. ID is a device ("machine/m1") or a decision
// ("binding/<instance uid>", "quota/<project>").
type Claim struct {
	ID    string `json:"id"`
	Epoch Epoch  `json:"epoch"`
	Owner string `json:"owner"` // agent id
}

// Strength says what a device's fence is worth. Soft counts as none for destructive steps.
type Strength int

// The strengths, ordered.
const (
	StrengthNone Strength = iota
	StrengthSoft
	StrengthHard
)

// String returns none, soft or hard.
func (s Strength) String() string {
	switch s {
	case StrengthHard:
		return "hard"
	case StrengthSoft:
		return "soft"
	default:
		return "none"
	}
}

// Effect says how far a write to a device is proven: a 2xx proves only Accepted. Drivers claim at most Readback; Observed
// is decided by what the site saw (a DHCP packet, links gone).
type Effect int

// The effects, ordered. EffectNone: it was already so, nothing was written.
const (
	EffectNone Effect = iota
	EffectAccepted
	EffectReadback
	EffectObserved
)

// String returns none, accepted, readback or observed.
func (e Effect) String() string {
	return [...]string{"none", "accepted", "readback", "observed"}[max(0, min(int(e), 3))]
}
