package holdings

import (
	"encoding/json"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

// IntentOf reads off a replica what the site wants of its assets: what is pinned there, and what something there uses. Overrides change
// users' objects only, and no asset is one. Entries that are received and not active, because one of them is bad or cannot be read by this
// release, may be active soon: what they name stays.
func IntentOf(r *replica.Replica, site string, used func(name string, s *intent.AssetSpec) bool) Intent {
	st := r.State()
	in := Intent{Head: st.Head, Wake: st.Wake}
	for _, o := range st.Objects {
		s, ok := o.Spec.(*intent.AssetSpec)
		switch {
		case !ok:
		case s.KeptAt(site) || used(o.Metadata.Name, s):
			in.Wanted = append(in.Wanted, s)
		default:
			in.Others = append(in.Others, s)
		}
	}
	if st.Staged == st.Head {
		return in
	}
	// An entry that cannot be read ends the walk: its assets come again when it can.
	_ = r.Feed(st.Head.Seq+1, func(env *intent.Envelope) error {
		e, err := intent.DecodeEntry(env.Payload)
		if err != nil {
			return nil //nolint:nilerr // of a later release
		}
		var body intent.PutBody
		if e.Kind != intent.EntryPut || json.Unmarshal(e.Body, &body) != nil {
			return nil
		}
		for _, raw := range body.Objects {
			var o struct {
				Kind intent.Kind      `json:"kind"`
				Spec intent.AssetSpec `json:"spec"`
			}
			if json.Unmarshal(raw.Doc, &o) == nil && o.Kind == intent.KindAsset && !o.Spec.Digest.IsZero() {
				in.Next = append(in.Next, o.Spec.Digest)
			}
		}
		return nil
	})
	return in
}
