package holdings

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/origins"
	"github.com/skerry-metal/skerry/storage/blob"
)

// ErrOvercommitted: an asset that is kept here does not fit beside the others, though nothing is left that may go.
var ErrOvercommitted = errors.New("disk_overcommitted")

const (
	lookEvery = 5 * time.Second // at what is wanted, at space, at damage; and how long a fetch rests after nobody could bring an asset
	hearEvery = 30 * time.Second
	heardLife = 2 * time.Minute // what a peer said counts that long, for what is no danger to be wrong about
	saveEvery = time.Hour       // days of last use
	// refusedFor is how long what did not fit is not tried again, unless the intent moves or moreRoom is free: each try asks for a manifest.
	refusedFor = 10 * time.Minute
	moreRoom   = 64 << 20
	// learnLimit is how long a manifest may hold up what is fetched.
	learnLimit = 10 * time.Second
	// triedFor is how long other assets come after an urgent one was tried in vain.
	triedFor = time.Minute
)

// Intent is what a site wants of its assets at one moment.
type Intent struct {
	Head   intent.Head // active
	Wanted []*intent.AssetSpec
	Others []*intent.AssetSpec // that the intent names, and the site need not have
	Next   []intent.Digest     // named by entries that are received and not active
	Wake   <-chan struct{}     // closed by the next change
}

// Config says what a Keeper works with. All are required.
type Config struct {
	Self    string
	Blobs   *blob.Store
	Intent  func() Intent
	Members func() []claim.Member // of the site, this agent too
	WAN     func() []string       // who of them hears a coordinator
	Peers   Peers
	// Fetch brings an asset, whole, and says how many octets came from where; errors as swarm.Fetch.
	Fetch func(ctx context.Context, s *intent.AssetSpec, urgent bool) (map[string]int64, error)
	// Learn brings the manifest of an asset alone; nil: nobody does. Where octets may come from a URL, which has no manifest, it must be here
	// before the coordinator is gone.
	Learn func(ctx context.Context, s *intent.AssetSpec) error
	// Reader is who begins to read an asset that Fetch brings.
	Reader func(intent.Digest) Reader
	// Urgent tells whether a machine waits for an asset. Those come first, and other fetches make way.
	Urgent func(*intent.AssetSpec) bool
	// Came says how many octets of an asset that is being fetched came from where, by tier:name.
	Came func(intent.Digest) map[string]int64
	// URLs says how it stands with the URLs of an asset; nil: it has none.
	URLs func(*intent.AssetSpec) []origins.State
	// Forget drops what was remembered of assets that are not fetched any more.
	Forget func(wanted func(intent.Digest) bool)
	// Sure tells whether the intent can be relied upon: nothing of the store is on hold, and it is not behind. Otherwise nothing goes.
	Sure func() bool
	// Event journals what an operator should know; it may fail while the journal is behind.
	Event func(kind, message string, fields map[string]string) error
	Log   *slog.Logger
}

// Keeper keeps one agent's assets. See New.
type Keeper struct {
	cfg      Config
	clearing chan struct{} // one clears up at a time
	acts     acts

	mu        sync.Mutex // guards what follows
	heard     map[string]heard
	asked     time.Time
	refused   map[intent.Digest]refusal
	unlearnt  time.Time                   // a manifest did not come, last
	tried     map[intent.Digest]time.Time // when a fetch of it ended last
	told      time.Time                   // the newest bad chunk of which there was an event
	suspect   bool
	saved     time.Time
	scrubbed  uint64 // octets since the start
	evicted   uint64 // octets since the start
	manifests map[intent.Digest]*chunk.Manifest
	came      map[intent.Digest]map[string]uint64 // of what was fetched whole in this life, by tier
}

type heard struct {
	r  *Report
	at time.Time
}

// refusal is an asset that did not fit, and what was so then.
type refusal struct {
	head intent.Head
	free uint64
	size uint64
	at   time.Time
}

