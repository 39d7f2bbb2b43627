package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/storage/state"
)

// Buckets of the site's state.
const (
	bucketMeta       = "meta"       // head (active), staged
	bucketTrust      = "trust"      // seq: envelope; beside them forks, the offered document, acceptances
	bucketIntent     = "intent"     // seq: envelope, staged ones too
	bucketObject     = "object"     // uid: object as published
	bucketTomb       = "tomb"       // uid: tombstone
	bucketAck        = "ack"        // override id: ack
	bucketSealed     = "sealed"     // dek/N: data key; rec/NAME: record; both sealed to this agent
	bucketRoster     = "roster"     // latest: roster
	bucketRevocation = "revocation" // seq/digest: envelope
)

// Replica is the signed state of a site as one agent has it: the last good state, and what was received beyond it. Safe for
// concurrent use.
type Replica struct {
	db    *state.DB
	marks *state.MarksFile
	id    string // site
	self  string // agent
	ring  *seal.Ring
	log   *slog.Logger
	floor *trust.Floor

	mu         sync.Mutex // guards what follows; held over the store's write so that heads and objects move together
	mark       state.Marks
	trust      document.TrustChain
	offered    *intent.Envelope // waits for AcceptTrust; nil: none
	was        []intent.Digest  // heads of trust that an acceptance followed or put out of force
	revocation document.RevocationChain
	revoked    *trust.RevocationSet
	decisions  Decisions
	chain      document.IntentChain // stands at the staged head
	active     intent.Head
	replayed   intent.Head               // where the active state was last worked out anew for a snapshot
	stale      time.Duration             // stale_after of the entry at the active head
	objects    map[string]*intent.Object // by uid
	tombs      map[string]intent.TombstoneObject
	acks       map[string]intent.AckBody
	sealed     map[string]intent.SealedRecord
	deks       map[uint64]intent.SealedDEK
	roster     *intent.RosterBody // as signed
	members    *intent.RosterBody // as effective
	around     *intent.RosterBody // members, and this agent in any case
	rejected   string
	vain       vain
	looks      int // at all objects, so far
	rev        uint64
	wake       chan struct{}

	view trust.Holder
}

func seqKey(seq uint64) string { return fmt.Sprintf("%016x", seq) }

// Config says whose replica it is and where it lies.
type Config struct {
	DB    *state.DB
	Marks *state.MarksFile
	Mark  state.Marks // as read and raised at start
	Site  string
	Self  string        // this agent
	Pin   intent.Digest // of trust document 1
	Ring  *seal.Ring    // opens what is sealed to this agent
	Floor *trust.Floor
	Log   *slog.Logger
}

// Open reads what was active when the agent stopped, and activates what was only staged. A store that is behind its marks
// becomes recovering.
func Open(cfg Config) (*Replica, error) {
	s := &Replica{
		db: cfg.DB, marks: cfg.Marks, mark: cfg.Mark, id: cfg.Site, self: cfg.Self, ring: cfg.Ring, log: cfg.Log, floor: cfg.Floor,
		wake: make(chan struct{}), rev: 1,
		roster: &intent.RosterBody{}, members: &intent.RosterBody{}, around: &intent.RosterBody{}, revoked: &trust.RevocationSet{},
	}
	s.empty()
	s.trust.Pin = cfg.Pin
	if err := s.db.View(s.load); errors.Is(err, state.ErrDamaged) {
		// What can be read is served; the buckets are on hold. The chain, where it is whole, tells the rest.
		s.log.Error("signed state is damaged", "err", err)
		if err := s.relive(); err != nil {
			s.log.Error("signed state is incomplete until it was repaired", "err", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("cannot read intent of %s: %w", s.id, err)
	}
	s.stale = s.staleAt(s.active.Seq)
	if !s.level() {
		// The store is older than what this agent once had on disk: a restored copy. Boot goes on; nothing is claimed.
		if err := s.db.SetRecovering(fmt.Sprintf("trust is at %d, intent at %d.%d, revocations at %d, marks are at %v", s.trust.Head.Seq, s.chain.Head.Epoch, s.chain.Head.Seq, s.revocation.Head.Seq, s.mark.Heads)); err != nil {
			return nil, err
		}
	}
	if err := s.refreshView(); err != nil {
		return nil, err
	}
	s.goOn() // what was staged when the agent died, or what an older agent could not read
	return s, nil
}

// staleAt returns the stale_after of an entry that is in the store; the default when it cannot be read.
func (s *Replica) staleAt(seq uint64) time.Duration {
	e := &intent.Entry{}
	if env, err := s.read(seq); err == nil {
		e, err = intent.DecodeEntry(env.Payload)
		if err != nil {
			e = &intent.Entry{}
		}
	}
	d, _ := intent.ParseStaleAfter(e.StaleAfter)
	return d
}

// StaleAfter is how long a beacon of a coordinator counts here.
func (s *Replica) StaleAfter() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stale
}

// Writers lists the writers of the trust document; do not modify.
func (s *Replica) Writers() []intent.Writer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chain.Writers
}

