package govern

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestOrder: who reads sensors waits until nobody controls, and the rate holds for both.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(0)
		var order []string
		first, err := g.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{}, 2)
		take := func(ctx context.Context, name string) {
			done, err := g.Take(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			order = append(order, name) // one at a time: the gate guards it
			done()
			ended <- struct{}{}
		}
		go take(Behind(t.Context()), "sensors")
		synctest.Wait()
		go take(t.Context(), "control")
		synctest.Wait()
		first()
		first() // once is enough
		<-ended
		<-ended
		if len(order) != 2 || order[0] != "control" {
			t.Fatalf("%v", order)
		}
		start := time.Now()
		for range 8 {
			done, err := g.Take(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			done()
		}
		if took := time.Since(start); took < 3*time.Second {
			t.Fatalf("eight more requests took %v, the limit is two a second", took)
		}
	})
}

// TestGiveUp: a turn that is not waited for leaves nothing behind.
func TestGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(100)
		done, err := g.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, ctx := range []context.Context{t.Context(), Behind(t.Context())} {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			if _, err := g.Take(ctx); err == nil {
				t.Fatal("two at once")
			}
			cancel()
		}
		done()
		if done, err = g.Take(Behind(t.Context())); err != nil {
			t.Fatal(err)
		}
		done()
	})
}

// TestTooLate: a turn that would come after the deadline is not waited for, and says so.
func TestTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(1)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		for n := 0; ; n++ {
			done, err := g.Take(ctx)
			if err == nil {
				done()
				continue
			}
			if n != burst || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("turn %d: %v", n, err)
			}
			return
		}
	})
}
