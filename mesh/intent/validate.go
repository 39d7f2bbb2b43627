package intent

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Validate checks o by itself: names, ranges, formats. What needs other objects is checked by Catalog.Check.
func (o *Object) Validate() Problems {
	c := &checker{}
	info, ok := o.Kind.Info()
	if !ok || o.Spec == nil {
		c.add("kind", fmt.Sprintf("%q is not known", clip(string(o.Kind), 40)), "`skerry get kinds` lists them")
		return c.ps
	}
	m := o.Metadata
	c.label("metadata.name", m.Name)
	switch info.Scope {
	case ScopeProject:
		c.label("metadata.project", m.Project)
	default:
		if m.Project != "" {
			c.add("metadata.project", "a "+string(o.Kind)+" belongs to no project", "remove it")
		}
	}
	switch {
	case info.NeedSite:
		c.label("metadata.site", m.Site)
	case m.Site != "":
		c.add("metadata.site", "a "+string(o.Kind)+" belongs to no site", "remove it")
	}
	if m.UID != "" && !IsLabel(m.UID) { // it becomes part of keys in stores
		c.add("metadata.uid", fmt.Sprintf("%q is not a uid", clip(m.UID, 40)), "leave it out: it is given")
	}
	if len(m.Labels) > 32 {
		c.add("metadata.labels", "more than 32", "remove some")
	}
	for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
		v := m.Labels[k]
		if k == "" || len(k) > 63 || len(v) > 128 || !printable(k+v) {
			c.add("metadata.labels", fmt.Sprintf("%q is not a label", clip(k, 40)), "names up to 63, values up to 128 printable characters")
		}
	}
	o.Spec.validate(c.below("spec"))
	return c.ps
}

// checker collects problems below a path.
type checker struct {
	path   string
	ps     Problems
	parent *checker
}

func (c *checker) below(path string) *checker { return &checker{path: join(c.path, path), parent: c} }

func (c *checker) add(path, what, fix string) {
	p := Problem{Path: join(c.path, path), What: what, Fix: fix}
	for c.parent != nil {
		c = c.parent
	}
	c.ps = append(c.ps, p)
}

// label wants one DNS label: it becomes host names, paths and URI SANs.
func (c *checker) label(path, s string) {
	if !IsLabel(s) {
		c.add(path, fmt.Sprintf("%q is not a name", clip(s, 80)), "use 1-63 of a-z, 0-9 and -, beginning and ending with a letter or digit")
	}
}

func (c *checker) optionalLabel(path, s string) {
	if s != "" {
		c.label(path, s)
	}
}

// IsLabel tells whether s is one lower-case DNS label (RFC 1123, 1-63 octets).
func IsLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
}

func (c *checker) text(path, s string, maxLen int) {
	if len(s) > maxLen || !printable(s) {
		c.add(path, "too long or not printable", fmt.Sprintf("at most %d printable characters on one line", maxLen))
	}
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func (c *checker) oneOf(path, s string, allowed ...string) {
	if !slices.Contains(allowed, s) {
		c.add(path, fmt.Sprintf("%q is not known", clip(s, 40)), "use "+strings.Join(allowed, ", "))
	}
}

func (c *checker) count(path string, n, lo, hi int) {
	if n < lo || n > hi {
		c.add(path, fmt.Sprintf("%d is out of range", n), fmt.Sprintf("use %d to %d", lo, hi))
	}
}

func (c *checker) addr(path, s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		c.add(path, fmt.Sprintf("%q is not an IP address", clip(s, 60)), "write it like 10.0.0.1")
		return netip.Addr{}
	}
	return a
}

// host wants an IP address that a port may follow.
func (c *checker) host(path, s string) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		s = ap.Addr().String()
	}
	c.addr(path, s)
}

// prefix wants a CIDR whose host bits are zero.
func (c *checker) prefix(path, s string) netip.Prefix {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		c.add(path, fmt.Sprintf("%q is not a prefix", clip(s, 60)), "write it like 10.0.0.0/24")
		return netip.Prefix{}
	}
	if p.Masked() != p {
		c.add(path, fmt.Sprintf("%s has host bits set", p), "write "+p.Masked().String())
		return netip.Prefix{}
	}
	return p
}

func (c *checker) mac(path, s string) {
	if _, ok := ParseMAC(s); !ok {
		c.add(path, fmt.Sprintf("%q is not a MAC address", clip(s, 40)), "write it like 52:54:00:12:34:56")
	}
}

func (c *checker) duration(path, s string, lo, hi time.Duration) {
	d, err := time.ParseDuration(s)
	if err != nil || d < lo || d > hi {
		c.add(path, fmt.Sprintf("%q is no duration in range", clip(s, 40)), fmt.Sprintf("use %s to %s", lo, hi))
	}
}

// ParseMAC reads six octets in hex with : or - between, any case, and returns them in lower case with colons. Multicast and
// all-zero addresses are refused.
func ParseMAC(s string) (string, bool) {
	m, err := net.ParseMAC(strings.ReplaceAll(s, "-", ":"))
	if err != nil || len(s) != 17 || len(m) != 6 || m[0]&1 != 0 || slices.Equal(m, make(net.HardwareAddr, 6)) {
		return "", false
	}
	return m.String(), true
}
