package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"golang.org/x/time/rate"
)

// What a member may cost. memberlist allocates for the counts in a header before it has read what they count, a million nodes of each
// of 128 streams; and Serf remembers each name that it hears of for minutes. A site has at most 64 agents, and sends a few packets a
// second to each and one state every half minute.
const (
	maxNodes    = 1024           // in one state; names of before count too
	maxUser     = 128 << 10      // octets of Serf in one state
	maxState    = 256 << 10      // octets of one stream
	maxPacket   = udpBuffer + 64 // octets of one packet: memberlist counts no checksum
	packetRate  = 50             // a second, of one peer
	packetBurst = 200
	streamEvery = 2 // seconds between streams of one peer, beyond the burst
	streamBurst = 16
)

// memberlist's message types that a stream may begin with (net.go).
const (
	msgPing     = 0
	msgAck      = 2
	msgPushPull = 6
	msgError    = 13
)

var errVetted = errors.New("not what a member sends")

// vetted is a gossip stream whose first message is looked at before memberlist allocates for it.
type vetted struct {
	net.Conn
	r io.Reader // nil before the first message was looked at
}

// Read implements net.Conn.
func (v *vetted) Read(b []byte) (int, error) {
	if v.r == nil {
		head, err := vet(v.Conn)
		if err != nil {
			return 0, err
		}
		v.r = io.MultiReader(bytes.NewReader(head), io.LimitReader(v.Conn, maxState))
	}
	return v.r.Read(b)
}

// vet reads the beginning of a stream, and returns it. Errors: errVetted; of the reader.
func vet(r io.Reader) ([]byte, error) {
	var seen bytes.Buffer
	tee := io.TeeReader(io.LimitReader(r, 256), &seen)
	var kind [1]byte
	if _, err := io.ReadFull(tee, kind[:]); err != nil {
		return nil, err
	}
	switch kind[0] {
	case msgPing, msgAck, msgError:
	case msgPushPull:
		var h struct{ Nodes, UserStateLen int }
		if err := codec.NewDecoder(tee, &codec.MsgpackHandle{}).Decode(&h); err != nil {
			return nil, fmt.Errorf("cannot read state header: %w: %w", errVetted, err)
		}
		if h.Nodes < 0 || h.Nodes > maxNodes || h.UserStateLen < 0 || h.UserStateLen > maxUser {
			return nil, fmt.Errorf("state of %d nodes and %d octets: %w", h.Nodes, h.UserStateLen, errVetted)
		}
	default: // user messages, compressed and encrypted ones: nobody here sends them over a stream
		return nil, fmt.Errorf("message of type %d: %w", kind[0], errVetted)
	}
	return seen.Bytes(), nil
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
