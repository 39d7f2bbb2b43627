package snmp

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/sim/netlab"
)

const snmpdConf = `agentaddress udp:127.0.0.1:1161
rocommunity public-of-the-site 127.0.0.1
createUser watcher SHA-256 "authpassword" AES "privpassword"
rouser watcher priv
`

// TestPeer: Debian's snmpd, by 2c and by 3: interface counters are the kernel's, the host's memory too, a wrong password and a wrong
// community are refused.
func TestPeer(t *testing.T) {
	lab.Need(t, lab.Root, lab.Tool("snmpd", "snmpd"))
	l := lab.New(t)
	ns, err := l.Namespace("snmp")
	must(t, err)
	other, err := l.Namespace("far")
	must(t, err)
	for _, n := range []*netlab.Namespace{ns, other} { // or they send by themselves, between two looks at the counters
		must(t, n.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0) }))
	}
	must(t, l.Veth(ns, "e0", other, "e1"))
	must(t, ns.Addr("e0", "10.77.0.1/24"))
	must(t, ns.IP("neigh", "add", "10.77.0.2", "lladdr", "02:00:00:00:00:02", "dev", "e0"))
	traffic(t, ns, 40)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "snmpd.conf"), []byte(snmpdConf), 0o600))
	var log bytes.Buffer
	p, err := l.Start(netlab.Command{
		NS: ns, Path: "snmpd", Args: []string{"-f", "-C", "-c", filepath.Join(dir, "snmpd.conf"), "-Lo", "-I", "-smux", "-p", filepath.Join(dir, "pid")},
		Env: append(os.Environ(), "SNMP_PERSISTENT_DIR="+dir), Output: &log,
	})
	must(t, err)
	r := New()
	read := func(name string, to Target) (rr []Reading, err error) {
		to.Address = "127.0.0.1:1161"
		_ = ns.Do(func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			rr, err = r.Read(ctx, name, to)
			return nil
		})
		return rr, err
	}
	community := Target{Community: "public-of-the-site"}
	login := Target{User: "watcher", Auth: "authpassword", Priv: "privpassword"}
	var rr []Reading
	for deadline := time.Now().Add(time.Minute); ; { // until it listens: a closed port is told at once
		if rr, err = read("sw1", community); err == nil {
			break
		}
		select {
		case <-p.Done():
			t.Fatalf("snmpd ended: %s", log.String())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v\n%s", err, log.String())
		}
	}
	in, out, total := kernel(t, ns)
	for _, v := range []struct {
		name string
		rr   []Reading
	}{{"2c", rr}, {"3", func() []Reading { rr, err := read("sw1", login); must(t, err); return rr }()}} {
		for _, want := range []string{
			fmt.Sprintf("%s{direction=%q,port=%q} %d max 1.5625e+09/s", PortOctets, "in", "e0", in), fmt.Sprintf("%s{direction=%q,port=%q} %d max", PortOctets, "out", "e0", out),
			fmt.Sprintf("%s{port=%q} 1\n", PortUp, "e0"), fmt.Sprintf("%s{kind=%q} %.6g\n", Memory, "total", float64(total)), fmt.Sprintf("%s{minutes=%q} ", Load, "5"),
			fmt.Sprintf("%s{mode=%q} ", CPUTicks, "idle"),
		} {
			if !strings.Contains(text(v.rr), want) {
				t.Errorf("version %s: %q is not in\n%s", v.name, want, text(v.rr))
			}
		}
		if strings.Contains(text(v.rr), `port="lo"`) {
			t.Errorf("a loopback is no port")
		}
	}
	var before []byte
	r.dial = forged(func(b []byte) [][]byte { // of version 3 nothing that is not the device's is taken, once it is known
		m, ok := parseMessage(b)
		if !ok || m.engine == "" {
			return nil
		}
		out := append(mangled(b), b, before)
		before = b
		return out
	})
	if rr, err := read("sw1", login); err != nil || len(rr) == 0 || before == nil {
		t.Errorf("with somebody in between: %v, %d readings", err, len(rr))
	}
	if out < 40*1000 {
		t.Fatalf("%d octets of traffic", out)
	}
	r.dial = func(ctx context.Context, to Target) (session, error) { // silence, where it is to be, need not be long
		s, err := dial(ctx, to)
		if c, ok := s.(*client); ok && to.Priv != "privpassword" {
			c.g.Timeout = 250 * time.Millisecond
		}
		return s, err
	}
	for _, bad := range []Target{{Community: "public"}, {User: "watcher", Auth: "wrongpassword", Priv: "privpassword"}, {User: "nobody", Auth: "authpassword", Priv: "privpassword"}, {User: "watcher", Auth: "authpassword", Priv: "otherpassword"}} {
		if rr, err := read("bad", bad); err == nil || len(rr) > 0 {
			t.Errorf("%+v is let in", bad)
		} else {
			if want := map[bool]string{true: "does not take the user", false: "no answer"}[bad.User != "" && bad.Priv == "privpassword"]; !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", bad.User, err, want)
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// traffic sends n datagrams of 1,000 octets to nobody.
func traffic(t *testing.T, ns *netlab.Namespace, n int) {
	t.Helper()
	must(t, ns.Do(func() error {
		c, err := net.Dial("udp", "10.77.0.2:9")
		if err != nil {
			return err
		}
		defer c.Close()
		for range n {
			if _, err := c.Write(make([]byte, 1000)); err != nil {
				return err
			}
		}
		return nil
	}))
}

// kernel is what the kernel counted on e0, and its memory, in octets.
func kernel(t *testing.T, ns *netlab.Namespace) (in, out, total uint64) {
	t.Helper()
	dev, err := ns.Exec(t.Context(), "cat", "/proc/net/dev", "/proc/meminfo")
	must(t, err)
	for line := range strings.Lines(string(dev)) {
		f := strings.Fields(line)
		switch {
		case len(f) > 9 && f[0] == "e0:":
			in, _ = strconv.ParseUint(f[1], 10, 64)
			out, _ = strconv.ParseUint(f[9], 10, 64)
		case len(f) > 1 && f[0] == "MemTotal:":
			total, _ = strconv.ParseUint(f[1], 10, 64)
		}
	}
	return in, out, total * 1024
}
