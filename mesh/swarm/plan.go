package swarm

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	// stripeSize is what one agent fetches from the coordinator for all; a chunk belongs to the stripe of its first octet.
	stripeSize = 16 << 20
	// leastPatience is how long an owner may be silent whatever its line does (mesh.md section 5), mostPatience how long at most: two
	// times what the coordinator may be silent, so that a session that broke off can be replaced. firstPatience holds until its first
	// octet, and idlePatience for the word of an agent that fetches nothing.
	leastPatience = 5 * time.Second
	mostPatience  = 2 * wanSilence
	firstPatience = 30 * time.Second
	idlePatience  = 30 * time.Second
	// turn is how long nothing may move before the next in order does not wait any longer for one that says that it could.
	turn = 30 * time.Second
	// ownerWait is how long an owner may bring no whole chunk, and give none to this agent, whatever it says: the usual 1 MiB at 2.3 kbit/s.
	ownerWait = time.Hour
	// An order to another site that brings less than thinRate octets a second for thinAfter makes way for somebody else who has it: the
	// nearest by the time of an answer may be the one with the thinnest line.
	thinAfter = 10 * time.Second
	thinRate  = 64 << 10
	// decay is how much of the line's past counts for the estimate.
	decay = 30 * time.Second
)

// weight orders the agents of a stripe: the highest owns it. Source: as claim.Rendezvous, with the stripe in the middle.
func weight(d intent.Digest, stripe uint32, agent string) uint64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s|%d|%s", d.Hex(), stripe, agent))
	return binary.BigEndian.Uint64(sum[:])
}

// better tells whether agent a comes before b in the order of a stripe.
func better(d intent.Digest, stripe uint32, a, b string) bool {
	return cmp.Or(cmp.Compare(weight(d, stripe, b), weight(d, stripe, a)), cmp.Compare(a, b)) < 0
}

func stripeOf(m *chunk.Manifest, i int) uint32 {
	off, _ := m.ChunkRange(i)
	return uint32(off / stripeSize)
}

func count(b []byte) (n int) {
	for _, v := range b {
		n += bits.OnesCount8(v)
	}
	return n
}

// peer is another agent as a job sees it.
type peer struct {
	src    Source
	place  int       // in the list of Peers
	live   bool      // it is in that list
	since  time.Time // it was listened to
	heard  time.Time // last; zero: never
	failed bool      // it could not be asked, and was never heard
	w      *word     // nil: never heard
	grew   time.Time // what it has, or took from the coordinator, or it began a stripe
	gained time.Time // a chunk, or it began a stripe
	gave   time.Time // a chunk to this agent; before the first, when it was listened to
}

// hear takes a word, and tells whether something grew.
func (p *peer) hear(w *word, now time.Time) bool {
	old := p.w
	p.w, p.heard = w, now
	if old == nil {
		p.grew, p.gained = now, now
		return count(w.have) > 0
	}
	more := count(w.have) > count(old.have)
	began := w.stripe != old.stripe && w.stripe != noStripe
	if more || began {
		p.gained = now
	}
	came := w.octets > old.octets && (w.stripe != noStripe || old.stripe != noStripe)
	if more || began || came {
		p.grew = now
	}
	return more || came
}

// fresh tells whether what it said last still holds. Of an agent that gossip does not see any more little is believed.
func (p *peer) fresh(now time.Time) bool {
	if p.w == nil {
		return false
	}
	if !p.live {
		return now.Sub(p.heard) <= leastPatience
	}
	return now.Sub(p.heard) <= p.w.patience
}

// pending: it was not heard yet, and may be.
func (p *peer) pending(now time.Time) bool { return p.w == nil && p.live && now.Sub(p.since) < silence }

// moves tells whether what it fetches from the coordinator grows; a chunk must come now and then, whatever it says of octets.
func (p *peer) moves(now time.Time) bool {
	return now.Sub(p.grew) <= 2*p.w.patience && now.Sub(p.gained) <= ownerWait
}

// able tells whether it may fetch a stripe from the coordinator. One that was not heard yet counts.
func (p *peer) able(now time.Time) bool {
	if p.w == nil {
		return p.pending(now)
	}
	return p.fresh(now) && p.w.able && (p.w.stripe == noStripe || p.moves(now))
}

