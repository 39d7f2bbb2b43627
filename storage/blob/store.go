package blob

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
)

// The errors that callers branch on.
var (
	ErrAbsent  = errors.New("asset absent")
	ErrPending = errors.New("asset not complete yet")
	ErrPinned  = errors.New("asset pinned")
	ErrFull    = errors.New("no space for the asset")
	// ErrCorrupt: a stored chunk no longer has its hash, or cannot be read. Its bit is gone: it will be fetched again.
	ErrCorrupt = errors.New("stored chunk damaged")
)

const (
	bucket          = "blob"
	checkpointBytes = 64 << 20        // lost work after a crash: under a second of a 1 Gb/s link
	checkpointEvery = 5 * time.Second // the same bound for slow links
)

// Config says where assets live.
type Config struct {
	Dir    string    // DATA/assets; made 0700 if missing
	State  *state.DB // keeps one record per asset
	Logger *slog.Logger
	// Reserve is what a write must leave free, in octets. It lies above the watermarks of storage/state, so that assets stop
	// before promises do. Zero takes 1 GiB more than the highest of those: 3 GiB, or 5 % of the disk and 1 GiB.
	Reserve uint64
	// Statfs returns free and total octets. Nil asks the kernel.
	Statfs func(dir string) (free, total uint64, err error)
}

// Store holds the assets of one data directory.
type Store struct {
	cfg Config

	files sync.Mutex // held while an asset's files and record come or go; taken before the others

	mu    sync.Mutex // guards what follows
	blobs map[intent.Digest]*entry
	pins  map[intent.Digest]bool
}

// entry is one asset. Its file stays open while the Store lives: 64 assets are common, 20,000 descriptors the limit.
type entry struct {
	m    *chunk.Manifest
	sum  intent.Digest // of the manifest: 30 MiB are hashed for an asset of 1 TiB
	file *os.File

	mu       sync.Mutex // guards what follows; no hashing under it, and Store.mu is never taken under it
	have     bitmap     // chunks on disk
	verified bitmap     // chunks hashed in this process life
	saved    bitmap     // have as last recorded
	dirty    int64      // octets since the last checkpoint
	last     time.Time  // of the last checkpoint
	complete bool
	gone     bool // deleted: nothing is recorded of it any more
	lastUsed time.Time
	usedDay  time.Time // lastUsed as last recorded
	left     intent.Head
	next     int // chunk that Scrub reads next
	scrubbed time.Time
	damaged  []time.Time // when the newest bad chunks were found, at most maxDamaged
}

// record is the stored form of an entry.
type record struct {
	Manifest intent.Digest `json:"manifest"`
	Have     []byte        `json:"have"`
	Fresh    []byte        `json:"fresh,omitempty"` // bits that the last checkpoint added: hashed again at Open
	Complete bool          `json:"complete"`
	LastUsed time.Time     `json:"lastUsed"`
	Left     intent.Head   `json:"left,omitzero"`
	Next     int           `json:"next,omitempty"`
	Scrubbed time.Time     `json:"scrubbed,omitzero"`
	Damaged  []time.Time   `json:"damaged,omitempty"`
}

// Open reads the records, opens the files and deletes leftovers of interrupted imports. An asset whose file, manifest or
// record is missing or damaged is reported in the log and left out; nothing but temporary files is deleted.
func Open(cfg Config) (*Store, error) {
	if cfg.Statfs == nil {
		cfg.Statfs = statfs
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make asset directory: %w", err)
	}
	s := &Store{cfg: cfg, blobs: map[intent.Digest]*entry{}, pins: map[intent.Digest]bool{}}
	tmp, err := filepath.Glob(filepath.Join(cfg.Dir, "*.tmp"))
	if err != nil {
		return nil, fmt.Errorf("cannot sweep asset directory: %w", err)
	}
	for _, p := range tmp {
		if err := os.Remove(p); err != nil {
			return nil, fmt.Errorf("cannot sweep asset directory: %w", err)
		}
	}
	err = cfg.State.View(func(tx *state.Tx) error {
		return tx.Walk(bucket, "", func(key string, value []byte) error {
			if err := s.load(key, value); err != nil {
				cfg.Logger.Warn("asset left out", "asset", key, "err", err)
			}
			return nil
		})
	})
	if err != nil && !errors.Is(err, state.ErrDamaged) {
		return nil, errors.Join(fmt.Errorf("cannot read asset records: %w", err), s.Close())
	}
	if err != nil {
		cfg.Logger.Warn("asset records damaged", "err", err)
	}
	return s, nil
}

