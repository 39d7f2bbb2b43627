package uplink

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever pauses between dials dials at once when he is told that it may go better now.
func TestSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		c := NewClient(ClientConfig{
			Log: slog.New(slog.DiscardHandler), StartSpread: 1, MaxBackoff: 1000 * time.Hour,
			Targets: func() []Target { tries++; return nil },
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		time.Sleep(5000 * time.Hour) // the pauses have grown
		synctest.Wait()
		for range 3 {
			before, at := tries, time.Now()
			c.Soon()
			c.Soon()
			synctest.Wait()
			if tries == before || tries > before+2 || !time.Now().Equal(at) {
				t.Errorf("%d dials", tries-before)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
