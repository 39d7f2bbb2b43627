package recovery

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/trust"
)

// A store may be an older copy: restored, or a disk that was put back. Sites then hold entries that this writer signed and this
// store has not. Nothing is published to a site until every agent of its roster was asked for what it holds beyond us; it is
// verified, and taken over (trust.md section 4).

// hold is why a site is not published to, at publish.HeldKey.
type hold struct {
	Since  time.Time `json:"since"`
	Why    string    `json:"why"`
	Heard  []string  `json:"heard,omitempty"`  // agents whose chain was taken
	Forked string    `json:"forked,omitempty"` // what cannot be taken over
}

// limit is how long one agent may take to hand over what it has: a year of entries over a slow link.
const limit = 10 * time.Minute

// Recovery asks sites for what this store has lost. Every exported field is set.
type Recovery struct {
	Store   store.Store
	Writers func() []intent.Writer // of the newest trust document
	Without []string               // agents (site/agent) that are gone for good: nobody waits for their word
	Log     *slog.Logger

	Lock    func(site string) (unlock func())          // nobody else works on the site's chain in this process
	Ask     func(site, agent string) http.RoundTripper // over the session that the agent dialled
	Reload  func(ctx context.Context) error            // catalog, rosters and holds moved
	Release func(site string)                          // the site is published to again
	Audit   func(ctx context.Context, what string)

	known sync.Map // site -> intent.Head that was last found in our chain
}

func (r *Recovery) holdOf(ctx context.Context, site string) (*hold, store.Guard, error) {
	g := store.Guard{Key: publish.HeldKey(site)}
	e, err := r.Store.Get(ctx, g.Key)
	if errors.Is(err, store.ErrAbsent) {
		return nil, g, nil
	}
	if err != nil {
		return nil, g, err
	}
	g.Rev = e.Rev
	h := &hold{}
	if err := json.Unmarshal(e.Value, h); err != nil {
		return nil, g, fmt.Errorf("cannot read hold of %s: %w", site, err)
	}
	return h, g, nil
}

// Held lists the sites that are held.
func Held(ctx context.Context, st store.Store) ([]string, error) {
	var out []string
	err := st.Range(ctx, publish.HeldKey(""), "", func(e store.Entry) error {
		out = append(out, e.Key[len(publish.HeldKey("")):])
		return nil
	})
	return out, err
}

// Mark is the record that holds a site from a restore on.
func Mark(now time.Time, why string) ([]byte, error) { return json.Marshal(hold{Since: now, Why: why}) }

// Hear is called when an agent says what it has: always of a held site, else when it has what we have not.
func (r *Recovery) Hear(ctx context.Context, site, agent string, has intent.Head) {
	h, g, err := r.holdOf(ctx, site)
	if err == nil && h == nil {
		var why string
		if why, err = r.behind(ctx, site, has); err == nil && why == "" {
			return
		}
		if err == nil {
			r.Log.Error("this store is behind a site: nothing is published there until it was heard", "site", site, "agent", agent, "why", why)
			err = r.setHold(ctx, site, &hold{Since: time.Now().UTC(), Why: why}, g)
		}
	}
	if err != nil {
		r.Log.Error("site not asked", "site", site, "agent", agent, "err", err)
		return
	}
	defer r.Lock(site)() // one agent after another
	if err := r.recover(ctx, site, agent); err != nil {
		r.Log.Warn("site not taken over", "site", site, "agent", agent, "err", err)
	}
}

// behind says how a head differs from our chain, "" when it is in it.
func (r *Recovery) behind(ctx context.Context, site string, has intent.Head) (string, error) {
	if known, ok := r.known.Load(site); has.Seq == 0 || ok && known == has { // as most of its agents say: entries stay
		return "", nil
	}
	env, err := publish.At(ctx, r.Store, site, has.Seq)
	if errors.Is(err, store.ErrAbsent) {
		return fmt.Sprintf("the site has entry %d, which this coordinator has not", has.Seq), nil
	}
	if err != nil {
		return "", err
	}
	if env.Digest() != has.Hash {
		return fmt.Sprintf("the site has another entry %d", has.Seq), nil
	}
	r.known.Store(site, has)
	return "", nil
}