// fetches tells whether it fetches this stripe from the coordinator.
func (p *peer) fetches(stripe uint32, now time.Time) bool {
	return p.fresh(now) && p.w.able && p.w.stripe == stripe && p.moves(now)
}

// line is what this agent has to do with the coordinator and with agents of other sites, for one asset.
type line struct {
	up      bool   // somebody may be asked
	out     bool   // it asks the coordinator no more, for the rest of this Fetch
	closed  error  // why the budget lets nothing come now; nil: it does
	shunned bool   // others would fetch again what it fetches
	stripe  uint32 // that it fetches, or noStripe
	claimed time.Time
	next    int       // chunk that comes, or is asked for
	src     Source    // whom it asked last
	trying  bool      // an order is sent, or is to be sent again
	moved   time.Time // last octet; before the first, when it began to try
	octets  uint64
	sent    time.Time // the order that is under way, and the octets that had come by then
	had     uint64
	gained  float64 // octets of late
	spent   time.Duration
	mark    time.Time
	cancel  func(error) // ends the order that is under way
}

// pick returns whom the next order goes to: the first of those above, or, while the line is broken, whom the last one went to.
func (l *line) pick(above []Source) Source {
	if len(above) > 0 {
		l.src = above[0]
	}
	return l.src
}

// thin tells whether an order to another site, or to a URL, brings so little that it is worth asking somebody else.
func (l *line) thin(now time.Time) bool {
	took := now.Sub(l.sent)
	return l.src.spare() && l.cancel != nil && took >= thinAfter && float64(l.octets-l.had) < thinRate*took.Seconds()
}

// begin notes that an order is sent.
func (l *line) begin(now time.Time) {
	l.sent, l.had = now, l.octets
	if !l.trying {
		l.trying, l.moved = true, now
	}
	l.mark = now
}

// arrive notes n octets.
func (l *line) arrive(n int, now time.Time) {
	l.octets += uint64(n)
	l.gained += float64(n)
	l.spent += now.Sub(l.mark)
	l.mark, l.moved = now, now
	if l.spent > decay {
		l.gained, l.spent = l.gained/2, l.spent/2
	}
}

// able tells whether it can fetch chunks. A line that breaks while a chunk comes has a while to come back.
func (l *line) able() bool { return l.closed == nil && l.reached() }

// reached tells whether it can fetch what the budget does not count: a manifest.
func (l *line) reached() bool { return !l.shunned && (l.up || l.trying) }

// patience is how long the line may bring nothing: twice what a chunk takes, at the pace of late. To fetch it anew elsewhere would take as
// long again.
func (l *line) patience(chunkSize int) time.Duration {
	if l.stripe == noStripe {
		return idlePatience
	}
	if l.gained == 0 {
		return firstPatience
	}
	estimate := time.Duration(float64(l.spent) * min(float64(chunkSize)/l.gained, 1e6))
	return min(max(2*estimate, leastPatience), mostPatience)
}

// silent tells whether it must give up.
func (l *line) silent(chunkSize int, now time.Time) bool {
	return l.trying && now.Sub(l.moved) > l.patience(chunkSize)
}

// may tells whether this agent may fetch a stripe from the coordinator now. The first in order among those who can does; who fetches
// goes on until one that comes before it in the order does so too.
func (j *job) may(stripe uint32, now time.Time) bool {
	mine, first := j.line.stripe == stripe && j.line.trying, 0 // a claim alone gives way
	for name, p := range j.peers {
		before := better(j.d, stripe, name, j.s.cfg.Self)
		switch {
		case j.s.account(j.d, p.src).strikes >= strikes, now.Sub(p.gave) > ownerWait: // what it fetches is worth nothing here
		case p.fetches(stripe, now) && (before || !mine):
			return false
		case mine:
		case p.pending(now): // it may be fetching it
			return false
		case before && p.able(now):
			first++
		}
	}
	return mine || now.Sub(j.grew) >= time.Duration(first)*turn
}

// shunned tells whether most of the peers, and more than one, take no chunk from this agent: its memory or disk is bad, and what it
// fetches from the coordinator comes a second time. It takes all from them then, while something moves.
func (j *job) shunned(now time.Time) bool {
	out, heard := 0, 0
	for _, p := range j.peers {
		if p.fresh(now) {
			heard++
			if p.w.out {
				out++
			}
		}
	}
	return out > 1 && 2*out > heard && now.Sub(j.grew) < turn
}

