package replica

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/tally"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/storage/state"
)

// next is a state that is being worked out: the active one and a run of entries over it.
type next struct {
	head    intent.Head
	stale   time.Duration // of the entry at the head
	size    int           // octets of the run's payloads
	objects map[string]*intent.Object
	puts    map[string]*intent.Object
	buried  map[string]intent.TombstoneObject // before the run; shared, read only
	tombs   []intent.TombstoneObject
	acked   map[string]intent.AckBody // before the run; shared, read only
	acks    []intent.AckBody
	unequal error // the last snapshot of the run says something else
	deks    []intent.SealedDEK
	records []intent.SealedRecord
}

// begin returns the active state, with nothing over it, for who holds the lock.
func (s *Replica) begin() *next {
	return &next{head: s.active, objects: maps.Clone(s.objects), puts: map[string]*intent.Object{}, buried: s.tombs, acked: s.acks}
}

func (n *next) clone() *next {
	c := *n
	c.objects, c.puts = maps.Clone(n.objects), maps.Clone(n.puts)
	c.tombs, c.acks, c.deks, c.records = slices.Clone(n.tombs), slices.Clone(n.acks), slices.Clone(n.deks), slices.Clone(n.records)
	return &c
}

const (
	// activateBytes is where a run is activated if it holds together by itself: well below one transaction (2.4 MB).
	activateBytes = 700_000
	// activateLimit is the longest run that is tried as one: entries of which none but all together are valid.
	activateLimit = 2_000_000
)

// activate moves the active head as far towards the staged one as holds together, a run at a time: each run all or nothing,
// in one transaction with its head. What does not hold together stays staged; each new entry lets it be tried again.
func (s *Replica) activate() error {
	for s.active.Seq < s.chain.Head.Seq {
		n, err := s.run(false)
		if n == nil {
			n, err = s.run(true) // the end does not fit: find how far it does
		}
		if n == nil && errors.Is(err, errUnequal) && s.replayAgain() {
			continue
		}
		if n == nil {
			s.rejected = err.Error()
			s.bump()
			return err
		}
		if err := s.db.UpdateSigned(func(tx *state.Tx) error { return errors.Join(n.write(tx), s.forget(tx, n)) }); err != nil {
			s.rejected = err.Error()
			s.bump()
			return fmt.Errorf("cannot activate intent: %w", err)
		}
		s.take(n)
	}
	return nil
}

// vain says that no run of staged entries over an active head holds together up to seq, and why the longest does not. It stays so until
// the head moves: only longer runs are worth checking, as each costs a look at all objects of the site.
type vain struct {
	over intent.Head
	seq  uint64
	why  error
}

// run applies staged entries to the active state and returns the first whole run of activateBytes or, if there is less, all
// of it; with every entry checked, the longest run that holds together. Nil, and why, when there is none.
func (s *Replica) run(everyEntry bool) (best *next, err error) {
	n := s.begin()
	verr := s.db.View(func(tx *state.Tx) error {
		for seq := s.active.Seq + 1; seq <= s.chain.Head.Seq; seq++ {
			b, err := tx.Get(bucketIntent, seqKey(seq))
			if err != nil {
				return fmt.Errorf("cannot read staged entry %d: %w", seq, err)
			}
			env, err := document.Decode(b)
			if err != nil {
				return err
			}
			if err := s.apply(n, env.Payload); err != nil {
				return fmt.Errorf("entry %d: %w", seq, err)
			}
			n.size += len(env.Payload)
			full := n.size >= activateBytes
			if s.vain.over == s.active && seq <= s.vain.seq {
				if n.size > activateLimit || seq == s.chain.Head.Seq {
					return s.vain.why
				}
				continue
			}
			if !full && !everyEntry && seq < s.chain.Head.Seq {
				continue
			}
			cerr := n.check()
			s.looks++
			if cerr != nil && everyEntry && best == nil {
				s.vain = vain{s.active, seq, fmt.Errorf("entry %d: %w", seq, cerr)}
			}
			if cerr == nil {
				best = n.clone()
				if full {
					return nil
				}
			} else if n.size > activateLimit || seq == s.chain.Head.Seq {
				return fmt.Errorf("entry %d: %w", seq, cerr)
			}
		}
		return nil
	})
	return best, verr
}

