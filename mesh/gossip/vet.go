package gossip

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/memberlist"
	"golang.org/x/time/rate"
)

// What a member may cost. memberlist allocates for the counts in a header before it has read what they count, a million nodes of each
// of 128 streams; and Serf remembers each name that it hears of for minutes. A site has at most 64 agents, and sends a few packets a
// second to each and one state every half minute.
const (
	maxNodes    = 1024           // in one state; names of before count too
	maxUser     = 128 << 10      // octets of Serf in one state
	maxPacket   = udpBuffer + 64 // octets of one packet; memberlist counts no CRC
	maxState    = 256 << 10      // octets of one stream
	packetRate  = 50             // a second, of one peer
	packetBurst = 200
	streamEvery = 2 // seconds between streams of one peer, beyond the burst
	streamBurst = 16
)

// memberlist's message types (net.go). What is not here is nothing that a member sends: what is compressed, encrypted, labelled, and user
// messages over a stream.
const (
	msgPing     = 0
	msgIndirect = 1
	msgAck      = 2
	msgSuspect  = 3
	msgAlive    = 4
	msgDead     = 5
	msgPushPull = 6
	msgCompound = 7
	msgUser     = 8
	msgNack     = 11
	msgHasCRC   = 12
	msgError    = 13
)

// Serf's message types (messages.go). Nobody here sends events, queries, answers, relays or intents to leave, and Serf keeps what
// it hears of them; one that leaves could take another one's name out of everybody's lists.
const (
	serfJoin  = 1
	serfState = 2
)

var errVetted = errors.New("not what a member sends")

// serfIntent is Serf's intent to join.
type serfIntent struct {
	LTime uint64
	Node  string
}

// vetPacket returns what of a packet may go to memberlist: each message alone or in one compound, of Serf's only intents to join, of
// names that known has; nil when nothing remains. Names of a newer roster come too, so the rest of the packet counts.
func vetPacket(b []byte, known func(name string) bool) []byte {
	const header = 5 // octets of type and CRC-32
	if len(b) > maxPacket {
		return nil
	}
	if len(b) >= header && b[0] == msgHasCRC {
		if binary.BigEndian.Uint32(b[1:]) != crc32.ChecksumIEEE(b[header:]) {
			return nil
		}
		b = b[header:]
	}
	if len(b) < 2 || b[0] != msgCompound {
		if !vetMessage(b, known) {
			return nil
		}
		return b
	}
	n := 2 * int(b[1])
	if len(b) < 2+n {
		return nil
	}
	var sizes, messages []byte
	from, rest := b[2:2+n], b[2+n:]
	for ; len(from) > 0; from = from[2:] {
		size := int(binary.BigEndian.Uint16(from))
		if size > len(rest) {
			return nil
		}
		if vetMessage(rest[:size], known) {
			sizes, messages = append(sizes, from[:2]...), append(messages, rest[:size]...)
		}
		rest = rest[size:]
	}
	if len(sizes) == 0 {
		return nil
	}
	return slices.Concat([]byte{msgCompound, byte(len(sizes) / 2)}, sizes, messages)
}

// vetMessage says whether a message that holds no others may go to memberlist. Of nodes that it does not know memberlist takes alive alone,
// and asks NotifyMerge.
func vetMessage(b []byte, known func(name string) bool) bool {
	if len(b) < 2 {
		return false
	}
	switch b[0] {
	case msgPing, msgIndirect, msgAck, msgSuspect, msgAlive, msgDead, msgNack:
		_, err := readValue(bytes.NewReader(b[1:]))
		return err == nil
	case msgUser:
		var join serfIntent
		return b[1] == serfJoin && decodeNext(bytes.NewReader(b[2:]), &join) == nil && known(join.Node)
	}
	return false
}

// source is where values are read.
type source interface {
	io.Reader
	io.ByteReader
}

// readValue returns the octets of the next MessagePack value. The codec of memberlist and Serf allocates up to 4 GiB for what an extension
// announces; members send none. Errors: errVetted; of the reader.
func readValue(r source) ([]byte, error) {
	var out bytes.Buffer
	number := func(octets int64) (n uint64, err error) {
		_, err = io.CopyN(&out, r, octets)
		for _, c := range out.Bytes()[out.Len()-min(out.Len(), int(octets)):] {
			n = n<<8 | uint64(c)
		}
		return n, err
	}
	for left := uint64(1); left > 0; left-- { // values; each takes an octet at least
		c, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		out.WriteByte(c)
		var size, items uint64
		switch {
		case c <= 0x7f, c >= 0xe0, c == 0xc0, c == 0xc2, c == 0xc3: // small number, nil, false, true
		case c <= 0x8f: // map
			items = 2 * uint64(c&0xf)
		case c <= 0x9f: // array
			items = uint64(c & 0xf)
		case c <= 0xbf: // string
			size = uint64(c & 0x1f)
		case c >= 0xc4 && c <= 0xc6: // octets
			size, err = number(1 << (c - 0xc4))
		case c == 0xca, c == 0xcb: // float
			size = 4 << (c - 0xca)
		case c >= 0xcc && c <= 0xd3: // number
			size = 1 << ((c - 0xcc) % 4)
		case c >= 0xd9 && c <= 0xdb: // string
			size, err = number(1 << (c - 0xd9))
		case c == 0xdc, c == 0xdd: // array
			items, err = number(2 << (c - 0xdc))
		case c == 0xde, c == 0xdf: // map
			items, err = number(2 << (c - 0xde))
			items *= 2
		default:
			return nil, fmt.Errorf("value of type %x: %w", c, errVetted)
		}
		if err != nil {
			return nil, err
		}
		if _, err := io.CopyN(&out, r, int64(size)); err != nil {
			return nil, err
		}
		left += items
	}
	return out.Bytes(), nil
}

