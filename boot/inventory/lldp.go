package inventory

import (
	"encoding/binary"
	"encoding/hex"
	"net"
)

// EtherLLDP is the EtherType of LLDP (IEEE 802.1AB-2016, section 8.3).
const EtherLLDP = 0x88cc

// Neighbour is what the switch at the other end of a cable says about itself. Texts are as Report's.
type Neighbour struct {
	System      string `json:"system,omitempty"`  // its name
	Chassis     string `json:"chassis,omitempty"` // a MAC address or a name
	Port        string `json:"port,omitempty"`    // the port that the cable is in: an interface's name, or a MAC address
	Description string `json:"description,omitempty"`
}

// ParseLLDP reads one LLDP frame with its Ethernet header, at most 1,536 octets of it; ok is false for what is none, and for what names no port. What
// it does not know is passed over. Source: IEEE 802.1AB-2016, sections 8.4 and 8.5.
func ParseLLDP(frame []byte) (n Neighbour, ok bool) {
	const header, most = 14, 1536
	if len(frame) < header || binary.BigEndian.Uint16(frame[12:]) != EtherLLDP {
		return n, false
	}
	for b := frame[header:min(len(frame), most)]; len(b) >= 2; {
		head := binary.BigEndian.Uint16(b)
		kind, size := head>>9, int(head&0x1ff)
		if kind == 0 || len(b) < 2+size {
			break
		}
		v := b[2 : 2+size]
		b = b[2+size:]
		switch kind {
		case 1:
			n.Chassis = lldpID(v, 4)
		case 2:
			n.Port = lldpID(v, 3)
		case 4:
			n.Description = clean(string(v))
		case 5:
			n.System = clean(string(v))
		}
	}
	return n, n.Port != ""
}

// lldpID reads a chassis or port id; mac is the subtype that holds a MAC address. What is no text is shown in hex.
func lldpID(v []byte, mac byte) string {
	if len(v) < 2 {
		return ""
	}
	if v[0] == mac && len(v) == 7 {
		return net.HardwareAddr(v[1:]).String()
	}
	for _, c := range v[1:] {
		if c < ' ' || c > '~' {
			return hex.EncodeToString(v[1:min(len(v), 65)])
		}
	}
	return clean(string(v[1:]))
}
