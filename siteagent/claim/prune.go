package claim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/skerry-metal/skerry/storage/state"
)

// A chain is dense from its base on. Below it only what is still of use is there: the newest record of each key, and those without a
// key (events, audit). Each agent says the base of its own chain in a record of it, so that all prune alike and a gap below the base is
// told from a loss.

const (
	// kindBase is the kind of records that hold the base of their agent's chain; the key is the agent.
	kindBase = "base"
	// KeepRecords is how many of a chain stay dense: three weeks of two agents that lease to 200 machines for two hours. A peer that was
	// away for longer takes what is left below the base.
	KeepRecords = 50_000
)

// Page is a piece of an agent's chain. Up to Base it may have gaps.
type Page struct {
	Base    uint64   `json:"base,omitempty"`
	Records []Record `json:"records"`
}

// base returns the base of an agent's chain: records up to it may be gone. The caller holds the lock.
func (j *Journal) base(agent string) uint64 {
	r, ok := j.view[viewKey{kindBase, agent}]
	if !ok || r.Agent != agent {
		return 0
	}
	return baseOf(r)
}

// baseOf reads a record of kindBase. It cannot name itself or what comes after it.
func baseOf(r Record) uint64 {
	var n uint64
	if json.Unmarshal(r.Body, &n) != nil || n >= r.Seq {
		return 0
	}
	return n
}

// Range returns up to limit records of an agent's chain from seq on, as far as they can be read. Errors: ErrDamaged where a record
// below the base is lost: who asks would not see it.
func (j *Journal) Range(agent string, from uint64, limit int) (Page, error) {
	return j.page(agent, from, limit, false)
}

// page is Range; with anyway what is lost below the base is passed over.
func (j *Journal) page(agent string, from uint64, limit int, anyway bool) (Page, error) {
	from = max(from, 1)
	j.mu.Lock()
	base := j.base(agent)
	j.mu.Unlock()
	var p Page
	if from <= base {
		p.Base = base
	}
	err := j.db.View(func(tx *state.Tx) error {
		keys, err := tx.Keys(bucketJournal, agent+"/", journalKey(agent, from), limit)
		if err != nil {
			return err
		}
		if p.Base > 0 && !anyway && j.db.Holds()[bucketJournal] != "" {
			return state.ErrDamaged
		}
		next, size := from, 0
		for _, k := range keys {
			var r Record
			b, err := tx.Get(bucketJournal, k)
			if err == nil {
				err = json.Unmarshal(b, &r)
			}
			switch {
			case errors.Is(err, state.ErrDamaged) && next <= base && anyway:
				continue
			case err != nil && next <= base:
				return err
			case errors.Is(err, state.ErrDamaged):
				return nil
			case err != nil:
				return err
			case r.Seq != next && (next > base || r.Seq > base+1):
				return nil // one before it is lost
			}
			p.Records = append(p.Records, r)
			next = r.Seq + 1
			if size += len(b); size > maxBody {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return Page{}, fmt.Errorf("cannot read journal of %s: %w", agent, err)
	}
	return p, nil
}

// after tells whether r comes after head in a chain whose base the one who gave it says. Over a gap there is no hash to compare.
func (r Record) after(head chainHead, base uint64) bool {
	if r.Seq == head.seq+1 {
		return r.Prev == head.hash
	}
	return r.Seq > head.seq && head.seq < base && r.Seq <= base+1
}

// Prune moves the base of this agent's chain on when the chain is dense for an eighth more than keep records (a base is a record too),
// and drops what is of no use below the bases of all chains. Run calls it.
func (j *Journal) Prune(ctx context.Context, keep uint64) error {
	j.mu.Lock()
	recovering := j.db.Recovering()
	head, base := j.heads[j.self].seq, j.base(j.self)
	j.mu.Unlock()
	if recovering {
		return nil
	}
	if head > base+keep+keep/8 {
		if err := j.write([]Draft{{Kind: kindBase, Key: j.self, Body: head - keep}}); err != nil {
			return err
		}
	}
	var errs []error
	for _, agent := range slices.Sorted(maps.Keys(j.Heads())) {
		errs = append(errs, j.pruneChain(ctx, agent))
	}
	return errors.Join(errs...)
}

// pruneChain drops what newer records replaced below an agent's base, once for each base and process life.
func (j *Journal) pruneChain(ctx context.Context, agent string) error {
	j.mu.Lock()
	base, done := j.base(agent), j.pruned[agent]
	j.mu.Unlock()
	for from := uint64(1); from <= base && base > done && ctx.Err() == nil; {
		p, err := j.Range(agent, from, MaxPull)
		if err != nil {
			return err
		}
		if len(p.Records) == 0 {
			return nil // what is below the base is still to come
		}
		from = p.Records[len(p.Records)-1].Seq + 1
		if err := j.drop(slices.DeleteFunc(p.Records, func(r Record) bool { return r.Seq > base })); err != nil {
			return fmt.Errorf("cannot prune the journal of %s: %w", agent, err)
		}
		if from > base {
			j.mu.Lock()
			j.pruned[agent] = base
			j.mu.Unlock()
		}
	}
	return nil
}

// drop deletes those of the records that newer ones replaced.
func (j *Journal) drop(records []Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.db.UpdateVital(func(tx *state.Tx) error {
		for _, r := range records {
			if !j.replaced(r) {
				continue
			}
			if err := tx.Delete(bucketJournal, journalKey(r.Agent, r.Seq)); err != nil {
				return err
			}
		}
		return nil
	})
}

// replaced tells whether the view has a newer record of r's key. The caller holds the lock.
func (j *Journal) replaced(r Record) bool {
	now, ok := j.view[viewKey{r.Kind, r.Key}]
	return r.Key != "" && ok && newer(now, r)
}
