package swarm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	// maxRun is how many chunks one request asks for: a stripe at the usual 1 MiB.
	maxRun = 16
	// silence is how long a peer may say nothing, and wanSilence who is asked over the WAN: where a third of all packets is lost QUIC waits ever
	// longer before it sends again, and 15 s (mesh.md section 5) were measured to begin the same chunk anew for ever.
	silence    = 15 * time.Second
	wanSilence = time.Minute
	// leastRead is how much must come for a sign of life: 2.3 s at 14 kbit/s. Where that takes no time more is read at once, up to mostRead.
	leastRead = 4 << 10
	mostRead  = 256 << 10
	quickRead = 10 * time.Millisecond
	// unstored is how many chunks may wait for the disk while the next ones come.
	unstored = 2
	// chunkWait is how long it may take for one chunk: the usual 1 MiB over 14 kbit/s. Who brought slowGain of it by then may go on,
	// which is 0.9 kbit/s; who drips octets holds a fetch no longer.
	chunkWait = 10 * time.Minute
	slowGain  = 64 << 10
)

// The tiers of sources.
const (
	TierPeer   = "peer"   // an agent of the site
	TierSite   = "site"   // an agent of another site, over the WAN
	TierOrigin = "origin" // the coordinator, or a URL, over the WAN
)

// Source is somebody who may have assets.
type Source struct {
	Name string            // for people and metrics
	Tier string            // TierPeer, TierSite, TierOrigin
	RT   http.RoundTripper // to that one; the URL's host is not used for routing
	Bulk http.RoundTripper // the same, for chunks; nil: RT
	// Range returns n octets of the asset from off on, where it lies as it is: at a URL. Such a source has neither manifests nor words, and no RT.
	// The caller closes what it returns; fewer octets are a line that broke.
	Range func(ctx context.Context, off, n int64) (io.ReadCloser, error)
	// Told hears what became of each order that was not ended for another reason than the source: nil, it brought what it was asked for.
	// Errors: ErrSlow, chunk.ErrBad, Range's, the line's. Nil: nobody wants to know.
	Told func(error)
}

func (s Source) key() string { return s.Tier + ":" + s.Name }

// far tells whether the way to it is the site's line.
func (s Source) far() bool { return s.Tier == TierSite || s.Tier == TierOrigin }

// spare tells whether others may be asked in its place: all but the coordinator, which is the last.
func (s Source) spare() bool { return s.Tier == TierSite || s.Range != nil }

// refused: the source answered that it has not what was asked for.
type refused struct {
	text  string
	cause error // nil: text says it
}

// Unwrap returns the cause.
func (r *refused) Unwrap() error { return r.cause }

// Error returns what it answered.
func (r *refused) Error() string { return r.text }

func (s Source) get(ctx context.Context, rt http.RoundTripper, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://swarm"+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", s.Name, err)
	}
	if res.StatusCode != http.StatusOK {
		err := res.Body.Close()
		return nil, errors.Join(&refused{text: fmt.Sprintf("cannot get %s from %s: %s", path, s.Name, res.Status)}, err)
	}
	return res, nil
}

// manifest asks for a manifest and checks that it is the signed one.
func (s Source) manifest(ctx context.Context, d, want intent.Digest) (*chunk.Manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, chunkWait)
	silent := time.AfterFunc(s.silence(), cancel)
	defer silent.Stop()
	defer cancel()
	res, err := s.get(ctx, s.RT, "/m/1/assets/"+d.Hex()+"/manifest")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	m, err := chunk.ReadManifest(&heard{r: res.Body, silent: silent, limit: func(int) time.Duration { return s.silence() }}, d, want)
	if errors.Is(err, chunk.ErrForged) {
		err = fmt.Errorf("%w: %w", ErrBadSource, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot take manifest from %s: %w", s.Name, err)
	}
	return m, nil
}

// silence is how long the source may say nothing.
func (s Source) silence() time.Duration {
	if s.far() {
		return wanSilence
	}
	return silence
}

// heard reads from a source and notes that it said something.
type heard struct {
	r      io.Reader
	silent *time.Timer
	limit  func(n int) time.Duration // of what is silence, after n octets more
	size   int                       // of the next read; 0: leastRead
	paced  func(n int) (most int)    // waits until the octets after the n that came may be read; nil: at once
}

