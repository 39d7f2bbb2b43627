package origin

import (
	"errors"
	"fmt"
)

// Why is the name of a refusal: a bounded set, for metrics and statuses.
type Why string

// The refusals. Unreachable, Status, Slow and Cut pass; the others are of a server that has not, or does not give, what was registered.
const (
	Unreachable Why = "unreachable" // no connection, or no answer in time
	Forbidden   Why = "forbidden"   // the policy refuses the address, or a redirect
	Status      Why = "status"      // it answers with an error
	NoRanges    Why = "no-ranges"   // it sends all where a part was asked for
	WrongPart   Why = "wrong-part"  // it sends another part, or says another length of it
	Encoded     Why = "encoded"
	Changed     Why = "changed" // it has another file now, by validator or length
	WrongOctets Why = "wrong-octets"
	Slow        Why = "slow"
	Cut         Why = "cut" // it broke off
)

// Whys lists them.
func Whys() []Why {
	return []Why{Unreachable, Forbidden, Status, NoRanges, WrongPart, Encoded, Changed, WrongOctets, Slow, Cut}
}

// Refusal is why nothing of an answer was used.
type Refusal struct {
	Why  Why
	Text string // for people; without the URL
}

// Error returns Text.
func (r *Refusal) Error() string { return r.Text }

func refuse(why Why, format string, args ...any) error {
	return &Refusal{why, fmt.Sprintf(format, args...)}
}

// RefusalOf returns the refusal that err wraps.
func RefusalOf(err error) (*Refusal, bool) { return errors.AsType[*Refusal](err) }
