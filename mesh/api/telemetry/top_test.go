package telemetry

import (
	"context"
	"errors"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// rates answers with when it was asked, until it fails.
type rates struct {
	source
	asked []TopQuery
	fails int // from this frame on; 0: never
}

func (s *source) Top(context.Context, string, TopQuery) (*TopFrame, error) {
	return nil, errors.New("not asked for")
}

func (s *rates) Top(_ context.Context, _ string, q TopQuery) (*TopFrame, error) {
	s.asked = append(s.asked, q)
	if len(s.asked) == s.fails {
		return nil, errors.New("the site is away")
	}
	return &TopFrame{At: time.Now().UTC(), By: q.By, Rows: []TopRow{{Project: "acme", Direction: "in", Bytes: 10, Flags: []string{}}}}, nil
}

// TestServeTop: a line every ten seconds, for ten minutes at most; an error before the first line is told, a later one ends the lines; users
// get their projects, and no ports.
func TestServeTop(t *testing.T) {
	f := func(query string, v Viewer, src *rates, wantErr string, lines int, took time.Duration, projects []string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			w := httptest.NewRecorder()
			err := ServeTop(w, httptest.NewRequest("GET", "/x?"+query, nil).WithContext(t.Context()), v, src)
			if (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
				t.Errorf("%s: %v, want %s", query, err, wantErr)
			}
			if n := strings.Count(w.Body.String(), "\n"); n != lines || time.Since(begun) != took {
				t.Errorf("%s: %d lines in %v, want %d in %v", query, n, time.Since(begun), lines, took)
			}
			if len(src.asked) > 0 && !cmp.Equal(src.asked[0].Projects, projects) {
				t.Errorf("%s: asked for %q, want %q", query, src.asked[0].Projects, projects)
			}
		})
	}
	all, user := Viewer{All: true}, Viewer{Projects: []string{"acme", "shop"}}
	f("count=3", all, &rates{}, "", 3, 20*time.Second, nil)
	f("", all, &rates{}, "", 60, 590*time.Second, nil)
	f("count=9", all, &rates{fails: 3}, "", 2, 20*time.Second, nil)
	f("count=9", all, &rates{fails: 1}, "away", 0, 0, nil)
	f("count=1&by=network", user, &rates{}, "", 1, 0, []string{"acme", "shop"})
	f("count=1&project=evil,shop", user, &rates{}, "", 1, 0, []string{"shop"})
	f("count=1", Viewer{Projects: []string{}}, &rates{}, "", 1, 0, []string{})
	f("by=port", user, &rates{}, "ports are for who may read switches", 0, 0, nil)
	for query, want := range map[string]string{"by=subnet": "by is", "count=0": "count is 1 to 60", "count=61": "count is", "limit=1001": "limit is", "x=1": "use by", "count=1&count=2": "each once"} {
		f(query, all, &rates{}, want, 0, 0, nil)
	}
}

// TestTopLeaves: a client that left is not served on.
func TestTopLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		s, w := &rates{}, httptest.NewRecorder()
		if err := ServeTop(w, httptest.NewRequest("GET", "/x", nil).WithContext(ctx), Viewer{All: true}, s); err != nil || len(s.asked) != 3 {
			t.Errorf("%v after %d frames", err, len(s.asked))
		}
	})
}

// TestTopValues: what is asked for comes through the URL.
func TestTopValues(t *testing.T) {
	for _, q := range []TopQuery{{By: "port", Limit: 7}, {By: "machine", Limit: 1000, Projects: []string{"a", "b"}}, {By: "network", Limit: 1, Projects: []string{}}} {
		got, count, err := ParseTop(q.Values(5))
		if d := cmp.Diff(q, got); d != "" || count != 5 || err != nil {
			t.Errorf("%v, %d\n%s", err, count, d)
		}
	}
	if q, count, err := ParseTop(url.Values{}); q.By != "machine" || q.Limit != 100 || count != 60 || err != nil {
		t.Errorf("%+v, %d, %v", q, count, err)
	}
}

// TestTopRights: whoever loses a right while lines go on sees no more of it with the next line, and whoever loses all of them no line.
func TestTopRights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := []Viewer{{Projects: []string{"acme", "shop"}}, {Projects: []string{"shop"}}, {All: true}}
		again := func() (Viewer, error) {
			if len(turns) == 0 {
				return Viewer{}, errors.New("revoked")
			}
			v := turns[0]
			turns = turns[1:]
			return v, nil
		}
		first, err := again()
		if err != nil {
			t.Fatal(err)
		}
		first.Again = again
		s, w := &rates{}, httptest.NewRecorder()
		if err := ServeTop(w, httptest.NewRequest("GET", "/x?project=acme,shop", nil).WithContext(t.Context()), first, s); err != nil {
			t.Fatal(err)
		}
		var got [][]string
		for _, q := range s.asked {
			got = append(got, q.Projects)
		}
		if want := [][]string{{"acme", "shop"}, {"shop"}, {"acme", "shop"}}; !cmp.Equal(got, want) {
			t.Errorf("asked for %q, want %q", got, want)
		}
		// Ports are for who may read switches, as long as they may.
		s, turns = &rates{}, []Viewer{{All: true}, {Projects: []string{"acme"}}}
		if err := ServeTop(w, httptest.NewRequest("GET", "/x?by=port", nil).WithContext(t.Context()), Viewer{All: true, Again: again}, s); err != nil || len(s.asked) != 2 {
			t.Errorf("%v after %d frames", err, len(s.asked))
		}
	})
}
