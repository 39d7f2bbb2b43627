package blob

import (
	"errors"
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
