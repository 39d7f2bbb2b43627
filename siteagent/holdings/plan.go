package holdings

import (
	"cmp"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/storage/blob"
)

// Pin says which intent wants an asset.
type Pin string

// The pins, and Surplus for what an intent wants and other agents keep.
const (
	Current  Pin = "current"
	Previous Pin = "previous" // it left at the active head
	Next     Pin = "next"     // an entry that was received and is not active names it
	Surplus  Pin = "surplus"
)

// copies is how many agents keep an asset that not every agent needs (mesh.md section 4).
const copies = 2

const (
	classBoot  = "boot"
	classImage = "image"
)

// Seen is what a plan is made of.
type Seen struct {
	Self   string
	Agents []string    // of the site that count, this one too; any order
	WAN    []string    // those of them that hear a coordinator; any order
	Head   intent.Head // of the active intent
	Wanted []*intent.AssetSpec
	Next   []intent.Digest
	Held   []blob.Info
}

// Plan is what an agent does about its assets.
type Plan struct {
	Keep []*intent.AssetSpec // of the current intent, in the order of fetching: boot, so that machines can be inspected while images come, images, others
	// Bring is what this agent fetches for its keepers, none of which hears a coordinator. Its copy is surplus from the first.
	Bring []*intent.AssetSpec
	Pins  map[intent.Digest][]Pin // what is held or fetched here and stays
	// Elsewhere names the agents that keep an asset of the current intent which this one does not: a copy here is surplus.
	Elsewhere map[intent.Digest][]string
	Left      map[intent.Digest]intent.Head // to be noted in the store
	May       []blob.Info                   // may go, the first one first: oldest day of use, then largest
}

// Keepers returns the agents that keep an asset: all of them of class boot, two of the others by rendezvous of its digest.
func Keepers(s *intent.AssetSpec, agents []string) []string {
	ranked := claim.Rendezvous(s.Digest.Hex(), agents)
	if s.Class != classBoot {
		ranked = ranked[:min(copies, len(ranked))]
	}
	return ranked
}

// MakePlan is pure: the same Seen, in whatever order, gives the same plan.
//
// Whether an asset is of the previous intent is read off the head at which it left. One that has no such note left while nobody looked,
// now at the earliest: it stays until the intent moves on.
func MakePlan(in Seen) Plan {
	p := Plan{Pins: map[intent.Digest][]Pin{}, Elsewhere: map[intent.Digest][]string{}, Left: map[intent.Digest]intent.Head{}}
	wanted := map[intent.Digest]bool{}
	for _, s := range ordered(in.Wanted) {
		wanted[s.Digest] = true
		keepers := Keepers(s, in.Agents)
		switch {
		case len(p.Pins[s.Digest]) > 0: // under another name
		case slices.Contains(keepers, in.Self):
			p.Keep = append(p.Keep, s)
			p.Pins[s.Digest] = []Pin{Current}
			delete(p.Elsewhere, s.Digest)
		default:
			p.Elsewhere[s.Digest] = keepers
			if line := claim.Rendezvous(s.Digest.Hex(), in.WAN); len(line) > 0 && line[0] == in.Self && !slices.ContainsFunc(keepers, func(k string) bool { return slices.Contains(in.WAN, k) }) {
				p.Bring = append(p.Bring, s)
			}
		}
	}
	for _, i := range in.Held {
		left := i.Left
		switch {
		case wanted[i.Digest]:
			left = intent.Head{}
		case left == intent.Head{}:
			left = in.Head
		}
		if left != i.Left {
			p.Left[i.Digest] = left
		}
		if !wanted[i.Digest] && left == in.Head {
			p.Pins[i.Digest] = append(p.Pins[i.Digest], Previous)
		}
		if slices.Contains(in.Next, i.Digest) {
			p.Pins[i.Digest] = append(p.Pins[i.Digest], Next)
		}
		if len(p.Pins[i.Digest]) == 0 {
			p.May = append(p.May, i)
		}
	}
	slices.SortFunc(p.May, func(a, b blob.Info) int {
		return cmp.Or(day(a.LastUsed).Compare(day(b.LastUsed)), cmp.Compare(b.Octets, a.Octets), slices.Compare(a.Digest[:], b.Digest[:]))
	})
	return p
}

func day(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

func ordered(specs []*intent.AssetSpec) []*intent.AssetSpec {
	rank := func(s *intent.AssetSpec) int { return slices.Index([]string{classImage, classBoot}, s.Class) }
	return slices.SortedFunc(slices.Values(specs), func(a, b *intent.AssetSpec) int {
		return cmp.Or(cmp.Compare(rank(b), rank(a)), slices.Compare(a.Digest[:], b.Digest[:]))
	})
}

// counting returns the agents that a plan counts with: those that live, or have not been dead for claim.HoldOff. steady tells whether
// who lives has been the same for that long: only then may anything go because others keep it.
func counting(members []claim.Member, self string, now time.Time) (agents []string, steady bool) {
	steady = true
	for _, m := range members {
		recent := now.Sub(m.Since) < claim.HoldOff
		if m.Alive || recent {
			agents = append(agents, m.ID)
		}
		if recent && m.ID != self {
			steady = false
		}
	}
	return agents, steady
}
