package claim

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
)

// Record is one entry of an agent's journal. Records with a Key are state: the view keeps the newest of (Kind, Key), by
// Epoch, then Clock, then Agent. Records without a Key (events) are only listed.
type Record struct {
	Agent string          `json:"agent"`
	Seq   uint64          `json:"seq"`  // per agent, from 1; dense from its base on (prune.go)
	Prev  intent.Digest   `json:"prev"` // of the agent's record before
	Clock uint64          `json:"clock"`
	Time  time.Time       `json:"time"`
	Kind  string          `json:"kind"`
	Key   string          `json:"key,omitempty"`
	Epoch intent.Epoch    `json:"epoch"`
	Body  json.RawMessage `json:"body"`
}

// Draft is a record to be written. Body is encoded as JSON. Link, if set, makes the body of a KindAudit record out of the body of
// this agent's one before (nil: there is none), under the lock: such records are a chain of their own within the journal.
type Draft struct {
	Kind  string
	Key   string
	Epoch intent.Epoch
	Body  any
	Link  func(prev json.RawMessage) (json.RawMessage, error)
}

// Copies says how far an Append must reach before it returns.
type Copies int

// Local: fsynced here, pushed to peers in the background. Replicated: also on every peer that gossip holds alive.
const (
	Local Copies = iota
	Replicated
)

// KindEvent is the kind of records that hold an intent.Event.
const KindEvent = "event"

// KindAudit is the kind of audit records; see siteagent/auditlog.
const KindAudit = "audit"

// The errors callers branch on.
var (
	// ErrWaitingPeer says that the record is safe here but a live peer has no copy yet; the step must not be acted upon.
	ErrWaitingPeer = errors.New("waiting for a live peer to take a copy")
	// ErrBehind says that this agent's store is older than it once was: a record written now could contradict one that peers hold.
	ErrBehind = errors.New("this agent's journal is behind; nothing is added before its end was found again")
	// ErrChain says that a peer's records do not continue its chain as we know it.
	ErrChain = errors.New("records do not continue the chain")
)

// Peers is what the journal needs of the mesh.
type Peers interface {
	// Live lists the agents that gossip holds alive, without this one.
	Live() []string
	// Push hands records of this agent's chain to a peer and returns the last sequence number of our chain that it has.
	Push(ctx context.Context, peer string, p Page) (last uint64, err error)
	// Heads asks a peer how far it has the journal of each agent, also of those that are gone.
	Heads(ctx context.Context, peer string) (map[string]uint64, error)
	// Pull asks a peer for the records of an agent from seq on; at most maxPull come back.
	Pull(ctx context.Context, peer, agent string, from uint64) (Page, error)
}

const (
	// pushTimeout is how long a live peer may take for a copy (mesh.md section 7: 2 s each).
	pushTimeout = 2 * time.Second
	// MaxPull bounds one answer; with bodies of some KiB it stays under the 1 MiB of an RPC.
	MaxPull = 128
	// maxBody bounds one record's body: an inventory of a large machine is about 64 KiB.
	maxBody  = 512 << 10
	maxKey   = 300     // kind and key of a record; the longest are project/name pairs of two labels
	maxSeq   = 1 << 48 // records of one agent: a thousand a second for 8,900 years
	maxClock = 1 << 60 // milliseconds since 1970 times 256 reach it in the year 144,000
	// pullEvery is how often missed records are asked for; a push is the normal way.
	pullEvery = 2 * time.Second

	bucketJournal = "journal"
	bucketView    = "view"
)

type viewKey struct{ kind, key string }

// Journal is the site's shared memory. See Record.
type Journal struct {
	// Keep is how many of the newest records of its own chain Run keeps dense; set it before. OpenJournal sets KeepRecords.
	Keep uint64

	self string
	site string
	db   *state.DB
	log  *slog.Logger

	mu     sync.Mutex // guards what follows; held over the store's write so that chains have no gaps
	peers  Peers
	heads  map[string]chainHead
	view   map[viewKey]Record
	shared map[viewKey]decoded // bodies of view that Shared gave
	audit  json.RawMessage     // body of our newest KindAudit record
	clock  uint64
	rev    uint64
	wake   chan struct{}
	acked  map[string]uint64    // peer -> last of our records it has
	heard  map[string]time.Time // peer -> when all that it had was taken last
	// pruned says up to which base a chain was pruned in this process life.
	pruned map[string]uint64
	hooks  []func(old *Record, r Record)
}

