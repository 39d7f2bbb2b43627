package assets

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// IdleLimit is how long a body may say nothing: a line that is dead for that long is dialled anew, and no octet is lost by it.
const IdleLimit = time.Minute

// ErrStopped ends a Body whose session somebody else goes on with.
var ErrStopped = errors.New("the upload goes on by another request")

// Body is the body of a request that can be stopped from elsewhere.
type Body struct {
	r  io.Reader
	rc *http.ResponseController

	mu      sync.Mutex // guards what follows
	stopped bool
}

// NewBody returns the body of r; w is its answer.
func NewBody(w http.ResponseWriter, r *http.Request) *Body {
	return &Body{r: r.Body, rc: http.NewResponseController(w)}
}

// Read implements io.Reader. Errors: ErrStopped, and os.ErrDeadlineExceeded after IdleLimit without an octet.
func (b *Body) Read(p []byte) (int, error) {
	if !b.limit(time.Now().Add(IdleLimit)) {
		return 0, ErrStopped
	}
	n, err := b.r.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped && err != nil && !errors.Is(err, io.EOF) {
		err = ErrStopped
	}
	return n, err
}

// Stop makes a Read that waits return, and each later one fail.
func (b *Body) Stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	b.deadline(time.Unix(1, 0))
}

// End lifts the limit, so that it does not count for what comes after this body.
func (b *Body) End() { b.limit(time.Time{}) }

func (b *Body) limit(t time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped {
		b.deadline(t)
	}
	return !b.stopped
}

// deadline sets the deadline of reading. A writer that knows none is a test's: there the body ends by itself.
func (b *Body) deadline(t time.Time) { _ = b.rc.SetReadDeadline(t) }
