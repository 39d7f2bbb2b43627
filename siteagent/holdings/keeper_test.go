package holdings

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/storage/blob"
)

const gib = 1 << 30

// TestKeptWhereItBelongs: of four agents all fetch what is of class boot, two an image; when a keeper dies the next one fetches, and
// when it is back the third copy stays while there is room, and goes where there is none.
func TestKeptWhereItBelongs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1", "a2", "a3", "a4")
		defer s.run()()
		kernel, img := s.upload(1, 64, "boot"), s.upload(2, 256, "image")
		s.want(kernel, img)
		time.Sleep(time.Minute)
		ranked := claim.Rendezvous(img.Digest.Hex(), s.names())
		s.wantOwners("kernel", kernel, s.names()...)
		s.wantOwners("image", img, ranked[:2]...)
		for _, n := range s.nodes {
			if err := n.Missing(img); err != nil {
				t.Errorf("%s: %v", n.name, err)
			}
		}
		alone := func(name string, cut bool) {
			for _, o := range s.names() {
				if o != name {
					s.setCut(name, o, cut)
				}
			}
		}
		alone(ranked[0], true)
		time.Sleep(claim.HoldOff - 2*lookEvery)
		s.wantOwners("before the hold-off", img, ranked[:2]...)
		time.Sleep(4 * lookEvery)
		s.wantOwners("after it", img, ranked[:3]...)
		alone(ranked[0], false)
		time.Sleep(time.Minute)
		s.wantOwners("room for a third copy", img, ranked[:3]...)
		third := s.node(ranked[2])
		s.mu.Lock()
		third.other = 90 * gib
		s.mu.Unlock()
		time.Sleep(2 * lookEvery)
		s.wantOwners("no room for it", img, ranked[:2]...)
		if a, _ := third.Report().of(kernel.Digest); !a.Complete || !a.Keeps() {
			t.Errorf("the kernel went: %+v", a)
		}
	})
}

// TestBroughtForTheKeepers: where no keeper has a line to the coordinator, one agent that has brings an image, and gives it up when it
// needs the room and they have it.
func TestBroughtForTheKeepers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1", "a2", "a3", "a4")
		img := s.upload(2, 256, "image")
		ranked := claim.Rendezvous(img.Digest.Hex(), s.names())
		s.wan = ranked[2:]
		for _, n := range s.nodes {
			fetch := n.cfg.Fetch
			n.cfg.Fetch = func(ctx context.Context, a *intent.AssetSpec, urgent bool) (map[string]int64, error) {
				if !slices.Contains(s.wan, n.name) && len(s.owners(a)) == 0 {
					return nil, errors.New("nobody has it")
				}
				return fetch(ctx, a, urgent)
			}
		}
		defer s.run()()
		s.want(img)
		time.Sleep(2 * claim.HoldOff)
		s.wantOwners("brought", img, ranked[:3]...)
		n := s.node(ranked[2])
		s.mu.Lock()
		n.other = 90 * gib
		s.mu.Unlock()
		time.Sleep(2 * lookEvery)
		s.wantOwners("given up", img, ranked[:2]...)
		time.Sleep(claim.HoldOff)
		s.wantOwners("not brought again", img, ranked[:2]...)
	})
}

// TestUrgentFirst: an image that a machine waits for comes before one that is under way, which goes on after it; one that is urgent and
// comes from nobody keeps the others back no longer than it takes to find that out.
func TestUrgentFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1")
		n := s.nodes[0]
		slow, img, never := s.upload(1, 64, "image"), s.upload(2, 64, "image"), s.upload(3, 64, "image")
		waits := map[intent.Digest]bool{}
		var order []string
		fetch := n.cfg.Fetch
		n.cfg.Fetch = func(ctx context.Context, a *intent.AssetSpec, urgent bool) (map[string]int64, error) {
			s.mu.Lock()
			order = append(order, fmt.Sprintf("%s %v", map[intent.Digest]string{slow.Digest: "slow", img.Digest: "img", never.Digest: "never"}[a.Digest], urgent))
			s.mu.Unlock()
			switch a {
			case never:
				return nil, errors.New("nobody has it")
			case slow:
				if !sleepFor(ctx, 10*time.Minute) {
					return nil, ctx.Err()
				}
			}
			return fetch(ctx, a, urgent)
		}
		n.cfg.Urgent = func(a *intent.AssetSpec) bool { s.mu.Lock(); defer s.mu.Unlock(); return waits[a.Digest] }
		defer s.run()()
		s.want(slow)
		time.Sleep(time.Minute)
		s.mu.Lock()
		waits[img.Digest], waits[never.Digest] = true, true
		s.mu.Unlock()
		s.want(slow, img)
		time.Sleep(2 * lookEvery)
		s.wantOwners("urgent", img, "a1")
		time.Sleep(11 * time.Minute)
		s.wantOwners("what made way", slow, "a1")
		if d := cmp.Diff([]string{"slow false", "img true", "slow false"}, order); d != "" {
			t.Error(d)
		}
		other := s.upload(4, 64, "image")
		s.want(slow, img, never, other)
		time.Sleep(2 * lookEvery)
		s.wantOwners("though an urgent one does not come", other, "a1")
	})
}