// empty forgets what was derived from the chain.
func (s *Replica) empty() {
	s.objects, s.tombs, s.acks = map[string]*intent.Object{}, map[string]intent.TombstoneObject{}, map[string]intent.AckBody{}
	s.sealed, s.deks = map[string]intent.SealedRecord{}, map[uint64]intent.SealedDEK{}
}

func (s *Replica) load(tx *state.Tx) error {
	damaged := s.loadAccepted(tx)
	damaged = errors.Join(damaged, tx.Walk(bucketTrust, "", func(key string, b []byte) error {
		if key >= acceptedPrefix {
			return nil // beside the stream
		}
		if s.trust.Body != nil && key != seqKey(s.trust.Head.Seq+1) {
			return state.ErrStop // one before it cannot be read: what follows comes again
		}
		env, err := document.Decode(b)
		if err != nil {
			return err
		}
		if s.trust.Body == nil && env.Digest() != s.trust.Pin {
			return state.ErrStop // the pinned one cannot be read
		}
		if _, err = s.trust.Accept(env); errors.Is(err, document.ErrOffered) {
			return state.ErrStop // its acceptance cannot be read: it is offered again
		}
		return err
	}))
	if damaged != nil && !errors.Is(damaged, state.ErrDamaged) {
		return fmt.Errorf("cannot read trust: %w", damaged)
	}
	for _, b := range []string{bucketMeta, bucketRoster} { // their records are asked for by name: what vanished is seen by counting
		damaged = errors.Join(damaged, tx.Walk(b, "", func(string, []byte) error { return nil }))
	}
	s.chain = document.IntentChain{Site: s.id}
	if s.trust.Body != nil {
		s.chain.Writers, s.revocation.Writers = s.trust.Body.Writers, s.trust.Body.Writers
	}
	for key, to := range map[string]any{"head": &s.active, "staged": &s.chain.Head, "decisions": &s.decisions} {
		damaged = errors.Join(damaged, getJSON(tx, bucketMeta, key, to))
	}
	return errors.Join(
		damaged,
		s.loadRevocations(tx),
		getJSON(tx, bucketRoster, "latest", s.roster),
		walkJSON(tx, bucketObject, func(uid string, o *intent.Object) { s.objects[uid] = o }),
		walkJSON(tx, bucketTomb, func(uid string, t *intent.TombstoneObject) { s.tombs[uid] = *t }),
		walkJSON(tx, bucketAck, func(id string, a *intent.AckBody) { s.acks[id] = *a }),
		tx.Walk(bucketSealed, "", func(key string, b []byte) error { return s.loadSealed(key, b) }),
	)
}

