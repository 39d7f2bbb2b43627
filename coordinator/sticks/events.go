package sticks

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// maxEvents bounds the events of one agent that are kept: what a person looks through.
const maxEvents = 2000

func eventKey(site, agent string, seq uint64) string {
	return fmt.Sprintf("event/%s/%s/%016x", site, agent, seq)
}

// keepEvents keeps the newest events of each agent: the site cannot be asked for them.
func (t *taking) keepEvents(ctx context.Context, events []intent.Event) (fresh bool, err error) {
	have, commit := map[string][]string{}, store.Commit{Put: map[string][]byte{}}
	for _, e := range events {
		if e.Site != t.site || !intent.IsLabel(e.Agent) || e.Seq == 0 {
			return false, fmt.Errorf("cannot keep event %d of %q at %q: it is none of the site", e.Seq, e.Agent, e.Site)
		}
		prefix, known := "event/"+t.site+"/"+e.Agent+"/", false
		if _, known = have[e.Agent]; !known {
			have[e.Agent] = []string{}
			err := t.Store.Range(ctx, prefix, "", func(x store.Entry) error {
				have[e.Agent] = append(have[e.Agent], x.Key)
				return nil
			})
			if err != nil {
				return false, err
			}
		}
		key, old := eventKey(t.site, e.Agent, e.Seq), have[e.Agent]
		if len(old) > 0 && key <= old[len(old)-1] {
			continue // known, or older than what is kept
		}
		if commit.Put[key], err = json.Marshal(e); err != nil {
			return false, fmt.Errorf("cannot encode event: %w", err)
		}
		have[e.Agent] = append(old, key)
	}
	for _, keys := range have {
		for n := len(keys) - maxEvents; n > 0; n-- {
			if _, put := commit.Put[keys[n-1]]; !put {
				commit.Delete = append(commit.Delete, keys[n-1])
			}
		}
	}
	if len(commit.Put) == 0 || t.dry {
		return len(commit.Put) > 0, nil
	}
	_, err = t.Store.Commit(ctx, commit)
	return err == nil, err
}

// Events calls fn for what the site's sticks brought, agent by agent, oldest first, and tells whether there was any.
func (d *Desk) Events(ctx context.Context, q api.EventQuery, fn func(intent.Event) error) (found bool, err error) {
	err = d.Store.Range(ctx, "event/"+q.Site+"/", "", func(x store.Entry) error {
		e := intent.Event{}
		if err := json.Unmarshal(x.Value, &e); err != nil {
			return fmt.Errorf("cannot read %s: %w", x.Key, err)
		}
		found = true
		if q.Machine != "" && e.Machine != q.Machine || e.Time.Before(q.Since) {
			return nil
		}
		return fn(e)
	})
	return found, err
}
