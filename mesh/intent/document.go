package intent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Payload types of the DSSE envelopes, one per stream (architecture section 7, trust.md section 4).
const (
	PayloadTrust      = "application/vnd.skerry.trust.v1+json"
	PayloadRevocation = "application/vnd.skerry.revocation.v1+json"
	PayloadIntent     = "application/vnd.skerry.intent.v1+json"
	PayloadBeacon     = "application/vnd.skerry.beacon.v1+json"
	PayloadOverride   = "application/vnd.skerry.override.v1+json"
	PayloadPermission = "application/vnd.skerry.permission.v1+json"
	PayloadReceipt    = "application/vnd.skerry.receipt.v1+json"
	PayloadQuarantine = "application/vnd.skerry.quarantine.v1+json"
	PayloadAdmission  = "application/vnd.skerry.admission.v1+json"
	PayloadAudit      = "application/vnd.skerry.audit.v1+json"
)

// Bounds of documents; an envelope stays under Badger's 1 MiB value limit.
const (
	MaxEnvelope   = 1_000_000
	MaxSignatures = 8
	MaxObjects    = 256       // objects per entry
	MaxObjectSize = 256 << 10 // octets of one object's JSON
)

// Act is what a permission permits.
type Act string

// The destructive acts.
const (
	ActInstall Act = "install"
	ActErase   Act = "erase"
)

// DiskID names one disk of a machine as the accepted inventory holds it. WWN or Serial is set; SizeBytes always.
type DiskID struct {
	WWN       string `json:"wwn,omitempty"`
	Serial    string `json:"serial,omitempty"`
	SizeBytes uint64 `json:"sizeBytes"`
}

// Permission allows one destructive act, once, on one machine with exactly these disks (promise 5). It is signed by the
// agent that holds the claim; the fields come from the accepted inventory, never from the asking installer.
type Permission struct {
	Site       string    `json:"site"`
	Agent      string    `json:"agent"`
	Seq        uint64    `json:"seq"` // per agent, dense
	Prev       string    `json:"prev"`
	Time       time.Time `json:"time"`
	ID         string    `json:"id"` // unique; burnt by its first use
	Act        Act       `json:"act"`
	Machine    string    `json:"machine"`
	UUID       string    `json:"uuid"`   // SMBIOS UUID, lower case
	Serial     string    `json:"serial"` // SMBIOS serial
	Disks      []DiskID  `json:"disks"`
	Generation uint64    `json:"generation"` // allocation generation of the binding
	Claim      Epoch     `json:"claim"`
	Cause      string    `json:"cause"` // "intent 4.1042" or "override lon1-..."
	Fresh      string    `json:"fresh"` // beacon, operator or quota
}

// Quarantine is the payload of a site's own order to cut one of its agents off, or to let it back. The highest N per target
// counts; of two with one N, the one that is on. It is signed by the agent that took it from a user.
// Source: trust.md sections 4 and 6.
type Quarantine struct {
	Site   string           `json:"site"`
	Agent  string           `json:"agent"` // who signs
	Time   time.Time        `json:"time"`
	Target QuarantineTarget `json:"target"`
	N      uint64           `json:"n"` // from 1
	On     bool             `json:"on"`
	By     string           `json:"by"`
	Reason string           `json:"reason"`
}

// QuarantineTarget names who is cut off.
type QuarantineTarget struct {
	Agent string `json:"agent"`
}

// Admission is the payload with which a spare takes the place of an agent of its site. The spare signs it with the key that the
// roster holds for it. Source: trust.md section 3.
type Admission struct {
	Site     string    `json:"site"`
	Spare    string    `json:"spare"`
	Replaces string    `json:"replaces"`
	Time     time.Time `json:"time"`
	Addr     []string  `json:"addr"` // where the new box is, as in RosterAgent
	Boot     []string  `json:"boot"`
}

// Validate checks the shape. Errors: Problems.
func (a *Admission) Validate() error {
	c := &checker{}
	c.label("site", a.Site)
	c.label("spare", a.Spare)
	c.label("replaces", a.Replaces)
	if len(a.Addr) == 0 || len(a.Addr) > 8 || len(a.Boot) > 8 {
		c.add("addr", "one to eight management addresses and at most eight boot addresses", "")
	}
	for i, m := range a.Addr {
		if _, err := netip.ParseAddrPort(m); err != nil {
			c.add(fmt.Sprintf("addr[%d]", i), fmt.Sprintf("%q is not an address with port", clip(m, 60)), "")
		}
	}
	for i, b := range a.Boot {
		c.addr(fmt.Sprintf("boot[%d]", i), b)
	}
	return c.ps.Err()
}

// Envelope is a DSSE v1 envelope in JSON. Payload and signatures are base64 in the wire form (encoding/json does it).
// Source: github.com/secure-systems-lab/dsse, envelope.md.
type Envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []Signature `json:"signatures"`
}

// Signature is one signature of an Envelope. KeyID is the hex SHA-256 of the public key's PKIX DER.
type Signature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// Digest returns the SHA-256 of the payload: what `prev` of the next document holds, so that added signatures do not move it.
func (e *Envelope) Digest() Digest { return DigestOf(e.Payload) }

