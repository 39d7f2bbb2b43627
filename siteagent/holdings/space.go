package holdings

import (
	"context"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/blob"
)

const (
	// Where less than highFree percent of the disk is free, assets go until lowFree percent are: 85 and 70 % full (mesh.md section 4).
	highFree, lowFree = 15, 30
	// leastFree is the high watermark of small disks: 1 GiB above what storage/state refuses users' writes at, so that assets go first.
	leastFree = 3 << 30
)

// watermarks returns how much must be free at least, and how much once there is less.
func watermarks(sp blob.Space) (high, low uint64) {
	high = max(sp.Total/100*highFree, leastFree)
	return high, high * lowFree / highFree
}

// watermarks makes room where the disk is nearly full.
func (k *Keeper) watermarks(ctx context.Context) {
	sp, err := k.cfg.Blobs.Space()
	if err != nil {
		k.cfg.Log.Warn("cannot read free space", "err", err)
		return
	}
	if high, low := watermarks(sp); sp.Free < high {
		k.clear(ctx, low)
	}
}

// makeRoom makes room for an asset that is to be fetched, unless it would not fit though everything went that may.
func (k *Keeper) makeRoom(ctx context.Context, s *intent.AssetSpec) {
	sp, err := k.cfg.Blobs.Space()
	if err != nil {
		return // the fetch will say so
	}
	need := sp.Reserve + s.Size
	for _, i := range k.cfg.Blobs.List() {
		if i.Digest == s.Digest {
			need -= i.Octets
		}
	}
	if sp.Free >= need {
		return
	}
	p, _ := k.plan()
	could := sp.Free
	for _, i := range p.May {
		if i.Digest != s.Digest {
			could += i.Octets
		}
	}
	if could >= need {
		k.clear(ctx, need)
	}
}

// clear deletes what may go until free octets are free: what no intent wants, and what enough others keep.
func (k *Keeper) clear(ctx context.Context, free uint64) {
	select {
	case k.clearing <- struct{}{}:
		defer func() { <-k.clearing }()
	case <-ctx.Done():
		return
	}
	p, _ := k.plan()
	for _, i := range p.May {
		if len(p.Elsewhere[i.Digest]) > 0 { // is it the last copy? Words from before may be wrong by now
			k.hear(ctx)
			break
		}
	}
	p, _ = k.plan() // they may have taken two seconds to answer
	k.pin(p)
	gone := uint64(0) // what a reader has open still takes its room for a while
	for _, i := range p.May {
		sp, err := k.cfg.Blobs.Space()
		if err != nil || sp.Free+gone >= free || ctx.Err() != nil || !k.cfg.Sure() {
			return
		}
		why := "no intent wants it"
		if keepers := p.Elsewhere[i.Digest]; len(keepers) > 0 {
			if !k.kept(i.Digest, keepers) {
				continue
			}
			why = strings.Join(keepers, " and ") + " keep it"
		}
		if err := k.cfg.Blobs.Delete(i.Digest); err != nil {
			k.cfg.Log.Warn("asset not evicted", "asset", i.Digest.Short(), "err", err)
			continue
		}
		if after, err := k.cfg.Blobs.Space(); err == nil && after.Free < sp.Free+i.Octets {
			gone += sp.Free + i.Octets - after.Free
		}
		k.gone(i.Digest, i.Octets, "the disk is nearly full and "+why)
	}
}

// kept tells whether each of the keepers has just said that it has all of d and holds on to it, and who lives has not changed lately:
// agents that see each other differently could else each rely on the other. Who is not heard has nothing.
func (k *Keeper) kept(d intent.Digest, keepers []string) bool {
	if _, steady := counting(k.cfg.Members(), k.cfg.Self, time.Now()); !steady {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range keepers {
		h, ok := k.heard[id]
		if !ok || time.Since(h.at) > lookEvery {
			return false
		}
		if a, ok := h.r.of(d); !ok || !a.Complete || !a.Keeps() {
			return false
		}
	}
	return true
}
