package members

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/bootnet"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

const (
	// kindBootKey is the journal's kind of boot keys that the site made itself; the key is the number of the site's decisions.
	kindBootKey = "bootkey"
	// oldKeys is how long a boot key that was replaced verifies still: boots that are under way end with it (trust.md section 7).
	oldKeys = 10 * time.Minute
)

// siteBootKey is a boot key that the site made because it cut an agent off, sealed to each agent that is left. It counts until
// the coordinator gives a newer version than the one that the site had then.
type siteBootKey struct {
	Decisions uint64             `json:"decisions"`
	Over      uint64             `json:"over"` // the coordinator's version that it replaces
	Keys      []intent.SealedDEK `json:"keys"`
}

// bootKeys remembers the boot key that counts, and those before it for a while.
type bootKeys struct {
	mu   sync.Mutex // guards what follows
	name string     // of the current key
	cur  seal.Secret
	old  []oldKey
}

type oldKey struct {
	key   seal.Secret
	until time.Time
}

// BootKeys returns the key that makes tokens, then those that verify still.
func (k *Keeper) BootKeys() ([]seal.Secret, error) {
	b := &k.keys
	ver := k.Replica.SecretVersion(bootnet.BootKeyName)
	name, own := fmt.Sprintf("coordinator/%d", ver), k.own(ver)
	if own != nil {
		name = fmt.Sprintf("site/%d", own.Decisions)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.old = slices.DeleteFunc(b.old, func(o oldKey) bool { return now.After(o.until) })
	if name != b.name {
		key, err := k.open(own)
		if err != nil {
			return nil, err
		}
		if !b.cur.IsZero() {
			b.old = append([]oldKey{{b.cur, now.Add(oldKeys)}}, b.old...)
		}
		b.name, b.cur = name, key
	}
	out := []seal.Secret{b.cur}
	for _, o := range b.old {
		out = append(out, o.key)
	}
	return out, nil
}

// own returns the newest key of the site's own that replaces version ver of the coordinator's, or nil.
func (k *Keeper) own(ver uint64) *siteBootKey {
	var best *siteBootKey
	for _, r := range k.Journal.View(kindBootKey) {
		s := &siteBootKey{}
		if json.Unmarshal(r.Body, s) == nil && s.Over >= ver && (best == nil || s.Decisions > best.Decisions) {
			best = s
		}
	}
	return best
}

func (k *Keeper) open(own *siteBootKey) (seal.Secret, error) {
	if own == nil {
		return k.Replica.Secret(bootnet.BootKeyName)
	}
	for _, s := range own.Keys {
		if s.To == k.Self {
			return seal.Unwrap(s, k.binding(k.Self), k.Keys()...)
		}
	}
	return seal.Secret{}, fmt.Errorf("cannot open boot key %d of the site: it is not sealed to this agent", own.Decisions)
}

// OpensWith tells whether the boot key that the site made itself, if one counts, opens with keys alone.
func (k *Keeper) OpensWith(keys *seal.Keys) bool {
	own := k.own(k.Replica.SecretVersion(bootnet.BootKeyName))
	if own == nil {
		return true
	}
	return slices.ContainsFunc(own.Keys, func(s intent.SealedDEK) bool {
		_, err := seal.Unwrap(s, k.binding(k.Self), keys)
		return err == nil
	})
}

func (k *Keeper) binding(agent string) seal.Binding {
	return seal.Binding{Domain: k.Domain, Site: k.Site, Agent: agent}
}

// newBootKey makes a boot key of the site's own for the decisions that stand, sealed to every agent that
// counts and to the spares that wait.
func (k *Keeper) newBootKey(decisions uint64) (claim.Draft, error) {
	dek, err := seal.NewDEK(decisions)
	if err != nil {
		return claim.Draft{}, err
	}
	s := siteBootKey{Decisions: decisions, Over: k.Replica.SecretVersion(bootnet.BootKeyName)}
	st := k.Replica.State()
	for _, a := range slices.Concat(st.Roster.Agents, k.waiting(st)) {
		if len(a.Seal) == 0 {
			continue
		}
		w, err := dek.Wrap(a.Seal[0], k.binding(a.ID))
		if err != nil {
			return claim.Draft{}, err
		}
		s.Keys = append(s.Keys, w)
	}
	return claim.Draft{Kind: kindBootKey, Key: fmt.Sprint(decisions), Body: s}, nil
}

// waiting lists the spares that may still be admitted.
func (k *Keeper) waiting(st replica.State) (out []intent.RosterAgent) {
	for _, a := range st.Signed.Agents {
		barred := lists(st.Roster, a.ID) || k.Replica.Revoked(intent.RevokeAgent, k.Site+"/"+a.ID) || k.Replica.Decisions().Quarantined[a.ID].On
		if a.State == intent.StateSpare && !barred {
			out = append(out, a)
		}
	}
	return out
}

// renewBootKey makes a new boot key when the site cut an agent off or admitted one, and this agent, the lowest-ranked alive, is the one to do it.
func (k *Keeper) renewBootKey(ctx context.Context) error {
	decisions := k.Replica.Decisions().Count()
	if decisions == 0 || k.Recovering() {
		return nil
	}
	if _, done := k.Journal.Latest(kindBootKey, fmt.Sprint(decisions)); done {
		return nil
	}
	members := slices.DeleteFunc(k.Alive(), func(m claim.Member) bool { return !m.Alive })
	if len(members) == 0 || slices.MinFunc(members, func(x, y claim.Member) int { return int(x.Rank) - int(y.Rank) }).ID != k.Self {
		return nil
	}
	draft, err := k.newBootKey(decisions)
	if err != nil {
		return err
	}
	return k.Journal.Append(ctx, claim.Local, draft)
}
