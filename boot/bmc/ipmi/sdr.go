package ipmi

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/skerry-metal/skerry/boot/bmc"
)

// analogue is a sensor that has a number, as its full sensor record describes it. Compact records describe no conversion, so what they
// stand for has no number. Source: table 43-1.
type analogue struct {
	id        string
	number    byte
	name      string
	unit      bmc.Unit
	signed    byte // 0 unsigned, 1 one's complement, 2 two's complement
	linear    byte // linearisation
	m, b      int
	rExp      int
	bExp      int
	toCelsius func(float64) float64 // nil: it is in Celsius, or no temperature
}

const (
	recordHeader = 5
	recordFull   = 0x01
	fullSize     = 48 // octets before the name
	ownerBMC     = addressBMC
	typeFan      = 0x04
	threshold    = 0x01 // event/reading type of what has thresholds, the analogue ones
)

// parseSDR reads a record with its header. ok is false for what is no analogue sensor of ours: other kinds of records; sensors of other
// controllers, behind bridges or at another LUN; units that are not kept; conversions that need a table (linearisation 70h and up).
func parseSDR(r []byte) (a analogue, ok bool) {
	if len(r) < fullSize || r[3] != recordFull || r[5] != ownerBMC || r[6]&0x03 != 0 || r[13] != threshold {
		return a, false
	}
	a = analogue{
		id:     fmt.Sprintf("%d.%d.%d", r[8], r[9], r[7]),
		number: r[7], signed: r[20] >> 6, linear: r[23] & 0x7f,
		m: signed(int(r[24])|int(r[25]>>6)<<8, 10), b: signed(int(r[26])|int(r[27]>>6)<<8, 10),
		rExp: signed(int(r[29]>>4), 4), bExp: signed(int(r[29]&0x0f), 4),
	}
	if a.signed == 3 || a.linear > 11 || r[20]&0x3e != 0 { // no number; a table; per second, or one unit by another
		return a, false
	}
	switch percent := r[20]&1 == 1; {
	case percent && r[12] == typeFan:
		a.unit = bmc.UnitPercent
	case percent:
		return a, false
	case r[21] == 1:
		a.unit = bmc.UnitCelsius
	case r[21] == 2:
		a.unit, a.toCelsius = bmc.UnitCelsius, func(f float64) float64 { return (f - 32) * 5 / 9 }
	case r[21] == 3:
		a.unit, a.toCelsius = bmc.UnitCelsius, func(k float64) float64 { return k - 273.15 }
	case r[21] == 4:
		a.unit = bmc.UnitVolts
	case r[21] == 6:
		a.unit = bmc.UnitWatts
	case r[21] == 18:
		a.unit = bmc.UnitRPM
	default:
		return a, false
	}
	n := min(int(r[47]&0x1f), 16, len(r)-fullSize)
	kind := r[47] >> 6
	if kind == 0 { // announced as Unicode; what is there is ASCII
		kind = 3
	}
	if a.name = text(kind, r[fullSize:fullSize+n], true); a.name == "" {
		a.name = fmt.Sprintf("sensor %d", a.number)
	}
	return a, true
}

// signed reads a two's complement number of so many bits.
func signed(v, bits int) int {
	if v >= 1<<(bits-1) {
		return v - 1<<bits
	}
	return v
}

// value converts a raw reading. ok is false where the formula gives no number. Source: section 36.3.
func (a analogue) value(raw byte) (v float64, ok bool) {
	x := float64(raw)
	switch {
	case a.signed == 1 && raw >= 0x80:
		x = float64(raw) - 255
	case a.signed == 2:
		x = float64(int8(raw))
	}
	v = (float64(a.m)*x + float64(a.b)*math.Pow10(a.bExp)) * math.Pow10(a.rExp)
	switch a.linear {
	case 1:
		v = math.Log(v)
	case 2:
		v = math.Log10(v)
	case 3:
		v = math.Log2(v)
	case 4:
		v = math.Exp(v)
	case 5:
		v = math.Pow(10, v)
	case 6:
		v = math.Exp2(v)
	case 7:
		v = 1 / v
	case 8:
		v *= v
	case 9:
		v = v * v * v
	case 10:
		v = math.Sqrt(v)
	case 11:
		v = math.Cbrt(v)
	}
	if a.toCelsius != nil {
		v = a.toCelsius(v)
	}
	return v, !math.IsNaN(v) && !math.IsInf(v, 0)
}

// parseReading returns the raw reading. ok is false where there is none: scanning disabled, or unavailable. Source: table 35-15.
func parseReading(b []byte) (raw byte, ok bool) {
	if len(b) < 2 || b[1]&0x40 == 0 || b[1]&0x20 != 0 {
		return 0, false
	}
	return b[0], true
}

// parseGetSDR splits the answer to Get SDR into the next record's id and the octets.
func parseGetSDR(b []byte) (next uint16, record []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, false
	}
	return binary.LittleEndian.Uint16(b), b[2:], true
}
