package snmp

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Metric is what a reading measures; it is the name of the series, with its unit.
type Metric string

// The metrics. Those that end with _total are counters; of them, history keeps the rate per second.
const (
	PortOctets   Metric = "skerry_snmp_port_octets_total"
	PortUp       Metric = "skerry_snmp_port_up" // 1: up; 0: down, dormant, absent
	Temperature  Metric = "skerry_snmp_temperature_celsius"
	FanRPM       Metric = "skerry_snmp_fan_speed_rpm"
	Power        Metric = "skerry_snmp_power_watts"
	CPULoad      Metric = "skerry_snmp_cpu_load_ratio" // of the last minute
	Load         Metric = "skerry_snmp_load_average"
	Memory       Metric = "skerry_snmp_memory_octets"
	PortErrors   Metric = "skerry_snmp_port_errors_total"
	PortDiscards Metric = "skerry_snmp_port_discards_total"
	CPUTicks     Metric = "skerry_snmp_cpu_ticks_total" // hundredths of a second
	StorageUsed  Metric = "skerry_snmp_storage_used_octets"
	StorageSize  Metric = "skerry_snmp_storage_size_octets"
	PortSpeed    Metric = "skerry_snmp_port_speed_octets_per_second"
	Voltage      Metric = "skerry_snmp_voltage_volts"
	Current      Metric = "skerry_snmp_current_amperes"
	Humidity     Metric = "skerry_snmp_humidity_ratio"
	PortPackets  Metric = "skerry_snmp_port_packets_total"
)

// metrics are all of them with the units of what is kept, the most useful first: a device has more to tell than its limit of series takes.
func metrics() []struct {
	m    Metric
	unit string
} {
	return []struct {
		m    Metric
		unit string
	}{
		{PortOctets, "octets/s"},
		{PortUp, "bool"},
		{Temperature, "celsius"},
		{FanRPM, "rpm"},
		{Power, "watts"},
		{CPULoad, "ratio"},
		{Load, "processes"},
		{Memory, "octets"},
		{PortErrors, "packets/s"},
		{PortDiscards, "packets/s"},
		{CPUTicks, "ticks/s"},
		{StorageUsed, "octets"},
		{StorageSize, "octets"},
		{PortSpeed, "octets/s"},
		{Voltage, "volts"},
		{Current, "amperes"},
		{Humidity, "ratio"},
		{PortPackets, "packets/s"},
	}
}

// Unit returns the unit of what history keeps.
func (m Metric) Unit() string { return metrics()[m.rank()].unit }

func (m Metric) rank() int {
	for i, x := range metrics() {
		if x.m == m {
			return i
		}
	}
	return 0
}

// Counter tells whether the metric counts: its readings have N and Max, not Value.
func (m Metric) Counter() bool { return strings.HasSuffix(string(m), "_total") }

// Reading is what a device says of one thing.
type Reading struct {
	Metric Metric
	Labels map[string]string // port and direction; sensor; cpu; storage; kind; mode; minutes: 1 to 128 printable octets each
	Known  bool              // Value or N is one
	Value  float64
	N      uint64
	// Reset: the count began anew since the last reading; what was counted between is not known.
	Reset bool
	Max   float64 // the highest rate per second that can be; of counters
}

// maxName bounds a label, with room for a number behind it; a label of a series holds 128 octets.
const maxName = 120

// printable makes a text from outside a line of at most n octets.
func printable(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.TrimSpace(strings.TrimRight(s, "\x00")))
	for len(s) > n {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

// namer gives equal names numbers, in the order in which they are asked for: "fan", "fan 2". It remembers what it gave, so that a device's
// own "fan 2" is another one still.
type namer map[string]int

func (n namer) name(text, fallback string) string {
	base := printable(text, maxName)
	if base == "" {
		base = fallback
	}
	s := base
	for n[s] > 0 {
		n[base]++
		s = base + " " + strconv.Itoa(n[base])
	}
	n[s]++
	return s
}
