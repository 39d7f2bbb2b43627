package holdings

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/blob"
)

// Act is what a person asks of an asset at a site.
type Act string

// The acts.
const (
	Prefetch Act = "prefetch" // fetch it as if a machine waited for it: now, in quiet hours too
	Verify   Act = "verify"   // read all of it from disk and hash it
	Evict    Act = "evict"    // give up the copy, if nothing needs it
)

const (
	// hurry is how long an asset that was prefetched counts as urgent.
	hurry = time.Hour
	// actLimit is how long a peer may take to answer: an eviction asks the others what they have first.
	actLimit = 10 * time.Second
	maxSaid  = 4 << 10 // octets of that answer
)

// acts is what was asked, and what came of it, in this life.
type acts struct {
	mu       sync.Mutex // guards what follows
	hurried  map[intent.Digest]time.Time
	checking map[intent.Digest]bool
	checked  map[intent.Digest]Check
	wake     chan struct{} // capacity 1
}

// Check is the result of a Verify.
type Check struct {
	At  time.Time `json:"at"`
	Bad int       `json:"bad"`           // chunks; they are fetched again
	Why string    `json:"why,omitempty"` // it could not be read to its end
}

func newActs() acts {
	return acts{hurried: map[intent.Digest]time.Time{}, checking: map[intent.Digest]bool{}, checked: map[intent.Digest]Check{}, wake: make(chan struct{}, 1)}
}

// result is what the last Verify of an asset found; nil: there was none.
func (a *acts) result(d intent.Digest) *Check {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.checked[d]; ok {
		return &c
	}
	return nil
}

// urgent tells whether a machine waits for an asset, or a person.
func (k *Keeper) urgent(s *intent.AssetSpec) bool {
	k.acts.mu.Lock()
	at, ok := k.acts.hurried[s.Digest]
	k.acts.mu.Unlock()
	return ok && time.Since(at) < hurry || k.cfg.Urgent(s)
}

// All lets every agent of the site do something about an asset, and returns what each said, by agent.
func (k *Keeper) All(ctx context.Context, d intent.Digest, a Act, dryRun bool) map[string]string {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[string]string{}
	for _, m := range k.cfg.Members() {
		wg.Go(func() {
			said := "unknown: it is not heard"
			switch {
			case m.ID == k.cfg.Self:
				said = k.Do(ctx, d, a, dryRun)
			case m.Alive:
				ctx, cancel := context.WithTimeout(ctx, actLimit)
				defer cancel()
				var err error
				if said, err = k.cfg.Peers.Tell(ctx, m.ID, d, a, dryRun); err != nil {
					said = "unknown: " + err.Error()
				}
			}
			mu.Lock()
			defer mu.Unlock()
			out[m.ID] = said
		})
		if a == Evict {
			wg.Wait() // one after the other: two could else rely on each other's copy
		}
	}
	wg.Wait()
	return out
}

// Do does something about an asset at this agent, and says what.
func (k *Keeper) Do(ctx context.Context, d intent.Digest, a Act, dryRun bool) string {
	p, _ := k.plan()
	switch a {
	case Prefetch:
		return k.prefetch(p, d, dryRun)
	case Verify:
		if _, _, err := k.cfg.Blobs.Have(d); err != nil {
			return "nothing here"
		}
		if !dryRun {
			k.acts.mu.Lock()
			k.acts.checking[d] = true
			k.acts.mu.Unlock()
			select {
			case k.acts.wake <- struct{}{}:
			default:
			}
		}
		return "is verified"
	case Evict:
		return k.evict(ctx, d, dryRun)
	default:
		return fmt.Sprintf("cannot do %.20q", string(a))
	}
}

func (k *Keeper) prefetch(p Plan, d intent.Digest, dryRun bool) string {
	switch {
	case k.here(d):
		return "has it"
	case !slices.ContainsFunc(slices.Concat(p.Keep, p.Bring), func(s *intent.AssetSpec) bool { return s.Digest == d }):
		if others := p.Elsewhere[d]; len(others) > 0 {
			return "leaves it to " + strings.Join(others, " and ")
		}
		return "need not have it: pin it to the site first"
	case !dryRun:
		k.acts.mu.Lock()
		k.acts.hurried[d] = time.Now()
		k.acts.mu.Unlock()
	}
	return "fetches it now"
}

