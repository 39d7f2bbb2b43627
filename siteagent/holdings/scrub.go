package holdings

import (
	"context"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/storage/blob"
)

const (
	// All that is held is hashed in scrubAll: 2 % a day, twice what mesh.md section 4 asks for. A step takes at least one chunk.
	scrubAll   = 50 * 24 * time.Hour
	scrubEvery = time.Minute
	// suspects bad chunks within suspectTime make a disk suspect.
	suspects    = 2
	suspectTime = 24 * time.Hour
)

// scrub hashes a little of what is held each minute.
func (k *Keeper) scrub(ctx context.Context) {
	t := time.NewTicker(scrubEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		var held uint64
		for _, i := range k.cfg.Blobs.List() {
			held += i.Octets
		}
		r, err := k.cfg.Blobs.Scrub(ctx, scrubStep(held))
		if err != nil && ctx.Err() == nil {
			k.cfg.Log.Warn("cannot scrub assets", "err", err)
		}
		k.mu.Lock()
		k.scrubbed += r.Octets
		k.mu.Unlock()
	}
}

// scrubStep returns how many octets are to be hashed each scrubEvery where that many are held.
func scrubStep(held uint64) uint64 { return held/uint64(scrubAll/scrubEvery) + 1 }

// lately counts the bad chunks of suspectTime. A clock that was set back makes none of them old.
func lately(all []blob.Info, now time.Time) (n int) {
	for _, i := range all {
		for _, at := range i.Damaged {
			if now.Sub(at).Abs() < suspectTime {
				n++
			}
		}
	}
	return n
}

// damage tells of chunks that were found bad since it last looked, whoever read them. They have lost their bits: fetchAll brings them.
func (k *Keeper) damage() {
	k.mu.Lock()
	told, newest := k.told, k.told
	k.mu.Unlock()
	all := k.cfg.Blobs.List()
	recent := lately(all, time.Now())
	for _, i := range all {
		fresh := 0
		for _, at := range i.Damaged {
			if at.After(told) {
				fresh++
			}
			if at.After(newest) {
				newest = at
			}
		}
		if fresh > 0 {
			k.event("asset.damaged", fmt.Sprintf("%s: %d chunks went bad on disk and are fetched again", i.Digest.Short(), fresh), map[string]string{"digest": i.Digest.String()})
		}
	}
	k.mu.Lock()
	was := k.suspect
	k.suspect, k.told = recent >= suspects, newest
	k.mu.Unlock()
	if !was && recent >= suspects {
		k.event("disk.suspect", fmt.Sprintf("disk_suspect: %d chunks went bad within a day; look at the disk's SMART values, and replace it", recent), nil)
	}
}
