package api

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api/consoles"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// hall is a backend whose consoles say nothing.
type hall struct{ *memory }

func (hall) Console(ctx context.Context, _ consoles.Session) error {
	<-ctx.Done()
	return nil
}

// TestConsoleTokenEnds: who reads a console by a token that ends is put out, also where nothing of the intent moves.
func TestConsoleTokenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.api = New(hall{s.m}, slog.New(slog.DiscardHandler))
		token, half := NewUserToken(time.Hour, time.Now())
		s.m.change(func(c *intent.Catalog) {
			u := s.user("bob", intent.RoleBinding{Role: "operator"})
			u.Spec.(*intent.UserSpec).Tokens = []intent.UserToken{half}
			c.Put(u)
		})
		s.tokens["bob"] = token
		began := time.Now()
		s.ask("bob", http.MethodGet, "/v1/sites/lon1/machines/m1/console?follow=true", "")
		if sat := time.Since(began); sat < time.Hour || sat > time.Hour+2*consoleAsk {
			t.Errorf("he sat there for %v", sat)
		}
	})
}
