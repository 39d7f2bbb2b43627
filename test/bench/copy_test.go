package bench

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/storage/blob"
	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/test/sim/bmc"
)

const (
	copySize = 512 << 20
	copies   = 5
)

// copier brings the octets of a file to a file in dir, whole and on the disk.
type copier func(ctx context.Context, dir string) error

// toCopy makes a file of copySize octets that nothing makes smaller.
func toCopy(b *testing.B) (path string, d intent.Digest) {
	b.Helper()
	path = filepath.Join(b.TempDir(), "src")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, h), rand.Reader, copySize); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return path, intent.Digest(h.Sum(nil))
}

// BenchmarkCopy: an asset goes from one agent to another on loopback, over each lane, beside the plainest program that does the same with
// the same library: one stream, SHA-256 on the way, a file, fsync. In turn; both ends are in this process, whose CPU counts.
func BenchmarkCopy(b *testing.B) {
	src, want := toCopy(b)
	for _, l := range []struct {
		name  string
		ours  copier
		peer  string
		plain copier
	}{
		{"QUIC", agents(b, transport.LaneQUIC, src), "quic-go", plainQUIC(b, src, want)},
		{"TCP", agents(b, transport.LaneTCP, src), "TLS over TCP", plainTLS(b, src, want)},
	} {
		took, used := map[bool][]time.Duration{}, map[bool][]time.Duration{}
		for i := range 2 * copies {
			ours, run := i%2 == 0, l.plain
			if ours {
				run = l.ours
			}
			dir := b.TempDir()
			if err := warm(dir); err != nil {
				b.Fatal(err)
			}
			at, cpu := time.Now(), cpuOfThis(b)
			if err := run(b.Context(), dir); err != nil {
				b.Fatal(err)
			}
			took[ours], used[ours] = append(took[ours], time.Since(at)), append(used[ours], cpuOfThis(b)-cpu)
			if err := os.RemoveAll(dir); err != nil {
				b.Fatal(err)
			}
		}
		o, p := Quantile(took[true], 0.5), Quantile(took[false], 0.5)
		Figure(os.Stdout, fmt.Sprintf("%d MiB from agent to agent, %s lane, median of %d", copySize>>20, l.name, copies), Rate(copySize, o), Rate(copySize, p)+", plain "+l.peer,
			fmt.Sprintf("%.2f", p.Seconds()/o.Seconds()), ">= 0.9")
		oc, pc := Quantile(used[true], 0.5), Quantile(used[false], 0.5)
		perGB := func(d time.Duration) string { return fmt.Sprintf("%.2f CPU-s/GB", d.Seconds()*1e9/copySize) }
		Figure(os.Stdout, "the same: CPU of both ends", perGB(oc), perGB(pc), fmt.Sprintf("%.2f", oc.Seconds()/pc.Seconds()), "<= 1.15")
	}
}

