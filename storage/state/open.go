package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"golang.org/x/sys/unix"
)

// Config says how to open a DB. Dir, Key and Logger are required.
type Config struct {
	Dir    string       // directory of Badger's files, made 0700 if missing; its siblings <Dir>.lock, .attempts, .recovering are ours
	Key    []byte       // MAC key, 32 octets; another key makes every record ErrDamaged
	Logger *slog.Logger // required

	// Watermarks in free octets of Dir's file system. Zero takes the defaults: user writes stop below max(5 %, 2 GiB),
	// all but vital writes below 512 MiB, everything below 256 MiB. Small disks (the demo) set them lower.
	UserFree, VitalFree, StopFree uint64
	// UserFraction is the share of the whole below which user writes stop as well; zero takes 0.05, negative none.
	UserFraction float64
	// Look opens for a command that looks: a directory that does not open is neither counted nor moved aside.
	Look bool
	// ScrubRate bounds Scrub, in octets per second. Zero takes 8 MB/s: it leaves a slow disk to those who serve.
	ScrubRate uint64
	// Statfs returns free and total octets of a directory's file system. Nil asks the kernel.
	Statfs func(dir string) (free, total uint64, err error)
}

const (
	openTries    = 3               // trust.md section 11: three failed opens move the directory aside
	macKeySize   = 32              // HMAC-SHA256: a key of the hash's size
	spaceMaxAge  = time.Second     // free space is asked at most once a second: statfs is cheap, not free
	defUserFree  = uint64(2) << 30 // trust.md section 11
	defVitalFree = uint64(512) << 20
	defStopFree  = uint64(256) << 20
	defFraction  = 0.05
)

// DB is an open state directory.
type DB struct {
	gauge
	life sync.RWMutex // held over every use of b; Rebuild replaces it
	b    *badger.DB
	lock *os.File

	write sync.Mutex // one writer at a time; taken by Update
	flag  sync.Mutex // one at a time raises or lowers recovering; taken before mu

	mu         sync.Mutex // guards what follows
	recovering bool
	holds      map[string]string // bucket -> reason
	torn       bool              // a table block is damaged: what was read once may be gone from the next walk
}

// Open sweeps leftovers of a crash and opens the directory. After three failed opens, counted across process lives, the
// directory is moved aside and an empty one opened with Recovering set. Errors: ErrLocked, ErrSchema; a full or forbidden disk
// is returned as it is and moves nothing aside.
func Open(cfg Config) (*DB, error) {
	if len(cfg.Key) != macKeySize {
		return nil, fmt.Errorf("cannot open state %s: key has %d octets, want %d", cfg.Dir, len(cfg.Key), macKeySize)
	}
	cfg = cfg.withDefaults()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make state directory: %w", err)
	}
	lock, err := lockFile(cfg.Dir + ".lock")
	if err != nil {
		return nil, err
	}
	d := &DB{gauge: gauge{cfg: cfg}, lock: lock, holds: map[string]string{}}
	from, err := readSchema(cfg.Dir)
	if err == nil {
		err = finishRebuild(cfg.Dir)
	}
	if err == nil {
		d.b, err = d.openOrMoveAside()
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if err := d.migrate(from); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	_, err = os.Stat(cfg.Dir + ".recovering")
	d.recovering = err == nil
	return d, nil
}

func (c Config) withDefaults() Config {
	if c.UserFree == 0 {
		c.UserFree = defUserFree
	}
	if c.VitalFree == 0 {
		c.VitalFree = defVitalFree
	}
	if c.StopFree == 0 {
		c.StopFree = defStopFree
	}
	if c.UserFraction == 0 {
		c.UserFraction = defFraction
	}
	if c.ScrubRate == 0 {
		c.ScrubRate = defScrubRate
	}
	if c.Statfs == nil {
		c.Statfs = statfs
	}
	return c
}

func statfs(dir string) (free, total uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, fmt.Errorf("cannot read free space of %s: %w", dir, err)
	}
	return s.Bavail * uint64(s.Bsize), s.Blocks * uint64(s.Bsize), nil
}

// Lock keeps every opener of dir out until the result is closed. Errors: ErrLocked.
func Lock(dir string) (io.Closer, error) { return lockFile(dir + ".lock") }

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", path, ErrLocked)
	}
	return f, nil
}

// openOrMoveAside counts attempts in a file, because a damaged table may end the process instead of returning an error.
func (d *DB) openOrMoveAside() (*badger.DB, error) {
	dir := d.cfg.Dir
	if d.cfg.Look {
		b, err := d.tryOpen()
		if err != nil {
			err = fmt.Errorf("cannot open state %s: %w", dir, err)
		}
		return b, err
	}
	tries := readCount(dir + ".attempts")
	for {
		if tries >= openTries {
			if err := d.moveAside(); err != nil {
				return nil, err
			}
			tries = 0
		}
		tries++
		if err := WriteFile(dir+".attempts", []byte(strconv.Itoa(tries))); err != nil {
			return nil, fmt.Errorf("cannot count open attempt: %w", err)
		}
		b, err := d.tryOpen()
		if err == nil {
			if err := os.Remove(dir + ".attempts"); err != nil {
				return nil, errors.Join(fmt.Errorf("cannot end count of open attempts: %w", err), b.Close())
			}
			return b, nil
		}
		if environmental(err) {
			os.Remove(dir + ".attempts") // the disk is not damaged: the next start may try as often again
			return nil, fmt.Errorf("cannot open state %s: %w", dir, err)
		}
		d.cfg.Logger.Warn("state directory does not open", "dir", dir, "try", tries, "err", err)
	}
}