func (s *Replica) loadSealed(key string, b []byte) error {
	if name, ok := strings.CutPrefix(key, "rec/"); ok {
		var r intent.SealedRecord
		if err := json.Unmarshal(b, &r); err != nil {
			return err
		}
		s.sealed[name] = r
		return nil
	}
	var d intent.SealedDEK
	if err := json.Unmarshal(b, &d); err != nil {
		return err
	}
	s.deks[d.DEK] = d
	if err := s.ring.Add(d); err != nil { // sealed to keys that an agent of this name had before: what it sealed was sealed again
		s.log.Debug("data key does not open", "dek", d.DEK, "err", err)
	}
	return nil
}

func getJSON(tx *state.Tx, bucket, key string, to any) error {
	b, err := tx.Get(bucket, key)
	if errors.Is(err, state.ErrAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

func walkJSON[T any](tx *state.Tx, bucket string, fn func(key string, v *T)) error {
	return tx.Walk(bucket, "", func(key string, b []byte) error {
		v := new(T)
		if err := json.Unmarshal(b, v); err != nil {
			return fmt.Errorf("cannot read %s/%s: %w", bucket, key, err)
		}
		fn(key, v)
		return nil
	})
}

func putJSON(tx *state.Tx, bucket, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode %s/%s: %w", bucket, key, err)
	}
	return tx.Put(bucket, key, b)
}

// refreshView makes the effective roster and the view of who may speak. The caller holds the lock or is alone.
func (s *Replica) refreshView() error {
	s.members = Effective(s.id, s.self, s.roster, s.revoked, s.decisions)
	s.around = neighbours(s.roster, s.members, s.decisions, s.self)
	if s.trust.Body == nil {
		return nil
	}
	v, err := trust.NewView(s.trust.Body)
	if err != nil {
		return fmt.Errorf("cannot use trust %d: %w", s.trust.Head.Seq, err)
	}
	s.view.Set(v.WithRoster(s.id, s.members).WithRevocations(s.revoked.Entries()).WithUsers(s.userKeys()))
	return nil
}

// userKeys returns whose client certificates count, as the active intent has it.
func (s *Replica) userKeys() map[intent.Digest]string {
	c := intent.NewCatalog()
	for _, o := range s.objects {
		if o.Kind == intent.KindUser {
			c.Put(o)
		}
	}
	return c.UserKeys()
}

// Receive verifies envelopes that follow the staged head, keeps them, and activates what it can. A refused envelope stops
// there: what came before it is kept. It returns how many were new. Errors: document.ErrRetired when the last of them wait for an
// entry of a current writer; they are not kept, and come again with that.
func (s *Replica) Receive(_ context.Context, envs []*intent.Envelope) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	run := s.chain
	var fresh []received
	counted := 0
	var refused error
	for _, env := range envs {
		e, counts, err := run.Take(env)
		if errors.Is(err, document.ErrKnown) || errors.Is(err, document.ErrReplay) {
			continue
		}
		if errors.Is(err, document.ErrFork) {
			err = errors.Join(err, s.keepFork(intentForks, env))
		}
		if err != nil {
			refused = err
			break
		}
		wire, err := document.Encode(env)
		if err != nil {
			return 0, err
		}
		if fresh = append(fresh, received{e, wire, run.Head}); counts {
			counted = len(fresh)
		}
	}
	if refused == nil && counted < len(fresh) {
		refused = fmt.Errorf("cannot accept intent %d.%d: %w", run.Head.Epoch, run.Head.Seq, document.ErrRetired)
	}
	for kept := 0; kept < counted; {
		n := fits(fresh[kept:counted])
		if err := s.stage(fresh[kept : kept+n]); err != nil {
			return kept, err
		}
		kept += n
	}
	if counted > 0 {
		s.goOn()
	}
	return counted, refused
}

// goOn activates what can be now.
func (s *Replica) goOn() {
	switch err := s.activate(); {
	case errors.Is(err, errWaits): // streams come apart, and the other one is on its way
		s.log.Info("intent waits", "err", err)
	case err != nil:
		s.log.Error("intent is rejected; the last good state stays", "err", err)
	}
}

// errWaits: an entry names documents that are not here yet.
var errWaits = errors.New("it waits for")

// received is one verified entry, and where the chain stands with it.
type received struct {
	entry *intent.Entry
	wire  []byte
	head  intent.Head
}

