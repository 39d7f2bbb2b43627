package ipmi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// The chassis controls. Source: table 28-4.
const (
	controlDown  = 0
	controlUp    = 1
	controlCycle = 2
	controlReset = 3
	controlSoft  = 5
)

const (
	powerLimit = 60 * time.Second // how long a change may take to show (boot.md section 4)
	pollEvery  = time.Second
	backTries  = 4 // reads after a change: some show it a second later
)

// power reads the chassis status and learns what every chassis can. Source: table 28-3.
func (c *Controller) power(ctx context.Context) (bmc.PowerState, error) {
	b, err := c.read(ctx, cmdChassisStatus)
	if err != nil {
		return bmc.PowerStateUnknown, err
	}
	if len(b) < 3 {
		return bmc.PowerStateUnknown, fmt.Errorf("cannot read chassis status: %d octets", len(b))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caps.PowerActions = []bmc.PowerAction{bmc.PowerOn, bmc.PowerOff, bmc.PowerSoftOff, bmc.PowerReset}
	if b[0]&1 == 1 {
		return bmc.PowerStateOn, nil
	}
	return bmc.PowerStateOff, nil
}

// Power reads the power state.
func (c *Controller) Power(ctx context.Context) (bmc.PowerState, error) {
	p, err := c.power(ctx)
	if err != nil {
		return bmc.PowerStateUnknown, fmt.Errorf("cannot read power state: %w", err)
	}
	return p, nil
}

// SetPower implements bmc.Controller. Soft-off and reset are sent once; on and off, which are states, until an answer comes.
func (c *Controller) SetPower(ctx context.Context, _ intent.Claim, a bmc.PowerAction) (intent.Effect, error) {
	eff, err := c.setPower(ctx, a)
	if err != nil {
		return eff, fmt.Errorf("cannot set power %s: %w", a, err)
	}
	return eff, nil
}

func (c *Controller) setPower(ctx context.Context, a bmc.PowerAction) (intent.Effect, error) {
	goal, known := map[bmc.PowerAction]bmc.PowerState{bmc.PowerOn: bmc.PowerStateOn, bmc.PowerOff: bmc.PowerStateOff, bmc.PowerSoftOff: bmc.PowerStateOff, bmc.PowerReset: bmc.PowerStateOn}[a]
	if !known {
		return intent.EffectNone, bmc.ErrUnsupported
	}
	now, err := c.power(ctx)
	if err != nil {
		return intent.EffectNone, err
	}
	if now == goal && a != bmc.PowerReset {
		return intent.EffectNone, nil
	}
	if a == bmc.PowerReset && now == bmc.PowerStateOff {
		a = bmc.PowerOn // a reset does nothing to a chassis that is off (section 28.3)
	}
	switch a {
	case bmc.PowerSoftOff:
		err = c.write(ctx, once, cmdChassisControl, controlSoft)
		return accepted(err)
	case bmc.PowerReset:
		err = c.write(ctx, once, cmdChassisControl, controlReset)
		if refused(err) {
			err = c.write(ctx, once, cmdChassisControl, controlCycle)
		}
		return accepted(err)
	case bmc.PowerOn:
		err = c.write(ctx, always, cmdChassisControl, controlUp)
	default:
		err = c.write(ctx, always, cmdChassisControl, controlDown)
	}
	if err != nil && (code(err) != 0 || errors.Is(err, bmc.ErrAuth)) {
		return accepted(err)
	}
	// An answer that was lost proves nothing either way: what the device shows does.
	if werr := c.waitPower(ctx, goal); werr != nil {
		return intent.EffectAccepted, errors.Join(werr, err)
	}
	return intent.EffectReadback, nil
}

// refused tells whether a controller says that it cannot do this.
func refused(err error) bool {
	return errors.Is(err, bmc.ErrUnsupported) || code(err) == 0xcc || code(err) == 0xc9
}

// accepted says what a request without a state to wait for has come to.
func accepted(err error) (intent.Effect, error) {
	switch {
	case err == nil || errors.Is(err, bmc.ErrUnknown):
		return intent.EffectAccepted, err
	case refused(err):
		return intent.EffectNone, errors.Join(bmc.ErrUnsupported, err)
	}
	return intent.EffectNone, err
}

// waitPower polls until the device shows goal. Errors: ErrNoEffect, ErrUnknown at the context's end.
func (c *Controller) waitPower(ctx context.Context, goal bmc.PowerState) error {
	for end := time.Now().Add(powerLimit); ; {
		p, err := c.power(ctx)
		switch {
		case err != nil:
			return errors.Join(bmc.ErrUnknown, err)
		case p == goal:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("%w: power is %s after %v", bmc.ErrNoEffect, p, powerLimit)
		}
		if err := rest(ctx, c.pace.poll); err != nil {
			return errors.Join(bmc.ErrUnknown, err)
		}
	}
}

// The boot options. Source: table 28-14.
const (
	bootProgress = 0
	bootValidity = 3
	bootInfo     = 4
	bootFlags    = 5

	flagValid      = 0x80
	flagPersistent = 0x40
	flagUEFI       = 0x20

	deviceMask = 0x3c
	deviceNone = 0x00
	devicePXE  = 0x04
	deviceDisk = 0x08
)

// override reads the boot flags.
func (c *Controller) override(ctx context.Context) (bmc.BootSpec, error) {
	b, err := c.read(ctx, cmdGetBoot, bootFlags, 0, 0)
	if err != nil {
		return bmc.BootSpec{}, err
	}
	spec, ok := parseBoot(b)
	if !ok {
		return bmc.BootSpec{}, fmt.Errorf("cannot read boot flags: %x", b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caps.Devices, c.caps.Modes = []bmc.BootDevice{bmc.BootNone, bmc.BootNetwork, bmc.BootDisk}, []bmc.BootMode{bmc.ModeUEFI, bmc.ModeBIOS}
	return spec, nil
}

// parseBoot reads the answer for parameter 5. Flags that are not valid are none, and so is a device that is neither network nor disk: it
// is no override of ours.
func parseBoot(b []byte) (s bmc.BootSpec, ok bool) {
	if len(b) < 4 || b[1]&0x7f != bootFlags {
		return s, false
	}
	s = bmc.BootSpec{Device: bmc.BootNone, Mode: bmc.ModeBIOS}
	if b[2]&flagUEFI != 0 {
		s.Mode = bmc.ModeUEFI
	}
	if b[1]&0x80 != 0 || b[2]&flagValid == 0 {
		return s, true
	}
	switch b[3] & deviceMask {
	case deviceNone:
		return s, true
	case devicePXE:
		s.Device = bmc.BootNetwork
	case deviceDisk:
		s.Device = bmc.BootDisk
	default:
		s.Device = "other"
	}
	s.Once = b[2]&flagPersistent == 0
	return s, true
}

// satisfies tells whether the device shows what want asks for. Without an override there is no mode either.
func satisfies(have, want bmc.BootSpec) bool {
	if want.Device == bmc.BootNone {
		return have.Device == bmc.BootNone
	}
	return have.Device == want.Device && have.Once == want.Once && (want.Mode == "" || want.Mode == have.Mode)
}

// Boot reads the override.
func (c *Controller) Boot(ctx context.Context) (bmc.BootState, error) {
	s, err := c.override(ctx)
	if err != nil {
		return bmc.BootState{}, fmt.Errorf("cannot read boot override: %w", err)
	}
	return bmc.BootState{BootSpec: s}, nil
}

// SetBoot implements bmc.Controller.
func (c *Controller) SetBoot(ctx context.Context, _ intent.Claim, want bmc.BootSpec) (intent.Effect, error) {
	eff, err := c.setBoot(ctx, want)
	if err != nil {
		return eff, fmt.Errorf("cannot set boot to %s: %w", want.Device, err)
	}
	return eff, nil
}

func (c *Controller) setBoot(ctx context.Context, want bmc.BootSpec) (intent.Effect, error) {
	device, known := map[bmc.BootDevice]byte{bmc.BootNone: deviceNone, bmc.BootNetwork: devicePXE, bmc.BootDisk: deviceDisk}[want.Device]
	if !known {
		return intent.EffectNone, bmc.ErrUnsupported
	}
	have, err := c.override(ctx)
	if err != nil {
		return intent.EffectNone, err
	}
	if satisfies(have, want) {
		return intent.EffectNone, nil
	}
	flags := byte(flagValid)
	if want.Device == bmc.BootNone {
		flags = 0
	} else if !want.Once {
		flags |= flagPersistent
	}
	if want.Mode == bmc.ModeUEFI || want.Mode == "" && have.Mode == bmc.ModeUEFI {
		flags |= flagUEFI
	}
	// Each of these is the same when it is done twice. The first three are courtesy that some controllers want and others lack: who writes;
	// that the flags are for the BIOS; and that they are not dropped when the machine takes more than 60 s to start (section 28.13).
	for _, p := range [][]byte{{bootProgress, 1}, {bootInfo, 1, 1}, {bootValidity, 0x08}} {
		if err := c.write(ctx, always, cmdSetBoot, p...); err != nil && (code(err) == 0 || errors.Is(err, bmc.ErrAuth)) {
			return intent.EffectNone, err
		}
	}
	err = c.write(ctx, always, cmdSetBoot, bootFlags, flags, device, 0, 0, 0)
	if perr := c.write(ctx, always, cmdSetBoot, bootProgress, 0); perr != nil && code(perr) == 0 && err == nil {
		err = perr
	}
	if code(err) != 0 {
		_, err := accepted(err)
		if code(err) == 0x80 {
			err = errors.Join(bmc.ErrUnsupported, err)
		}
		return intent.EffectNone, err
	}
	return c.readBack(ctx, want, err)
}

// readBack proves the change; lost is the error of a write whose answer did not come.
func (c *Controller) readBack(ctx context.Context, want bmc.BootSpec, lost error) (intent.Effect, error) {
	var have bmc.BootSpec
	for range backTries {
		var err error
		if have, err = c.override(ctx); err != nil {
			return intent.EffectAccepted, errors.Join(bmc.ErrUnknown, err, lost)
		}
		if satisfies(have, want) {
			return intent.EffectReadback, nil
		}
		if err := rest(ctx, c.pace.poll); err != nil {
			return intent.EffectAccepted, errors.Join(bmc.ErrUnknown, err, lost)
		}
	}
	quirk := "enable-reverts"
	if have.Device == want.Device && have.Once == want.Once {
		quirk = "mode-reverts"
	}
	return intent.EffectAccepted, &bmc.QuirkError{Quirk: quirk, Err: errors.Join(fmt.Errorf("%w: it shows %s once=%v mode=%s", bmc.ErrNoEffect, have.Device, have.Once, have.Mode), lost)}
}
