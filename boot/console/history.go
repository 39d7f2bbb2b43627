package console

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Limits bound what a Store keeps.
type Limits struct {
	File   int64 // octets of one of a machine's two files
	Disk   int64 // of all files
	Memory int   // of all consoles
}

// DefaultLimits is what boot.md section 10 asks for a machine, and what a small agent has room for in all.
func DefaultLimits() Limits { return Limits{File: 4 << 20, Disk: 512 << 20, Memory: 64 << 20} }

// Store keeps the histories of an agent's consoles below one directory: NAME.log, and NAME.log.old, which was it before.
type Store struct {
	dir    string
	limits Limits

	mu     sync.Mutex      // guards what follows
	memory int             // octets in rings
	open   map[string]bool // files that are written to
}

// OpenStore makes the directory, for the owner alone: consoles show secrets.
func OpenStore(dir string, l Limits) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep histories of consoles: %w", err)
	}
	return &Store{dir: dir, limits: l, open: map[string]bool{}}, nil
}

// more asks for n octets of memory.
func (s *Store) more(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.memory+n > s.limits.Memory {
		return false
	}
	s.memory += n
	return true
}

// opens notes that a file is written to, or not any more.
func (s *Store) opens(name string, is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if is {
		s.open[name] = true
	} else {
		delete(s.open, name)
	}
}

// use counts n octets without asking: a console without any memory would show nothing.
func (s *Store) use(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.memory += n
}

// file is how large a file may become: those that are written to have half of the disk's share.
func (s *Store) file() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(s.limits.File, s.limits.Disk/2/int64(max(1, len(s.open))))
}

// sweep removes the oldest of the other files until they fit into the other half.
func (s *Store) sweep() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var infos []fs.FileInfo
	total := int64(0)
	for _, e := range entries {
		if i, err := e.Info(); err == nil && i.Mode().IsRegular() && !s.open[i.Name()] { // one that is gone by now needs no room
			infos, total = append(infos, i), total+i.Size()
		}
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, i := range infos {
		if total <= s.limits.Disk/2 {
			break
		}
		if err := os.Remove(filepath.Join(s.dir, i.Name())); err != nil {
			return err
		}
		total -= i.Size()
	}
	return nil
}

// History is what one console showed.
type History struct {
	store *Store
	name  string
	ring  *ring

	reading sync.Mutex // held while the files are read, which are 8 MiB at most: by one at a time, and the line is not held up by it

	mu   sync.Mutex // guards what follows, and which the two files are
	file *os.File
	size int64
	last time.Time // of the newest record
	err  error     // of the last write
	next time.Time // when a file that does not open is tried again
}

// History opens a machine's; the caller closes it. What was cut off in the middle of a record, by a kill, is cut at the record before.
func (s *Store) History(machine string) (*History, error) {
	if !intent.IsLabel(machine) {
		return nil, fmt.Errorf("cannot keep history of console %q: it is no name of a machine", machine)
	}
	s.use(firstRing)
	s.opens(machine+".log", true)
	h := &History{store: s, name: machine + ".log", ring: newRing(s.more)}
	if err := h.open(); err != nil {
		h.err = err // without a disk a console goes on
	}
	return h, nil
}

func (h *History) path(suffix string) string { return filepath.Join(h.store.dir, h.name+suffix) }

