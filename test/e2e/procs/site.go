package procs

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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/test/sim/netlab"
)

const (
	// reserve is small: these sites hold no assets, and CI's disks are small.
	reserve = "16777216"
	// comeUp bounds how long a site may take to stand; quiet it takes 3 s. A session whose end died without a word is found out
	// after up to 60 s.
	comeUp = 2 * time.Minute
)

// Site is a coordinator and agents, real processes on loopback, without boot addresses.
type Site struct {
	Token string            // the administrator's
	Addr  map[string]string // of the coordinator and of each agent, by name
	Procs map[string]*netlab.Proc

	tb  testing.TB
	dir string
	exe string
}

// FreeAddr finds a loopback port that is free now for TCP and UDP. Another process may take it before we do; then the
// benchmark fails and is run again.
func FreeAddr(tb testing.TB) string {
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

// New starts the coordinator of a new domain with site lon1 and project acme, and the named agents of it, with the program exe.
// All of them end with the test.
func New(tb testing.TB, exe string, agents ...string) *Site {
	tb.Helper()
	s := &Site{tb: tb, dir: tb.TempDir(), exe: exe, Addr: map[string]string{}, Procs: map[string]*netlab.Proc{}}
	for _, n := range append([]string{"coordinator"}, agents...) {
		s.Addr[n] = FreeAddr(tb)
	}
	out := s.CLI("coordinator", "init", "--data", s.Data("coordinator"), "--domain", "bench.example", "--addr", s.Addr["coordinator"], "-o", "json")
	var res map[string]string
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		tb.Fatal(err)
	}
	s.Token = res["token"]
	s.Coordinator()
	s.Apply(`{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"lon1"},"spec":{"region":"eu-west","zone":"london"}}`,
		`{"apiVersion":"skerry/v1","kind":"Project","metadata":{"name":"acme"},"spec":{"sites":["lon1"]}}`)
	for _, a := range agents {
		tok, err := s.API("coordinator").JoinToken(tb.Context(), "lon1", api.JoinTokenRequest{Agent: a})
		if err != nil {
			tb.Fatal(err)
		}
		s.Agent(a, "--join", tok.Token)
	}
	if len(agents) == 0 {
		return s
	}
	s.Until("all agents are at the head", func(ctx context.Context) bool {
		st, err := s.API("coordinator").SiteStatus(ctx, "lon1")
		return err == nil && Alive(st) == strings.Join(agents, " ") && st.Head == st.Published
	})
	return s
}

// Alive lists the agents of a status that are seen alive, by name, separated by spaces.
func Alive(st *api.SiteStatus) string {
	var out []string
	for _, a := range st.Agents {
		if a.Alive == "yes" {
			out = append(out, a.ID)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// Coordinator starts the coordinator and waits until it answers.
func (s *Site) Coordinator() {
	s.tb.Helper()
	s.Start("coordinator", "coordinator", "--listen", s.Addr["coordinator"], "--metrics", "", "--spread", "1s")
	s.Until("the coordinator answers", func(ctx context.Context) bool {
		_, err := s.API("coordinator").Whoami(ctx)
		return err == nil
	})
}

// Agent starts an agent.
func (s *Site) Agent(name string, args ...string) {
	s.tb.Helper()
	if s.Addr[name] == "" {
		s.Addr[name] = FreeAddr(s.tb)
	}
	s.Start(name, "agent", append([]string{"--management", s.Addr[name], "--spread", "100ms", "--max-backoff", "1s"}, args...)...)
}

// Kill ends a process without a word, and waits for it.
func (s *Site) Kill(name string) {
	s.tb.Helper()
	if err := s.Procs[name].Kill(); err != nil {
		s.tb.Fatal(err)
	}
	delete(s.Procs, name)
}

// Data is the directory of a process.
func (s *Site) Data(name string) string { return filepath.Join(s.dir, name) }

// CLI runs a command and returns what it prints; an error fails the test.
func (s *Site) CLI(args ...string) string {
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

// Start starts a process that ends with the test.
func (s *Site) Start(name, verb string, args ...string) {
	s.tb.Helper()
	log, err := os.OpenFile(s.Data(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.tb.Fatal(err)
	}
	p, err := netlab.StartProc(netlab.Command{
		Name: name, Path: s.exe, Output: log,
		Args: append([]string{verb, "--data", s.Data(name), "--reserve-bytes", reserve}, args...),
	})
	if err != nil {
		s.tb.Fatal(err)
	}
	s.Procs[name] = p
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

// API returns a client of the coordinator or of an agent.
func (s *Site) API(who string) *client.Client {
	s.tb.Helper()
	pem, err := os.ReadFile(filepath.Join(s.Data("coordinator"), "keys", "root.crt"))
	if err != nil {
		s.tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		s.tb.Fatal("no root certificate")
	}
	return client.New("https://"+s.Addr[who], s.Token, &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}, ForceAttemptHTTP2: true,
	})
}

// Apply applies documents at the coordinator.
func (s *Site) Apply(docs ...string) []api.Result {
	s.tb.Helper()
	raw := make([]json.RawMessage, len(docs))
	for i, d := range docs {
		raw[i] = json.RawMessage(d)
	}
	res, err := s.API("coordinator").Apply(s.tb.Context(), raw, false, "")
	if err != nil {
		s.tb.Fatal(err)
	}
	return res
}

// Until polls across processes, which have no event for it.
func (s *Site) Until(what string, cond func(context.Context) bool) {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(s.tb.Context(), comeUp)
	defer cancel()
	begun := time.Now()
	defer func() { s.tb.Logf("%.1f s until %s", time.Since(begun).Seconds(), what) }()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for !cond(ctx) {
		for name, p := range s.Procs {
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

// ResidentMB reads VmRSS.
func ResidentMB(tb testing.TB, pid int) float64 {
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
