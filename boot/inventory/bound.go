package inventory

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// MaxList bounds each list of a report that Bound was called on: of a machine with more disks than that the first are enough to know it.
const MaxList = 128

// Bound makes a report of somebody whom nobody knows fit to be kept and shown, whatever it holds: text is printable ASCII of at most 128
// octets, lists have at most MaxList entries (what was left out is a Fault), numbers are not negative, MACs and UUID are well-formed
// or not there.
func (r *Report) Bound() {
	var cut []Fault
	for _, l := range []struct {
		what string
		n    int
	}{{"cpus", len(r.CPUs)}, {"dimms", len(r.DIMMs)}, {"disks", len(r.Disks)}, {"nics", len(r.NICs)}} {
		if l.n > MaxList {
			cut = append(cut, Fault{Source: l.what, Error: fmt.Sprintf("%d of %d are kept", MaxList, l.n)})
		}
	}
	bound(reflect.ValueOf(r).Elem())
	r.Faults = append(r.Faults[:min(len(r.Faults), MaxList-len(cut))], cut...)
	r.NICs = slices.DeleteFunc(r.NICs, func(n NIC) bool {
		mac, ok := intent.ParseMAC(n.MAC)
		return !ok || mac != n.MAC
	})
	if !wellFormed(r.UUID) {
		r.UUID = ""
	}
}

// bound walks what JSON may have filled in.
func bound(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(clean(v.String()))
	case reflect.Int:
		v.SetInt(max(v.Int(), 0))
	case reflect.Slice:
		v.SetLen(min(v.Len(), MaxList))
		for i := range v.Len() {
			bound(v.Index(i))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			bound(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			bound(v.Field(i))
		}
	}
}

// wellFormed tells whether u is a UUID in lower case, 8-4-4-4-12.
func wellFormed(u string) bool {
	if len(u) != 36 {
		return false
	}
	for i, c := range []byte(u) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Placeholder tells whether a serial number says nothing: it is a filler that vendors leave, or one character again and again.
func Placeholder(serial string) bool {
	s := strings.ToLower(strings.TrimSpace(serial))
	return strings.Trim(s, s[:min(len(s), 1)]) == "" || slices.Contains([]string{
		"to be filled by o.e.m.", "default string", "system serial number", "not specified", "not applicable", "none", "n/a", "unknown", "invalid",
		"0123456789", "123456789", "1234567890",
	}, s)
}