func (r *Recovery) setHold(ctx context.Context, site string, h *hold, g store.Guard) error {
	v, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("cannot encode hold of %s: %w", site, err)
	}
	if _, err := r.Store.Commit(ctx, store.Commit{If: []store.Guard{g}, Put: map[string][]byte{g.Key: v}}); err != nil {
		return fmt.Errorf("cannot hold %s: %w", site, err)
	}
	return r.Reload(ctx)
}

// recover takes over what one agent has, and ends the hold when it was the last to be heard.
func (r *Recovery) recover(ctx context.Context, site, agent string) error {
	h, g, err := r.holdOf(ctx, site)
	if err != nil || h == nil {
		return err
	}
	head, hg, err := (&publish.Publisher{Store: r.Store}).Head(ctx, site)
	if err != nil {
		return err
	}
	a := &adoption{
		store: r.Store, site: site, rev: hg.Rev, hold: g, chain: document.IntentChain{Site: site, Head: head, Writers: r.Writers()},
	}
	n, err := r.takeOver(ctx, a, agent)
	if len(a.lost) > 0 {
		r.Log.Warn("secrets were set since the copy was made, and only the site can open them: set them again", "secrets", slices.Compact(a.lost))
	}
	if n > 0 {
		if lerr := r.Reload(ctx); lerr != nil {
			return errors.Join(err, lerr)
		}
		r.Audit(ctx, fmt.Sprintf("took over %d entries of %s from %s; secrets to be set again: %s", n, site, agent, strings.Join(slices.Compact(a.lost), " ")))
	}
	if errors.Is(err, document.ErrFork) {
		h.Forked = err.Error()
		return errors.Join(err, r.setHold(ctx, site, h, g))
	}
	if err != nil {
		return err
	}
	if !slices.Contains(h.Heard, agent) {
		h.Heard = append(h.Heard, agent)
	}
	waits, err := r.waitsFor(ctx, site, h)
	if err != nil {
		return err
	}
	if len(waits) > 0 || h.Forked != "" {
		return r.setHold(ctx, site, h, g)
	}
	return r.release(ctx, site, g)
}

// takeOver asks one agent, over its session, for what it has beyond the chain.
func (r *Recovery) takeOver(ctx context.Context, a *adoption, agent string) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// From our head itself, so that another entry in its place is seen.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/v1/sites/%s/intent?from=%d", agent, a.site, max(a.chain.Head.Seq, 1)), nil)
	if err != nil {
		return 0, err
	}
	res, err := r.Ask(a.site, agent).RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("cannot ask %s/%s for its chain: %s", a.site, agent, res.Status)
	}
	sc := bufio.NewScanner(res.Body)
	sc.Buffer(make([]byte, 64<<10), 2*intent.MaxEnvelope)
	for sc.Scan() {
		env, err := document.Decode(sc.Bytes())
		if err != nil {
			return n, err
		}
		fresh, err := a.take(ctx, env)
		n += fresh
		if err != nil {
			return n, err
		}
	}
	if err := sc.Err(); err != nil {
		return n, err
	}
	return n, a.settled()
}

// waitsFor lists the agents of the roster that were not heard.
func (r *Recovery) waitsFor(ctx context.Context, site string, h *hold) ([]string, error) {
	e, err := r.Store.Get(ctx, store.RosterKey(site))
	if errors.Is(err, store.ErrAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var roster intent.RosterBody
	if err := json.Unmarshal(e.Value, &roster); err != nil {
		return nil, fmt.Errorf("cannot read roster of %s: %w", site, err)
	}
	var out []string
	for _, a := range roster.Agents {
		if a.State != intent.StateAgent { // a spare lies in a drawer: it never had a chain
			continue
		}
		if !slices.Contains(h.Heard, a.ID) && !slices.Contains(r.Without, site+"/"+a.ID) {
			out = append(out, a.ID)
		}
	}
	return out, nil
}

// release ends a hold; with the last one, what was buried is decided.
func (r *Recovery) release(ctx context.Context, site string, g store.Guard) error {
	for races := 0; ; races++ {
		err := r.endHold(ctx, site, g)
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrConflict) || races == maxRaces {
			return fmt.Errorf("cannot end hold of %s: %w", site, err)
		}
	}
	r.Log.Info("level with the site; it is published to again", "site", site)
	held, err := Held(ctx, r.Store)
	if err != nil {
		return err
	}
	if len(held) == 0 {
		if err := r.digUp(ctx); err != nil {
			return err
		}
	}
	if err := r.Reload(ctx); err != nil {
		return err
	}
	r.Release(site)
	return nil
}

