package repository

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/weburl"
	"github.com/skerry-metal/skerry/mesh/origin"
	"github.com/skerry-metal/skerry/storage/blob"
	"github.com/skerry-metal/skerry/storage/state"
)

const (
	bucket      = "upload"
	maxSessions = 64                 // each may hold room on the disk, and a connection
	keepIdle    = 7 * 24 * time.Hour // a site's line may be away for a weekend
	sweepEvery  = time.Hour
)

// Config says what a Repository works with.
type Config struct {
	Dir    string // DATA/uploads, on the filesystem of the blobs; made 0700 if missing
	State  *state.DB
	Blobs  *blob.Store
	Now    func() time.Time
	Policy origin.Policy
	// MaxBytes bounds what is read of a URL where the request names no length, in octets. 0 is 64 GiB.
	MaxBytes uint64
	Logger   *slog.Logger
	// Hourly is called by Run beside Sweep: the collection of what was deleted. Nil: nothing.
	Hourly func(ctx context.Context) error
}

// Repository keeps the sessions of one coordinator: their octets in files, what is known of them in records.
type Repository struct {
	cfg    Config
	client *http.Client
	kick   chan struct{} // wakes who reads URLs

	alloc sync.Mutex // held while room is looked for and taken, by one session at a time

	mu       sync.Mutex // guards what follows
	sessions map[string]*session
}

// session is one asset on its way. Only its holder changes record, and the file.
type session struct {
	record            // guarded by Repository.mu
	turn    chan bool // holds a value while somebody holds the session
	stop    func()    // stops the holder; guarded by Repository.mu
	waiting int       // who wants to hold it; guarded by Repository.mu
	gone    bool      // dropped or published; guarded by Repository.mu
	fails   int       // of the URL in a row, without an octet in between; guarded by Repository.mu
	next    time.Time // of the URL: not tried before; guarded by Repository.mu
	taken   bool      // somebody reads the URL; guarded by Repository.mu
	// trouble is why the URL is tried again; guarded by Repository.mu.
	trouble string
}

// record is the stored form of a session. The state follows from it.
type record struct {
	ID     string        `json:"id"`
	Name   string        `json:"name"`
	Class  string        `json:"class"`
	Size   uint64        `json:"size"`            // octets; 0: not known yet
	Asked  uint64        `json:"asked,omitempty"` // size in the request; 0: none
	Digest intent.Digest `json:"digest,omitzero"` // that was asked for
	Found  intent.Digest `json:"found,omitzero"`  // of the octets that became a blob
	URL    string        `json:"url,omitempty"`
	ETag   string        `json:"etag,omitempty"` // strong; of the URL's octets that are here
	// Validator is what agents that read parts of the URL tie them to; empty: nothing.
	Validator string    `json:"validator,omitempty"`
	Ended     bool      `json:"ended,omitempty"`
	Failed    string    `json:"failed,omitempty"`
	Offset    uint64    `json:"offset"` // octets of the file that are on stable storage
	By        string    `json:"by"`
	Moved     time.Time `json:"moved"` // when something happened last
}

func (s record) state() string {
	switch {
	case s.Failed != "":
		return assets.Failed
	case s.Size > 0 && s.Offset == s.Size && (s.URL == "" || s.Ended):
		return assets.Whole
	case s.URL != "":
		return assets.Fetching
	}
	return assets.Open
}

// blobDigest is under which digest the octets would be a blob already.
func (s record) blobDigest() intent.Digest {
	if s.Digest.IsZero() {
		return s.Found
	}
	return s.Digest
}

// view is the session as the API shows it; the caller has Repository.mu, or holds the session.
func (s *session) view() *assets.Upload {
	return &assets.Upload{
		ID: s.ID, Name: s.Name, Class: s.Class, Size: s.Size, Digest: s.Digest, URL: s.URL, Offset: s.Offset, State: s.state(), Why: cmp.Or(s.Failed, s.trouble), By: s.By,
		Until: s.Moved.Add(keepIdle),
	}
}

