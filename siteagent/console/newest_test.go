package console

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/console"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// past writes what an agent that does not hold the console showed of it.
func (s *site) past(t *testing.T, agent string, at time.Time, said string) {
	t.Helper()
	h, err := s.agents[agent].store.History("m1")
	if err != nil {
		t.Fatal(err)
	}
	h.Add(at, console.Output, []byte(said))
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAdoptsNewest: of two that had the console, who had it last is heard, whoever is asked first.
func TestAdoptsNewest(t *testing.T) {
	s := newSite(t, "a1", "a2", "a3")
	s.give("nobody")
	for s.agents["a1"].held("m1") != nil {
		time.Sleep(10 * time.Millisecond)
	}
	s.past(t, "a1", time.Now().Add(-time.Hour), "an hour ago\r\n")
	s.past(t, "a3", time.Now().Add(-time.Minute), "a minute ago\r\n")
	dialled := make(chan struct{}, 16)
	s.agents["a2"].cfg.Live = func() []string { return []string{"a1", "a3"} }
	s.agents["a2"].cfg.Dial = func(context.Context, string, *intent.BMCSpec) (bmc.Line, error) {
		dialled <- struct{}{}
		return nil, errors.New("BMC is dead")
	}
	s.give("a2")
	<-dialled
	if got := s.shown(t, "a2"); !strings.Contains(got, "a minute ago") {
		t.Errorf("what was said a minute ago is missing: %s", got)
	}
}

// TestGapOfLeadingClock: a gap has no negative length.
func TestGapOfLeadingClock(t *testing.T) {
	s := newSite(t, "a1", "a2")
	s.machine.conn(t, 1)
	s.give("nobody")
	for s.agents["a1"].held("m1") != nil {
		time.Sleep(10 * time.Millisecond)
	}
	s.past(t, "a1", time.Now().Add(time.Hour), "ahead\r\n")
	s.give("a2")
	s.machine.conn(t, 2)
	for !strings.Contains(s.shown(t, "a2"), "gap of") {
		time.Sleep(10 * time.Millisecond)
	}
	if got := s.shown(t, "a2"); strings.Contains(got, "gap of -") {
		t.Error(got)
	}
}

// TestGapBeginsWhereHeard: what nobody heard begins where the former agent showed something last, not at our own word about that.
func TestGapBeginsWhereHeard(t *testing.T) {
	s := newSite(t, "a1", "a2", "a3")
	s.machine.conn(t, 1)
	s.give("nobody")
	for s.agents["a1"].held("m1") != nil { // it has no event for it
		time.Sleep(10 * time.Millisecond)
	}
	last := time.Now().Add(-10 * time.Minute)
	s.past(t, "a3", last, "ten minutes ago\r\n")
	s.agents["a2"].cfg.Live = func() []string { return []string{"a3"} }
	s.give("a2")
	s.machine.conn(t, 2)
	for !strings.Contains(s.shown(t, "a2"), "gap of") {
		time.Sleep(10 * time.Millisecond)
	}
	if want, got := "what came from "+last.UTC().Format("15:04:05")+" on is lost", s.shown(t, "a2"); !strings.Contains(got, want) {
		t.Errorf("want %q in\n%s", want, got)
	}
}
