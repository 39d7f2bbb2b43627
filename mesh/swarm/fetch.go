package swarm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// lookAgain is how long a job waits before it looks again at what only time changes.
const lookAgain = time.Second

// firstNotice is long beside haveGap and the delay of a LAN.
const firstNotice = 250 * time.Millisecond

// stalled is how long nothing at all may move before a Fetch ends: each of eight agents had its turn.
const stalled = 5 * time.Minute

// Progress is told after each stored chunk, by one goroutine at a time.
type Progress func(source Source, octets int, have, chunks int)

// job is one Fetch.
type job struct {
	s           *Swarm
	d, manifest intent.Digest
	class       Class
	only        bool // the manifest
	codec       *chunk.Codec

	telling sync.Mutex // guards p
	p       Progress

	// Guarded by Swarm.mu:
	m       *chunk.Manifest
	have    []byte      // bits of chunks that are here
	busy    map[int]int // chunk -> orders for it
	running map[*running]struct{}
	twice   int              // chunks that were asked of two
	pressed int              // chunks over the line that made way for readers
	peers   map[string]*peer // by name
	met     bool             // peers was filled: before it nobody is alone
	line    line
	lag     time.Duration // how late words of peers come
	grew    time.Time     // something, here or elsewhere
	asked   time.Time     // a peer, for chunks, first; zero: none
	stored  bool          // something, by this job
	reasons map[string]error
	fatal   error
	done    bool
}

// errEnough ends an order whose stripe somebody else fetches.
var errEnough = errors.New("another agent fetches it, or has it")

// storeError is ours, not the source's.
type storeError struct{ err error }

// Error returns the store's text.
func (e *storeError) Error() string { return e.err.Error() }

// Unwrap returns the store's error.
func (e *storeError) Unwrap() error { return e.err }

// Fetch completes asset d, whose manifest has the digest manifest: from the peers what one of them has, from the coordinator what this
// agent owns (mesh.md section 5), as the budget allows it to the class. What is on disk is not asked for, and what came of a chunk that broke off is kept for the next Fetch.
// It returns how many octets of chunks came from where, by tier:name, since the asset was first fetched in this life.
// Errors: ErrSources wrapped with each source's reason when nobody can bring it, or nothing moved for five minutes; the store's
// (blob.ErrFull); ctx's.
func (s *Swarm) Fetch(ctx context.Context, d, manifest intent.Digest, c Class, p Progress) (map[string]int64, error) {
	return s.fetch(ctx, &job{d: d, manifest: manifest, class: c, p: p})
}

// Learn brings the manifest of an asset alone, if it is not here, and keeps room for the rest. It counts in no budget. Errors: as Fetch.
func (s *Swarm) Learn(ctx context.Context, d, manifest intent.Digest) error {
	_, err := s.fetch(ctx, &job{d: d, manifest: manifest, class: Wanted, only: true})
	return err
}

// fetch runs a job.
func (s *Swarm) fetch(ctx context.Context, j *job) (map[string]int64, error) {
	codec, err := chunk.New()
	if err != nil {
		return nil, err
	}
	defer codec.Close()
	d := j.d
	j.s, j.codec, j.grew, j.line = s, codec, time.Now(), line{stripe: noStripe}
	j.busy, j.running, j.peers, j.reasons = map[int]int{}, map[*running]struct{}{}, map[string]*peer{}, map[string]error{}
	if m, err := s.cfg.Store.Manifest(d); err == nil && m.Digest() == j.manifest {
		if err := j.load(m); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	if s.jobs[d] != nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("cannot fetch %s twice at once", d.Short())
	}
	s.jobs[d] = j
	s.wake()
	s.mu.Unlock()
	err = j.run(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.jobs, d)
	s.wake()
	if err != nil || j.only {
		return nil, err
	}
	return s.settle(d), nil
}

// load takes in what the store has.
func (j *job) load(m *chunk.Manifest) error {
	have, complete, err := j.s.cfg.Store.Have(j.d)
	if err != nil {
		return &storeError{err}
	}
	j.s.mu.Lock()
	defer j.s.mu.Unlock()
	j.m, j.have, j.done = m, have, complete
	if !complete && count(have) == len(m.Chunks) {
		return &storeError{fmt.Errorf("cannot complete %s: all chunks are stored", j.d.Short())}
	}
	return nil
}

