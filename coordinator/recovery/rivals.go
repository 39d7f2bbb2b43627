package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// A name may have been given again: what one site was told under it and what another was are two objects then. The catalog of the
// lost coordinator never held both, but sites are heard one after the other, and the chain of one tells again what was deleted long
// before the end of the other's. Until all were heard the one that the catalog does not show is kept as a rival.

func rivalKey(k intent.Key, uid string) string {
	return "rival/" + strings.TrimPrefix(objectKey(k), "object/") + "/" + uid
}

// rivals decides between the stored object of a name and another that the site was told, encoded in v. yields is true when the
// stored one stays: a site that is published to has it, and would be told that it is gone. The other is kept as long as somebody was
// told it.
func (a *adoption) rivals(ctx context.Context, old *intent.Object, k intent.Key, uid string, v []byte) (yields bool, err error) {
	told, released, err := told(ctx, a.store, a.site, old.Metadata.UID)
	if err != nil {
		return false, err
	}
	if released {
		a.put[rivalKey(k, uid)] = v
		return true, nil
	}
	if told {
		was, err := json.Marshal(old)
		if err != nil {
			return false, fmt.Errorf("cannot encode %s: %w", k, err)
		}
		a.put[rivalKey(k, old.Metadata.UID)] = was
	}
	return false, nil
}

// succeed takes the object of a name out of the catalog. A rival takes the name over.
func (a *adoption) succeed(ctx context.Context, k intent.Key, uid string) error {
	prefix := rivalKey(k, "")
	next := ""
	err := a.store.Range(ctx, prefix, "", func(e store.Entry) error {
		if strings.HasSuffix(e.Key, "/"+uid) {
			return nil
		}
		next = e.Key
		a.put[objectKey(k)] = e.Value
		return store.ErrStop
	})
	if err != nil {
		return err
	}
	if next == "" {
		next = objectKey(k)
	}
	a.gone = append(a.gone, next)
	return nil
}

// told tells whether another site than except was told an object, and whether one of them is published to.
func told(ctx context.Context, st store.Store, except, uid string) (told, released bool, err error) {
	var sites []string
	err = st.Range(ctx, "published/", "", func(e store.Entry) error {
		if site, ok := strings.CutSuffix(strings.TrimPrefix(e.Key, "published/"), "/"+uid); ok && site != except {
			sites = append(sites, site)
		}
		return nil
	})
	for _, site := range sites {
		if err != nil {
			break
		}
		_, gerr := st.Get(ctx, publish.HeldKey(site))
		switch {
		case errors.Is(gerr, store.ErrAbsent):
			released = true
		default:
			err = gerr
		}
	}
	return len(sites) > 0, released, err
}

// seat gives the names that a site knows to the objects that it was told: it is to be published to.
func (r *Recovery) seat(ctx context.Context, site string, c *store.Commit) error {
	return r.Store.Range(ctx, "rival/", "", func(e store.Entry) error {
		o := &intent.Object{}
		if err := o.UnmarshalJSON(e.Value); err != nil {
			return fmt.Errorf("cannot read %s: %w", e.Key, err)
		}
		k := o.Key()
		if _, err := r.Store.Get(ctx, publish.PublishedKey(site, o.Metadata.UID)); errors.Is(err, store.ErrAbsent) {
			return nil
		} else if err != nil {
			return err
		}
		now, err := r.Store.Get(ctx, objectKey(k))
		if err != nil && !errors.Is(err, store.ErrAbsent) {
			return err
		}
		if err == nil {
			cur := &intent.Object{}
			if err := cur.UnmarshalJSON(now.Value); err != nil {
				return fmt.Errorf("cannot read %s: %w", now.Key, err)
			}
			told, released, err := told(ctx, r.Store, site, cur.Metadata.UID)
			if err != nil {
				return err
			}
			// Two sites that are published to: the older one was deleted, and its site had not heard of that.
			if released && !later(o, cur) {
				r.Log.Error("a site has an object whose name was given again at another: it is told that its own is gone", "object", k.String(), "site", site)
				c.Delete = append(c.Delete, e.Key)
				return nil
			}
			if told && !released {
				c.Put[rivalKey(k, cur.Metadata.UID)] = now.Value
			}
		}
		c.Put[objectKey(k)] = e.Value
		c.Delete = append(c.Delete, e.Key)
		return nil
	})
}

// later tells whether a was made after b.
func later(a, b *intent.Object) bool {
	return a.Metadata.Created != nil && (b.Metadata.Created == nil || a.Metadata.Created.After(*b.Metadata.Created))
}
