package console

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/console"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// shown is all that an agent keeps of the console.
func (s *site) shown(t *testing.T, agent string) string {
	t.Helper()
	var out strings.Builder
	if err := s.agents[agent].store.Records("m1", time.Time{}, 1<<20, func(l []byte) error { out.Write(l); return nil }); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestAdoptsOnce: what an agent whose clock is ahead showed is taken over once, however often the line is dialled.
func TestAdoptsOnce(t *testing.T) {
	s := newSite(t, "a1", "a2")
	s.machine.conn(t, 1)
	s.give("nobody")
	for s.agents["a1"].held("m1") != nil { // it has no event for it
		time.Sleep(10 * time.Millisecond)
	}
	h, err := s.agents["a1"].store.History("m1")
	if err != nil {
		t.Fatal(err)
	}
	h.Add(time.Now().Add(time.Hour), console.Output, []byte("from a1, whose clock is ahead\r\n"))
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	dialled := make(chan struct{}, 16)
	s.agents["a2"].cfg.Dial = func(context.Context, string, *intent.BMCSpec) (bmc.Line, error) {
		dialled <- struct{}{}
		return nil, errors.New("BMC is dead")
	}
	s.give("a2")
	for range 2 {
		<-dialled
	}
	handed := 0
	for _, e := range s.agents["a2"].events(t) {
		if strings.HasPrefix(e, "console.handover") {
			handed++
		}
	}
	if n := strings.Count(s.shown(t, "a2"), "whose clock is ahead"); n != 1 || handed != 1 {
		t.Errorf("adopted %d times, %d events", n, handed)
	}
}

// TestDeadOwner: where nobody is left who can be asked, the console says that what was said before is not known.
func TestDeadOwner(t *testing.T) {
	s := newSite(t, "a1", "a2")
	s.machine.conn(t, 1)
	s.agents["a2"].cfg.Live = func() []string { return nil }
	s.give("a2")
	s.machine.conn(t, 2)
	for !strings.Contains(s.shown(t, "a2"), "what was said before is not known here") { // the test's own deadline ends it
		time.Sleep(10 * time.Millisecond)
	}
}

// TestKeyEnds: who sits there by a key that ends is put out, also where nothing else changes.
func TestKeyEnds(t *testing.T) {
	s := newSite(t, "a1")
	s.machine.conn(t, 1)
	c := s.openDoor("a1")
	u := user("bob", []intent.RoleBinding{{Role: "operator"}}, newKey(t, c.dir, "ed25519"))
	end := time.Now().Add(1500 * time.Millisecond)
	u.Spec.(*intent.UserSpec).Keys[0].Expires = &end
	s.agents["a1"].put(u)
	cmd := c.run("ed25519", "m1")
	if _, err := cmd.StdinPipe(); err != nil { // it is not at its end
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, out); err != nil { // to the end of his seat
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || time.Now().Before(end) {
		t.Errorf("put out %v before his key ended: %v", time.Until(end), err)
	}
}