// New returns a keeper that does nothing before Run.
func New(cfg Config) *Keeper {
	return &Keeper{
		cfg: cfg, clearing: make(chan struct{}, 1), acts: newActs(), heard: map[string]heard{}, refused: map[intent.Digest]refusal{}, tried: map[intent.Digest]time.Time{}, told: time.Now(),
		manifests: map[intent.Digest]*chunk.Manifest{}, came: map[intent.Digest]map[string]uint64{},
	}
}

// Run fetches what is kept here, gives up what may go where the disk is nearly full, and scrubs, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { k.every(ctx, k.fetchAll); return nil })
	g.Go(func() error { k.every(ctx, k.look); return nil })
	g.Go(func() error { k.scrub(ctx); return nil })
	g.Go(func() error { k.verify(ctx); return nil })
	return g.Wait()
}

// every calls fn now, each lookEvery and when the intent moves.
func (k *Keeper) every(ctx context.Context, fn func(context.Context)) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		wake := k.cfg.Intent().Wake // asked for first: what changes from here on wakes
		fn(ctx)
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-t.C:
		}
	}
}

// plan is made anew each time: 2 ms for 200 assets and 7 agents.
func (k *Keeper) plan() (Plan, Intent) {
	in := k.cfg.Intent()
	agents, steady := counting(k.cfg.Members(), k.cfg.Self, time.Now())
	var wan []string
	if steady { // else it may not be known yet who hears a coordinator
		wan = k.cfg.WAN()
	}
	return MakePlan(Seen{Self: k.cfg.Self, Agents: agents, WAN: wan, Head: in.Head, Wanted: in.Wanted, Next: in.Next, Held: k.cfg.Blobs.List()}), in
}

// here tells whether an asset is complete on this agent.
func (k *Keeper) here(d intent.Digest) bool {
	_, complete, err := k.cfg.Blobs.Have(d)
	return err == nil && complete
}

// Missing says why an asset cannot be served yet: it is complete neither here nor, if it is not needed on every agent, at an agent that
// lives, as far as that was heard. Nil: it can. Errors: ErrOvercommitted where it does not fit here.
func (k *Keeper) Missing(s *intent.AssetSpec) error {
	if k.here(s.Digest) || s.Class != classBoot && len(k.holders(s.Digest)) > 0 {
		return nil
	}
	k.mu.Lock()
	_, refused := k.refused[s.Digest]
	k.mu.Unlock()
	if refused {
		return fmt.Errorf("%w: agent %s has no room for it beside what else is pinned", ErrOvercommitted, k.cfg.Self)
	}
	return errors.New("it is not complete yet")
}

// holders lists the other agents that live and said lately that they have all of d.
func (k *Keeper) holders(d intent.Digest) (out []string) {
	members := k.cfg.Members()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range members {
		h, ok := k.heard[m.ID]
		if !ok || !m.Alive || m.ID == k.cfg.Self || time.Since(h.at) > heardLife {
			continue
		}
		if a, ok := h.r.of(d); ok && a.Complete {
			out = append(out, m.ID)
		}
	}
	return claim.Rendezvous(k.cfg.Self+d.Hex(), out) // agents spread what they ask for
}

// Holders lists the agents of the site that have all of d, this one too, as far as it is known here.
func (k *Keeper) Holders(d intent.Digest) []string {
	out := k.holders(d)
	if k.here(d) {
		out = append(out, k.cfg.Self)
	}
	return out
}

// due lists what this agent is to fetch, what a machine waits for first.
func (k *Keeper) due(p Plan, in Intent) (urgent, rest []*intent.AssetSpec) {
	for _, s := range slices.Concat(p.Keep, p.Bring) {
		switch {
		case k.here(s.Digest) || k.rests(s.Digest, in.Head) || p.Elsewhere[s.Digest] != nil && len(k.holders(s.Digest)) > 0:
		case k.urgent(s):
			urgent = append(urgent, s)
		default:
			rest = append(rest, s)
		}
	}
	return urgent, rest
}

