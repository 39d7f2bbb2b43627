package bootnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/freshness"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// Permit implements install.Site: the holder of the claim signs; another agent asks it.
func (i *installers) Permit(ctx context.Context, session string, r install.PermissionRequest) (install.PermissionEnvelope, error) {
	s, err := i.session(session)
	if err != nil {
		return install.PermissionEnvelope{}, err
	}
	env, err := install.PermissionEnvelope{}, install.ErrBusy
	for _, owner := range i.owners("machine/" + s.Machine) {
		if owner == i.self {
			env, err = i.permit(ctx, s, r)
		} else {
			env, err = i.forward(ctx, owner, session, r)
		}
		if !errors.Is(err, install.ErrBusy) {
			break
		}
	}
	return env, err
}

func (i *installers) permit(ctx context.Context, s reconcile.Session, r install.PermissionRequest) (install.PermissionEnvelope, error) {
	var none install.PermissionEnvelope
	v, ok := i.control.View(s.Machine)
	b := v.Writes()
	if !ok || b == nil || v.Accepted == nil || !due(v, r.Act, b.Released) || r.Task != v.TaskID() || r.Generation != b.Generation {
		return none, i.refuse(ctx, s.Machine, r, "the machine is not to be written now, or the work is of another attempt")
	}
	if why := differs(v.Accepted, r); why != "" {
		err := i.w.Journal.Append(ctx, claim.Replicated, claim.Draft{
			Kind: reconcile.KindEvidence, Key: s.Machine, Body: reconcile.Evidence{Nonce: s.Nonce, What: "the hardware is another: " + why, Time: time.Now().UTC()},
		})
		if err != nil && !errors.Is(err, claim.ErrWaitingPeer) {
			return none, fmt.Errorf("%w: %w", install.ErrBusy, err)
		}
		return none, i.refuse(ctx, s.Machine, r, why)
	}
	fresh, err := i.fresh(ctx, *b)
	if err != nil {
		return none, i.wait(ctx, s.Machine, r, err)
	}
	cl, err := i.control.Permitted(ctx, v)
	if err != nil {
		i.log.Warn("permission waits for the claim", "machine", s.Machine, "err", err)
		return none, install.ErrBusy
	}
	return i.grant(ctx, v, s, r, terms{claim: cl, fresh: fresh, binding: *b})
}

// due tells whether the act is what the machine is in the middle of, and may be done now.
func due(v reconcile.MachineView, act intent.Act, released bool) bool {
	switch act {
	case intent.ActInstall:
		return !released && v.Status.State == intent.StateInstalling && v.Status.Phase == reconcile.PhaseWrite
	case intent.ActErase:
		return released && v.Status.State == intent.StateErasing && v.Status.Phase == reconcile.PhaseErase && v.MayErase() == nil
	}
	return false
}

// differs compares the hardware as found with the accepted inventory; the permission is made of the latter alone.
func differs(a *reconcile.Facts, r install.PermissionRequest) string {
	if a.Serial != r.Serial || a.UUID != r.UUID {
		return fmt.Sprintf("serial %q, UUID %q instead of %q, %q", r.Serial, r.UUID, a.Serial, a.UUID)
	}
	for _, d := range a.Disks {
		found := slices.ContainsFunc(r.Disks, func(x inventory.Disk) bool { return x.ID() == d.DiskID })
		if !found {
			return fmt.Sprintf("disk %s %s of the accepted inventory is not there", d.WWN, d.Serial)
		}
	}
	for _, x := range r.Disks {
		known := slices.ContainsFunc(a.Disks, func(d reconcile.DiskFacts) bool { return x.ID() == d.DiskID })
		if r.Act == intent.ActErase && x.Fixed() && !known { // what an instance wrote there would stay
			return fmt.Sprintf("disk %s %s is there and not in the accepted inventory", x.WWN, x.Serial)
		}
	}
	return ""
}

func (i *installers) refuse(ctx context.Context, machine string, r install.PermissionRequest, why string) error {
	err := i.w.Journal.Append(ctx, claim.Local, reconcile.Event(machine, r.Task, r.Epoch, "permit.refused", why, nil))
	return errors.Join(fmt.Errorf("%w: %s", install.ErrStale, why), err)
}

