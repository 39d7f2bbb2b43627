package ipmi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/bmc/govern"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Config of one controller.
type Config struct {
	Address  string // host or host:port; 623 by default
	User     string // 1 to 16 octets
	Password string // at most 20 octets: IPMI has no longer ones
	Logger   *slog.Logger
	// RatePerSec is how many requests a second the controller gets at most; zero takes 2. Simulators stand more.
	RatePerSec float64
	// Dial opens a connected datagram socket; nil: this machine's network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

const (
	port        = "623"
	maxUser     = 16
	maxPassword = 20
	authRest    = 5 * time.Minute        // at most two wrong logins in ten minutes (boot.md section 4)
	firstWait   = 500 * time.Millisecond // between two tries of a busy controller; doubled up to lastWait
	lastWait    = 5 * time.Second
	maxBusy     = 40 // tries: with the waits above about three minutes
	closeLimit  = 3 * time.Second
	maxLogins   = 3 // of which none was finished: lost packets, or a controller with a key of its own (Kg), which is not supported
)

// Controller is a bmc.Controller. New makes it; it connects when it is first used.
type Controller struct {
	cfg   Config
	turns *govern.Governor
	pace  pace
	turn  chan struct{} // who has it uses the session and what follows

	session *session
	suite   suite
	sdr     repository

	mu       sync.Mutex // guards what follows; no I/O under it
	caps     bmc.Caps
	authFail time.Time
	password string // that it logs in with: SetPassword changes it
}

// pace is how long is waited. Tests hurry.
type pace struct {
	answer time.Duration // for the first one
	busy   time.Duration // until the second try of a busy controller
	poll   time.Duration // between two looks at whether a change shows
	keep   time.Duration // between two looks at whether a silent serial line is there
}

var (
	_ bmc.Controller   = (*Controller)(nil)
	_ bmc.SensorReader = (*Controller)(nil)
	_ bmc.Consoler     = (*Controller)(nil)
)

// New checks the configuration and does no I/O.
func New(cfg Config) (*Controller, error) {
	if cfg.Address == "" || cfg.User == "" || cfg.Logger == nil {
		return nil, fmt.Errorf("cannot use controller: address, user or logger is missing")
	}
	if len(cfg.User) > maxUser || len(cfg.Password) > maxPassword {
		return nil, fmt.Errorf("cannot use controller: %w: IPMI has user names of at most %d octets and passwords of at most %d", bmc.ErrUnsupported, maxUser, maxPassword)
	}
	if _, err := netip.ParseAddrPort(cfg.Address); err != nil {
		if _, _, err := net.SplitHostPort(cfg.Address); err != nil {
			cfg.Address = net.JoinHostPort(cfg.Address, port)
		}
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	return &Controller{cfg: cfg, password: cfg.Password, turns: govern.New(cfg.RatePerSec), pace: pace{firstTry, firstWait, pollEvery, keepEvery}, turn: make(chan struct{}, 1), sdr: repository{turn: make(chan struct{}, 1)}}, nil
}

// Caps returns what is known so far.
func (c *Controller) Caps() bmc.Caps {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.caps
}

// The commands that are used. Source: IPMI 2.0, appendix G.
const (
	cmdChassisStatus   command = 0x0001
	cmdChassisControl  command = 0x0002
	cmdSetBoot         command = 0x0008
	cmdGetBoot         command = 0x0009
	cmdSensorReading   command = 0x042d
	cmdDeviceID        command = 0x0601
	cmdSystemGUID      command = 0x0637
	cmdPrivilege       command = 0x063b
	cmdCloseSession    command = 0x063c
	cmdGetUserAccess   command = 0x0644
	cmdGetUserName     command = 0x0646
	cmdSetUserPassword command = 0x0647
	cmdActivate        command = 0x0648
	cmdDeactivate      command = 0x0649
	cmdInstance        command = 0x064b
	cmdFRUInfo         command = 0x0a10
	cmdReadFRU         command = 0x0a11
	cmdSDRInfo         command = 0x0a20
	cmdReserveSDR      command = 0x0a22
	cmdGetSDR          command = 0x0a23
)

// codeError is a completion code that is not success. Source: table 5-2.
type codeError struct {
	command command
	code    byte
}

// Error says it in the words of the specification.
func (e *codeError) Error() string {
	text := map[byte]string{
		0xc0: "node busy", 0xc1: "invalid command", 0xc3: "timeout", 0xc4: "out of space", 0xc5: "reservation cancelled", 0xc7: "data length invalid",
		0xc9: "parameter out of range", 0xca: "cannot return that many octets", 0xcb: "not present", 0xcc: "invalid data field",
		0xcd: "illegal for this sensor", 0xce: "cannot respond", 0xd0: "SDR repository in update", 0xd1: "device in firmware update",
		0xd2: "initialisation in progress", 0xd4: "insufficient privilege", 0xd5: "not in present state", 0xff: "unspecified",
	}[e.code]
	if text == "" {
		text = "refused"
	}
	return fmt.Sprintf("command %02x/%02x: %02x: %s", e.command.netFn(), byte(e.command), e.code, text)
}

// Unwrap returns the sentinel of package bmc that the code amounts to; nil where it is none.
func (e *codeError) Unwrap() error {
	switch e.code {
	case 0xc0, 0xc3, 0xc4, 0xce, 0xd0, 0xd1, 0xd2:
		return bmc.ErrBusy
	case 0xc1, 0xc2, 0xcb, 0xcd, 0xd5, 0xd6:
		return bmc.ErrUnsupported
	case 0xd4:
		return bmc.ErrAuth
	}
	return nil
}

// code returns the completion code of an error, 0 where there is none.
func code(err error) byte {
	var e *codeError
	if errors.As(err, &e) {
		return e.code
	}
	return 0
}

// take waits for the session; give gives it back.
func (c *Controller) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Controller) give() { <-c.turn }

// read asks what may be asked again, in any session. Errors: bmc.ErrAuth, ErrBusy, ErrUnsupported, *codeError.
func (c *Controller) read(ctx context.Context, cmd command, data ...byte) ([]byte, error) {
	return c.do(ctx, always, cmd, data)
}

// write asks what changes the device. Errors: as read, and bmc.ErrUnknown when no answer came.
func (c *Controller) write(ctx context.Context, o often, cmd command, data ...byte) error {
	_, err := c.do(ctx, o, cmd, data)
	return err
}

func (c *Controller) do(ctx context.Context, o often, cmd command, data []byte) (out []byte, err error) {
	lost := false
	err = retry(ctx, c.pace.busy, func() error {
		done, err := c.turns.Take(ctx)
		if err != nil {
			return err
		}
		defer done()
		if err := c.take(ctx); err != nil {
			return err
		}
		defer c.give()
		s, err := c.login(ctx)
		if err != nil {
			return err
		}
		out, err = s.send(ctx, cmd, data, o)
		switch {
		case err == nil || code(err) != 0:
			return err
		case ctx.Err() != nil && o == always:
			return ctx.Err()
		}
		c.drop()
		if o != always {
			return errors.Join(bmc.ErrUnknown, err)
		}
		if !lost { // it may have forgotten the session: controllers say nothing to a stranger
			lost = true
			return errors.Join(errAgain, err)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", c.cfg.Address, err)
	}
	return out, nil
}

// errAgain asks for another try at once.
var errAgain = errors.New("session lost")

// retry calls fn until it returns something else than busy, the context ends, or maxBusy.
func retry(ctx context.Context, wait time.Duration, fn func() error) error {
	for try := 1; ; try++ {
		err := fn()
		switch {
		case errors.Is(err, errAgain):
			continue
		case !errors.Is(err, bmc.ErrBusy) || try == maxBusy:
			return err
		}
		if rerr := rest(ctx, wait); rerr != nil {
			return errors.Join(err, rerr)
		}
		wait = min(2*wait, lastWait)
	}
}

// login returns the session, opened if there is none. The caller has the turn.
func (c *Controller) login(ctx context.Context) (*session, error) {
	if c.session == nil {
		if err := c.connect(ctx); err != nil {
			return nil, fmt.Errorf("cannot log in: %w", err)
		}
	}
	if s := c.session; !s.admin {
		_, err := s.send(ctx, cmdPrivilege, []byte{roleAdmin & 0x0f}, here)
		switch {
		case code(err) == 0x80 || code(err) == 0x81:
			err = c.wrong(c.credential(), fmt.Errorf("%w: this account may not be administrator: %w", bmc.ErrAuth, err))
			return nil, errors.Join(err, c.end(context.WithoutCancel(ctx)))
		case errors.Is(err, errLost):
			c.drop()
			return nil, err
		case err != nil:
			return nil, err // the session stays: a busy controller has room for few
		}
		s.admin = true
	}
	return c.session, nil
}

// connect opens the session. The caller has the turn.
func (c *Controller) connect(ctx context.Context) error {
	s, with, err := c.dial(ctx)
	if err == nil {
		c.session, c.suite = s, with
	}
	return err
}

// dial opens a session.
func (c *Controller) dial(ctx context.Context) (*session, suite, error) {
	c.mu.Lock()
	a, failed := account{c.cfg.User, c.password, c.pace.answer}, c.authFail
	c.mu.Unlock()
	if !failed.IsZero() && time.Since(failed) < authRest {
		return nil, suite{}, fmt.Errorf("%w: tried %v ago", bmc.ErrAuth, time.Since(failed).Round(time.Second))
	}
	for try := 1; ; try++ {
		conn, err := c.cfg.Dial(ctx, "udp", c.cfg.Address)
		if err != nil {
			return nil, suite{}, fmt.Errorf("cannot reach controller: %w", err)
		}
		s, with, err := login(ctx, conn, a)
		if err == nil {
			return s, with, nil
		}
		err = errors.Join(err, conn.Close())
		if !errors.Is(err, errMuddled) || try == maxLogins {
			return nil, suite{}, c.wrong(a.password, err)
		}
	}
}

func (c *Controller) credential() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.password
}

// wrong notes when a login was refused; not of a password that was changed meanwhile.
func (c *Controller) wrong(password string, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(err, bmc.ErrAuth) && c.password == password {
		c.authFail = time.Now()
	}
	return err
}

// drop forgets a session that does not answer. The caller has the turn.
func (c *Controller) drop() {
	if c.session == nil {
		return
	}
	// It may only be deaf for a while: what it holds is ended, if it hears that.
	s := c.session
	c.session = nil
	if err := errors.Join(s.farewell(), s.conn.Close()); err != nil {
		c.cfg.Logger.Debug("session not ended", "address", c.cfg.Address, "err", err)
	}
}

// farewell ends the session and waits for no answer.
func (s *session) farewell() error {
	if err := s.conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err := s.conn.Write(s.keys.seal(request(cmdCloseSession, 0, binary.LittleEndian.AppendUint32(nil, s.keys.theirs))))
	return err
}

// end ends the session on the device. The caller has the turn.
func (c *Controller) end(ctx context.Context) error {
	s := c.session
	if s == nil {
		return nil
	}
	c.session = nil
	ctx, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	err := retry(ctx, c.pace.busy, func() error {
		_, err := s.send(ctx, cmdCloseSession, binary.LittleEndian.AppendUint32(nil, s.keys.theirs), here)
		return err
	})
	if code(err) != 0 && !errors.Is(err, bmc.ErrBusy) || errors.Is(err, errLost) {
		err = nil // it is gone already, or will be when the device is back: it keeps none that is silent
	}
	return errors.Join(err, s.conn.Close())
}

// Close ends the session on the controller. It is safe to use the Controller again: it logs in anew.
func (c *Controller) Close(ctx context.Context) error {
	if err := c.take(ctx); err != nil {
		return err
	}
	defer c.give()
	if err := c.end(ctx); err != nil {
		return fmt.Errorf("cannot end session at %s: %w", c.cfg.Address, err)
	}
	return nil
}

// Suite returns the id of the cipher suite of the last login, 0 before the first.
func (c *Controller) Suite(ctx context.Context) (byte, error) {
	if err := c.take(ctx); err != nil {
		return 0, err
	}
	defer c.give()
	return c.suite.id, nil
}

// ReadFence returns no epoch and no strength: IPMI has nothing that refuses a stale write.
func (c *Controller) ReadFence(ctx context.Context) (intent.Epoch, intent.Strength, error) {
	return intent.Epoch{}, intent.StrengthNone, ctx.Err()
}

// RaiseFence does nothing: ReadFence says that there is no fence.
func (c *Controller) RaiseFence(ctx context.Context, _ intent.Epoch) error { return ctx.Err() }
