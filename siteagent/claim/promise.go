package claim

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
)

// Promise is what an agent promised about one id: it takes no lower epoch, and this one from nobody else.
type Promise struct {
	ID       string       `json:"id"`
	Epoch    intent.Epoch `json:"epoch"`
	Owner    string       `json:"owner"`
	Boot     string       `json:"boot"` // random id of the owner's process life
	Released bool         `json:"released,omitempty"`
	// Strange: the device was driven by somebody whom this agent has not heard since. It is of the own table only.
	Strange bool `json:"strange,omitempty"`
	// Yielded are earlier holders who promised this one themselves, so that their own release need not have been heard by
	// everybody. It is part of the question, never of the table.
	Yielded map[string]intent.Epoch `json:"yielded,omitempty"`
}

// Refusal is why a promise or a confirmation was not given.
type Refusal struct {
	Why   string       `json:"why"` // lower, owner_alive, roster, recovering
	Epoch intent.Epoch `json:"epoch"`
	Owner string       `json:"owner,omitempty"`
}

// Error returns the reason.
func (r *Refusal) Error() string {
	return fmt.Sprintf("refused (%s): %s is held by %s", r.Why, r.Epoch, r.Owner)
}

const bucketPromise = "promise"

// promises is one agent's promise table. Every method is one transaction.
type promises struct{ db *state.DB }

func (p promises) get(tx *state.Tx, id string) (Promise, error) {
	b, err := tx.Get(bucketPromise, id)
	if errors.Is(err, state.ErrAbsent) {
		return Promise{ID: id}, nil
	}
	if err != nil {
		return Promise{}, err
	}
	var pr Promise
	if err := json.Unmarshal(b, &pr); err != nil {
		return Promise{}, fmt.Errorf("cannot read promise of %s: %w", id, err)
	}
	return pr, nil
}

// load returns the promise of id; the zero epoch when none was given.
func (p promises) load(id string) (pr Promise, err error) {
	err = p.db.View(func(tx *state.Tx) error {
		pr, err = p.get(tx, id)
		return err
	})
	return pr, err
}

// promise gives want unless a higher epoch, or this epoch by another owner or boot, was promised or given back, or alive says
// that another holder has not released. The promise is on disk when it returns nil. Errors: *Refusal, the store's.
func (p promises) promise(want Promise, alive func(agent string) bool) error {
	return p.db.UpdateVital(func(tx *state.Tx) error {
		have, err := p.get(tx, want.ID)
		if err != nil {
			return err
		}
		c := want.Epoch.Compare(have.Epoch)
		switch {
		case c < 0:
			return &Refusal{"lower", have.Epoch, have.Owner}
		case c == 0 && (have.Owner != want.Owner || have.Boot != want.Boot || have.Released):
			return &Refusal{"lower", have.Epoch, have.Owner}
		case c == 0:
			return nil // a lost reply
		case have.Owner != "" && have.Owner != want.Owner && !have.Released && alive(have.Owner) && want.Yielded[have.Owner].Compare(have.Epoch) < 0:
			return &Refusal{"owner_alive", have.Epoch, have.Owner}
		}
		want.Yielded = nil
		return p.put(tx, want)
	})
}

func (p promises) put(tx *state.Tx, pr Promise) error {
	b, err := json.Marshal(pr)
	if err != nil {
		return err
	}
	return tx.Put(bucketPromise, pr.ID, b)
}

// confirm tells whether exactly this promise stands.
func (p promises) confirm(want Promise) error {
	have, err := p.load(want.ID)
	if err != nil {
		return err
	}
	if have.Epoch != want.Epoch || have.Owner != want.Owner || have.Released {
		return &Refusal{"lower", have.Epoch, have.Owner}
	}
	return nil
}

// known notes that a majority promised: the device is not strange any more.
func (p promises) known(want Promise) error {
	return p.db.UpdateVital(func(tx *state.Tx) error {
		have, err := p.get(tx, want.ID)
		if err != nil || !have.Strange {
			return err
		}
		have.Strange = false
		return p.put(tx, have)
	})
}

// release marks what the owner was promised up to this epoch as given back. One that it asked for later stands.
func (p promises) release(want Promise) error {
	return p.db.UpdateVital(func(tx *state.Tx) error {
		have, err := p.get(tx, want.ID)
		if err != nil {
			return err
		}
		if have.Owner != want.Owner || have.Released || have.Epoch.Compare(want.Epoch) > 0 {
			return nil
		}
		have.Released = true
		return p.put(tx, have)
	})
}

// of lists the promises given to an owner.
func (p promises) of(owner string) ([]Promise, error) {
	all, err := p.all()
	return slices.DeleteFunc(all, func(pr Promise) bool { return pr.Owner != owner }), err
}

// all lists the table.
func (p promises) all() (out []Promise, err error) {
	err = p.db.View(func(tx *state.Tx) error {
		return tx.Walk(bucketPromise, "", func(_ string, b []byte) error {
			var pr Promise
			if err := json.Unmarshal(b, &pr); err != nil {
				return err
			}
			out = append(out, pr)
			return nil
		})
	})
	return out, err
}

// merge takes over the epochs that a peer knows to be higher, in batches of one transaction each. They count as given back: this
// agent will take nothing below, and vouches for nobody whom it cannot remember.
func (p promises) merge(theirs []Promise) error {
	for batch := range slices.Chunk(theirs, mergeBatch) {
		err := p.db.UpdateVital(func(tx *state.Tx) error {
			for _, pr := range batch {
				have, err := p.get(tx, pr.ID)
				if err != nil && !errors.Is(err, state.ErrDamaged) { // a damaged one is forgotten: theirs counts
					return err
				}
				if err == nil && have.Epoch.Compare(pr.Epoch) >= 0 {
					continue
				}
				pr.Released, pr.Yielded = true, nil
				if err := p.put(tx, pr); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("cannot take over promises: %w", err)
		}
	}
	return nil
}

// mergeBatch is how many promises fit one transaction by far: each has some 200 octets, a transaction 2.4 MB.
const mergeBatch = 2000
