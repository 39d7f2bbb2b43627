package rotation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/rotate"
)

const (
	stepLeast = 100 * time.Millisecond // between two looks at all rosters, whatever comes
	stepEvery = time.Second            // while something is under way
	lookEvery = time.Minute            // else: for keys that are due
	// keyLife is when an agent's keys are changed by themselves (trust.md section 1).
	keyLife = 365 * 24 * time.Hour
	// atOnce is how many agents of the domain change their keys by themselves at a time: a fault in a new key must not be everywhere.
	atOnce = 4
	// maxPast bounds the signing keys of before in a roster entry; a year each.
	maxPast = 32
	// inWay is how long an agent that began and went away keeps the others of its site from beginning; who was not heard for longer is
	// absent.
	inWay = time.Hour
)

// Kick lets Run look at the ledger now.
func (r *Rotation) Kick() {
	select {
	case r.kick <- struct{}{}:
	default: // asked already
	}
}

// Moved is called when something was heard of an agent. It is cheap while nothing is under way.
func (r *Rotation) Moved() {
	if r.busy.Load() {
		r.Kick()
	}
}

// Run moves rotations on, and begins those that are due, until ctx ends.
func (r *Rotation) Run(ctx context.Context) error {
	for {
		pause := lookEvery
		if busy, err := r.Step(ctx); err != nil && ctx.Err() == nil {
			r.Log.Warn("rotations do not move; they are tried again", "err", err)
			pause = stepEvery
		} else if busy {
			pause = stepEvery
		}
		if !wait(ctx, stepLeast, nil) || !wait(ctx, pause, r.kick) {
			return nil
		}
	}
}

// wait waits for d, or less when kick comes; false when ctx ended.
func wait(ctx context.Context, d time.Duration, kick <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-kick:
	case <-t.C:
	}
	return true
}

// scene is what a step looks at.
type scene struct {
	rosters map[string]*intent.RosterBody
	up      map[string]uplink.SessionInfo // the newest session of SITE/AGENT
	heard   map[string]Heard              // by site
	records []*record
}

func (r *Rotation) look(ctx context.Context) (*scene, error) {
	s := &scene{rosters: map[string]*intent.RosterBody{}, up: map[string]uplink.SessionInfo{}, heard: map[string]Heard{}}
	for _, x := range r.Sessions() { // the newest of an agent comes last
		s.up[x.Site+"/"+x.Agent] = x
	}
	err := r.Store.Range(ctx, store.RosterKey(""), "", func(e store.Entry) error {
		site, b := e.Key[len(store.RosterKey("")):], &intent.RosterBody{}
		if err := json.Unmarshal(e.Value, b); err != nil {
			return fmt.Errorf("cannot read roster of %s: %w", site, err)
		}
		s.rosters[site], s.heard[site] = b, r.Reports(site)
		return nil
	})
	if err == nil {
		s.records, err = r.ledger(ctx, ledgerPrefix)
	}
	return s, err
}

// Step does what can be done now for each rotation; busy tells that one is under way. One that fails does not hold up the others.
func (r *Rotation) Step(ctx context.Context) (busy bool, err error) {
	s, err := r.look(ctx)
	if err != nil {
		return false, err
	}
	defer func() { r.busy.Store(busy); r.count(s.records) }()
	errs := []error{r.takeUp(ctx, s), r.due(ctx, s), r.dropRetired(ctx, s)}
	for _, rec := range s.records {
		if !rec.open() {
			continue
		}
		busy = true
		switch err := r.advance(ctx, s, rec); {
		case errors.Is(err, store.ErrConflict), errors.Is(err, publish.ErrHeld): // another coordinator was faster; the site is held
		case err != nil:
			errs = append(errs, fmt.Errorf("cannot rotate keys of %s: %w", rec.who(), err))
		}
	}
	return busy, errors.Join(errs...)
}