// wait tells once for each reason that a machine waits to be written, and the way out.
func (i *installers) wait(ctx context.Context, machine string, r install.PermissionRequest, why error) error {
	kind := r.Task + " " + why.Error()
	if s, ok := errors.AsType[*freshness.Stale](why); ok {
		kind = r.Task + " " + s.Kind // the text has an age in it
	}
	i.mu.Lock()
	told := i.waits[machine] == kind
	i.waits[machine] = kind
	i.mu.Unlock()
	if !told {
		i.log.Warn("permission waits", "machine", machine, "why", why)
		if err := i.w.Journal.Append(ctx, claim.Local, reconcile.Event(machine, r.Task, r.Epoch, "permit.waits", why.Error(), nil)); err != nil {
			i.log.Warn("event not journaled", "err", err)
		}
	}
	return fmt.Errorf("%w: %w", install.ErrBusy, why)
}

// terms are what a permission is given under: the claim, and by what the act is fresh.
type terms struct {
	claim   intent.Claim
	fresh   string
	binding reconcile.Binding
}

// grant signs one permission per task, session and claim epoch: a repeated request gets the same one; an installer that goes
// on under a new owner's claim gets a new one.
func (i *installers) grant(ctx context.Context, v reconcile.MachineView, s reconcile.Session, r install.PermissionRequest, by terms) (install.PermissionEnvelope, error) {
	cl := by.claim
	attempt := r.Task + "@" + intent.DigestOf([]byte(s.ID)).Short()
	id := attempt + "@" + cl.Epoch.String()
	old, had := claim.Load[intent.Envelope](i.w.Journal, reconcile.KindPermission, v.Name)
	var prev intent.Permission
	if had && json.Unmarshal(old.Payload, &prev) == nil {
		if prev.ID == id {
			return install.PermissionEnvelope{Envelope: old}, nil
		}
		if strings.HasPrefix(prev.ID, r.Task+"@") && !strings.HasPrefix(prev.ID, attempt+"@") {
			return install.PermissionEnvelope{}, i.refuse(ctx, v.Name, r, "the permission of this attempt was given to another session")
		}
	}
	p := intent.Permission{
		Site: i.w.ID(), Agent: i.self, Seq: prev.Seq + 1, Time: time.Now().UTC(), ID: id, Act: r.Act, Machine: v.Name,
		UUID: v.Accepted.UUID, Serial: v.Accepted.Serial, Generation: by.binding.Generation, Claim: cl.Epoch, Cause: by.binding.Cause, Fresh: by.fresh,
	}
	if had {
		p.Prev = old.Digest().String()
	}
	step, what := "erase", fmt.Sprintf("erase %d disks", len(v.Accepted.Disks))
	if p.Act == intent.ActErase {
		p.Disks = eraseWork(v).Disks
	} else {
		work, err := i.installWork(v)
		if err != nil {
			return install.PermissionEnvelope{}, fmt.Errorf("%w: %w", install.ErrBusy, err)
		}
		p.Disks = []intent.DiskID{work.Disk} // the only disk that may be written
		step, what = "write", fmt.Sprintf("write %s on disk %s%s", v.Binding.Image, work.Disk.WWN, work.Disk.Serial)
	}
	payload, err := json.Marshal(p)
	if err != nil {
		return install.PermissionEnvelope{}, fmt.Errorf("cannot encode permission: %w", err)
	}
	env, err := document.Sign(intent.PayloadPermission, payload, i.sign())
	if err != nil {
		return install.PermissionEnvelope{}, err
	}
	rec := reconcile.TaskRecord{Task: r.Task, Device: "machine/" + v.Name, Step: step, Class: "destructive", State: "started", Epoch: cl.Epoch}
	err = i.w.Journal.Append(ctx, claim.Replicated,
		claim.Draft{Kind: reconcile.KindTask, Key: r.Task, Epoch: cl.Epoch, Body: rec},
		claim.Draft{Kind: reconcile.KindPermission, Key: v.Name, Epoch: cl.Epoch, Body: env},
		reconcile.Event(v.Name, r.Task, cl.Epoch, "permit.granted", what, map[string]string{
			"permission": id, "serial": p.Serial, "generation": fmt.Sprint(p.Generation), "cause": p.Cause, "fresh": p.Fresh, "digest": env.Digest().Short(),
		}))
	if err != nil {
		return install.PermissionEnvelope{}, fmt.Errorf("%w: %w", install.ErrBusy, err) // nothing may be written that no live peer knows of
	}
	return install.PermissionEnvelope{Envelope: *env}, nil
}

// PermitHere is Permit for a peer that asks because this agent owns the machine. Errors: as install.Site.Permit.
func (s *Server) PermitHere(ctx context.Context, session string, r install.PermissionRequest) (install.PermissionEnvelope, error) {
	se, err := s.inst.session(session)
	if err != nil {
		return install.PermissionEnvelope{}, err
	}
	return s.inst.permit(ctx, se, r)
}
