package state

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// marksSize is one page: written whole, so that a torn write damages one of the two files only.
const marksSize = 4096

const marksMagic = "SKRMRK01"

// Marks are the high-water marks of this data directory, kept outside Badger so that a restored copy of one of the two is
// noticed (trust.md section 4). They never go down.
type Marks struct {
	Heads      map[string]intent.Head `json:"heads"`      // stream -> highest head that was staged
	Floor      time.Time              `json:"floor"`      // time floor
	Boots      uint64                 `json:"boots"`      // process starts, raised before the first word to a peer
	MaxVersion uint64                 `json:"maxVersion"` // of DB.MaxVersion, every 10 minutes
	Chains     map[string]uint64      `json:"chains"`     // own chains (permission, receipt, override): highest seq signed
}

// MarksFile is the pair DIR/marks.a, marks.b. Not safe for concurrent use.
type MarksFile struct {
	dir     string
	key     []byte
	counter uint64
}

// OpenMarks returns the newest valid marks of dir; zero Marks where neither file exists. Errors: ErrMarks when files exist and
// none is valid: the caller starts recovering.
func OpenMarks(dir string, key []byte) (*MarksFile, Marks, error) {
	f := &MarksFile{dir: dir, key: key}
	var best Marks
	exists, valid := false, false
	for _, n := range []string{"marks.a", "marks.b"} {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		exists = true
		if err != nil {
			continue
		}
		counter, m, ok := f.decode(b)
		if ok && (!valid || counter > f.counter) {
			best, valid, f.counter = m, true, counter
		}
	}
	if exists && !valid {
		return f, Marks{}, fmt.Errorf("cannot read marks in %s: %w", dir, ErrMarks)
	}
	return f, best, nil
}

// Save writes m over the older of the two files, durably when it returns nil. A crash leaves the previous marks.
func (f *MarksFile) Save(m Marks) error {
	b, err := f.encode(f.counter+1, m)
	if err != nil {
		return err
	}
	name := "marks.a"
	if (f.counter+1)%2 == 0 {
		name = "marks.b"
	}
	path := filepath.Join(f.dir, name)
	w, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write marks: %w", err)
	}
	_, err = w.WriteAt(b, 0)
	if err == nil {
		err = w.Sync()
	}
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = syncDir(f.dir)
	}
	if err != nil {
		return fmt.Errorf("cannot write marks: %w", err)
	}
	f.counter++
	return nil
}

// encode: magic 8 | counter u64 | length u32 | JSON | zeros | HMAC-SHA256 of all before it.
func (f *MarksFile) encode(counter uint64, m Marks) ([]byte, error) {
	j, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("cannot encode marks: %w", err)
	}
	if len(j) > marksSize-20-sha256.Size {
		return nil, fmt.Errorf("cannot encode marks: %w: %d octets", ErrTooLarge, len(j))
	}
	b := make([]byte, marksSize)
	copy(b, marksMagic)
	binary.BigEndian.PutUint64(b[8:], counter)
	binary.BigEndian.PutUint32(b[16:], uint32(len(j)))
	copy(b[20:], j)
	h := hmac.New(sha256.New, f.key)
	h.Write(b[:marksSize-sha256.Size])
	copy(b[marksSize-sha256.Size:], h.Sum(nil))
	return b, nil
}

func (f *MarksFile) decode(b []byte) (uint64, Marks, bool) {
	if len(b) != marksSize || !bytes.HasPrefix(b, []byte(marksMagic)) {
		return 0, Marks{}, false
	}
	h := hmac.New(sha256.New, f.key)
	h.Write(b[:marksSize-sha256.Size])
	n := binary.BigEndian.Uint32(b[16:])
	if !hmac.Equal(h.Sum(nil), b[marksSize-sha256.Size:]) || n > marksSize-20-sha256.Size {
		return 0, Marks{}, false
	}
	var m Marks
	if err := json.Unmarshal(b[20:20+n], &m); err != nil {
		return 0, Marks{}, false
	}
	return binary.BigEndian.Uint64(b[8:]), m, true
}