// wayFor tells whether a fetch that is not urgent makes way: for one that is, unless that was just tried in vain.
func (k *Keeper) wayFor(urgent []*intent.AssetSpec) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.ContainsFunc(urgent, func(s *intent.AssetSpec) bool { return time.Since(k.tried[s.Digest]) > triedFor })
}

// fetchAll completes what is kept here, one after the other.
func (k *Keeper) fetchAll(ctx context.Context) {
	p, in := k.plan()
	k.pin(p)
	k.cfg.Forget(func(d intent.Digest) bool { return len(p.Pins[d]) > 0 })
	urgent, rest := k.due(p, in)
	if len(urgent) == 0 {
		k.learn(ctx, rest)
	}
	for _, s := range slices.Concat(urgent, rest) {
		if ctx.Err() != nil || in.Head != k.cfg.Intent().Head {
			return // another order may hold
		}
		if now, _ := k.due(p, in); !k.urgent(s) && k.wayFor(now) {
			return
		}
		if err := k.fetch(ctx, s, in.Head); err != nil && ctx.Err() == nil {
			k.cfg.Log.Warn("asset not here yet", "asset", s.Digest.Short(), "err", err)
		}
		k.mu.Lock()
		k.tried[s.Digest] = time.Now()
		k.mu.Unlock()
	}
}

// learn brings the manifests of assets that have URLs, in quiet hours too and before what is fetched first may take hours. It stops at the
// first that does not come, and tries again later. Where not all has room beside each other, room is given to one after the other.
func (k *Keeper) learn(ctx context.Context, due []*intent.AssetSpec) {
	var octets uint64
	for _, s := range due {
		octets += s.Size
	}
	k.mu.Lock()
	soon := k.cfg.Learn == nil || time.Since(k.unlearnt) < triedFor
	k.mu.Unlock()
	if soon || k.cfg.Blobs.Room(int64(min(octets, 1<<62))) != nil {
		return
	}
	for _, s := range due {
		if m, err := k.cfg.Blobs.Manifest(s.Digest); len(s.Sources) == 0 || err == nil && m.Digest() == s.Manifest {
			continue
		}
		lctx, cancel := context.WithTimeout(ctx, learnLimit)
		err := k.cfg.Learn(lctx, s)
		cancel()
		if err != nil {
			k.mu.Lock()
			k.unlearnt = time.Now()
			k.mu.Unlock()
			return // what fetches it says why
		}
	}
}

// pin tells the store what it may not delete.
func (k *Keeper) pin(p Plan) { k.cfg.Blobs.SetPins(slices.Collect(maps.Keys(p.Pins))) }

// fetch completes one asset, unless it stops to be kept here, makes way for an urgent one, or its own urgency changes: then the next round
// goes on with it.
func (k *Keeper) fetch(ctx context.Context, s *intent.AssetSpec, head intent.Head) error {
	k.makeRoom(ctx, s)
	fctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	urgent := k.urgent(s)
	wg.Go(func() {
		k.every(fctx, func(context.Context) {
			p, in := k.plan()
			kept := slices.ContainsFunc(slices.Concat(p.Keep, p.Bring), func(o *intent.AssetSpec) bool { return o.Digest == s.Digest })
			others, _ := k.due(p, in)
			if !kept || k.urgent(s) != urgent || !urgent && k.wayFor(others) {
				cancel()
			}
		})
	})
	start := time.Now()
	from, err := k.cfg.Fetch(fctx, s, urgent)
	switch {
	case errors.Is(err, blob.ErrFull):
		return k.refuse(s, head, err)
	case err != nil && fctx.Err() != nil:
		return nil // nobody wants it here any more, or the next round goes on with it
	case err != nil:
		return err
	}
	k.mu.Lock()
	delete(k.refused, s.Digest)
	k.mu.Unlock()
	k.mu.Lock()
	k.came[s.Digest] = byTier(from)
	k.mu.Unlock()
	fields := map[string]string{"digest": s.Digest.String(), "seconds": fmt.Sprintf("%.1f", time.Since(start).Seconds())}
	for src, n := range from {
		fields["source."+src] = fmt.Sprint(n)
	}
	k.event("asset.complete", fmt.Sprintf("%s %s, %d MiB", s.Class, s.Digest.Short(), s.Size>>20), fields)
	return nil
}

