package snmp

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// HOST-RESOURCES-MIB (RFC 2790) and UCD-SNMP-MIB, which net-snmp brings.
func processorLoad() oid             { return oid{1, 3, 6, 1, 2, 1, 25, 3, 3, 1, 2} }
func storageEntry(column uint32) oid { return oid{1, 3, 6, 1, 2, 1, 25, 2, 3, 1, column} }
func ucdMemory() oid                 { return oid{1, 3, 6, 1, 4, 1, 2021, 4} }
func ucdLoad() oid                   { return oid{1, 3, 6, 1, 4, 1, 2021, 10, 1, 5} } // laLoadInt
func ucdCPU() oid                    { return oid{1, 3, 6, 1, 4, 1, 2021, 11} }

const (
	maxCPUs    = 256
	maxStorage = 64
	tickRate   = 100 // a second, of each processor
)

// host reads what a host's operating system says of itself. Most switches say nothing of it.
func host(w *walk) (out []Reading, err error) {
	cpus, err := w.column(processorLoad())
	if err != nil {
		return nil, err
	}
	for n, i := range slices.Sorted(maps.Keys(cpus)) {
		if v, ok := cpus[i].number(); n < maxCPUs {
			out = append(out, gauge(CPULoad, map[string]string{"cpu": strconv.Itoa(n)}, v/100, ok && v >= 0 && v <= 100))
		}
	}
	if out, err = w.storage(out); err != nil {
		return nil, err
	}
	load, err := w.column(ucdLoad())
	if err != nil {
		return nil, err
	}
	for i, minutes := range []string{"1", "5", "15"} {
		if v, ok := load[uint32(i+1)]; ok {
			n, known := v.number()
			out = append(out, gauge(Load, map[string]string{"minutes": minutes}, n/100, known && n >= 0))
		}
	}
	memory, err := w.scalars(ucdMemory())
	if err != nil {
		return nil, err
	}
	for _, k := range []struct {
		id   uint32
		kind string
	}{{5, "total"}, {6, "free"}, {14, "buffers"}, {15, "cached"}, {3, "swap total"}, {4, "swap free"}} {
		if v, ok := memory[k.id]; ok {
			kb, known := v.number()
			out = append(out, gauge(Memory, map[string]string{"kind": k.kind}, kb*1024, known && kb >= 0))
		}
	}
	raw, err := w.scalars(ucdCPU())
	if err != nil {
		return nil, err
	}
	most := len(cpus)
	if most == 0 { // net-snmp lists its processors only after a while
		most = maxCPUs
	}
	for _, k := range []struct {
		id   uint32
		mode string
	}{{50, "user"}, {51, "nice"}, {52, "system"}, {53, "idle"}, {54, "wait"}, {56, "interrupt"}, {61, "softirq"}, {64, "steal"}} {
		if v, ok := raw[k.id]; ok {
			out = append(out, w.counter(CPUTicks, map[string]string{"mode": k.mode}, v, refresh*tickRate*float64(most)))
		}
	}
	return out, nil
}

// scalars reads objects right below root: root.N.0.
func (w *walk) scalars(root oid) (map[uint32]value, error) {
	out := map[uint32]value{}
	err := w.tree(root, func(index oid, v value) {
		if len(index) == 2 && index[1] == 0 {
			out[index[0]] = v
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", root, err)
	}
	return out, nil
}

// storage reads hrStorage: disks, and what the device takes for one.
func (w *walk) storage(out []Reading) ([]Reading, error) {
	names, err := w.column(storageEntry(3))
	if err != nil || len(names) == 0 {
		return out, err
	}
	c, err := w.columns(storageEntry(4), storageEntry(5), storageEntry(6)) // units, size, used
	if err != nil {
		return nil, err
	}
	seen := namer{}
	for n, i := range slices.Sorted(maps.Keys(names)) {
		if n == maxStorage {
			break
		}
		labels := map[string]string{"storage": seen.name(names[i].s, fmt.Sprint("index ", i))}
		unit, ok := c[0][i].number()
		for k, m := range []Metric{StorageSize, StorageUsed} {
			v, known := c[k+1][i].number()
			out = append(out, gauge(m, labels, v*unit, ok && known && unit > 0 && v >= 0))
		}
	}
	return out, nil
}