// count keeps for the gauges what is under way.
func (r *Rotation) count(records []*record) {
	open, oldest := map[string]int{}, time.Time{}
	for _, rec := range records {
		if rec.open() {
			open[rec.Phase]++
			if oldest.IsZero() || rec.Begun.Before(oldest) {
				oldest = rec.Begun
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open, r.oldest = open, oldest
}

// advance moves one rotation as far as it goes.
func (r *Rotation) advance(ctx context.Context, s *scene, rec *record) error {
	if gone, err := r.gone(ctx, s, rec); err != nil {
		return err
	} else if gone { // there is nothing to rotate any more
		rec.enter(api.PhaseDone, r.Now())
		return r.tell(ctx, rec, store.Commit{}, rec.line("dropped"))
	}
	switch {
	case rec.Phase == api.PhaseAccept && !rec.Ordered:
		if !s.turnOf(rec, r.Now()) {
			return nil
		}
		rec.Ordered = true
		if err := r.keep(ctx, rec, store.Commit{}); err != nil {
			return err
		}
		r.Notify(rec.Site) // the agent asks when it is told heads
		return nil
	case rec.Phase == api.PhaseAccept && !rec.Key.IsZero():
		at, err := r.publish(ctx, rec.Site)
		if err != nil {
			return err
		}
		rec.Listed = at
		rec.enter(api.PhaseUse, r.Now())
		return r.keep(ctx, rec, store.Commit{})
	case rec.Phase == api.PhaseUse && s.up[rec.who()].Key == rec.Key:
		rec.enter(api.PhaseRetire, r.Now())
		return r.tell(ctx, rec, store.Commit{}, rec.line("used"))
	case rec.Phase == api.PhaseRetire && !rec.Out:
		if len(s.waited(rec, r.Now())) > 0 {
			return nil
		}
		return r.retire(ctx, rec)
	case rec.Phase == api.PhaseRetire && rec.Retired.Seq == 0:
		at, err := r.publish(ctx, rec.Site)
		if err != nil {
			return err
		}
		rec.Retired = at
		return r.keep(ctx, rec, store.Commit{})
	case rec.Phase == api.PhaseRetire && s.has(rec.Site, rec.Agent, rec.Retired):
		rec.enter(api.PhaseDone, r.Now())
		return r.tell(ctx, rec, store.Commit{}, rec.line("done"))
	}
	return nil
}

func (r *Rotation) publish(ctx context.Context, site string) (place, error) {
	head, roster, err := r.Publish(ctx, site)
	if err != nil {
		return place{}, err
	}
	return place{Seq: head.Seq, Generation: roster.Generation}, nil
}

// retire takes the old keys out of the agent's entry.
func (r *Rotation) retire(ctx context.Context, rec *record) error {
	me, guard, err := r.entry(ctx, rec.Site, rec.Agent)
	if err != nil {
		return err
	}
	if len(me.TLS) > 0 && intent.DigestOf(me.TLS[0]) == rec.Key {
		me.Past = slices.Concat(me.Sign[1:], me.Past)
		me.Past = me.Past[:min(len(me.Past), maxPast)]
		me.Certs = certsOf(me.Certs, me.TLS[0])
		me.TLS, me.Sign, me.Seal = me.TLS[:1], me.Sign[:1], me.Seal[:1]
	}
	more, err := put(guard, me)
	if err != nil {
		return err
	}
	rec.Out = true
	return r.tell(ctx, rec, more, rec.line("retired"))
}

// entry reads an agent's roster entry as it will be published next.
func (r *Rotation) entry(ctx context.Context, site, agent string) (me intent.RosterAgent, guard store.Guard, err error) {
	e, err := r.Store.Get(ctx, store.AgentKey(site, agent))
	if err != nil {
		return me, guard, err
	}
	if err := json.Unmarshal(e.Value, &me); err != nil {
		return me, guard, fmt.Errorf("cannot read keys of %s/%s: %w", site, agent, err)
	}
	return me, store.Guard{Key: e.Key, Rev: e.Rev}, nil
}

// put writes an entry if it is as it was read.
func put(guard store.Guard, me intent.RosterAgent) (store.Commit, error) {
	v, err := json.Marshal(me)
	if err != nil {
		return store.Commit{}, fmt.Errorf("cannot encode keys of %s: %w", me.ID, err)
	}
	return store.Commit{If: []store.Guard{guard}, Put: map[string][]byte{guard.Key: v}}, nil
}

// gone tells whether the agent left its site, or joined anew with other keys.
func (r *Rotation) gone(ctx context.Context, s *scene, rec *record) (bool, error) {
	roster := s.rosters[rec.Site]
	if roster == nil || !slices.ContainsFunc(roster.Agents, func(a intent.RosterAgent) bool { return a.ID == rec.Agent && a.State == intent.StateAgent }) {
		return true, nil
	}
	me, _, err := r.entry(ctx, rec.Site, rec.Agent)
	return !rec.Key.IsZero() && !slices.ContainsFunc(me.TLS, func(k []byte) bool { return intent.DigestOf(k) == rec.Key }), err
}

// turnOf tells whether a rotation may begin: the agent has a session, and no other one of its site is under way, except one that went
// away before it was through.
func (s *scene) turnOf(rec *record, now time.Time) bool {
	if _, up := s.up[rec.who()]; !up {
		return false
	}
	return s.inWayOf(rec, now) == nil
}

func (s *scene) inWayOf(rec *record, now time.Time) *record {
	for _, o := range s.records {
		if o.Site != rec.Site || o.Agent == rec.Agent || !o.changing() || !o.Ordered {
			continue
		}
		if at, ever := s.contact(o.Site, o.Agent); !ever || now.Sub(at) < inWay {
			return o
		}
	}
	return nil
}

// whole tells whether every agent of the site was heard lately.
func (s *scene) whole(site string, now time.Time) bool {
	for _, a := range s.rosters[site].Agents {
		if at, ever := s.contact(site, a.ID); a.State == intent.StateAgent && (!ever || now.Sub(at) > inWay) {
			return false
		}
	}
	return true
}

// contact is when an agent was last heard.
func (s *scene) contact(site, agent string) (at time.Time, ever bool) {
	c := s.heard[site].Contacts[agent]
	at = c.At
	if x, up := s.up[site+"/"+agent]; up && x.Heard.After(at) {
		at = x.Heard
	}
	return at, !at.IsZero()
}

// has tells whether an agent is known to have the roster at p: by its session, by its own report, or by what its site sees of it.
func (s *scene) has(site, agent string, p place) bool {
	if x, up := s.up[site+"/"+agent]; up && x.Applied.Intent.Seq >= p.Seq {
		return true
	}
	h := s.heard[site]
	if k := h.Contacts[agent].Keys; k != nil && k.Generation >= p.Generation {
		return true
	}
	return h.Heads[agent] >= p.Seq
}

// waited lists the agents of the site that must hear of the new keys before the old ones are retired, without those that were silent
// for longer than the operator allows.
func (s *scene) waited(rec *record, now time.Time) (out []string) {
	for _, a := range s.rosters[rec.Site].Agents {
		if a.State != intent.StateAgent || a.ID == rec.Agent || s.has(rec.Site, a.ID, rec.Listed) {
			continue
		}
		at, ever := s.contact(rec.Site, a.ID)
		if !ever {
			at = rec.Begun
		}
		if rec.Force == 0 || now.Sub(at) < rec.Force {
			out = append(out, a.ID)
		}
	}
	return out
}

// takeUp goes on with rotations that the ledger does not know of: the store was put back to before them, and the chain was taken
// over from the site.
func (r *Rotation) takeUp(ctx context.Context, s *scene) error {
	for site, roster := range s.rosters {
		for _, a := range roster.Agents {
			if len(a.TLS) < 2 || a.State != intent.StateAgent {
				continue
			}
			i := slices.IndexFunc(s.records, func(x *record) bool { return x.Site == site && x.Agent == a.ID })
			if i >= 0 && s.records[i].open() {
				continue
			}
			rec := &record{Site: site, Agent: a.ID, N: 1}
			if i >= 0 {
				rec.N, rec.rev = s.records[i].N+1, s.records[i].rev
				s.records = slices.Delete(s.records, i, i+1)
			}
			rec.By, rec.Begun, rec.Ordered, rec.Key = "recovery", r.Now().UTC(), true, intent.DigestOf(a.TLS[0])
			rec.enter(api.PhaseAccept, r.Now())
			if err := r.tell(ctx, rec, store.Commit{}, rec.line("found")); err != nil {
				return err
			}
			s.records = append(s.records, rec)
		}
	}
	return nil
}

// due begins the rotations of keys that are a year old, the oldest first: a few at a time, never of two agents of one site at once, and
// only at sites where every agent was heard lately. Who is away while its peers change their keys learns of the new ones from the
// coordinator alone: as long as it cannot learn of them from a peer that it does not know any more, this is an operator's decision.
func (r *Rotation) due(ctx context.Context, s *scene) error {
	if r.Leads() != nil { // by such a clock every key is old
		return nil
	}
	busy, mine, under := map[string]bool{}, map[string]bool{}, 0
	for _, rec := range s.records {
		mine[rec.who()] = rec.open()
		if rec.changing() {
			busy[rec.Site] = true
			under++
		}
	}
	type due struct {
		site, agent string
		made        time.Time
	}
	var list []due
	for site, roster := range s.rosters {
		if !s.whole(site, r.Now()) {
			continue
		}
		for _, a := range roster.Agents {
			k, ok, err := rotate.OfAgent(site, a)
			if err != nil {
				return err
			}
			if _, up := s.up[site+"/"+a.ID]; up && ok && a.State == intent.StateAgent && k.Age(r.Now()) >= keyLife {
				list = append(list, due{site, a.ID, k.Made})
			}
		}
	}
	slices.SortFunc(list, func(x, y due) int {
		if c := x.made.Compare(y.made); c != 0 {
			return c
		}
		return bytes.Compare([]byte(x.site+"/"+x.agent), []byte(y.site+"/"+y.agent))
	})
	for _, d := range list {
		if busy[d.site] || mine[d.site+"/"+d.agent] || under >= atOnce {
			continue
		}
		rec, err := r.begin(ctx, d.site, d.agent, "yearly", 0, nil)
		if err != nil {
			return err
		}
		busy[d.site] = true
		under++
		s.records = slices.DeleteFunc(s.records, func(x *record) bool { return x.who() == rec.who() })
		s.records = append(s.records, rec)
	}
	return nil
}

// begin writes a new rotation into the ledger, unless one is under way; that one gets force. line is nil for what nobody asked for.
func (r *Rotation) begin(ctx context.Context, site, agent, by string, force time.Duration, line *intent.AuditRecord) (*record, error) {
	rec, err := r.record(ctx, site, agent)
	if err != nil {
		return nil, err
	}
	if rec.open() {
		if force == 0 || force == rec.Force {
			return rec, nil
		}
		rec.Force = force
	} else {
		*rec = record{Site: site, Agent: agent, N: rec.N + 1, By: by, Begun: r.Now().UTC(), Force: force, rev: rec.rev}
		rec.enter(api.PhaseAccept, r.Now())
	}
	if line == nil {
		l := rec.line("begun")
		line = &l
	}
	return rec, r.tell(ctx, rec, store.Commit{}, *line)
}