// maxStage bounds what one transaction stages: it holds 2.4 MB, and one entry has up to 1.
const maxStage = 1 << 20

// fits returns how many of rs one transaction takes, at least one.
func fits(rs []received) int {
	n, size := 0, 0
	for n < len(rs) && size < maxStage {
		size += len(rs[n].wire)
		n++
	}
	return n
}

// Retry activates what was staged and could not be kept then, as on a full disk.
func (s *Replica) Retry() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.activate()
}

// stage writes envelopes and the staged head in one transaction, then the marks. Rosters act on receipt.
func (s *Replica) stage(rs []received) error {
	head := rs[len(rs)-1].head
	var roster *intent.RosterBody
	err := s.db.UpdateSigned(func(tx *state.Tx) error {
		for _, r := range rs {
			e := r.entry
			if err := tx.Put(bucketIntent, seqKey(e.Seq), r.wire); err != nil {
				return err
			}
			if e.Kind == intent.EntryRoster {
				roster = &intent.RosterBody{}
				if err := intent.DecodeStrict(e.Body, roster); err != nil {
					return err
				}
				if err := putJSON(tx, bucketRoster, "latest", roster); err != nil {
					return err
				}
			}
		}
		return putJSON(tx, bucketMeta, "staged", head)
	})
	if err != nil {
		return fmt.Errorf("cannot stage intent: %w", err)
	}
	s.chain.Head = head
	for _, r := range rs {
		if r.entry.Requires.Trust >= s.trust.Floored {
			s.floor.Observe(r.entry.Issued)
		}
	}
	if err := s.saveMarks(); err != nil {
		return err
	}
	if roster != nil {
		s.roster = roster
		return s.refreshView()
	}
	return nil
}

// saveMarks raises the marks to the heads of the streams. They are never lowered, a restored copy climbs up to them; but for a head of
// trust that a person put out of force.
func (s *Replica) saveMarks() error {
	if s.mark.Heads == nil {
		s.mark.Heads = map[string]intent.Head{}
	}
	for stream, h := range map[string]intent.Head{
		intent.StreamIntent: s.chain.Head, intent.StreamRevocation: s.revocation.Head, intent.StreamTrust: s.trust.Head,
	} {
		if m := s.mark.Heads[stream]; h.Compare(m) > 0 || stream == intent.StreamTrust && s.outOfForce(m) {
			s.mark.Heads[stream] = h
		}
	}
	s.mark.Floor = s.floor.Value()
	if err := s.marks.Save(s.mark); err != nil {
		return fmt.Errorf("cannot save marks: %w", err)
	}
	return nil
}

// bump wakes who waits for a change. The caller holds the lock.
func (s *Replica) bump() {
	s.rev++
	close(s.wake)
	s.wake = make(chan struct{})
}

// State is the active intent at one moment. Objects and maps are shared and must not be changed.
type State struct {
	Head     intent.Head // active
	Staged   intent.Head // received and verified
	Rejected string      // why what is staged is not active; empty: it is, or nothing is staged
	Objects  []*intent.Object
	Tombs    map[string]intent.TombstoneObject
	Acks     map[string]intent.AckBody
	Roster   *intent.RosterBody // effective: who counts now
	Signed   *intent.RosterBody // as published
	Rev      uint64             // rises with each change
	Wake     <-chan struct{}    // closed by the next change
}

// Rev returns State().Rev without the copies.
func (s *Replica) Rev() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev
}

// State returns the active intent.
func (s *Replica) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := State{
		Head: s.active, Staged: s.chain.Head, Rejected: s.rejected, Roster: s.members, Signed: s.roster, Rev: s.rev, Wake: s.wake,
		Tombs: make(map[string]intent.TombstoneObject, len(s.tombs)), Acks: make(map[string]intent.AckBody, len(s.acks)),
	}
	for _, o := range s.objects {
		st.Objects = append(st.Objects, o)
	}
	for k, t := range s.tombs {
		st.Tombs[k] = t
	}
	for k, a := range s.acks {
		st.Acks[k] = a
	}
	return st
}