// Read reads little at a time, unless it comes quickly: net/http fills the buffer that it is given before it returns, and a buffer of a
// whole chunk would let a slow source seem silent for as long as the chunk takes.
func (h *heard) Read(b []byte) (int, error) {
	h.size = max(h.size, leastRead)
	begun := time.Now()
	n, err := h.r.Read(b[:min(len(b), h.size)])
	most := mostRead
	if time.Since(begun) < quickRead {
		h.size *= 2
	} else {
		h.size = leastRead
	}
	if n > 0 {
		if h.paced != nil { // it is we who are silent
			h.silent.Stop()
			most = h.paced(n)
		}
		h.silent.Reset(h.limit(n))
	}
	h.size = min(h.size, most)
	return n, err
}

// words listens to what a peer has of an asset until it breaks off, ctx ends, or the peer is silent for longer than it said that its
// words hold.
func (s Source) words(ctx context.Context, d intent.Digest, fn func(*word)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(silence, cancel)
	defer silent.Stop()
	res, err := s.get(ctx, s.RT, "/m/1/assets/"+d.Hex()+"/have")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	r := bufio.NewReaderSize(res.Body, 4<<10)
	for w := (*word)(nil); ; {
		if w, err = readWord(r, w); err != nil {
			return fmt.Errorf("cannot hear %s: %w", s.Name, err)
		}
		silent.Reset(max(silence, w.patience))
		fn(w)
	}
}

// errSlow ends a request that brings too little, errQuiet one that brings nothing more, errSilent an order of which nothing comes, errThin
// one that brings next to nothing while somebody else may be asked.
const (
	errSlow   slowError = "too slow"
	errQuiet  slowError = "silent for too long"
	errSilent slowError = "nothing comes any more"
	errThin   slowError = "it brings too little, and somebody else has it too"
)

// slowError is one of the errors that are ErrSlow.
type slowError string

// Error returns the text.
func (e slowError) Error() string { return string(e) }

// Is makes it ErrSlow.
func (e slowError) Is(target error) bool { return target == ErrSlow }

// order is one request for chunks first to first+n-1, of the first of which had is here already; resumed says that it is asked again.
type order struct {
	first, n int
	had      []byte
	resumed  bool
	octets   func(n int)     // called for what arrives
	paced    func(n int) int // see heard
}

// ask sends an order and hands each chunk, not yet verified, to store, whose errors end it; the next ones come meanwhile. Fewer chunks
// than asked for are an error unless at least one came. What came of a chunk that broke off is returned with the error, nil when there is
// none: the next order may begin behind it.
func (s Source) ask(ctx context.Context, m *chunk.Manifest, codec *chunk.Codec, o order, store func(i int, raw []byte) error) (*part, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	wait := unstored
	if s.far() { // its octets are dear: on a full disk as few as can be are thrown away
		wait = -1
	}
	free := make(chan []byte, 2+wait) // buffers: one that is filled, those that wait, one that is stored
	came := make(chan arrival, cap(free))
	for range cap(free) {
		free <- nil
	}
	var kept *part
	stored := make(chan error, 1)
	go func() { stored <- storeAll(came, free, store, &kept, cancel) }()
	part, err := s.receive(ctx, m, codec, o, came, free)
	close(came)
	if serr := <-stored; serr != nil { // it ended the order
		return kept, serr
	}
	return part, err
}

// arrival is a chunk that came, not yet verified.
type arrival struct {
	i   int
	raw []byte
}

// storeAll stores what comes until a chunk cannot be stored, which ends the order. The buffers of those that are stored are free again.
func storeAll(came <-chan arrival, free chan<- []byte, store func(i int, raw []byte) error, kept **part, cancel context.CancelCauseFunc) (err error) {
	for c := range came {
		if err != nil {
			free <- nil
			continue
		}
		if err = store(c.i, c.raw); err == nil {
			free <- c.raw
			continue
		}
		free <- nil
		cancel(err)
		if !errors.Is(err, chunk.ErrBad) { // it is not on disk, and need not come again: all but an octet, so that there is something to ask for
			*kept = &part{chunk: c.i, b: c.raw[:len(c.raw)-1], at: time.Now()}
		}
	}
	return err
}

