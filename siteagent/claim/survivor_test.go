package claim

import "testing"

// TestSurvivorGoesOn: an agent that took a device by its fence alone keeps it when the peer is back, and goes on with the
// peer's promise. That one, the natural owner or not, knows who holds it and is refused.
func TestSurvivorGoesOn(t *testing.T) {
	m := newModel(t, 2)
	m.begin(1)
	m.calm = true // nothing at random
	a, b, id := m.agents[0], m.agents[1], m.ids[0]
	a.sees["b"] = Member{Since: m.now}
	m.now = m.now.Add(HoldOff)
	alone, err := a.claims.Acquire(t.Context(), id, m.fence(id))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.claims.Confirm(t.Context(), alone, m.fence(id)); err != nil {
		t.Fatal(err)
	}
	if who := b.claims.Holder(id); who != "" {
		t.Fatalf("b, who heard nothing, says that %s holds it", who)
	}
	a.sees["b"] = Member{Alive: true, Since: m.now}
	cl, err := a.claims.Acquire(t.Context(), id, m.fence(id))
	if err != nil || cl.Epoch.Compare(alone.Epoch) <= 0 {
		t.Fatalf("asked for again: %s after %s, %v", cl.Epoch, alone.Epoch, err)
	}
	if err := a.claims.Confirm(t.Context(), cl, m.fence(id)); err != nil {
		t.Fatalf("the survivor cannot go on: %v", err)
	}
	if again, err := a.claims.Acquire(t.Context(), id, m.fence(id)); err != nil || again != cl {
		t.Fatalf("a claim with the peer's promise was asked for once more: %v, %v", again, err)
	}
	for _, x := range []*modelAgent{a, b} {
		if who := x.claims.Holder(id); who != "a" {
			t.Errorf("%s says that %q holds it", x.name, who)
		}
	}
	if _, err := b.claims.Acquire(t.Context(), id, m.fence(id)); err == nil {
		t.Error("b took what a holds")
	}
	a.claims.Release(t.Context(), id)
	if who := b.claims.Holder(id); who != "" {
		t.Errorf("released, and b says that %s holds it", who)
	}
}

// TestStrange: a device that somebody drove whom this agent did not hear shows it by its fence.
func TestStrange(t *testing.T) {
	m := newModel(t, 2)
	m.begin(1)
	m.calm = true
	a, b, id := m.agents[0], m.agents[1], m.ids[0]
	strange := func(x *modelAgent, want bool) {
		t.Helper()
		if got, err := x.claims.Strange(t.Context(), id, m.fence(id)); err != nil || got != want {
			t.Errorf("strange to %s: %v, want %v (%v)", x.name, got, want, err)
		}
	}
	strange(b, false)
	if _, err := a.claims.Acquire(t.Context(), id, m.fence(id)); err != nil {
		t.Fatal(err)
	}
	strange(b, false) // it promised
	a.claims.Release(t.Context(), id)
	a.sees["b"] = Member{Since: m.now}
	m.now = m.now.Add(HoldOff)
	if _, err := a.claims.Acquire(t.Context(), id, m.fence(id)); err != nil {
		t.Fatal(err)
	}
	strange(a, false)
	strange(b, true)
	b.sees["a"] = Member{Since: m.now}
	m.now = m.now.Add(HoldOff)
	a.claims.Release(t.Context(), id)
	if _, err := b.claims.Acquire(t.Context(), id, m.fence(id)); err != nil {
		t.Fatal(err)
	}
	b.claims.Release(t.Context(), id)
	b.start()
	strange(b, true) // it took the device, and knows no more of what was done to it
	for _, x := range []*modelAgent{a, b} {
		for _, y := range []*modelAgent{a, b} {
			x.sees[y.name] = Member{Alive: true, Since: m.now}
		}
	}
	if _, err := b.claims.Acquire(t.Context(), id, m.fence(id)); err != nil {
		t.Fatal(err)
	}
	strange(b, false)
}
