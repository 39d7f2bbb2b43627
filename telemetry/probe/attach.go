package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Method is a way to count: a rung of the ladder.
type Method string

// The rungs, the best first, and what else a configuration may say.
const (
	TCX      Method = "tcx"      // Linux 6.6
	Clsact   Method = "clsact"   // cls_bpf in direct action at qdisc clsact
	XDP      Method = "xdp"      // generic; what comes in only
	Cgroup   Method = "cgroup"   // what one service sends
	Packet   Method = "packet"   // AF_PACKET, 1 in PacketRate, all else as the ones above
	Counters Method = "counters" // of the interface: no addresses
	Auto     Method = "auto"
	Off      Method = "off"
)

// Ladder returns the rungs in the order in which Auto tries them.
func Ladder() []Method { return []Method{TCX, Clsact, XDP, Cgroup, Packet, Counters} }

// ParseMethod reads a method of a configuration. Errors: a text that names them all.
func ParseMethod(s string) (Method, error) {
	if all := append(Ladder(), Auto, Off); s != "" && !slices.Contains(all, Method(s)) {
		return "", fmt.Errorf("cannot count by %.40q: use %v", s, all)
	}
	return Method(s), nil
}

// State is where an interface stands.
type State struct {
	Interface string
	Method    Method // Off: nothing counts
	Why       string // it is off, or not where it should be
	// In and Out tell whether every frame that comes in, and that goes out, is counted by whose it is.
	In, Out bool
}

// String is the state as one line.
func (s *State) String() string {
	if s.Why == "" {
		return s.Interface + ": " + string(s.Method)
	}
	return fmt.Sprintf("%s: %s (%s)", s.Interface, s.Method, s.Why)
}

// ErrPermission says that the kernel could count, and does not let this process.
var ErrPermission = errors.New("not permitted")

// attached is an interface at its rung.
type attached struct {
	State
	index   int
	held    []io.Closer // links; closing one that is not pinned detaches it
	pinned  bool
	last    counters
	counted bool // last is of this interface
}

// Attach makes the Probe stand at exactly these interfaces, and returns how it does. It is called again whenever that may have changed: an
// interface that comes back is another one.
func (p *Probe) Attach(names []string) []State {
	if p.cfg.Method == Off || len(names) == 0 {
		names = nil
	} else if p.kernel == nil {
		p.open() // again, if it did not load: memory may be there by now
	}
	p.names = names
	for name, a := range p.at {
		if a.index != indexOf(name) || !slices.Contains(names, name) {
			delete(p.at, name)
			p.pass(a)
			if err := p.detach(a); err != nil {
				p.cfg.Log.Warn("the probe leaves something at an interface", "interface", name, "err", err)
			}
		}
	}
	states := make([]State, 0, len(names))
	for _, name := range names {
		if p.at[name] == nil {
			if a, s := p.attach(name); a != nil {
				p.at[name] = a
			} else {
				states = append(states, s)
				continue
			}
		}
		states = append(states, p.at[name].State)
	}
	if dir := p.cfg.Dir; dir != "" && (p.swept == nil || !slices.Equal(p.swept, names)) {
		p.swept = append([]string{}, names...)
		sweep(dir, func(m Method, index int) bool {
			for _, a := range p.at {
				if a.index == index && a.Method == m {
					return true
				}
			}
			return m == Cgroup && index == 0 && slices.ContainsFunc(states, func(s State) bool { return s.Method == Cgroup })
		})
		if len(names) == 0 && p.kernel == nil {
			forget(dir)
		}
	}
	p.states.Store(&states)
	return states
}

// forget takes the maps away too, once nothing is to be counted.
func forget(dir string) {
	if _, err := os.Stat(dir); err == nil && onBPFFS(dir) == nil {
		_ = os.RemoveAll(dir) // what stays costs memory only
	}
}

// States returns what Attach returned last.
func (p *Probe) States() []State { return *p.states.Load() }

// open loads the kernel's part. Where it does not load, only what needs none of it is left.
func (p *Probe) open() {
	k, unpinned, err := openKernel(p.cfg.Dir)
	if p.broken = err; err != nil {
		return
	}
	if k.life != 0 && k.life != p.cfg.Memory.Life { // of an agent whose readings are not ours to go on from
		if err := errors.Join(k.maps.Close(), k.unpin(), k.open()); err != nil {
			p.broken = errors.Join(fmt.Errorf("cannot begin anew: %w", err), k.close())
			return
		}
	}
	if k.life == 0 {
		p.anew = p.cfg.Memory.Life != 0
		p.slots = newSlots(nil)
	} else {
		p.slots = newSlots(p.cfg.Memory.Slots)
	}
	if err := k.begin(); err != nil {
		p.broken = errors.Join(fmt.Errorf("cannot begin: %w", err), k.close())
		return
	}
	if unpinned != nil {
		p.cfg.Log.Warn("the probe's counts end with the agent", "err", unpinned)
	}
	p.kernel, p.loaded = k, nil
	p.stats.Store(k.maps.Stats)
}

