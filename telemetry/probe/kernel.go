package probe

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// kernel is the maps in the kernel, and the programs that were loaded over them.
type kernel struct {
	spec   *ebpf.CollectionSpec
	maps   countMaps
	progs  map[string]*ebpf.Program
	dir    string // of pins; empty: nothing is pinned
	life   uint64
	called uint32 // handle of its filters: of this directory alone
}

// openKernel finds the maps of an earlier life, or makes new ones. pinned tells why it is not, where nothing can be.
func openKernel(dir string) (k *kernel, unpinned error, err error) {
	spec, err := loadCount()
	if err != nil {
		return nil, nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil { // below Linux 5.11 maps count against it
		return nil, nil, fmt.Errorf("cannot raise RLIMIT_MEMLOCK: %w", err)
	}
	k = &kernel{spec: spec, progs: map[string]*ebpf.Program{}, called: handleOf(dir)}
	if unpinned = onBPFFS(dir); unpinned == nil {
		k.dir = dir
	}
	if err = k.open(); errors.Is(err, ebpf.ErrMapIncompatible) { // of another layout
		if err = k.unpin(); err == nil {
			err = k.open()
		}
	}
	if err != nil {
		return nil, unpinned, fmt.Errorf("cannot make maps: %w", err)
	}
	return k, unpinned, nil
}

func (k *kernel) open() error {
	opts := ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: k.dir}}
	maps := &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{}, Types: k.spec.Types, ByteOrder: k.spec.ByteOrder}
	for name, m := range k.spec.Maps {
		m = m.Copy()
		if k.dir != "" {
			m.Pinning = ebpf.PinByName
		}
		maps.Maps[name] = m
	}
	if err := maps.LoadAndAssign(&k.maps, &opts); err != nil {
		return err
	}
	var c countConfig
	if err := k.maps.Config.Lookup(uint32(0), &c); err != nil {
		return err
	}
	k.life = c.Life
	return nil
}

// begin gives new maps their name.
func (k *kernel) begin() error {
	if k.life == 0 {
		var b [8]byte
		rand.Read(b[:])
		k.life = binary.NativeEndian.Uint64(b[:]) | 1
	}
	return k.maps.Config.Put(uint32(0), &countConfig{Life: k.life})
}

// program loads a program over the maps, once.
func (k *kernel) program(name string) (*ebpf.Program, error) {
	if p := k.progs[name]; p != nil {
		return p, nil
	}
	one := &ebpf.CollectionSpec{Maps: k.spec.Maps, Programs: map[string]*ebpf.ProgramSpec{name: k.spec.Programs[name]}, Types: k.spec.Types, ByteOrder: k.spec.ByteOrder}
	m := &k.maps
	c, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		countMapConfig: m.Config, countMapCounts: m.Counts, countMapHosts: m.Hosts, countMapIfaces: m.Ifaces, countMapStats: m.Stats, countMapSubnets: m.Subnets,
	}})
	if err != nil {
		return nil, fmt.Errorf("cannot load %s: %w", name, err)
	}
	defer c.Close()
	p := c.DetachProgram(name)
	k.progs[name] = p
	return p, nil
}

func (k *kernel) close() error {
	var errs []error
	for _, p := range k.progs {
		errs = append(errs, p.Close())
	}
	return errors.Join(append(errs, k.maps.Close())...)
}

// unpin forgets an earlier life: its maps, and by them its attachments, which end when nobody holds them.
func (k *kernel) unpin() error {
	if k.dir == "" {
		return nil
	}
	dropFilters(k.dir, nil)
	if err := os.RemoveAll(k.dir); err != nil {
		return fmt.Errorf("cannot unpin %s: %w", k.dir, err)
	}
	return os.MkdirAll(k.dir, 0o700)
}

// linkPin names the pin of an attachment.
func linkPin(dir string, m Method, index int, way string) string {
	return filepath.Join(dir, fmt.Sprintf("link-%s-%d-%s", m, index, way))
}

// parseLinkPin is the other way round.
func parseLinkPin(name string) (m Method, index int, ok bool) {
	f := strings.Split(name, "-")
	if len(f) != 4 || f[0] != "link" {
		return "", 0, false
	}
	n, err := strconv.Atoi(f[2])
	return Method(f[1]), n, err == nil
}

// sweep takes away what earlier lives attached and keep does not name. A pin of a filter is only a mark: the filter is netlink's.
func sweep(dir string, keep func(m Method, index int) bool) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, f := range files {
		if m, n, ok := parseLinkPin(f.Name()); ok && !keep(m, n) {
			_ = os.Remove(filepath.Join(dir, f.Name())) // the kernel detaches what nobody holds
		}
	}
	dropFilters(dir, keep)
}

// dropFilters removes this directory's filters from every interface that the maps in it name.
func dropFilters(dir string, keep func(m Method, index int) bool) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, countMapIfaces), nil)
	if err != nil {
		return
	}
	defer m.Close()
	var k countInterfaceKey
	var v countInterface
	for it := m.Iterate(); it.Next(&k, &v); {
		if keep == nil || !keep(Clsact, int(k.Ifindex)) {
			for _, parent := range []uint32{clsactIngress, clsactEgress} {
				_ = delFilter(int(k.Ifindex), parent, handleOf(dir)) // mostly there is none
			}
		}
	}
}

// onBPFFS makes dir, and tells why it can hold no pins.
func onBPFFS(dir string) error {
	if dir == "" {
		return errors.New("no directory is named")
	}
	at := dir
	for at != "/" && at != "." {
		if _, err := os.Stat(at); err == nil {
			break
		}
		at = filepath.Dir(at)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return fmt.Errorf("cannot look at %s: %w", at, err)
	}
	if uint32(st.Type) != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is no bpffs (mount -t bpf bpf /sys/fs/bpf)", at)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make a directory of pins: %w", err)
	}
	return nil
}

// missing names the capabilities that this process lacks of those that a probe needs. Source: capabilities(7), proc(5).
func missing() string {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), "CapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	eff, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return ""
	}
	has := func(c int) bool { return eff&(1<<c) != 0 }
	var out []string
	for _, c := range []struct {
		bit   int
		name  string
		admin bool // CAP_SYS_ADMIN stands for it
	}{{unix.CAP_BPF, "CAP_BPF", true}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", false}, {unix.CAP_PERFMON, "CAP_PERFMON", true}} {
		if !has(c.bit) && !(c.admin && has(unix.CAP_SYS_ADMIN)) {
			out = append(out, c.name)
		}
	}
	return strings.Join(out, ", ")
}
