package rights

import (
	"cmp"
	"reflect"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// SiteMayChange says why a site that is cut off may not turn old into is, either of them nil; "" if it may. It may change users' kinds,
// and of a machine that stays what it is, its labels and whether it is under maintenance. Source: trust.md section 9.
func SiteMayChange(old, is *intent.Object) (why string) {
	o := cmp.Or(is, old)
	info, ok := o.Kind.Info()
	switch {
	case ok && info.User:
		return ""
	case o.Kind != intent.KindMachine || old == nil || is == nil:
		return o.Key().String() + ": a site that is cut off changes users' kinds, and of machines maintenance and labels; the rest waits for the coordinator"
	}
	was, now := *old.Spec.(*intent.MachineSpec), *is.Spec.(*intent.MachineSpec)
	was.Maintenance = now.Maintenance
	if !reflect.DeepEqual(was, now) {
		return o.Key().String() + ": a site that is cut off changes a machine's maintenance and labels alone; the rest waits for the coordinator"
	}
	return ""
}
