package secrets

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/recovery"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
)

// BootKey is the name of a site's HMAC key for boot tokens: a secret that every agent of the site gets, and nobody else.
const BootKey = recovery.BootKey

// Secrets keeps values encrypted under the coordinator's master key, and seals them to agents. A chain never forgets, so
// nothing enters it but what is sealed to one agent.
type Secrets struct {
	Store   store.Store
	Master  *seal.DEK
	Binding seal.Binding // of the values at rest
}

// Put adds the encrypted value to a commit.
func (s *Secrets) Put(to map[string][]byte, site, name string, ver uint64, plain seal.Secret) error {
	rec, err := s.Master.Seal(s.Binding, site+"/"+name, ver, plain)
	if err != nil {
		return fmt.Errorf("cannot encrypt secret %s/%s: %w", site, name, err)
	}
	v, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("cannot encode secret %s/%s: %w", site, name, err)
	}
	to[store.SecretKey(site, name)] = v
	to[store.VersionKey(site, name)] = strconv.AppendUint(nil, ver, 10)
	return nil
}

// Version returns the newest version that a secret of this name ever had, 0 for none. It outlives the secret: agents were
// told by version, and a secret that is deleted and made again must not look like what they have.
func (s *Secrets) Version(ctx context.Context, site, name string) (uint64, error) {
	e, err := s.Store.Get(ctx, store.VersionKey(site, name))
	if errors.Is(err, store.ErrAbsent) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(string(e.Value), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("cannot read version of secret %s/%s: %w", site, name, err)
	}
	return v, nil
}

// EnsureBootKey makes the site's boot key if there is none.
func (s *Secrets) EnsureBootKey(ctx context.Context, site string) error {
	_, err := s.Store.Get(ctx, store.SecretKey(site, BootKey))
	if !errors.Is(err, store.ErrAbsent) {
		return err
	}
	ver, err := s.Version(ctx, site, BootKey) // of one that only the site has: see recovery
	if err != nil {
		return err
	}
	key := make([]byte, 32)
	rand.Read(key) // never fails: crypto/rand, Go 1.24
	c := store.Commit{If: []store.Guard{{Key: store.SecretKey(site, BootKey)}}, Put: map[string][]byte{}}
	if err := s.Put(c.Put, site, BootKey, ver+1, seal.NewSecret(key)); err != nil {
		return err
	}
	if _, err := s.Store.Commit(ctx, c); err != nil && !errors.Is(err, store.ErrConflict) {
		return err
	}
	return nil
}

// RenewBootKey makes the next version of a site's boot key, once per cause; done tells that this call did.
func (s *Secrets) RenewBootKey(ctx context.Context, site, cause string) (done bool, err error) {
	marker := "renewed/" + site + "/" + cause
	if _, err := s.Store.Get(ctx, marker); !errors.Is(err, store.ErrAbsent) {
		return false, err
	}
	ver, err := s.Version(ctx, site, BootKey)
	if err != nil {
		return false, err
	}
	key := make([]byte, 32)
	rand.Read(key) // never fails: crypto/rand, Go 1.24
	c := store.Commit{If: []store.Guard{{Key: marker}}, Put: map[string][]byte{marker: []byte("1")}}
	if err := s.Put(c.Put, site, BootKey, ver+1, seal.NewSecret(key)); err != nil {
		return false, err
	}
	return once(s.Store.Commit(ctx, c))
}

