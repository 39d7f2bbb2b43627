package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/sim/netlab"
)

const (
	exePath = "../../bin/skerry"
	// reserve is small: these sites hold no assets, and CI's disks are small.
	reserve = "16777216"
	// comeUp bounds how long a site may take to stand; quiet it takes 3 s.
	comeUp = 60 * time.Second
)

// site is a coordinator and two agents, real processes on loopback, without boot addresses.
type site struct {
	tb    testing.TB
	dir   string
	exe   string
	token string
	addr  map[string]string // coordinator, a1, a2
	procs map[string]*netlab.Proc
}

// freeAddr finds a loopback port that is free now for TCP and UDP. Another process may take it before we do; then the
// benchmark fails and is run again.
func freeAddr(tb testing.TB) string {
	tb.Helper()
	for range 20 {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		addr := ln.Addr().String()
		pc, uerr := net.ListenPacket("udp4", addr)
		ln.Close()
		if uerr == nil {
			pc.Close()
			return addr
		}
	}
	tb.Fatal("no port is free for both TCP and UDP")
	return ""
}

func newSite(tb testing.TB) *site {
	tb.Helper()
	lab.Need(tb, lab.Built(exePath, "build"))
	exe, err := filepath.Abs(exePath)
	if err != nil {
		tb.Fatal(err)
	}
	s := &site{tb: tb, dir: tb.TempDir(), exe: exe, addr: map[string]string{}, procs: map[string]*netlab.Proc{}}
	for _, n := range []string{"coordinator", "a1", "a2"} {
		s.addr[n] = freeAddr(tb)
	}
	out := s.cli("coordinator", "init", "--data", s.data("coordinator"), "--domain", "bench.example", "--addr", s.addr["coordinator"], "-o", "json")
	var res map[string]string
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		tb.Fatal(err)
	}
	s.token = res["token"]
	s.start("coordinator", "coordinator", "--listen", s.addr["coordinator"], "--spread", "1s")
	s.until("the coordinator answers", func(ctx context.Context) bool {
		_, err := s.api("coordinator").Whoami(ctx)
		return err == nil
	})
	s.apply(`{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"lon1"},"spec":{"region":"eu-west","zone":"london"}}`,
		`{"apiVersion":"skerry/v1","kind":"Project","metadata":{"name":"acme"},"spec":{"sites":["lon1"]}}`)
	for _, a := range []string{"a1", "a2"} {
		tok, err := s.api("coordinator").JoinToken(tb.Context(), "lon1", api.JoinTokenRequest{Agent: a})
		if err != nil {
			tb.Fatal(err)
		}
		s.start(a, "agent", "--management", s.addr[a], "--spread", "100ms", "--max-backoff", "1s", "--join", tok.Token)
	}
	s.until("both agents are at the head", func(ctx context.Context) bool {
		st, err := s.api("coordinator").SiteStatus(ctx, "lon1")
		return err == nil && len(st.Agents) == 2 && st.Agents[0].Alive == "yes" && st.Agents[1].Alive == "yes" && st.Head == st.Published
	})
	return s
}

func (s *site) data(name string) string { return filepath.Join(s.dir, name) }

func (s *site) cli(args ...string) string {
	s.tb.Helper()
	cmd := exec.Command(s.exe, args...)
	cmd.Env = append(os.Environ(), "SKERRY_CONFIG="+filepath.Join(s.dir, "config.yaml"))
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		s.tb.Fatalf("skerry %s: %v\n%s", args[0], err, errs.String())
	}
	return string(out)
}

func (s *site) start(name, verb string, args ...string) {
	s.tb.Helper()
	log, err := os.Create(s.data(name + ".log"))
	if err != nil {
		s.tb.Fatal(err)
	}
	p, err := netlab.StartProc(netlab.Command{
		Name: name, Path: s.exe, Output: log,
		Args: append([]string{verb, "--data", s.data(name), "--reserve-bytes", reserve}, args...),
	})
	if err != nil {
		s.tb.Fatal(err)
	}
	s.procs[name] = p
	s.tb.Cleanup(func() {
		if err := p.Stop(); err != nil {
			s.tb.Error(err)
		}
		log.Close()
		if s.tb.Failed() {
			b, _ := os.ReadFile(log.Name())
			s.tb.Logf("%s:\n%s", name, b[max(0, len(b)-3000):])
		}
	})
}

// api returns a client of the coordinator or of an agent.
func (s *site) api(who string) *client.Client {
	s.tb.Helper()
	pem, err := os.ReadFile(filepath.Join(s.data("coordinator"), "keys", "root.crt"))
	if err != nil {
		s.tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		s.tb.Fatal("no root certificate")
	}
	return client.New("https://"+s.addr[who], s.token, &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}, ForceAttemptHTTP2: true,
	})
}

func (s *site) apply(docs ...string) []api.Result {
	s.tb.Helper()
	raw := make([]json.RawMessage, len(docs))
	for i, d := range docs {
		raw[i] = json.RawMessage(d)
	}
	res, err := s.api("coordinator").Apply(s.tb.Context(), raw, false, "")
	if err != nil {
		s.tb.Fatal(err)
	}
	return res
}

// until polls across processes, which have no event for it.
func (s *site) until(what string, cond func(context.Context) bool) {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(s.tb.Context(), comeUp)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for !cond(ctx) {
		for name, p := range s.procs {
			select {
			case <-p.Done():
				s.tb.Fatalf("%s ended while waiting until %s", name, what)
			default:
			}
		}
		select {
		case <-ctx.Done():
			s.tb.Fatalf("not within %v: %s", comeUp, what)
		case <-t.C:
		}
	}
}

// residentMB reads VmRSS.
func residentMB(tb testing.TB, pid int) float64 {
	tb.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kb := 0
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		tb.Fatal(err)
	}
	return float64(kb) * 1024 / 1e6
}
