package snmp

import (
	"fmt"
	"maps"
	"slices"
)

// IF-MIB (RFC 2863): ifTable and ifXTable.
func ifEntry(column uint32) oid  { return oid{1, 3, 6, 1, 2, 1, 2, 2, 1, column} }
func ifXEntry(column uint32) oid { return oid{1, 3, 6, 1, 2, 1, 31, 1, 1, 1, column} }

// maxPorts bounds the interfaces of a device; the largest recorded one has 265.
const maxPorts = 1024

// physical tells whether an interface of this ifType is a port or an aggregate of them: VLANs, tunnels and loopbacks carry again what ports
// carry. Source: IANAifType-MIB.
func physical(t int64) bool {
	return slices.Contains([]int64{6, 62, 69, 117, 161}, t) // ethernetCsmacd, fastEther, fastEtherFX, gigabitEthernet, ieee8023adLag
}

// refresh is how much faster than its speed a port may seem: devices hand out counters that are up to ten seconds old, so that a minute
// may hold seventy of its seconds.
const refresh = 1.25

// leastFrame is the octets that the shortest frame takes on the wire: 64, preamble and gap.
const leastFrame = 84

// ports reads the interfaces. Names are read with each reading, so that a counter is always of the port that has its index now.
func ports(w *walk) (out []Reading, err error) {
	names, err := w.column(ifXEntry(1)) // ifName
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		if names, err = w.column(ifEntry(2)); err != nil { // ifDescr
			return nil, err
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	c, err := w.columns(
		ifEntry(3), ifEntry(5), ifEntry(8), ifXEntry(15), // ifType, ifSpeed, ifOperStatus, ifHighSpeed
		ifXEntry(6), ifXEntry(10), ifEntry(14), ifEntry(20), ifEntry(13), ifEntry(19), // octets, errors, discards: in, out
		ifXEntry(7), ifXEntry(8), ifXEntry(9), ifXEntry(11), ifXEntry(12), ifXEntry(13), // packets in, out: unicast, multicast, broadcast
	)
	if err != nil {
		return nil, err
	}
	index := slices.Sorted(maps.Keys(names))
	index = slices.DeleteFunc(index, func(i uint32) bool { t := c[0][i]; return t.kind != none && !physical(t.enum()) })
	seen := namer{}
	for _, i := range index[:min(len(index), maxPorts)] {
		name := seen.name(names[i].s, fmt.Sprint("index ", i))
		label := func(direction string) map[string]string {
			return map[string]string{"port": name, "direction": direction}
		}
		one := map[string]string{"port": name}
		speed, known := speedOf(c[1][i], c[3][i])
		out = append(out, up(one, c[2][i]), gauge(PortSpeed, one, speed, known))
		if !known {
			speed = w.d.speeds[name]
		}
		w.speeds[name] = speed
		if speed == 0 { // a port that is down often has none; then it counts on at the last
			continue // nothing tells a restart of its counters from traffic
		}
		octets, frames := refresh*speed, refresh*speed/leastFrame
		out = append(out,
			w.counter(PortOctets, label("in"), c[4][i], octets), w.counter(PortOctets, label("out"), c[5][i], octets),
			w.counter(PortErrors, label("in"), c[6][i], frames), w.counter(PortErrors, label("out"), c[7][i], frames),
			w.counter(PortDiscards, label("in"), c[8][i], frames), w.counter(PortDiscards, label("out"), c[9][i], frames),
			w.counter(PortPackets, label("in"), sum(c[10][i], c[11][i], c[12][i]), frames),
			w.counter(PortPackets, label("out"), sum(c[13][i], c[14][i], c[15][i]), frames))
	}
	return out, nil
}

// up reads ifOperStatus: up 1, down 2, testing 3, unknown 4, dormant 5, notPresent 6, lowerLayerDown 7.
func up(labels map[string]string, v value) Reading {
	switch v.enum() {
	case 1:
		return gauge(PortUp, labels, 1, true)
	case 2, 5, 6, 7:
		return gauge(PortUp, labels, 0, true)
	}
	return gauge(PortUp, labels, 0, false)
}

// speedOf is ifHighSpeed, in millions of bits per second, else ifSpeed, which ends at 2^32-1. A port that is down often has 0: not known.
func speedOf(speed, high value) (octets float64, known bool) {
	if high.kind == unsigned && high.n > 0 {
		return float64(high.n) * 1e6 / 8, true
	}
	return float64(speed.n) / 8, speed.kind == unsigned && speed.n > 0 && speed.n < 1<<32-1
}

// sum adds packets of three kinds; some devices do not count multicasts apart.
func sum(unicast, multicast, broadcast value) value {
	if unicast.kind != wide {
		return value{}
	}
	for _, v := range []value{multicast, broadcast} {
		if v.kind == wide {
			unicast.n += v.n
		}
	}
	return unicast
}
