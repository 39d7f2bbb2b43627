package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api/consoles"
)

func (v *verbs) console() *cobra.Command {
	var only, take bool
	s := consoles.Session{}
	c := &cobra.Command{
		Use: "console NAME", Short: "Sit down at a machine's serial console", Args: v.Args("NAME"),
		Long: "Sit down at a machine's serial console: what it shows, and what you type. Many may read, one types: Ctrl-] t takes the keyboard over,\n" +
			"Ctrl-] r gives it back, Ctrl-] b sends a break, Ctrl-] ? lists the keys, Ctrl-] . leaves. Ask an agent of the site, by its context.\n" +
			"What a machine shows may hold secrets: the role operator is needed; who sat there is in the audit log.",
		Example: "  skerry --context lon1 machine console m1\n  skerry --context lon1 machine console m1 --output-only --history 1000 | less",
		RunE: func(c *cobra.Command, given []string) error {
			if s.Lines < 0 || s.Lines > consoles.MaxLines {
				return &account.UsageError{Err: fmt.Errorf("cannot show %d lines: give --history 0 to %d", s.Lines, consoles.MaxLines)}
			}
			cl, site, err := v.at()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(c.Context())
			defer cancel()
			s.Site, s.Machine, s.Take, s.Once = site, given[0], take, only
			s.Out, _ = v.Output()
			if !only {
				in := c.InOrStdin()
				seat := &seated{Writer: s.Out, in: in, back: func() {}}
				defer func() { seat.back() }()
				s.Out = seat
				s.In = &keyboard{in: in, gone: func() { time.AfterFunc(goodbye, cancel) }}
			}
			err = cl.Console(ctx, s)
			if err != nil && ctx.Err() != nil && c.Context().Err() == nil {
				return nil // he left, and nobody answered to that
			}
			return v.Explain(err)
		},
	}
	f := c.Flags()
	f.IntVar(&s.Lines, "history", 100, "lines that are shown first")
	f.BoolVarP(&only, "output-only", "O", false, "print the history and leave")
	f.BoolVar(&take, "take", false, "take the keyboard from who has it")
	return c
}

// goodbye is how long the server has to answer to who leaves.
const goodbye = 2 * time.Second

// keyboard sees that somebody leaves, by Ctrl-] and a dot, even if the server is not there any more.
type keyboard struct {
	in    io.Reader
	armed bool
	gone  func()
}

// Read implements io.Reader.
func (k *keyboard) Read(p []byte) (int, error) {
	n, err := k.in.Read(p)
	for _, c := range p[:n] {
		if k.armed && c == '.' {
			k.gone()
		}
		k.armed = c == 0x1d && !k.armed
	}
	if errors.Is(err, io.EOF) { // of a pipe: the rest of what the machine says is still wanted for a moment
		k.gone()
	}
	return n, err
}

// seated makes the terminal raw with the first octet of the answer: until then Ctrl-C ends the wait for a server that is not there.
type seated struct {
	io.Writer
	in   io.Reader
	back func()
	here bool
}

// Write implements io.Writer.
func (s *seated) Write(b []byte) (int, error) {
	if !s.here {
		s.here = true
		back, err := raw(s.in)
		if err != nil {
			return 0, err
		}
		s.back = back
	}
	return s.Writer.Write(b)
}

// raw makes a terminal give each key at once, to the machine; the returned function puts it back. What is no terminal stays as it is.
func raw(in io.Reader) (func(), error) {
	f, ok := in.(*os.File)
	if !ok {
		return func() {}, nil
	}
	was, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return func() {}, nil // a pipe, or a file
	}
	is := *was
	is.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	is.Oflag &^= unix.OPOST
	is.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	is.Cflag = is.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	is.Cc[unix.VMIN], is.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &is); err != nil {
		return nil, fmt.Errorf("cannot use terminal: %w", err)
	}
	return func() { _ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, was) }, nil // it was possible a moment ago
}