// environmental errors say nothing about the files: moving them aside would throw away good state.
func environmental(err error) bool {
	for _, e := range []error{
		syscall.ENOSPC, syscall.EACCES, syscall.EPERM, syscall.EMFILE, syscall.ENFILE,
		syscall.ENOMEM, syscall.EROFS, syscall.EDQUOT, syscall.EAGAIN,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (d *DB) tryOpen() (b *badger.DB, err error) {
	if err := sweep(d.cfg.Dir); err != nil {
		return nil, err
	}
	if err := checkManifest(d.cfg.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			b, err = nil, fmt.Errorf("cannot open state: %w: %v", ErrDamaged, r)
		}
	}()
	return badger.Open(badgerOptions(d.cfg))
}

// badgerOptions are the measured ones of trust.md section 11.
func badgerOptions(c Config) badger.Options {
	return badger.DefaultOptions(c.Dir).
		WithSyncWrites(true). // without it every acknowledged write of 8 power cuts in 8 was lost
		WithMemTableSize(16 << 20).
		WithNumMemtables(2).
		WithValueLogFileSize(64 << 20).
		WithBlockCacheSize(32 << 20).
		WithIndexCacheSize(16 << 20).
		WithNumVersionsToKeep(1).
		WithNumCompactors(2).
		WithDetectConflicts(true).
		WithVerifyValueChecksum(true).
		WithChecksumVerificationMode(options.OnBlockRead). // at open a damaged table ends the process in 10 flips of 12
		WithMetricsEnabled(false).
		WithLogger(badgerLog{c.Logger})
}

// sweep deletes empty .mem and .vlog files: SIGKILL at the right moment leaves one, and Open then fails (3 of 60, badger#2207).
func sweep(dir string) error {
	ents, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot sweep state directory: %w", err)
	}
	for _, e := range ents {
		if ext := filepath.Ext(e.Name()); ext != ".mem" && ext != ".vlog" {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return fmt.Errorf("cannot sweep state directory: %w", err)
		}
		if fi.Size() == 0 {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("cannot sweep state directory: %w", err)
			}
		}
	}
	return nil
}

func (d *DB) moveAside() error {
	dir := d.cfg.Dir
	// The flag is durable before the directory goes: a crash between the two must not look like an empty, healthy state.
	if err := WriteFile(dir+".recovering", []byte("state moved aside\n")); err != nil {
		return fmt.Errorf("cannot mark recovery: %w", err)
	}
	bad, err := aside(dir)
	if err != nil {
		return err
	}
	d.cfg.Logger.Error("state directory moved aside after failed opens; starting empty and recovering", "to", bad)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make state directory: %w", err)
	}
	return syncDir(filepath.Dir(dir))
}

// aside renames dir to dir.bad-N, the first free N, and returns that name.
func aside(dir string) (string, error) {
	for n := 1; ; n++ {
		bad := dir + ".bad-" + strconv.Itoa(n)
		if _, err := os.Lstat(bad); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.Rename(dir, bad); err != nil {
			return "", fmt.Errorf("cannot move state aside: %w", err)
		}
		return bad, nil
	}
}

// Close flushes and closes the directory. Nothing may use d afterwards.
func (d *DB) Close() error {
	err := d.b.Close()
	if lerr := d.lock.Close(); err == nil {
		err = lerr
	}
	if err != nil {
		return fmt.Errorf("cannot close state: %w", err)
	}
	return nil
}

// Recovering tells whether this state was started empty after damage, or restored, and not yet brought level with peers.
func (d *DB) Recovering() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.recovering
}

// SetRecovering raises the flag durably: marks or peers are ahead of this copy. From the call on it is raised, also where the error says
// that a restart would not know of it.
func (d *DB) SetRecovering(reason string) error {
	d.flag.Lock()
	defer d.flag.Unlock()
	d.mu.Lock()
	d.recovering = true
	d.mu.Unlock()
	if err := WriteFile(d.cfg.Dir+".recovering", []byte(reason+"\n")); err != nil {
		return fmt.Errorf("cannot mark recovery: %w", err)
	}
	return nil
}

// Recovered lowers the flag durably: the caller brought the state level with its peers, or an operator said so.
func (d *DB) Recovered() error {
	d.flag.Lock()
	defer d.flag.Unlock()
	if err := os.Remove(d.cfg.Dir + ".recovering"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot end recovery: %w", err)
	}
	if err := syncDir(filepath.Dir(d.cfg.Dir)); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recovering = false
	return nil
}

// MaxVersion returns Badger's highest commit number, which the marks repeat: a lower one at start is a restored copy.
func (d *DB) MaxVersion() uint64 {
	d.life.RLock()
	defer d.life.RUnlock()
	return d.b.MaxVersion()
}

func readCount(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// WriteFile makes path hold b with mode 0600, durably, when it returns nil. A crash leaves the old or the new content whole.
// Its directory must exist. It is for the few small files beside the store: keys, identity, flags.
func WriteFile(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// Rename puts the file old in the place of path. After a crash it is there as the one or as the other.
func Rename(old, path string) error {
	err := os.Rename(old, path)
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot sync directory: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot sync directory: %w", err)
	}
	return nil
}

// badgerLog puts Badger's own lines at debug, its errors at warn: the caller gets the error itself.
type badgerLog struct{ l *slog.Logger }

func (b badgerLog) Errorf(f string, a ...any)   { b.l.Warn("badger", "line", line(f, a)) }
func (b badgerLog) Warningf(f string, a ...any) { b.l.Debug("badger", "line", line(f, a)) }
func (b badgerLog) Infof(f string, a ...any)    { b.l.Debug("badger", "line", line(f, a)) }
func (b badgerLog) Debugf(string, ...any)       {}

func line(f string, a []any) string { return strings.TrimSpace(fmt.Sprintf(f, a...)) }