// Open reads the sessions. A record that is damaged leaves its session out; its file stays, and is told of.
func Open(cfg Config) (*Repository, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make directory of uploads: %w", err)
	}
	r := &Repository{cfg: cfg, kick: make(chan struct{}, 1), sessions: map[string]*session{}}
	r.cfg.MaxBytes = cmp.Or(r.cfg.MaxBytes, defMaxFetched)
	r.client = r.cfg.Policy.Client(origin.Limits{Dial: dialLimit, Answer: answerLimit})
	err := cfg.State.View(func(tx *state.Tx) error {
		return tx.Walk(bucket, "", func(key string, value []byte) error {
			var rec record
			if err := json.Unmarshal(value, &rec); err != nil || rec.ID != key {
				cfg.Logger.Warn("upload left out: its record is not readable", "upload", key, "err", err)
				return nil
			}
			r.sessions[key] = newSession(r.checked(rec))
			return nil
		})
	})
	if err != nil && !errors.Is(err, state.ErrDamaged) {
		return nil, fmt.Errorf("cannot read uploads: %w", err)
	}
	if err != nil {
		cfg.Logger.Warn("records of uploads damaged", "err", err)
	}
	files, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read uploads: %w", err)
	}
	for _, f := range files {
		if r.sessions[strings.TrimSuffix(f.Name(), fileExt)] == nil {
			cfg.Logger.Warn("file without an upload; remove it if no upload of it is missed", "file", filepath.Join(cfg.Dir, f.Name()))
		}
	}
	return r, nil
}

func newSession(rec record) *session { return &session{record: rec, turn: make(chan bool, 1)} }

// checked compares a record with its file. A blob of the digest counts as the file: it was published, or somebody else was.
func (r *Repository) checked(rec record) record {
	if _, ok := r.blob(rec); ok {
		rec.Offset = rec.Size
		return rec
	}
	fi, err := os.Stat(r.path(rec.ID))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.cfg.Logger.Error("file of an upload not readable", "upload", rec.ID, "err", err)
	}
	have := uint64(0)
	if err == nil {
		have = uint64(fi.Size())
	}
	if have < rec.Offset {
		r.cfg.Logger.Error("an upload lost octets that were on disk; it goes on before them", "upload", rec.ID, "had", rec.Offset, "has", have)
		rec.Offset, rec.Ended, rec.Found = have, false, intent.Digest{}
	}
	return rec
}

// blob tells whether the session's octets are a complete blob already.
func (r *Repository) blob(rec record) (blob.Info, bool) {
	d := rec.blobDigest()
	if d.IsZero() {
		return blob.Info{}, false
	}
	if _, complete, err := r.cfg.Blobs.Have(d); err != nil || !complete {
		return blob.Info{}, false
	}
	m, err := r.cfg.Blobs.Manifest(d)
	if err != nil {
		return blob.Info{}, false
	}
	return blob.Info{Digest: d, Manifest: m.Digest(), Size: m.Size}, true
}

const fileExt = ".part"

func (r *Repository) path(id string) string { return filepath.Join(r.cfg.Dir, id+fileExt) }

// Begin finds the session of the same request, or begins one. Who sends to it now is stopped: the offset that is returned is final until
// somebody appends. What is here already need not be sent. Errors: *api.Error: what does not fit, too many sessions; api.ErrFull.
func (r *Repository) Begin(ctx context.Context, by string, q assets.UploadRequest) (*assets.Upload, error) {
	if err := r.fits(q); err != nil {
		return nil, err
	}
	r.Sweep()
	for {
		s, err := r.find(by, q)
		if err != nil {
			if r.makeWay() {
				continue
			}
			return nil, err
		}
		if v, ok := r.reading(s); ok {
			return v, nil
		}
		release, err := r.hold(ctx, s, func() {})
		if errors.Is(err, api.ErrNotFound) {
			continue // it was published or dropped while we waited: this request begins another
		}
		if err != nil {
			return nil, err
		}
		defer release()
		v, err := r.begin(s)
		if err != nil {
			r.forget(s)
		}
		return v, err
	}
}

// makeWay removes the session that failed first, of those that nobody holds, and tells whether there was one.
func (r *Repository) makeWay() bool {
	r.mu.Lock()
	var failed []*session
	for _, s := range r.sessions {
		if s.Failed != "" {
			failed = append(failed, s)
		}
	}
	slices.SortFunc(failed, func(a, b *session) int { return a.Moved.Compare(b.Moved) })
	r.mu.Unlock()
	for _, s := range failed {
		if r.removeIf(s, func() bool { return s.Failed != "" }) {
			return true
		}
	}
	return false
}

