package netboot

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/test/bench"
)

// fetchEnv makes the test binary clients that fetch one loader by TFTP at once: SKERRY_NETBOOT_FETCH=<json of fetch>.
const fetchEnv = "SKERRY_NETBOOT_FETCH"

const (
	tftpLoader  = "snponly.efi"
	tftpSize    = 1 << 20
	tftpBlock   = 1468
	tftpClients = 200 // each from an address of its own: an agent bounds what one client has open
)

// fetch is what the clients do, and what came of it.
type fetch struct {
	Server  netip.Addr
	Clients int
	Sum     uint64 // of the loader's octets

	Failed  int
	Seconds float64 // until the last had it
	Error   string  // of one that failed
}

func tftpClient(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 88, 0, byte(20 + i)}) }

// fetchAll is the child: all start at once.
func fetchAll(env string) error {
	var f fetch
	if err := json.Unmarshal([]byte(env), &f); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, f.Clients)
	start := time.Now()
	for i := range f.Clients {
		wg.Go(func() { errs[i] = fetchOne(tftpClient(i), f.Server, f.Sum) })
	}
	wg.Wait()
	f.Seconds = time.Since(start).Seconds()
	for _, err := range errs {
		if err != nil {
			f.Failed++
			f.Error = err.Error()
		}
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// fetchOne reads the loader as firmware does: block by block, the last packet again after a second of silence, ten times at most.
func fetchOne(from, server netip.Addr, sum uint64) error {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
	if err != nil {
		return err
	}
	defer conn.Close()
	to := netip.AddrPortFrom(server, 69)
	last := fmt.Appendf(nil, "\x00\x01%s\x00octet\x00blksize\x00%d\x00tsize\x000\x00", tftpLoader, tftpBlock)
	buf, want, got, size := make([]byte, 2048), uint16(0), uint64(0), 0
	for silent := 0; silent < 10; {
		if _, err := conn.WriteToUDPAddrPort(last, to); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		n, peer, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			silent++
			continue
		}
		if err != nil {
			return err
		}
		switch op := binary.BigEndian.Uint16(buf); {
		case n < 4 || op == 5:
			return fmt.Errorf("the server says %q after %d octets", buf[:n], size)
		case op == 6 && want == 0: // the options
			to, silent = peer, 0
			if !bytes.Contains(buf[:n], []byte("1468")) {
				return fmt.Errorf("options %q", buf[:n])
			}
			last, want = []byte{0, 4, 0, 0}, 1
		case op == 3 && binary.BigEndian.Uint16(buf[2:]) == want:
			silent = 0
			for _, b := range buf[4:n] {
				got = got*31 + uint64(b)
			}
			size += n - 4
			last = append([]byte{0, 4}, buf[2:4]...)
			if want++; n-4 < tftpBlock {
				_, err := conn.WriteToUDPAddrPort(last, to)
				if err == nil && (got != sum || size != tftpSize) {
					err = fmt.Errorf("%d octets, and not the loader's", size)
				}
				return err
			}
		}
	}
	return fmt.Errorf("no answer after %d octets", size)
}

// BenchmarkTFTP: a loader of 1 MiB to one client, and to 200 at once, blocks of 1,468 octets: ours and dnsmasq in turn, in one rack;
// the median of three counts. A transfer that fails fails the benchmark.
func BenchmarkTFTP(b *testing.B) {
	need(b, "dnsmasq", "dnsmasq-base", "ethtool", "ethtool")
	dir := b.TempDir()
	loader := make([]byte, tftpSize)
	rnd, sum := rand.NewChaCha8([32]byte{1}), uint64(0)
	_, _ = rnd.Read(loader) // never fails
	for _, o := range loader {
		sum = sum*31 + uint64(o)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, tftpLoader), loader, 0o644)); err != nil {
		b.Fatal(err)
	}
	b.Setenv("SKERRY_NETBOOT_LOADERS", dir)
	r := newBench(b, two("")[0])
	r.netns("d")
	r.plug("d", peerAddr+"/24")
	var addrs strings.Builder
	for i := range tftpClients {
		fmt.Fprintf(&addrs, "addr add %s/24 dev e0\n", tftpClient(i))
	}
	batch := filepath.Join(b.TempDir(), "addrs")
	if err := os.WriteFile(batch, []byte(addrs.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	run(b, "ip", "-n", r.ns("c"), "-b", batch)
	r.serve("dnsmasq", "--conf-file=/dev/null", "--port=0", "--keep-in-foreground", "--user=root", "--interface=e0", "--bind-interfaces", "--enable-tftp",
		"--tftp-root="+dir, "--tftp-max=1000", "--log-facility=/dev/null")
	servers := map[string]netip.Addr{"ours": netip.MustParseAddr("10.88.0.11"), "dnsmasq": netip.MustParseAddr(peerAddr)}
	r.fetch(fetch{Server: servers["dnsmasq"], Clients: 1, Sum: sum}) // until it listens
	for _, clients := range []int{1, tftpClients} {
		got := map[string][]float64{}
		for range rounds {
			for who, at := range servers {
				f := r.fetch(fetch{Server: at, Clients: clients, Sum: sum})
				if f.Failed > 0 {
					b.Errorf("%s: %d of %d transfers failed: %s", who, f.Failed, clients, f.Error)
				}
				got[who] = append(got[who], float64(clients)*tftpSize/1e6/f.Seconds)
				r.drain()
			}
		}
		b.Logf("%d clients, MB/s: %v", clients, got)
		for _, l := range got {
			slices.Sort(l)
		}
		ours, peer := got["ours"][rounds/2], got["dnsmasq"][rounds/2]
		bench.Figure(os.Stdout, fmt.Sprintf("TFTP, 1 MiB loader, blksize 1468, %d clients at once, median of %d", clients, rounds),
			fmt.Sprintf("%.1f MB/s", ours), fmt.Sprintf("%.1f MB/s (dnsmasq)", peer), fmt.Sprintf("%.2f", ours/peer), ">= 1.0")
	}
}

// fetch lets clients fetch in the client's namespace.
func (r *rack) fetch(f fetch) (out fetch) {
	r.t.Helper()
	env, err := json.Marshal(f)
	if err != nil {
		r.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", r.ns("c"), self)
	cmd.Env, cmd.Stderr = append(os.Environ(), fetchEnv+"="+string(env)), os.Stderr
	text, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		r.t.Fatalf("%v: %s", err, text)
	}
	return out
}
