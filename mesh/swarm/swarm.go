package swarm

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Store is what the swarm needs of storage/blob.
type Store interface {
	Manifest(d intent.Digest) (*chunk.Manifest, error)
	ReadChunk(d intent.Digest, i int, buf []byte) ([]byte, error)
	Have(d intent.Digest) (have []byte, complete bool, err error)
	Put(ctx context.Context, m *chunk.Manifest) error
	WriteChunk(d intent.Digest, i int, b []byte) error
}

// The errors callers branch on.
var (
	ErrBadSource = errors.New("source sends bad chunks")
	ErrSources   = errors.New("no source has it")
	ErrSlow      = errors.New("it brings too little, or nothing more")
)

const (
	// strikes is how many bad chunks one source may send for one asset, and fails how many requests in a row may bring less than
	// leastGain, before others are asked for what it has.
	strikes   = 3
	fails     = 5
	leastGain = 4 << 10
	// banned is how long a source is not asked for an asset after strikes, away after fails: on wires that lose 30 % five in a row are
	// rare, and ten minutes were too long for those.
	banned = 10 * time.Minute
	away   = time.Minute
	// rest is how long a source is left alone after a request that broke off, restEmpty after one that brought next to nothing.
	rest      = time.Second
	restEmpty = 5 * time.Second
	// asking is how many orders to peers are under way at once, for one asset; two to one that is quick, quickRate octets a second, else
	// one to each: what waits for the disk, or for the way there and back, holds up nothing.
	asking    = 3
	quickRate = 8 << 20
	// maxParts bounds what is kept of chunks that broke off: 32 MiB at the usual 1 MiB. The oldest goes.
	maxParts = 32
)

// Config is what a Swarm works with.
type Config struct {
	Self  string // this agent
	Store Store
	Peers func() []Source // the agents that are alive, but this one; who comes first is asked first. It does not block
	// Sites lists agents of other sites that have all of an asset, the nearest first. They are asked before the coordinator, by who owns
	// the stripe; asking: the coordinator is not yet, because some may be found in a moment. It does not block. Nil: there are none.
	Sites func(intent.Digest) (has []Source, asking bool)
	// URLs lists where an asset lies as it is (Source.Range), the cheapest first; last: the coordinator comes before them. It does not block. Nil: nowhere.
	URLs   func(intent.Digest) (at []Source, last bool)
	Origin func() (Source, bool)      // the coordinator; false: there is no line to it. Nil: there is none
	Budget Budget                     // of the site's line; nil: it may carry what it can
	Who    func(*http.Request) string // the agent that asks Handler; nil: nobody knows
	Log    *slog.Logger
}

// Swarm is one agent's part in bringing assets to a site.
type Swarm struct {
	cfg  Config
	pace *rate.Limiter // of those, by Config.Budget

	mu       sync.Mutex // guards what follows, and every job; nothing is read, written or waited for under it
	changed  chan struct{}
	jobs     map[intent.Digest]*job
	accounts map[accountKey]*account
	took     time.Time        // something over the line, last
	octets   map[string]int64 // of chunks, by tier
	readers  map[*Reader]struct{}
}

// New returns a Swarm that fetches nothing until Fetch is called.
func New(cfg Config) *Swarm {
	return &Swarm{cfg: cfg, pace: rate.NewLimiter(rate.Inf, mostRead), changed: make(chan struct{}), jobs: map[intent.Digest]*job{}, accounts: map[accountKey]*account{}, octets: map[string]int64{}, readers: map[*Reader]struct{}{}}
}

// Octets returns how many octets of chunks came from sources of a tier in this life.
func (s *Swarm) Octets(tier string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.octets[tier]
}

// Came returns how many octets of an asset that is not complete yet came from where, by tier:name.
func (s *Swarm) Came(d intent.Digest) map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.came(d)
}

// came is Came. The caller holds mu.
func (s *Swarm) came(d intent.Digest) map[string]int64 {
	out := map[string]int64{}
	for k, a := range s.accounts {
		if k.asset == d && a.octets > 0 {
			out[k.source] = a.octets
		}
	}
	return out
}

// wake tells everybody who waits that something changed. The caller holds mu.
func (s *Swarm) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// nudge is wake for a timer.
func (s *Swarm) nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake()
}

type accountKey struct {
	asset  intent.Digest
	source string // tier:name
}

// account is what is remembered of a source and an asset, from one Fetch to the next.
type account struct {
	part    *part
	octets  int64 // that came
	orders  int   // under way
	quick   bool  // the last one brought so much that the pause between two would count
	strikes int
	fails   int                   // requests in a row
	until   time.Time             // it is left alone
	took    [paceOf]time.Duration // of the last chunks
	chunks  int
}

// part is what came of a chunk that broke off. It is never given to anybody else, and never mixed with another source's octets.
type part struct {
	chunk int
	b     []byte // 0 to the chunk's length - 1
	at    time.Time
}

// account returns the account of a source. The caller holds mu.
func (s *Swarm) account(d intent.Digest, src Source) *account {
	k := accountKey{d, src.key()}
	a := s.accounts[k]
	if a == nil {
		a = &account{}
		s.accounts[k] = a
	}
	if (a.strikes >= strikes || a.fails >= fails) && !time.Now().Before(a.until) {
		a.strikes, a.fails = 0, 0
	}
	return a
}

// out tells whether the source is not asked any more, for a while.
func (a *account) out() bool { return a.strikes >= strikes || a.fails >= fails }

// shuns tells whether no chunk of an asset is taken from a peer, because it sent bad ones. The caller holds mu.
func (s *Swarm) shuns(d intent.Digest, peer string) bool {
	a := s.accounts[accountKey{d, Source{Name: peer, Tier: TierPeer}.key()}]
	return a != nil && a.strikes >= strikes && time.Now().Before(a.until)
}

// keep remembers what came of a chunk. The caller holds mu.
func (s *Swarm) keep(a *account, p *part) {
	a.part = p
	var oldest *account
	n := 0
	for _, o := range s.accounts {
		if o.part == nil {
			continue
		}
		n++
		if oldest == nil || o.part.at.Before(oldest.part.at) {
			oldest = o
		}
	}
	if n > maxParts {
		oldest.part = nil
	}
}

// settle forgets an asset that is complete, and returns how many octets came from where, by tier:name. The caller holds mu.
func (s *Swarm) settle(d intent.Digest) map[string]int64 {
	out := s.came(d)
	maps.DeleteFunc(s.accounts, func(k accountKey, _ *account) bool { return k.asset == d })
	return out
}

// Forget drops what is remembered of assets that nobody wants any more.
func (s *Swarm) Forget(wanted func(intent.Digest) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.accounts, func(k accountKey, _ *account) bool { return s.jobs[k.asset] == nil && !wanted(k.asset) })
}
