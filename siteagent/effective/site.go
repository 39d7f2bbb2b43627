package effective

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/override"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

// Site is what this agent answers from: intent with overrides, journal, and what it heard itself. Safe for concurrent use.
type Site struct {
	*replica.Replica
	Journal *claim.Journal
	// Assets says why a machine cannot be booted or installed yet; empty = all is here. A nil binding asks for an inspection.
	Assets func(*reconcile.Binding) string
	// Held returns since when, by this process's clock, what a record dates at has been held.
	Held func(what string, at time.Time) time.Time

	uses uses // of assets

	mu    sync.Mutex // guards what follows
	heard map[string]time.Time
	dated map[string]dated
	cache *Intent
	born  time.Time // when this process began
}

// dated is when this process learned of what somebody's clock dated at.
type dated struct{ at, learned time.Time }

// New returns the site over its replica and journal; the caller sets Assets and Held before it asks for views.
func New(r *replica.Replica, j *claim.Journal) *Site {
	return &Site{Replica: r, Journal: j, heard: map[string]time.Time{}, dated: map[string]dated{}, born: time.Now()}
}

// Intent is the intent with its overrides, for one revision of both. It is shared and must not be changed.
type Intent struct {
	siteRev, journalRev uint64
	State               replica.State
	Overlay             override.Overlay
	Overrides           []intent.Override
	Err                 error // why the overrides could not be laid over it
}

// Hear notes a word of a machine's installer.
func (w *Site) Hear(machine string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard[machine] = time.Now()
}

func (w *Site) heardOf(machine string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.heard[machine]
}

// learned returns when something came about, by this process's own clock, that a record dates at: when the record came, so that neither
// the clock of its writer nor a jump of this one's counts. What was on disk when the process began is taken at its word, unless it lies
// in the future.
func (w *Site) learned(what string, at time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, ok := w.dated[what]
	if !ok || !d.at.Equal(at) {
		d = dated{at, time.Now()}
		if !ok && at.Before(w.born) {
			d.learned = at
		}
		w.dated[what] = d
	}
	return d.learned
}

// Overrides lists every override of the journal.
func (w *Site) Overrides() []intent.Override {
	var out []intent.Override
	for _, r := range w.Journal.View(override.KindOverride) {
		var rec override.Record
		if json.Unmarshal(r.Body, &rec) == nil { // our own records; the store refuses damaged ones
			out = append(out, rec.Doc)
		}
	}
	return out
}

// Now returns the effective intent; it is computed again only when intent or overrides moved.
func (w *Site) Now() *Intent {
	rev := w.Rev()
	jrev, _ := w.Journal.Rev()
	w.mu.Lock()
	c := w.cache
	w.mu.Unlock()
	if c != nil && c.siteRev == rev && c.journalRev == jrev {
		return c // most are: State copies every object
	}
	st := w.State()
	jrev, _ = w.Journal.Rev()
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.cache; c != nil && c.siteRev == st.Rev && c.journalRev == jrev {
		return c
	}
	e := &Intent{siteRev: st.Rev, journalRev: jrev, State: st, Overrides: w.Overrides()}
	e.Overlay, e.Err = override.Effective(intent.NewCatalog(st.Objects...), st.Acks, e.Overrides)
	w.cache = e
	return e
}

// Active returns the objects without overrides.
func (e *Intent) Active() *intent.Catalog { return intent.NewCatalog(e.State.Objects...) }

// Want is what the reconcilers follow.
func (w *Site) Want() reconcile.Want {
	e := w.Now()
	deleted := map[string]bool{}
	for uid := range e.State.Tombs {
		deleted[uid] = true
	}
	for uid := range e.Overlay.Deleted {
		deleted[uid] = true
	}
	return reconcile.Want{
		Catalog: e.Overlay.Catalog, Deleted: deleted, Wake: e.State.Wake,
		Cause: func(uid string) string {
			if id := e.Overlay.Cause[uid]; id != "" {
				return "override " + id
			}
			return fmt.Sprintf("intent %d.%d", e.State.Head.Epoch, e.State.Head.Seq)
		},
		Knows: e.knows,
	}
}

// knows tells whether a cause, as Want gives them, is part of this revision: an agent that was away is behind its peers for a while.
func (e *Intent) knows(cause string) bool {
	if id, ok := strings.CutPrefix(cause, "override "); ok {
		return slices.ContainsFunc(e.Overrides, func(d intent.Override) bool { return d.ID == id })
	}
	var h intent.Head
	if n, err := fmt.Sscanf(cause, "intent %d.%d", &h.Epoch, &h.Seq); n != 2 || err != nil {
		return false
	}
	return e.State.Head.Compare(h) >= 0
}

const defaultBootSlots = 16

// Around is what the planners see beside intent and journal.
func (w *Site) Around() reconcile.Surroundings {
	slots, erase := defaultBootSlots, ""
	if s := w.Spec(); s != nil {
		slots, erase = cmp.Or(s.BootSlots, slots), s.Erase
	}
	return reconcile.Surroundings{Now: time.Now(), Learned: w.learned, Heard: w.heardOf, Assets: w.Assets, BootSlots: slots, Erase: erase, Decision: w.decision, Held: w.Held}
}

// decision is the coordinator's about an override, "" while it was not heard.
func (w *Site) decision(override string) string { return string(w.Now().State.Acks[override].Decision) }

// Spec returns the site's object, or nil.
func (w *Site) Spec() *intent.SiteSpec {
	s, _, ok := intent.Lookup[*intent.SiteSpec](w.Now().Overlay.Catalog, intent.KindSite, "", w.ID())
	if !ok {
		return nil
	}
	return s
}

// Views returns all machines as of now.
func (w *Site) Views() []reconcile.MachineView {
	return reconcile.BuildViews(w.Journal, w.Now().Overlay.Catalog, w.Around())
}

// AssetDigest returns the digest of a named asset; the zero digest when c has none of that name.
func AssetDigest(c *intent.Catalog, name string) intent.Digest {
	a, _, ok := intent.Lookup[*intent.AssetSpec](c, intent.KindAsset, "", name)
	if !ok {
		return intent.Digest{}
	}
	return a.Digest
}
