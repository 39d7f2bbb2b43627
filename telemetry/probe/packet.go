package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// PacketRate is N of the 1 in N frames that rung Packet looks at.
const PacketRate = 64

const (
	packetHead   = 192     // octets of a frame that are read
	packetBuffer = 4 << 20 // of the socket: some 5,000 frames
	vnetHeader   = 10      // Source: virtio 1.1, struct virtio_net_hdr
	auxSize      = 20      // Source: linux/if_packet.h, struct tpacket_auxdata
	statusVLAN   = 1 << 4  // TP_STATUS_VLAN_VALID
)

// openPacket makes a socket that takes 1 in PacketRate frames of an interface, by chance, in the kernel.
func (p *Probe) openPacket(a *attached) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // protocol 0: hears nothing yet
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%w: CAP_NET_RAW is missing", ErrPermission)
		}
		return fmt.Errorf("cannot open a packet socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "packet:"+a.Interface)
	prog, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtRand},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: math.MaxUint32/PacketRate + 1, SkipFalse: 1},
		bpf.RetConstant{Val: packetHead},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return errors.Join(err, f.Close())
	}
	filter := make([]unix.SockFilter, len(prog))
	for i, r := range prog {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, packetBuffer)
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
	)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: a.index})
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot listen at the interface: %w", err), f.Close())
	}
	select {
	case p.sockets <- packetSocket{f, a.index}:
	default:
		return errors.Join(errors.New("too many packet sockets"), f.Close())
	}
	a.held = append(a.held, f)
	return nil
}

type packetSocket struct {
	f     *os.File
	index int
}

// readPackets counts what a socket hears until it is closed or ctx ends.
func (p *Probe) readPackets(ctx context.Context, s packetSocket) {
	stop := context.AfterFunc(ctx, func() { _ = s.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	c, err := s.f.SyscallConn()
	if err != nil {
		return
	}
	buf, oob := make([]byte, vnetHeader+packetHead), make([]byte, 128)
	for ctx.Err() == nil {
		var n, oobn int
		var from unix.Sockaddr
		var rerr error
		err := c.Read(func(fd uintptr) bool {
			n, oobn, _, from, rerr = unix.Recvmsg(int(fd), buf, oob, 0)
			return !errors.Is(rerr, unix.EAGAIN)
		})
		if err != nil {
			return // closed, or the end
		}
		if rerr != nil {
			if errors.Is(rerr, unix.ENETDOWN) || errors.Is(rerr, unix.EINTR) { // told once; the interface may come back
				continue
			}
			return
		}
		if f, ok := parsePacket(buf[:n], oob[:oobn], from); ok {
			f.index = s.index
			p.soft.count(&f, PacketRate)
		}
	}
}

// parsePacket reads what a packet socket gave.
func parsePacket(b, oob []byte, from unix.Sockaddr) (f frame, ok bool) {
	ll, isLL := from.(*unix.SockaddrLinklayer)
	if !isLL || len(b) < vnetHeader {
		return f, false
	}
	f.out = ll.Pkttype == unix.PACKET_OUTGOING
	if b[1] != 0 { // gso_type
		f.mss = int(binary.NativeEndian.Uint16(b[4:]))
	}
	f.b = b[vnetHeader:]
	f.len = len(f.b)
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return f, false
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < auxSize {
			continue
		}
		n := binary.NativeEndian
		f.len = int(n.Uint32(m.Data[4:]))
		if n.Uint32(m.Data)&statusVLAN != 0 {
			f.tagged, f.vlan = true, n.Uint16(m.Data[16:])&0xfff
		}
	}
	return f, true
}

// readLost returns how many frames rung Packet took since the last time, and how many of its choice found no room.
// Source: packet(7), PACKET_STATISTICS, which begins anew with each look.
func (a *attached) readLost() (got, lost uint64) {
	for _, h := range a.held {
		f, ok := h.(*os.File)
		if !ok || a.Method != Packet {
			continue
		}
		c, err := f.SyscallConn()
		if err != nil {
			continue
		}
		_ = c.Control(func(fd uintptr) {
			if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
				got, lost = got+uint64(st.Packets-st.Drops), lost+uint64(st.Drops)
			}
		})
	}
	return got, lost
}

// counters are an interface's own.
type counters struct{ inBytes, inFrames, outBytes, outFrames uint64 }

// readDev reads the counters of an interface. Source: proc(5), /proc/net/dev.
func readDev(name string) (counters, error) {
	b, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return counters{}, fmt.Errorf("cannot read the counters of interfaces: %w", err)
	}
	c, ok := parseDev(string(b), name)
	if !ok {
		return c, errors.New("the interface has no counters")
	}
	return c, nil
}

func parseDev(s, name string) (c counters, ok bool) {
	for line := range strings.Lines(s) {
		rest, found := strings.CutPrefix(strings.TrimSpace(line), name+":")
		f := strings.Fields(rest)
		if !found || len(f) < 10 {
			continue
		}
		for i, to := range map[int]*uint64{0: &c.inBytes, 1: &c.inFrames, 8: &c.outBytes, 9: &c.outFrames} {
			v, err := strconv.ParseUint(f[i], 10, 64)
			if err != nil {
				return c, false
			}
			*to = v
		}
		return c, true
	}
	return c, false
}

// readCounters adds what an interface at rung Counters counted since the last time. The first time says nothing.
func (p *Probe) readCounters(a *attached) {
	if a.Method != Counters {
		return
	}
	now, err := readDev(a.Interface)
	if err != nil {
		return // gone: Attach finds out
	}
	since := func(a, b uint64) uint64 { // a counter that fell began anew
		if b < a {
			return b
		}
		return b - a
	}
	if a.counted {
		in, out := since(a.last.inFrames, now.inFrames), since(a.last.outFrames, now.outFrames)
		p.soft.total(a.index, false, in, since(a.last.inBytes, now.inBytes)+4*in)
		p.soft.total(a.index, true, out, since(a.last.outBytes, now.outBytes)+4*out)
	}
	a.last, a.counted = now, true
}
