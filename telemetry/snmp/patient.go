package snmp

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/gosnmp/gosnmp"
)

// patient is a connected UDP socket that gives no datagram which is no answer to the last request: gosnmp gives up at the first one, so that
// anybody who can send in the device's name could end each reading. It waits on for the true one until the deadline.
type patient struct {
	net.Conn
	community string                        // of version 2c
	usm       *gosnmp.UsmSecurityParameters // of version 3; nil: 2c
	sent      []byte                        // the last request
	id        string                        // of it (2c), or of its message (3)
	held      []byte                        // an answer that nothing proves: it counts if no other comes
}

// message is what is looked at of one. Source: RFC 3416 section 3, RFC 3412 section 6, RFC 3414 section 2.4.
type message struct {
	version   string
	community string
	pdu       byte   // its tag; 0 in version 3, where it may be encrypted
	id        string // request id, or msgID; as it is encoded
	secure    bool   // version 3: authenticated, or so it says
	engine    string
	user      string
	digest    []byte // lies in the message
}

const (
	tagInteger  = 0x02
	tagOctets   = 0x04
	tagSequence = 0x30
	tagResponse = 0xa2

	digestSize = 24 // RFC 7860 section 4.2.2, usmHMAC192SHA256AuthProtocol
)

// cutBER cuts the first element off b, if it has this tag; 0 takes any. Lengths are definite, below 64 KiB.
func cutBER(b []byte, tag byte) (got byte, body, rest []byte, ok bool) {
	if len(b) < 2 || tag != 0 && b[0] != tag {
		return 0, nil, nil, false
	}
	n, at := int(b[1]), 2
	if more := n - 0x80; more >= 0 {
		if more < 1 || more > 4 || len(b) < at+more {
			return 0, nil, nil, false
		}
		n = 0
		for _, o := range b[at : at+more] {
			n = n<<8 | int(o)
		}
		at += more
	}
	if n > len(b)-at {
		return 0, nil, nil, false
	}
	return b[0], b[at : at+n], b[at+n:], true
}

// cut cuts elements with these tags off b.
func cut(b []byte, tags ...byte) (bodies [][]byte, rest []byte, ok bool) {
	for _, t := range tags {
		var body []byte
		if _, body, b, ok = cutBER(b, t); !ok {
			return nil, nil, false
		}
		bodies = append(bodies, body)
	}
	return bodies, b, true
}

func parseMessage(b []byte) (m message, ok bool) {
	_, b, _, ok = cutBER(b, tagSequence)
	if !ok {
		return m, false
	}
	_, version, b, ok := cutBER(b, tagInteger)
	if !ok {
		return m, false
	}
	if m.version = string(version); m.version != "\x03" {
		f, rest, ok := cut(b, tagOctets)
		if !ok {
			return m, false
		}
		tag, pdu, _, ok := cutBER(rest, 0)
		if !ok {
			return m, false
		}
		m.community, m.pdu = string(f[0]), tag
		if f, _, ok = cut(pdu, tagInteger); ok {
			m.id = string(f[0])
		}
		return m, ok
	}
	f, _, ok := cut(b, tagSequence, tagOctets)
	if !ok {
		return m, false
	}
	head, _, ok := cut(f[0], tagInteger, tagInteger, tagOctets)
	if !ok || len(head[2]) != 1 {
		return m, false
	}
	m.id, m.secure = string(head[0]), head[2][0]&1 != 0
	usm, _, ok := cut(f[1], tagSequence)
	if !ok {
		return m, false
	}
	p, _, ok := cut(usm[0], tagOctets, tagInteger, tagInteger, tagOctets, tagOctets)
	if ok {
		m.engine, m.user, m.digest = string(p[0]), string(p[3]), p[4]
	}
	return m, ok
}

// Write sends a request, and remembers what its answer will have.
func (p *patient) Write(b []byte) (int, error) {
	m, _ := parseMessage(b)
	p.sent, p.id, p.held = append(p.sent[:0], b...), m.id, nil
	n, err := p.Conn.Write(b)
	if errors.Is(err, syscall.ECONNREFUSED) { // of what was sent before; the error is told once
		return p.Conn.Write(b)
	}
	return n, err
}

// Read gives the answer to the last request. Errors: the socket's; os.ErrDeadlineExceeded.
func (p *patient) Read(b []byte) (int, error) {
	for {
		n, err := p.Conn.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) && p.held != nil {
			n = copy(b, p.held)
			p.held = nil
			return n, nil
		}
		if errors.Is(err, syscall.ECONNREFUSED) { // an ICMP message that anybody on the way can make up
			continue
		}
		if err != nil {
			return n, err
		}
		m, ok := parseMessage(b[:n])
		switch {
		case !ok || m.id != p.id || bytes.Equal(b[:n], p.sent): // sent back, it would prove itself
		case p.usm == nil:
			if m.version == "\x01" && m.community == p.community && m.pdu == tagResponse {
				return n, nil
			}
		case m.version != "\x03":
		case p.usm.AuthoritativeEngineID == "" || m.secure && p.proves(b[:n], &m):
			return n, nil // of an engine that is not known yet nothing can prove who it is
		case !m.secure && p.held == nil: // a refusal of the login has no proof
			p.held = append([]byte{}, b[:n]...)
		}
	}
}

// proves tells whether b, of which m was read, was made with the password, for this user, by this device.
func (p *patient) proves(b []byte, m *message) bool {
	if len(m.digest) != digestSize || m.engine != p.usm.AuthoritativeEngineID || m.user != p.usm.UserName {
		return false
	}
	at := cap(b) - cap(m.digest) // it lies in b
	h := hmac.New(sha256.New, p.usm.SecretKey)
	h.Write(b[:at])
	h.Write(make([]byte, digestSize))
	h.Write(b[at+digestSize:])
	return hmac.Equal(h.Sum(nil)[:digestSize], m.digest)
}