// evict gives up a copy that no intent wants, or that enough others keep.
func (k *Keeper) evict(ctx context.Context, d intent.Digest, dryRun bool) string {
	if _, _, err := k.cfg.Blobs.Have(d); err != nil {
		return "nothing here"
	}
	select { // as the watermarks do, and not beside them
	case k.clearing <- struct{}{}:
		defer func() { <-k.clearing }()
	case <-ctx.Done():
		return "unknown: " + ctx.Err().Error()
	}
	if !k.cfg.Sure() {
		return "keeps it: its store is not sound, so it is not sure what is wanted"
	}
	k.hear(ctx)
	p, _ := k.plan()
	k.pin(p)
	if pins := p.Pins[d]; len(pins) > 0 {
		return fmt.Sprintf("keeps it for the %s intent", pins[0])
	}
	why := "no intent wants it"
	if keepers := p.Elsewhere[d]; len(keepers) > 0 {
		if why = strings.Join(keepers, " and ") + " keep it"; !k.kept(d, keepers) {
			return "keeps it until " + strings.Join(keepers, " and ") + " have all of it"
		}
	}
	if dryRun {
		return "gives it up: " + why
	}
	i := slices.IndexFunc(p.May, func(b blob.Info) bool { return b.Digest == d })
	if err := k.cfg.Blobs.Delete(d); err != nil {
		return "keeps it: " + err.Error()
	}
	octets := uint64(0)
	if i >= 0 {
		octets = p.May[i].Octets
	}
	k.gone(d, octets, "a person gave it up and "+why)
	return "gave it up: " + why
}

// gone counts and tells an eviction.
func (k *Keeper) gone(d intent.Digest, octets uint64, why string) {
	k.mu.Lock()
	k.evicted += octets
	k.mu.Unlock()
	k.event("asset.evicted", fmt.Sprintf("%s, %d MiB: %s", d.Short(), octets>>20, why), map[string]string{"digest": d.String()})
}

// verify hashes what was asked for, one asset after the other, until ctx ends.
func (k *Keeper) verify(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.acts.wake:
		}
		for d, ok := k.nextCheck(); ok && ctx.Err() == nil; d, ok = k.nextCheck() {
			r, err := k.cfg.Blobs.Check(ctx, d)
			k.mu.Lock()
			k.scrubbed += r.Octets
			k.mu.Unlock()
			k.acts.mu.Lock()
			delete(k.acts.checking, d)
			c := Check{At: time.Now().UTC(), Bad: r.Bad}
			if err != nil {
				c.Why = err.Error()
			}
			k.acts.checked[d] = c
			k.acts.mu.Unlock()
			if err != nil && ctx.Err() == nil {
				k.cfg.Log.Warn("asset not verified", "asset", d.Short(), "err", err)
			}
		}
	}
}

func (k *Keeper) nextCheck() (intent.Digest, bool) {
	k.acts.mu.Lock()
	defer k.acts.mu.Unlock()
	for d := range k.acts.checking {
		return d, true
	}
	return intent.Digest{}, false
}

// said is a peer's answer.
type said struct {
	Said string `json:"said"`
}

// act answers POST /m/1/assets/{digest}/{act}.
func (k *Keeper) act(w http.ResponseWriter, r *http.Request) {
	d, err := intent.ParseDigest(r.PathValue("digest"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(said{k.Do(r.Context(), d, Act(r.PathValue("act")), r.URL.Query().Has("dry"))}) // a broken session is noticed by its owner
}

// Tell implements Peers.
func (r Remote) Tell(ctx context.Context, agent string, d intent.Digest, a Act, dryRun bool) (answer string, err error) {
	path := "http://" + agent + "/m/1/assets/" + d.Hex() + "/" + string(a)
	if dryRun {
		path += "?dry=1"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, path, nil)
	if err != nil {
		return "", err
	}
	res, err := r(agent).RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("cannot ask %s: %w", agent, err)
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	var out said
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("cannot ask %s: %s", agent, res.Status)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxSaid)).Decode(&out); err != nil {
		return "", fmt.Errorf("cannot read what %s says: %w", agent, err)
	}
	return cmp.Or(out.Said, "said nothing"), nil
}