// decoded is the body of a record as somebody wanted it.
type decoded struct {
	agent string
	seq   uint64
	v     any // *T
}

type chainHead struct {
	seq  uint64
	hash intent.Digest
}

// OpenJournal reads the journal from db. The whole view is kept in memory: some KiB per machine.
func OpenJournal(db *state.DB, site, self string, log *slog.Logger) (*Journal, error) {
	j := &Journal{
		Keep: KeepRecords, self: self, site: site, db: db, log: log, heads: map[string]chainHead{}, view: map[viewKey]Record{}, shared: map[viewKey]decoded{},
		wake: make(chan struct{}), acked: map[string]uint64{}, heard: map[string]time.Time{}, pruned: map[string]uint64{}, rev: 1,
	}
	err := db.View(func(tx *state.Tx) error {
		damaged := tx.Walk(bucketView, "", func(_ string, b []byte) error {
			var r Record
			if err := json.Unmarshal(b, &r); err != nil {
				return err
			}
			j.view[viewKey{r.Kind, r.Key}] = r
			return j.note(r)
		})
		if damaged != nil && !errors.Is(damaged, state.ErrDamaged) {
			return damaged
		}
		return errors.Join(damaged, tx.Walk(bucketJournal, "", func(_ string, b []byte) error {
			var r Record
			if err := json.Unmarshal(b, &r); err != nil {
				return err
			}
			j.remember(r)
			return j.note(r)
		}))
	})
	if errors.Is(err, state.ErrDamaged) {
		// The end of a chain may be among what is lost: nothing is claimed until peers, or a repair, have shown it.
		log.Error("journal is damaged", "err", err)
		err = db.SetRecovering("journal damaged")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read journal: %w", err)
	}
	return j, nil
}

// note moves head and clock up to a record that was read: also to one that only the view holds still.
func (j *Journal) note(r Record) error {
	j.clock = max(j.clock, r.Clock)
	if r.Seq < j.heads[r.Agent].seq {
		return nil
	}
	hash, err := hashRecord(r)
	j.heads[r.Agent] = chainHead{r.Seq, hash}
	return err
}

// SetPeers gives the mesh; before it, Append stays local.
func (j *Journal) SetPeers(p Peers) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.peers = p
}

// OnRecord registers fn, which is called after each new record that changed the view, with the record it replaced (nil:
// none). It runs under the journal's lock and must only look and return.
func (j *Journal) OnRecord(fn func(old *Record, r Record)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.hooks = append(j.hooks, fn)
}

func journalKey(agent string, seq uint64) string { return fmt.Sprintf("%s/%016x", agent, seq) }

func splitJournalKey(key string) (agent string, seq uint64, ok bool) {
	agent, num, _ := strings.Cut(key, "/")
	seq, err := strconv.ParseUint(num, 16, 64)
	return agent, seq, err == nil
}

func hashRecord(r Record) (intent.Digest, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return intent.Digest{}, fmt.Errorf("cannot encode record %d of %s: %w", r.Seq, r.Agent, err)
	}
	return intent.DigestOf(b), nil
}

// Append writes the drafts as one transaction and returns when they are on disk here and, for Replicated, on every live
// peer. Errors: ErrWaitingPeer (the records are written all the same), ErrBehind (not written), the store's.
func (j *Journal) Append(ctx context.Context, copies Copies, drafts ...Draft) error {
	j.mu.Lock()
	peers := j.peers
	j.mu.Unlock()
	j.compare(ctx, peers)
	if err := j.write(drafts); err != nil {
		return err
	}
	if copies == Local || peers == nil {
		return nil // Run pushes it
	}
	return j.replicate(ctx, peers)
}

