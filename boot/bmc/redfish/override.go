package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	patchTries = 6 // fresh ETags: somebody else, or the machine's own POST, changes the resource meanwhile
	backTries  = 4 // reads after a change: some show it a second later
)

// patch writes to the system under If-Match with the ETag of s; after 412 it tries the bare form once, and then gives the
// caller errStale to read anew.
func (c *Controller) patch(ctx context.Context, etag string, payload any) error {
	path, err := c.find(ctx)
	if err != nil {
		return err
	}
	return c.patchAt(ctx, path, etag, payload)
}

// patchAt is patch for any resource.
func (c *Controller) patchAt(ctx context.Context, path, etag string, payload any) error {
	c.mu.Lock()
	bare := c.bare
	c.mu.Unlock()
	err := c.patchOnce(ctx, path, etag, bare, payload)
	if status(err) != http.StatusPreconditionFailed || etag == "" {
		return err
	}
	if err2 := c.patchOnce(ctx, path, etag, !bare, payload); status(err2) != http.StatusPreconditionFailed {
		if err2 == nil {
			c.mu.Lock()
			c.bare = !bare
			c.mu.Unlock()
		}
		return err2
	}
	return fmt.Errorf("%w: %w", errStale, err)
}

// errStale: the resource changed under our ETag.
var errStale = errors.New("stale ETag")

func (c *Controller) patchOnce(ctx context.Context, path, etag string, bare bool, payload any) error {
	h := map[string]string{}
	if etag != "" {
		h["If-Match"] = etag
		if bare {
			h["If-Match"] = strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
		}
	}
	_, _, err := c.do(ctx, http.MethodPatch, path, payload, h)
	return err
}

func (s *system) override() bmc.BootSpec {
	b := bmc.BootSpec{Device: bmc.BootNone, Mode: modeOf(s.Boot.Mode)}
	if s.Boot.Enabled != "Once" && s.Boot.Enabled != "Continuous" {
		return b
	}
	b.Once = s.Boot.Enabled == "Once"
	switch s.Boot.Target {
	case "Pxe", "UefiHttp":
		b.Device = bmc.BootNetwork
	case "Hdd":
		b.Device = bmc.BootDisk
	}
	return b
}

// satisfies tells whether the device shows what want asks for.
func satisfies(have, want bmc.BootSpec) bool {
	return have.Device == want.Device && (have.Once == want.Once || want.Device == bmc.BootNone) && (want.Mode == "" || want.Mode == have.Mode)
}

// Boot reads the override.
func (c *Controller) Boot(ctx context.Context) (bmc.BootState, error) {
	s, err := c.read(ctx)
	if err != nil {
		return bmc.BootState{}, fmt.Errorf("cannot read boot override: %w", err)
	}
	return bmc.BootState{BootSpec: s.override()}, nil
}

// SetBoot implements bmc.Controller.
func (c *Controller) SetBoot(ctx context.Context, cl intent.Claim, want bmc.BootSpec) (intent.Effect, error) {
	eff, err := c.setBoot(ctx, cl, want)
	if err != nil {
		return eff, fmt.Errorf("cannot set boot to %s: %w", want.Device, err)
	}
	return eff, nil
}

func (c *Controller) setBoot(ctx context.Context, cl intent.Claim, want bmc.BootSpec) (intent.Effect, error) {
	withMode := want.Mode != ""
	lost := error(nil)
	for try := 1; ; try++ {
		s, err := c.read(ctx)
		switch {
		case err != nil:
			return intent.EffectNone, errors.Join(err, lost)
		case satisfies(s.override(), want) && try == 1:
			return intent.EffectNone, nil
		case satisfies(s.override(), want):
			return intent.EffectReadback, nil // a write whose answer was lost
		}
		if err := c.allowed(s, cl); err != nil {
			return intent.EffectNone, err
		}
		payload, err := s.bootPayload(want, withMode)
		if err != nil {
			return intent.EffectNone, err
		}
		err = c.patch(ctx, s.ETag, payload)
		switch {
		case err == nil:
			return c.readBack(ctx, want)
		case ctx.Err() != nil || try == patchTries:
			return intent.EffectNone, err
		case errors.Is(err, errStale):
		case errors.Is(err, bmc.ErrUnknown):
			lost = err
		case status(err) == http.StatusBadRequest && want.Mode == "" && !withMode && s.Boot.Mode != "":
			withMode = true // quirk mode-resend: the mode belongs into every change
		case status(err) == http.StatusBadRequest && withMode && modeOf(s.Boot.Mode) == want.Mode && want.Mode != "":
			withMode = false // quirk mode-refused: it is as wanted, and must not be said
		default:
			return intent.EffectNone, err
		}
	}
}

func (s *system) bootPayload(want bmc.BootSpec, withMode bool) (map[string]any, error) {
	target := s.target(want.Device)
	if target == "" {
		return nil, bmc.ErrUnsupported
	}
	enabled := "Continuous"
	switch {
	case want.Device == bmc.BootNone:
		enabled = "Disabled"
	case want.Once:
		enabled = "Once"
	}
	b := map[string]string{"BootSourceOverrideEnabled": enabled, "BootSourceOverrideTarget": target}
	if withMode {
		b["BootSourceOverrideMode"] = s.Boot.Mode
		if want.Mode != "" {
			b["BootSourceOverrideMode"] = modeName(want.Mode)
		}
	}
	return map[string]any{"Boot": b}, nil
}

// readBack proves the change: 2xx proves nothing (bmclib#459).
func (c *Controller) readBack(ctx context.Context, want bmc.BootSpec) (intent.Effect, error) {
	var have bmc.BootSpec
	for range backTries {
		s, err := c.read(ctx)
		if err != nil {
			return intent.EffectAccepted, errors.Join(bmc.ErrUnknown, err)
		}
		if have = s.override(); satisfies(have, want) {
			return intent.EffectReadback, nil
		}
		if err := sleep(ctx, pollEvery); err != nil {
			return intent.EffectAccepted, errors.Join(bmc.ErrUnknown, err)
		}
	}
	quirk := "enable-reverts"
	if have.Device == want.Device && have.Once == want.Once {
		quirk = "mode-reverts"
	}
	return intent.EffectAccepted, &bmc.QuirkError{Quirk: quirk, Err: fmt.Errorf("%w: it shows %s once=%v mode=%s", bmc.ErrNoEffect, have.Device, have.Once, have.Mode)}
}
