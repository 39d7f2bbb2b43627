package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/test/sim/netlab"
)

// restartPause keeps a guest that resets at once from spinning a core; real machines take longer to come back.
const restartPause = 200 * time.Millisecond

// ErrStopped says that Run is not running, or no more.
var ErrStopped = errors.New("machine simulator is not running")

// Machine is one simulated box. New makes it, Run gives it life.
type Machine struct {
	cfg  Config
	reqs chan request
	done chan struct{} // closed at the end of Run

	mu sync.Mutex // guards what follows
	on bool
}

type request struct {
	what  string
	reply chan error
}

// session is one QEMU process.
type session struct {
	proc   *netlab.Proc
	qmp    *qmpConn
	dir    string
	log    *os.File
	reason chan string // one value, after the guest shut down or the connection ended
}

// New checks cfg and makes the files that persist. The machine is off.
func New(cfg Config) (*Machine, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if err := cfg.prepare(); err != nil {
		return nil, err
	}
	return &Machine{cfg: cfg, reqs: make(chan request), done: make(chan struct{})}, nil
}

// Run keeps the machine until ctx ends; then QEMU is killed and reaped. It may be called once. It returns nil.
func (m *Machine) Run(ctx context.Context) error {
	defer close(m.done)
	var s *session
	defer func() { s.kill() }()
	for {
		var ended <-chan struct{}
		if s != nil {
			ended = s.proc.Done()
		}
		select {
		case <-ctx.Done():
			return nil
		case r := <-m.reqs:
			var err error
			s, err = m.handle(ctx, s, r.what)
			r.reply <- err
		case <-ended:
			s = m.afterEnd(ctx, s)
		}
		m.mu.Lock()
		m.on = s != nil
		m.mu.Unlock()
	}
}

// On starts the machine; when it is on already, nothing happens.
func (m *Machine) On(ctx context.Context) error { return m.ask(ctx, "on") }

// Off cuts the power. The guest is not asked.
func (m *Machine) Off(ctx context.Context) error { return m.ask(ctx, "off") }

// Reset cuts the power and starts again; an off machine stays off and an error tells so.
func (m *Machine) Reset(ctx context.Context) error { return m.ask(ctx, "reset") }

// Shutdown presses the ACPI power button; whether the guest listens is its own affair.
func (m *Machine) Shutdown(ctx context.Context) error { return m.ask(ctx, "shutdown") }

// PowerOn tells whether a QEMU runs.
func (m *Machine) PowerOn() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.on
}

// SerialLog is the path of the serial console's output over all starts.
func (m *Machine) SerialLog() string { return filepath.Join(m.cfg.Dir, "serial.log") }

// serialPoll is the pause between two looks at serial.log: QEMU writes it without telling anybody.
const serialPoll = 100 * time.Millisecond

// WaitSerial waits until the serial log, from the byte offset on, holds text, and returns the offset after it.
func (m *Machine) WaitSerial(ctx context.Context, text string, offset int) (int, error) {
	tick := time.NewTicker(serialPoll)
	defer tick.Stop()
	for {
		b, err := os.ReadFile(m.SerialLog())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, fmt.Errorf("cannot read serial log of %s: %w", m.cfg.Name, err)
		}
		if offset <= len(b) {
			if i := bytes.Index(b[offset:], []byte(text)); i >= 0 {
				return offset + i + len(text), nil
			}
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("cannot find %q on the serial line of %s: %w; it ends in:\n%s", text, m.cfg.Name, ctx.Err(), tail(b, 2000))
		case <-tick.C:
		}
	}
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func (m *Machine) ask(ctx context.Context, what string) error {
	r := request{what: what, reply: make(chan error, 1)}
	select {
	case m.reqs <- r:
	case <-m.done:
		return ErrStopped
	case <-ctx.Done():
		return fmt.Errorf("cannot switch %s of machine %s: %w", what, m.cfg.Name, ctx.Err())
	}
	select {
	case err := <-r.reply:
		return err
	case <-m.done:
		return ErrStopped
	}
}

func (m *Machine) handle(ctx context.Context, s *session, what string) (*session, error) {
	switch {
	case what == "on" && s == nil:
		return m.start(ctx)
	case what == "off" && s != nil:
		s.kill()
		m.event(Event{Kind: "killed", Detail: "power off"})
		return nil, nil
	case what == "reset" && s == nil:
		return nil, fmt.Errorf("cannot reset machine %s: it is off", m.cfg.Name)
	case what == "reset":
		s.kill()
		m.event(Event{Kind: "killed", Detail: "reset"})
		return m.start(ctx)
	case what == "shutdown" && s != nil:
		return s, s.qmp.send("system_powerdown")
	}
	return s, nil
}

// afterEnd decides what the end of QEMU meant.
func (m *Machine) afterEnd(ctx context.Context, s *session) *session {
	reason := <-s.reason
	s.kill()
	switch reason {
	case "guest-reset":
		m.event(Event{Kind: "rebooted"})
		t := time.NewTimer(restartPause)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		next, err := m.start(ctx)
		if err != nil {
			m.event(Event{Kind: "failed", Detail: err.Error()})
		}
		return next
	case "guest-shutdown":
		m.event(Event{Kind: "off"})
	default:
		b, _ := os.ReadFile(filepath.Join(m.cfg.Dir, "qemu.log")) // best effort: it says why
		m.event(Event{Kind: "failed", Detail: fmt.Sprintf("qemu ended: %q, %v: %s", reason, s.proc.Wait(context.Background()), tail(b, 500))})
	}
	return nil
}

func (m *Machine) start(ctx context.Context) (*session, error) {
	first := BootDisk
	if m.cfg.Boot != nil {
		first = m.cfg.Boot()
	}
	// The socket lives in a short path of its own: a unix address holds 107 octets.
	dir, err := os.MkdirTemp("", "skvm")
	if err != nil {
		return nil, fmt.Errorf("cannot start machine %s: %w", m.cfg.Name, err)
	}
	s := &session{dir: dir, reason: make(chan string, 1)}
	s.log, err = os.OpenFile(filepath.Join(m.cfg.Dir, "qemu.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		s.kill()
		return nil, fmt.Errorf("cannot start machine %s: %w", m.cfg.Name, err)
	}
	sock := filepath.Join(dir, "q")
	s.proc, err = netlab.StartProc(netlab.Command{
		Name: "qemu " + m.cfg.Name, NS: m.cfg.NS, Path: "qemu-system-x86_64", Args: m.cfg.args(first, sock), Output: s.log,
	})
	if err != nil {
		s.kill()
		return nil, err
	}
	if s.qmp, err = dialQMP(ctx, sock, s.proc.Done()); err != nil {
		s.kill()
		return nil, err
	}
	go func() {
		reason := s.qmp.shutdown()
		s.reason <- reason
		// The guest is paused now (-no-shutdown); this ends QEMU. An error means that it is gone already.
		_ = s.qmp.send("quit")
	}()
	m.event(Event{Kind: "started", Boot: first})
	return s, nil
}

// kill ends QEMU, if it is not gone, and frees what the session holds. A nil session is fine.
func (s *session) kill() {
	if s == nil {
		return
	}
	if s.proc != nil {
		_ = s.proc.Kill() // ESRCH is filtered; nothing else can be done about a process of ours
	}
	if s.qmp != nil {
		s.qmp.c.Close()
	}
	if s.log != nil {
		s.log.Close()
	}
	os.RemoveAll(s.dir)
}

func (m *Machine) event(e Event) {
	if m.cfg.OnEvent != nil {
		e.Time, e.Machine = time.Now(), m.cfg.Name
		m.cfg.OnEvent(e)
	}
}