// attach goes down the ladder.
func (p *Probe) attach(name string) (*attached, State) {
	off := State{Interface: name, Method: Off}
	a := &attached{State: State{Interface: name}, index: indexOf(name)}
	if a.index == 0 {
		off.Why = "there is no such interface"
		return nil, off
	}
	if under := p.under(a.index); under != "" {
		off.Why = "its frames pass " + under + " too, and count there"
		return nil, off
	}
	rungs := Ladder()
	if p.cfg.Method != Auto {
		rungs = []Method{p.cfg.Method}
	}
	var passed []string
	for _, m := range rungs {
		a.Method = m
		err := p.try(a)
		switch {
		case err == nil:
			if len(passed) > 0 {
				a.Why = strings.Join(passed, "; ")
			}
			if a.Why == "" && !a.pinned && m != Packet && m != Counters {
				a.Why = "not pinned: it ends with the agent"
			}
			return a, State{}
		case errors.Is(err, ebpf.ErrNotSupported):
			passed = append(passed, string(m)+" is not supported here")
		default:
			off.Why = fmt.Sprintf("%s: %v", m, err)
			return nil, off
		}
	}
	off.Why = strings.Join(passed, "; ")
	return nil, off
}

// under returns which of the interfaces that are counted carries what passes the one of index: a port of it, if that is a bridge or a bond, or
// the one below, if it is a VLAN. Source: rtnetlink(7), IFLA_MASTER, IFLA_LINK.
func (p *Probe) under(index int) string {
	rib, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return ""
	}
	msgs, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return ""
	}
	listed := map[int]string{}
	for _, name := range p.names {
		listed[indexOf(name)] = name
	}
	for _, m := range msgs {
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil || m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		self := int(int32(binary.NativeEndian.Uint32(m.Data[4:])))
		for _, a := range attrs {
			if len(a.Value) != 4 {
				continue
			}
			other := int(binary.NativeEndian.Uint32(a.Value))
			switch {
			case a.Attr.Type == unix.IFLA_MASTER && other == index && listed[self] != "":
				return listed[self]
			case a.Attr.Type == unix.IFLA_LINK && self == index && other != index && listed[other] != "" && !foreign(attrs):
				return listed[other]
			}
		}
	}
	return ""
}

// foreign tells whether the link below is of another namespace, as that of a veth is: its index says nothing here.
func foreign(attrs []syscall.NetlinkRouteAttr) bool {
	return slices.ContainsFunc(attrs, func(a syscall.NetlinkRouteAttr) bool {
		return a.Attr.Type == unix.IFLA_LINK_NETNSID || a.Attr.Type == unix.IFLA_LINKINFO && bytes.Contains(a.Value, []byte("veth"))
	})
}

// rung attaches a by its Method. Errors: ebpf.ErrNotSupported leads on, ErrPermission and all else do not.
func (p *Probe) rung(a *attached) error {
	var err error
	switch a.Method {
	case TCX, Clsact, XDP, Cgroup:
		if err = p.broken; err == nil {
			err = p.bpf(a)
		}
	case Packet:
		err = p.openPacket(a)
	case Counters:
		_, err = readDev(a.Interface)
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) && missing() != "" {
		if m := missing(); m != "" {
			return fmt.Errorf("%w: %s is missing", ErrPermission, m)
		}
		return fmt.Errorf("%w: %w", ErrPermission, err)
	}
	if err == nil {
		a.In = a.Method == TCX || a.Method == Clsact || a.Method == XDP || a.Method == Packet
		a.Out = a.Method == TCX || a.Method == Clsact || a.Method == Packet
	}
	return err
}

// hook is one place at which a program is attached.
type hook struct {
	way, program string
	attach       func(*ebpf.Program) (link.Link, error)
}