func sleepFor(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// TestLastCopyStays: a surplus copy stays while a keeper is not heard, has not all of it, or does not hold on to it itself, and while
// agents have just come or gone; then it goes.
func TestLastCopyStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1", "a2", "a3")
		img := s.upload(2, 128, "image")
		s.want(img)
		ranked := claim.Rendezvous(img.Digest.Hex(), s.names())
		third := s.node(ranked[2])
		for _, name := range ranked[1:] {
			if _, err := s.node(name).fetch(t.Context(), img, false); err != nil {
				t.Fatal(err)
			}
		}
		third.other = 95 * gib
		stays := func(why string) {
			t.Helper()
			third.look(t.Context())
			if !third.here(img.Digest) {
				t.Fatalf("the copy went although %s", why)
			}
		}
		time.Sleep(time.Minute)
		stays("a keeper has nothing of it")
		if _, err := s.node(ranked[0]).fetch(t.Context(), img, false); err != nil {
			t.Fatal(err)
		}
		s.setCut(ranked[0], ranked[2], true)
		stays("a keeper is not heard") // it counts still, and has nothing
		s.setCut(ranked[0], ranked[2], false)
		stays("a keeper has just come back")
		time.Sleep(time.Minute)
		third.sure = false
		stays("the store is on hold")
		third.sure = true
		first := s.node(ranked[0])
		intent := first.cfg.Intent
		first.cfg.Intent = func() Intent { in := intent(); in.Wanted = nil; in.Head = headAt(9); return in }
		first.look(t.Context()) // it is ahead of the others, whose intent wants the asset, by two heads
		first.cfg.Intent = func() Intent { in := intent(); in.Wanted = nil; in.Head = headAt(10); return in }
		stays("a keeper does not hold on to it")
		first.cfg.Intent = intent
		s.setCut(ranked[0], ranked[1], true)
		time.Sleep(time.Minute) // each of those two now keeps it with the third: and says so
		third.look(t.Context())
		if third.here(img.Digest) {
			t.Fatal("the copy stays although both keepers hold on to theirs")
		}
	})
}

// TestPreviousIntent: what the intent dropped stays until it moves on, and goes then if there is no room; a restart makes no difference.
func TestPreviousIntent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1")
		n := s.nodes[0]
		old, img := s.upload(1, 256, "image"), s.upload(2, 256, "image")
		defer s.run()()
		s.want(old)
		synctest.Wait()
		s.mu.Lock()
		n.other = 87 * gib
		s.mu.Unlock()
		s.want(img)
		time.Sleep(time.Minute)
		s.wantOwners("previous", old, "a1")
		s.wantOwners("current", img, "a1")
		if a, _ := n.Report().of(old.Digest); !slices.Equal(a.Pins, []Pin{Previous}) {
			t.Errorf("pins %v", a.Pins)
		}
		s.want(img)
		time.Sleep(2 * lookEvery)
		s.wantOwners("the intent moved on", old)
		s.wantOwners("current", img, "a1")
	})
}