// take makes a run that was written the active state.
func (s *Replica) take(n *next) {
	for _, k := range s.idle(n) {
		delete(s.deks, k)
		s.ring.Forget(k)
	}
	for _, d := range n.deks {
		s.deks[d.DEK] = d
		if err := s.ring.Add(d); err != nil {
			s.log.Error("data key does not open", "dek", d.DEK, "err", err)
		}
	}
	for _, t := range n.tombs {
		s.tombs[t.UID] = t
	}
	for _, a := range n.acks {
		s.acks[a.Override] = a
	}
	for _, r := range n.records {
		s.sealed[r.Name] = r
	}
	s.objects, s.active, s.stale, s.rejected = n.objects, n.head, n.stale, ""
	if s.view.View() != nil {
		s.view.Set(s.view.View().WithUsers(s.userKeys()))
	}
	s.bump()
	s.log.Info("intent active", "epoch", n.head.Epoch, "seq", n.head.Seq)
}

// apply folds one entry into n.
func (s *Replica) apply(n *next, payload []byte) error {
	e, err := intent.DecodeEntry(payload)
	if err != nil {
		return err
	}
	body, err := e.DecodeBody()
	if err != nil {
		return err
	}
	switch {
	case e.Requires.Trust > s.trust.Head.Seq:
		return fmt.Errorf("cannot activate: %w trust %d, here is %d", errWaits, e.Requires.Trust, s.trust.Head.Seq)
	case e.Requires.Revocation > s.revocation.Head.Seq:
		return fmt.Errorf("cannot activate: %w revocation %d, here is %d", errWaits, e.Requires.Revocation, s.revocation.Head.Seq)
	}
	n.head = e.Head(payload)
	n.stale, _ = intent.ParseStaleAfter(e.StaleAfter) // it was checked
	switch b := body.(type) {
	case *intent.PutBody:
		for _, p := range b.Objects {
			o, err := intent.DecodeObject(p.Doc)
			if err != nil {
				return err
			}
			if o.Metadata.UID != p.UID || o.Metadata.Rev != p.Rev {
				return fmt.Errorf("%s names another uid or generation than its entry", o.Key())
			}
			if old := n.objects[p.UID]; old != nil && old.Metadata.Rev > p.Rev {
				return fmt.Errorf("%s goes back from generation %d to %d", o.Key(), old.Metadata.Rev, p.Rev)
			}
			n.objects[p.UID], n.puts[p.UID] = o, o
		}
	case *intent.TombstoneBody:
		for _, t := range b.Objects {
			delete(n.objects, t.UID)
			delete(n.puts, t.UID)
			n.tombs = append(n.tombs, t)
		}
	case *intent.SecretBody:
		n.deks = append(n.deks, slices.DeleteFunc(slices.Clone(b.DEKs), func(d intent.SealedDEK) bool { return d.To != s.self })...)
		n.records = append(n.records, slices.DeleteFunc(slices.Clone(b.Records), func(r intent.SealedRecord) bool { return r.To != s.self })...)
	case *intent.AckBody:
		n.acks = append(n.acks, *b)
	case *intent.SnapshotBody:
		n.unequal = n.compare(e.Seq, *b)
	}
	return nil
}

// errUnequal says that a replay came to something else than its writer: one of them is wrong, and nobody here can tell which. A later
// snapshot that is equal mends it.
var errUnequal = errors.New("snapshot is not what the chain comes to here")

func (n *next) compare(seq uint64, said intent.SnapshotBody) error {
	var sum tally.Sum
	for uid, o := range n.objects {
		sum.Object(uid, o.Metadata.Rev)
	}
	tombs, acks := maps.Clone(n.buried), maps.Clone(n.acked)
	for _, t := range n.tombs {
		tombs[t.UID] = t
	}
	for _, a := range n.acks {
		acks[a.Override] = a
	}
	for _, t := range tombs {
		sum.Tombstone(t)
	}
	for _, a := range acks {
		sum.Ack(a)
	}
	if have := sum.Body(); have != said {
		return fmt.Errorf("%w: entry %d says %d objects, root %s; here are %d, root %s", errUnequal, seq, said.Count, said.Root.Short(), have.Count, have.Root.Short())
	}
	return nil
}

