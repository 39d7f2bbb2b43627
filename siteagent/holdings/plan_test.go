package holdings

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/storage/blob"
)

func digest(name string) intent.Digest { return intent.DigestOf([]byte(name)) }

func spec(name, class string) *intent.AssetSpec {
	return &intent.AssetSpec{Digest: digest(name), Size: 1 << 20, Manifest: digest("m" + name), Class: class}
}

func headAt(seq uint64) intent.Head {
	return intent.Head{Epoch: 1, Seq: seq, Hash: digest(fmt.Sprint(seq))}
}

func held(name string, mib uint64, day int, left uint64) blob.Info {
	i := blob.Info{Digest: digest(name), Size: mib << 20, Octets: mib << 20, LastUsed: time.Date(2026, 11, day, day%24, 0, 0, 0, time.UTC)}
	if left > 0 {
		i.Left = headAt(left)
	}
	return i
}

// show names what a plan names.
func show(p Plan, names ...string) string {
	name := map[intent.Digest]string{}
	for _, n := range names {
		name[digest(n)] = n
	}
	var keep, pins, left, may []string
	for _, s := range p.Keep {
		keep = append(keep, name[s.Digest])
	}
	for d, why := range p.Pins {
		pins = append(pins, fmt.Sprintf("%s:%v", name[d], why))
	}
	for d, h := range p.Left {
		left = append(left, fmt.Sprintf("%s@%d", name[d], h.Seq))
	}
	for _, i := range p.May {
		may = append(may, name[i.Digest])
	}
	slices.Sort(pins)
	slices.Sort(left)
	return fmt.Sprintf("keep %v pins %v left %v may %v", keep, pins, left, may)
}

// TestPlan: one agent at head 7, which keeps all that it wants.
func TestPlan(t *testing.T) {
	names := []string{"k", "r", "img", "fw", "old", "older", "x", "y", "z"}
	f := func(what, want string, wanted []*intent.AssetSpec, next []intent.Digest, have ...blob.Info) {
		t.Helper()
		got := show(MakePlan(Seen{Self: "a1", Agents: []string{"a1"}, Head: headAt(7), Wanted: wanted, Next: next, Held: have}), names...)
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", what, got, want)
		}
	}
	f("nothing", "keep [] pins [] left [] may []", nil, nil)
	f("boot first, then images, then others", "keep [k img fw] pins [fw:[current] img:[current] k:[current]] left [] may []",
		[]*intent.AssetSpec{spec("fw", "other"), spec("img", "image"), spec("k", "boot")}, nil)
	f("two names of one", "keep [k] pins [k:[current]] left [] may []", []*intent.AssetSpec{spec("k", "boot"), spec("k", "image")}, nil)
	f("left at this head: previous", "keep [] pins [old:[previous]] left [] may []", nil, nil, held("old", 1, 1, 7))
	f("left at an earlier head: may go", "keep [] pins [] left [] may [old]", nil, nil, held("old", 1, 1, 6))
	f("left while nobody looked: previous, and noted", "keep [] pins [old:[previous]] left [old@7] may []", nil, nil, held("old", 1, 1, 0))
	f("wanted again: the note goes", "keep [k] pins [k:[current]] left [k@0] may []", []*intent.AssetSpec{spec("k", "boot")}, nil, held("k", 1, 1, 6))
	f("next: kept, not fetched", "keep [] pins [old:[next]] left [] may []", nil, []intent.Digest{digest("old"), digest("x")}, held("old", 1, 1, 5))
	f("oldest day, then largest", "keep [] pins [] left [] may [x z y]", nil, nil, held("y", 1, 3, 1), held("z", 9, 3, 1), held("x", 1, 2, 1))
}

// TestKeepers: boot assets are everywhere, others at two agents, whoever asks; who is not a keeper may give its copy up.
func TestKeepers(t *testing.T) {
	agents := []string{"a1", "a2", "a3", "a4", "a5"}
	img, kernel := spec("img", "image"), spec("k", "boot")
	kept := map[string]int{}
	for _, self := range agents {
		p := MakePlan(Seen{Self: self, Agents: agents, Head: headAt(1), Wanted: []*intent.AssetSpec{img, kernel}, Held: []blob.Info{held("img", 4, 1, 0), held("k", 1, 1, 0)}})
		for _, s := range p.Keep {
			kept[s.Class]++
		}
		here := slices.Contains(Keepers(img, agents), self)
		if may := slices.ContainsFunc(p.May, func(i blob.Info) bool { return i.Digest == img.Digest }); may == here || (len(p.Elsewhere[img.Digest]) == 2) == here {
			t.Errorf("%s: keeper %v, may go %v, elsewhere %v", self, here, may, p.Elsewhere)
		}
	}
	if kept["boot"] != 5 || kept["image"] != 2 {
		t.Errorf("kept %v", kept)
	}
	var bring []string
	ranked := Keepers(&intent.AssetSpec{Digest: img.Digest, Class: "boot"}, agents)
	for _, self := range agents {
		for _, wan := range [][]string{ranked[2:4], ranked[1:4], nil} { // with no keeper, with one, nobody
			p := MakePlan(Seen{Self: self, Agents: agents, WAN: wan, Wanted: []*intent.AssetSpec{img, kernel}})
			for range p.Bring {
				bring = append(bring, fmt.Sprint(self, " ", len(wan)))
			}
		}
	}
	if len(bring) != 1 || bring[0] != ranked[2]+" 2" {
		t.Errorf("brought for the keepers by %v, want once by %s", bring, ranked[2])
	}
	for n := range agents {
		if got := len(Keepers(img, agents[:n])); got != min(2, n) {
			t.Errorf("%d keepers of %d", got, n)
		}
	}
}