// bpf attaches the programs of a rung, both or none.
func (p *Probe) bpf(a *attached) error {
	if a.Method == Clsact {
		return p.clsact(a)
	}
	var hooks []hook
	index := a.index
	switch a.Method {
	case TCX: // first of what looks at what comes in, last at what goes out: as it is on the wire
		hooks = []hook{
			{"in", countProgTcIn, func(g *ebpf.Program) (link.Link, error) {
				return link.AttachTCX(link.TCXOptions{Interface: index, Program: g, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
			}},
			{"out", countProgTcOut, func(g *ebpf.Program) (link.Link, error) {
				return link.AttachTCX(link.TCXOptions{Interface: index, Program: g, Attach: ebpf.AttachTCXEgress, Anchor: link.Tail()})
			}},
		}
	case XDP:
		hooks = []hook{{"in", countProgXdpIn, func(g *ebpf.Program) (link.Link, error) {
			return link.AttachXDP(link.XDPOptions{Interface: index, Program: g, Flags: link.XDPGenericMode})
		}}}
	case Cgroup:
		for _, o := range p.at {
			if o.Method == Cgroup { // one attachment counts for every interface
				a.pinned = o.pinned
				return nil
			}
		}
		dir, err := p.cgroup()
		if err != nil {
			return err
		}
		index = 0
		hooks = []hook{{"out", countProgCgroupOut, func(g *ebpf.Program) (link.Link, error) {
			return link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInetEgress, Program: g})
		}}}
	}
	for _, h := range hooks {
		if err := p.hang(a, h, index); err != nil {
			return errors.Join(err, p.detach(a))
		}
	}
	return nil
}

// hang attaches one program; where an earlier life pinned an attachment, it gets the program of this one, and counts no frame less.
func (p *Probe) hang(a *attached, h hook, index int) error {
	g, err := p.kernel.program(h.program)
	if err != nil {
		return err
	}
	pin := ""
	if p.kernel.dir != "" {
		pin = linkPin(p.kernel.dir, a.Method, index, h.way)
		if l, err := link.LoadPinnedLink(pin, nil); err == nil {
			if err = l.Update(g); err == nil {
				a.held, a.pinned = append(a.held, l), true
				return nil
			}
			_ = l.Close()
			_ = os.Remove(pin) // of an interface that is gone
		}
	}
	l, err := h.attach(g)
	if err != nil {
		return err
	}
	a.held = append(a.held, l)
	if pin != "" {
		if err := l.Pin(pin); err != nil {
			if !errors.Is(err, ebpf.ErrNotSupported) {
				return fmt.Errorf("cannot pin: %w", err)
			}
			return nil
		}
		a.pinned = true
	}
	return nil
}

// clsact attaches by filters. They outlive a process by themselves; without pins their maps do not.
func (p *Probe) clsact(a *attached) error {
	for parent, program := range map[uint32]string{clsactIngress: countProgTcIn, clsactEgress: countProgTcOut} {
		g, err := p.kernel.program(program)
		if err == nil {
			err = putFilter(a.index, parent, p.kernel.called, g.FD())
		}
		if err != nil {
			return errors.Join(err, p.detach(a))
		}
	}
	a.pinned = p.kernel.dir != ""
	return nil
}

// detach ends what counts at a, pinned or not.
func (p *Probe) detach(a *attached) error {
	var errs []error
	if p.kernel != nil {
		if a.Method == Clsact {
			for _, parent := range []uint32{clsactIngress, clsactEgress} {
				_ = delFilter(a.index, parent, p.kernel.called) // went with its interface, or was never there
			}
		}
		if dir := p.kernel.dir; dir != "" && a.Method != Cgroup {
			for _, way := range []string{"in", "out"} {
				if err := os.Remove(linkPin(dir, a.Method, a.index, way)); err != nil && !errors.Is(err, os.ErrNotExist) {
					errs = append(errs, err)
				}
			}
		}
	}
	for _, c := range a.held {
		errs = append(errs, c.Close())
	}
	a.held = nil
	return errors.Join(errs...)
}

// pass hands the one attachment of rung Cgroup on to another interface that counts by it, when the one that holds it goes.
func (p *Probe) pass(a *attached) {
	for _, o := range p.at {
		if a.Method == Cgroup && o.Method == Cgroup {
			o.held, a.held = append(o.held, a.held...), nil
		}
	}
}

// let lets go of a at the end of a life.
func (a *attached) let(p *Probe) error {
	if !a.pinned {
		return p.detach(a)
	}
	var errs []error
	for _, c := range a.held {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// cgroup returns the directory whose traffic counts: that of this process, if it is told none.
func (p *Probe) cgroup() (string, error) {
	if p.cfg.Cgroup != "" {
		return p.cfg.Cgroup, nil
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("cannot tell the control group: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			var st unix.Statfs_t
			if unix.Statfs(root, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
				return filepath.Join(root, path), nil
			}
		}
	}
	return "", fmt.Errorf("no control group of version 2: %w", ebpf.ErrNotSupported)
}

// handleOf is the handle of a directory's filters: several agents on one host leave each other's alone.
func handleOf(dir string) uint32 { return crc32.ChecksumIEEE([]byte(dir))>>1 | 1 }