// TestWatermarks: unpinned assets stay below 85 %, then the largest of a day go until 70 % is reached, and no more.
func TestWatermarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1")
		n := s.nodes[0]
		var all []*intent.AssetSpec
		for k := range 6 {
			all = append(all, s.upload(k, 64*(k+1), "image")) // 1 to 6 GiB
		}
		s.want(all...)
		defer s.run()()
		for range 3 {
			synctest.Wait()
			s.want()
		}
		set := func(other uint64) {
			s.mu.Lock()
			n.other = other
			s.mu.Unlock()
			time.Sleep(2 * lookEvery)
		}
		set(63 * gib) // 84 GiB
		if gone := s.told("asset.evicted"); len(gone) != 0 {
			t.Fatalf("below the high watermark went %v", gone)
		}
		set(65 * gib) // 86 GiB: 16 must go, 6 and 5 and 4 and 3
		var want []string
		for _, k := range []int{5, 4, 3, 2} {
			want = append(want, all[k].Digest.Short()[:12])
		}
		var gone []string
		for _, m := range s.told("asset.evicted") {
			gone = append(gone, m[:12])
		}
		if !slices.Equal(gone, want) {
			t.Fatalf("gone %v, want %v\n%s", gone, want, s)
		}
	})
	f := func(total, high, low uint64) {
		t.Helper()
		if h, l := watermarks(blob.Space{Total: total}); h != high || l != low {
			t.Errorf("%d: %d and %d", total, h, l)
		}
	}
	f(1000*gib, 150*gib, 300*gib)
	f(10*gib, 3*gib, 6*gib) // storage/state refuses below 2
}

// TestOvercommitted: what is pinned and does not fit is refused with a name, told once, not tried again in vain, and comes when there is
// room; unpinned assets make room for it.
func TestOvercommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1")
		n := s.nodes[0]
		var tries atomic.Int32
		fetch := n.cfg.Fetch
		n.cfg.Fetch = func(ctx context.Context, a *intent.AssetSpec, urgent bool) (map[string]int64, error) {
			tries.Add(1)
			return fetch(ctx, a, urgent)
		}
		kernel, img, old := s.upload(1, 64, "boot"), s.upload(2, 128, "image"), s.upload(3, 64, "image")
		s.want(old)
		defer s.run()()
		synctest.Wait()
		s.want()
		synctest.Wait()
		s.want() // old may go
		s.mu.Lock()
		n.other = 95 * gib
		s.mu.Unlock()
		s.want(img, kernel)
		time.Sleep(time.Minute)
		// 5 GiB free, 6 GiB reserved: nothing more can come, and what could go has gone.
		s.wantOwners("unpinned", old)
		s.wantOwners("no room", kernel)
		if err := n.Missing(kernel); !errors.Is(err, ErrOvercommitted) {
			t.Errorf("missing: %v", err)
		}
		if r := n.Report(); len(r.Disk.Refused) != 2 || n.Word() != "disk_overcommitted" || len(s.told("disk.overcommitted")) != 2 {
			t.Errorf("refused %v, %q, events %v", r.Disk.Refused, n.Word(), s.told("disk.overcommitted"))
		}
		was := tries.Load()
		time.Sleep(8 * time.Minute)
		if now := tries.Load(); now != was {
			t.Errorf("%d tries in vain", now-was)
		}
		s.mu.Lock()
		n.other = 90 * gib
		s.mu.Unlock()
		time.Sleep(2 * lookEvery)
		s.wantOwners("room", kernel, "a1")
		s.wantOwners("room", img, "a1")
		if n.Word() != "" || n.Missing(img) != nil || len(s.told("disk.overcommitted")) != 2 {
			t.Errorf("%q, %v, events %v", n.Word(), n.Missing(img), s.told("disk.overcommitted"))
		}
	})
}

// TestNotInVain: nothing goes for an asset that would not fit though everything went that may.
func TestNotInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1")
		n := s.nodes[0]
		s.want(s.upload(1, 64, "image"), s.upload(2, 64, "image"))
		defer s.run()()
		for range 3 {
			synctest.Wait()
			s.want() // at last both may go
		}
		synctest.Wait()
		sp, err := n.cfg.Blobs.Space()
		if err != nil {
			t.Fatal(err)
		}
		a := &intent.AssetSpec{Digest: intent.DigestOf(nil), Size: sp.Free - sp.Reserve + 128<<10 + 1, Class: "image"}
		n.makeRoom(t.Context(), a)
		if gone := s.told("asset.evicted"); len(gone) != 0 {
			t.Errorf("in vain went %v", gone)
		}
		a.Size--
		n.makeRoom(t.Context(), a)
		if gone := s.told("asset.evicted"); len(gone) != 1 { // it takes a GiB of the test's disk
			t.Errorf("for what fits went %v", gone)
		}
	})
}

