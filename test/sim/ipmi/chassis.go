package ipmi

import (
	"context"
	"time"

	"github.com/bougou/go-ipmi/pkg/hal"
	"github.com/bougou/go-ipmi/pkg/types"
)

// BMC is the hardware of go-ipmi's server too.
var (
	_ hal.HAL        = (*BMC)(nil)
	_ hal.ChassisHAL = chassis{}
)

// Chassis implements hal.HAL.
func (b *BMC) Chassis() hal.ChassisHAL { return chassis{b.store.Chassis(), b} }

// Sensors implements hal.HAL.
func (b *BMC) Sensors() hal.SensorHAL { return nil }

// Storage implements hal.HAL.
func (b *BMC) Storage() hal.StorageHAL { return b.store.Storage() }

// Network implements hal.HAL.
func (b *BMC) Network() hal.NetworkHAL { return b.store.Network() }

// GPIO implements hal.HAL.
func (b *BMC) GPIO() hal.GPIOHAL { return nil }

// I2C implements hal.HAL.
func (b *BMC) I2C() hal.I2CHAL { return nil }

// Console implements hal.HAL.
func (b *BMC) Console() hal.ConsoleHAL { return nil }

// Close implements hal.HAL.
func (b *BMC) Close() error { return nil }

type chassis struct {
	hal.ChassisHAL
	b *BMC
}

// PowerState implements hal.ChassisHAL.
func (c chassis) PowerState(context.Context) (bool, error) {
	c.b.mu.Lock()
	stale, was := c.b.faults[PowerStale] && time.Since(c.b.powerAt) < c.b.cfg.StaleTime, c.b.wasOn
	c.b.mu.Unlock()
	if stale {
		return was, nil
	}
	return c.b.power.PowerOn(), nil
}

func (c chassis) change(ctx context.Context, do func(context.Context) error) error {
	on := c.b.power.PowerOn()
	c.b.mu.Lock()
	c.b.wasOn, c.b.powerAt = on, time.Now()
	c.b.mu.Unlock()
	return do(ctx)
}

// SetPower implements hal.ChassisHAL.
func (c chassis) SetPower(ctx context.Context, on bool) error {
	if on {
		return c.change(ctx, c.b.power.On)
	}
	return c.change(ctx, c.b.power.Off)
}

// PowerCycle implements hal.ChassisHAL.
func (c chassis) PowerCycle(ctx context.Context) error { return c.change(ctx, c.b.power.Reset) }

// ColdReset implements hal.ChassisHAL.
func (c chassis) ColdReset(ctx context.Context) error { return c.change(ctx, c.b.power.Reset) }

// WarmReset implements hal.ChassisHAL: go-ipmi calls it for a soft shutdown.
func (c chassis) WarmReset(ctx context.Context) error { return c.change(ctx, c.b.power.Shutdown) }

// SetBootFlags implements hal.ChassisHAL.
func (c chassis) SetBootFlags(_ context.Context, f *types.BootOptionParam_BootFlags) error {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if !c.b.faults[EnableReverts] {
		c.b.flags = *f
	}
	return nil
}

// GetBootFlags implements hal.ChassisHAL.
func (c chassis) GetBootFlags(context.Context) (*types.BootOptionParam_BootFlags, error) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	f := c.b.flags
	return &f, nil
}