func (h *History) open() error {
	f, err := os.OpenFile(h.path(""), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	good := int64(0)
	err = records(f, func(r Record, end int64) { good, h.last = end, r.Time })
	if err == nil {
		err = f.Truncate(good)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	h.file, h.size = f, good
	if h.size == 0 {
		err = read(h.path(".old"), func(r Record, _ int64) { h.last = r.Time })
	}
	return err
}

// reopen is how long a file that did not open is left alone.
const reopen = time.Minute

// records calls fn for each record, with the octet at which it ends; what is no record is passed over.
func records(r io.Reader, fn func(r Record, end int64)) error {
	b, at := bufio.NewReaderSize(r, maxLine+1), int64(0)
	for {
		line, err := b.ReadSlice('\n')
		at += int64(len(line))
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue // longer than any record: its rest is none either
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if rec, err := ParseRecord(line[:len(line)-1]); err == nil {
			fn(rec, at)
		}
	}
}

func read(path string, fn func(r Record, end int64)) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(records(f, fn), f.Close())
}

// Add keeps data, in the file first, then shows it to readers. It is never refused: what the disk does not take is kept in memory, and Err
// says why.
func (h *History) Add(at time.Time, k Kind, data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(data) > 0 {
		n := min(len(data), maxData)
		r := Record{at.UTC().Truncate(time.Millisecond), k, data[:n]}
		h.err = h.write(r.Append(nil))
		h.last = r.Time
		h.ring.append(data[:n])
		data = data[n:]
	}
}

func (h *History) write(line []byte) error {
	if h.file == nil {
		if time.Now().Before(h.next) {
			return h.err
		}
		h.next = time.Now().Add(reopen)
		if err := h.open(); err != nil {
			return err
		}
	}
	if h.size > 0 && h.size+int64(len(line)) > h.store.file() {
		if err := h.turn(); err != nil {
			return err
		}
	}
	n, err := h.file.Write(line)
	h.size += int64(n)
	if err != nil && n > 0 { // half a record would spoil the next one
		h.size -= int64(n)
		err = errors.Join(err, h.file.Truncate(h.size))
	}
	return err
}

// turn begins a new file; what was in the old one before is gone.
func (h *History) turn() error {
	err := errors.Join(h.file.Close(), os.Rename(h.path(""), h.path(".old")))
	h.file, h.size = nil, 0
	if err != nil {
		return err
	}
	last := h.last
	err = errors.Join(h.open(), h.store.sweep())
	h.last = last
	return err
}

// Records calls fn for what is on disk of a machine's and newer than since, oldest first, each a line of a file. Of more than limit octets the
// oldest are left out. It may be asked while the history is written, and when nobody writes it.
func (s *Store) Records(machine string, since time.Time, limit int, fn func(line []byte) error) error {
	if !intent.IsLabel(machine) {
		return fmt.Errorf("cannot read history of console %q: it is no name of a machine", machine)
	}
	var lines [][]byte
	size := 0
	take := func(r Record, _ int64) {
		if !r.Time.After(since) {
			return
		}
		lines = append(lines, r.Append(nil))
		size += len(lines[len(lines)-1])
		for size > limit {
			size -= len(lines[0])
			lines = lines[1:]
		}
	}
	path := filepath.Join(s.dir, machine+".log")
	if err := errors.Join(read(path+".old", take), read(path, take)); err != nil {
		return err
	}
	for _, l := range lines {
		if err := fn(l); err != nil {
			return err
		}
	}
	return nil
}

// Adopt adds what another agent has of the same console, lines of its file; at most limit octets of r are read. It returns how many records
// there were. What is no record is passed over.
func (h *History) Adopt(r io.Reader, limit int64) (n int, err error) {
	err = records(io.LimitReader(r, limit), func(rec Record, _ int64) {
		h.Add(rec.Time, rec.Kind, rec.Data)
		n++
	})
	return n, err
}

// Last is when something was shown last; zero: never.
func (h *History) Last() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// Err says why the newest of it is not on disk; nil: it is.
func (h *History) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// tail returns the last n lines that were shown, at most 1 MiB, and the place from which what comes after is read.
func (h *History) tail(n int) (b []byte, next uint64) {
	h.mu.Lock()
	b, next = h.ring.all()
	var now snapshot
	if h.err == nil && lines(b) < n { // what a restart, or a small ring, has let go
		now = h.snapshot()
	}
	h.mu.Unlock()
	h.reading.Lock()
	defer h.reading.Unlock()
	if disk, err := now.read(); err == nil && len(disk) > 0 {
		b = disk
	}
	return lastLines(b[max(0, len(b)-maxRing):], n), next
}

// snapshot is both files as they are at a time: what is written later is not read, and one that is renamed stays what it is.
type snapshot struct {
	files []*os.File // the older one first
	size  int64      // of the last one
}

// snapshot opens them, those that are there. The caller reads it. The lock is held.
func (h *History) snapshot() snapshot {
	s := snapshot{size: h.size}
	for _, suffix := range []string{".old", ""} {
		if f, err := os.Open(h.path(suffix)); err == nil {
			s.files = append(s.files, f)
		}
	}
	return s
}

// read returns the newest of what the files say, and closes them.
func (s snapshot) read() (b []byte, err error) {
	add := func(r Record, _ int64) {
		b = append(b, r.Data...)
		if len(b) > 2*maxRing {
			b = append(b[:0], b[len(b)-maxRing:]...)
		}
	}
	for i, f := range s.files {
		in := io.Reader(f)
		if i == len(s.files)-1 {
			in = io.LimitReader(f, s.size)
		}
		err = errors.Join(err, records(in, add), f.Close())
	}
	return b, err
}

func lines(b []byte) int { return bytes.Count(b, []byte{'\n'}) }

// lastLines returns the last n lines; one that has no end yet counts as none.
func lastLines(b []byte, n int) []byte {
	if n <= 0 {
		return nil
	}
	at := len(b)
	for range n + 1 {
		i := bytes.LastIndexByte(b[:at], '\n')
		if i < 0 {
			return b
		}
		at = i
	}
	return b[at+1:]
}

// Close gives memory and file back.
func (h *History) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ring.mu.Lock()
	h.store.use(-len(h.ring.buf))
	h.ring.mu.Unlock()
	h.store.opens(h.name, false)
	if h.file == nil {
		return nil
	}
	err := h.file.Close()
	h.file = nil
	return err
}

// text makes what is told on a terminal printable: names and reasons come from outside.
func text(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
