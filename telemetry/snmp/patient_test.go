package snmp

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"github.com/gosnmp/gosnmp"
)

// forging is a connection on which somebody answers each request before the device does.
type forging struct {
	net.Conn
	forge  func(request []byte) [][]byte
	queued [][]byte
}

func (f *forging) Write(b []byte) (int, error) {
	f.queued = f.forge(bytes.Clone(b))
	return f.Conn.Write(b)
}

func (f *forging) Read(b []byte) (int, error) {
	if len(f.queued) > 0 {
		n := copy(b, f.queued[0])
		f.queued = f.queued[1:]
		return n, nil
	}
	return f.Conn.Read(b)
}

// forged dials like dial, with forge on the way.
func forged(forge func([]byte) [][]byte) func(context.Context, Target) (session, error) {
	return func(ctx context.Context, to Target) (session, error) {
		s, err := dial(ctx, to)
		if c, ok := s.(*client); ok {
			p := c.g.Conn.(*patient)
			p.Conn = &forging{Conn: p.Conn, forge: forge}
		}
		return s, err
	}
}

// mangled are answers that no device gives, whatever the version: none is b with parts changed that matter to nobody.
func mangled(b []byte) [][]byte {
	out := [][]byte{{}, {0x30}, []byte("no BER at all"), {0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, {0x30, 0x80, 0, 0}, bytes.Clone(b[:len(b)/2])}
	for i := 2; i < len(b); i += 7 { // of version 3 no octet may change
		c := bytes.Clone(b)
		c[i] ^= 0x41
		out = append(out, c)
	}
	return out
}

// TestForged: answers that somebody else made up before the device's own cost nothing: neither a reading, nor a value.
func TestForged(t *testing.T) {
	oo := objects(t, port(1, "e1", 5, 0)+"1.3.6.1.2.1.1.3.0|67|100\n")
	r := respond(t, oo, nil)
	want, err := New().Read(t.Context(), "sw1", r.target())
	if err != nil {
		t.Fatal(err)
	}
	g := &gosnmp.GoSNMP{Version: gosnmp.Version2c}
	reader := New()
	reader.dial = forged(func(b []byte) (out [][]byte) {
		q, err := g.SnmpDecodePacket(b)
		if err != nil {
			t.Error(err)
			return nil
		}
		out = append(out, b, b[:len(b)/2], []byte("no BER at all"), nil, []byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff})
		for _, a := range []gosnmp.SnmpPacket{
			{Version: gosnmp.Version2c, Community: "secret"},
			{Version: gosnmp.Version2c, Community: "secret", RequestID: q.RequestID + 1},
			{Version: gosnmp.Version2c, Community: "public", RequestID: q.RequestID},
			{Version: gosnmp.Version1, Community: "secret", RequestID: q.RequestID},
			{Version: gosnmp.Version2c, Community: "secret", Error: gosnmp.GenErr},
		} {
			a.PDUType, a.Variables = gosnmp.GetResponse, []gosnmp.SnmpPDU{{Name: q.Variables[0].Name + ".1", Type: gosnmp.Integer, Value: 666}}
			o, err := a.MarshalMsg()
			if err != nil {
				t.Error(err)
			}
			out = append(out, o)
		}
		return out
	})
	begun := time.Now()
	got, err := reader.Read(t.Context(), "sw1", r.target())
	if err != nil || text(got) != text(want) || len(got) == 0 {
		t.Errorf("%v after %v:\n%s, want\n%s", err, time.Since(begun), text(got), text(want))
	}
}

// FuzzMessage: whatever comes, nothing panics, and a digest lies in what came.
func FuzzMessage(f *testing.F) {
	f.Add([]byte{0x30, 0x10, 2, 1, 1, 4, 1, 'x', 0xa2, 8, 2, 1, 7, 2, 1, 0, 2, 1, 0})
	f.Add([]byte{0x30, 0x84, 0, 0, 0, 2, 2, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := parseMessage(b)
		if ok && m.digest != nil {
			p := &patient{usm: &gosnmp.UsmSecurityParameters{SecretKey: []byte("key"), AuthoritativeEngineID: m.engine, UserName: m.user}}
			if at := cap(b) - cap(m.digest); at < 0 || at+len(m.digest) > len(b) || p.proves(b, &m) {
				t.Fatal(at, len(m.digest), len(b))
			}
		}
	})
}