// holders returns the peers whose chunks can be asked for, now or soon.
func (j *job) holders(now time.Time) (out []*peer) {
	for _, p := range j.peers {
		if p.w != nil && p.w.manifest == j.manifest && (p.live || p.fresh(now)) && !j.s.account(j.d, p.src).out() {
			out = append(out, p)
		}
	}
	return out
}

func held(by []*peer, i int) bool {
	return slices.ContainsFunc(by, func(p *peer) bool { return p.w.has(i) })
}

// fromOrigin picks what is asked of the coordinator next: a run inside one stripe that no peer has. n = 0: the manifest.
func (j *job) fromOrigin(now time.Time) (first, n int, ok bool) {
	if !j.met || !j.line.reached() || j.m != nil && j.line.closed != nil || j.fatal != nil {
		return 0, 0, false
	}
	holders := j.holders(now)
	if j.m == nil {
		return 0, 0, len(holders) == 0 && j.may(0, now)
	}
	wanted := func(i int) bool { return !bit(j.have, i) && j.busy[i] == 0 && !held(holders, i) }
	refused := uint32(noStripe)
	for i := range j.wishes(now) {
		s := stripeOf(j.m, i)
		if s == refused || !wanted(i) {
			continue
		}
		if !j.may(s, now) {
			refused = s
			continue
		}
		for n = 1; n < maxRun && i+n < len(j.m.Chunks) && stripeOf(j.m, i+n) == s && wanted(i+n); n++ {
		}
		return i, n, true
	}
	return 0, 0, false
}

// fromPeer picks what is asked of which peer next: first what a peer sent most of, then what readers come to, then the rarest chunk. Nil:
// nothing. n = 0: the manifest.
func (j *job) fromPeer(now time.Time) (p *peer, first, n int) {
	holders := j.holders(now)
	ready := slices.DeleteFunc(slices.Clone(holders), func(p *peer) bool {
		a := j.s.account(j.d, p.src)
		return now.Before(a.until) || a.orders > 1 || a.orders == 1 && !a.quick
	})
	slices.SortFunc(ready, func(p, q *peer) int { // who failed less, who has less to do, who comes first in the list
		a, b := j.s.account(j.d, p.src), j.s.account(j.d, q.src)
		return cmp.Or(cmp.Compare(a.fails, b.fails), cmp.Compare(a.orders, b.orders), cmp.Compare(p.place, q.place))
	})
	// One peer at first: on a full disk what others send meanwhile would be thrown away.
	proving := !j.stored && !j.asked.IsZero() && now.Sub(j.asked) < lookAgain
	if len(ready) == 0 || j.fatal != nil || proving || j.m == nil && j.busy[manifestBusy] > 0 {
		return nil, 0, 0
	}
	if j.m == nil {
		return ready[0], 0, 0
	}
	wanted := func(i int) bool { return !bit(j.have, i) && j.busy[i] == 0 }
	most := 0
	for _, q := range ready {
		if part := j.s.account(j.d, q.src).part; part != nil && len(part.b) > most && wanted(part.chunk) && q.w.has(part.chunk) {
			p, first, most = q, part.chunk, len(part.b)
		}
	}
	if p == nil {
		if first = j.next(holders, ready, wanted); first < 0 {
			return nil, 0, 0
		}
		p = ready[slices.IndexFunc(ready, func(p *peer) bool { return p.w.has(first) })]
	}
	for n = 1; n < maxRun && first+n < len(j.m.Chunks) && wanted(first+n) && p.w.has(first+n); n++ {
	}
	return p, first, n
}

// hope tells whether anybody may bring something: who was not heard yet, who can fetch it, who has something that is missing.
func (j *job) hope(now time.Time) bool {
	if j.line.able() || j.line.closed != nil {
		return true
	}
	for _, p := range j.peers {
		liar := j.s.account(j.d, p.src).strikes >= strikes
		if p.pending(now) && !p.failed || p.w != nil && p.able(now) && !liar {
			return true
		}
	}
	holders := j.holders(now)
	if j.m == nil {
		return len(holders) > 0
	}
	for i := range j.m.Chunks {
		if !bit(j.have, i) && held(holders, i) {
			return true
		}
	}
	return false
}
