package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
)

// Line is a machine's serial line, open; boot/bmc's drivers have them.
type Line interface {
	// Read waits for what the machine says. It is called all the time, which may be what keeps the line alive. bmc.ErrSkipped: some of it is
	// missing, the line goes on; other errors end it.
	Read(p []byte) (int, error)
	// Write returns when the far end has taken p, or the line has ended. One at a time.
	Write(p []byte) (int, error)
	// Break sends a serial break. Not beside Write.
	Break() error
	// Close frees the line at the far end, within seconds, and ends Read and Write.
	Close() error
}

// ErrFull: as many people are at this console as may be.
var ErrFull = errors.New("too many people at this console")

const (
	firstRest  = time.Second // between two dials, doubled up to lastRest, and up to as much again by chance
	lastRest   = time.Minute
	steady     = time.Minute // a line that lasted so long was a good one: the next dial is soon
	eventEvery = time.Minute
	maxPeople  = 16
)

// Config of one Console.
type Config struct {
	Machine string
	History *History
	// Dial opens the line. It frees one that somebody else holds at the far end: who calls it owns the machine.
	Dial func(ctx context.Context) (Line, error)
	// Heard is up to when it is known what the machine said, before the line is had for the first time; zero: not at all. Nil: as History has it.
	Heard func() time.Time
	// Event tells what happened for the site's journal, at most once a minute; nil: nobody.
	Event func(kind, message string, fields map[string]string)
	Log   *slog.Logger
}

// Console is a machine's console. Run serves its line.
type Console struct {
	cfg Config

	writing chan struct{} // who has it writes to the line
	wanted  chan struct{} // somebody sat down who sees no line

	mu     sync.Mutex // guards what follows
	line   Line       // nil: there is none now
	why    string     // there is none
	people map[*person]struct{}
	writer *person
	told   time.Time // of the last event
	quiet  int       // gaps since, of which none was told
}

// New makes a Console and does nothing else.
func New(cfg Config) *Console {
	return &Console{cfg: cfg, writing: make(chan struct{}, 1), wanted: make(chan struct{}, 1), why: "it was not dialled yet", people: map[*person]struct{}{}}
}

// Run dials the line, again whenever it is lost, until ctx ends; then it frees it.
func (c *Console) Run(ctx context.Context) error {
	rest, lost := firstRest, time.Time{}
	for ctx.Err() == nil {
		line, err := c.cfg.Dial(ctx)
		if err == nil {
			since := time.Now()
			switch {
			case !lost.IsZero():
				c.gap(lost, since)
			case c.heard().IsZero():
				c.Mark("what was said before is not known here")
				if c.cfg.Event != nil {
					c.cfg.Event("console.gap", "the console is held from now on: what was said before is not known here", map[string]string{"to": since.UTC().Format(time.RFC3339Nano)})
				}
			default: // as far as is known: a process that was killed did not say when
				c.gap(c.heard(), since)
			}
			err = c.serve(ctx, line)
			lost = time.Now()
			if lost.Sub(since) > steady {
				rest = firstRest
			}
			if ctx.Err() == nil {
				c.Mark("the line is lost: " + err.Error() + "; it is dialled again")
			} else {
				c.Mark("the line is let go")
			}
		}
		c.down(err)
		c.pause(ctx, firstRest, nil)
		c.pause(ctx, rest-firstRest+rand.N(rest), c.wanted)
		rest = min(2*rest, lastRest)
	}
	return nil
}

// pause ends after d, with ctx, or when it is woken.
func (c *Console) pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-wake:
	}
}

func (c *Console) heard() time.Time {
	if c.cfg.Heard == nil {
		return c.cfg.History.Last()
	}
	return c.cfg.Heard()
}

// down notes why there is no line.
func (c *Console) down(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if why := fmt.Sprint(err); why != c.why {
		c.why = why
		c.cfg.Log.Debug("console has no line", "machine", c.cfg.Machine, "err", err)
	}
}

// serve reads a line to its end.
func (c *Console) serve(ctx context.Context, line Line) error {
	c.mu.Lock()
	c.line = line
	c.mu.Unlock()
	closed := make(chan error, 1)
	closing := sync.OnceFunc(func() { closed <- line.Close() })
	stop := context.AfterFunc(ctx, closing)
	err := c.pump(line)
	c.mu.Lock()
	c.line = nil
	c.mu.Unlock()
	stop()
	closing()
	if cerr := <-closed; cerr != nil {
		c.cfg.Log.Debug("console's line not freed", "machine", c.cfg.Machine, "err", cerr)
	}
	return err
}

func (c *Console) pump(line Line) error {
	buf := make([]byte, maxData)
	for {
		n, err := line.Read(buf)
		if n > 0 {
			c.cfg.History.Add(time.Now(), Output, buf[:n])
		}
		switch {
		case errors.Is(err, bmc.ErrSkipped):
			c.Mark(err.Error())
		case errors.Is(err, io.EOF):
			return errors.New("its far end closed it")
		case err != nil:
			return err
		}
	}
}

// Mark shows a line of ours to all readers, and keeps it in the history.
func (c *Console) Mark(what string) {
	c.cfg.History.Add(time.Now(), Mark, []byte("\r\n-- "+clip(text(what), 400)+" --\r\n"))
}

func clip(s string, n int) string { return s[:min(n, len(s))] }

// gap marks that nobody listened for a while.
func (c *Console) gap(from, to time.Time) {
	if from.After(to) { // by the clock of another agent, or ours before it was set back
		from = to
	}
	d := to.Sub(from).Round(time.Millisecond)
	c.mu.Lock()
	why := c.why
	quiet := c.quiet
	tell := c.cfg.Event != nil && (c.told.IsZero() || to.Sub(c.told) >= eventEvery)
	if tell {
		c.told, c.quiet = to, 0
	} else {
		c.quiet++
	}
	c.mu.Unlock()
	c.Mark(fmt.Sprintf("gap of %v: what came from %s on is lost", d, from.UTC().Format("15:04:05")))
	if tell {
		c.cfg.Event("console.gap", fmt.Sprintf("nobody listened to the console for %v: %s", d, clip(text(why), 200)),
			map[string]string{"from": from.UTC().Format(time.RFC3339Nano), "to": to.UTC().Format(time.RFC3339Nano), "untold": fmt.Sprint(quiet)})
	}
}

// Status says in a few words how the line is.
func (c *Console) Status() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line == nil {
		return "no line: " + text(c.why)
	}
	return "connected"
}
