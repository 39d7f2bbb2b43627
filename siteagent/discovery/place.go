package discovery

import (
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/api/discovery"
)

const (
	// MaxKept is how many discovered machines a site keeps: a rack has 42, and a journal keeps its keys for ever.
	MaxKept = 256
	// maxPort is how many of them one switch port may fill: behind it may be a small switch, or somebody who makes up machines.
	maxPort = 4
)

// kept is one record and what makes it worth keeping.
type kept struct {
	record
	ignored  *discovery.Ignored // a person decided so: it goes last
	declared bool               // it is a machine of the site by now: it goes first
}

// place says which of the MaxKept places a sighting takes: its own, that of the same box seen by another card, a free one, or that of the
// one that can be spared most. have is by place. It is pure. again tells that the machine is in that place already.
func place(have map[string]kept, r record) (at string, again bool) {
	places := make([]string, 0, len(have))
	for p := range have {
		places = append(places, p)
	}
	slices.Sort(places)
	var port []string
	for _, p := range places {
		k := have[p]
		if k.ID == r.ID || sameBox(k.record, r) {
			return p, true
		}
		if r.Port.Circuit+r.Port.Remote != "" && k.Port == r.Port { // a relay without option 82 says nothing of ports
			port = append(port, p)
		}
	}
	if len(port) >= maxPort {
		return spared(have, port), false
	}
	if len(have) < MaxKept {
		h := fnv.New32a()
		h.Write([]byte(r.ID))
		for i := range MaxKept { // begun by the machine, so that two agents seldom take the same
			p := fmt.Sprintf("%03d", (int(h.Sum32()%MaxKept)+i)%MaxKept)
			if _, taken := have[p]; !taken {
				return p, false
			}
		}
	}
	return spared(have, places), false
}

// sameBox tells whether two sightings are one box that booted by two of its cards: each saw the other's card, and the serial numbers say it.
func sameBox(a, b record) bool {
	return !inventory.Placeholder(a.Facts.Serial) && a.Facts.Serial == b.Facts.Serial && a.Facts.UUID == b.Facts.UUID &&
		slices.Contains(a.Facts.MACs, macOf(b.ID)) && slices.Contains(b.Facts.MACs, macOf(a.ID))
}

// spared is the place of the one that goes: declared ones first, ignored ones last, and of equals the one not seen for longest.
func spared(have map[string]kept, among []string) string {
	worth := func(k kept) int {
		switch {
		case k.declared:
			return 0
		case k.ignored != nil:
			return 2
		}
		return 1
	}
	return slices.MinFunc(among, func(a, b string) int {
		x, y := have[a], have[b]
		if d := worth(x) - worth(y); d != 0 {
			return d
		}
		return x.Last.Compare(y.Last)
	})
}
