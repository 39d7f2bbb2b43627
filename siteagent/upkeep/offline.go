package upkeep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/storage/state"
)

// KeyFile is where the key of the record MACs lies in the data directory.
const KeyFile = "keys/state.key"

// The errors that a door tells apart.
var (
	// ErrRunning: an agent runs on the directory.
	ErrRunning = errors.New("an agent runs on this directory")
	// ErrOccupied: the state holds other records than the backup.
	ErrOccupied = state.ErrNotEmpty
	// ErrDamaged: a record cannot be read.
	ErrDamaged = state.ErrDamaged
)

// Total says what a backup holds of one bucket.
type Total = state.Total

const (
	offlineRate = 1 << 40  // how fast a command scrubs: nobody is served meanwhile
	offlineFree = 64 << 20 // what it leaves on the disk: two memtables and their tables
)

// Directory is the data directory of an agent that does not run. Close it.
type Directory struct {
	data string
	key  []byte
	db   *state.DB
}

// OpenDirectory takes the directory for a command. A state that does not open is left as it is. Errors: ErrRunning,
// state.ErrSchema, those of a damaged state.
func OpenDirectory(data string, log *slog.Logger) (*Directory, error) {
	key, err := os.ReadFile(filepath.Join(data, KeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot use %s: no agent has joined with it: %w", data, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read state key: %w", err)
	}
	db, err := state.Open(state.Config{
		Dir: filepath.Join(data, "state"), Key: key, Logger: log, Look: true, ScrubRate: offlineRate,
		UserFree: offlineFree, VitalFree: offlineFree, StopFree: offlineFree, UserFraction: -1,
	})
	if errors.Is(err, state.ErrLocked) {
		return nil, fmt.Errorf("cannot use %s: %w", data, ErrRunning)
	}
	if err != nil {
		return nil, err
	}
	return &Directory{data, key, db}, nil
}

// FreeBallast gives the ballast's space back before anything else is opened: on a full disk the state may not even open.
// It returns the octets freed. Errors: ErrRunning.
func FreeBallast(data string) (uint64, error) {
	l, err := state.Lock(filepath.Join(data, "state"))
	if errors.Is(err, state.ErrLocked) {
		return 0, fmt.Errorf("cannot use %s: %w", data, ErrRunning)
	}
	if err != nil {
		return 0, err
	}
	n, err := state.FreeBallast(filepath.Join(data, BallastFile))
	return n, errors.Join(err, l.Close())
}

// Close closes the directory.
func (d *Directory) Close() error { return d.db.Close() }

// Report is what Scrub found.
type Report struct {
	Data       string                        `json:"data"`
	Sound      bool                          `json:"sound"`
	Recovering bool                          `json:"recovering"`
	Records    uint64                        `json:"records"`
	Buckets    map[string]state.BucketReport `json:"buckets"`
	Tables     string                        `json:"tables"` // sound, or what Badger's checksums say
	Marks      string                        `json:"marks"`  // sound, none, or what is wrong
	Ballast    uint64                        `json:"ballast"`
}

// Scrub checks every record, sum, table and the marks, and changes nothing.
func (d *Directory) Scrub(ctx context.Context) (*Report, error) {
	rep, err := d.db.Scrub(ctx)
	if err != nil {
		return nil, err
	}
	out := &Report{Data: d.data, Recovering: d.db.Recovering(), Records: rep.Records, Buckets: rep.Buckets, Tables: "sound", Marks: "sound"}
	if rep.Checksum != nil {
		out.Tables = rep.Checksum.Error()
	}
	_, marks, err := state.OpenMarks(d.data, d.key)
	switch {
	case err != nil:
		out.Marks = err.Error()
	case marks.Boots == 0:
		out.Marks = "none"
	}
	if fi, err := os.Stat(filepath.Join(d.data, BallastFile)); err == nil {
		out.Ballast = uint64(fi.Size())
	}
	out.Sound = len(rep.Held) == 0 && rep.Checksum == nil && err == nil
	return out, nil
}

// Backup writes every record to w, verified, and returns counts and roots by bucket. Keys and assets are not in it.
// Errors: state.ErrDamaged: a damaged state has no backup; repair it first.
func (d *Directory) Backup(ctx context.Context, w io.Writer) (map[string]state.Total, error) {
	return d.db.Backup(ctx, w)
}

// Restored says what Restore did.
type Restored struct {
	Buckets map[string]state.Total `json:"buckets"`
	Same    bool                   `json:"same"` // the state held exactly this already; nothing was written
}

// Restore verifies the backup in r and writes it into the empty state, which then recovers. A state that holds the same already is
// left as it is; one that holds something else is refused. dry verifies and compares only.
// Errors: state.ErrBackup, state.ErrNotEmpty, state.ErrSchema.
func (d *Directory) Restore(ctx context.Context, r io.ReadSeeker, dry bool) (*Restored, error) {
	want, err := state.CheckBackup(ctx, r)
	if err != nil {
		return nil, err
	}
	empty, err := d.db.Empty()
	if err != nil {
		return nil, err
	}
	if !empty {
		have, err := d.db.Backup(ctx, io.Discard)
		if err == nil && maps.Equal(have, want) {
			return &Restored{have, true}, nil
		}
		return nil, errors.Join(fmt.Errorf("cannot restore into %s: %w and holds other records than the backup", d.data, state.ErrNotEmpty), err)
	}
	if dry {
		return &Restored{Buckets: want}, nil
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("cannot restore: %w", err)
	}
	got, err := d.db.Restore(ctx, r)
	return &Restored{Buckets: got}, err
}

// Recovery is what Recover does, or would do.
type Recovery struct {
	Ballast uint64                 `json:"ballast"` // octets freed
	Behind  bool                   `json:"behind"`  // the state recovered; it does not any more
	Lost    map[string]intent.Head `json:"lost"`    // heads that the marks knew and the state does not have
	Peers   []string               `json:"peers"`   // agents of the roster that could know better
}

// Recover takes the store as it is for an agent that is alone: it frees the ballast, ends the recovery, and lowers the marks to
// what the store holds. What the lost records said is forgotten then: entries of the chain come again from a coordinator, promises
// and leases do not. dry only says what would be done.
func (d *Directory) Recover(dry bool) (*Recovery, error) {
	out := &Recovery{Behind: d.db.Recovering(), Lost: map[string]intent.Head{}}
	if fi, err := os.Stat(filepath.Join(d.data, BallastFile)); err == nil {
		out.Ballast = uint64(fi.Size())
	}
	file, marks, err := state.OpenMarks(d.data, d.key)
	if err != nil && !errors.Is(err, state.ErrMarks) {
		return nil, err
	}
	held, roster, err := replica.Stored(d.db)
	if err != nil {
		return nil, err
	}
	for stream, head := range marks.Heads {
		if head.Compare(held[stream]) > 0 {
			out.Lost[stream] = head
			marks.Heads[stream] = held[stream]
		}
	}
	out.Behind = out.Behind || len(out.Lost) > 0 || marks.MaxVersion > d.db.MaxVersion()
	if roster != nil {
		for _, a := range roster.Agents {
			out.Peers = append(out.Peers, a.ID)
		}
	}
	if dry {
		return out, nil
	}
	if _, err := state.FreeBallast(filepath.Join(d.data, BallastFile)); err != nil {
		return nil, err
	}
	if !out.Behind {
		return out, nil
	}
	marks.MaxVersion = d.db.MaxVersion()
	if err := file.Save(marks); err != nil {
		return nil, err
	}
	return out, d.db.Recovered()
}