// run owns the job's goroutines: one for the coordinator, some for peers, and one for each peer that is listened to.
func (j *job) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { j.work(ctx, j.askAbove) })
	for range asking {
		wg.Go(func() { j.work(ctx, j.askPeer) })
	}
	wg.Go(func() { j.work(ctx, j.askSecond) })
	stop := map[string]context.CancelFunc{}
	for {
		listed := j.s.cfg.Peers()
		above, asking := j.upstreams()
		j.s.mu.Lock()
		above = j.usable(above)
		j.line.up = len(above) > 0 || asking
		now, changed := time.Now(), j.s.changed
		fresh, gone := j.meet(listed, now)
		if !j.met {
			j.met = true
			j.s.wake()
		}
		j.ration(now)
		j.watchLine(now, len(above))
		ended, err := j.ended(ctx, len(listed), now)
		j.s.mu.Unlock()
		if ended {
			return err
		}
		for _, name := range gone {
			stop[name]()
			delete(stop, name)
		}
		for _, p := range fresh {
			pctx, end := context.WithCancel(ctx)
			stop[p.src.Name] = end
			wg.Go(func() { j.listen(pctx, p) })
		}
		j.wait(ctx, changed)
	}
}

// wait returns when something changed, or it is time to look again.
func (j *job) wait(ctx context.Context, changed <-chan struct{}) {
	t := time.NewTimer(lookAgain)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-t.C:
	}
}

// meet brings the peers up to date, and returns those that are new and those that left. The caller holds mu.
func (j *job) meet(listed []Source, now time.Time) (fresh []*peer, gone []string) {
	for _, p := range j.peers {
		p.live = false
	}
	for i, src := range listed {
		p := j.peers[src.Name]
		if p == nil {
			p = &peer{src: src, since: now, gave: now}
			j.peers[src.Name] = p
			fresh = append(fresh, p)
		}
		p.live, p.place = true, i
	}
	for name, p := range j.peers {
		if !p.live && !p.fresh(now) {
			delete(j.peers, name)
			gone = append(gone, name)
		}
	}
	return fresh, gone
}

// watchLine ends an order (others: how many may be asked over the line) to the coordinator that is not this agent's any more, or of which nothing comes. The caller holds mu.
func (j *job) watchLine(now time.Time, others int) {
	l := &j.line
	l.shunned = j.shunned(now)
	switch {
	case l.stripe == noStripe:
	case l.shunned:
		j.yield(errEnough)
	case l.closed != nil && j.m != nil:
		j.yield(l.closed)
	case l.silent(j.chunkSize(), now):
		j.forsake(l.src)
		j.yield(errSilent)
	case l.thin(now) && others > 1 && j.s.pace.Limit() > thinRate: // else it is our budget that is thin
		j.forsake(l.src)
		j.yield(errThin)
	case j.pressing(now):
		j.pressed++
		j.yield(errEnough)
	case !j.may(l.stripe, now), j.m != nil && l.trying && l.next < len(j.m.Chunks) && held(j.holders(now), l.next):
		j.yield(errEnough)
	}
}

func (j *job) yield(why error) {
	j.line.stripe, j.line.trying = noStripe, false
	if j.line.cancel != nil {
		j.line.cancel(why)
	}
	j.s.wake()
}

func (j *job) chunkSize() int {
	if j.m == nil {
		return chunk.Size
	}
	return int(j.m.ChunkSize)
}

// ended tells whether the job is over. The caller holds mu.
func (j *job) ended(ctx context.Context, listed int, now time.Time) (bool, error) {
	switch {
	case j.done, j.only && j.m != nil:
		return true, nil
	case j.fatal != nil:
		return true, j.fatal
	case ctx.Err() != nil:
		return true, ctx.Err()
	case len(j.busy) > 0, j.hope(now) && now.Sub(j.grew) < stalled:
		return false, nil
	}
	reasons := []error{fmt.Errorf("%d sources asked", listed)}
	if j.line.closed != nil {
		reasons = append(reasons, fmt.Errorf("the coordinator is not asked: %w", j.line.closed))
	}
	for _, name := range slices.Sorted(maps.Keys(j.reasons)) {
		reasons = append(reasons, fmt.Errorf("%s: %w", name, j.reasons[name]))
	}
	return true, fmt.Errorf("cannot fetch %s: %w: %w", j.d.Short(), ErrSources, errors.Join(reasons...))
}

// listen keeps up with what a peer has.
func (j *job) listen(ctx context.Context, p *peer) {
	for {
		err := p.src.words(ctx, j.d, func(w *word) {
			j.s.mu.Lock()
			defer j.s.mu.Unlock()
			if w.manifest == j.manifest && j.m != nil && w.chunks != len(j.m.Chunks) {
				w.have = nil // the signed manifest knows better
			}
			now := time.Now()
			if p.w == nil {
				j.lag = max(j.lag, min(now.Sub(p.since), silence))
			}
			if p.hear(w, now) {
				j.grew = now
			}
			j.s.wake()
		})
		if ctx.Err() != nil {
			return
		}
		j.s.mu.Lock()
		p.failed = true
		j.reasons[p.src.Name] = err
		j.s.wake()
		j.s.mu.Unlock()
		if !sleep(ctx, rest) {
			return
		}
	}
}