// Counts tells whether this agent is one of those that count. One that does not claims nothing, and changes nothing.
func (s *Replica) Counts() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.members.Agents, func(a intent.RosterAgent) bool { return a.ID == s.self })
}

// Roster returns who counts; do not modify.
func (s *Replica) Roster() *intent.RosterBody {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members
}

// Neighbours returns who counts, and this agent, which is at its address also while it does not; do not modify.
func (s *Replica) Neighbours() *intent.RosterBody {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.around
}

// Secret opens one secret that is sealed to this agent.
func (s *Replica) Secret(name string) (seal.Secret, error) {
	s.mu.Lock()
	rec, ok := s.sealed[name]
	s.mu.Unlock()
	if !ok {
		return seal.Secret{}, fmt.Errorf("cannot open secret %s: %w", name, state.ErrAbsent)
	}
	return s.ring.Open(rec)
}

// OpensWith tells whether all that the active intent tells this agent opens with keys alone. The newest data key decides: with each
// new set of keys every secret is told again under a new one, and what was not told again was deleted.
func (s *Replica) OpensWith(keys *seal.Keys) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active != s.chain.Head {
		return false // something may have been told that is not active
	}
	if len(s.deks) == 0 {
		return true
	}
	return s.ring.OpensWith(s.deks[slices.Max(slices.Collect(maps.Keys(s.deks)))], keys)
}

// SecretVersion returns the version of a secret that is sealed to this agent, 0 when there is none.
func (s *Replica) SecretVersion(name string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sealed[name].Ver
}

// DataKey returns the number of the newest data key, 0 for none, and how many secrets are sealed under an older one.
func (s *Replica) DataKey() (newest uint64, behind int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.deks {
		newest = max(newest, n)
	}
	for _, r := range s.sealed {
		if r.DEK < newest {
			behind++
		}
	}
	return newest, behind
}

// Feed calls fn for the envelopes of the chain from seq on, staged ones too: peers verify for themselves.
func (s *Replica) Feed(from uint64, fn func(*intent.Envelope) error) error {
	return s.db.View(func(tx *state.Tx) error {
		return tx.WalkFrom(bucketIntent, "", seqKey(from), func(_ string, b []byte) error {
			env, err := document.Decode(b)
			if err != nil {
				return err
			}
			return fn(env)
		})
	})
}

// Level tells whether trust, intent and revocations have reached what this agent once had on disk.
func (s *Replica) Level() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.level()
}

func (s *Replica) level() bool {
	at := func(stream string, h intent.Head) bool { return s.mark.Heads[stream].Compare(h) <= 0 }
	return at(intent.StreamIntent, s.chain.Head) && at(intent.StreamRevocation, s.revocation.Head) &&
		(at(intent.StreamTrust, s.trust.Head) || s.outOfForce(s.mark.Heads[intent.StreamTrust]))
}

// SaveMarks keeps the time floor and the store's version; called every 10 minutes and at the end.
func (s *Replica) SaveMarks() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mark.Floor = s.floor.Value()
	if !s.db.Recovering() { // what it once was stays the mark until it is level again
		s.mark.MaxVersion = s.db.MaxVersion()
	}
	return s.marks.Save(s.mark)
}

// Passed is the time that certainly has passed: it goes on while the agent runs, whatever the clock on its wall does.
func (s *Replica) Passed() time.Time { return s.floor.Value() }

// ID returns the site.
func (s *Replica) ID() string { return s.id }

// View returns who may speak now, or nil before the first trust document.
func (s *Replica) View() *trust.View { return s.view.View() }

// SeedRoster lets an agent that just joined speak, and find its peers, before its first roster entry has arrived.
func (s *Replica) SeedRoster(agents ...intent.RosterAgent) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.roster.Agents) > 0 {
		return nil
	}
	s.roster = &intent.RosterBody{Agents: agents}
	return s.refreshView()
}