// once tells whether a commit was the first that its guard let through.
func once(_ uint64, err error) (bool, error) {
	if errors.Is(err, store.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// dek returns the data key of one agent, making and storing it the first time; fresh tells so.
func (s *Secrets) dek(ctx context.Context, t *telling, site, agent string) (d *seal.DEK, fresh bool, err error) {
	name := "dek/" + site + "/" + agent
	e, err := s.Store.Get(ctx, store.DEKKey(site, agent))
	if err == nil {
		var rec intent.SealedRecord
		if err := json.Unmarshal(e.Value, &rec); err != nil {
			return nil, false, fmt.Errorf("cannot read data key of %s/%s: %w", site, agent, err)
		}
		plain, err := s.Master.Open(s.Binding, rec)
		if err != nil {
			return nil, false, fmt.Errorf("cannot decrypt data key of %s/%s: %w", site, agent, err)
		}
		d, err = seal.DEKFrom(rec.Ver, plain)
		return d, false, err
	}
	if !errors.Is(err, store.ErrAbsent) {
		return nil, false, err
	}
	n := uint64(0)
	if e, err := s.Store.Get(ctx, store.DEKNumberKey(site, agent)); err == nil {
		if n, err = strconv.ParseUint(string(e.Value), 10, 64); err != nil {
			return nil, false, fmt.Errorf("cannot read number of data keys of %s/%s: %w", site, agent, err)
		}
	} else if !errors.Is(err, store.ErrAbsent) {
		return nil, false, err
	}
	if d, err = seal.NewDEK(n + 1); err != nil {
		return nil, false, err
	}
	rec, err := s.Master.Seal(s.Binding, name, d.N, d.Key())
	if err != nil {
		return nil, false, fmt.Errorf("cannot encrypt data key of %s/%s: %w", site, agent, err)
	}
	v, err := json.Marshal(rec)
	if err != nil {
		return nil, false, fmt.Errorf("cannot encode data key of %s/%s: %w", site, agent, err)
	}
	t.put(store.DEKKey(site, agent), v)
	return d, true, nil
}

// Sync appends a secret entry with everything that an agent of the roster has not been told yet.
func (s *Secrets) Sync(ctx context.Context, ch *publish.Chain, domain, site string, roster *intent.RosterBody) error {
	records := map[string]intent.SealedRecord{}
	err := s.Store.Range(ctx, store.SecretKey(site, ""), "", func(e store.Entry) error {
		var rec intent.SealedRecord
		if err := json.Unmarshal(e.Value, &rec); err != nil {
			return err
		}
		records[e.Key[len(store.SecretKey(site, "")):]] = rec
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot read secrets of %s: %w", site, err)
	}
	t := &telling{ch: ch}
	for _, a := range roster.Agents {
		if err := s.tell(ctx, domain, site, a, records, t); err != nil {
			return err
		}
	}
	return t.append(ctx)
}

// maxTelling closes an entry of secrets when its ciphertexts reach this many octets: with one more secret of the largest
// size (intent.MaxSecret), twice in base64 (16/9), its envelope stays under half of intent.MaxEnvelope.
const maxTelling = 128 << 10

// telling collects what the agents of a site are told, and appends it in entries of bounded size.
type telling struct {
	ch     *publish.Chain
	body   intent.SecretBody
	commit store.Commit
	size   int
}

func (t *telling) put(key string, v []byte) {
	if t.commit.Put == nil {
		t.commit.Put = map[string][]byte{}
	}
	t.commit.Put[key] = v
}

// append writes what was collected, if anything, as one entry.
func (t *telling) append(ctx context.Context) error {
	if len(t.body.DEKs)+len(t.body.Records) == 0 {
		return nil
	}
	err := t.ch.Append(ctx, intent.EntrySecret, t.body, t.commit)
	t.body, t.commit, t.size = intent.SecretBody{}, store.Commit{}, 0
	return err
}

// tell seals to one agent what it lacks.
func (s *Secrets) tell(ctx context.Context, domain, site string, a intent.RosterAgent, records map[string]intent.SealedRecord, t *telling) error {
	var d *seal.DEK
	b := seal.Binding{Domain: domain, Site: site, Agent: a.ID}
	for _, name := range slices.Sorted(maps.Keys(records)) {
		rec := records[name]
		told, err := s.Store.Get(ctx, store.ToldKey(site, a.ID, name))
		if err == nil && string(told.Value) == fmt.Sprint(rec.Ver) {
			continue
		}
		if err != nil && !errors.Is(err, store.ErrAbsent) {
			return err
		}
		if d == nil {
			fresh := false
			if d, fresh, err = s.dek(ctx, t, site, a.ID); err != nil {
				return err
			}
			if fresh && len(a.Seal) > 0 {
				w, err := d.Wrap(a.Seal[0], b)
				if err != nil {
					return fmt.Errorf("cannot wrap data key for %s/%s: %w", site, a.ID, err)
				}
				w.To = a.ID
				t.body.DEKs = append(t.body.DEKs, w)
			}
		}
		plain, err := s.Master.Open(s.Binding, rec)
		if err != nil {
			return fmt.Errorf("cannot decrypt secret %s/%s: %w", site, name, err)
		}
		out, err := d.Seal(b, name, rec.Ver, plain)
		if err != nil {
			return fmt.Errorf("cannot seal secret %s to %s/%s: %w", name, site, a.ID, err)
		}
		out.To = a.ID
		t.body.Records = append(t.body.Records, out)
		t.put(store.ToldKey(site, a.ID, name), fmt.Append(nil, rec.Ver))
		if t.size += len(out.CT); t.size < maxTelling {
			continue
		}
		if err := t.append(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Number returns the number of an agent's data key, 0 while it has none.
func (s *Secrets) Number(ctx context.Context, site, agent string) (uint64, error) {
	e, err := s.Store.Get(ctx, store.DEKKey(site, agent))
	if errors.Is(err, store.ErrAbsent) {
		return 0, nil
	}
	var rec intent.SealedRecord
	if err == nil {
		err = json.Unmarshal(e.Value, &rec)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read data key of %s/%s: %w", site, agent, err)
	}
	return rec.Ver, nil
}

// Forget drops what an agent that left was told, so that a new one of the same id gets new keys.
func (s *Secrets) Forget(ctx context.Context, site, agent string) error {
	c, err := s.Reseal(ctx, site, agent)
	if err != nil {
		return err
	}
	_, err = s.Store.Commit(ctx, c)
	return err
}

func readableKey(site, agent string) string { return "readable/" + site + "/" + agent }

// Readable lists the secrets that an agent was told, also when it is gone, in order of names; not the boot key, which is ours to renew.
func (s *Secrets) Readable(ctx context.Context, site, agent string) ([]string, error) {
	names := map[string]bool{}
	e, err := s.Store.Get(ctx, readableKey(site, agent))
	if err != nil && !errors.Is(err, store.ErrAbsent) {
		return nil, err
	}
	for _, name := range strings.Fields(string(e.Value)) {
		names[name] = true
	}
	prefix := store.ToldKey(site, agent, "")
	err = s.Store.Range(ctx, prefix, "", func(e store.Entry) error {
		names[strings.TrimPrefix(e.Key, prefix)] = true
		return nil
	})
	delete(names, BootKey)
	return slices.Sorted(maps.Keys(names)), err
}

// Reseal is the commit after which an agent is told everything anew, under the data key of the next number. What it could read is kept.
func (s *Secrets) Reseal(ctx context.Context, site, agent string) (store.Commit, error) {
	c := store.Commit{}
	e, err := s.Store.Get(ctx, store.DEKKey(site, agent))
	if err == nil {
		var rec intent.SealedRecord
		if err := json.Unmarshal(e.Value, &rec); err != nil {
			return c, fmt.Errorf("cannot read data key of %s/%s: %w", site, agent, err)
		}
		c.Put = map[string][]byte{store.DEKNumberKey(site, agent): strconv.AppendUint(nil, rec.Ver, 10)}
		c.Delete = []string{store.DEKKey(site, agent)}
	} else if !errors.Is(err, store.ErrAbsent) {
		return c, err
	}
	names, err := s.Readable(ctx, site, agent)
	if err != nil {
		return c, err
	}
	if len(names) > 0 {
		if c.Put == nil {
			c.Put = map[string][]byte{}
		}
		c.Put[readableKey(site, agent)] = []byte(strings.Join(names, "\n"))
	}
	err = s.Store.Range(ctx, store.ToldKey(site, agent, ""), "", func(e store.Entry) error {
		c.Delete = append(c.Delete, e.Key)
		return nil
	})
	return c, err
}