// work asks again and again. ask tells whether there was something to ask for.
func (j *job) work(ctx context.Context, ask func(context.Context) bool) {
	for ctx.Err() == nil {
		j.s.mu.Lock()
		changed := j.s.changed
		j.s.mu.Unlock()
		if !ask(ctx) {
			j.wait(ctx, changed)
		}
	}
}

// askAbove sends one order over the line, if there is one that this agent should send.
func (j *job) askAbove(ctx context.Context) bool {
	above, asking := j.upstreams()
	j.s.mu.Lock()
	now, l := time.Now(), &j.line
	above = j.usable(above)
	asking = asking && len(above) == 0
	l.up = len(above) > 0 || asking
	j.ration(now)
	first, n, ok := j.fromOrigin(now)
	stripe := uint32(noStripe)
	if ok && n > 0 {
		stripe = stripeOf(j.m, first)
	} else if ok {
		stripe = 0
	}
	if l.stripe != stripe {
		l.stripe, l.claimed = stripe, now
		l.trying = false
		j.s.wake() // peers hear that it is claimed before it costs anything
		time.AfterFunc(j.notice(), j.s.nudge)
	}
	if !ok || asking || now.Sub(l.claimed) < j.notice() {
		j.s.mu.Unlock()
		return false
	}
	octx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.cancel = cancel
	src := l.pick(above)
	l.begin(now)
	l.next = first
	r := j.take(src, first, n)
	j.s.mu.Unlock()
	err := j.order(octx, r)
	j.s.mu.Lock()
	l.cancel = nil
	switch _, refusal := errors.AsType[*refused](err); {
	case err == nil:
		l.trying = false
	case ctx.Err() != nil:
	case errors.Is(context.Cause(octx), errEnough), errors.Is(err, chunk.ErrBad):
	case refusal, errors.Is(err, errSlow), errors.Is(err, ErrBadSource):
		j.forsake(src)
	}
	if j.s.account(j.d, src).strikes >= strikes {
		j.forsake(src)
	}
	if j.spent(src) { // else it would be tried on, with nobody left to ask
		l.stripe, l.trying = noStripe, false
	}
	j.s.wake()
	j.s.mu.Unlock()
	if err != nil && !errors.Is(err, chunk.ErrBad) {
		sleep(ctx, rest)
	}
	return true
}

// notice is how long a stripe is claimed before it is asked for: as long as words take to come, and long enough at the beginning that all
// agents that start with the same intent have told that they do. The caller holds mu.
func (j *job) notice() time.Duration {
	switch {
	case len(j.peers) == 0:
		return 0
	case j.line.octets == 0:
		return max(j.lag, firstNotice)
	}
	return j.lag
}

// askPeer sends one order to a peer that has something.
func (j *job) askPeer(ctx context.Context) bool {
	j.s.mu.Lock()
	p, first, n := j.fromPeer(time.Now())
	if p == nil {
		j.s.mu.Unlock()
		return false
	}
	r := j.take(p.src, first, n)
	j.s.mu.Unlock()
	_ = j.order(ctx, r) // what became of it is in the source's account
	return true
}

// manifestBusy stands in busy for the manifest.
const manifestBusy = -1

// order asks a source for n chunks from first on, 0: for the manifest, and settles its account.
func (j *job) order(ctx context.Context, r *running) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	j.s.mu.Lock()
	r.cancel = cancel
	j.s.mu.Unlock()
	begun, came := time.Now(), 0
	var err error
	if r.n == 0 {
		err = j.fetchManifest(ctx, r.src)
	} else {
		came, err = j.fetchChunks(ctx, r)
	}
	j.s.mu.Lock()
	j.release(r)
	j.s.account(j.d, r.src).quick = err == nil && float64(came) >= quickRate*time.Since(begun).Seconds()
	j.s.mu.Unlock()
	err = j.settle(ctx, r.src, came, err)
	r.src.tell(ctx, err)
	return err
}

