package console

import (
	"context"
	"sync"
)

const (
	firstRing = 16 << 10 // octets: 1,000 machines that say little cost 16 MiB
	maxRing   = 1 << 20
)

// ring is the newest octets of a console. Octets are counted from 0, which is the first one ever; readers keep their own place.
type ring struct {
	more func(n int) bool // asks for n more octets of memory

	mu   sync.Mutex // guards what follows
	buf  []byte
	end  uint64        // octets ever appended
	wake chan struct{} // closed by the next append
}

func newRing(more func(int) bool) *ring {
	return &ring{more: more, buf: make([]byte, firstRing), wake: make(chan struct{})}
}

// append adds p, over the oldest octets if it must.
func (r *ring) append(p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.end+uint64(len(p)) > uint64(len(r.buf)) && len(r.buf) < maxRing && r.more(len(r.buf)) {
		grown := make([]byte, 2*len(r.buf))
		for at := r.start(); at < r.end; { // an octet's place is its number modulo the length
			piece := r.piece(at)
			copy(grown[at%uint64(len(grown)):], piece)
			if n := uint64(len(grown)) - at%uint64(len(grown)); n < uint64(len(piece)) {
				copy(grown, piece[n:])
			}
			at += uint64(len(piece))
		}
		r.buf = grown
	}
	for len(p) > 0 {
		n := copy(r.buf[r.end%uint64(len(r.buf)):], p)
		p, r.end = p[n:], r.end+uint64(n)
	}
	close(r.wake)
	r.wake = make(chan struct{})
}

// start is the oldest octet that is still there.
func (r *ring) start() uint64 { return r.end - min(r.end, uint64(len(r.buf))) }

// piece returns what lies in one piece from at on; it is the ring's own.
func (r *ring) piece(at uint64) []byte {
	i := at % uint64(len(r.buf))
	return r.buf[i:min(uint64(len(r.buf)), i+r.end-at)]
}

// next waits for octets from at on and copies up to len(p) of them. skipped is how many of them were overwritten before.
func (r *ring) next(ctx context.Context, at uint64, p []byte) (n int, skipped uint64, err error) {
	for {
		r.mu.Lock()
		if at < r.end {
			if s := r.start(); at < s {
				at, skipped = s, s-at
			}
			n = copy(p, r.piece(at))
			r.mu.Unlock()
			return n, skipped, nil
		}
		wake := r.wake
		r.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
}

// all returns what is there, and the number of the next octet.
func (r *ring) all() (b []byte, end uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for at := r.start(); at < r.end; {
		p := r.piece(at)
		b, at = append(b, p...), at+uint64(len(p))
	}
	return b, r.end
}
