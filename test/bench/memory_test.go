package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/storage/state"
)

const (
	bigSize    = 10 << 30
	bigHeld    = 200
	bigReserve = 10 << 30 // octets that stay free on the disk
)

// generated is a store of one asset that lies nowhere: each chunk is the same octets with its number before them.
type generated struct {
	m    *chunk.Manifest
	base [chunk.Size]byte
}

func (g *generated) chunk(i int, buf []byte) []byte {
	b := buf[:copy(buf, g.base[:])]
	binary.BigEndian.PutUint64(b, uint64(i)+1)
	return b
}

// Manifest implements swarm.Store, as what follows does.
func (g *generated) Manifest(intent.Digest) (*chunk.Manifest, error) { return g.m, nil }

func (g *generated) ReadChunk(_ intent.Digest, i int, buf []byte) ([]byte, error) {
	return g.chunk(i, buf), nil
}

func (g *generated) Have(intent.Digest) (have []byte, complete bool, err error) {
	have = make([]byte, (len(g.m.Chunks)+7)/8)
	for i := range g.m.Chunks {
		have[i/8] |= 0x80 >> (i % 8)
	}
	return have, true, nil
}

func (g *generated) Put(context.Context, *chunk.Manifest) error        { return state.ErrFull }
func (g *generated) WriteChunk(_ intent.Digest, _ int, _ []byte) error { return state.ErrFull }

// peakRSS is the most memory that this process had since reset; and how much of it was no file's.
func peakRSS(b *testing.B) (peak, anon int64) {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && f[0] == "VmHWM:":
			peak, err = strconv.ParseInt(f[1], 10, 64)
		case len(f) > 1 && f[0] == "RssAnon:":
			anon, err = strconv.ParseInt(f[1], 10, 64)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	return peak << 10, anon << 10
}

// BenchmarkMemory: an agent's store, swarm and endpoint take 10 GiB from another's, which lies in the same process, while 200 assets of 10
// GiB are held. The peak of the whole process counts.
func BenchmarkMemory(b *testing.B) {
	dir := b.TempDir()
	own, closeOwn := assets(b, dir)
	defer func() { _ = closeOwn() }()
	if s, err := own.Space(); err != nil || s.Free < bigSize+bigReserve {
		b.Skipf("%d octets are free, and %d are needed so that 10 GiB stay: %v", s.Free, int64(bigSize+bigReserve), err)
	}
	g := &generated{m: &chunk.Manifest{ChunkSize: chunk.Size, Size: bigSize}}
	for i := range g.base {
		g.base[i] = byte(i * 7)
	}
	buf := make([]byte, chunk.Size)
	for i := range bigSize / chunk.Size {
		g.m.Chunks = append(g.m.Chunks, intent.DigestOf(g.chunk(i, buf)))
	}
	g.m.Content = intent.DigestOf([]byte("generated"))
	nothing := intent.DigestOf(make([]byte, chunk.Size)) // holes: they are held, and take no room
	for i := range bigHeld {
		m := &chunk.Manifest{ChunkSize: chunk.Size, Size: bigSize, Content: intent.DigestOf(fmt.Appendf(nil, "held %d", i))}
		for range bigSize / chunk.Size {
			m.Chunks = append(m.Chunks, nothing)
		}
		if err := own.Put(b.Context(), m); err != nil {
			b.Fatal(err)
		}
	}
	for _, lane := range []transport.Lane{transport.LaneQUIC} {
		took, peak, anon := fetchBig(b, lane, g, own)
		Figure(os.Stdout, fmt.Sprintf("peak memory of both ends while 10 GiB come over the %s lane at %s, 200 assets of 10 GiB held", lane, Rate(bigSize, took)),
			fmt.Sprintf("%d MB, %d MB of it anonymous at the end", peak/1e6, anon/1e6), "", "", "< 300 MB")
	}
}

// fetchBig takes g's asset into own.
func fetchBig(b *testing.B, lane transport.Lane, g *generated, own swarm.Store) (took time.Duration, peak, anon int64) {
	b.Helper()
	d, log, at := pkitest.New(b), slog.New(slog.DiscardHandler), ""
	ends := make([]*transport.Endpoint, 2)
	for i := range ends {
		e, err := transport.New(transport.Config{
			Listen: "127.0.0.1:0", TLS: d.Agent("lon1", fmt.Sprintf("a%d", i+1), "").TLS, Lane: lane, Log: log, UDP: []string{trust.ALPNMesh, trust.ALPNBulk}, TCP: []string{trust.ALPNMesh, trust.ALPNBulk},
			Resolver: transport.ResolverFunc(func(transport.Peer) []string { return []string{at} }),
		})
		if err != nil {
			b.Fatal(err)
		}
		if ends[i] = e; i == 0 {
			at = e.Addr().String()
			h := swarm.New(swarm.Config{Self: "a1", Store: g, Peers: func() []swarm.Source { return nil }, Log: log}).Handler()
			e.HandleHTTP(trust.ALPNMesh, h)
			e.HandleHTTP(trust.ALPNBulk, h)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		b.Cleanup(func() { cancel(); <-ended })
	}
	first := transport.Peer{Site: "lon1", ID: "a1"}
	s := swarm.New(swarm.Config{Self: "a2", Store: own, Log: log, Peers: func() []swarm.Source {
		return []swarm.Source{{Name: "a1", Tier: swarm.TierPeer, RT: ends[1].RoundTripper(first), Bulk: ends[1].Bulk(first)}}
	}})
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // the peak counts from here
		b.Fatal(err)
	}
	began := time.Now()
	if _, err := s.Fetch(b.Context(), g.m.Content, g.m.Digest(), swarm.Wanted, nil); err != nil {
		b.Fatal(err)
	}
	took = time.Since(began)
	peak, anon = peakRSS(b)
	return took, peak, anon
}
