package gossip

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// protocolVersion is tag v. History: 1 (2026-11-21) v s k w d i r t b n, (2026-11-28) e.
const protocolVersion = "1"

// State is tag s.
type State string

// The states of an agent.
const (
	Ready    State = "ready"
	Draining State = "draining"
	Stopping State = "stopping"
)

// Hint names a head as gossip carries it: epoch, seq and the first 8 hex digits of the hash.
type Hint struct {
	Epoch, Seq uint64
	Hash8      string
}

// HintOf shortens a head; the empty head gives the zero hint.
func HintOf(h intent.Head) Hint {
	if h.Seq == 0 {
		return Hint{}
	}
	return Hint{h.Epoch, h.Seq, h.Hash.Hex()[:8]}
}

// String returns EPOCH.SEQ.HASH8, or "" for the zero hint.
func (h Hint) String() string {
	if h == (Hint{}) {
		return ""
	}
	return strconv.FormatUint(h.Epoch, 10) + "." + strconv.FormatUint(h.Seq, 10) + "." + h.Hash8
}

// Newer tells whether h names a later head than o.
func (h Hint) Newer(o Hint) bool {
	return h.Epoch > o.Epoch || h.Epoch == o.Epoch && h.Seq > o.Seq
}

// ParseHint reads what String wrote.
func ParseHint(s string) (Hint, error) {
	if s == "" {
		return Hint{}, nil
	}
	p := strings.Split(s, ".")
	bad := fmt.Errorf("cannot parse head hint %q", s[:min(len(s), 60)])
	if len(s) > 60 || len(p) != 3 || len(p[2]) != 8 || strings.Trim(p[2], "0123456789abcdef") != "" {
		return Hint{}, bad
	}
	e, err1 := strconv.ParseUint(p[0], 10, 64)
	q, err2 := strconv.ParseUint(p[1], 10, 64)
	h := Hint{e, q, p[2]}
	if err1 != nil || err2 != nil || h.String() != s {
		return Hint{}, bad
	}
	return h, nil
}

// Tags is what an agent says of itself.
type Tags struct {
	State      State
	Rack       string // at most 63 octets
	WAN        bool   // it holds an uplink
	DiskFree   int    // percent, rounded down to steps of 5
	Intent     Hint
	Revocation Hint
	Trust      Hint
	Evidence   uint64 // of the trust documents kept as evidence of a fork; 0: none
	Assets     uint64 // version of the asset inventory
	Devices    uint64 // version of the reachable-device set
}

func (t Tags) encode() map[string]string {
	wan := "0"
	if t.WAN {
		wan = "1"
	}
	m := map[string]string{
		"v": protocolVersion, "s": string(t.State), "k": t.Rack[:min(len(t.Rack), 63)], "w": wan, "d": strconv.Itoa(t.DiskFree / 5 * 5),
		"i": t.Intent.String(), "r": t.Revocation.String(), "t": t.Trust.String(),
		"b": strconv.FormatUint(t.Assets, 10), "n": strconv.FormatUint(t.Devices, 10),
		"e": strconv.FormatUint(t.Evidence, 10),
	}
	for k, v := range m {
		if v == "" || v == "0" {
			delete(m, k)
		}
	}
	return m
}

// decodeTags reads tags of another agent; what is malformed reads as absent, because a hint may be wrong anyway.
func decodeTags(m map[string]string) Tags {
	hint := func(k string) Hint {
		h, err := ParseHint(m[k])
		if err != nil {
			return Hint{}
		}
		return h
	}
	number := func(k string) uint64 {
		n, err := strconv.ParseUint(m[k], 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return Tags{
		State: State(m["s"]), Rack: m["k"], WAN: m["w"] == "1", DiskFree: int(min(number("d"), 100)),
		Intent: hint("i"), Revocation: hint("r"), Trust: hint("t"), Evidence: number("e"), Assets: number("b"), Devices: number("n"),
	}
}
