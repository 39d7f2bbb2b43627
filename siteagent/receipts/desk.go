package receipts

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// The journal's kinds.
const (
	kindReceipt = "receipt"     // no key: every one stays; body: intent.Envelope
	kindHead    = "receipthead" // key: agent; body: place
)

// place is the end of an agent's chain.
type place struct {
	Seq  uint64        `json:"seq"`
	Hash intent.Digest `json:"hash"` // of the payload
}

// Desk issues and shows receipts.
type Desk struct {
	Site *effective.Site
	Self string
	Sign func() ed25519.PrivateKey // the key that signs now

	mu sync.Mutex // held from the chain's end to its next record
}

// Issue checks a proof against all that the site knows and signs a receipt for it. The same proof twice gives the same place. Errors:
// erasure.ErrProof; anything else may be tried again.
func (d *Desk) Issue(ctx context.Context, v reconcile.MachineView, p erasure.Proof) (*reconcile.Erased, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	j := d.Site.Journal
	if old, ok := claim.Load[reconcile.Erased](j, reconcile.KindErased, v.Name); ok && old.Task == p.Task && old.Generation == p.Generation {
		return &old, nil
	}
	r, err := d.receipt(v, p)
	if err != nil {
		return nil, err
	}
	head, _ := claim.Load[place](j, kindHead, d.Self)
	r.Site, r.Agent, r.Seq, r.Time = d.Site.ID(), d.Self, head.Seq+1, time.Now().UTC()
	if head.Seq > 0 {
		r.Prev = head.Hash.String()
	}
	env, err := document.SignReceipt(r, d.Sign())
	if err != nil {
		return nil, err
	}
	done := &reconcile.Erased{Instance: r.Instance, Generation: r.Generation, Task: r.Task, Agent: d.Self, Seq: r.Seq, Digest: env.Digest(), Disks: len(r.Drives)}
	task := reconcile.TaskRecord{Task: r.Task, Device: "machine/" + v.Name, Step: "erase", Class: "destructive", State: "done", Epoch: r.Claim, Result: "receipt " + done.Digest.Short()}
	err = j.Append(ctx, claim.Replicated,
		claim.Draft{Kind: kindReceipt, Epoch: r.Claim, Body: env},
		claim.Draft{Kind: kindHead, Key: d.Self, Body: place{r.Seq, done.Digest}},
		claim.Draft{Kind: reconcile.KindTask, Key: r.Task, Epoch: r.Claim, Body: task},
		claim.Draft{Kind: reconcile.KindErased, Key: v.Name, Body: done}, // last: who sees it has the receipt
		reconcile.Event(v.Name, r.Task, r.Claim, "receipt.issued", fmt.Sprintf("%d disks erased, receipt %s/%d", len(r.Drives), d.Self, r.Seq), map[string]string{
			"digest": done.Digest.Short(), "permission": p.Permission, "project": r.Project,
		}))
	if err != nil && !errors.Is(err, claim.ErrWaitingPeer) {
		return nil, err
	}
	return done, nil
}

// receipt compares every field of the proof. What the receipt says of machine and project comes from the site's own records.
func (d *Desk) receipt(v reconcile.MachineView, p erasure.Proof) (*erasure.Receipt, error) {
	refuse := func(format string, a ...any) (*erasure.Receipt, error) {
		return nil, fmt.Errorf("cannot sign for %s: %w: %s", v.Name, erasure.ErrProof, fmt.Sprintf(format, a...))
	}
	env, ok := claim.Load[intent.Envelope](d.Site.Journal, reconcile.KindPermission, v.Name)
	var perm intent.Permission
	if !ok || json.Unmarshal(env.Payload, &perm) != nil {
		return refuse("no permission was given")
	}
	b := v.Writes()
	switch {
	case v.Status.State != intent.StateErasing || b == nil || !b.Released || v.Accepted == nil:
		return refuse("it is %s", v.Status.State)
	case p.Task != v.TaskID() || p.Generation != b.Generation:
		return refuse("the work is of another attempt")
	case perm.Act != intent.ActErase || perm.ID != p.Permission || perm.Machine != v.Name || perm.Generation != b.Generation:
		return refuse("permission %.80q is not the one that was given for it", p.Permission)
	case p.Serial != v.Accepted.Serial || p.UUID != v.Accepted.UUID || perm.Serial != p.Serial || perm.UUID != p.UUID:
		return refuse("serial %.80q, UUID %.80q are of another machine", p.Serial, p.UUID)
	}
	var disks []intent.DiskID
	for _, f := range v.Accepted.Disks {
		disks = append(disks, f.DiskID)
	}
	if !slices.Equal(disks, perm.Disks) {
		return refuse("the accepted inventory changed since the permission")
	}
	if err := erasure.CheckDrives(p.Drives, disks, v.Level()); err != nil {
		return nil, err
	}
	return &erasure.Receipt{
		Machine: erasure.Machine{Name: v.Name, Serial: v.Accepted.Serial, UUID: v.Accepted.UUID, Chassis: p.Chassis},
		Project: b.Project, Instance: b.Instance, Generation: b.Generation, Task: p.Task, Permission: env.Digest(), Claim: perm.Claim,
		Required: v.Level(), Drives: p.Drives, Tool: p.Tool, Exceptions: p.Exceptions, Result: erasure.Erased,
	}, nil
}

// Receipts implements its part of api.Backend: the receipts that this agent has, of one machine or (machine "") all, by agent and place.
func (d *Desk) Receipts(ctx context.Context, site, machine string) (*erasure.List, error) {
	if site != d.Site.ID() {
		return nil, api.ErrNotFound
	}
	l := &erasure.List{Site: site, Receipts: []*intent.Envelope{}, Rosters: []*intent.Envelope{}}
	signers := map[string]*intent.Envelope{}
	for _, agent := range slices.Sorted(maps.Keys(d.Site.Journal.Heads())) {
		for at := uint64(1); ctx.Err() == nil; {
			p, err := d.Site.Journal.Range(agent, at, claim.MaxPull)
			if err != nil {
				return nil, err
			}
			if len(p.Records) == 0 {
				break
			}
			at = p.Records[len(p.Records)-1].Seq + 1
			for _, rec := range p.Records {
				var env intent.Envelope
				var r erasure.Receipt
				if rec.Kind != kindReceipt || json.Unmarshal(rec.Body, &env) != nil || json.Unmarshal(env.Payload, &r) != nil || (machine != "" && r.Machine.Name != machine) {
					continue
				}
				l.Receipts = append(l.Receipts, &env)
				signers[r.Agent] = nil
			}
		}
	}
	err := d.Site.Feed(1, func(env *intent.Envelope) error {
		var e intent.Entry
		var b intent.RosterBody
		if json.Unmarshal(env.Payload, &e) != nil || e.Kind != intent.EntryRoster || json.Unmarshal(e.Body, &b) != nil {
			return ctx.Err()
		}
		for _, a := range b.Agents { // the last that names an agent has its past keys too
			if _, ok := signers[a.ID]; ok {
				signers[a.ID] = env
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read rosters: %w", err)
	}
	for _, a := range slices.Sorted(maps.Keys(signers)) {
		if env := signers[a]; env != nil && !slices.Contains(l.Rosters, env) {
			l.Rosters = append(l.Rosters, env)
		}
	}
	return l, ctx.Err()
}