// TestPlanLaws: over random sites: the same whatever the order; each asset of the intent has as many keepers as there should be and
// every agent names the same; nothing wanted, previous or next may go anywhere it is kept; who lacks a copy is not told to give one up.
func TestPlanLaws(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		agents := []string{"a1", "a2", "a3", "a4", "a5", "a6", "a7"}[:1+r.IntN(7)]
		var wanted []*intent.AssetSpec
		var have []blob.Info
		var next []intent.Digest
		for k := range 12 {
			name := fmt.Sprint("x", k)
			if r.IntN(2) == 0 {
				wanted = append(wanted, spec(name, []string{"boot", "image", "other"}[r.IntN(3)]))
			}
			if r.IntN(3) > 0 {
				have = append(have, held(name, 1+r.Uint64N(3), 1+r.IntN(3), r.Uint64N(4)))
			}
			if r.IntN(6) == 0 {
				next = append(next, digest(name))
			}
		}
		keepers := map[intent.Digest]int{}
		for _, self := range agents {
			in := Seen{Self: self, Agents: agents, Head: headAt(3), Wanted: wanted, Next: next, Held: have}
			p := MakePlan(in)
			in.Agents, in.Wanted, in.Held = shuffled(r, agents), shuffled(r, wanted), shuffled(r, have)
			if q := MakePlan(in); !reflect.DeepEqual(p, q) {
				t.Fatalf("another order, another plan:\n%+v\n%+v", p, q)
			}
			for _, s := range p.Keep {
				keepers[s.Digest]++
			}
			for k, i := range p.May {
				if len(p.Pins[i.Digest]) > 0 || i.Left == headAt(3) && p.Elsewhere[i.Digest] == nil || slices.Contains(next, i.Digest) {
					t.Fatalf("%s may go and is pinned: %v", i.Digest.Short(), p.Pins[i.Digest])
				}
				if k > 0 && day(p.May[k-1].LastUsed).After(day(i.LastUsed)) {
					t.Fatal("a younger one goes first")
				}
			}
			if len(p.Pins)+len(p.May)+len(p.Elsewhere) < len(have) {
				t.Fatal("something held is neither pinned nor may it go")
			}
		}
		for _, s := range wanted {
			want := min(2, len(agents))
			if s.Class == "boot" {
				want = len(agents)
			}
			if keepers[s.Digest] != want {
				t.Fatalf("%s is kept by %d of %d, want %d", s.Class, keepers[s.Digest], len(agents), want)
			}
		}
	}
}

func shuffled[T any](r *rand.Rand, in []T) []T {
	out := slices.Clone(in)
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func TestCounting(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	f := func(want string, steady bool, members ...claim.Member) {
		t.Helper()
		got, s := counting(members, "me", now)
		if strings.Join(got, " ") != want || s != steady {
			t.Errorf("%v, steady %v; want %s, %v", got, s, want, steady)
		}
	}
	long, short := now.Add(-time.Hour), now.Add(-claim.HoldOff+1)
	f("me b", true, claim.Member{ID: "me", Alive: true, Since: short}, claim.Member{ID: "b", Alive: true, Since: long})
	f("me b", false, claim.Member{ID: "me", Alive: true}, claim.Member{ID: "b", Alive: true, Since: short})
	f("me b", false, claim.Member{ID: "me", Alive: true}, claim.Member{ID: "b", Since: short})
	f("me", true, claim.Member{ID: "me", Alive: true}, claim.Member{ID: "b", Since: long})
}

// FuzzReport: whatever a peer says is refused, or can be relied on not to contradict itself.
func FuzzReport(f *testing.F) {
	d := digest("x").String()
	f.Add([]byte(`{"agent":"a2","assets":[{"digest":"` + d + `","sizeBytes":10,"heldBytes":10,"chunks":1,"heldChunks":1,"complete":true,"pins":["current"],"lastUsed":"2026-11-27T00:00:00Z"}],"disk":{"freeBytes":1,"totalBytes":2,"reserveBytes":1}}`))
	f.Add([]byte(`{"agent":"a3"}`))
	f.Add([]byte(`{"agent":"a2","assets":[{"sizeBytes":1,"heldBytes":2}]}`))
	f.Add([]byte(`{"agent":"a2","assets":[{"chunks":2,"heldChunks":1,"complete":true}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReport(b, "a2")
		if err != nil {
			return
		}
		if r.Agent != "a2" {
			t.Fatal("of somebody else")
		}
		for _, a := range r.Assets {
			if a.Complete && (a.Have != a.Chunks || a.Octets != a.Size) || a.Octets > a.Size {
				t.Fatalf("%+v", a)
			}
		}
	})
}
