package etcd

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/test/e2e/lab"
)

// Need skips t without Debian's etcd-server.
func Need(t testing.TB) {
	t.Helper()
	lab.Need(t, lab.Tool("etcd", "etcd-server"))
}

// Limits are the flags that Skerry asks of each member.
func Limits() []string { return []string{"--max-txn-ops=4096", "--max-request-bytes=4194304"} }

// Cluster is a number of members.
type Cluster struct {
	members []*member
}

type member struct {
	name    string
	args    []string
	client  string // URL
	metrics string // URL, without TLS
	log     string
	link    *link
	cmd     *exec.Cmd
	pid     atomic.Int64  // 0 = does not run
	gone    chan struct{} // closed when cmd has ended
}

// startLimit is far above the 1 to 3 s that a cluster takes on a busy machine of two cores.
const startLimit = 60 * time.Second

// New starts n members with the given flags and waits until each serves. They end with the test.
func New(t testing.TB, n int, flags ...string) *Cluster {
	t.Helper()
	Need(t)
	c, err := Start(t.TempDir(), n, flags...)
	t.Cleanup(c.Close)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Start is New without a test. The caller closes the cluster, also after an error.
func Start(dir string, n int, flags ...string) (*Cluster, error) {
	c := &Cluster{}
	var initial []string
	scheme := "http://"
	if slices.Contains(flags, "--cert-file") {
		scheme = "https://"
	}
	for i := range n {
		var port [3]string // clients, peers, health
		for i := range port {
			var err error
			if port[i], err = freePort(); err != nil {
				return c, err
			}
		}
		peer := port[1]
		link, err := newLink(peer, c.pidOf)
		if err != nil {
			return c, err
		}
		m := &member{name: fmt.Sprintf("m%d", i), client: scheme + port[0], metrics: "http://" + port[2], log: filepath.Join(dir, fmt.Sprintf("m%d.log", i)), link: link}
		own := "http://" + link.ln.Addr().String()
		initial = append(initial, m.name+"="+own)
		m.args = append([]string{
			"--name", m.name, "--data-dir", filepath.Join(dir, m.name), "--listen-client-urls", m.client, "--advertise-client-urls", m.client,
			"--listen-peer-urls", "http://" + peer, "--initial-advertise-peer-urls", own, "--heartbeat-interval", "100", "--election-timeout", "1000",
			"--listen-metrics-urls", m.metrics, "--logger", "zap", "--log-level", "warn",
		}, flags...)
		c.members = append(c.members, m)
	}
	for _, m := range c.members {
		m.args = append(m.args, "--initial-cluster", strings.Join(initial, ","), "--initial-cluster-token", "skerry-test")
		if err := m.launch(); err != nil {
			return c, err
		}
	}
	for _, m := range c.members {
		if err := m.wait(); err != nil {
			return c, err
		}
	}
	return c, nil
}

// Close kills what runs.
func (c *Cluster) Close() {
	for i := range c.members {
		c.Kill(i)
	}
	for _, m := range c.members {
		m.link.close()
	}
}

func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("cannot find a port: %w", err)
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// Endpoints returns the clients' URLs.
func (c *Cluster) Endpoints() []string {
	var out []string
	for _, m := range c.members {
		out = append(out, m.client)
	}
	return out
}

// Kill ends member i with SIGKILL and waits until it is gone; its data stay. A member that does not run is left.
func (c *Cluster) Kill(i int) {
	m := c.members[i]
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Kill() // it may have ended by itself
	<-m.gone
	m.cmd = nil
	m.pid.Store(0)
}

// Restart starts member i again and waits until it serves.
func (c *Cluster) Restart(i int) error {
	if err := c.members[i].launch(); err != nil {
		return err
	}
	return c.members[i].wait()
}

func (m *member) launch() error {
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot start etcd: %w", err)
	}
	defer log.Close()
	cmd := exec.Command("etcd", m.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH=arm64") // etcd 3.4 asks for it there
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start etcd: %w", err)
	}
	gone := make(chan struct{})
	go func() { defer close(gone); _ = cmd.Wait() }() // Kill waits for it
	m.cmd, m.gone = cmd, gone
	m.pid.Store(int64(cmd.Process.Pid))
	return nil
}

// wait asks for the member's health, which includes that it knows a leader.
func (m *member) wait() error {
	client := http.Client{Timeout: time.Second}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); {
		if res, err := client.Get(m.metrics + "/health"); err == nil {
			_ = res.Body.Close() // the status says all
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-m.gone:
			log, _ := os.ReadFile(m.log) // best effort: the end is the error
			return fmt.Errorf("cannot run etcd: %s ended:\n%s", m.name, log)
		case <-tick.C:
		}
	}
	return fmt.Errorf("cannot run etcd: %s does not serve after %s", m.name, startLimit)
}

// Cut parts member i from the others in both directions, or joins it again; its clients still reach it. Connections that
// stand are held, not closed: a real cut tells nobody.
func (c *Cluster) Cut(i int, cut bool) {
	for j, m := range c.members {
		if j == i {
			m.link.set(-1, cut)
			continue
		}
		m.link.set(c.members[i].pid.Load(), cut)
	}
}

// pidOf tells which member's process holds the other end of a connection.
func (c *Cluster) pidOf(remote net.Addr) int64 {
	inode := inodeOf(remote.(*net.TCPAddr).Port)
	for _, m := range c.members {
		if pid := m.pid.Load(); pid != 0 && inode != "" && holds(pid, inode) {
			return pid
		}
	}
	return 0
}
