package snmp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	readLimit    = 20 * time.Second // of a whole reading: the next is a minute later
	maxVariables = 10_000           // of one column; a switch of 128 ports has a few hundred
	maxTries     = 3                // of one request, each for fewer variables

	// Variables asked for at once: the first guess, and the most. An answer of 50 counters fits into a datagram of 1,500 octets.
	firstBulk, mostBulk = 10, 50
	// cleanReads without a timeout, then half as many more are asked for.
	cleanReads = 5
)

var (
	errLoop = errors.New("names of objects do not rise: the device goes in circles")
	errMany = fmt.Errorf("the device has more than %d variables of one kind to tell", maxVariables)
)

// walk is one reading of a device.
type walk struct {
	ctx  context.Context
	s    session
	d    *device
	slow bool // a request was not answered in time
	// What the device will be remembered by.
	last   map[string]uint64
	speeds map[string]float64
}

// bulk asks for what follows after. Where no answer comes it asks for half as much.
func (w *walk) bulk(after oid) ([]variable, error) {
	for try := 1; ; try++ {
		vv, err := w.s.bulk(w.ctx, after, w.d.bulk)
		switch {
		case err == nil && len(vv) == 0:
			return nil, errors.New("the device answered nothing")
		case err == nil:
			return vv, nil
		case w.ctx.Err() != nil:
			return nil, w.ctx.Err()
		case errors.Is(err, errTimeout) && try < maxTries, errors.Is(err, errTooBig) && w.d.bulk > 1:
			w.slow, w.d.bulk = true, max(w.d.bulk/2, 1)
		default:
			return nil, err
		}
	}
}

// get asks for one object, twice if need be.
func (w *walk) get(name oid) (v value, err error) {
	for range 2 {
		if v, err = w.s.get(w.ctx, name); !errors.Is(err, errTimeout) || w.ctx.Err() != nil {
			return v, err
		}
		w.slow = true
	}
	return v, err
}

// tree calls fn for each variable below root, in order, with what its name has behind root. Errors: errLoop, errMany, errTimeout, others;
// fn was then called for a part.
// Source: RFC 3416 section 4.2.3; gosnmp#408 and datadog-agent#52318 for what devices do instead.
func (w *walk) tree(root oid, fn func(index oid, v value)) error {
	for at, left := root, maxVariables; ; {
		vv, err := w.bulk(at)
		if err != nil {
			return err
		}
		for _, v := range vv {
			index, in := v.name.below(root)
			if v.v.kind == end || !in && slices.Compare(v.name, at) > 0 {
				return nil
			}
			if slices.Compare(v.name, at) <= 0 {
				return errLoop
			}
			if left--; left < 0 {
				return errMany
			}
			at = v.name
			fn(index, v.v)
		}
	}
}

// column reads a column of a table whose index is one number.
func (w *walk) column(root oid) (map[uint32]value, error) {
	out := map[uint32]value{}
	err := w.tree(root, func(index oid, v value) {
		if len(index) == 1 {
			out[index[0]] = v
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", root, err)
	}
	return out, nil
}

// columns reads several.
func (w *walk) columns(roots ...oid) ([]map[uint32]value, error) {
	out := make([]map[uint32]value, len(roots))
	for i, r := range roots {
		var err error
		if out[i], err = w.column(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// adapt learns from a reading how many variables to ask for at once.
func (w *walk) adapt() {
	if w.slow {
		w.d.clean = 0
		return
	}
	if w.d.clean++; w.d.clean >= cleanReads {
		w.d.clean, w.d.bulk = 0, min(w.d.bulk+(w.d.bulk+1)/2, mostBulk)
	}
}
