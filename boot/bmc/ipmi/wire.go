package ipmi

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
)

// The wire of RMCP+. Source: IPMI 2.0 rev 1.1, sections 13.6 (packet), 13.17 to 13.24 (session set-up), 13.28 to 13.32 (algorithms).

// payload is the kind of a packet's content. Source: table 13-16.
type payload byte

const (
	payloadMessage       payload = 0x00
	payloadSOL           payload = 0x01
	payloadOpenRequest   payload = 0x10
	payloadOpenResponse  payload = 0x11
	payloadRAKP1         payload = 0x12
	payloadRAKP2         payload = 0x13
	payloadRAKP3         payload = 0x14
	payloadRAKP4         payload = 0x15
	payloadEncrypted     payload = 0x80
	payloadAuthenticated payload = 0x40
	payloadKind          payload = 0x3f
)

const (
	maxPacket   = 1024 // octets: the largest answer that we ask for has 255 octets of data
	headerSize  = 16   // RMCP and session header
	messageSize = 8    // the shortest answer: its addresses, checksums, command and completion code
	nextHeader  = 0x07
)

// suite is a cipher suite with integrity and confidentiality. There is no other kind: without integrity anybody on the way could
// switch machines, and without confidentiality read passwords. Source: tables 13-17 to 13-19, 22-20.
type suite struct {
	id        byte
	auth      byte // authentication algorithm
	integrity byte
	hash      func() hash.Hash
	icv       int // octets of an integrity check value
}

const confidentialityAES = 1

// suites are those that we speak, best first.
func suites() []suite {
	return []suite{{17, 3, 4, sha256.New, 16}, {3, 1, 1, sha1.New, 12}}
}

func (s suite) mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(s.hash, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// errWire: a packet that is not an answer to us, broken or forged. It is passed over.
var errWire = errors.New("not an answer to this session")

// rmcp is the header of every packet: version 1.0, no acknowledge, class IPMI. Source: section 13.1.3.
func rmcp() []byte { return []byte{0x06, 0x00, 0xff, 0x07} }

// bare packs a packet outside a session.
func bare(kind payload, body []byte) []byte {
	b := append(rmcp(), 0x06, byte(kind), 0, 0, 0, 0, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(body)))
	return append(b, body...)
}

// unpack splits a packet into its kind, with its flags, session, sequence number, body, and what follows the body.
func unpack(b []byte) (kind payload, session, seq uint32, body, trailer []byte, err error) {
	if len(b) < headerSize || b[0] != 0x06 || b[3] != 0x07 || b[4] != 0x06 {
		return 0, 0, 0, nil, nil, errWire
	}
	n := int(binary.LittleEndian.Uint16(b[14:]))
	if n > len(b)-headerSize {
		return 0, 0, 0, nil, nil, errWire
	}
	return payload(b[5]), binary.LittleEndian.Uint32(b[6:]), binary.LittleEndian.Uint32(b[10:]), b[headerSize : headerSize+n], b[headerSize+n:], nil
}

// keys are a session's secrets and numbers.
type keys struct {
	suite    suite
	ours     uint32 // session id that the controller's packets bear
	theirs   uint32 // that ours bear
	k1       []byte
	aes      cipher.Block
	sent     uint32 // sequence number of the last packet that we sent
	received uint32 // and of the last that was believed: an older one is a replay
}

// derive makes the keys out of the session integrity key. Source: section 13.32.
func (k *keys) derive(sik []byte) error {
	constant := func(v byte) []byte {
		b := make([]byte, 20)
		for i := range b {
			b[i] = v
		}
		return b
	}
	k.k1 = k.suite.mac(sik, constant(1))
	var err error
	k.aes, err = aes.NewCipher(k.suite.mac(sik, constant(2))[:16])
	return err
}

// seal packs a message.
func (k *keys) seal(message []byte) []byte { return k.sealAs(payloadMessage, message) }

// sealAs packs a payload: encrypted, then authenticated.
func (k *keys) sealAs(kind payload, message []byte) []byte {
	iv := make([]byte, aes.BlockSize)
	rand.Read(iv) // never fails
	plain := append([]byte{}, message...)
	pad := (aes.BlockSize - (len(plain)+1)%aes.BlockSize) % aes.BlockSize
	for i := range pad {
		plain = append(plain, byte(i+1))
	}
	plain = append(plain, byte(pad))
	cipher.NewCBCEncrypter(k.aes, iv).CryptBlocks(plain, plain)
	k.sent++
	b := append(rmcp(), 0x06, byte(kind|payloadEncrypted|payloadAuthenticated))
	b = binary.LittleEndian.AppendUint32(b, k.theirs)
	b = binary.LittleEndian.AppendUint32(b, k.sent)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(iv)+len(plain)))
	b = append(append(b, iv...), plain...)
	fill := 0
	for (len(b)-4+2)%4 != 0 { // what is authenticated is whole words
		b = append(b, 0xff)
		fill++
	}
	b = append(b, byte(fill), nextHeader)
	return append(b, k.suite.mac(k.k1, b[4:])[:k.suite.icv]...)
}

