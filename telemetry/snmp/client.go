package snmp

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/gosnmp/gosnmp"
)

// Target is a device and how to log in to it.
type Target struct {
	Address   string // host:port, UDP
	Community string // version 2c, where User is empty
	// User, Auth and Priv are version 3's: SHA-256 by the one password, AES-128 by the other.
	User, Auth, Priv string
}

// requestLimit bounds one request. Slow control planes answer within a second; a lost datagram costs this much.
const requestLimit = 2 * time.Second

var (
	errTimeout = errors.New("no answer in time")
	errTooBig  = errors.New("the device cannot answer so much at once")
)

// variable is one name with its value.
type variable struct {
	name oid
	v    value
}

// session asks one device. Not safe for concurrent use.
type session interface {
	// bulk returns up to n variables that follow after, in the device's order. Errors: errTimeout, errTooBig, others.
	bulk(ctx context.Context, after oid, n uint32) ([]variable, error)
	// get returns the value of one name. Errors: as bulk.
	get(ctx context.Context, name oid) (value, error)
	close() error
}

// client is a session by gosnmp.
type client struct{ g *gosnmp.GoSNMP }

// dial opens a socket; nothing is sent yet.
func dial(ctx context.Context, t Target) (session, error) {
	host, port, err := net.SplitHostPort(t.Address)
	if err != nil {
		return nil, fmt.Errorf("cannot use address %q: %w", t.Address, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("cannot use port %q: %w", port, err)
	}
	g := &gosnmp.GoSNMP{
		Target: host, Port: uint16(n), Transport: "udp", Version: gosnmp.Version2c, Community: t.Community, Context: ctx, Timeout: requestLimit, MaxOids: 1,
	}
	var usm *gosnmp.UsmSecurityParameters
	if t.User != "" {
		usm = &gosnmp.UsmSecurityParameters{
			UserName: t.User, AuthenticationProtocol: gosnmp.SHA256, AuthenticationPassphrase: t.Auth, PrivacyProtocol: gosnmp.AES, PrivacyPassphrase: t.Priv,
		}
		g.Version, g.SecurityModel, g.MsgFlags = gosnmp.Version3, gosnmp.UserSecurityModel, gosnmp.AuthPriv
		g.SecurityParameters = usm
	}
	if err := g.Connect(); err != nil {
		return nil, brief(err)
	}
	g.Conn = &patient{Conn: g.Conn, community: t.Community, usm: usm}
	return &client{g}, nil
}

func (c *client) close() error { return c.g.Close() }

func (c *client) bulk(ctx context.Context, after oid, n uint32) ([]variable, error) {
	c.g.Context = ctx
	p, err := c.g.GetBulk([]string{after.String()}, 0, n)
	return answer(p, err)
}

func (c *client) get(ctx context.Context, name oid) (value, error) {
	c.g.Context = ctx
	p, err := c.g.Get([]string{name.String()})
	vv, err := answer(p, err)
	if err != nil {
		return value{}, err
	}
	if len(vv) != 1 || vv[0].name.String() != name.String() {
		return value{}, errors.New("the device answered something else")
	}
	return vv[0].v, nil
}

// answer reads a response.
func answer(p *gosnmp.SnmpPacket, err error) ([]variable, error) {
	switch {
	case errors.Is(err, gosnmp.ErrMaxRetriesExceeded):
		return nil, errTimeout
	case err != nil:
		return nil, brief(err)
	case p == nil:
		return nil, errors.New("the device answered nothing")
	case p.PDUType != gosnmp.GetResponse:
		return nil, errors.New("the device answered no response")
	case p.Error == gosnmp.TooBig || p.Error == gosnmp.GenErr: // some say so when they run out of time
		return nil, fmt.Errorf("%w: %s", errTooBig, p.Error)
	case p.Error != gosnmp.NoError:
		return nil, fmt.Errorf("the device says %s", p.Error)
	}
	out := make([]variable, 0, len(p.Variables))
	for _, v := range p.Variables {
		name, ok := parseOID(v.Name)
		if !ok {
			return nil, errors.New("the device names an object by what is no name")
		}
		out = append(out, variable{name, valueOf(v)})
	}
	return out, nil
}

// brief cuts an error of gosnmp to one line: after a panic on what a device sent it holds a stack, and some quote what was received.
func brief(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	// A refusal of a login comes without proof of who sends it, and gosnmp takes it for what somebody made up.
	if errors.Is(err, gosnmp.ErrUnknownUsername) || errors.Is(err, gosnmp.ErrWrongDigest) || errors.Is(err, gosnmp.ErrDecryption) || strings.Contains(err.Error(), "not authentic") {
		return errors.New("the device does not take the user, or its auth-password with SHA-256")
	}
	s, _, _ := strings.Cut(err.Error(), "\n")
	s, _, _ = strings.Cut(s, " Stack:")
	return errors.New(printable(s, 200))
}

// kind is what a value is.
type kind uint8

const (
	none kind = iota // no such object, or of no type that is read here
	end              // of what the device shows
	integer
	unsigned // counters of 32 bits, gauges, times
	wide     // counters of 64 bits
	octets
	float
)

// value is what a device said of one object.
type value struct {
	kind kind
	i    int64
	n    uint64
	f    float64
	s    string
}

// maxText bounds the octets of a text that are kept.
const maxText = 256

func valueOf(p gosnmp.SnmpPDU) value {
	switch v := p.Value.(type) {
	case int:
		if p.Type == gosnmp.Integer {
			return value{kind: integer, i: int64(v)}
		}
	case uint:
		return value{kind: unsigned, n: uint64(v)}
	case uint32:
		return value{kind: unsigned, n: uint64(v)}
	case uint64:
		if p.Type == gosnmp.Counter64 {
			return value{kind: wide, n: v}
		}
	case []byte:
		if p.Type == gosnmp.OctetString {
			return value{kind: octets, s: string(v[:min(len(v), maxText)])}
		}
	case float32:
		return value{kind: float, f: float64(v)}
	case float64:
		return value{kind: float, f: v}
	}
	if p.Type == gosnmp.EndOfMibView {
		return value{kind: end}
	}
	return value{}
}

// number is the value of an integer or gauge; text is none, whatever it says.
func (v value) number() (float64, bool) {
	switch v.kind {
	case integer:
		return float64(v.i), true
	case unsigned, wide:
		return float64(v.n), true
	case float:
		return v.f, !math.IsNaN(v.f) && !math.IsInf(v.f, 0)
	}
	return 0, false
}

// enum is the value of an enumeration, 0 for none.
func (v value) enum() int64 {
	if v.kind == integer {
		return v.i
	}
	return 0
}