func (r *Recovery) endHold(ctx context.Context, site string, hold store.Guard) error {
	cat, err := r.Store.Get(ctx, store.CatalogKey)
	if err != nil && !errors.Is(err, store.ErrAbsent) {
		return err
	}
	end := store.Commit{
		If: []store.Guard{hold, {Key: store.CatalogKey, Rev: cat.Rev}}, Put: map[string][]byte{store.CatalogKey: nil}, Delete: []string{hold.Key},
	}
	if err := r.seat(ctx, site, &end); err != nil {
		return err
	}
	_, err = r.Store.Commit(ctx, end)
	return err
}

// digUp decides on objects that left one site: who is told to another stays, the rest was deleted.
func (r *Recovery) digUp(ctx context.Context) error {
	graves := store.Commit{Put: map[string][]byte{store.CatalogKey: nil}}
	uids := map[string]bool{}
	err := r.Store.Range(ctx, "buried/", "", func(e store.Entry) error {
		graves.Delete = append(graves.Delete, e.Key)
		uids[e.Key[strings.LastIndexByte(e.Key, '/')+1:]] = true
		return nil
	})
	if err != nil || len(uids) == 0 {
		return err
	}
	err = r.Store.Range(ctx, "object/", "", func(e store.Entry) error {
		o := &intent.Object{}
		if err := o.UnmarshalJSON(e.Value); err != nil {
			return fmt.Errorf("cannot read %s: %w", e.Key, err)
		}
		if !uids[o.Metadata.UID] {
			return nil
		}
		told, err := publish.ToldElsewhere(ctx, r.Store, "", o.Metadata.UID)
		if err == nil && !told {
			graves.Delete = append(graves.Delete, e.Key)
		}
		return err
	})
	if err != nil {
		return err
	}
	if _, err := r.Store.Commit(ctx, graves); err != nil {
		return err
	}
	return r.Reload(ctx)
}

// Resume is called at the start: it ends the holds that wait for nobody any more, and says which go on. done ends what a restore
// began: agents of sites that nobody here knows are not admitted any more.
func (r *Recovery) Resume(ctx context.Context, done bool) error {
	if done {
		if _, err := r.Store.Commit(ctx, store.Commit{Delete: []string{publish.PendingKey}}); err != nil {
			return err
		}
	}
	held, err := Held(ctx, r.Store)
	if err != nil {
		return err
	}
	for _, site := range held {
		h, g, err := r.holdOf(ctx, site)
		if err != nil {
			return err
		}
		waits, err := r.waitsFor(ctx, site, h)
		if err != nil {
			return err
		}
		if len(waits) == 0 && h.Forked == "" {
			if err := r.release(ctx, site, g); err != nil {
				return err
			}
			continue
		}
		r.Log.Warn("site is held: nothing is published there until all of its agents were heard", "site", site, "why", h.Why, "waits", waits, "forked", h.Forked)
	}
	return r.Reload(ctx)
}

// Open leaves out of a view the rosters of held sites, which may be old: their agents are admitted by certificate and revocation,
// so that they can be heard.
func Open(ctx context.Context, st store.Store, v *trust.View) (*trust.View, error) {
	held, err := Held(ctx, st)
	if err != nil {
		return nil, err
	}
	for _, site := range held {
		v = v.WithRoster(site, nil)
	}
	_, err = st.Get(ctx, publish.PendingKey)
	if err != nil && !errors.Is(err, store.ErrAbsent) {
		return nil, err
	}
	return v.WithUnknownSites(len(held) > 0 || err == nil), nil
}

// Text says of a held site what it waits for; "" of others.
func (r *Recovery) Text(ctx context.Context, site string) (string, error) {
	h, _, err := r.holdOf(ctx, site)
	if err != nil || h == nil {
		return "", err
	}
	if h.Forked != "" {
		return h.Why + "; its chain cannot be taken over: " + h.Forked, nil
	}
	waits, err := r.waitsFor(ctx, site, h)
	return h.Why + "; waits for " + strings.Join(waits, ", "), err
}
