package ipmi

import (
	"context"
	"fmt"
	"net"

	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/types"
)

// wire is the network between a client and the controller, with the faults that live there.
type wire struct {
	net.PacketConn
	b *BMC
}

// Octets of an RMCP+ packet.
const (
	atPayload   = 5
	atSession   = 6
	atBody      = 16
	openAnswer  = 0x11
	thirdRAKP   = 0x14
	secured     = 0xc0
	lockoutFrom = 3
)

// ReadFrom implements transport.PacketConn.
func (w *wire) ReadFrom(buf []byte) (int, net.Addr, error) {
	for {
		n, addr, err := w.PacketConn.ReadFrom(buf)
		if err != nil {
			return n, addr, err
		}
		if w.b.has(Wedged) || w.b.every(Lossy, 3) {
			continue
		}
		if n > atBody+1 && buf[atPayload]&0x3f == thirdRAKP && buf[atBody+1] != 0 {
			w.b.wrongPassword()
		}
		return n, addr, nil
	}
}

// wrongPassword counts one, and locks the account under lockout-3.
func (b *BMC) wrongPassword() {
	b.mu.Lock()
	b.failed++
	lock := b.faults[Lockout3] && b.failed >= lockoutFrom
	b.mu.Unlock()
	if lock {
		if u, err := b.bmc.Users.Get(account); err == nil {
			u.Enabled = false
			if err := b.bmc.Users.Delete(account); err != nil {
				panic(err) // of the simulator's own making
			}
		}
	}
}

// WriteTo implements transport.PacketConn.
func (w *wire) WriteTo(data []byte, addr net.Addr) (int, error) {
	w.b.mu.Lock()
	mute := w.b.mute
	w.b.mute = false
	w.b.mu.Unlock()
	if mute || w.b.has(Wedged) || w.b.every(Lossy, 3) {
		return len(data), nil
	}
	if w.b.has(OnlySuite0) && len(data) >= atBody+36 && data[atPayload]&0x3f == openAnswer {
		for _, i := range []int{16, 24, 32} {
			data[atBody+i] = 0
		}
	}
	if len(data) > atBody && data[atPayload] == secured && w.b.has(Forged) {
		// What anybody on the way can send: the session's number, a message that fits none or any request, no code.
		for seq := range byte(64) {
			m := []byte{0x81, 0x01 << 2, 0, 0x20, seq << 2, 0x01, 0x00, 0x01, 0x00, 0x00}
			m[2] = sum(m[:2])
			m = append(m, sum(m[3:]))
			forged := append([]byte{0x06, 0, 0xff, 0x07, 0x06, 0x00}, data[atSession:atSession+8]...)
			forged = append(append(forged, byte(len(m)), 0), m...)
			if _, err := w.PacketConn.WriteTo(forged, addr); err != nil {
				return 0, err
			}
		}
	}
	if w.b.has(Duplicates) {
		if _, err := w.PacketConn.WriteTo(data, addr); err != nil {
			return 0, err
		}
	}
	return w.PacketConn.WriteTo(data, addr)
}

// watch is the middleware of every command: it counts, and holds the faults of commands.
func (b *BMC) watch(next handlers.Handler) handlers.Handler {
	return handlers.HandlerFunc(func(ctx context.Context, h *handlers.HandlerContext, data []byte) ([]byte, types.CompletionCode, error) {
		out, code, err := b.command(ctx, next, h, data)
		forget := h.Session != nil && b.every(Forgets, 7)
		b.mu.Lock()
		defer b.mu.Unlock()
		flags := h.Command == types.CommandSetSystemBootOptions && len(data) > 0 && data[0]&0x7f == 5
		if code == 0 && (flags || h.Command == types.CommandChassisControl || h.Command == types.CommandSetUserPassword) {
			b.writes++
		}
		b.commands = append(b.commands, fmt.Sprintf("%02x/%02x %x %02x", uint8(h.Command.NetFn), h.Command.ID, data, uint8(code)))
		b.commands = b.commands[max(0, len(b.commands)-logLines):]
		if forget {
			_ = b.bmc.Sessions.Close(h.Session.BMCID) // unless it is gone already
		}
		return out, code, err
	})
}

func (b *BMC) command(ctx context.Context, next handlers.Handler, h *handlers.HandlerContext, data []byte) ([]byte, types.CompletionCode, error) {
	switch c := h.Command; {
	case h.Session != nil && b.has(NodeBusy) && !b.every(NodeBusy, 3):
		return nil, types.CodeNodeBusy, nil
	case c == types.CommandSetSystemBootOptions && b.has(NoCourtesy) && len(data) > 0 && data[0]&0x7f != 5:
		return nil, types.CodeParameterNotSupported, nil
	case c == types.CommandCloseSession && b.has(SessionLeak):
		return nil, types.CodeOK, nil
	case c == types.CommandSetUserPassword && b.has(PasswordPolicy):
		return nil, types.CodeRequestDataFieldInvalid, nil
	case c == types.CommandSetUserPassword && b.has(PasswordIgnored):
		return nil, types.CodeOK, nil
	case c == types.CommandSetUserPassword && b.has(PasswordLost):
		out, code, err := next.Handle(ctx, h, data)
		b.mu.Lock()
		b.mute = true
		b.mu.Unlock()
		return out, code, err
	case c == types.CommandGetSDR && b.every(SDRCancels, 8):
		return nil, 0xc5, nil
	case c == types.CommandGetSDR && b.has(SDRLoops):
		out, code, err := next.Handle(ctx, h, data)
		if code == 0 && len(out) > 2 && out[0] == 0xff && out[1] == 0xff {
			out[0], out[1] = 1, 0
		}
		return out, code, err
	}
	return next.Handle(ctx, h, data)
}

// reading answers Get Sensor Reading by the number in a record.
func (b *BMC) reading(_ context.Context, _ *handlers.HandlerContext, data []byte) ([]byte, types.CompletionCode, error) {
	for _, s := range b.cfg.Sensors {
		if len(data) == 1 && len(s.Record) > 7 && s.Record[7] == data[0] {
			return s.Reading, types.CodeOK, nil
		}
	}
	return nil, 0xcb, nil
}
