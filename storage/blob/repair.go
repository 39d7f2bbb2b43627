package blob

import (
	"errors"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Bucket is where the records lie in the state.
const Bucket = bucket

// Repair writes the record of every asset anew and gives up those that cannot be read: their assets are left out already, and
// fetched again if they are wanted. No file is touched.
func (s *Store) Repair() error {
	lost, err := s.cfg.State.Damaged(bucket)
	if err != nil {
		return err
	}
	s.mu.Lock()
	var errs []error
	for d, e := range s.blobs {
		e.mu.Lock()
		errs = append(errs, s.checkpoint(d, e))
		e.mu.Unlock()
	}
	s.mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.cfg.State.Reseal(bucket, lost...)
}

// Evict deletes the assets that are not in wanted, the least recently used first, until enough says so. wanted becomes the set of
// pins. It returns what went.
func (s *Store) Evict(wanted []intent.Digest, enough func() bool) (gone []Info, err error) {
	s.SetPins(wanted)
	all := s.List()
	slices.SortFunc(all, func(a, b Info) int { return a.LastUsed.Compare(b.LastUsed) })
	for _, i := range all {
		if i.Pinned {
			continue
		}
		if enough() {
			break
		}
		if err := s.Delete(i.Digest); err != nil {
			return gone, err
		}
		gone = append(gone, i)
	}
	return gone, nil
}
