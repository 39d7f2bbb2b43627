package claim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
)

// Buckets lists the buckets that Journal.Repair (journal and view) and Claims.Repair (promises) put right.
func Buckets() (journal, promises []string) {
	return []string{bucketJournal, bucketView}, []string{bucketPromise}
}

type recordID struct {
	agent string
	seq   uint64
}

// Repair puts right what is damaged of the journal. A record names the hash of the one before, so the lost one is known by its
// hash whoever gives it: the view, which keeps the newest record of each key, or a live peer. The view is then folded again.
// Errors name what is still missing.
func (j *Journal) Repair(ctx context.Context) error {
	found := map[recordID]Record{}
	j.mu.Lock()
	heads, peers := maps.Clone(j.heads), j.peers
	for _, r := range j.view {
		found[recordID{r.Agent, r.Seq}] = r
	}
	j.mu.Unlock()
	var errs []error
	for _, agent := range slices.Sorted(maps.Keys(heads)) {
		errs = append(errs, j.refetch(ctx, peers, agent, heads[agent], found))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	view := maps.Clone(j.view)
	if err := j.db.Repair(bucketJournal, j.all(found, view)); err != nil {
		return err
	}
	encoded := map[string][]byte{}
	for k, r := range view {
		b, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("cannot encode record %d of %s: %w", r.Seq, r.Agent, err)
		}
		encoded[k.kind+"/"+k.key] = b
	}
	if err := j.db.Repair(bucketView, maps.All(encoded)); err != nil {
		return err
	}
	j.view = view
	j.rev++
	close(j.wake)
	j.wake = make(chan struct{})
	return nil
}

func (j *Journal) read(agent string, seq uint64) (r Record, err error) {
	err = j.db.View(func(tx *state.Tx) error {
		b, err := tx.Get(bucketJournal, journalKey(agent, seq))
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &r)
	})
	return r, err
}

// refetch follows an agent's chain from its head down to the first record and asks peers for what cannot be read. What was not
// stored and fits goes into found.
func (j *Journal) refetch(ctx context.Context, peers Peers, agent string, head chainHead, found map[recordID]Record) error {
	want := head.hash
	for seq := head.seq; seq > 0; seq-- {
		id := recordID{agent, seq}
		fits := func(r Record) bool {
			hash, err := hashRecord(r)
			return err == nil && hash == want && r.Agent == agent && r.Seq == seq
		}
		r, err := j.read(agent, seq)
		if err != nil || !fits(r) {
			if r = found[id]; !fits(r) {
				j.ask(ctx, peers, agent, seq, found)
				r = found[id]
			}
			if !fits(r) {
				return fmt.Errorf("cannot repair journal: record %d of %s is lost and no peer gave it: %w", seq, agent, errors.Join(state.ErrDamaged, err))
			}
			found[id] = r
		}
		want = r.Prev
	}
	if want != (intent.Digest{}) {
		return fmt.Errorf("cannot repair journal: the chain of %s begins elsewhere: %w", agent, ErrChain)
	}
	return nil
}

// ask takes up to MaxPull records that end at seq from the first live peer that has that one.
func (j *Journal) ask(ctx context.Context, peers Peers, agent string, seq uint64, found map[recordID]Record) {
	if peers == nil {
		return
	}
	from := seq - min(seq-1, MaxPull-1)
	for _, p := range peers.Live() {
		for at := from; at <= seq; { // an answer may be cut by its size
			pctx, cancel := context.WithTimeout(ctx, pushTimeout)
			records, err := peers.Pull(pctx, p, agent, at)
			cancel()
			if err != nil || len(records) == 0 {
				break
			}
			for _, r := range records {
				found[recordID{agent, r.Seq}] = r
			}
			last := records[len(records)-1].Seq
			if last < at {
				break
			}
			at = last + 1
		}
		if _, ok := found[recordID{agent, seq}]; ok {
			return
		}
	}
}

// all yields every record of every chain and folds it into view. The caller holds the lock.
func (j *Journal) all(found map[recordID]Record, view map[viewKey]Record) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for agent, head := range j.heads {
			for seq := uint64(1); seq <= head.seq; seq++ {
				r, err := j.read(agent, seq)
				if err != nil {
					r = found[recordID{agent, seq}]
				}
				if r.Seq != seq {
					continue // the store's Repair finds that it cannot be read
				}
				k := viewKey{r.Kind, r.Key}
				if old, ok := view[k]; r.Key != "" && (!ok || newer(r, old)) {
					view[k] = r
				}
				b, err := json.Marshal(r)
				if err != nil || !yield(journalKey(agent, seq), b) {
					return
				}
			}
		}
	}
}

// Repair puts right a damaged promise table from the peers' tables, as Recover does. What enough of them do not know of was never
// counted in a majority: those records begin anew. Until it returns nil, and until the caller ends the recovery, this agent
// promises nothing. Errors: ErrForgotten, the store's.
func (c *Claims) Repair(ctx context.Context) error {
	db := c.own.db
	if !db.Recovering() {
		if err := db.SetRecovering("promises damaged"); err != nil {
			return err
		}
	}
	if err := c.Recover(ctx); err != nil {
		return err
	}
	c.table.Lock()
	defer c.table.Unlock()
	lost, err := db.Damaged(bucketPromise)
	if err != nil {
		return err
	}
	whole := map[string][]byte{}
	all, err := c.own.all()
	if err != nil && !errors.Is(err, state.ErrDamaged) {
		return err
	}
	for _, id := range lost {
		all = append(all, Promise{ID: id, Released: true})
	}
	for _, p := range all {
		if whole[p.ID], err = json.Marshal(p); err != nil {
			return fmt.Errorf("cannot encode promise of %s: %w", p.ID, err)
		}
	}
	return db.Repair(bucketPromise, maps.All(whole))
}
