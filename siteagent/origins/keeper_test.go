package origins

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/origin"
	"github.com/skerry-metal/skerry/mesh/swarm"
)

const image = "https://mirror.example/image.raw?token=secret"

// keeper is a Keeper of a1 that offers one asset with these URLs.
func keeper(when string, agents []string, urls ...string) (*Keeper, *intent.AssetSpec) {
	s := &intent.AssetSpec{Digest: intent.DigestOf([]byte("image")), Size: 1 << 20}
	for _, u := range urls {
		s.Sources = append(s.Sources, intent.AssetSource{URL: u, Validator: `"v1"`})
	}
	k := New(Config{
		Self: "a1", When: func() string { return when }, Ranked: func(string) []string { return agents }, Client: http.DefaultClient, Log: slog.New(slog.DiscardHandler),
	})
	k.Offer(s)
	return k, s
}

func names(sources []swarm.Source) string {
	var out []string
	for _, s := range sources {
		out = append(out, s.Tier+":"+s.Name)
	}
	return strings.Join(out, " ")
}

func TestSources(t *testing.T) {
	f := func(when string, agents, want string, last bool) {
		t.Helper()
		k, s := keeper(when, strings.Fields(agents), image, "http://other.example:8080/image.raw")
		got, after := k.Sources(s.Digest)
		if names(got) != want || after != last {
			t.Errorf("%s, %s: %s, last %v", when, agents, names(got), after)
		}
		if got, _ := k.Sources(intent.DigestOf(nil)); len(got) > 0 {
			t.Errorf("of another asset: %s", names(got))
		}
	}
	both := "origin:mirror.example origin:other.example:8080"
	f("first", "a1", both, false)
	f("last", "a3 a2 a1", both, true)
	f("never", "a1", "", false)
	f("first", "a5 a4 a3 a1 a2", both, false)
	f("first", "a5 a4 a3 a2 a1", "", false) // four connections to a host from a site
	k, s := keeper("first", []string{"a1"}, image)
	k.Offer(s)()
	if got, _ := k.Sources(s.Digest); len(got) > 0 {
		t.Errorf("after it is done: %s", names(got))
	}
}

// TestRests: who refuses rests, twice as long each time, and is asked again; a host that is not reached rests for all its URLs.
func TestRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, s := keeper("first", []string{"a1"}, image)
		other := &intent.AssetSpec{Digest: intent.DigestOf([]byte("other")), Size: 1, Sources: []intent.AssetSource{{URL: "https://mirror.example/other"}}}
		k.Offer(other)
		rests := func(d intent.Digest) bool {
			got, _ := k.Sources(d)
			return len(got) == 0
		}
		lie := fmt.Errorf("cannot read chunk 3: %w", chunk.ErrBad)
		f := func(err error, least time.Duration, host bool) {
			t.Helper()
			got, _ := k.Sources(s.Digest)
			if len(got) != 1 {
				t.Fatalf("%v: %s", err, names(got))
			}
			got[0].Told(err)
			time.Sleep(least*3/4 - time.Millisecond)
			if !rests(s.Digest) || rests(other.Digest) != host {
				t.Errorf("%v: rests %v, the host's other URL %v", err, rests(s.Digest), rests(other.Digest))
			}
			time.Sleep(least/4 + 2*time.Millisecond)
			if rests(s.Digest) || rests(other.Digest) {
				t.Errorf("%v: rests longer than %v", err, least)
			}
		}
		f(lie, liarRest, false)
		f(lie, 2*liarRest, false)
		f(&origin.Refusal{Why: origin.Unreachable, Text: "no route"}, leastRest, true)
		f(&origin.Refusal{Why: origin.Unreachable, Text: "no route"}, 2*leastRest, true)
		f(swarm.ErrSlow, 4*leastRest, false)
		for range 20 {
			k.told(image, "mirror.example", lie)
		}
		if got := k.States(s); !got[0].Until.Before(time.Now().Add(mostRest+time.Second)) || got[0].Why != origin.WrongOctets || strings.Contains(got[0].Said(), "secret") ||
			!strings.Contains(got[0].Said(), "mirror.example: its octets are not those that were registered (wrong-octets), rests until 2000-01-01 ") {
			t.Errorf("%s", got[0].Said())
		}
		for range 20 {
			k.told(image, "mirror.example", &origin.Refusal{Why: origin.Unreachable})
		}
		if r := k.rests["mirror.example"]; time.Until(r.until) > passRest {
			t.Errorf("a host that was away rests %v", time.Until(r.until))
		}
		k.told(image, "mirror.example", nil)
		f(lie, liarRest, false) // it went well in between
		got, _ := k.Sources(s.Digest)
		got[0].Told(io.ErrUnexpectedEOF)
		if rests(s.Digest) {
			t.Error("a line that broke off once is not tried again")
		}
		set := metrics.NewSet()
		k.Gauges(set)
		var b strings.Builder
		set.WritePrometheus(&b)
		for _, want := range []string{`{why="wrong-octets"} 23`, `{why="unreachable"} 22`, `{why="slow"} 1`, `{why="cut"} 1`, `{why="changed"} 0`} {
			if !strings.Contains(b.String(), want+"\n") {
				t.Errorf("no %s in\n%s", want, b.String())
			}
		}
	})
}

// TestBounds: what is remembered is bounded, whatever URLs fail.
func TestBounds(t *testing.T) {
	k, s := keeper("first", []string{"a1"}, image)
	for i := range maxKnown + 10 {
		k.told(fmt.Sprintf("http://h%d/", i), fmt.Sprintf("h%d", i), errors.Join(chunk.ErrBad))
	}
	k.told(image, "mirror.example", chunk.ErrBad)
	if got, _ := k.Sources(s.Digest); len(k.rests) > maxKnown || len(got) > 0 {
		t.Errorf("%d are remembered; the last one is asked: %s", len(k.rests), names(got))
	}
	long := State{Host: strings.Repeat("x", 1000), Why: "\x1b[2J", Text: "a\nb\xff"}.Clip()
	if len(long.Host) != 200 || long.Why != " [2J" || long.Text != "a b" {
		t.Errorf("%+v", long)
	}
}
