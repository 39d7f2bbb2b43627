package intent

import "fmt"

// SwitchSpec is a switch, or a host that measures like one: who hangs on its ports, how it tells what it samples, and how it is
// asked what it counts. Nothing is written to it.
type SwitchSpec struct {
	Description string       `json:"description,omitempty"`
	SFlow       SFlowSpec    `json:"sflow,omitzero"`
	SNMP        *SNMPSpec    `json:"snmp,omitempty"`
	Ports       []SwitchPort `json:"ports,omitempty"` // access ports: those that machines hang on; at most 4096
}

// SFlowSpec says what sFlow of a switch is believed.
type SFlowSpec struct {
	Agents    []string `json:"agents"`              // addresses that its datagrams come from and name as agent; 1 to 8
	Direction string   `json:"direction,omitempty"` // which samples are traffic to a machine: auto (default), ingress, both, host
}

// SNMPSpec says how a device is asked for what its counters and sensors say.
type SNMPSpec struct {
	Address string `json:"address"` // IP address or address:port; 161/udp
	Version string `json:"version"` // 2c; 3: SHA-256 and AES-128
	Secret  string `json:"secret"`  // name of a Secret of the same site, of type snmp
}

func (s *SNMPSpec) validate(c *checker) {
	if s != nil {
		c.host("address", s.Address)
		c.oneOf("version", s.Version, "2c", "3")
		c.label("secret", s.Secret)
	}
}

// SwitchPort is one access port.
type SwitchPort struct {
	Index   int    `json:"index,omitempty"`   // ifIndex; 0: found by name, and with sflow.direction host needed by nobody
	Members []int  `json:"members,omitempty"` // other ifIndexes of the same link, an aggregate (LAG): at most 64. Index is whose counters count
	Name    string `json:"name,omitempty"`    // as the switch's counters tell it; with an index for people only
	NIC     string `json:"nic"`               // MAC address of the machine's NIC behind it
	VLAN    int    `json:"vlan,omitempty"`    // access VLAN, 1-4094
}

// maxIndex bounds an ifIndex: RFC 2863.
const maxIndex = 1<<31 - 1

func (s *SwitchSpec) validate(c *checker) {
	c.text("description", s.Description, 256)
	f := s.SFlow
	if (len(f.Agents) == 0 && s.SNMP == nil) || len(f.Agents) > 8 {
		c.add("sflow.agents", fmt.Sprintf("%d addresses", len(f.Agents)), "give 1 to 8, or spec.snmp")
	}
	s.SNMP.validate(c.below("snmp"))
	for i, a := range f.Agents {
		c.addr(fmt.Sprintf("sflow.agents[%d]", i), a)
	}
	if f.Direction != "" {
		c.oneOf("sflow.direction", f.Direction, "auto", "ingress", "both", "host")
	}
	if len(s.Ports) > 4096 {
		c.add("ports", "more than 4096", "list those that machines hang on")
	}
	seen := map[int]bool{}
	for i, p := range s.Ports {
		path := fmt.Sprintf("ports[%d].", i)
		for j, n := range append([]int{p.Index}, p.Members[:min(len(p.Members), 65)]...) { // one too many is told below
			if n == 0 && j == 0 && len(p.Members) == 0 && (p.Name != "" || f.Direction == "host") {
				continue
			}
			if c.count(path+"index", n, 1, maxIndex); seen[n] {
				c.add(path+"index", fmt.Sprintf("%d is there twice", n), "an ifIndex names one port: correct one of them")
			}
			seen[n] = true
		}
		c.count(path+"members", len(p.Members), 0, 64)
		c.text(path+"name", p.Name, 63)
		c.mac(path+"nic", p.NIC)
		c.count(path+"vlan", p.VLAN, 0, 4094)
	}
}
