package swarm

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// window is how many octets behind a reader come before all else (mesh.md section 5).
const window = 64 << 20

// ErrIdle: nobody here fetches the asset.
var ErrIdle = errors.New("nobody here fetches it")

// Reader is somebody who reads an asset while it is fetched: what is behind the place where he stands comes first, here and from who
// fetches it over the line. It is not safe for concurrent use.
type Reader struct {
	s  *Swarm
	d  intent.Digest
	at int // chunk; guarded by Swarm.mu
}

// Reader begins to read asset d. The caller closes it.
func (s *Swarm) Reader(d intent.Digest) *Reader {
	r := &Reader{s: s, d: d, at: -1}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readers[r] = struct{}{}
	return r
}

// Close ends it.
func (r *Reader) Close() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	delete(r.s.readers, r)
	r.s.wake()
}

// Wait returns when chunk i is here, to which the reader has come. Errors: ErrIdle, ctx's.
func (r *Reader) Wait(ctx context.Context, i int) error {
	r.s.mu.Lock()
	if r.at != i {
		r.at = i
		r.s.wake()
	}
	for {
		j, changed := r.s.jobs[r.d], r.s.changed
		here := j != nil && bit(j.have, i)
		r.s.mu.Unlock()
		switch {
		case here:
			return nil
		case j == nil:
			return fmt.Errorf("cannot wait for chunk %d of %s: %w", i, r.d.Short(), ErrIdle)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.s.mu.Lock()
	}
}

// readers returns the chunks to which readers of the asset have come. The caller holds mu.
func (j *job) readers() (at []int) {
	for r := range j.s.readers {
		if r.d == j.d && r.at >= 0 {
			at = append(at, r.at)
		}
	}
	slices.Sort(at)
	return slices.Compact(at)
}

// need is the stripe that readers here wait for, of which nobody at the site has all: the first one, plus 1; or 0. The caller holds mu.
func (j *job) need(now time.Time) uint32 {
	readers := j.readers()
	if j.m == nil || len(readers) == 0 { // as for most assets, and it is asked after each chunk
		return 0
	}
	holders := j.holders(now)
	for _, at := range readers {
		for i := range j.ahead(at) {
			if !bit(j.have, i) && !held(holders, i) {
				return stripeOf(j.m, i) + 1
			}
		}
	}
	return 0
}

// ahead yields the chunks of the window behind a reader.
func (j *job) ahead(at int) iter.Seq[int] {
	return func(yield func(int) bool) {
		end := min(at+max(window/int(j.m.ChunkSize), 1), len(j.m.Chunks))
		for i := max(at, 0); i < end && yield(i); i++ {
		}
	}
}

// wishes yields the chunks in the order in which they are wanted over the line: what readers here come to, what those of peers wait for,
// all. A chunk may come more than once. The caller holds mu.
func (j *job) wishes(now time.Time) iter.Seq[int] {
	return func(yield func(int) bool) {
		for _, at := range j.readers() {
			for i := range j.ahead(at) {
				if !yield(i) {
					return
				}
			}
		}
		for _, stripe := range j.needed(now) {
			first, n := j.stripe(stripe)
			for i := first; i < first+n; i++ {
				if !yield(i) {
					return
				}
			}
		}
		for i := range j.m.Chunks {
			if !yield(i) {
				return
			}
		}
	}
}

// needed are the stripes for which readers at peers wait.
func (j *job) needed(now time.Time) (out []uint32) {
	for _, p := range j.peers {
		if p.fresh(now) && p.w.manifest == j.manifest && p.w.need > 0 {
			out = append(out, p.w.need-1)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// stripe returns the chunks of a stripe, none where there is no such stripe.
func (j *job) stripe(stripe uint32) (first, n int) {
	size := int64(j.m.ChunkSize)
	first = int(min((int64(stripe)*stripeSize+size-1)/size, int64(len(j.m.Chunks))))
	for first+n < len(j.m.Chunks) && stripeOf(j.m, first+n) == stripe {
		n++
	}
	return first, n
}

// lookFor is among how many chunks the rarest is looked for.
const lookFor = 4096

// rarest returns the chunk that fewest holders have among those that are wanted and that one of ready has; of several, the first behind a place
// that is this agent's own while others fetch too, so that each takes another part first and all have something to give. -1: there is none.
// The caller holds mu.
func (j *job) rarest(holders, ready []*peer, wanted func(int) bool) int {
	n, rank, fetching := len(j.m.Chunks), 0, 1
	for _, p := range holders {
		if count(p.w.have) < n {
			fetching++
			if p.src.Name < j.s.cfg.Self {
				rank++
			}
		}
	}
	start := rank * n / fetching
	best, least, seen := -1, math.MaxInt, 0
	for k := 0; k < n && seen < lookFor && least > 1; k++ {
		i := (start + k) % n
		if !wanted(i) || !held(ready, i) {
			continue
		}
		seen++
		have := 0
		for _, p := range holders {
			if p.w.has(i) {
				have++
			}
		}
		if have < least {
			best, least = i, have
		}
	}
	return best
}

// next returns what is asked of a peer next: what readers come to, else the rarest. -1: nothing. The caller holds mu.
func (j *job) next(holders, ready []*peer, wanted func(int) bool) int {
	for _, at := range j.readers() {
		for i := range j.ahead(at) {
			if wanted(i) && held(ready, i) {
				return i
			}
		}
	}
	return j.rarest(holders, ready, wanted)
}

// pressLeast is how many chunks may break off over the line for who reads, whatever the size of the asset; else one in twiceShare: who reads
// now here and now there, or tells that somebody does, neither has the line carry them again and again nor holds up what comes.
const pressLeast = 4

// pressing tells whether what comes over the line now makes way: a reader, here or at a peer, waits for a chunk of which nothing comes, and which
// this agent may fetch; what comes now nobody waits for. The caller holds mu.
func (j *job) pressing(now time.Time) bool {
	if j.m == nil || !j.line.trying || j.line.next >= len(j.m.Chunks) || j.pressed >= max(pressLeast, len(j.m.Chunks)/twiceShare) {
		return false
	}
	readers, needed := j.readers(), j.needed(now)
	if len(readers)+len(needed) == 0 {
		return false
	}
	holders := j.holders(now)
	waits := func(i int) bool { // nobody brings it
		return !bit(j.have, i) && j.busy[i] == 0 && !held(holders, i) && j.may(stripeOf(j.m, i), now)
	}
	press := false
	for _, at := range readers {
		for i := range j.ahead(at) {
			if i == j.line.next {
				return false
			}
			press = press || i == at && waits(i)
		}
	}
	for _, stripe := range needed {
		if j.line.stripe == stripe {
			return false
		}
		first, n := j.stripe(stripe)
		for i := first; i < first+n; i++ {
			press = press || waits(i)
		}
	}
	return press
}