// removeIf removes a session that nobody holds, if it is still one of those that are to go, and tells whether it did.
func (r *Repository) removeIf(s *session, still func() bool) bool {
	select {
	case s.turn <- true:
	default:
		return false // somebody holds it
	}
	defer func() { <-s.turn }()
	r.mu.Lock()
	goes := !s.gone && still()
	r.mu.Unlock()
	if !goes {
		return false
	}
	if err := r.remove(s); err != nil {
		r.cfg.Logger.Warn("upload not removed; it is tried again", "upload", s.ID, "err", err)
		return false
	}
	r.cfg.Logger.Info("upload removed", "upload", s.ID, "asset", s.Name, "octets", s.Offset, "moved", s.Moved, "failed", s.Failed)
	return true
}

// forget ends a session that was never written down; the caller holds it.
func (r *Repository) forget(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.Moved.IsZero() {
		s.gone = true
		delete(r.sessions, s.ID)
	}
}

// reading tells whether a session's URL is read already: that is not disturbed.
func (r *Repository) reading(s *session) (*assets.Upload, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.view(), s.state() == assets.Fetching && !s.Moved.IsZero()
}

// begin makes s ready to go on; the caller holds it.
func (r *Repository) begin(s *session) (*assets.Upload, error) {
	rec := r.checked(s.record)
	if rec.Failed != "" {
		rec.Failed = ""
		r.mu.Lock()
		s.fails, s.next, s.trouble = 0, time.Time{}, ""
		r.mu.Unlock()
	}
	if b, ok := r.blob(rec); ok {
		if rec.Size != 0 && rec.Size != b.Size {
			return nil, errors.Join(refuse("wrong-length", fmt.Sprintf("the octets with digest %s are %d, not %d", b.Digest.Short(), b.Size, rec.Size)), r.remove(s))
		}
		rec.Size, rec.Offset, rec.Ended = b.Size, b.Size, true
	}
	if err := r.room(rec); err != nil {
		return nil, err
	}
	if err := r.save(s, rec); err != nil {
		return nil, err
	}
	r.wake()
	return s.view(), nil
}

// room tells whether what is not here yet can be kept. Errors: api.ErrFull.
func (r *Repository) room(rec record) error {
	if rec.Size <= rec.Offset {
		return nil
	}
	have := rec.Offset
	if fi, err := os.Stat(r.path(rec.ID)); err == nil {
		have = max(have, allocated(fi)) // of a request that was cut
	}
	return full(r.cfg.Blobs.Room(int64(rec.Size - min(rec.Size, have))))
}

// allocated is how many octets of the disk a file has, also behind its end.
func allocated(fi fs.FileInfo) uint64 {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return uint64(st.Blocks) * 512
}

// full names a full disk as the API does.
func full(err error) error {
	if errors.Is(err, blob.ErrFull) || errors.Is(err, state.ErrFull) {
		return api.ErrFull
	}
	return err
}

// fits checks a request by what its asset would be.
func (r *Repository) fits(q assets.UploadRequest) error {
	spec := &intent.AssetSpec{Digest: q.Digest, Manifest: intent.DigestOf(nil), Size: q.Size, Class: q.Class}
	if q.URL != "" {
		if why := weburl.Check(q.URL); why != "" {
			return refuse("url", why)
		}
		spec.Size = max(1, spec.Size)
		if spec.Digest.IsZero() {
			spec.Digest = spec.Manifest
		}
	}
	return asset(q.Name, spec).Validate().Err()
}

func asset(name string, spec *intent.AssetSpec) *intent.Object {
	return &intent.Object{APIVersion: intent.APIVersion, Kind: intent.KindAsset, Metadata: intent.Metadata{Name: name}, Spec: spec}
}

// refuse is a 422 of that problem type.
func refuse(kind, detail string) *api.Error {
	return &api.Error{Status: http.StatusUnprocessableEntity, Type: kind, Detail: detail}
}

// find returns the session of the same request, or a new one that is not saved yet.
func (r *Repository) find(by string, q assets.UploadRequest) (*session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		if s.Name == q.Name && s.Class == q.Class && s.Digest == q.Digest && s.URL == q.URL && (q.Size == 0 || s.Size == 0 || s.Size == q.Size) {
			return s, nil
		}
	}
	if len(r.sessions) >= maxSessions {
		return nil, api.Refuse(fmt.Sprintf("%d uploads are under way; `skerry asset uploads` lists them, `skerry asset drop ID` removes one", maxSessions))
	}
	s := newSession(record{ID: newID(), Name: q.Name, Class: q.Class, Size: q.Size, Asked: q.Size, Digest: q.Digest, URL: q.URL, By: by})
	r.sessions[s.ID] = s
	return s, nil
}

