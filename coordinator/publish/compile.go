package publish

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Compile returns the objects of the catalog that a site needs, in the order of intent.Kinds: its own, the shared ones, the agents of
// the sites that it reaches, and projects, users and keys that have to do with it. Secrets come without their values, which travel sealed.
func Compile(c *intent.Catalog, site string) []*intent.Object {
	projects := map[string]bool{}
	for _, o := range c.List(intent.KindProject) {
		if slices.Contains(o.Spec.(*intent.ProjectSpec).Sites, site) {
			projects[o.Metadata.Name] = true
		}
	}
	grouped := map[string]bool{} // users whom a group brings to the site
	for _, o := range c.List(intent.KindGroup) {
		if g := o.Spec.(*intent.GroupSpec); reaches(g.Bindings, site, projects) {
			for _, m := range g.Members {
				grouped[m] = true
			}
		}
	}
	var peers []string
	if s, _, ok := intent.Lookup[*intent.SiteSpec](c, intent.KindSite, "", site); ok {
		peers = s.Peers
	}
	var out []*intent.Object
	for _, o := range c.List("") {
		reached := o.Kind == intent.KindAgent && slices.Contains(peers, o.Metadata.Site) && !o.Spec.(*intent.AgentSpec).Spare
		if !wanted(o, site, projects) && !(o.Kind == intent.KindUser && grouped[o.Metadata.Name]) && !reached {
			continue
		}
		if s, ok := o.Spec.(*intent.SecretSpec); ok && len(s.Data) > 0 {
			bare := *o
			bare.Spec = &intent.SecretSpec{Type: s.Type, Ver: s.Ver}
			o = &bare
		}
		out = append(out, o)
	}
	return out
}

func wanted(o *intent.Object, site string, projects map[string]bool) bool {
	switch o.Kind {
	case intent.KindSite:
		return o.Metadata.Name == site
	case intent.KindMachineType, intent.KindAsset, intent.KindImage, intent.KindRole:
		return true
	case intent.KindProject:
		return projects[o.Metadata.Name]
	case intent.KindUser:
		return reaches(o.Spec.(*intent.UserSpec).Bindings, site, projects)
	case intent.KindGroup:
		return reaches(o.Spec.(*intent.GroupSpec).Bindings, site, projects)
	case intent.KindSSHKey:
		return projects[o.Metadata.Project]
	default:
		return o.Metadata.Site == site
	}
}

// userReaches tells whether one of the bindings allows anything at the site; who has none there is unknown there.
func reaches(bindings []intent.RoleBinding, site string, projects map[string]bool) bool {
	for _, b := range bindings {
		if (b.Site == "" || b.Site == site) && (b.Project == "" || projects[b.Project]) {
			return true
		}
	}
	return false
}

// Published is what the chain last said about one object.
type Published struct {
	Key intent.Key `json:"key"`
	Rev uint64     `json:"rev"`
}

// maxEntryBytes keeps an entry's envelope under intent.MaxEnvelope: base64 adds a third.
const maxEntryBytes = 700_000

// Diff returns the bodies of the entries that lead from what was published to want: tombstones first, so that a name can be
// taken again, then puts in the order of want, at most intent.MaxObjects each.
func Diff(want []*intent.Object, was map[string]Published) (tombs []intent.TombstoneBody, puts []intent.PutBody, err error) {
	now := map[string]bool{}
	for _, o := range want {
		now[o.Metadata.UID] = true
	}
	var gone []intent.TombstoneObject
	for uid, p := range was {
		if !now[uid] {
			gone = append(gone, intent.TombstoneObject{Kind: p.Key.Kind, UID: uid, Rev: p.Rev + 1})
		}
	}
	slices.SortFunc(gone, func(a, b intent.TombstoneObject) int {
		if a.UID < b.UID {
			return -1
		}
		return 1
	})
	for part := range slices.Chunk(gone, intent.MaxObjects) {
		tombs = append(tombs, intent.TombstoneBody{Objects: part})
	}
	body, size := intent.PutBody{}, 0
	for _, o := range want {
		if p, ok := was[o.Metadata.UID]; ok && p.Rev == o.Metadata.Rev {
			continue
		}
		bare := *o
		bare.Status = nil
		doc, err := json.Marshal(&bare)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot encode %s: %w", o.Key(), err)
		}
		if len(body.Objects) == intent.MaxObjects || (size+len(doc) > maxEntryBytes && size > 0) {
			puts = append(puts, body)
			body, size = intent.PutBody{}, 0
		}
		body.Objects = append(body.Objects, intent.PutObject{UID: o.Metadata.UID, Rev: o.Metadata.Rev, Doc: doc})
		size += len(doc) + 80
	}
	if len(body.Objects) > 0 {
		puts = append(puts, body)
	}
	return tombs, puts, nil
}
