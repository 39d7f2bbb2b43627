package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Switch is Open vSwitch in a namespace, a process that forwards: kernels without its datapath do, and its sFlow is that of real switches.
// It needs Debian's openvswitch-switch.
type Switch struct {
	ns     *Namespace
	dir    string
	bridge string
}

// ovsTimeout bounds one call of its tools, which wait for its processes.
const ovsTimeout = 30 * time.Second

// Switch starts one with a bridge in ns; its files and logs go to dir, whose path must be short enough for sockets. The bridge's own port, named
// like it, is a link of ns, up. Close stops it.
func (l *Lab) Switch(ns *Namespace, dir, bridge string) (*Switch, error) {
	s := &Switch{ns: ns, dir: dir, bridge: bridge}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make directory of switch %s: %w", bridge, err)
	}
	conf, db := filepath.Join(dir, "conf.db"), s.db()
	if err := s.run("ovsdb-tool", "create", conf, "/usr/share/openvswitch/vswitch.ovsschema"); err != nil {
		return nil, err
	}
	for _, p := range [][]string{
		{"ovsdb-server", conf, "--remote=p" + db, "--unixctl=" + filepath.Join(dir, "db.ctl"), "--log-file=" + filepath.Join(dir, "db.log")},
		{"ovs-vswitchd", db, "--disable-system", "--unixctl=" + filepath.Join(dir, "sw.ctl"), "--log-file=" + filepath.Join(dir, "sw.log")},
	} {
		if _, err := l.Start(Command{NS: ns, Path: p[0], Args: p[1:], Env: s.env()}); err != nil {
			return nil, err
		}
	}
	err := s.ctl("--retry", "--no-wait", "init")
	return s, errors.Join(err, s.ctl("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev"), ns.IP("link", "set", bridge, "up"))
}

// Port puts a link of the namespace into the bridge. Whoever sends on its other end must finish checksums by itself: see Finish.
func (s *Switch) Port(link string) error { return s.ctl("add-port", s.bridge, link) }

// SFlow has 1 in n packets sampled and told to the collectors (ADDRESS:PORT), with counters every second. The agent's address is the first one of
// the bridge's own port.
func (s *Switch) SFlow(n int, collectors ...string) error {
	return s.ctl("--", "--id=@s", "create", "sflow", "agent="+s.bridge, `target=["`+strings.Join(collectors, `","`)+`"]`, "header=128",
		fmt.Sprintf("sampling=%d", n), "polling=1", "--", "set", "bridge", s.bridge, "sflow=@s")
}

// Finish makes a link's sender finish its checksums: a switch that is a process forwards packets as they are.
func (n *Namespace) Finish(link string) error {
	ctx, cancel := context.WithTimeout(context.Background(), ipTimeout)
	defer cancel()
	_, err := n.Exec(ctx, "ethtool", "-K", link, "tx", "off")
	return err
}

// Index returns the ifIndex of a link.
func (n *Namespace) Index(link string) (uint32, error) {
	ctx, cancel := context.WithTimeout(context.Background(), ipTimeout)
	defer cancel()
	out, err := n.Exec(ctx, "ip", "-o", "link", "show", link)
	if err != nil {
		return 0, err
	}
	number, _, _ := strings.Cut(strings.TrimSpace(string(out)), ":")
	i, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("cannot read index of %s: %w", link, err)
	}
	return uint32(i), nil
}

func (s *Switch) db() string { return "unix:" + filepath.Join(s.dir, "db.sock") }

func (s *Switch) env() []string {
	return append(os.Environ(), "OVS_RUNDIR="+s.dir, "OVS_LOGDIR="+s.dir, "OVS_DBDIR="+s.dir)
}

func (s *Switch) ctl(args ...string) error {
	return s.run("ovs-vsctl", append([]string{"--db=" + s.db(), "--timeout=20"}, args...)...)
}

func (s *Switch) run(path string, args ...string) error {
	p, err := StartProc(Command{NS: s.ns, Path: path, Args: args, Env: s.env()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), ovsTimeout)
	defer cancel()
	return errors.Join(p.Wait(ctx), p.Stop())
}