// receive sends an order and passes on the chunks that come, in buffers that are free.
func (s Source) receive(ctx context.Context, m *chunk.Manifest, codec *chunk.Codec, o order, came chan<- arrival, free <-chan []byte) (*part, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(s.silence(), func() { cancel(errQuiet) })
	begun, gained := time.Now(), 0 // of this chunk
	slow := time.AfterFunc(chunkWait, func() { cancel(errSlow) })
	defer silent.Stop()
	defer slow.Stop()
	body, err := s.open(ctx, m, o)
	if err != nil {
		return nil, why(ctx, err)
	}
	defer body.Close()
	r := bufio.NewReaderSize(&heard{r: body, silent: silent, limit: func(n int) time.Duration {
		gained += n
		o.octets(n)
		// Where octets drip, the next are waited for as long as it would take to have them from somebody else: what keeps a third of
		// all packets keeps the next stream's too.
		pace := time.Duration(float64(time.Since(begun)) * min(float64(m.ChunkSize)/float64(gained), 1e6))
		return min(max(pace, s.silence()), wanSilence)
	}, paced: o.paced}, leastRead)
	had, buf := o.had, <-free
	for i := o.first; i < o.first+o.n; i++ {
		raw, err := s.read(r, codec, m, i, had, buf)
		if err == io.EOF { // between two frames: it has no more, and the next order asks for the rest
			if i > o.first {
				return nil, nil
			}
			return nil, &refused{text: fmt.Sprintf("cannot read chunk %d: it was not sent", i)}
		}
		if errors.Is(err, chunk.ErrBad) {
			return nil, fmt.Errorf("cannot read chunk %d: %w", i, err)
		}
		if err != nil {
			err = why(ctx, err)
			if errors.Is(err, errSlow) && gained >= slowGain {
				err = errors.New("no whole chunk in the time of one")
			}
			err = fmt.Errorf("cannot read chunk %d: %w", i, err)
			if raw == nil && (i > o.first || !o.resumed) {
				return nil, err
			}
			return &part{chunk: i, b: raw, at: time.Now()}, err
		}
		silent.Stop() // our own disk is not the source's silence
		slow.Stop()
		came <- arrival{i, raw}
		had, buf = nil, <-free
		begun, gained = time.Now(), 0
		silent.Reset(s.silence())
		slow.Reset(chunkWait)
	}
	return nil, nil
}

// open sends an order, and returns what comes of it. The caller closes it.
func (s Source) open(ctx context.Context, m *chunk.Manifest, o order) (io.ReadCloser, error) {
	if s.Range != nil {
		off, _ := m.ChunkRange(o.first)
		last, n := m.ChunkRange(o.first + o.n - 1)
		off += int64(len(o.had))
		body, err := s.Range(ctx, off, last+int64(n)-off)
		if err != nil {
			return nil, &refused{fmt.Sprintf("cannot read chunk %d from %s: %v", o.first, s.Name, err), err}
		}
		return body, nil
	}
	path := fmt.Sprintf("/m/1/assets/%s/chunks?first=%d&n=%d", m.Content.Hex(), o.first, o.n)
	if o.resumed {
		path += fmt.Sprintf("&skip=%d", len(o.had))
	}
	if !s.far() { // to compress costs more than a LAN
		path += "&raw=1"
	}
	rt := s.RT
	if s.Bulk != nil {
		rt = s.Bulk
	}
	res, err := s.get(ctx, rt, path)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// read reads chunk i, of which had is here, as the source sends it: in a frame, or as it lies at a URL.
func (s Source) read(r io.Reader, codec *chunk.Codec, m *chunk.Manifest, i int, had, buf []byte) ([]byte, error) {
	if s.Range == nil {
		return readData(r, codec, m, i, had, buf)
	}
	_, want := m.ChunkRange(i)
	b := slices.Grow(buf[:0], want)[:want]
	n, err := io.ReadFull(r, b[copy(b, had):])
	if err == io.EOF { // not between two frames: what was asked for is not all there
		err = io.ErrUnexpectedEOF
	}
	return b[:len(had)+n], err
}

// tell lets the source hear what became of an order that ctx was of, unless something else ended it.
func (s Source) tell(ctx context.Context, err error) {
	if s.Told == nil {
		return
	}
	if _, ours := errors.AsType[*storeError](err); ours {
		return
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		if !errors.Is(cause, ErrSlow) {
			return
		}
		err = cause
	}
	s.Told(err)
}

// why adds the reason for which we ended a request ourselves.
func why(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
