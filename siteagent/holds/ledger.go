package holds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
)

// Bucket is the one that a Ledger owns.
const Bucket = "holds"

const (
	key = "waited"
	// saveEvery is what a kill costs at most of a wait.
	saveEvery = 10 * time.Minute
	// forgetAfter is how long nobody asked for what is forgotten then.
	forgetAfter = 24 * time.Hour
)

// wait is what waits. Since and asked are of this process.
type wait struct {
	At     time.Time     `json:"at"` // which wait it is: as its record says, by whatever clock
	Waited time.Duration `json:"waited"`

	since, asked time.Time
}

// Ledger counts waits. See Open.
type Ledger struct {
	db   *state.DB
	log  *slog.Logger
	born time.Time

	mu    sync.Mutex
	waits map[string]*wait
}

// Open reads what had waited when the last process wrote. What cannot be read has not waited.
func Open(db *state.DB, log *slog.Logger) *Ledger {
	l := &Ledger{db: db, log: log, born: time.Now(), waits: map[string]*wait{}}
	err := db.View(func(tx *state.Tx) error {
		b, err := tx.Get(Bucket, key)
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &l.waits)
	})
	if err != nil && !errors.Is(err, state.ErrAbsent) {
		log.Warn("cannot read how long what is held has waited: it waits anew", "err", err)
		l.waits = nil
	}
	if l.waits == nil {
		l.waits = map[string]*wait{}
	}
	for k, w := range l.waits {
		if w == nil || w.Waited < 0 {
			delete(l.waits, k)
			continue
		}
		w.since, w.asked = l.born, l.born
	}
	return l
}

// Since returns, by this process's clock, since when what has waited, as of the record that was dated at: at the earliest so long ago as
// this agent ran since it was first asked.
func (l *Ledger) Since(what string, at time.Time) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, w := time.Now(), l.waits[what]
	if w == nil || !w.At.Equal(at) {
		w = &wait{At: at, since: now}
		l.waits[what] = w
	}
	w.asked = now
	return w.since.Add(-w.Waited)
}

// Run writes how long each has waited until ctx ends.
func (l *Ledger) Run(ctx context.Context) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := l.save(); err != nil { // a full disk: a restart begins where the last write stands
			l.log.Warn("cannot save how long what is held has waited", "err", err)
		}
	}
}

func (l *Ledger) save() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, before := time.Now(), len(l.waits)
	for k, w := range l.waits {
		if now.Sub(w.asked) > forgetAfter {
			delete(l.waits, k)
			continue
		}
		w.Waited, w.since = w.Waited+now.Sub(w.since), now
	}
	if before == 0 {
		return nil
	}
	b, err := json.Marshal(l.waits)
	if err != nil {
		return fmt.Errorf("cannot encode what is held: %w", err)
	}
	return l.db.Update(func(tx *state.Tx) error { return tx.Put(Bucket, key, b) })
}

// Repair forgets what cannot be read: it waits anew.
func (l *Ledger) Repair(context.Context) error {
	lost, err := l.db.Damaged(Bucket)
	if err != nil {
		return err
	}
	return l.db.Reseal(Bucket, lost...)
}
