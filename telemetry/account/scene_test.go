package account

import (
	"bytes"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/sflow"
	"github.com/skerry-metal/skerry/telemetry/sflow/sflowtest"
)

// memory is a Store in memory.
type memory struct {
	mu     sync.Mutex
	m      map[string][]byte
	fail   error
	octets int // of the largest transaction
}

func (m *memory) Write(ps []state.Pair) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	n := 0
	for _, p := range ps {
		n += len(p.Key) + len(p.Value)
	}
	if n > 1_200_000 {
		return state.ErrTooLarge
	}
	n = 0
	for _, p := range ps {
		if n += len(p.Key) + len(p.Value); p.Value == nil {
			delete(m.m, string(p.Key))
		} else {
			m.m[string(p.Key)] = bytes.Clone(p.Value)
		}
	}
	m.octets = max(m.octets, n)
	return nil
}

func (m *memory) Scan(prefix, from []byte, fn func(key, value []byte) error) error {
	m.mu.Lock()
	var keys []string
	for k := range m.m {
		if bytes.HasPrefix([]byte(k), prefix) && bytes.Compare([]byte(k), from) >= 0 {
			keys = append(keys, k)
		}
	}
	m.mu.Unlock()
	slices.Sort(keys)
	for _, k := range keys {
		if err := fn([]byte(k), m.m[k]); err == state.ErrStop {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

var _ Store = (*memory)(nil)

var (
	swA  = netip.MustParseAddr("10.0.0.1") // the switch
	m1   = netip.MustParseAddr("10.4.0.1")
	m2   = netip.MustParseAddr("10.4.0.2")
	m3   = netip.MustParseAddr("10.4.0.3") // of project evil, in the same pool
	away = netip.MustParseAddr("203.0.113.9")
	t0   = time.Date(2026, 11, 28, 10, 0, 30, 0, time.UTC)
)

// plan has acme's m1 and m2 on ports 1 and 2, and evil's m3 on port 3, of one shared pool.
func plan(mode Mode) *Plan {
	var prefixes []Prefix
	pool := netip.MustParsePrefix("10.4.0.0/24")
	for _, p := range []string{"acme", "evil"} {
		prefixes = append(prefixes, Prefix{Project: p, Network: "web", Subnet: pool.String(), Prefix: pool, Shared: true})
	}
	for _, x := range []struct {
		project, machine string
		at               netip.Addr
	}{{"acme", "m1", m1}, {"acme", "m2", m2}, {"evil", "m3", m3}} {
		prefixes = append(prefixes, Prefix{Project: x.project, Network: "web", Subnet: pool.String(), Machine: x.machine, Prefix: netip.PrefixFrom(x.at, 32)})
	}
	s := Switch{Name: "sw1", Agents: []netip.Addr{swA}, Mode: mode, Ports: []Port{{Index: 1, Members: []uint32{11, 12}, Machine: "m1", Project: "acme"}, {Index: 2, Machine: "m2", Project: "acme"}, {Index: 3, Machine: "m3", Project: "evil"}}}
	if mode == Host {
		s.Ports = nil
	}
	return NewPlan([]Switch{s}, prefixes)
}

// agent is one agent's ear and ledger.
type agent struct {
	*sflow.Receiver
	e     *Engine
	l     *Ledger
	store *memory
	told  []Mismatch
}

func newAgent(t testing.TB, p *Plan, store *memory) *agent {
	t.Helper()
	if store == nil {
		store = &memory{m: map[string][]byte{}}
	}
	l, err := OpenLedger(store)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{l: l, store: store}
	a.e = NewEngine(l, func(m Mismatch) { a.told = append(a.told, m) })
	a.e.SetPlan(p)
	a.Receiver = sflow.New(sflow.Config{Known: a.e.Known, Sink: a.e, Log: slog.New(slog.DiscardHandler)})
	return a
}

// end closes and writes everything.
func (a *agent) end(t testing.TB, now time.Time) {
	t.Helper()
	a.e.Tick(now, true)
	if err := a.e.Flush(); err != nil {
		t.Fatal(err)
	}
}

// ask answers a query as several agents do together.
func ask(t testing.TB, q Query, now time.Time, agents ...*agent) []Figure {
	t.Helper()
	var shares []Share
	for i, a := range agents {
		hs, err := a.l.Headers(q)
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, Share{string(rune('a' + i)), a.l.Infos(), hs})
	}
	take := Merge(shares)
	but := Points(q, shares, take)
	var sums [][]Group
	for i, a := range agents {
		g, err := a.l.Sum(q, take[shares[i].Agent], but)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, g)
	}
	return Table(q, shares, take, sums, now)
}

// flow is a packet of 1000 octets of IP, untagged.
func flow(src, dst netip.Addr, source, in, out uint32) sflowtest.Flow {
	return sflowtest.Flow{Source: source, Rate: 100, Input: in, Output: out, Len: 1018, Header: sflowtest.Frame(src, dst, 0, 1000)}
}
