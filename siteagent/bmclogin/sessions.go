package bmclogin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Sessions shares one session with each BMC among those who work with it: reconcile, which controls, and whoever reads sensors. A
// controller has few sessions, and a login is the slowest of its requests.
type Sessions struct {
	Logins *Logins

	mu    sync.Mutex // guards what follows
	open  map[string]*session
	ended bool // Run has: a session ends with its last user
}

// session is one BMC's, open or being opened.
type session struct {
	key   string        // what it was opened with: another address or version of the secret is another session
	ready chan struct{} // closed when ctl or err is set
	ctl   bmc.Controller
	err   error
	users int
	since time.Time // of the last user's end
}

// idleLimit is how long a session without users stays open: longer than from one reading of sensors to the next.
const (
	idleLimit = 90 * time.Second
	idleLook  = 15 * time.Second
	closeTime = 10 * time.Second
)

// Dial returns a machine's session for control; its Close gives it back. It implements reconcile.Config's Dial.
func (s *Sessions) Dial(ctx context.Context, machine string, spec *intent.BMCSpec) (bmc.Controller, error) {
	o, err := s.use(ctx, machine, spec)
	if err != nil {
		return nil, err
	}
	return &lent{Controller: o.ctl, back: sync.OnceFunc(func() { s.done(o) })}, nil
}

// Get reads a resource of a machine's BMC behind everything else. Errors: bmc.ErrUnsupported where it has no such resource, or its
// driver reads none.
func (s *Sessions) Get(ctx context.Context, machine string, spec *intent.BMCSpec, path string) (b []byte, err error) {
	err = s.look(ctx, machine, spec, "read sensors", func(ctl bmc.Controller) error {
		r, ok := ctl.(bmc.Reader)
		if !ok {
			return bmc.ErrUnsupported
		}
		b, err = r.Get(ctx, path)
		return err
	})
	return b, err
}

// Sensors reads the sensors that a machine's BMC describes itself, behind everything else. Errors: bmc.ErrUnsupported where its driver
// reads resources.
func (s *Sessions) Sensors(ctx context.Context, machine string, spec *intent.BMCSpec) (out []bmc.Sensor, err error) {
	err = s.look(ctx, machine, spec, "read sensors", func(ctl bmc.Controller) error {
		r, ok := ctl.(bmc.SensorReader)
		if !ok {
			return bmc.ErrUnsupported
		}
		out, err = r.Sensors(ctx)
		return err
	})
	return out, err
}

// Console opens a machine's serial line, which outlives the session that it is asked in. Errors: bmc.ErrUnsupported where its driver has none.
func (s *Sessions) Console(ctx context.Context, machine string, spec *intent.BMCSpec) (l bmc.Line, err error) {
	err = s.look(ctx, machine, spec, "open console", func(ctl bmc.Controller) error {
		c, ok := ctl.(bmc.Consoler)
		if !ok {
			return bmc.ErrUnsupported
		}
		l, err = c.Console(ctx)
		return err
	})
	return l, err
}

func (s *Sessions) look(ctx context.Context, machine string, spec *intent.BMCSpec, what string, read func(bmc.Controller) error) error {
	o, err := s.use(ctx, machine, spec)
	if err != nil {
		return err
	}
	defer s.done(o)
	err = read(o.ctl)
	if errors.Is(err, bmc.ErrAuth) || errors.Is(err, bmc.ErrPin) {
		s.drop(machine, o) // the next one asks Logins which password works
	}
	if err != nil {
		return fmt.Errorf("cannot %s of %s: %w", what, machine, err)
	}
	return nil
}

// lent is a session that goes back, not down, when it is closed.
type lent struct {
	bmc.Controller
	back func()
}

func (l *lent) Close(context.Context) error { l.back(); return nil }

func (s *Sessions) use(ctx context.Context, machine string, spec *intent.BMCSpec) (*session, error) {
	key := keyOf(machine, spec) + " " + spec.Secret + " " + strconv.FormatUint(s.Logins.Version(spec.Secret), 10) + " " + spec.Pin + " " + spec.Protocol
	s.mu.Lock()
	o := s.open[machine]
	if o == nil || o.key != key {
		if s.open == nil {
			s.open = map[string]*session{}
		}
		if o != nil && o.users == 0 {
			defer s.end(o) // nobody else will
		}
		o = &session{key: key, ready: make(chan struct{}), users: 1}
		s.open[machine] = o
		s.mu.Unlock()
		o.ctl, o.err = s.Logins.Dial(ctx, machine, spec)
		close(o.ready)
	} else {
		o.users++
		s.mu.Unlock()
		select {
		case <-o.ready:
		case <-ctx.Done():
			s.done(o)
			return nil, ctx.Err()
		}
	}
	if o.err != nil {
		s.drop(machine, o)
		s.done(o)
		if ctx.Err() == nil && (errors.Is(o.err, context.Canceled) || errors.Is(o.err, context.DeadlineExceeded)) {
			return s.use(ctx, machine, spec) // who opened it had less time than this user
		}
		return nil, o.err
	}
	return o, nil
}

// done is a user's end. The last one of a session that is not kept any more ends it.
func (s *Sessions) done(o *session) {
	s.mu.Lock()
	o.users--
	o.since = time.Now()
	last := o.users == 0 && (s.ended || !s.kept(o))
	s.mu.Unlock()
	if last {
		s.end(o)
	}
}

func (s *Sessions) kept(o *session) bool {
	for _, k := range s.open {
		if k == o {
			return true
		}
	}
	return false
}

// drop keeps a session from new users.
func (s *Sessions) drop(machine string, o *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[machine] == o {
		delete(s.open, machine)
	}
}

// end closes a session that nobody can reach any more.
func (s *Sessions) end(o *session) {
	if o.ctl == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if err := o.ctl.Close(ctx); err != nil {
		s.Logins.Log.Debug("BMC session not closed", "bmc", o.key, "err", err)
	}
}

// Run ends sessions that nobody uses, and all of them when ctx ends.
func (s *Sessions) Run(ctx context.Context) error {
	t := time.NewTicker(idleLook)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		var idle []*session
		s.mu.Lock()
		s.ended = ctx.Err() != nil
		for m, o := range s.open {
			if o.users == 0 && (ctx.Err() != nil || time.Since(o.since) > idleLimit) {
				delete(s.open, m)
				idle = append(idle, o)
			}
		}
		s.mu.Unlock()
		for _, o := range idle {
			s.end(o)
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}
