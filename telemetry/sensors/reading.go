package sensors

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Metric is what a reading measures; it is the name of the series, with its unit.
type Metric string

// The metrics.
const (
	Temperature Metric = "skerry_bmc_temperature_celsius"
	FanRPM      Metric = "skerry_bmc_fan_speed_rpm"
	FanRatio    Metric = "skerry_bmc_fan_speed_ratio" // of full speed
	Power       Metric = "skerry_bmc_power_watts"
	Voltage     Metric = "skerry_bmc_voltage_volts"
)

// Reading is what one sensor says.
type Reading struct {
	Metric Metric
	Sensor string // its name, 1 to 128 octets; equal names of one metric are numbered: "Fan", "Fan 2"
	ID     string // @odata.id, its identity at the controller
	Value  float64
	Known  bool // Value is one
}

const (
	maxReadings = 512 // of a machine; the largest recorded tree has 98
	maxName     = 128 // octets: what a label of a series holds
)

// number is a JSON number, or a string that is one; anything else is no number, and no error.
type number struct {
	is bool
	v  float64
}

// UnmarshalJSON never fails: firmware writes null, "N/A" and "" where it knows nothing.
func (n *number) UnmarshalJSON(b []byte) error {
	*n = number{}
	text := string(bytes.Trim(b, `"`))
	if v, err := strconv.ParseFloat(strings.TrimSpace(text), 64); err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
		*n = number{true, v}
	}
	return nil
}

// word is a JSON string; anything else is "".
type word string

// UnmarshalJSON never fails.
func (w *word) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) != nil || !utf8.ValidString(s) {
		s = ""
	}
	*w = word(s)
	return nil
}

// state is the State of a Status; "" where there is none, whatever stands in its place.
type state string

// UnmarshalJSON never fails.
func (s *state) UnmarshalJSON(b []byte) error {
	var v struct{ State word }
	_ = json.Unmarshal(b, &v)
	*s = state(v.State)
	return nil
}

// item is an entry of Thermal or Power, or a Sensor: each vendor fills in some of these.
type item struct {
	ID       word `json:"@odata.id"`
	Name     word
	FanName  word // Thermal 1.0
	MemberID word `json:"MemberId"`
	Status   state

	Celsius number `json:"ReadingCelsius"`
	Volts   number `json:"ReadingVolts"`
	Reading number
	Units   word   `json:"ReadingUnits"`
	Current number `json:"CurrentReading"` // iLO 4
	Older   word   `json:"Units"`          // iLO 4

	Consumed number `json:"PowerConsumedWatts"`
	Input    number `json:"PowerInputWatts"`
	Output   number `json:"LastPowerOutputWatts"`

	Type    word `json:"ReadingType"`
	Context word `json:"PhysicalContext"`
}

// items decodes a list entry by entry: one that is no object is left out.
func items(raw []json.RawMessage) (out []item) {
	for _, r := range raw[:min(len(raw), maxReadings)] {
		var i item
		if json.Unmarshal(r, &i) == nil {
			out = append(out, i)
		}
	}
	return out
}

// thermal reads a Thermal resource.
func thermal(b []byte) (out []Reading, err error) {
	var t struct{ Temperatures, Fans []json.RawMessage }
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, err
	}
	for _, i := range items(t.Temperatures) {
		out = i.add(out, Temperature, i.Celsius)
	}
	for _, i := range items(t.Fans) {
		v, units := i.Reading, i.Units
		if !v.is {
			v = i.Current
		}
		if units == "" {
			units = i.Older
		}
		if m := FanRPM; strings.EqualFold(string(units), "Percent") || units == "%" {
			m, v.v = FanRatio, v.v/100
			out = i.add(out, m, v)
		} else {
			out = i.add(out, m, v)
		}
	}
	return out, nil
}

// power reads a Power resource. A supply says what it takes in, else what it gives; one that says neither has no reading.
func power(b []byte) (out []Reading, err error) {
	var p struct{ PowerControl, Voltages, PowerSupplies []json.RawMessage }
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, err
	}
	for _, i := range items(p.PowerControl) {
		out = i.add(out, Power, i.Consumed)
	}
	for _, i := range items(p.PowerSupplies) {
		v := i.Input
		if !v.is {
			v = i.Output
		}
		if v.is || i.Status != "" && i.Status != "Enabled" {
			out = i.add(out, Power, v)
		}
	}
	for _, i := range items(p.Voltages) {
		out = i.add(out, Voltage, i.Volts)
	}
	return out, nil
}

// sensor reads one Sensor; those of other kinds, or in units that are not ours, are none.
func sensor(b []byte) (out []Reading) {
	var i item
	if json.Unmarshal(b, &i) != nil {
		return nil
	}
	v := i.Reading
	switch {
	case i.Type == "Temperature" && (i.Units == "Cel" || i.Units == ""):
		return i.add(nil, Temperature, v)
	case i.Type == "Rotational" && (i.Units == "RPM" || i.Units == "{rev}/min" || i.Units == ""):
		return i.add(nil, FanRPM, v)
	case i.Type == "Percent" && i.Context == "Fan":
		v.v /= 100
		return i.add(nil, FanRatio, v)
	case i.Type == "Power" && (i.Units == "W" || i.Units == ""):
		return i.add(nil, Power, v)
	case i.Type == "Voltage" && (i.Units == "V" || i.Units == ""):
		return i.add(nil, Voltage, v)
	}
	return nil
}

func (i item) add(out []Reading, m Metric, v number) []Reading {
	if i.Status == "Absent" {
		return out
	}
	name := string(i.Name)
	for _, n := range []word{i.FanName, i.MemberID, i.ID} {
		if strings.TrimSpace(name) == "" {
			name = string(n)
		}
	}
	name = clip(strings.TrimSpace(name), maxName-4) // room for a number
	if name == "" {
		return out
	}
	known := v.is && (i.Status == "" || i.Status == "Enabled")
	r := Reading{Metric: m, Sensor: name, ID: clip(string(i.ID), 256), Known: known}
	if known {
		r.Value = v.v
	}
	return append(out, r)
}

// named bounds the names of readings that are not read here, and leaves out those without any.
func named(rr []Reading) (out []Reading) {
	for _, r := range rr[:min(len(rr), maxReadings)] {
		r.Sensor, r.ID = clip(strings.TrimSpace(strings.ToValidUTF8(r.Sensor, "")), maxName-4), clip(r.ID, 256)
		if !r.Known {
			r.Value = 0
		}
		if r.Sensor != "" {
			out = append(out, r)
		}
	}
	return out
}

// clip cuts s at a rune's end to at most n octets.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// number gives equal names of one metric a number, in the controller's order, and bounds how many there are.
func numbered(rr []Reading) []Reading {
	rr = rr[:min(len(rr), maxReadings)]
	seen := map[string]int{}
	for i := range rr {
		base := string(rr[i].Metric) + "\x00" + rr[i].Sensor
		k, number := base, ""
		for seen[k] > 0 { // also by a name that the controller itself numbered so
			seen[base]++
			number = " " + strconv.Itoa(seen[base])
			k = base + number
		}
		seen[k]++
		rr[i].Sensor += number
	}
	return rr
}
