package snmp

import (
	"slices"
	"strconv"
	"strings"
)

// oid is an object identifier: 2 to 128 numbers (RFC 2578 section 3.5).
type oid []uint32

const maxOID = 128

// parseOID reads 1.3.6, with or without a dot before it.
func parseOID(s string) (oid, bool) {
	s = strings.TrimPrefix(s, ".")
	if s == "" || len(s) > 11*maxOID {
		return nil, false
	}
	o := make(oid, 0, strings.Count(s, ".")+1)
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil || len(o) == maxOID {
			return nil, false
		}
		o = append(o, uint32(n))
	}
	return o, true
}

// String writes it as gosnmp takes it.
func (o oid) String() string {
	b := make([]byte, 0, 4*len(o))
	for _, n := range o {
		b = strconv.AppendUint(append(b, '.'), uint64(n), 10)
	}
	return string(b)
}

// below returns what follows root in o; false where o does not lie below it.
func (o oid) below(root oid) (oid, bool) {
	if len(o) <= len(root) || !slices.Equal(o[:len(root)], root) {
		return nil, false
	}
	return o[len(root):], true
}