func newID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails: crypto/rand, Go 1.24
	return fmt.Sprintf("%x", b)
}

// get returns a session by its id. Errors: api.ErrNotFound.
func (r *Repository) get(id string) (*session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sessions[id]
	if s == nil {
		return nil, api.ErrNotFound
	}
	return s, nil
}

// hold makes the caller the only one that changes s, until it calls release; stop is called, once or more, when another wants it. Who
// holds it now is stopped and waited for: it first writes down how far it is.
func (r *Repository) hold(ctx context.Context, s *session, stop func()) (release func(), err error) {
	r.mu.Lock()
	if s.waiting++; s.stop != nil {
		s.stop() // under the lock: later it would stop what its connection carries next
	}
	r.mu.Unlock()
	select {
	case s.turn <- true:
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.waiting--; err != nil {
		return nil, err
	}
	if s.stop = stop; s.waiting > 0 {
		stop() // who waits found nobody to stop
	}
	release = func() {
		r.mu.Lock()
		s.stop = nil
		r.mu.Unlock()
		<-s.turn
	}
	if s.gone {
		s.stop = nil
		<-s.turn
		return nil, api.ErrNotFound
	}
	return release, nil
}

// save writes the record down; the caller holds s. Errors: api.ErrFull.
func (r *Repository) save(s *session, rec record) error {
	rec.Moved = r.cfg.Now().UTC()
	v, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("cannot encode upload: %w", err)
	}
	if err := r.cfg.State.Update(func(tx *state.Tx) error { return tx.Put(bucket, rec.ID, v) }); err != nil {
		return full(fmt.Errorf("cannot record upload %s: %w", rec.ID, err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.record = rec
	return nil
}

// remove forgets a session: file first, so that a crash leaves a record without a file and never a file that nobody knows. The caller
// holds s.
func (r *Repository) remove(s *session) error {
	if err := os.Remove(r.path(s.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove upload %s: %w", s.ID, err)
	}
	err := r.cfg.State.UpdateVital(func(tx *state.Tx) error { return tx.Delete(bucket, s.ID) }) // it frees space
	if err != nil {
		return fmt.Errorf("cannot remove upload %s: %w", s.ID, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.gone = true
	delete(r.sessions, s.ID)
	return nil
}

// Drop removes a session with what is here of it, and returns how it was. Errors: api.ErrNotFound.
func (r *Repository) Drop(ctx context.Context, id string) (*assets.Upload, error) {
	s, err := r.get(id)
	if err != nil {
		return nil, err
	}
	release, err := r.hold(ctx, s, func() {})
	if err != nil {
		return nil, err
	}
	defer release()
	was := s.view()
	return was, r.remove(s)
}

// Get returns one session. Errors: api.ErrNotFound.
func (r *Repository) Get(id string) (*assets.Upload, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sessions[id]
	if s == nil {
		return nil, api.ErrNotFound
	}
	return s.view(), nil
}

// List returns all sessions, by the name of their asset.
func (r *Repository) List() *assets.UploadList {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := &assets.UploadList{Items: []assets.Upload{}}
	for _, s := range r.sessions {
		l.Items = append(l.Items, *s.view())
	}
	slices.SortFunc(l.Items, func(a, b assets.Upload) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return l
}

// Sweep removes the sessions of which nothing was heard for 7 days and that nobody holds.
func (r *Repository) Sweep() {
	old := r.cfg.Now().Add(-keepIdle)
	r.mu.Lock()
	var idle []*session
	for _, s := range r.sessions {
		if !s.Moved.IsZero() && s.Moved.Before(old) {
			idle = append(idle, s)
		}
	}
	r.mu.Unlock()
	for _, s := range idle {
		r.removeIf(s, func() bool { return s.Moved.Before(old) })
	}
}

// wake makes who reads URLs look.
func (r *Repository) wake() {
	select {
	case r.kick <- struct{}{}:
	default: // somebody looks already
	}
}
