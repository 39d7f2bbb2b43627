package rrd

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Match selects series: name{label="v",label=~"re2"}. Each part must fit; a pattern must fit the whole value. An empty name, or no
// braces, leaves that part open. The zero value matches everything.
type Match struct {
	name  string
	terms []term
}

type term struct {
	label, value string
	re           *regexp.Regexp
}

// maxMatch bounds the text of a match, in octets.
const maxMatch = 4 << 10

// ParseMatch reads a match. Errors: ErrQuery.
func ParseMatch(text string) (Match, error) {
	bad := func(why string) (Match, error) {
		return Match{}, fmt.Errorf("cannot read match %.80q: %w: %s", text, ErrQuery, why)
	}
	if len(text) > maxMatch {
		return bad("it is too long")
	}
	n, rest, braces := strings.Cut(strings.TrimSpace(text), "{")
	m := Match{name: strings.TrimSpace(n)}
	if m.name != "" && !name(m.name) {
		return bad("a name is of letters, digits and _")
	}
	if !braces {
		return m, nil
	}
	for {
		rest = strings.TrimSpace(rest)
		if rest == "}" {
			return m, nil
		}
		label, after, ok := strings.Cut(rest, "=")
		if label = strings.TrimSpace(label); !ok || !name(label) || len(m.terms) == 2*maxLabels {
			return bad(`labels go like name{label="value",other=~"pattern"}`)
		}
		t := term{label: label}
		after, pattern := strings.CutPrefix(after, "~")
		quoted, err := strconv.QuotedPrefix(strings.TrimSpace(after))
		if err != nil {
			return bad("a value stands in quotes")
		}
		rest = strings.TrimSpace(strings.TrimSpace(after)[len(quoted):])
		if t.value, err = strconv.Unquote(quoted); err != nil {
			return bad("a value stands in quotes")
		}
		if pattern {
			if t.re, err = regexp.Compile("^(?:" + t.value + ")$"); err != nil {
				return bad("the pattern is no RE2")
			}
		}
		m.terms = append(m.terms, t)
		if rest != "}" {
			if rest, ok = strings.CutPrefix(rest, ","); !ok {
				return bad("a comma or } comes after a value")
			}
		}
	}
}

// Matches tells whether a series is selected.
func (m Match) Matches(d Def) bool { return m.each()(d) }

// each is Matches for many series: what a pattern says of a value it is asked once.
func (m Match) each() func(Def) bool {
	said := make([]map[string]bool, len(m.terms))
	return func(d Def) bool {
		if m.name != "" && m.name != d.Name {
			return false
		}
		for i, t := range m.terms {
			v := d.Labels[t.label]
			if t.re == nil {
				if v != t.value {
					return false
				}
				continue
			}
			ok, known := said[i][v]
			if !known {
				ok = t.re.MatchString(v)
				if said[i] == nil {
					said[i] = map[string]bool{}
				}
				said[i][v] = ok
			}
			if !ok {
				return false
			}
		}
		return true
	}
}