// decodeNext decodes the next value into v. Errors: as of readValue.
func decodeNext(r source, v any) error {
	b, err := readValue(r)
	if err != nil {
		return err
	}
	if err := codec.NewDecoderBytes(b, &codec.MsgpackHandle{}).Decode(v); err != nil {
		return fmt.Errorf("%w: %w", errVetted, err)
	}
	return nil
}

// vetted is a gossip stream whose message, there is one in each direction, is looked at before memberlist allocates for it.
type vetted struct {
	net.Conn
	known func(name string) bool
	r     io.Reader // nil before the message was looked at
}

// Read implements net.Conn.
func (v *vetted) Read(b []byte) (int, error) {
	if v.r == nil {
		head, err := vet(v.Conn, v.known)
		if err != nil {
			return 0, err
		}
		v.r = bytes.NewReader(head)
	}
	return v.r.Read(b)
}

// vet reads the message of a stream, and returns what of it may go to memberlist. Errors: errVetted; of the reader.
func vet(r io.Reader, known func(name string) bool) ([]byte, error) {
	from := bufio.NewReader(io.LimitReader(r, maxState))
	kind, err := from.ReadByte()
	if err != nil {
		return nil, err
	}
	switch kind {
	case msgPing, msgAck, msgError:
		b, err := readValue(from)
		return append([]byte{kind}, b...), err
	case msgPushPull:
		return vetState(from, known)
	}
	return nil, fmt.Errorf("message of type %d: %w", kind, errVetted)
}

// stateHeader, stateNode and serfTimes are memberlist's and Serf's parts of a state, without what nobody here sends: Serf's events, queries
// and who left.
type (
	stateHeader struct {
		Nodes, UserStateLen int
		Join                bool
	}
	stateNode struct {
		Name        string
		Addr        []byte
		Port        uint16
		Meta        []byte
		Incarnation uint32
		State       memberlist.NodeStateType
		Vsn         []uint8
	}
	serfTimes struct {
		LTime        uint64
		StatusLTimes map[string]uint64 // by name
	}
)

// vetState reads a state after its type, and writes it anew without the names of Serf's that are not known.
func vetState(r source, known func(name string) bool) ([]byte, error) {
	var h stateHeader
	if err := decodeNext(r, &h); err != nil {
		return nil, fmt.Errorf("cannot read state header: %w", err)
	}
	if h.Nodes < 0 || h.Nodes > maxNodes || h.UserStateLen < 0 || h.UserStateLen > maxUser {
		return nil, fmt.Errorf("state of %d nodes and %d octets: %w", h.Nodes, h.UserStateLen, errVetted)
	}
	var nodes, times bytes.Buffer
	enc := codec.NewEncoder(&nodes, &codec.MsgpackHandle{})
	for range h.Nodes {
		var n stateNode
		if err := decodeNext(r, &n); err != nil {
			return nil, fmt.Errorf("cannot read node of state: %w", err)
		}
		if err := enc.Encode(n); err != nil {
			return nil, err
		}
	}
	if h.UserStateLen > 0 {
		user := make([]byte, h.UserStateLen)
		if _, err := io.ReadFull(r, user); err != nil {
			return nil, err
		}
		var t serfTimes
		if err := decodeNext(bytes.NewReader(user[1:]), &t); user[0] != serfState || err != nil {
			return nil, fmt.Errorf("cannot read state of Serf, type %d: %w", user[0], errors.Join(errVetted, err))
		}
		maps.DeleteFunc(t.StatusLTimes, func(name string, _ uint64) bool { return !known(name) })
		times.WriteByte(serfState)
		if err := codec.NewEncoder(&times, &codec.MsgpackHandle{}).Encode(t); err != nil {
			return nil, err
		}
	}
	h.UserStateLen = times.Len()
	out := bytes.NewBuffer([]byte{msgPushPull})
	err := codec.NewEncoder(out, &codec.MsgpackHandle{}).Encode(h)
	return slices.Concat(out.Bytes(), nodes.Bytes(), times.Bytes()), err
}

// meters bound what peers send. The zero value is usable; it is safe for concurrent use. Peers are agents that the roster listed once.
type meters struct {
	mu sync.Mutex // guards of
	of map[string]*meter
}

type meter struct{ packets, streams *rate.Limiter }

func (m *meters) peer(id string) *meter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of = map[string]*meter{}
	}
	if m.of[id] == nil {
		m.of[id] = &meter{rate.NewLimiter(packetRate, packetBurst), rate.NewLimiter(rate.Limit(1.0/streamEvery), streamBurst)}
	}
	return m.of[id]
}
