package proposals

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// charged is what one override took from its project's offline quota.
type charged struct {
	ID    string         `json:"id"`
	Agent string         `json:"agent"`
	Turn  uint64         `json:"turn,omitempty"`
	Time  time.Time      `json:"time"`
	Base  uint64         `json:"base"` // seq of the site's head when it was made
	Took  map[string]int `json:"took"` // machines by type
	Ack   uint64         `json:"-"`    // seq of the answer to it; 0: none yet
}

func chargeKey(site, project, id string) string {
	return "charge/" + site + "/" + project + "/" + id
}

// charge notes what an override took from the offline quota, once. Halves of a site that did not hear each other each charge the
// counter that they last knew (mesh.md section 7): where they took more than there was, that is written to the audit log with
// the overrides that did. Nothing is refused for it: the machines are the project's since.
func (d *Desk) charge(ctx context.Context, site string, o *intent.Override) error {
	if len(o.Charge) == 0 {
		return nil
	}
	key := chargeKey(site, o.Key.Scope, o.ID)
	if _, err := d.Store.Get(ctx, key); !errors.Is(err, store.ErrAbsent) {
		return err
	}
	mine := charged{ID: o.ID, Agent: o.Agent, Turn: o.Turn, Time: o.Time, Base: o.Base.Seq, Took: o.Charge}
	all, err := d.charges(ctx, site, o.Key.Scope)
	if err != nil {
		return err
	}
	v, err := json.Marshal(mine)
	if err != nil {
		return fmt.Errorf("cannot encode charge of %s: %w", o.ID, err)
	}
	c := store.Commit{Put: map[string][]byte{key: v}}
	offline := map[string]int{}
	if q := d.Catalog().Quota(o.Key.Scope, site); q != nil {
		offline = q.Offline.Machines
	}
	why := overdraft(append(all, mine), o.ID, offline)
	if why == "" {
		_, err = d.Store.Commit(ctx, c)
		return err
	}
	by := api.Caller{User: "reunion", Via: "coordinator"}
	_, err = d.Audit.Commit(ctx, by.Audit("quota.overdraft", "Project "+o.Key.Scope+" at "+site, why), c)
	return err
}

// charges lists what a site's overrides took for a project, with the answers that they got since.
func (d *Desk) charges(ctx context.Context, site, project string) (out []charged, err error) {
	err = d.Store.Range(ctx, chargeKey(site, project, ""), "", func(e store.Entry) error {
		var c charged
		if err := json.Unmarshal(e.Value, &c); err != nil {
			return fmt.Errorf("cannot read %s: %w", e.Key, err)
		}
		out = append(out, c)
		return nil
	})
	for i := range out {
		if err != nil {
			break
		}
		var e store.Entry
		switch e, err = d.Store.Get(ctx, store.AckKey(site, out[i].ID)); {
		case errors.Is(err, store.ErrAbsent):
			err = nil
		case err == nil:
			out[i].Ack, err = strconv.ParseUint(string(e.Value), 10, 64)
		}
	}
	return out, err
}

// overdraft says where override id was one of those that together took more than the offline quota has, "" when none did. What
// one was made beside is what was made before it and had no answer that its maker knew of.
func overdraft(all []charged, id string, offline map[string]int) string {
	slices.SortFunc(all, func(a, b charged) int {
		return cmp.Or(cmp.Compare(a.Turn, b.Turn), a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID))
	})
	for i, last := range all {
		var beside []string
		took, with := map[string]int{}, false
		for _, c := range all[:i+1] {
			if c.Ack != 0 && c.Ack <= last.Base {
				continue
			}
			with = with || c.ID == id
			beside = append(beside, c.ID+" of "+c.Agent)
			for t, n := range c.Took {
				took[t] += n
			}
		}
		for _, t := range slices.Sorted(maps.Keys(last.Took)) {
			if with && took[t] > offline[t] {
				return fmt.Sprintf("%d machines of type %s were taken offline, %d are allowed: %s", took[t], t, offline[t], strings.Join(beside, ", "))
			}
		}
	}
	return ""
}
