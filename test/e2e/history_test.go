package e2e

import (
	"context"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/e2e/procs"
	"github.com/skerry-metal/skerry/test/sim/netlab"
)

// TestHistory: the sensors of a machine's BMC are read and kept, and answered through the coordinator; with the coordinator gone by each
// agent; after an agent was killed as before. A machine that is removed takes its series along. Real processes.
func TestHistory(t *testing.T) {
	t.Parallel() // it mostly waits
	s := procs.New(t, buildSkerry(t), "a1", "a2")
	const password = "history-password"
	controller, addr := rackBMC(t, password)
	s.Apply(`{"apiVersion":"skerry/v1","kind":"Secret","metadata":{"name":"bmc","site":"lon1"},"spec":{"type":"bmc","data":{"username":"root","password":"` + password + `"}}}`)
	s.Apply(`{"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":"m1","site":"lon1"},"spec":{"bmc":{"address":"` + addr + `","protocol":"redfish","secret":"bmc"},"nics":[{"mac":"52:54:00:88:00:01"}]}}`)
	kept := func(who string) func(context.Context) bool {
		return func(ctx context.Context) bool {
			l, err := s.API(who).Series(ctx, "lon1", url.Values{"match": {"skerry_bmc_temperature_celsius"}})
			return err == nil && len(l.Series) == 3 && l.Agents["a1"] == "ok" && l.Agents["a2"] == "ok"
		}
	}
	s.Until("the machine's temperatures are kept", kept("coordinator"))
	if n := controller.Sessions(); n > 1 {
		t.Errorf("%d sessions at the BMC", n)
	}
	s.Kill("coordinator")
	s.Until("a1 answers with nobody above", kept("a1"))
	s.Until("a2 answers, too", kept("a2"))
	s.Kill("a1")
	s.Agent("a1")
	s.Until("the site answers after its owner was killed", kept("a2"))
	s.Coordinator()
	s.Until("the coordinator asks again", kept("coordinator"))
	info, _ := intent.KindMachine.Info()
	s.Until("the machine can be removed", func(ctx context.Context) bool {
		_, err := s.API("coordinator").Delete(ctx, info, "lon1", "m1", false, "")
		return err == nil || client.Is(err, 404)
	})
	s.Until("its series are gone", func(ctx context.Context) bool {
		l, err := s.API("a1").Series(ctx, "lon1", url.Values{})
		return err == nil && len(l.Series) == 0
	})
}

// TestSNMP: what Debian's snmpd says, by version 3 with a sealed secret, is kept by one agent of the site and answered by all; a switch that is removed takes its series along. Real processes.
func TestSNMP(t *testing.T) {
	t.Parallel() // it mostly waits
	lab.Need(t, lab.Tool("snmpd", "snmpd"))
	dir := t.TempDir()
	addr := freeUDP(t)
	conf := "agentaddress udp:" + addr + "\ncreateUser watcher SHA-256 \"authpassword\" AES \"privpassword\"\nrouser watcher priv\n"
	if err := os.WriteFile(filepath.Join(dir, "snmpd.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := netlab.StartProc(netlab.Command{
		Path: "snmpd", Args: []string{"-f", "-C", "-c", filepath.Join(dir, "snmpd.conf"), "-Lf", filepath.Join(dir, "log"), "-I", "-smux", "-p", filepath.Join(dir, "pid")},
		Env: append(os.Environ(), "SNMP_PERSISTENT_DIR="+dir),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	s := procs.New(t, buildSkerry(t), "a1", "a2")
	s.Apply(`{"apiVersion":"skerry/v1","kind":"Secret","metadata":{"name":"watch","site":"lon1"},"spec":{"type":"snmp","data":{"username":"watcher","auth-password":"authpassword","priv-password":"privpassword"}}}`)
	s.Apply(`{"apiVersion":"skerry/v1","kind":"Switch","metadata":{"name":"sw1","site":"lon1"},"spec":{"snmp":{"address":"` + addr + `","version":"3","secret":"watch"}}}`)
	for _, who := range []string{"coordinator", "a1", "a2"} {
		s.Until("the switch's load is answered by "+who, func(ctx context.Context) bool {
			l, err := s.API(who).Series(ctx, "lon1", url.Values{"match": {`skerry_snmp_load_average{switch="sw1"}`}})
			return err == nil && len(l.Series) == 3 && l.Agents["a1"] == "ok" && l.Agents["a2"] == "ok"
		})
	}
	info, _ := intent.KindSwitch.Info()
	if _, err := s.API("coordinator").Delete(t.Context(), info, "lon1", "sw1", false, ""); err != nil {
		t.Fatal(err)
	}
	s.Until("its series are gone", func(ctx context.Context) bool {
		l, err := s.API("a1").Series(ctx, "lon1", url.Values{})
		return err == nil && len(l.Series) == 0
	})
}

// freeUDP returns a free port of this machine's loopback.
func freeUDP(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().String()
}