// warm touches as much of the machine's memory as a copy needs: a virtual machine's host may have taken back what was free, and to have
// it again costs more than the copy.
func warm(dir string) error {
	f, err := os.Create(filepath.Join(dir, "warm"))
	if err != nil {
		return err
	}
	b := make([]byte, chunk.Size)
	for range copySize / chunk.Size {
		if _, err := f.Write(b); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// cpuOfThis is what this process used until now.
func cpuOfThis(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// assets opens a store of assets in dir.
func assets(tb testing.TB, dir string) (*blob.Store, func() error) {
	tb.Helper()
	log := slog.New(slog.DiscardHandler)
	db, err := state.Open(state.Config{Dir: filepath.Join(dir, "state"), Key: make([]byte, 32), Logger: log})
	if err != nil {
		tb.Fatal(err)
	}
	s, err := blob.Open(blob.Config{Dir: filepath.Join(dir, "assets"), State: db, Logger: log, Reserve: 1})
	if err != nil {
		tb.Fatal(err)
	}
	return s, func() error { return errors.Join(s.Close(), db.Close()) }
}

// agents are two ends of a site's mesh, of which the first holds src.
func agents(b *testing.B, lane transport.Lane, src string) copier {
	b.Helper()
	d, log := pkitest.New(b), slog.New(slog.DiscardHandler)
	first, closeFirst := assets(b, b.TempDir())
	f, err := os.Open(src)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	m, err := first.Import(b.Context(), f, copySize)
	if err != nil {
		b.Fatal(err)
	}
	at := map[string]string{}
	launch := func(n *pkitest.Node, setup func(*transport.Endpoint)) *transport.Endpoint {
		e, err := transport.New(transport.Config{
			Listen: "127.0.0.1:0", TLS: n.TLS, Lane: lane, Log: log, UDP: []string{trust.ALPNMesh, trust.ALPNBulk}, TCP: []string{trust.ALPNMesh, trust.ALPNBulk},
			Resolver: transport.ResolverFunc(func(p transport.Peer) []string { return []string{at[p.ID]} }),
		})
		if err != nil {
			b.Fatal(err)
		}
		setup(e)
		at[n.ID.ID] = e.Addr().String()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		b.Cleanup(func() { cancel(); <-ended })
		return e
	}
	b.Cleanup(func() { _ = closeFirst() })
	launch(d.Agent("lon1", "a1", ""), func(e *transport.Endpoint) {
		h := swarm.New(swarm.Config{Self: "a1", Store: first, Peers: func() []swarm.Source { return nil }, Log: log}).Handler()
		e.HandleHTTP(trust.ALPNMesh, h)
		e.HandleHTTP(trust.ALPNBulk, h)
	})
	end := launch(d.Agent("lon1", "a2", ""), func(*transport.Endpoint) {})
	return func(ctx context.Context, dir string) error {
		own, closeOwn := assets(b, dir)
		s := swarm.New(swarm.Config{Self: "a2", Store: own, Log: log, Peers: func() []swarm.Source {
			return []swarm.Source{{Name: "a1", Tier: swarm.TierPeer, RT: end.RoundTripper(transport.Peer{Site: "lon1", ID: "a1"}), Bulk: end.Bulk(transport.Peer{Site: "lon1", ID: "a1"})}}
		}})
		_, err := s.Fetch(ctx, m.Content, m.Digest(), swarm.Wanted, nil)
		return errors.Join(err, closeOwn())
	}
}

// take hashes and writes what comes.
func take(r io.Reader, dir string, want intent.Digest) error {
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(f, h), r, make([]byte, chunk.Size))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil && (n != copySize || intent.Digest(h.Sum(nil)) != want) {
		err = fmt.Errorf("%d octets came, or others", n)
	}
	return err
}

// give sends src.
func give(w io.Writer, src string) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(w, struct{ io.Reader }{f}, make([]byte, chunk.Size))
	return err
}

func plainQUIC(b *testing.B, src string, want intent.Digest) copier {
	b.Helper()
	cert, err := bmc.SelfSigned()
	if err != nil {
		b.Fatal(err)
	}
	conf := &quic.Config{InitialStreamReceiveWindow: 2 << 20, MaxStreamReceiveWindow: 16 << 20, MaxConnectionReceiveWindow: 24 << 20}
	ln, err := quic.ListenAddr("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"copy"}}, conf)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			if st, err := c.OpenUniStream(); err == nil && give(st, src) == nil {
				_ = st.Close()
			}
		}
	}()
	return func(ctx context.Context, dir string) error {
		c, err := quic.DialAddr(ctx, ln.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"copy"}}, conf)
		if err != nil {
			return err
		}
		st, err := c.AcceptUniStream(ctx)
		if err != nil {
			return err
		}
		return errors.Join(take(st, dir, want), c.CloseWithError(0, ""))
	}
}

func plainTLS(b *testing.B, src string, want intent.Digest) copier {
	b.Helper()
	cert, err := bmc.SelfSigned()
	if err != nil {
		b.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = give(c, src) // a short one fails at the other end
			_ = c.Close()
		}
	}()
	return func(ctx context.Context, dir string) error {
		c, err := (&tls.Dialer{NetDialer: &net.Dialer{}, Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", ln.Addr().String())
		if err != nil {
			return err
		}
		return errors.Join(take(c, dir, want), c.Close())
	}
}