// from says how many octets of an asset came from where in this life, by tier.
func (k *Keeper) from(d intent.Digest) map[string]uint64 {
	if now := byTier(k.cfg.Came(d)); len(now) > 0 {
		return now
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.came[d]
}

func byTier(from map[string]int64) map[string]uint64 {
	out := map[string]uint64{}
	for source, n := range from {
		tier, _, _ := strings.Cut(source, ":")
		out[tier] += uint64(n)
	}
	return out
}

// event tells whether the event was journaled.
func (k *Keeper) event(kind, message string, fields map[string]string) bool {
	err := k.cfg.Event(kind, message, fields)
	if err != nil && !errors.Is(err, context.Canceled) {
		k.cfg.Log.Warn("event not journaled", "event", kind, "message", message, "err", err)
	}
	return err == nil
}

// refuse notes that an asset does not fit, and says so once.
func (k *Keeper) refuse(s *intent.AssetSpec, head intent.Head, cause error) error {
	sp, err := k.cfg.Blobs.Space()
	if err != nil {
		return errors.Join(cause, err)
	}
	k.mu.Lock()
	_, again := k.refused[s.Digest]
	k.refused[s.Digest] = refusal{head, sp.Free, s.Size, time.Now()}
	k.mu.Unlock()
	err = fmt.Errorf("cannot keep asset %s: %w: %w", s.Digest.Short(), ErrOvercommitted, cause)
	if again {
		return err
	}
	p, _ := k.plan()
	var pinned, previous uint64
	for _, i := range k.cfg.Blobs.List() {
		if pins := p.Pins[i.Digest]; len(pins) > 0 {
			pinned += i.Octets
			if pins[0] != Current {
				previous += i.Octets
			}
		}
	}
	text := fmt.Sprintf("%s %s, %d MiB, does not fit: %d MiB are free, %d stay free, %d are pinned", s.Class, s.Digest.Short(), s.Size>>20, sp.Free>>20, sp.Reserve>>20, pinned>>20)
	if previous > 0 {
		text += fmt.Sprintf(", %d of them for the previous or next intent, until the intent moves on", previous>>20)
	}
	k.event("disk.overcommitted", text+"; take assets out of the site's intent, or give the agent a larger disk", map[string]string{"digest": s.Digest.String()})
	return err
}

// rests tells whether an asset did not fit, and nothing has changed since that would let it.
func (k *Keeper) rests(d intent.Digest, head intent.Head) bool {
	sp, err := k.cfg.Blobs.Space()
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.refused[d]
	return ok && err == nil && r.head == head && sp.Free < r.free+moreRoom && time.Since(r.at) < refusedFor
}

// look brings notes, pins and what peers said up to date, and makes room where the disk is nearly full.
func (k *Keeper) look(ctx context.Context) {
	p, in := k.plan()
	k.pin(p)
	if k.cfg.Sure() {
		for d, head := range p.Left {
			if err := k.cfg.Blobs.Leave(d, head); err != nil {
				k.cfg.Log.Debug("cannot note when an asset left the intent; it stays until that can be", "asset", d.Short(), "err", err)
			}
		}
	}
	k.mu.Lock()
	maps.DeleteFunc(k.refused, func(d intent.Digest, _ refusal) bool {
		return !slices.ContainsFunc(p.Keep, func(s *intent.AssetSpec) bool { return s.Digest == d })
	})
	maps.DeleteFunc(k.tried, func(_ intent.Digest, at time.Time) bool { return time.Since(at) > triedFor })
	stale, save := time.Since(k.asked), time.Since(k.saved) >= saveEvery
	if save {
		k.saved = time.Now()
	}
	k.mu.Unlock()
	if save {
		if err := k.cfg.Blobs.SaveUse(); err != nil {
			k.cfg.Log.Warn("use of assets not recorded", "err", err)
		}
	}
	k.damage()
	if stale >= k.pause(in) {
		k.hear(ctx)
	}
	k.watermarks(ctx)
}

// pause is how long what others have need not be asked again: not long while a machine may wait for it.
func (k *Keeper) pause(in Intent) time.Duration {
	for _, s := range in.Wanted {
		if s.Class != classBoot && !k.here(s.Digest) && len(k.holders(s.Digest)) == 0 {
			return lookEvery
		}
	}
	return hearEvery
}

// hear asks every agent that lives what it has. What one said before is forgotten when it does not answer: it has nothing.
func (k *Keeper) hear(ctx context.Context) {
	var ids []string
	for _, m := range k.cfg.Members() {
		if m.Alive && m.ID != k.cfg.Self {
			ids = append(ids, m.ID)
		}
	}
	said := make([]*Report, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			r, err := k.cfg.Peers.Ask(ctx, id)
			if err != nil {
				k.cfg.Log.Debug("agent did not say what it has", "agent", id, "err", err)
				return
			}
			said[i] = r
		})
	}
	wg.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.heard, k.asked = map[string]heard{}, time.Now()
	for i, id := range ids {
		if said[i] != nil {
			k.heard[id] = heard{said[i], k.asked}
		}
	}
}

