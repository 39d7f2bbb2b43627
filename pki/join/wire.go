package join

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// History of the protocol: 1 (2026-11-21) trust*, ask, challenge, proof, answer|refused; (2026-11-26) trust*, back, doc*|refused.

// Bounds of one conversation.
const (
	maxFrame     = intent.MaxEnvelope + 1024 // one trust document and its wrapping
	maxAsk       = 16 << 10                  // CSR 230, sign key 44, seal key 1,249 octets, base64
	maxAnswer    = 8 << 20                   // certificates, revocations and 1,000 sealed secrets
	maxTrustDocs = 1024                      // a CA rotation a month for 85 years
	maxTrust     = 16 << 20                  // octets of it
	talkTimeout  = time.Minute               // the whole conversation, over a slow WAN
)

// message is one frame; exactly one field is set.
type message struct {
	Trust     *trustMsg     `json:"trust,omitempty"`
	Ask       *askMsg       `json:"ask,omitempty"`
	Challenge *challengeMsg `json:"challenge,omitempty"`
	Proof     *proofMsg     `json:"proof,omitempty"`
	Answer    *Answer       `json:"answer,omitempty"`
	Back      *backMsg      `json:"back,omitempty"`
	Doc       *docMsg       `json:"doc,omitempty"`
	Refused   *refusedMsg   `json:"refused,omitempty"`
}

// trustMsg carries the trust chain, one document each, in order.
type trustMsg struct {
	Env  *intent.Envelope `json:"env"`
	Last bool             `json:"last"`
}

// askMsg is sent only to a verified coordinator. Keys are PKIX DER, seal is the raw HPKE key.
type askMsg struct {
	Token  string   `json:"token"`
	Secret []byte   `json:"secret"`
	CSR    []byte   `json:"csr"`
	Sign   []byte   `json:"sign"`
	Seal   []byte   `json:"seal"`
	Proof  []byte   `json:"proof"` // Ed25519 by Sign over transcript
	Serial string   `json:"serial,omitempty"`
	Addr   []string `json:"addr,omitempty"` // host:port of the management listener
	Boot   []string `json:"boot,omitempty"` // addresses on boot networks
}

type challengeMsg struct {
	Sealed []byte `json:"sealed"` // 32 octets sealed to ask.seal
}

type proofMsg struct {
	Answer []byte `json:"answer"`
}

type refusedMsg struct {
	Reason string `json:"reason"`
}

// Answer is all that a new agent needs, once. Certificates are DER. Roster is its own entry; the others come by intent.
type Answer struct {
	Domain     string               `json:"domain"`
	Site       string               `json:"site"`
	Agent      string               `json:"agent"`
	Leaf       []byte               `json:"leaf"`
	Web        []byte               `json:"web"`
	CA         []byte               `json:"ca"`
	Revocation []*intent.Envelope   `json:"revocation,omitempty"`
	Roster     intent.RosterAgent   `json:"roster"`
	Peers      []intent.RosterAgent `json:"peers,omitempty"` // the site's other agents, so that a site can be entered by any of them
	Secrets    intent.SecretBody    `json:"secrets"`
	Head       intent.Head          `json:"head"` // the site's intent when it was granted
}

// transcript is what the sign key signs: this connection and these keys, so that a proof cannot be replayed elsewhere.
func transcript(cs tls.ConnectionState, a *askMsg) ([]byte, error) {
	return bind(cs, "skerry/join/v1", []byte(a.Token), a.CSR, a.Sign, a.Seal, []byte(a.Serial), []byte(strings.Join(a.Addr, ",")), []byte(strings.Join(a.Boot, ",")))
}

// transcript is the same of one that returns.
func (m *backMsg) transcript(cs tls.ConnectionState) ([]byte, error) {
	far := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, m.Revocation), m.Intent)
	return bind(cs, "skerry/back/v1", []byte(m.Site), []byte(m.Agent), m.Sign, m.Offer, far)
}

// bind hashes what is said with the connection that it is said over, each part behind its length.
func bind(cs tls.ConnectionState, what string, parts ...[]byte) ([]byte, error) {
	exporter, err := cs.ExportKeyingMaterial("EXPORTER-skerry-join", nil, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("cannot bind proof to connection: %w", err)
	}
	h := sha256.New()
	for _, b := range append([][]byte{[]byte(what), exporter}, parts...) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	return h.Sum(nil), nil
}

func writeMsg(w io.Writer, m *message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("cannot encode join message: %w", err)
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("cannot send join message of %d octets", len(b))
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b)))
	if _, err := w.Write(append(frame, b...)); err != nil {
		return fmt.Errorf("cannot send join message: %w", err)
	}
	return nil
}

// readMsg reads one frame of at most limit octets; memory grows with what arrives, not with what is announced.
func readMsg(r io.Reader, limit int64) (*message, error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, fmt.Errorf("cannot read join message: %w", err)
	}
	size := int64(binary.BigEndian.Uint32(n[:]))
	if size > limit {
		return nil, fmt.Errorf("cannot read join message of %d octets, at most %d", size, limit)
	}
	b, err := io.ReadAll(io.LimitReader(r, size))
	if err != nil {
		return nil, fmt.Errorf("cannot read join message: %w", err)
	}
	if int64(len(b)) != size {
		return nil, fmt.Errorf("cannot read join message: %w", io.ErrUnexpectedEOF)
	}
	m := &message{}
	if err := intent.DecodeStrict(b, m); err != nil {
		return nil, fmt.Errorf("cannot decode join message: %w", err)
	}
	return m, nil
}