// open returns the message of a packet of this session. Errors: errWire for another payload, and as openAny.
func (k *keys) open(b []byte) ([]byte, error) {
	kind, message, err := k.openAny(b)
	if err == nil && kind != payloadMessage {
		return nil, errWire
	}
	return message, err
}

// openAny returns the payload of a packet of this session. Errors: errWire for what is not encrypted, not authentic, or seen before.
func (k *keys) openAny(b []byte) (payload, []byte, error) {
	kind, session, seq, body, trailer, err := unpack(b)
	switch {
	case err != nil:
		return 0, nil, err
	case kind&^payloadKind != payloadEncrypted|payloadAuthenticated, session != k.ours, len(trailer) < 2+k.suite.icv:
		return 0, nil, errWire
	}
	signed := len(b) - k.suite.icv
	if !hmac.Equal(k.suite.mac(k.k1, b[4:signed])[:k.suite.icv], b[signed:]) || seq <= k.received {
		return 0, nil, errWire
	}
	if len(body) < 2*aes.BlockSize || len(body)%aes.BlockSize != 0 {
		return 0, nil, errWire
	}
	plain := make([]byte, len(body)-aes.BlockSize)
	cipher.NewCBCDecrypter(k.aes, body[:aes.BlockSize]).CryptBlocks(plain, body[aes.BlockSize:])
	pad := int(plain[len(plain)-1])
	if pad >= len(plain) {
		return 0, nil, errWire
	}
	k.received = seq
	return kind & payloadKind, plain[:len(plain)-1-pad], nil
}

// command is one of a controller's functions: the network function in the upper octet, the command in the lower. Source: appendix G.
type command uint16

func (c command) netFn() byte { return byte(c >> 8) }

const (
	addressBMC    = 0x20
	addressRemote = 0x81 // software id of a remote console
)

func checksum(b []byte) (sum byte) {
	for _, v := range b {
		sum -= v
	}
	return sum
}

// request packs a message to the controller; seq is 0 to 63. Source: section 13.8.
func request(c command, seq byte, data []byte) []byte {
	b := []byte{addressBMC, c.netFn() << 2}
	b = append(b, checksum(b))
	b = append(b, addressRemote, seq<<2, byte(c))
	b = append(b, data...)
	return append(b, checksum(b[3:]))
}

// response returns the completion code and data of the answer to c with that seq. Errors: errWire.
func response(b []byte, c command, seq byte) (code byte, data []byte, err error) {
	if len(b) < messageSize || checksum(b[:3]) != 0 || checksum(b[3:]) != 0 ||
		b[1]>>2 != c.netFn()|1 || b[4]>>2 != seq || b[5] != byte(c) {
		return 0, nil, errWire
	}
	return b[6], b[7 : len(b)-1], nil
}

// parseOpen reads the answer to an open session request. Errors: a *statusError, errWire, or an algorithm that was not asked for.
// Source: section 13.18.
func parseOpen(b []byte, s suite, ours uint32) (theirs uint32, err error) {
	if len(b) < 2 {
		return 0, errWire
	}
	if b[1] != 0 {
		return 0, &statusError{b[1]}
	}
	if len(b) < 36 || binary.LittleEndian.Uint32(b[4:]) != ours {
		return 0, errWire
	}
	if b[16]&0x3f != s.auth || b[24]&0x3f != s.integrity || b[32]&0x3f != confidentialityAES {
		return 0, fmt.Errorf("%w: asked for cipher suite %d, it answers with algorithms %d, %d, %d", errWeak, s.id, b[16]&0x3f, b[24]&0x3f, b[32]&0x3f)
	}
	return binary.LittleEndian.Uint32(b[8:]), nil
}

// errWeak: the controller wants less than what was asked for.
var errWeak = errors.New("controller answers with a weaker cipher suite")

// parseRAKP2 reads the controller's random number, GUID and proof that it knows the password. Source: section 13.21.
func parseRAKP2(b []byte, s suite, ours uint32) (random, guid, proof []byte, err error) {
	if len(b) < 8 || binary.LittleEndian.Uint32(b[4:]) != ours {
		return nil, nil, nil, errWire
	}
	if b[1] != 0 {
		return nil, nil, nil, &statusError{b[1]}
	}
	if len(b) != 40+s.hash().Size() {
		return nil, nil, nil, errWire
	}
	return b[8:24], b[24:40], b[40:], nil
}

// parseRAKP4 reads the controller's proof that it has the same keys. Source: section 13.23.
func parseRAKP4(b []byte, s suite, ours uint32) (proof []byte, err error) {
	if len(b) < 8 || binary.LittleEndian.Uint32(b[4:]) != ours {
		return nil, errWire
	}
	if b[1] != 0 {
		return nil, &statusError{b[1]}
	}
	if len(b) < 8+s.icv {
		return nil, errWire
	}
	return b[8 : 8+s.icv], nil
}
