package consoles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Path is where a console is; GET reads, POST also types.
const Path = "/v1/sites/{site}/machines/{machine}/console"

const (
	read, attach = "console", "attach-console"
	// MaxLines bounds the history that is asked for: 1 MiB has fewer lines than that.
	MaxLines = 1 << 20
	// takeTime is how long a client may leave a piece of output unread.
	takeTime = time.Minute
)

// Routes are the operation ids by method.
func Routes() map[string]string {
	return map[string]string{http.MethodGet: read, http.MethodPost: attach}
}

// Summary says what an operation does.
func Summary(id string) string {
	if id == read {
		return "What a machine's console showed, and shows"
	}
	return "Sit down at a machine's console: the bodies of request and answer are what is typed and shown"
}

// Query lists an operation's parameters: lines of history, and whether to go on after them; whether to take the keyboard from who has it.
func Query(id string) []string {
	if id == read {
		return []string{"history", "follow"}
	}
	return []string{"history", "take"}
}

// Session is one person at a console.
type Session struct {
	Site, Machine string
	User, Via     string // who, and by which credential
	Lines         int    // of history that are shown first
	Once          bool   // leave after the history
	Take          bool   // the keyboard, though somebody else has it
	In            io.Reader
	Unblock       func() // ends a Read of In
	Out           io.Writer
}

// Holder is a backend that has consoles.
type Holder interface {
	// Console shows the console until the person leaves, his connection or ctx ends. Nothing was written to Out when it returns an error
	// of the API.
	Console(ctx context.Context, s Session) error
}

// Values is the query of a session.
func (s Session) Values() url.Values {
	v := url.Values{"history": {strconv.Itoa(s.Lines)}}
	if s.In == nil {
		v.Set("follow", strconv.FormatBool(!s.Once))
	} else if s.Take {
		v.Set("take", "true")
	}
	return v
}

// parse reads the query.
func (s *Session) parse(r *http.Request) error {
	v := r.URL.Query()
	s.Site, s.Machine = r.PathValue("site"), r.PathValue("machine")
	if h := v.Get("history"); h != "" {
		n, err := strconv.Atoi(h)
		if err != nil || n < 0 || n > MaxLines {
			return fmt.Errorf("history is no number of lines, 0 to %d", MaxLines)
		}
		s.Lines = n
	}
	s.Once, s.Take = r.Method == http.MethodGet && v.Get("follow") != "true", v.Get("take") == "true"
	return nil
}

// screen writes to the client, each piece at once and within takeTime.
type screen struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	begun bool
}

func (s *screen) begin() {
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "application/octet-stream")
	}
}

// Write implements io.Writer.
func (s *screen) Write(p []byte) (int, error) {
	s.begin()
	if err := s.rc.SetWriteDeadline(time.Now().Add(takeTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := s.w.Write(p)
	if err == nil {
		err = s.rc.Flush()
	}
	return n, err
}

// Serve shows a console to who asks. while returns when he may not see it any more, or its ctx ends.
func Serve(w http.ResponseWriter, r *http.Request, at Holder, s Session, while func(context.Context)) error {
	if err := s.parse(r); err != nil {
		return &Error{Detail: err.Error()}
	}
	out := &screen{w: w, rc: http.NewResponseController(w)}
	s.Out = out
	if r.Method == http.MethodPost {
		if err := out.rc.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		s.In = r.Body
		s.Unblock = func() { _ = out.rc.SetReadDeadline(time.Unix(1, 0)) } // where that cannot be, the handler's end does it
	}
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		while(ctx)
		cancel()
	}()
	err := at.Console(ctx, s)
	cancel()
	<-done
	if err == nil {
		out.begin() // of a console that never showed anything
	}
	if err == nil || !out.begun {
		return err
	}
	_, _ = fmt.Fprintf(out, "\r\n-- the console is closed: %s --\r\n", reason(err)) // he may be gone; r's context says so too where only Unblock was called
	return nil
}

func reason(err error) string {
	if errors.Is(err, context.Canceled) {
		return "you may not see it any more, or another agent has it now"
	}
	return err.Error()
}

// Error is a request that does not fit.
type Error struct{ Detail string }

// Error returns the detail.
func (e *Error) Error() string { return e.Detail }
