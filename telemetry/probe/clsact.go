package probe

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Handles of the places at which filters hang. Source: linux/pkt_sched.h, TC_H_CLSACT with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS.
const (
	clsactParent  = 0xfffffff1
	clsactHandle  = 0xffff0000
	clsactIngress = 0xfffffff2
	clsactEgress  = 0xfffffff3

	// Filters that look first at what comes in, and last at what goes out: as it is on the wire.
	firstPriority = 7
	lastPriority  = 0xc000
)

// Attributes of traffic control. Source: linux/rtnetlink.h, linux/pkt_cls.h.
const (
	tcaKind            = 1
	tcaOptions         = 2
	tcaBPFFD           = 6
	tcaBPFName         = 7
	tcaBPFFlags        = 8
	tcaBPFFlagDirect   = 1
	sizeOfTCMsg        = 20
	netlinkAnswerBytes = 8192
)

// putFilter makes a program look at what passes an interface: it replaces the one of the same handle in one step.
func putFilter(index int, parent, handle uint32, program int) error {
	err := request(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, tcMsg(index, clsactParent, clsactHandle, 0), attr(tcaKind, []byte("clsact\x00")))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot add qdisc clsact: %w", err)
	}
	u32 := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	options := append(append(attr(tcaBPFFD, u32(uint32(program))), attr(tcaBPFName, []byte("skerry\x00"))...), attr(tcaBPFFlags, u32(tcaBPFFlagDirect))...)
	err = request(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, tcMsg(index, parent, handle, filterInfo(parent)), attr(tcaKind, []byte("bpf\x00")), attr(tcaOptions, options))
	if err != nil {
		return fmt.Errorf("cannot add a filter: %w", err)
	}
	return nil
}

// delFilter removes the filter of a handle; the qdisc stays: others may use it.
func delFilter(index int, parent, handle uint32) error {
	return request(unix.RTM_DELTFILTER, 0, tcMsg(index, parent, handle, filterInfo(parent)), attr(tcaKind, []byte("bpf\x00")))
}

// filterInfo is priority and protocol (all) of a filter.
func filterInfo(parent uint32) uint32 {
	priority := uint32(firstPriority)
	if parent == clsactEgress {
		priority = lastPriority
	}
	return priority<<16 | uint32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)))
}

func tcMsg(index int, parent, handle, info uint32) []byte {
	b := make([]byte, 4, sizeOfTCMsg) // family AF_UNSPEC
	for _, v := range []uint32{uint32(index), handle, parent, info} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

func attr(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// request asks the kernel for one change, and waits for its word. Errors: the kernel's; ebpf.ErrNotSupported where it has no such thing.
func request(kind, flags uint16, parts ...[]byte) error {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot speak to the kernel: %w", err)
	}
	defer unix.Close(s)
	size := unix.SizeofNlMsghdr
	for _, p := range parts {
		size += len(p)
	}
	b := binary.NativeEndian.AppendUint32(nil, uint32(size))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = binary.NativeEndian.AppendUint64(b, 1) // sequence 1, port of the kernel's choice
	for _, p := range parts {
		b = append(b, p...)
	}
	if err := unix.Sendto(s, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("cannot speak to the kernel: %w", err)
	}
	answer := make([]byte, netlinkAnswerBytes)
	n, _, err := unix.Recvfrom(s, answer, 0)
	if err != nil {
		return fmt.Errorf("cannot hear the kernel: %w", err)
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel's answer does not read")
	}
	switch errno := unix.Errno(-int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:]))); errno {
	case 0:
		return nil
	case unix.ENOENT, unix.EOPNOTSUPP: // no such qdisc, no such classifier
		return fmt.Errorf("%w: %w", errno, ebpf.ErrNotSupported)
	default:
		return errno
	}
}
