package intent

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"time"
)

// WANSpec bounds what a site takes of assets over its line (mesh.md section 6). Signed documents and control traffic are not bounded.
type WANSpec struct {
	RateIn   string      `json:"rateIn,omitempty"`   // bit/s, with k, M, G (thousands): 20M; empty: what the line carries
	RateOut  string      `json:"rateOut,omitempty"`  // bit/s, of what other sites take from here; empty: what the line carries
	DailyCap string      `json:"dailyCap,omitempty"` // octets from midnight to midnight, with k, M, G, T: 50G
	Windows  []WANWindow `json:"windows,omitempty"`  // the first that holds counts in place of rateIn
	Metered  bool        `json:"metered,omitempty"`  // the line costs by the octet: nothing is taken from other sites
	URLs     string      `json:"urls,omitempty"`     // when agents read an asset's URL: first (default), last: after the coordinator, never
}

// WANWindow is a time of the day with a rate of its own. Times are those of the agent's host.
type WANWindow struct {
	Days []string `json:"days,omitempty"` // mon to sun, on which it begins; empty: each
	From string   `json:"from"`           // HH:MM
	To   string   `json:"to"`             // HH:MM; not after from: of the next day
	Rate string   `json:"rate"`           // as rateIn; 0: quiet hours, only what a machine waits for comes
}

func (s *WANSpec) validate(c *checker) {
	c.amount("rateIn", s.RateIn, 8000)
	c.amount("rateOut", s.RateOut, 8000)
	c.amount("dailyCap", s.DailyCap, 1e6)
	c.oneOf("urls", cmp.Or(s.URLs, "first"), "first", "last", "never")
	if len(s.Windows) > 16 {
		c.add("windows", "more than 16", "remove some")
	}
	for i, w := range s.Windows {
		c := c.below(fmt.Sprintf("windows[%d]", i))
		for _, d := range w.Days {
			c.oneOf("days", d, weekdays()...)
		}
		for _, f := range [][2]string{{"from", w.From}, {"to", w.To}} {
			if _, ok := minuteOf(f[1]); !ok {
				c.add(f[0], fmt.Sprintf("%q is no time of the day", clip(f[1], 20)), "write it like 08:30")
			}
		}
		if w.Rate != "0" {
			c.amount("rate", w.Rate, 8000)
		}
		if w.Rate == "" {
			c.add("rate", "it is missing", "use 0 for quiet hours, or a rate like 2M")
		}
	}
}

func (c *checker) amount(path, s string, least uint64) {
	if n, ok := ParseAmount(s); s != "" && (!ok || n < least) {
		c.add(path, fmt.Sprintf("%q is no amount in range", clip(s, 40)), fmt.Sprintf("use at least %d, with k, M, G or T for thousands, millions and so on", least))
	}
}

// ParseAmount reads digits that k, M, G or T may follow: powers of 1000.
func ParseAmount(s string) (uint64, bool) {
	unit := uint64(1)
	if n := len(s) - 1; n >= 0 {
		if u := map[byte]uint64{'k': 1e3, 'M': 1e6, 'G': 1e9, 'T': 1e12}[s[n]]; u > 0 {
			s, unit = s[:n], u
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n * unit, err == nil && n <= math.MaxInt64/unit
}

// weekdays are in the order of time.Weekday.
func weekdays() []string { return []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} }

// minuteOf reads HH:MM.
func minuteOf(s string) (int, bool) {
	t, err := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute(), err == nil && len(s) == 5
}
