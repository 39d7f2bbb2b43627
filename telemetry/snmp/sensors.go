package snmp

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// ENTITY-SENSOR-MIB (RFC 3433) and ENTITY-MIB (RFC 6933).
func sensorEntry(column uint32) oid   { return oid{1, 3, 6, 1, 2, 1, 99, 1, 1, 1, column} }
func physicalEntry(column uint32) oid { return oid{1, 3, 6, 1, 2, 1, 47, 1, 1, 1, 1, column} }

const (
	maxSensors = 512
	namesAge   = 24 * time.Hour // parts come and go
)

// sensors reads what ENTITY-SENSOR-MIB has of kinds that are kept.
func sensors(w *walk) (out []Reading, err error) {
	types, err := w.column(sensorEntry(1))
	if err != nil || len(types) == 0 {
		return nil, err
	}
	c, err := w.columns(sensorEntry(2), sensorEntry(3), sensorEntry(4), sensorEntry(5)) // scale, precision, value, status
	if err != nil {
		return nil, err
	}
	index := slices.Sorted(maps.Keys(types))
	index = slices.DeleteFunc(index, func(i uint32) bool { _, ok := sensorMetric(types[i].enum()); return !ok })
	index = index[:min(len(index), maxSensors)]
	if err := w.nameSensors(index); err != nil {
		return nil, err
	}
	seen := map[Metric]namer{}
	for _, i := range index {
		m, _ := sensorMetric(types[i].enum())
		if seen[m] == nil {
			seen[m] = namer{}
		}
		v, known := sensorValue(c[0][i], c[1][i], c[2][i], c[3][i])
		if m == Humidity {
			v /= 100
		}
		out = append(out, gauge(m, map[string]string{"sensor": seen[m].name(w.d.names[i], "")}, v, known))
	}
	return out, nil
}

// sensorMetric is the metric of an EntitySensorDataType.
func sensorMetric(t int64) (Metric, bool) {
	m, ok := map[int64]Metric{3: Voltage, 4: Voltage, 5: Current, 6: Power, 8: Temperature, 9: Humidity, 10: FanRPM}[t]
	return m, ok
}

// sensorValue is value · 1000^(scale−9) / 10^precision. A sensor that is not ok (1) is unknown, and so are the ends of the range, by which
// one says that it cannot tell. A precision below 0 is a number of accurate digits, and moves nothing.
func sensorValue(scale, precision, v, status value) (float64, bool) {
	s, p := scale.enum(), int64(0)
	if precision.kind == integer {
		p = precision.i
	}
	if v.kind != integer || status.enum() != 1 || s < 1 || s > 17 || p < -8 || p > 9 || v.i <= -1e9 || v.i >= 1e9 {
		return 0, false
	}
	return float64(v.i) * math.Pow10(int(3*(s-9)-max(p, 0))), true
}

// nameSensors learns the names of sensors, when there is one that it has none for.
func (w *walk) nameSensors(index []uint32) error {
	d := w.d
	unnamed := slices.ContainsFunc(index, func(i uint32) bool { _, ok := d.names[i]; return !ok })
	if !unnamed && !d.anew && time.Since(d.named) < namesAge {
		return nil
	}
	c, err := w.columns(physicalEntry(7), physicalEntry(2)) // entPhysicalName, entPhysicalDescr
	if err != nil {
		return err
	}
	d.names, d.named = map[uint32]string{}, time.Now()
	for _, i := range index {
		name := printable(c[0][i].s, maxName)
		if name == "" {
			name = printable(c[1][i].s, maxName)
		}
		if name == "" {
			name = fmt.Sprint("sensor ", i)
		}
		d.names[i] = name
	}
	return nil
}