// Header opens every chained document. Epoch is the coordinator's fencing number; a trust document has none.
type Header struct {
	Stream string    `json:"stream"` // trust, revocation, intent
	Epoch  uint64    `json:"epoch,omitempty"`
	Seq    uint64    `json:"seq"` // dense from 1
	Prev   string    `json:"prev"`
	Issued time.Time `json:"issued"`
}

// Head names the last entry of a chain.
type Head struct {
	Epoch uint64 `json:"epoch"`
	Seq   uint64 `json:"seq"`
	Hash  Digest `json:"hash"`
}

// Compare orders heads by epoch, then seq. Equal epoch and seq with another hash is a fork, which the caller must detect.
func (h Head) Compare(o Head) int { return Epoch{h.Epoch, h.Seq}.Compare(Epoch{o.Epoch, o.Seq}) }

// EntryKind says what an intent entry carries.
type EntryKind string

// The entry kinds that are built.
const (
	EntryPut       EntryKind = "put"
	EntryTombstone EntryKind = "tombstone"
	EntryRoster    EntryKind = "roster"
	EntrySecret    EntryKind = "secret"
	EntryAck       EntryKind = "ack"
	EntrySnapshot  EntryKind = "snapshot"
)

// Entry is the payload of one intent document.
type Entry struct {
	Header
	Site       string          `json:"site"`
	StaleAfter string          `json:"stale_after,omitempty"` // Go duration
	Requires   Requires        `json:"requires"`
	Kind       EntryKind       `json:"kind"`
	Body       json.RawMessage `json:"body"`
}

// Requires names what a receiver must have applied first.
type Requires struct {
	Agent      string `json:"agent,omitempty"` // lowest agent version
	Trust      uint64 `json:"trust,omitempty"`
	Revocation uint64 `json:"revocation,omitempty"`
}

// PutBody holds objects of one entry, at most MaxObjects.
type PutBody struct {
	Objects []PutObject `json:"objects"`
}

// PutObject is one object as published. Rev rises with every change of the object.
type PutObject struct {
	UID string          `json:"uid"`
	Rev uint64          `json:"rev"`
	Doc json.RawMessage `json:"doc"`
}

// TombstoneBody removes objects; nothing else does (promise 4).
type TombstoneBody struct {
	Objects []TombstoneObject `json:"objects"`
}

// TombstoneObject names one removed object.
type TombstoneObject struct {
	Kind Kind   `json:"kind"`
	UID  string `json:"uid"`
	Rev  uint64 `json:"rev"`
}

// RosterBody is the whole roster of a site; the newest one counts.
type RosterBody struct {
	Generation uint64        `json:"generation"`
	Agents     []RosterAgent `json:"agents"`
}

// The states of a rostered agent.
const (
	StateAgent = "agent" // speaks and decides
	StateSpare = "spare" // certified and told the secrets; waits for its admission
)

// RosterAgent is one agent that may speak. Keys are base64 PKIX DER (tls, sign) or the HPKE public key (seal).
type RosterAgent struct {
	ID    string   `json:"id"`
	Rank  uint16   `json:"rank"`
	State string   `json:"state"` // agent, spare
	Roles []string `json:"roles,omitempty"`
	Addr  []string `json:"addr"` // management host:port, the first is tried first
	Boot  []string `json:"boot"` // addresses on boot networks, no port
	TLS   [][]byte `json:"tls"`
	Sign  [][]byte `json:"sign"`
	Seal  [][]byte `json:"seal"`
	Certs [][]byte `json:"certs"` // DER of the agent's leaf and web leaf
	// Of TLS, Sign and Seal the first is the newest; there are two while a rotation is under way. Past are signing keys of before,
	// newest first: what they signed stays verifiable, for audit and orders that stand, and nobody may speak by them.
	Past [][]byte `json:"past,omitempty"`
}

// SignKeys returns all keys that may have signed what this agent left, the newest first.
func (a RosterAgent) SignKeys() [][]byte { return slices.Concat(a.Sign, a.Past) }

// SecretBody carries sealed data keys and records; see pki/seal for the construction.
type SecretBody struct {
	DEKs    []SealedDEK    `json:"deks,omitempty"`
	Records []SealedRecord `json:"records,omitempty"`
}

// SealedDEK is a data key wrapped for one agent.
type SealedDEK struct {
	To  string `json:"to"`
	DEK uint64 `json:"dek"`
	Alg string `json:"alg"`
	Enc []byte `json:"enc"`
	CT  []byte `json:"ct"`
}

// SealedRecord is one secret encrypted for one agent under its data key.
type SealedRecord struct {
	Name string `json:"name"`
	Ver  uint64 `json:"ver"`
	To   string `json:"to"`
	DEK  uint64 `json:"dek"`
	CT   []byte `json:"ct"`
}

// AckBody answers an override.
type AckBody struct {
	Override string `json:"override"`
	Decision string `json:"decision"` // adopt, discard
	Rev      uint64 `json:"rev"`
	Reason   string `json:"reason,omitempty"`
}
