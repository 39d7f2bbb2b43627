package claim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
)

// replicate pushes what live peers lack, to all at once.
func (j *Journal) replicate(ctx context.Context, peers Peers) error {
	live := peers.Live()
	errs := make([]error, len(live))
	var wg sync.WaitGroup
	for i, p := range live {
		wg.Go(func() { errs[i] = j.pushTo(ctx, peers, p) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil && slices.Contains(peers.Live(), live[i]) {
			return fmt.Errorf("cannot copy journal to %s: %w: %w", live[i], ErrWaitingPeer, err)
		}
	}
	return nil
}

// compare asks the live peers that were not heard in this life how far they have this agent's chain, before it grows: an older
// copy in the place of this store would write other records than those that they hold. A peer that does not answer stops nobody.
func (j *Journal) compare(ctx context.Context, peers Peers) {
	if peers == nil {
		return
	}
	for _, p := range peers.Live() {
		j.mu.Lock()
		_, known := j.acked[p]
		j.mu.Unlock()
		if known {
			continue
		}
		if err := j.pushTo(ctx, peers, p); err != nil {
			j.log.Warn("journal not compared with a live peer", "peer", p, "err", err)
		}
	}
}

func (j *Journal) pushTo(ctx context.Context, peers Peers, peer string) error {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	for {
		j.mu.Lock()
		last, known := j.acked[peer]
		head := j.heads[j.self].seq
		j.mu.Unlock()
		if known && last >= head {
			return nil
		}
		var page Page
		if known {
			var err error
			if page, err = j.Range(j.self, last+1, MaxPull); err != nil {
				return err
			}
			if len(page.Records) == 0 {
				return fmt.Errorf("own record %d cannot be read: %w", last+1, state.ErrDamaged)
			}
		}
		got, err := peers.Push(ctx, peer, page) // an empty push asks how far the peer is
		if err != nil {
			return err
		}
		j.mu.Lock()
		own := j.heads[j.self].seq // it may have grown, and been pushed, meanwhile
		if got <= own {
			j.acked[peer] = min(got, head)
		}
		j.mu.Unlock()
		if got > own {
			if err := j.reclaim(ctx, peers, peer, got); err != nil {
				return err
			}
			continue
		}
		if known && got <= last {
			return fmt.Errorf("peer stays at %d: %w", got, ErrChain)
		}
	}
}

// reclaim takes back the end of this agent's own chain from a peer: its store lost it. Errors: ErrChain when other records
// were written since; then no step that must be replicated goes on until an operator decides.
func (j *Journal) reclaim(ctx context.Context, peers Peers, peer string, has uint64) error {
	// A peer holds more of this agent's chain than the agent: an older copy was put in its place, marks and all.
	if !j.db.Recovering() {
		if err := j.db.SetRecovering("a peer holds a later end of this agent's journal"); err != nil {
			return err
		}
	}
	j.mu.Lock()
	head := j.heads[j.self]
	j.mu.Unlock()
	from := head.seq + 1
	page, err := peers.Pull(ctx, peer, j.self, from)
	if err == nil && page.Base > 0 && head.seq > 0 {
		// Over a gap a fork would not be seen: the peer must have the record that this store ends with.
		var same Page
		same, err = peers.Pull(ctx, peer, j.self, head.seq)
		if len(same.Records) == 0 || !sameAs(same.Records[0], head) {
			page.Base = 0
		}
	}
	if err != nil {
		return fmt.Errorf("cannot take back own records from %d: %w", from, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	last, err := j.take(j.self, page)
	if err == nil && last < has && len(page.Records) == 0 {
		err = ErrChain
	}
	if err != nil {
		return fmt.Errorf("cannot take back own records, %s has %d and this agent %d: %w", peer, has, last, err)
	}
	j.log.Warn("took back own journal records that this store had lost", "peer", peer, "from", from, "last", last)
	return nil
}

func sameAs(r Record, head chainHead) bool {
	hash, err := hashRecord(r)
	return err == nil && r.Seq == head.seq && hash == head.hash
}

// Run pushes and pulls what was missed, until ctx ends.
func (j *Journal) Run(ctx context.Context) error {
	tick := time.NewTicker(pullEvery)
	defer tick.Stop()
	for {
		_, wake := j.Rev()
		j.mu.Lock()
		peers := j.peers
		j.mu.Unlock()
		if peers != nil {
			if err := j.replicate(ctx, peers); err != nil && ctx.Err() == nil {
				j.log.Debug("journal copy is late", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if peers != nil {
				j.pull(ctx, peers)
			}
			if err := j.Prune(ctx, j.Keep); err != nil && ctx.Err() == nil {
				j.log.Debug("journal not pruned", "err", err)
			}
		case <-wake:
			// Records that come together go together: peers stand 100 requests a second (mesh.md section 1).
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(gather):
			}
		}
	}
}

// gather is how long a local record may wait for company; a copy that somebody waits for does not wait.
const gather = 25 * time.Millisecond

// maxChains bounds the agents whose journals a peer may have: the few of a site, and those that they replaced over the years.
const maxChains = 1024

// pull asks each live peer for all that it has, so that an agent that was away learns what it missed, also of those that are gone:
// what they decided stands.
func (j *Journal) pull(ctx context.Context, peers Peers) {
	for _, p := range peers.Live() {
		if err := j.pullAll(ctx, peers, p); err != nil {
			j.log.Debug("cannot pull journal", "peer", p, "err", err)
		}
	}
}

// pullAll takes from a peer every chain of which it has more than we. One that does not link keeps none of the others back.
func (j *Journal) pullAll(ctx context.Context, peers Peers, peer string) error {
	began := time.Now()
	hctx, cancel := context.WithTimeout(ctx, pushTimeout)
	theirs, err := peers.Heads(hctx, peer)
	cancel()
	if err != nil {
		return err
	}
	if len(theirs) > maxChains {
		return fmt.Errorf("cannot take the journals of %d agents from %s: at most %d", len(theirs), peer, maxChains)
	}
	ours := j.Heads()
	for _, agent := range slices.Sorted(maps.Keys(theirs)) {
		if agent == j.self || theirs[agent] <= ours[agent] || !intent.IsLabel(agent) {
			continue
		}
		if perr := j.pullFrom(ctx, peers, peer, agent); perr != nil {
			err = errors.Join(err, fmt.Errorf("cannot take the journal of %s: %w", agent, perr))
		}
	}
	j.mu.Lock()
	if j.heads[peer].seq >= theirs[peer] { // its own chain decides: it may hold another's that links to nothing here
		j.heard[peer] = began
	}
	j.mu.Unlock()
	return err
}

// Heard returns a time up to which all that a peer wrote is here; zero: unknown in this life.
func (j *Journal) Heard(peer string) time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.heard[peer]
}

// pullFrom takes from a peer what it has of an agent's chain beyond ours.
func (j *Journal) pullFrom(ctx context.Context, peers Peers, peer, agent string) error {
	for {
		pctx, cancel := context.WithTimeout(ctx, pushTimeout)
		page, err := peers.Pull(pctx, peer, agent, j.Heads()[agent]+1)
		cancel()
		if err != nil || len(page.Records) == 0 {
			return err
		}
		if _, err := j.Receive(agent, page); err != nil {
			j.log.Warn("journal does not link", "peer", peer, "agent", agent, "err", err)
			return err
		}
	}
}

// Catch takes from every live peer all that it has, its own chain and others'. A decision is made after it: who was parted from
// this agent until a moment ago may have decided the same. Errors name a live peer that did not answer.
func (j *Journal) Catch(ctx context.Context) error {
	j.mu.Lock()
	peers := j.peers
	j.mu.Unlock()
	if peers == nil {
		return nil
	}
	for _, p := range peers.Live() {
		if err := j.pullAll(ctx, peers, p); err != nil {
			return fmt.Errorf("cannot learn what %s knows: %w", p, err)
		}
	}
	return nil
}

// Level tells whether every live peer holds this agent's chain to its end: nothing of it is missing here, nothing there.
func (j *Journal) Level() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.peers == nil {
		return false
	}
	for _, p := range j.peers.Live() {
		if last, known := j.acked[p]; !known || last != j.heads[j.self].seq {
			return false
		}
	}
	return true
}
