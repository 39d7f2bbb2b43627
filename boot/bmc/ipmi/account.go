package ipmi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	firstUser  = 2 // user 1 has no name
	maxUsers   = 63
	shortest   = 16 // octets of the older form of a password, which every controller takes
	thisLAN    = 0x0e
	setLong    = 0x80
	opPassword = 2
)

// eachUser calls fn for the controller's accounts that have a name, until it returns false.
func (c *Controller) eachUser(ctx context.Context, fn func(id byte, name string) bool) error {
	b, err := c.read(ctx, cmdGetUserAccess, thisLAN, firstUser)
	if err != nil {
		return err
	}
	last := maxUsers
	if len(b) > 0 {
		last = min(int(b[0]&0x3f), maxUsers)
	}
	for id := byte(firstUser); int(id) <= last; id++ {
		b, err := c.read(ctx, cmdGetUserName, id)
		if code(err) == 0xcc || code(err) == 0xcb {
			continue // an empty slot
		}
		if err != nil {
			return err
		}
		if !fn(id, string(bytes.TrimRight(b, "\x00"))) {
			return nil
		}
	}
	return nil
}

// findUser returns the id of the account that this Controller logs in with.
func (c *Controller) findUser(ctx context.Context) (own byte, err error) {
	err = c.eachUser(ctx, func(id byte, name string) bool {
		if name == c.cfg.User {
			own = id
		}
		return own == 0
	})
	if err == nil && own == 0 {
		err = fmt.Errorf("cannot find account %s at %s: %w", c.cfg.User, c.cfg.Address, bmc.ErrUnsupported)
	}
	return own, err
}

// Accounts implements bmc.Firmware.
func (c *Controller) Accounts(ctx context.Context) (out []bmc.Account, err error) {
	err = c.eachUser(ctx, func(_ byte, name string) bool {
		if shown := bmc.AccountName(name); shown != "" {
			out = append(out, bmc.Account{Name: shown, Own: name == c.cfg.User})
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list accounts: %w", err)
	}
	return out, nil
}

// Login implements bmc.Firmware.
func (c *Controller) Login(ctx context.Context) error {
	if err := c.Close(ctx); err != nil {
		c.cfg.Logger.Debug("session before a login not ended", "address", c.cfg.Address, "err", err)
	}
	if _, err := c.power(ctx); err != nil {
		return fmt.Errorf("cannot prove login: %w", err)
	}
	return nil
}

// BIOS implements bmc.Firmware: IPMI knows nothing of BIOS settings.
func (c *Controller) BIOS(context.Context) (bmc.BIOS, error) {
	return bmc.BIOS{}, fmt.Errorf("cannot read BIOS settings: %w: IPMI has none", bmc.ErrUnsupported)
}

// ResetController implements bmc.Firmware: IPMI knows a restart only, and vendors' own commands.
func (c *Controller) ResetController(context.Context, intent.Claim) error {
	return fmt.Errorf("cannot reset controller: %w: IPMI has no such command", bmc.ErrUnsupported)
}

// ResetBIOS implements bmc.Firmware, as BIOS.
func (c *Controller) ResetBIOS(context.Context, intent.Claim) (intent.Effect, error) {
	return intent.EffectNone, fmt.Errorf("cannot reset BIOS settings: %w: IPMI has none", bmc.ErrUnsupported)
}

// SetPassword implements bmc.Controller. Success proves nothing: what counts is the login. An IPMI password has at most 20 octets; a
// longer one is bmc.ErrPolicy.
func (c *Controller) SetPassword(ctx context.Context, _ intent.Claim, password string) error {
	if password == "" || len(password) > maxPassword {
		return fmt.Errorf("cannot change password: %w: IPMI takes 1 to %d octets", bmc.ErrPolicy, maxPassword)
	}
	for try := 1; ; try++ {
		err := c.setPassword(ctx, password)
		if !errors.Is(err, errNotSeen) || try == 2 {
			return err
		}
	}
}

// errNotSeen: no answer came to a change, and nothing has changed: it is asked for once more, in the session that proved that.
var errNotSeen = errors.New("no answer to the change")

func (c *Controller) setPassword(ctx context.Context, password string) error {
	id, err := c.findUser(ctx)
	if err != nil {
		return fmt.Errorf("cannot change password: %w", err)
	}
	size := shortest
	if len(password) > shortest {
		id, size = id|setLong, maxPassword
	}
	data := append([]byte{id, opPassword}, password...)
	data = append(data, make([]byte, 2+size-len(data))...)
	err = c.write(ctx, here, cmdSetUserPassword, data...)
	switch k := code(err); {
	case k == 0xd4:
		return fmt.Errorf("cannot change password: %w: this account may not: %w", bmc.ErrPolicy, err)
	case k != 0 && !errors.Is(err, bmc.ErrBusy):
		return fmt.Errorf("cannot change password: %w: %w", bmc.ErrPolicy, err)
	case err != nil && !errors.Is(err, bmc.ErrUnknown): // refused, or never sent
		return fmt.Errorf("cannot change password: %w", err)
	}
	return c.proveLogin(ctx, password, err)
}

// proveLogin logs in with the new password, and with the one before where that is refused. lost is the error of a change whose answer
// did not come.
func (c *Controller) proveLogin(ctx context.Context, password string, lost error) error {
	was := c.credential()
	if err := c.tryLogin(ctx, password); err == nil {
		return nil
	} else if !errors.Is(err, bmc.ErrAuth) {
		return fmt.Errorf("cannot change password: %w", errors.Join(bmc.ErrUnknown, err))
	}
	if err := c.tryLogin(ctx, was); err != nil {
		return fmt.Errorf("cannot change password: %w: neither the new one nor the one before logs in: %w", bmc.ErrUnknown, err)
	}
	if lost != nil {
		return fmt.Errorf("cannot change password: %w: the one before still logs in: %w: %v", bmc.ErrBusy, errNotSeen, lost)
	}
	return &bmc.QuirkError{Quirk: "password-ignored", Err: fmt.Errorf("cannot change password: %w: the one before still logs in", bmc.ErrNoEffect)}
}

// tryLogin ends the session and logs in with a password. From then on this Controller uses it.
func (c *Controller) tryLogin(ctx context.Context, password string) error {
	if err := c.Close(ctx); err != nil {
		c.cfg.Logger.Debug("session before a change of password not ended", "address", c.cfg.Address, "err", err)
	}
	c.mu.Lock()
	c.password, c.authFail = password, time.Time{}
	c.mu.Unlock()
	_, err := c.power(ctx)
	return err
}
