package bench

import (
	"context"
	"crypto/sha1" //nolint:gosec // BitTorrent's hash of a piece
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/e2e/procs"
)

const otherCopies = 3

// BenchmarkOthers: an asset goes from one agent to another on loopback, over each lane, beside what an administrator would use: rsync over
// ssh, and a BitTorrent client that takes it from two seeds. In turn. Ours are hashed by SHA-256 and synced, rsync's is synced.
func BenchmarkOthers(b *testing.B) {
	lab.Need(b, lab.Root, lab.Tool("rsync", "rsync"), lab.Tool("ssh", "openssh-client"), lab.Tool("/usr/sbin/sshd", "openssh-server"), lab.Tool("aria2c", "aria2"))
	src, _ := toCopy(b)
	all := []struct {
		name string
		run  copier
	}{
		{"QUIC lane", agents(b, transport.LaneQUIC, src)},
		{"TCP lane", agents(b, transport.LaneTCP, src)},
		{"rsync over ssh", overSSH(b, src)},
		{"aria2, two seeds", torrent(b, src)},
	}
	took := make([][]time.Duration, len(all))
	for range otherCopies {
		for i, a := range all {
			dir := b.TempDir()
			if err := warm(dir); err != nil {
				b.Fatal(err)
			}
			at := time.Now()
			if err := a.run(b.Context(), dir); err != nil {
				b.Fatalf("%s: %v", a.name, err)
			}
			took[i] = append(took[i], time.Since(at))
			if err := os.RemoveAll(dir); err != nil {
				b.Fatal(err)
			}
		}
	}
	for i, ours := range all[:2] {
		for j, other := range all[2:] {
			o, p := Quantile(took[i], 0.5), Quantile(took[2+j], 0.5)
			Figure(os.Stdout, fmt.Sprintf("%d MiB from agent to agent, %s, median of %d", copySize>>20, ours.name, otherCopies), Rate(copySize, o),
				Rate(copySize, p)+", "+other.name, fmt.Sprintf("%.2f", p.Seconds()/o.Seconds()), "> 1")
		}
	}
}

// started runs a process in a group of its own until the benchmark ends.
func started(b *testing.B, name string, args ...string) {
	b.Helper()
	c := exec.Command(name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL); _ = c.Wait() })
}

// answers waits until something listens at addr.
func answers(b *testing.B, addr string) {
	b.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) { // another program's start has no event
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			b.Fatal(err)
		}
	}
}

// finish is the end of a command, with what it said.
func finish(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// overSSH copies src by rsync, whole, over an sshd of its own.
func overSSH(b *testing.B, src string) copier {
	b.Helper()
	dir, addr := b.TempDir(), procs.FreeAddr(b)
	host, user := filepath.Join(dir, "host"), filepath.Join(dir, "user")
	for _, key := range []string{host, user} {
		if err := finish(b.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key); err != nil {
			b.Fatal(err)
		}
	}
	const empty = "/run/sshd" // sshd's own place for privilege separation; its service makes it
	if err := os.Mkdir(empty, 0o755); err == nil {
		b.Cleanup(func() { _ = os.Remove(empty) })
	}
	conf := filepath.Join(dir, "sshd_config")
	text := fmt.Sprintf("ListenAddress %s\nHostKey %s\nAuthorizedKeysFile %s.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\n", addr, host, user)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	started(b, "/usr/sbin/sshd", "-D", "-e", "-f", conf)
	answers(b, addr)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		b.Fatal(err)
	}
	ssh := fmt.Sprintf("ssh -F none -p %s -i %s -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR", port, user)
	return func(ctx context.Context, to string) error {
		return finish(ctx, "rsync", "-W", "--fsync", "-e", ssh, "root@127.0.0.1:"+src, filepath.Join(to, "file"))
	}
}

// tracker tells clients of one torrent of each other.
type tracker struct {
	mu    sync.Mutex      // guards ports
	ports map[uint16]bool // of who announced itself
	seeds chan uint16     // who has all
}

func (t *tracker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	port, err := strconv.ParseUint(q.Get("port"), 10, 16)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var peers []byte
	for p := range t.ports {
		if p != uint16(port) {
			peers = binary.BigEndian.AppendUint16(append(peers, 127, 0, 0, 1), p)
		}
	}
	switch {
	case q.Get("event") == "stopped":
		delete(t.ports, uint16(port))
	case q.Get("left") == "0" && !t.ports[uint16(port)]:
		t.ports[uint16(port)] = true
		select {
		case t.seeds <- uint16(port):
		default: // one that has fetched it
		}
	}
	fmt.Fprintf(w, "d8:intervali1800e5:peers%d:%se", len(peers), peers)
}

// torrent copies src by aria2 from two seeds. Only seeds are told of: who fetches finds them.
func torrent(b *testing.B, src string) copier {
	b.Helper()
	t := &tracker{ports: map[uint16]bool{}, seeds: make(chan uint16, 2)}
	srv := httptest.NewServer(t)
	b.Cleanup(srv.Close)
	f, err := os.Open(src)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	var pieces []byte
	for buf := make([]byte, 1<<20); ; {
		n, err := io.ReadFull(f, buf)
		if n == 0 {
			break
		}
		sum := sha1.Sum(buf[:n]) //nolint:gosec // see above
		pieces = append(pieces, sum[:]...)
		if err != nil {
			break
		}
	}
	name := filepath.Join(b.TempDir(), "t.torrent")
	text := fmt.Sprintf("d8:announce%d:%s4:infod6:lengthi%de4:name3:src12:piece lengthi%de6:pieces%d:%see", len(srv.URL), srv.URL, copySize, 1<<20, len(pieces), pieces)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	args := func(dir string, more ...string) []string {
		_, port, _ := net.SplitHostPort(procs.FreeAddr(b))
		return append([]string{
			"--no-conf", "--quiet", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false", "--disable-ipv6",
			"--file-allocation=none", "--listen-port=" + port, "--dir=" + dir,
		}, append(more, name)...)
	}
	for range 2 {
		started(b, "aria2c", args(filepath.Dir(src), "--seed-ratio=0", "--bt-seed-unverified=true", "--allow-overwrite=true")...)
	}
	for range 2 {
		select {
		case <-t.seeds:
		case <-time.After(time.Minute):
			b.Fatal("the seeds do not announce themselves")
		}
	}
	return func(ctx context.Context, to string) error {
		return finish(ctx, "aria2c", args(to, "--seed-time=0")...)
	}
}
