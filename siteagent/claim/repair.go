package claim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

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

// Repair puts right what is damaged of the journal. A record names the hash of the one before, so one that is lost above its chain's
// base is known by its hash whoever gives it: the view, which keeps the newest record of each key, or a live peer. Below the base there
// is no hash to know it by, and a peer's copy of the chain stands for it. What is lost at the end of a chain and reached no live peer is
// given up when all were compared. The view is then folded again. Errors name what is still missing.
func (j *Journal) Repair(ctx context.Context) error {
	r := &repairer{found: map[recordID]Record{}}
	j.mu.Lock()
	r.peers = j.peers
	j.mu.Unlock()
	level := j.compared(ctx, r.peers)
	j.mu.Lock()
	heads := maps.Clone(j.heads)
	for _, have := range j.view {
		r.found[recordID{have.Agent, have.Seq}] = have
	}
	j.mu.Unlock()
	var errs []error
	for _, agent := range slices.Sorted(maps.Keys(heads)) {
		base, err := j.refetch(ctx, r, agent, heads[agent])
		if err == nil && base > 0 {
			err = j.refetchBelow(ctx, r, agent, base)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if level {
		lost, err := j.beyond()
		if err != nil {
			return err
		}
		r.lost = append(r.lost, lost...)
	}
	view := maps.Clone(j.view)
	if err := j.db.Repair(bucketJournal, j.all(r.found, view), r.lost...); err != nil {
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
	j.view, j.shared = view, map[viewKey]decoded{}
	j.rev++
	close(j.wake)
	j.wake = make(chan struct{})
	return nil
}

// repairer is what one Repair has.
type repairer struct {
	peers Peers
	found map[recordID]Record // what can be put where something cannot be read
	lost  []string            // keys of records that nobody has any more, for newer ones replaced them
}

// compared tells whether this journal has all that any live peer has, and each of them all of this agent's chain.
func (j *Journal) compared(ctx context.Context, peers Peers) bool {
	if peers == nil || len(peers.Live()) == 0 {
		return false
	}
	if err := errors.Join(j.Catch(ctx), j.replicate(ctx, peers)); err != nil {
		j.log.Warn("ends of the journal not compared with live peers", "err", err)
		return false
	}
	return j.Level()
}

// beyond lists what cannot be read after the ends of the chains. The caller holds the lock.
func (j *Journal) beyond() (keys []string, err error) {
	damaged, err := j.db.Damaged(bucketJournal)
	for _, k := range damaged {
		if agent, seq, ok := splitJournalKey(k); ok && seq > j.heads[agent].seq {
			keys = append(keys, k)
		}
	}
	return keys, err
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

// refetch follows an agent's chain from its head down to its base and asks peers for what cannot be read. What was not stored and fits
// goes into found.
func (j *Journal) refetch(ctx context.Context, rep *repairer, agent string, head chainHead) (base uint64, err error) {
	j.mu.Lock()
	base = j.base(agent)
	j.mu.Unlock()
	want := head.hash
	for seq := head.seq; seq > base; seq-- {
		id := recordID{agent, seq}
		fits := func(r Record) bool {
			hash, err := hashRecord(r)
			return err == nil && hash == want && r.Agent == agent && r.Seq == seq
		}
		r, err := j.read(agent, seq)
		if err != nil || !fits(r) {
			if r = rep.found[id]; !fits(r) {
				j.ask(ctx, rep, agent, seq)
				r = rep.found[id]
			}
			if !fits(r) {
				return 0, fmt.Errorf("cannot repair journal: record %d of %s is lost and no peer gave it: %w", seq, agent, errors.Join(state.ErrDamaged, err))
			}
			rep.found[id] = r
		}
		if r.Kind == kindBase && r.Key == agent { // the view may have lost it
			base = max(base, baseOf(r))
		}
		want = r.Prev
	}
	if base == 0 && want != (intent.Digest{}) {
		return 0, fmt.Errorf("cannot repair journal: the chain of %s begins elsewhere: %w", agent, ErrChain)
	}
	return base, nil
}

// ask takes up to MaxPull records that end at seq from the first live peer that has that one.
func (j *Journal) ask(ctx context.Context, rep *repairer, agent string, seq uint64) {
	if rep.peers == nil {
		return
	}
	from := seq - min(seq-1, MaxPull-1)
	for _, p := range rep.peers.Live() {
		_ = rep.take(ctx, p, agent, from, seq)
		if _, ok := rep.found[recordID{agent, seq}]; ok {
			return
		}
	}
}

// take asks a peer for what it has of an agent's chain from one number to another.
func (rep *repairer) take(ctx context.Context, peer, agent string, from, to uint64) error {
	for from <= to { // an answer may be cut by its size
		pctx, cancel := context.WithTimeout(ctx, pushTimeout)
		page, err := rep.peers.Pull(pctx, peer, agent, from)
		cancel()
		if err != nil {
			return err
		}
		last := uint64(0)
		for _, r := range page.Records {
			if r.Agent == agent && r.bounded() && r.Seq >= from && r.Seq <= to+MaxPull {
				rep.found[recordID{agent, r.Seq}] = r
			}
			last = max(last, min(r.Seq, maxSeq))
		}
		if last < from {
			return fmt.Errorf("%s has nothing from %d on: %w", peer, from, state.ErrAbsent)
		}
		from = last + 1
	}
	return nil
}

// refetchBelow completes what is there of a chain up to its base from what live peers have there. Without them nothing may be known to
// be lost: a record that vanished with its key leaves no trace but the bucket's count.
func (j *Journal) refetchBelow(ctx context.Context, rep *repairer, agent string, base uint64) error {
	var damaged []string
	missing := 0
	err := j.db.View(func(tx *state.Tx) error {
		all, err := tx.Keys(bucketJournal, "", "", -1)
		if err != nil {
			return err
		}
		want, err := tx.Count(bucketJournal)
		if err != nil {
			return err
		}
		missing = int(want) - len(all)
		for id := range rep.found {
			if _, have := slices.BinarySearch(all, journalKey(id.agent, id.seq)); !have {
				missing--
			}
		}
		for _, k := range all {
			if !strings.HasPrefix(k, agent+"/") || k > journalKey(agent, base) {
				continue
			}
			if _, err := tx.Get(bucketJournal, k); err != nil && !rep.has(k) {
				damaged = append(damaged, k)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	heard := false
	if rep.peers != nil {
		for _, p := range rep.peers.Live() {
			heard = rep.take(ctx, p, agent, 1, base) == nil || heard
		}
	}
	if !heard && (missing > 0 || len(damaged) > 0) {
		return fmt.Errorf("cannot repair journal: records of %s up to %d are lost and no peer gave them: %w", agent, base, state.ErrDamaged)
	}
	rep.lost = append(rep.lost, slices.DeleteFunc(damaged, rep.has)...)
	return nil
}

func (rep *repairer) has(key string) bool {
	agent, seq, ok := splitJournalKey(key)
	_, found := rep.found[recordID{agent, seq}]
	return ok && found
}

// all yields every record of every chain and folds it into view. The caller holds the lock.
func (j *Journal) all(found map[recordID]Record, view map[viewKey]Record) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		var keys []string
		err := j.db.View(func(tx *state.Tx) (err error) {
			keys, err = tx.Keys(bucketJournal, "", "", -1)
			return err
		})
		if err != nil {
			return // the store's Repair finds that it cannot be read
		}
		for id := range found {
			keys = append(keys, journalKey(id.agent, id.seq))
		}
		slices.Sort(keys)
		for _, key := range slices.Compact(keys) {
			agent, seq, ok := splitJournalKey(key)
			if !ok {
				continue
			}
			r, err := j.read(agent, seq)
			if err != nil {
				r = found[recordID{agent, seq}]
			}
			if r.Seq != seq || seq > j.heads[agent].seq {
				continue // of no chain, or it cannot be read, which the store's Repair finds
			}
			k := viewKey{r.Kind, r.Key}
			if old, ok := view[k]; r.Key != "" && (!ok || newer(r, old)) {
				view[k] = r
			}
			b, err := json.Marshal(r)
			if err != nil || !yield(key, b) {
				return
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
