package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// keeping is the only reset of a controller that is asked for: every other one may leave it where nobody reaches it. Source: DSP2046,
// Manager 1.19, ResetToDefaults.
const keeping = "PreserveNetworkAndUsers"

// ResetController implements bmc.Firmware by Manager.ResetToDefaults, where the tree has it and names that it keeps network and accounts.
func (c *Controller) ResetController(ctx context.Context, cl intent.Claim) error {
	s, err := c.read(ctx)
	if err == nil {
		err = c.allowed(s, cl)
	}
	var target string
	if err == nil {
		target, err = c.managerReset(ctx, s)
	}
	if err == nil {
		_, _, err = c.do(ctx, http.MethodPost, target, map[string]string{"ResetType": keeping}, nil)
	}
	if errors.Is(err, bmc.ErrUnknown) && ctx.Err() == nil {
		err = nil // it went away before it answered, or is asked again by whoever is not content
	}
	if err != nil {
		return fmt.Errorf("cannot reset controller: %w", err)
	}
	return nil
}

// managerReset returns where the reset is asked for.
func (c *Controller) managerReset(ctx context.Context, s *system) (string, error) {
	if len(s.Links.ManagedBy) == 0 {
		return "", fmt.Errorf("%w: its system names no manager", bmc.ErrUnsupported)
	}
	var m struct {
		Actions struct {
			Reset struct {
				Target string   `json:"target"`
				Info   string   `json:"@Redfish.ActionInfo"`
				Types  []string `json:"ResetType@Redfish.AllowableValues"`
			} `json:"#Manager.ResetToDefaults"`
		}
	}
	if _, err := c.get(ctx, s.Links.ManagedBy[0].ID, &m); err != nil {
		return "", err
	}
	a := m.Actions.Reset
	if len(a.Types) == 0 && a.Info != "" {
		var info actionInfo
		if _, err := c.get(ctx, a.Info, &info); err != nil && !errors.Is(err, bmc.ErrUnsupported) {
			return "", err
		}
		for _, p := range info.Parameters {
			if p.Name == "ResetType" {
				a.Types = p.AllowableValues
			}
		}
	}
	if a.Target == "" || !slices.Contains(a.Types, keeping) {
		return "", fmt.Errorf("%w: its manager has no reset that keeps network and accounts", bmc.ErrUnsupported)
	}
	return a.Target, nil
}