func (j *Journal) write(drafts []Draft) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.db.Recovering() {
		return fmt.Errorf("cannot write journal: %w", ErrBehind)
	}
	head, clock := j.heads[j.self], j.clock
	records := make([]Record, 0, len(drafts))
	audit := j.audit
	for _, d := range drafts {
		body, err := json.Marshal(d.Body)
		if d.Link != nil {
			body, err = d.Link(audit)
			audit = body
		}
		if err != nil {
			return fmt.Errorf("cannot encode %s record: %w", d.Kind, err)
		}
		if len(body) > maxBody {
			return fmt.Errorf("cannot journal %s %s: %d octets, at most %d", d.Kind, d.Key, len(body), maxBody)
		}
		clock = max(clock+1, uint64(time.Now().UnixMilli())<<8)
		r := Record{
			Agent: j.self, Seq: head.seq + 1, Prev: head.hash, Clock: clock, Time: time.Now().UTC(),
			Kind: d.Kind, Key: d.Key, Epoch: d.Epoch, Body: body,
		}
		hash, err := hashRecord(r)
		if err != nil {
			return err
		}
		head = chainHead{r.Seq, hash}
		records = append(records, r)
	}
	return j.store(records, head)
}

// store commits records of one agent and folds them into the view. The caller holds the lock.
func (j *Journal) store(records []Record, head chainHead) error {
	if len(records) == 0 {
		return nil
	}
	fresh := map[viewKey]Record{}
	err := j.db.UpdateVital(func(tx *state.Tx) error {
		clear(fresh)
		for _, r := range records {
			b, err := json.Marshal(r)
			if err != nil {
				return err
			}
			if err := tx.Put(bucketJournal, journalKey(r.Agent, r.Seq), b); err != nil {
				return err
			}
			k := viewKey{r.Kind, r.Key}
			old, ok := fresh[k]
			if !ok {
				old, ok = j.view[k]
			}
			if r.Key == "" || (ok && !newer(r, old)) {
				continue
			}
			fresh[k] = r
			if err := tx.Put(bucketView, r.Kind+"/"+r.Key, b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot write journal: %w", err)
	}
	j.heads[records[0].Agent] = head
	for k, r := range fresh {
		var old *Record
		if o, ok := j.view[k]; ok {
			old = &o
		}
		j.view[k] = r
		for _, h := range j.hooks {
			h(old, r)
		}
	}
	for _, r := range records {
		j.remember(r)
	}
	j.rev++
	close(j.wake)
	j.wake = make(chan struct{})
	return nil
}

// remember takes from a stored record what the next one needs. The caller holds the lock or is alone.
func (j *Journal) remember(r Record) {
	j.clock = max(j.clock, r.Clock)
	if r.Agent == j.self && r.Kind == KindAudit {
		j.audit = r.Body
	}
}

// Audit returns the body of this agent's newest KindAudit record, or nil.
func (j *Journal) Audit() json.RawMessage {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.audit
}

// newer orders two records of one key.
func newer(a, b Record) bool {
	if c := a.Epoch.Compare(b.Epoch); c != 0 {
		return c > 0
	}
	if a.Clock != b.Clock {
		return a.Clock > b.Clock
	}
	return a.Agent > b.Agent
}

// Receive takes records of a peer's own chain and returns the last one that is stored. What is known already is skipped.
// Errors: ErrChain for a gap or a record that does not link; nothing after it is stored.
func (j *Journal) Receive(agent string, p Page) (last uint64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if agent == j.self {
		return j.heads[agent].seq, nil
	}
	return j.take(agent, p)
}

// take stores what continues an agent's chain. The caller holds the lock.
func (j *Journal) take(agent string, p Page) (last uint64, err error) {
	head := j.heads[agent]
	var take []Record
	for _, r := range p.Records {
		if r.Seq <= head.seq {
			continue
		}
		hash, herr := hashRecord(r)
		if herr != nil || r.Agent != agent || !r.after(head, p.Base) || !r.bounded() {
			err = fmt.Errorf("cannot take record %d of %s after %d: %w", r.Seq, agent, head.seq, ErrChain)
			break
		}
		head = chainHead{r.Seq, hash}
		take = append(take, r)
	}
	if serr := j.store(take, head); serr != nil {
		return j.heads[agent].seq, serr
	}
	return j.heads[agent].seq, err
}

// bounded tells whether a peer's record is of a kind and size that this agent could have written. A clock beyond maxClock
// would leave no room for ours.
func (r Record) bounded() bool {
	return r.Kind != "" && !strings.Contains(r.Kind, "/") && len(r.Kind)+len(r.Key) <= maxKey && len(r.Body) <= maxBody && r.Clock < maxClock && r.Seq < maxSeq
}

// Heads returns the last sequence number known of each agent.
func (j *Journal) Heads() map[string]uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	m := map[string]uint64{}
	for a, h := range j.heads {
		m[a] = h.seq
	}
	return m
}

// Latest returns the newest record of (kind, key).
func (j *Journal) Latest(kind, key string) (Record, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r, ok := j.view[viewKey{kind, key}]
	return r, ok
}

// View returns the newest records of a kind by key.
func (j *Journal) View(kind string) map[string]Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	m := map[string]Record{}
	for k, r := range j.view {
		if k.kind == kind {
			m[k.key] = r
		}
	}
	return m
}

// Rev returns a number that rises with every record, and a channel that is closed at the next one.
func (j *Journal) Rev() (uint64, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.rev, j.wake
}

// Load decodes the newest body of (kind, key) into v; ok is false when there is none.
func Load[T any](j *Journal, kind, key string) (v T, ok bool) {
	r, ok := j.Latest(kind, key)
	if !ok {
		return v, false
	}
	if err := json.Unmarshal(r.Body, &v); err != nil {
		j.log.Error("cannot decode journal record", "kind", kind, "key", key, "agent", r.Agent, "err", err)
		return v, false
	}
	return v, true
}

// Shared is Load for who reads the same record again and again: it is decoded once. What it points to is everybody's, and nobody's to change;
// nil: there is none.
func Shared[T any](j *Journal, kind, key string) *T {
	k := viewKey{kind, key}
	j.mu.Lock()
	r, ok := j.view[k]
	d := j.shared[k]
	j.mu.Unlock()
	if !ok {
		return nil
	}
	if v, same := d.v.(*T); same && d.agent == r.Agent && d.seq == r.Seq {
		return v
	}
	v := new(T)
	if err := json.Unmarshal(r.Body, v); err != nil {
		j.log.Error("cannot decode journal record", "kind", kind, "key", key, "agent", r.Agent, "err", err)
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.shared[k] = decoded{r.Agent, r.Seq, v}
	return v
}

// Keys returns the keys of the newest records of a kind, in order.
func (j *Journal) Keys(kind string) (out []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for k := range j.view {
		if k.kind == kind {
			out = append(out, k.key)
		}
	}
	slices.Sort(out)
	return out
}

// Events calls fn for the events of all agents after the given sequence numbers (nil: all), in order of their clocks. It holds a page of
// each agent's chain in memory, however long they are.
func (j *Journal) Events(after map[string]uint64, fn func(intent.Event) error) error {
	var chains []*eventChain
	for agent := range j.Heads() {
		c := &eventChain{journal: j, agent: agent, next: after[agent] + 1}
		if err := c.fill(); err != nil {
			return err
		}
		chains = append(chains, c)
	}
	for {
		chains = slices.DeleteFunc(chains, func(c *eventChain) bool { return len(c.page) == 0 })
		if len(chains) == 0 {
			return nil
		}
		first := slices.MinFunc(chains, func(a, b *eventChain) int {
			return cmp.Or(cmp.Compare(a.page[0].Clock, b.page[0].Clock), cmp.Compare(a.agent, b.agent))
		})
		r := first.page[0]
		var e intent.Event
		if err := json.Unmarshal(r.Body, &e); err != nil {
			return fmt.Errorf("cannot read event %d of %s: %w", r.Seq, r.Agent, err)
		}
		e.Time, e.Site, e.Agent, e.Seq = r.Time, j.site, r.Agent, r.Seq
		if err := fn(e); err != nil {
			return err
		}
		first.page = first.page[1:]
		if err := first.fill(); err != nil {
			return err
		}
	}
}

// eventChain reads the events of one agent's chain, whose clocks rise.
type eventChain struct {
	journal *Journal
	agent   string
	next    uint64
	page    []Record // events only; empty: none is left
}

// fill reads on until the page has an event or the chain ends.
func (c *eventChain) fill() error {
	for len(c.page) == 0 {
		p, err := c.journal.page(c.agent, c.next, MaxPull, true)
		if err != nil || len(p.Records) == 0 {
			return err
		}
		c.next = p.Records[len(p.Records)-1].Seq + 1
		c.page = slices.DeleteFunc(p.Records, func(r Record) bool { return r.Kind != KindEvent })
	}
	return nil
}
