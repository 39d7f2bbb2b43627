package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Attachment is what one person wants of a console.
type Attachment struct {
	Who     string    // shown to others
	In      io.Reader // what is typed; nil: he reads only
	Out     io.Writer // what is shown; written by one goroutine
	Unblock func()    // ends a Read of In; needed with In
	Lines   int       // of history that are shown first
	Once    bool      // leave after the history
	Take    bool      // the keyboard, though somebody else has it
	// Note is told what he does, before it takes effect: open, write (the first time that he may), take, leave. An error refuses it.
	// nil: nobody is told.
	Note func(what string) error
}

// person is one who is attached.
type person struct {
	Attachment
	since time.Time
	wrote bool
	words chan string // for him alone; what does not fit is dropped: he does not read
	warn  time.Time   // when he was last told that he does not write
}

// errLeft: he asked to leave.
var errLeft = errors.New("left")

// Attach shows the console to one person until he leaves, his connection or ctx ends. It returns nil when he left. Errors: ErrFull, what Note
// returned, of reading and writing.
func (c *Console) Attach(ctx context.Context, a Attachment) error {
	if a.Note == nil {
		a.Note = func(string) error { return nil }
	}
	p := &person{Attachment: a, since: time.Now(), words: make(chan string, 8)}
	if err := c.enter(p); err != nil {
		return err
	}
	defer c.leave(p)
	if err := a.Note("open"); err != nil {
		return err
	}
	shown, next := c.cfg.History.tail(a.Lines)
	if _, err := a.Out.Write(shown); err != nil || a.Once {
		return errors.Join(err, a.Note("leave"))
	}
	err := c.stay(ctx, p, next)
	if nerr := a.Note("leave"); nerr != nil {
		c.cfg.Log.Warn("who left a console is not on record", "machine", c.cfg.Machine, "err", nerr)
	}
	if errors.Is(err, errLeft) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c *Console) enter(p *person) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.people) >= maxPeople {
		return fmt.Errorf("cannot open console of %s: %w", c.cfg.Machine, ErrFull)
	}
	c.people[p] = struct{}{}
	return nil
}

func (c *Console) leave(p *person) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.people, p)
	if c.writer == p {
		c.writer = nil
	}
}

// stay runs a person's two directions.
func (c *Console) stay(ctx context.Context, p *person, next uint64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	if p.In != nil {
		p.say(help)
		stop := context.AfterFunc(ctx, p.Unblock)
		defer stop()
		wg.Go(func() { cancel(c.typed(ctx, p)) })
	}
	c.mu.Lock()
	if c.line == nil {
		p.say("no line: " + text(c.why))
		select {
		case c.wanted <- struct{}{}:
		default: // another one waits already
		}
	}
	c.mu.Unlock()
	err := c.show(ctx, p, next)
	cancel(err)
	wg.Wait()
	return context.Cause(ctx)
}

// say tells him alone. It never waits.
func (p *person) say(what string) {
	select {
	case p.words <- "\r\n-- " + what + " --\r\n":
	default:
	}
}

// show writes what the machine says, and words for him, until ctx ends.
func (c *Console) show(ctx context.Context, p *person, next uint64) error {
	type piece struct {
		b       []byte
		skipped uint64
	}
	pieces, back := make(chan piece), make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() {
		buf := make([]byte, maxData)
		for {
			n, skipped, err := c.cfg.History.ring.next(ctx, next, buf)
			if err != nil {
				return
			}
			select {
			case pieces <- piece{buf[:n], skipped}:
			case <-ctx.Done():
				return
			}
			select {
			case <-back: // buf is written
			case <-ctx.Done():
				return
			}
			next += skipped + uint64(n)
		}
	})
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case w := <-p.words:
			_, err = io.WriteString(p.Out, w)
		case s := <-pieces:
			if s.skipped > 0 {
				_, err = fmt.Fprintf(p.Out, "\r\n-- %d octets were not shown: they came faster than they were read --\r\n", s.skipped)
			}
			if err == nil {
				_, err = p.Out.Write(s.b)
			}
			select {
			case back <- struct{}{}:
			case <-ctx.Done():
			}
		}
		if err != nil {
			return err
		}
	}
}

// typed takes what he types until he leaves.
func (c *Console) typed(ctx context.Context, p *person) error {
	if err := c.hold(p, p.Take); err != nil {
		return err
	}
	var k keys
	buf := make([]byte, 1024)
	for {
		n, err := p.In.Read(buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if n > 0 {
			if err := k.feed(buf[:n], func(b []byte) error { return c.send(ctx, p, b) }, func(a key) error { return c.act(ctx, p, a) }); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

func (c *Console) act(ctx context.Context, p *person, a key) error {
	switch a {
	case keyLeave:
		return errLeft
	case keyTake:
		return c.hold(p, true)
	case keyRelease:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.writer == p {
			c.writer = nil
			p.say("you do not write any more")
		}
		return nil
	case keyBreak:
		return c.toLine(ctx, p, Line.Break)
	}
	p.say(help)
	return nil
}

// hold gives him the keyboard, if nobody has it or he takes it, and tells who has it.
func (c *Console) hold(p *person, take bool) error {
	c.mu.Lock()
	w := c.writer
	c.mu.Unlock()
	switch {
	case w == p:
		return nil
	case w != nil && !take:
		p.say(fmt.Sprintf("%s writes since %s; you read. Ctrl-] t takes the keyboard over", text(w.Who), w.since.UTC().Format("15:04:05")))
		return nil
	}
	what := "write"
	if w != nil {
		what = "take"
	}
	if !p.wrote || w != nil {
		if err := p.Note(what); err != nil { // on record first
			return err
		}
		p.wrote = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writer != w && c.writer != p { // somebody was faster: to take it from him is not on record
		p.say(text(c.writer.nameOr("nobody")) + " was faster; Ctrl-] t takes the keyboard over")
		return nil
	}
	if c.writer != nil && c.writer != p {
		c.writer.say(text(p.Who) + " has taken the keyboard over; Ctrl-] t takes it back")
	}
	c.writer = p
	p.say("you write")
	return nil
}

func (p *person) nameOr(none string) string {
	if p == nil {
		return none
	}
	return p.Who
}

const warnEvery = 2 * time.Second

// send writes what he typed, if the keyboard is his.
func (c *Console) send(ctx context.Context, p *person, b []byte) error {
	c.mu.Lock()
	free := c.writer == nil
	c.mu.Unlock()
	if free {
		if err := c.hold(p, false); err != nil {
			return err
		}
	}
	return c.toLine(ctx, p, func(l Line) error {
		_, err := l.Write(b)
		return err
	})
}

// toLine does something to the line for the writer. What cannot be done is told to him, and does not end his attachment.
func (c *Console) toLine(ctx context.Context, p *person, do func(Line) error) error {
	select {
	case c.writing <- struct{}{}:
		defer func() { <-c.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	w, line, why := c.writer, c.line, c.why
	c.mu.Unlock()
	var err error
	switch {
	case w != p:
		err = fmt.Errorf("not sent: %s writes; Ctrl-] t takes the keyboard over", text(w.nameOr("nobody")))
	case line == nil:
		err = errors.New("not sent: there is no line: " + text(why))
	default:
		if err = do(line); err == nil {
			return nil
		}
		err = errors.New("not sent: " + text(err.Error()))
	}
	if now := time.Now(); now.Sub(p.warn) >= warnEvery {
		p.warn = now
		p.say(err.Error())
	}
	return nil
}
