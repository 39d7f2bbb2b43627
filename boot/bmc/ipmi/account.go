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

// findUser returns the id of the account that this Controller logs in with.
func (c *Controller) findUser(ctx context.Context) (byte, error) {
	b, err := c.read(ctx, cmdGetUserAccess, thisLAN, firstUser)
	if err != nil {
		return 0, err
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
			return 0, err
		}
		if string(bytes.TrimRight(b, "\x00")) == c.cfg.User {
			return id, nil
		}
	}
	return 0, fmt.Errorf("cannot find account %s at %s: %w", c.cfg.User, c.cfg.Address, bmc.ErrUnsupported)
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