// replayAgain works out the active state anew, once, before a writer is taken at fault: what this agent has may be what an older
// version of it, or its disk, made of the chain. False when that changed nothing.
func (s *Replica) replayAgain() bool {
	if s.replayed == s.active {
		return false
	}
	s.replayed = s.active
	if err := errors.Join(s.relive(), s.repairDerived()); err != nil {
		s.log.Error("cannot work out intent anew", "err", err)
		return false
	}
	s.log.Warn("intent was worked out anew: a snapshot is not what was here", "seq", s.active.Seq)
	return true
}

// check refuses a state that does not fit together. Two objects of one key would make it depend on map order.
func (n *next) check() error {
	if n.unequal != nil {
		return n.unequal
	}
	c := intent.NewCatalog()
	for uid, o := range n.objects {
		if other := c.Get(o.Key()); other != nil {
			return fmt.Errorf("%s is there twice, as %s and %s", o.Key(), uid, other.Metadata.UID)
		}
		c.Put(o)
	}
	if ps := LocalProblems(c); len(ps) > 0 {
		return fmt.Errorf("%s: %s (%d problems)", ps[0].Key, ps[0].Problem, len(ps))
	}
	return nil
}

// LocalProblems is Catalog.Check without what a site cannot see: roles, projects and sites of its users and groups elsewhere, sites that
// keep an asset, and the Site objects of the sites that it reaches, of which it has the agents alone.
func LocalProblems(c *intent.Catalog) []intent.ObjectProblem {
	return slices.DeleteFunc(c.Check(), func(p intent.ObjectProblem) bool {
		switch p.Key.Kind {
		case intent.KindUser, intent.KindGroup, intent.KindProject, intent.KindAgent, intent.KindAsset:
			return true
		case intent.KindSite:
			return strings.HasPrefix(p.Path, "spec.peers[")
		default:
			return false
		}
	})
}

func (n *next) write(tx *state.Tx) error {
	for uid, o := range n.puts {
		if err := putJSON(tx, bucketObject, uid, o); err != nil {
			return err
		}
	}
	for _, t := range n.tombs {
		if err := putJSON(tx, bucketTomb, t.UID, t); err != nil {
			return err
		}
		if err := tx.Delete(bucketObject, t.UID); err != nil && !errors.Is(err, state.ErrAbsent) {
			return err
		}
	}
	for _, a := range n.acks {
		if err := putJSON(tx, bucketAck, a.Override, a); err != nil {
			return err
		}
	}
	for _, d := range n.deks {
		if err := putJSON(tx, bucketSealed, fmt.Sprintf("dek/%d", d.DEK), d); err != nil {
			return err
		}
	}
	for _, r := range n.records {
		if err := putJSON(tx, bucketSealed, "rec/"+r.Name, r); err != nil {
			return err
		}
	}
	return putJSON(tx, bucketMeta, "head", n.head)
}

// idle lists the data keys that nothing is sealed under once n is active, the newest one aside. A secret that is not told again under
// a newer key keeps its own: the coordinator that told it may be lost.
func (s *Replica) idle(n *next) (out []uint64) {
	newest, used := uint64(0), map[uint64]bool{}
	for k := range s.deks {
		newest = max(newest, k)
	}
	for _, d := range n.deks {
		newest = max(newest, d.DEK)
	}
	again := map[string]bool{}
	for _, r := range n.records {
		used[r.DEK], again[r.Name] = true, true
	}
	for name, r := range s.sealed {
		used[r.DEK] = used[r.DEK] || !again[name]
	}
	for k := range s.deks {
		if k < newest && !used[k] {
			out = append(out, k)
		}
	}
	return out
}

// forget deletes idle data keys in the transaction that makes n active.
func (s *Replica) forget(tx *state.Tx, n *next) (err error) {
	for _, k := range s.idle(n) {
		err = errors.Join(err, tx.Delete(bucketSealed, fmt.Sprintf("dek/%d", k)))
	}
	return err
}