func statfs(dir string) (free, total uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("cannot read free space of %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), nil
}

func (s *Store) path(d intent.Digest, ext string) string {
	return filepath.Join(s.cfg.Dir, d.Hex()+ext)
}

func (s *Store) load(key string, value []byte) error {
	d, err := intent.ParseDigest(key)
	if err != nil {
		return err
	}
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return fmt.Errorf("cannot read record: %w", err)
	}
	m, err := readManifest(s.path(d, ".manifest"), r.Manifest)
	if err != nil {
		return err
	}
	n := len(m.Chunks)
	if m.Content != d || len(r.Have) != len(newBitmap(n)) {
		return fmt.Errorf("cannot use record: it does not fit its manifest")
	}
	f, err := os.OpenFile(s.path(d, ".blob"), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot open blob: %w", err)
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() != int64(m.Size) {
		err = fmt.Errorf("cannot use blob: %d octets, want %d", fi.Size(), m.Size)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	e := &entry{
		m: m, sum: r.Manifest, file: f, have: bitmap(r.Have), verified: newBitmap(n), saved: bitmap(slices.Clone(r.Have)),
		complete: r.Complete, lastUsed: r.LastUsed, usedDay: r.LastUsed, last: time.Now(),
		left: r.Left, scrubbed: r.Scrubbed, damaged: r.Damaged[:min(len(r.Damaged), maxDamaged)],
	}
	if r.Next > 0 && r.Next < n {
		e.next = r.Next
	}
	if !r.Complete {
		e.recheck(bitmap(r.Fresh))
	}
	s.blobs[d] = e
	return nil
}

func readManifest(path string, want intent.Digest) (*chunk.Manifest, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	if fi.Size() > chunk.MaxManifestSize {
		return nil, fmt.Errorf("cannot read manifest: %w: %d octets", chunk.ErrManifest, fi.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	if intent.DigestOf(b) != want {
		return nil, fmt.Errorf("cannot read manifest: %w", ErrCorrupt)
	}
	return chunk.ParseManifest(b)
}

// recheck hashes the chunks of the last checkpoint again: a disk that lied about its cache loses the newest first.
func (e *entry) recheck(fresh bitmap) {
	buf := make([]byte, e.m.ChunkSize)
	for i := range e.m.Chunks {
		if i/8 >= len(fresh) || !fresh.get(i) || !e.have.get(i) {
			continue
		}
		off, n := e.m.ChunkRange(i)
		if _, err := e.file.ReadAt(buf[:n], off); err != nil || !e.m.VerifyChunk(i, buf[:n]) {
			e.have.clear(i)
			continue
		}
		e.verified.set(i)
	}
}

func (s *Store) entry(d intent.Digest) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.blobs[d]
	if e == nil {
		return nil, fmt.Errorf("cannot find asset %s: %w", d.Short(), ErrAbsent)
	}
	return e, nil
}

// Put makes room for an asset: sparse file, manifest and record, durable when it returns nil. Zero chunks count as present at
// once. An asset already there is left as it is. m must be the manifest that the signed Asset names: Put trusts its Content.
// There must be room for it beside what pinned assets that are not complete still need: ErrFull here, before an octet came over
// the WAN, is better than half of each. Errors: ErrFull.
func (s *Store) Put(ctx context.Context, m *chunk.Manifest) error {
	s.files.Lock()
	defer s.files.Unlock()
	if _, err := s.entry(m.Content); err == nil {
		return nil
	}
	need := int64(s.owed())
	for i := range m.Chunks {
		if !isZero(m, i) {
			_, n := m.ChunkRange(i)
			need += int64(n)
		}
	}
	if err := s.room(need); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := os.OpenFile(s.path(m.Content, ".blob"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make blob: %w", err)
	}
	// Truncate to nothing first: a file without a record is a leftover and its bytes are not ours to trust.
	err = f.Truncate(0)
	if err == nil {
		err = f.Truncate(int64(m.Size))
	}
	if err == nil {
		err = s.writeManifest(m)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot make blob: %w", full(err)), f.Close())
	}
	e := newEntry(m, f)
	for i := range m.Chunks {
		if isZero(m, i) {
			e.have.set(i)
			e.verified.set(i)
		}
	}
	return s.adopt(m.Content, e)
}

// adopt records e and takes it in. s.files is held, and d absent.
func (s *Store) adopt(d intent.Digest, e *entry) error {
	s.mu.Lock()
	s.blobs[d] = e
	s.mu.Unlock()
	e.mu.Lock()
	err := s.checkpoint(d, e)
	e.gone = err != nil // whoever found it meanwhile records nothing of it
	e.mu.Unlock()
	if err == nil {
		return nil
	}
	s.mu.Lock()
	if s.blobs[d] == e {
		delete(s.blobs, d)
	}
	s.mu.Unlock()
	return errors.Join(err, e.file.Close())
}

func newEntry(m *chunk.Manifest, f *os.File) *entry {
	n := len(m.Chunks)
	return &entry{m: m, sum: m.Digest(), file: f, have: newBitmap(n), verified: newBitmap(n), saved: newBitmap(n), last: time.Now(), lastUsed: time.Now()}
}

func (s *Store) writeManifest(m *chunk.Manifest) error {
	path := s.path(m.Content, ".manifest")
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(m.Encode())
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err == nil {
		err = s.syncDir()
	}
	return err
}

func (s *Store) syncDir() error {
	d, err := os.Open(s.cfg.Dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// SetPins replaces the set of assets that must not be deleted.
func (s *Store) SetPins(pins []intent.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins = map[intent.Digest]bool{}
	for _, d := range pins {
		s.pins[d] = true
	}
}

// Delete removes an asset: record first, then files, so that a crash leaves a leftover and never a record without bytes.
// Open readers keep reading. Errors: ErrAbsent, ErrPinned.
func (s *Store) Delete(d intent.Digest) error {
	s.files.Lock()
	defer s.files.Unlock()
	return s.remove(d)
}

// remove is Delete with s.files held.
func (s *Store) remove(d intent.Digest) error {
	s.mu.Lock()
	e, pinned := s.blobs[d], s.pins[d]
	if e != nil && !pinned {
		delete(s.blobs, d)
	}
	s.mu.Unlock()
	switch {
	case e == nil:
		return fmt.Errorf("cannot delete asset %s: %w", d.Short(), ErrAbsent)
	case pinned:
		return fmt.Errorf("cannot delete asset %s: %w", d.Short(), ErrPinned)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
	err := s.cfg.State.UpdateVital(func(tx *state.Tx) error { return tx.Delete(bucket, d.Hex()) }) // deleting frees space
	err = errors.Join(err, e.file.Close())
	for _, ext := range []string{".blob", ".manifest"} {
		if rerr := os.Remove(s.path(d, ext)); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot delete asset %s: %w", d.Short(), err)
	}
	return nil
}

// Info describes one asset.
type Info struct {
	Digest   intent.Digest
	Manifest intent.Digest
	Size     uint64
	Chunks   int
	Have     int    // chunks on disk
	Octets   uint64 // of those chunks, holes too
	Complete bool
	Pinned   bool
	LastUsed time.Time
	Left     intent.Head // see Leave; zero: the active intent wants it, or nobody noted that it does not
	Scrubbed time.Time   // when Scrub had been through it last; zero: never
	Damaged  []time.Time // when the newest bad chunks were found, at most maxDamaged; do not modify
}

// List returns all assets in order of their digest.
func (s *Store) List() []Info {
	s.mu.Lock()
	blobs, pins := maps.Clone(s.blobs), s.pins // SetPins makes a new map
	s.mu.Unlock()
	out := make([]Info, 0, len(blobs))
	for d, e := range blobs {
		e.mu.Lock() // not under s.mu: a checkpoint holds it for as long as the disk takes
		out = append(out, Info{
			Digest: d, Manifest: e.sum, Size: e.m.Size, Chunks: len(e.m.Chunks), Have: e.have.count(), Octets: e.octets(),
			Complete: e.complete, Pinned: pins[d], LastUsed: e.lastUsed, Left: e.left, Scrubbed: e.scrubbed, Damaged: e.damaged,
		})
		e.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Info) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
	return out
}

// Close records what is on disk and closes the files.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for d, e := range s.blobs {
		e.mu.Lock()
		if e.dirty > 0 || e.next > 0 {
			err = errors.Join(err, s.checkpoint(d, e))
		}
		err = errors.Join(err, e.file.Close())
		e.mu.Unlock()
	}
	s.blobs = map[intent.Digest]*entry{}
	return err
}
