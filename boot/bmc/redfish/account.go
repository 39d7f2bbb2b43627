package redfish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// maxAccounts bounds the walk over a controller's accounts; iDRAC shows 16 slots, most of them empty.
const maxAccounts = 64

// account is a ManagerAccount. Source: DSP2046, ManagerAccount 1.8.
type account struct {
	ID       string `json:"@odata.id"`
	ETag     string `json:"@odata.etag"`
	UserName string
	Locked   bool
}

// eachAccount calls fn for the controller's accounts until it returns false.
func (c *Controller) eachAccount(ctx context.Context, fn func(*account) bool) error {
	var root struct{ AccountService link }
	if _, err := c.get(ctx, "/redfish/v1/", &root); err != nil {
		return err
	}
	var service struct{ Accounts link }
	if _, err := c.get(ctx, cmp.Or(root.AccountService.ID, "/redfish/v1/AccountService"), &service); err != nil {
		return err
	}
	var all collection
	if _, err := c.get(ctx, cmp.Or(service.Accounts.ID, "/redfish/v1/AccountService/Accounts"), &all); err != nil {
		return err
	}
	for i, m := range all.Members {
		if i == maxAccounts {
			break
		}
		a := account{}
		etag, err := c.get(ctx, m.ID, &a)
		if errors.Is(err, bmc.ErrUnsupported) {
			continue // some list slots that are not there
		}
		if err != nil {
			return err
		}
		if a.ID, a.ETag = cmp.Or(a.ID, m.ID), cmp.Or(etag, a.ETag); !fn(&a) {
			return nil
		}
	}
	return nil
}

// findAccount returns the account that this Controller logs in with.
func (c *Controller) findAccount(ctx context.Context) (own *account, err error) {
	err = c.eachAccount(ctx, func(a *account) bool {
		if a.UserName == c.cfg.User {
			own = a
		}
		return own == nil
	})
	if err == nil && own == nil {
		err = fmt.Errorf("cannot find account %s at %s: %w", c.cfg.User, c.cfg.Address, bmc.ErrUnsupported)
	}
	return own, err
}

// Accounts implements bmc.Firmware.
func (c *Controller) Accounts(ctx context.Context) (out []bmc.Account, err error) {
	err = c.eachAccount(ctx, func(a *account) bool {
		if name := bmc.AccountName(a.UserName); name != "" {
			out = append(out, bmc.Account{Name: name, Own: a.UserName == c.cfg.User})
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list accounts: %w", err)
	}
	return out, nil
}

// Login implements bmc.Firmware. What is asked behind it is asked with the new session.
func (c *Controller) Login(ctx context.Context) error {
	done, err := c.alone(ctx)
	if err != nil {
		return fmt.Errorf("cannot prove login: %w", err)
	}
	defer done()
	if err := c.Close(ctx); err != nil {
		c.cfg.Logger.Debug("session before a login not ended", "address", c.cfg.Address, "err", err)
	}
	if _, err := c.read(context.WithValue(ctx, changing{}, true)); err != nil {
		return fmt.Errorf("cannot prove login: %w", err)
	}
	return nil
}

// SetPassword implements bmc.Controller. A 2xx proves nothing: what counts is the login.
func (c *Controller) SetPassword(ctx context.Context, cl intent.Claim, password string) error {
	s, err := c.read(ctx)
	if err == nil {
		err = c.allowed(s, cl)
	}
	var a *account
	if err == nil {
		a, err = c.findAccount(ctx)
	}
	if err != nil {
		return fmt.Errorf("cannot change password: %w", err)
	}
	// Many controllers end all sessions: whoever reads sensors meanwhile would log in with the password of before, and that counts.
	done, err := c.alone(ctx)
	if err != nil {
		return fmt.Errorf("cannot change password: %w", err)
	}
	defer done()
	ctx = context.WithValue(ctx, changing{}, true)
	err = c.patchPassword(ctx, a, password)
	if err != nil && !errors.Is(err, bmc.ErrUnknown) && status(err) != http.StatusUnauthorized { // refused, and it says so
		return fmt.Errorf("cannot change password: %w", err)
	}
	was := c.credential()
	if err := c.tryLogin(ctx, password); err == nil || !errors.Is(err, bmc.ErrAuth) {
		if err != nil {
			return fmt.Errorf("cannot change password: %w", errors.Join(bmc.ErrUnknown, err))
		}
		return nil
	}
	if lerr := c.tryLogin(ctx, was); lerr != nil {
		return fmt.Errorf("cannot change password: %w: neither the new one nor the one before logs in: %w", bmc.ErrUnknown, lerr)
	}
	if err != nil { // its answer was lost, and it was not done
		return fmt.Errorf("cannot change password: %w: the one before still logs in: %v", bmc.ErrBusy, err)
	}
	return &bmc.QuirkError{Quirk: "password-ignored", Err: fmt.Errorf("cannot change password: %w: the one before still logs in", bmc.ErrNoEffect)}
}

// passwordChange is what is written to an account.
type passwordChange struct{ Password string }

// patchPassword writes the password under If-Match, in both forms of an ETag and with a fresh one where the resource moved.
func (c *Controller) patchPassword(ctx context.Context, a *account, password string) (err error) {
	for range patchTries {
		err = c.patchAt(ctx, a.ID, a.ETag, passwordChange{password})
		if !errors.Is(err, errStale) {
			break
		}
		etag, gerr := c.get(ctx, a.ID, a)
		if gerr != nil {
			return gerr
		}
		a.ETag = cmp.Or(etag, a.ETag)
	}
	if st := status(err); st >= 400 && st < 500 && st != http.StatusUnauthorized && !errors.Is(err, bmc.ErrBusy) {
		return fmt.Errorf("%w: %w", bmc.ErrPolicy, err)
	}
	return err
}

func (c *Controller) credential() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.password
}

// tryLogin ends the session and logs in with a password, once. From then on this Controller uses it.
func (c *Controller) tryLogin(ctx context.Context, password string) error {
	if err := c.Close(ctx); err != nil {
		c.cfg.Logger.Debug("session before a change of password not ended", "address", c.cfg.Address, "err", err)
	}
	c.mu.Lock()
	c.password, c.authFail = password, time.Time{}
	c.mu.Unlock()
	_, err := c.session(ctx)
	return err
}
