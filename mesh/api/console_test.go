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
		if sat := time.Since(began); sat < time.Hour || sat > time.Hour+2*askAgain {
			t.Errorf("he sat there for %v", sat)
		}
	})
}

// busy is a backend whose site goes on telling.
type busy struct{ *memory }

func (b busy) Events(ctx context.Context, _ EventQuery, fn func(intent.Event) error) error {
	for {
		if err := fn(intent.Event{Site: "lon1", Type: "machine.running", Machine: "m1"}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// TestEventsEnd: who follows a site's events hears no more once his token ends, or a role that he had for it is taken from him.
func TestEventsEnd(t *testing.T) {
	f := func(lasts time.Duration, want time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t)
			s.api = New(busy{s.m}, slog.New(slog.DiscardHandler))
			token, half := NewUserToken(lasts, time.Now())
			u := s.user("bob", intent.RoleBinding{Role: "operator"})
			u.Spec.(*intent.UserSpec).Tokens = []intent.UserToken{half}
			s.m.change(func(c *intent.Catalog) { c.Put(u) })
			s.tokens["bob"] = token
			go func() {
				time.Sleep(time.Minute)
				poor := s.user("bob")
				poor.Spec.(*intent.UserSpec).Tokens = []intent.UserToken{half}
				s.m.change(func(c *intent.Catalog) { c.Put(poor) })
			}()
			began := time.Now()
			s.ask("bob", http.MethodGet, "/v1/sites/lon1/events?follow=true", "")
			if heard := time.Since(began); heard < want || heard > want+2*askAgain {
				t.Errorf("a token of %v: he heard for %v", lasts, heard)
			}
			time.Sleep(time.Minute)
		})
	}
	f(30*time.Second, 30*time.Second)
	f(time.Hour, time.Minute)
}
