package siteagent

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/bmc/redfish"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// kindPin is the journal's kind of a BMC's TLS key as first seen; the key is the machine.
const kindPin = "bmc-pin"

// dialBMC opens a session with a machine's BMC. Name and password are a secret that is sealed to this agent; the TLS key is
// the declared one, else the first that any agent of the site saw.
func (a *Agent) dialBMC(_ context.Context, machine string, spec *intent.BMCSpec) (bmc.Controller, error) {
	s, err := a.site.Secret(spec.Secret)
	if err != nil {
		return nil, err
	}
	var v map[string]string
	if err := json.Unmarshal(s.Reveal(), &v); err != nil {
		return nil, fmt.Errorf("cannot use secret %s: it holds no values of a bmc secret", spec.Secret)
	}
	cfg := redfish.Config{
		Address: spec.Address, User: v["username"], Password: v["password"], Site: a.id.Site, Logger: a.cfg.Logger,
		OnPin: func(pin string) { a.pinBMC(machine, pin) },
	}
	if spec.Pin != "" {
		d, err := intent.ParseDigest(spec.Pin)
		if err != nil {
			return nil, err
		}
		cfg.Pin = d.Hex()
	} else if pin, ok := claim.Load[string](a.journal, kindPin, machine+"@"+spec.Address); ok {
		cfg.Pin = pin
	}
	return redfish.New(cfg)
}

func (a *Agent) pinBMC(machine, pin string) {
	spec := ""
	if v, ok := a.control.View(machine); ok && v.Spec.BMC != nil {
		spec = v.Spec.BMC.Address
	}
	err := a.journal.Append(context.Background(), claim.Local,
		claim.Draft{Kind: kindPin, Key: machine + "@" + spec, Body: pin},
		reconcile.Event(machine, "", intent.Epoch{}, "bmc.pinned", "TLS key "+pin[:min(len(pin), 12)]+" is believed from now on", nil))
	if err != nil {
		a.cfg.Logger.Warn("BMC key not journaled", "machine", machine, "err", err)
	}
}
