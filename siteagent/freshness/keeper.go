package freshness

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

// The journal's kinds.
const (
	kindBeacon = "beacon" // key: the agent that asked; body: held
)

// The ways in which an act is fresh, as a permission says them.
const (
	ByQuota    = "quota"
	ByBeacon   = "beacon"
	ByOperator = "operator"
)

const (
	askWait  = 3 * time.Second  // for one beacon: an installer waits
	askAgain = 30 * time.Second // how old the newest may be before a permission asks for another
	askShare = 14               // of stale_after passes between two beacons without a permission: twice a day for a week
)

// Config is what a Keeper works with.
type Config struct {
	Site, Self string
	Life       string // of this process
	Journal    *claim.Journal
	Replica    *replica.Replica
	Floor      *trust.Floor
	// Post sends a body to the coordinator and returns status and answer. Errors: at once when there is no session.
	Post func(ctx context.Context, path string, body []byte) (int, string, error)
	// Binding returns what a permission for a machine is about: whose it is, or the released one after which it is to be erased; nil: none. ok is false for a machine that is not known.
	Binding func(machine string) (b *reconcile.Binding, ok bool)
	Audit   *auditlog.Log
	Log     *slog.Logger
}

// Keeper keeps the newest beacon. See New.
type Keeper struct {
	Config
	kick chan struct{}

	asking sync.Mutex // one question at a time
	mu     sync.Mutex // guards what follows
	newest *held
	beacon *document.Beacon
}

// held is a beacon in the journal.
type held struct {
	Life   string           `json:"life"` // of the process that asked
	Nonce  string           `json:"nonce"`
	Beacon *intent.Envelope `json:"beacon"`
}

// New returns a keeper over the journal's newest beacon.
func New(cfg Config) *Keeper {
	k := &Keeper{Config: cfg, kick: make(chan struct{}, 1)}
	if h, ok := claim.Load[held](k.Journal, kindBeacon, k.Self); ok {
		if b, err := document.OpenBeacon(h.Beacon, k.Replica.Writers(), k.name(), h.Nonce); err == nil {
			k.newest, k.beacon = &h, b
		}
	}
	return k
}

func (k *Keeper) name() string { return k.Site + "/" + k.Self }

// Kick lets Run ask now, as a session stands, unless the newest beacon is young: of agents that come by every few
// minutes each would ask each time.
func (k *Keeper) Kick() {
	if age, ok := k.age(); ok && age < k.Replica.StaleAfter()/askShare {
		return
	}
	select {
	case k.kick <- struct{}{}:
	default: // asked already
	}
}

// Run asks for a beacon whenever a session stands, and now and then while it does, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		t := time.NewTimer(k.Replica.StaleAfter() / askShare)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-k.kick:
		case <-t.C:
		}
		t.Stop()
		if err := k.ask(ctx); err != nil && ctx.Err() == nil {
			k.Log.Debug("no beacon", "err", err)
		}
	}
}

// ask gets a beacon over a new nonce, and keeps it.
func (k *Keeper) ask(ctx context.Context) error {
	k.asking.Lock()
	defer k.asking.Unlock()
	raw := make([]byte, 16)
	rand.Read(raw) // never fails: crypto/rand, Go 1.24
	h := held{Life: k.Life, Nonce: hex.EncodeToString(raw)}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	body, err := json.Marshal(map[string]string{"nonce": h.Nonce})
	if err != nil {
		return err
	}
	status, answer, err := k.Post(ctx, "/u/1/beacon", body)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("cannot get a beacon: %d %s", status, answer)
	}
	if err != nil {
		return err
	}
	env, err := document.Decode([]byte(answer))
	if err != nil {
		return err
	}
	b, err := document.OpenBeacon(env, k.Replica.Writers(), k.name(), h.Nonce)
	if err != nil {
		return err
	}
	h.Beacon = env
	k.Floor.Observe(b.Time)
	k.mu.Lock()
	k.newest, k.beacon = &h, b
	k.mu.Unlock()
	if err := k.Journal.Append(ctx, claim.Local, claim.Draft{Kind: kindBeacon, Key: k.Self, Body: h}); err != nil {
		k.Log.Warn("beacon not journaled; it counts until this process ends", "err", err)
	}
	return nil
}

// Stale says why an act waits, and the way out. Kind stays the same while only ages change.
type Stale struct{ Kind, Text string }

// Error returns the text.
func (s *Stale) Error() string { return s.Text }

// Fresh decides whether an act on a binding's machine may be permitted, and by what. With a session it asks for a beacon first, so
// that the newest word counts. Errors: *Stale.
// Source: trust.md sections 2 and 4.
func (k *Keeper) Fresh(ctx context.Context, b reconcile.Binding) (string, error) {
	if age, ok := k.age(); !ok || age > askAgain {
		if err := k.ask(ctx); err != nil {
			k.Log.Debug("no beacon", "err", err)
		}
	}
	return k.Decide(b)
}