// fetchChunks brings a run of chunks, and returns how many octets of it came.
func (j *job) fetchChunks(ctx context.Context, r *running) (came int, err error) {
	src, o := r.src, order{first: r.first, n: r.n}
	j.s.mu.Lock()
	if part := j.s.account(j.d, src).part; part != nil && part.chunk == r.first {
		o.had, o.resumed = part.b, true
	}
	m := j.m
	j.s.mu.Unlock()
	o.octets = func(k int) {
		came += k
		j.arrived(src, k)
	}
	if src.far() {
		o.paced = func(k int) int { return j.s.paced(ctx, k) }
	}
	part, err := src.ask(ctx, m, j.codec, o, func(i int, raw []byte) error { return j.store(r, i, raw) })
	j.s.mu.Lock()
	defer j.s.mu.Unlock()
	if a := j.s.account(j.d, src); part != nil {
		j.s.keep(a, part)
	} else if errors.Is(err, chunk.ErrBad) {
		a.part = nil
	}
	return came, err
}

// arrived counts octets of chunks.
func (j *job) arrived(src Source, n int) {
	j.s.mu.Lock()
	defer j.s.mu.Unlock()
	now := time.Now()
	j.s.account(j.d, src).octets += int64(n)
	j.s.octets[src.Tier] += int64(n)
	j.grew = now
	if src.far() {
		j.s.took = now
		j.line.arrive(n, now)
	}
}

// store takes one chunk in.
func (j *job) store(r *running, i int, raw []byte) error {
	src := r.src
	err := j.s.cfg.Store.WriteChunk(j.d, i, raw)
	if errors.Is(err, chunk.ErrBad) {
		return err
	}
	if err != nil {
		return &storeError{err}
	}
	j.s.mu.Lock()
	m, a, now := j.m, j.s.account(j.d, src), time.Now()
	a.note(now.Sub(r.moved))
	r.moved = now
	if a.part != nil && a.part.chunk == i {
		a.part = nil
	}
	a.fails = 0
	if src.far() {
		j.line.next = i + 1
	} else if p := j.peers[src.Name]; p != nil {
		p.gave = now
	}
	if bit(j.have, i) { // a second order brought it first
		j.s.mu.Unlock()
		return nil
	}
	j.have = slices.Clone(j.have) // words that were told keep theirs
	j.have[i/8] |= 0x80 >> (i % 8)
	j.stored = true
	j.enough(r)
	all := count(j.have) == len(m.Chunks)
	j.s.mu.Unlock()
	if j.p != nil {
		j.telling.Lock()
		j.p(src, len(raw), i+1, len(m.Chunks))
		j.telling.Unlock()
	}
	if all {
		if err := j.load(m); err != nil {
			return err
		}
	}
	j.s.mu.Lock()
	j.s.wake()
	j.s.mu.Unlock()
	return nil
}

// fetchManifest takes the manifest of a source in.
func (j *job) fetchManifest(ctx context.Context, src Source) error {
	m, err := src.manifest(ctx, j.d, j.manifest)
	if err != nil {
		return err
	}
	if err := j.s.cfg.Store.Put(ctx, m); err != nil {
		return &storeError{err}
	}
	if err := j.load(m); err != nil {
		return err
	}
	j.s.mu.Lock()
	defer j.s.mu.Unlock()
	j.grew = time.Now()
	j.s.wake()
	return nil
}

// settle notes in a source's account what became of an order that brought so many octets, and returns err.
func (j *job) settle(ctx context.Context, src Source, came int, err error) error {
	j.s.mu.Lock()
	defer j.s.mu.Unlock()
	defer j.s.wake()
	a, now := j.s.account(j.d, src), time.Now()
	if err == nil {
		a.fails = 0
		return nil
	}
	if fatal, ok := errors.AsType[*storeError](err); ok {
		j.fatal = fatal.err
		return err
	}
	if ctx.Err() != nil {
		return err // we ended it
	}
	j.reasons[src.Name] = err
	switch {
	case errors.Is(err, chunk.ErrBad), errors.Is(err, ErrBadSource):
		if a.strikes++; a.strikes >= strikes {
			j.reasons[src.Name] = fmt.Errorf("%w: %w", ErrBadSource, err)
			a.until = now.Add(banned)
		}
	case errors.Is(err, errSlow):
		a.fails, a.until = fails, now.Add(banned)
	case came >= leastGain:
		a.fails = 0 // the next order begins where this one ended
	default:
		a.fails++
		a.until = now.Add(restEmpty)
		if a.fails >= fails {
			a.until = now.Add(away)
		}
	}
	return err
}

// word is what peers are told. The caller holds mu.
func (j *job) word() *word {
	w := &word{octets: j.line.octets, stripe: j.line.stripe, patience: j.line.patience(j.chunkSize()), able: j.line.able(), today: j.s.today(), takes: j.s.takes(), need: j.need(time.Now())}
	if j.m != nil {
		w.manifest, w.chunks, w.have = j.manifest, len(j.m.Chunks), j.have
	}
	return w
}
