package snmp

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"
)

// refusing is a connection on which an ICMP "port unreachable" comes before each answer: the kernel asks it for no more than ports.
type refusing struct {
	net.Conn
	refuse bool
}

func (r *refusing) Write(b []byte) (int, error) {
	r.refuse = true
	return r.Conn.Write(b)
}

func (r *refusing) Read(b []byte) (int, error) {
	if r.refuse {
		r.refuse = false
		return 0, &net.OpError{Op: "read", Net: "udp", Err: os.NewSyscallError("recvfrom", syscall.ECONNREFUSED)}
	}
	return r.Conn.Read(b)
}

// A refusal that anybody may have made up ends no reading: the true answer is waited for.
func TestRefused(t *testing.T) {
	r := respond(t, objects(t, port(1, "e1", 5, 0)+"1.3.6.1.2.1.1.3.0|67|100\n"), nil)
	reader := New()
	reader.dial = func(ctx context.Context, to Target) (session, error) {
		s, err := dial(ctx, to)
		if c, ok := s.(*client); ok {
			p := c.g.Conn.(*patient)
			p.Conn = &refusing{Conn: p.Conn}
		}
		return s, err
	}
	if got, err := reader.Read(t.Context(), "sw1", r.target()); err != nil || len(got) == 0 {
		t.Errorf("%v, %d readings", err, len(got))
	}
}