// TestScrubbed: a chunk that goes bad on disk is found, told and fetched again; two in a day make the disk suspect, for a day.
func TestScrubbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1")
		n := s.nodes[0]
		events := func() (bad, suspect, came int) {
			return len(s.told("asset.damaged")), len(s.told("disk.suspect")), len(s.told("asset.complete"))
		}
		a, b := s.upload(1, 64, "boot"), s.upload(2, 64, "boot")
		s.want(a, b)
		defer s.run()()
		synctest.Wait()
		n.hurt(a)
		time.Sleep(5 * time.Minute)
		s.wantOwners("fetched again", a, "a1")
		if bad, suspect, came := events(); bad != 1 || suspect != 0 || came != 3 || n.Word() != "" {
			t.Fatalf("%d damaged, %d suspect, %d complete, %q", bad, suspect, came, n.Word())
		}
		n.hurt(b)
		time.Sleep(5 * time.Minute)
		if bad, suspect, came := events(); bad != 2 || suspect != 1 || came != 4 || n.Word() != "disk_suspect" || !n.Report().Disk.Suspect {
			t.Fatalf("%d damaged, %d suspect, %d complete, %q", bad, suspect, came, n.Word())
		}
	})
}

// TestPace: 1 % a day at least, a chunk a minute at least; two bad chunks within a day are suspect, whatever the clock did since.
func TestPace(t *testing.T) {
	for _, held := range []uint64{0, 1, 10 << 20, 10 << 30, 2 << 40} {
		if n := scrubStep(held); n < 1 || n*24*60 < held/100 || n*24*60 > held/40+24*60 {
			t.Errorf("%d octets: %d a minute", held, n)
		}
	}
	now := time.Unix(1_000_000, 0)
	f := func(want int, ago ...time.Duration) {
		t.Helper()
		var all []blob.Info
		for _, d := range ago {
			all = append(all, blob.Info{Damaged: []time.Time{now.Add(-d)}})
		}
		if got := lately(all, now); got != want {
			t.Errorf("%v: %d", ago, got)
		}
	}
	f(0)
	f(1, time.Hour, 25*time.Hour)
	f(2, time.Hour, 23*time.Hour)
	f(2, time.Hour, -23*time.Hour)
	f(0, -25*time.Hour)
}

// TestRelay: an agent that keeps no copy serves the octets all the same, from whoever gives the right ones, and has nothing afterwards.
func TestRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1", "a2", "a3")
		img := s.upload(2, 2500, "image")
		ranked := claim.Rendezvous(img.Digest.Hex(), s.names())
		n := s.node(ranked[2])
		s.want(img)
		if _, err := n.Relay(t.Context(), img); !errors.Is(err, ErrNobody) {
			t.Fatalf("nobody has it: %v", err)
		}
		defer s.run()()
		time.Sleep(time.Minute)
		want := s.content[img.Digest]
		read := func() ([]byte, error) {
			f, err := n.Relay(t.Context(), img)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			if end, err := f.Seek(0, io.SeekEnd); err != nil || end != int64(len(want)) {
				t.Fatalf("length %d, %v", end, err)
			}
			if _, err := f.Seek(-1, io.SeekStart); err == nil {
				t.Fatal("seek before the start")
			}
			if _, err := f.Seek(1<<20-7, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			return io.ReadAll(f)
		}
		f := func(what string, ok bool) {
			t.Helper()
			got, err := read()
			if ok && (err != nil || !bytes.Equal(got, want[1<<20-7:])) || !ok && !errors.Is(err, ErrNobody) {
				t.Fatalf("%s: %d octets, %v", what, len(got), err)
			}
		}
		f("two have it", true)
		s.node(ranked[0]).bad = true
		f("one lies", true)
		s.node(ranked[1]).bad = true
		f("both lie", false)
		s.node(ranked[0]).bad = false
		s.setCut(ranked[1], n.name, true)
		f("one is away", true)
		if got := s.owners(img); len(got) != 2 || len(n.cfg.Blobs.List()) != 0 {
			t.Fatalf("on %v", got)
		}
	})
}

