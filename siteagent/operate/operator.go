package operate

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/freshness"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// Operator does to machines what people ask for.
type Operator struct {
	Site    *effective.Site
	Control *reconcile.Controller
	Fresh   *freshness.Keeper
	Audit   *auditlog.Log
	Owners  func(id string) []string // agents that act on what a claim's id names
	May     func() error             // why this agent may change nothing; nil: it may
}

// Approve implements api.Approvals.
func (o *Operator) Approve(ctx context.Context, by api.Caller, site, machine, reason string) error {
	if err := o.May(); err != nil {
		return err
	}
	return o.Fresh.Approve(ctx, by, site, machine, reason)
}

// Power implements api.Backend.
func (o *Operator) Power(ctx context.Context, by api.Caller, site, machine, action string) (*api.PowerResult, error) {
	v, ok := o.Control.View(machine)
	if site != o.Site.ID() || !ok {
		return nil, api.ErrNotFound
	}
	if action != "status" && !o.Control.Owns(machine) {
		return nil, api.Refuse(fmt.Sprintf("agent %s owns %s now; ask it", strings.Join(o.Owners("machine/"+machine), " or "), machine))
	}
	p, effect, err := o.Control.Power(ctx, v, action)
	if err != nil {
		return nil, &api.Error{Status: http.StatusBadGateway, Type: "bmc", Detail: err.Error()}
	}
	if action != "status" {
		err := o.Site.Journal.Append(ctx, claim.Local, reconcile.Event(machine, "", intent.Epoch{}, "machine.power.asked", fmt.Sprintf("%s by %s: %s", action, by.User, effect), nil),
			o.Audit.Draft(by.Audit("power "+action, "Machine "+site+"/"+machine, "proven: "+effect.String())))
		if err != nil {
			return nil, err
		}
	}
	return &api.PowerResult{Machine: machine, Power: string(p), Effect: effect.String()}, nil
}

// Clear implements api.Backend.
func (o *Operator) Clear(ctx context.Context, by api.Caller, site, machine, reason string) error {
	v, ok := o.Control.View(machine)
	if site != o.Site.ID() || !ok {
		return api.ErrNotFound
	}
	if err := o.May(); err != nil {
		return err
	}
	if err := v.Uncleared(); err != nil {
		return api.Refuse(err.Error())
	}
	return o.Control.Clear(ctx, v, by.User+": "+reason, o.Audit.Draft(by.Audit("clear", "Machine "+site+"/"+machine, reason)))
}

// QuarantineMachine implements api.Backend.
func (o *Operator) QuarantineMachine(ctx context.Context, by api.Caller, site, machine, reason string) error {
	v, ok := o.Control.View(machine)
	if site != o.Site.ID() || !ok {
		return api.ErrNotFound
	}
	if err := cmp.Or(o.May(), v.Untouchable()); err != nil {
		return api.Refuse(err.Error())
	}
	return o.Control.Quarantine(ctx, v, by.User+": "+reason, o.Audit.Draft(by.Audit("quarantine", "Machine "+site+"/"+machine, reason)))
}

// Release implements api.Backend: the binding ends, the machine is powered off and held until it is erased.
func (o *Operator) Release(ctx context.Context, by api.Caller, site, machine string) error {
	v, ok := o.Control.View(machine)
	if site != o.Site.ID() || !ok {
		return api.ErrNotFound
	}
	if err := o.May(); err != nil {
		return err
	}
	if v.Binding == nil || v.Binding.Released {
		return api.Refuse(machine + " belongs to no instance")
	}
	return o.Control.Release(ctx, v, by.User, o.Audit.Draft(by.Audit("release", "Machine "+site+"/"+machine, "instance "+v.Binding.Instance)))
}