// Decide is Fresh by what is known now.
func (k *Keeper) Decide(b reconcile.Binding) (string, error) {
	if a, ok := claim.Load[reconcile.Approval](k.Journal, reconcile.KindApproval, b.Machine); ok && a.Generation == b.Generation && a.Erase == b.Released {
		return ByOperator, nil
	}
	if err := k.level(b.Machine); err != nil {
		return "", err
	}
	if id, ok := strings.CutPrefix(b.Cause, "override "); ok && k.Replica.State().Acks[id].Decision != "discard" {
		return ByQuota, nil // charged to the offline quota when it was made
	}
	limit := k.Replica.StaleAfter()
	way := fmt.Sprintf("; bring the line back, or an operator with a registered key approves it: `skerry machine approve %s --reason TEXT`", b.Machine)
	switch age, ok := k.age(); {
	case !ok && k.known() == nil:
		return "", &Stale{"never", "no coordinator was heard by " + k.Self + way}
	case !ok:
		return "", &Stale{"clock", "the beacon is of before the restart, and the clock lies behind what signed documents prove: set the clock" + way}
	case age > limit:
		return "", &Stale{"age", fmt.Sprintf("the last beacon is %s old, and counts for %s", age.Round(time.Minute), limit) + way}
	}
	return ByBeacon, nil
}

// level refuses to act under intent that is known not to be the newest.
func (k *Keeper) level(machine string) error {
	b := k.known()
	if b == nil {
		return nil
	}
	for _, s := range []struct {
		name       string
		said, have intent.Head
	}{
		{"intent", b.Intent, k.Replica.State().Head}, {"revocation", b.Revocation, k.Replica.RevocationHead()}, {"trust", b.Trust, k.Replica.TrustHead()},
	} {
		switch {
		case s.said.Compare(s.have) > 0:
			return &Stale{"head", fmt.Sprintf("the coordinator has %s %d, %s has %d in force: it waits until it is level; `skerry intent status` says why it is not, "+
				"`skerry machine approve %s --reason TEXT` goes on without", s.name, s.said.Seq, k.Self, s.have.Seq, machine)}
		case s.said.Seq > 0 && s.said.Compare(s.have) == 0 && s.said.Hash != s.have.Hash:
			return &Stale{"fork", fmt.Sprintf("the coordinator names another %s %d than %s has: it forked; `skerry intent status`", s.name, s.said.Seq, k.Self)}
		}
	}
	return nil
}

func (k *Keeper) known() *document.Beacon {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.beacon
}

// age returns how old the newest beacon is; ok is false when there is none that counts.
func (k *Keeper) age() (time.Duration, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, trusted := k.Floor.Now()
	if k.beacon == nil || k.newest.Life != k.Life && !trusted {
		return 0, false // nobody knows how long the box was off
	}
	return max(0, now.Sub(k.beacon.Time)), true
}

// Word tells how old the newest beacon is, and how long it counts.
func (k *Keeper) Word() string {
	age, ok := k.age()
	if !ok {
		return "no beacon of a coordinator counts"
	}
	b, limit := k.known(), k.Replica.StaleAfter()
	if age > limit {
		return fmt.Sprintf("beacon of %s is %s old, and counted for %s", b.Who, age.Round(time.Second), limit)
	}
	return fmt.Sprintf("beacon of %s is %s old, and counts for %s more", b.Who, age.Round(time.Second), (limit - age).Round(time.Second))
}

// Explain tells by what a machine may be written now, or why it waits.
func (k *Keeper) Explain(machine string) []api.ExplainFact {
	b, _ := k.Binding(machine)
	if b == nil {
		return nil
	}
	how, err := k.Decide(*b)
	if err != nil {
		return []api.ExplainFact{{Name: "waits", Value: err.Error()}}
	}
	return []api.ExplainFact{{Name: "fresh", Value: how + "; " + k.Word()}}
}

// Approve implements api.Approvals: an operator takes it upon himself that a machine is written, for its present allocation.
func (k *Keeper) Approve(ctx context.Context, by api.Caller, site, machine, reason string) error {
	b, ok := k.Binding(machine)
	if site != k.Site || !ok {
		return api.ErrNotFound
	}
	if b == nil {
		return api.Refuse(machine + " belongs to no instance and is not to be erased: there is nothing to approve")
	}
	if !strings.HasPrefix(by.Via, "key:") {
		return api.Refuse("a token is not enough to approve a dangerous act: use a context with --key, of a key that stands on your user")
	}
	a := reconcile.Approval{Machine: machine, Generation: b.Generation, Erase: b.Released, User: by.User, Via: by.Via, Reason: reason, Time: time.Now().UTC()}
	err := k.Journal.Append(ctx, claim.Replicated,
		claim.Draft{Kind: reconcile.KindApproval, Key: machine, Body: a}, k.Audit.Draft(by.Audit("approve", "Machine "+site+"/"+machine, reason)),
		reconcile.Event(machine, "", intent.Epoch{}, "permit.approved", "approved by "+by.User+": "+reason, map[string]string{"via": by.Via, "generation": fmt.Sprint(b.Generation)}))
	if errors.Is(err, claim.ErrWaitingPeer) {
		return nil // it is on disk here, and goes to the peer when that answers
	}
	return err
}

var _ api.Approvals = (*Keeper)(nil)