// TestStatuses: what an agent shows of all.
func TestStatuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 100*gib, "a1", "a2", "a3")
		img, big := s.upload(1, 64, "image"), s.upload(2, 64, "image")
		ranked := claim.Rendezvous(img.Digest.Hex(), s.names())
		at := func(n *node, a *intent.AssetSpec) map[string]string {
			out := map[string]string{}
			for _, st := range n.Statuses()[a.Digest].Agents {
				out[st.Agent] = strings.TrimSpace(fmt.Sprint(st.State, " ", st.Have, " ", st.Octets, " ", st.Pins, " ", st.Day, " ", st.Refused))
			}
			return out
		}
		if _, err := s.node(ranked[2]).fetch(t.Context(), img, false); err != nil {
			t.Fatal(err)
		}
		defer s.run()()
		s.want(img)
		time.Sleep(time.Minute)
		n := s.nodes[0]
		set, text := metrics.NewSet(), &bytes.Buffer{}
		s.node(ranked[2]).Gauges(set)
		set.WritePrometheus(text)
		for _, line := range []string{`skerry_asset_held_octets{pin="surplus"} 65536`, `skerry_asset_held_octets{pin="none"} 0`, "skerry_asset_refused 0", fmt.Sprint("skerry_asset_disk_octets ", 100*gib)} {
			if !strings.Contains(text.String(), line+"\n") {
				t.Errorf("no %s in\n%s", line, text)
			}
		}
		want := map[string]string{
			ranked[0]: "complete 1 65536 [current] 2000-01-01 false",
			ranked[1]: "complete 1 65536 [current] 2000-01-01 false",
			ranked[2]: "complete 1 65536 [surplus] 2000-01-01 false",
		}
		if got := at(n, img); !maps.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
		for _, o := range s.nodes {
			s.mu.Lock()
			o.other = 99 * gib
			s.mu.Unlock()
		}
		s.want(img, big)
		s.setCut("a1", "a2", true)
		time.Sleep(claim.HoldOff / 2)
		got := at(n, big)
		if got["a2"] != "unknown 0 0 []  false" || got["a1"] == "none 0 0 []  true" != slices.Contains(Keepers(big, s.names()), "a1") {
			t.Fatalf("%v", got)
		}
	})
}

// TestNeverTheLastCopy: sites of random size, intents, cuts and full disks: whenever a copy goes, either no intent wants the asset, or
// two agents have all of it.
func TestNeverTheLastCopy(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	evicted := 0
	for k := range uint64(4) {
		synctest.Test(t, func(t *testing.T) { evicted += randomSite(t, rand.New(rand.NewPCG(seed, k))) })
	}
	if evicted == 0 {
		t.Error("nothing was evicted: the test tests nothing")
	}
}

func randomSite(t *testing.T, r *rand.Rand) int {
	names := []string{"a1", "a2", "a3", "a4", "a5"}[:3+r.IntN(3)]
	s := newSite(t, 64*gib, names...)
	var all []*intent.AssetSpec
	for k := range 6 {
		all = append(all, s.upload(k, 64*(1+r.IntN(4)), []string{"boot", "image", "image", "other"}[r.IntN(4)]))
	}
	s.onEvent = func(n *node, message string) {
		s.mu.Lock()
		wanted := s.intent.Wanted
		s.mu.Unlock()
		for _, a := range wanted {
			if strings.HasPrefix(message, a.Digest.Short()) && strings.Contains(message, "keep it") && len(s.owners(a)) < 2 {
				t.Errorf("%s: %s, and it is left on %v", n.name, message, s.owners(a))
			}
		}
	}
	defer s.run()()
	for range 30 {
		switch r.IntN(4) {
		case 0:
			s.want(shuffled(r, all)[:2+r.IntN(4)]...)
		case 1, 2:
			a, b := names[r.IntN(len(names))], names[r.IntN(len(names))]
			if a != b {
				s.setCut(a, b, r.IntN(3) == 0)
			}
		case 3:
			n := s.nodes[r.IntN(len(s.nodes))]
			s.mu.Lock()
			n.other = []uint64{0, 20, 45, 60}[r.IntN(4)] * gib
			s.mu.Unlock()
		}
		time.Sleep([]time.Duration{time.Second, 10 * time.Second, 40 * time.Second}[r.IntN(3)])
	}
	for _, n := range s.nodes { // fine weather: what is wanted is where it belongs
		s.mu.Lock()
		n.other = 0
		s.mu.Unlock()
		for _, o := range names {
			s.setCut(n.name, o, false)
		}
	}
	time.Sleep(time.Minute)
	for _, a := range s.now().Wanted {
		for _, name := range Keepers(a, names) {
			if !s.node(name).here(a.Digest) {
				t.Errorf("%s lacks %s of class %s\n%s", name, a.Digest.Short(), a.Class, fmt.Sprint(s))
			}
		}
	}
	return len(s.told("asset.evicted"))
}
