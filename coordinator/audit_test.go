package coordinator

import (
	"bytes"
	"testing"

	"github.com/skerry-metal/skerry/coordinator/store"
)

// A refusal is kept in the audit log, at most one a second, so that strangers cannot fill the store.
func TestRefusalsAreAudited(t *testing.T) {
	s := found1(t)
	lines := func() (n int) {
		t.Helper()
		err := s.store.Range(t.Context(), "audit/", "", func(e store.Entry) error {
			if bytes.Contains(e.Value, []byte("join refused")) {
				n++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for range 3 {
		s.auditRefusal(t.Context(), "join refused, from 192.0.2.1:4711: token not accepted")
	}
	if n := lines(); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
}
