package discovery

import (
	"fmt"
	"maps"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// suggest returns the machine type that fits, as an inspection would find it; else the one from which the machine differs in fewest
// things, then by the first name, and in what. It is pure. All empty: there are no types.
func suggest(types map[string]*intent.MachineTypeSpec, f *reconcile.Facts) (fits, nearest string, differs []string) {
	if name := reconcile.MatchType(types, f); name != "" {
		return name, "", nil
	}
	for _, name := range slices.Sorted(maps.Keys(types)) {
		if d := lacks(types[name], f); nearest == "" || len(d) < len(differs) {
			nearest, differs = name, d
		}
	}
	return "", nearest, differs
}

// lacks names what the machine has else than the type wants.
func lacks(t *intent.MachineTypeSpec, f *reconcile.Facts) (out []string) {
	if !t.CPU.Holds(f.CPUs) {
		out = append(out, fmt.Sprintf("%d cpu, wanted %s", f.CPUs, span(t.CPU)))
	}
	if !t.MemoryMB.Holds(f.MemoryMiB) {
		out = append(out, fmt.Sprintf("%d MiB of memory, wanted %s", f.MemoryMiB, span(t.MemoryMB)))
	}
	for _, class := range t.Disks {
		n := 0
		for _, d := range f.Disks {
			if (class.Media == "" || class.Media == d.Media) && d.SizeBytes >= class.MinBytes {
				n++
			}
		}
		if class.Count.Holds(n) {
			continue
		}
		what := "disks"
		if class.Media != "" {
			what = class.Media + " disks"
		}
		if class.MinBytes > 0 {
			what += fmt.Sprintf(" of %d MiB or more", class.MinBytes>>20)
		}
		out = append(out, fmt.Sprintf("%d %s, wanted %s", n, what, span(class.Count)))
	}
	return out
}

// span says a range in words.
func span(r intent.Range) string {
	switch {
	case r.Max == 0:
		return fmt.Sprintf("%d or more", r.Min)
	case r.Min == r.Max:
		return fmt.Sprint(r.Min)
	case r.Min == 0:
		return fmt.Sprintf("at most %d", r.Max)
	}
	return fmt.Sprintf("%d to %d", r.Min, r.Max)
}
