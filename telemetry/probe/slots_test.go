package probe

import "testing"

// TestLabelComesBack: a label that was gone for a while and comes back goes on, in the next life too, where it was counted last.
func TestLabelComesBack(t *testing.T) {
	var kernel [maxSlots]Totals
	now := func(n uint32) [ways]Totals { return [ways]Totals{kernel[n]} }
	k := newKeeper()
	set := func(s *slots, labels ...string) {
		for _, n := range s.set(labels, now) {
			v := s.saved(n)
			k.Slots = append(deleteSlot(k.Slots, n), v)
		}
	}
	s := newSlots(nil)
	set(s, "a", "b", "c")
	set(s, "c")
	for range 2 {
		s.rest()
	}
	set(s, "c", "a")
	kernel[s.of("a")].Frames = 100 // of which nothing was read when the agent ended
	s = newSlots(k.Slots)
	set(s, "c", "a")
	if d, _ := s.since(s.of("a"), now(s.of("a"))); d[0].Frames != 100 {
		t.Errorf("%d of 100 frames; kept were %+v", d[0].Frames, k.Slots)
	}
	set(s, "c", "a", "d", "e")
	seen := map[uint32]bool{0: true}
	for _, l := range []string{"a", "c", "d", "e"} {
		if n := s.of(l); seen[n] {
			t.Errorf("slot %d of %s is another's too", n, l)
		} else {
			seen[n] = true
		}
	}
}