// Report says what is here, and why.
func (k *Keeper) Report() *Report {
	p, in := k.plan()
	urls := k.urls(in)
	r := &Report{Agent: k.cfg.Self, Assets: []Asset{}}
	for _, i := range k.cfg.Blobs.List() {
		pins := p.Pins[i.Digest]
		if len(pins) == 0 && len(p.Elsewhere[i.Digest]) > 0 {
			pins = []Pin{Surplus}
		}
		r.Assets = append(r.Assets, Asset{
			Digest: i.Digest, Size: i.Size, Octets: i.Octets, Chunks: i.Chunks, Have: i.Have, Complete: i.Complete, Pins: pins, LastUsed: i.LastUsed.UTC(),
			From: k.from(i.Digest), Checked: k.acts.result(i.Digest), URLs: urls[i.Digest],
		})
	}
	if sp, err := k.cfg.Blobs.Space(); err == nil { // else zeros: an unreadable disk has no room
		r.Disk = Disk{Free: sp.Free, Total: sp.Total, Reserve: sp.Reserve}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	r.Disk.Suspect = k.suspect
	r.Disk.Refused = slices.SortedFunc(maps.Keys(k.refused), func(a, b intent.Digest) int { return slices.Compare(a[:], b[:]) })
	return r
}

// urls lists, by asset, the URLs that were refused last.
func (k *Keeper) urls(in Intent) map[intent.Digest][]origins.State {
	out := map[intent.Digest][]origins.State{}
	if k.cfg.URLs == nil {
		return out
	}
	for _, s := range slices.Concat(in.Wanted, in.Others) {
		for _, st := range k.cfg.URLs(s) {
			if st.Why != "" {
				out[s.Digest] = append(out[s.Digest], st)
			}
		}
	}
	return out
}

// Word is what is wrong, for statuses; empty: nothing.
func (k *Keeper) Word() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	if len(k.refused) > 0 {
		out = append(out, ErrOvercommitted.Error())
	}
	if k.suspect {
		out = append(out, "disk_suspect")
	}
	return strings.Join(out, ", ")
}
