package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// bios is a Bios resource. Source: DSP2046, Bios 1.2.
type bios struct {
	Pending *bool `json:"ResetBiosToDefaultsPending"` // null or absent: it does not tell
	Actions struct {
		Reset struct {
			Target string `json:"target"`
			Info   string `json:"@Redfish.ActionInfo"`
		} `json:"#Bios.ResetBios"`
	}
}

// readBIOS reads the resource that the system names. One that is named and absent is bmc.ErrBusy: some hide it while they work.
func (c *Controller) readBIOS(ctx context.Context, s *system) (*bios, error) {
	if s.Bios.ID == "" {
		return nil, fmt.Errorf("%w: its system names no BIOS settings", bmc.ErrUnsupported)
	}
	var b bios
	_, err := c.get(ctx, s.Bios.ID, &b)
	if status(err) == http.StatusNotFound {
		return nil, fmt.Errorf("%w: BIOS settings are announced at %.200s and not there", bmc.ErrBusy, s.Bios.ID)
	}
	return &b, err
}

// BIOS implements bmc.Firmware.
func (c *Controller) BIOS(ctx context.Context) (bmc.BIOS, error) {
	s, err := c.read(ctx)
	var b *bios
	if err == nil {
		b, err = c.readBIOS(ctx, s)
	}
	if err != nil {
		return bmc.BIOS{}, fmt.Errorf("cannot read BIOS settings: %w", err)
	}
	return bmc.BIOS{Resets: b.Actions.Reset.Target != "", Tells: b.Pending != nil, Pending: b.pending()}, nil
}

func (b *bios) pending() bool { return b.Pending != nil && *b.Pending }

// actionInfo describes an action's parameters. Source: DSP2046, ActionInfo 1.1.
type actionInfo struct {
	Parameters []struct {
		Name            string
		Required        bool
		AllowableValues []string
	}
}

// body returns the parameters to send: the schema of ResetBios has none, AMI's asks for a ResetType that may only be "Reset". Whoever leaves a
// choice is not asked: what the values of others do is nowhere written.
func (i *actionInfo) body() (map[string]string, error) {
	out := map[string]string{}
	for _, p := range i.Parameters {
		switch {
		case !p.Required:
		case len(p.AllowableValues) == 1 && len(out) < maxParameters:
			out[p.Name] = p.AllowableValues[0]
		default:
			return nil, fmt.Errorf("%w: its reset asks for a %.40q, and %d values are allowed", bmc.ErrUnsupported, p.Name, len(p.AllowableValues))
		}
	}
	return out, nil
}

// resetBody reads what the action asks for. An ActionInfo that is named and not there (HPE Cray EX235a) asks for nothing.
func (c *Controller) resetBody(ctx context.Context, b *bios) (map[string]string, error) {
	var info actionInfo
	if b.Actions.Reset.Info != "" {
		if _, err := c.get(ctx, b.Actions.Reset.Info, &info); err != nil && !errors.Is(err, bmc.ErrUnsupported) {
			return nil, err
		}
	}
	return info.body()
}

// maxParameters bounds what is sent of what an ActionInfo lists; the one recorded has one.
const maxParameters = 8

// ResetBIOS implements bmc.Firmware by Bios.ResetBios, where the tree has it.
func (c *Controller) ResetBIOS(ctx context.Context, cl intent.Claim) (intent.Effect, error) {
	eff, err := c.resetBIOS(ctx, cl)
	if err != nil {
		return eff, fmt.Errorf("cannot reset BIOS settings: %w", err)
	}
	return eff, nil
}

func (c *Controller) resetBIOS(ctx context.Context, cl intent.Claim) (intent.Effect, error) {
	s, err := c.read(ctx)
	if err == nil {
		err = c.allowed(s, cl)
	}
	var b *bios
	if err == nil {
		b, err = c.readBIOS(ctx, s)
	}
	switch {
	case err != nil:
		return intent.EffectNone, err
	case b.Actions.Reset.Target == "":
		return intent.EffectNone, fmt.Errorf("%w: its BIOS settings have no reset", bmc.ErrUnsupported)
	case b.pending():
		return intent.EffectNone, nil
	}
	body, err := c.resetBody(ctx, b)
	if err != nil {
		return intent.EffectNone, err
	}
	_, _, err = c.do(ctx, http.MethodPost, b.Actions.Reset.Target, body, nil)
	if err != nil && !errors.Is(err, bmc.ErrUnknown) {
		return intent.EffectNone, err
	}
	return c.pendingBack(ctx, s, err)
}

// pendingBack looks whether a reset that was taken is pending; lost is the error of one whose answer did not come.
func (c *Controller) pendingBack(ctx context.Context, s *system, lost error) (intent.Effect, error) {
	for range backTries {
		b, err := c.readBIOS(ctx, s)
		switch {
		case err == nil && b.pending():
			return intent.EffectReadback, nil
		case err != nil || b.Pending == nil:
			return intent.EffectAccepted, lost // it cannot be read, or does not tell
		}
		if err := sleep(ctx, pollEvery); err != nil {
			return intent.EffectAccepted, errors.Join(bmc.ErrUnknown, err)
		}
	}
	if lost != nil {
		return intent.EffectNone, lost
	}
	return intent.EffectAccepted, &bmc.QuirkError{Quirk: "bios-ignored", Err: fmt.Errorf("%w: it shows no reset as pending", bmc.ErrNoEffect)}
}
