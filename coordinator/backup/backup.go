package backup

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// ErrBackup says that a file is no backup, or not the whole of one.
var ErrBackup = errors.New("not a whole backup")

// Format is the first line's format.
const Format = "skerry-coordinator-backup"

const (
	version  = 1
	maxLine  = 2 << 20 // a value of 1 MiB in base64, its key, and room
	maxFile  = 64 << 10
	maxFiles = 64
)

// Header is the first line.
type Header struct {
	Format      string    `json:"format"`
	Version     int       `json:"version"`
	Domain      string    `json:"domain"`
	Coordinator string    `json:"coordinator"`
	Time        time.Time `json:"time"`
}

// Asset is one asset of the catalog; whoever restores has to bring its bytes.
type Asset struct {
	Name   string        `json:"name"`
	Digest intent.Digest `json:"digest"`
	Size   uint64        `json:"size"`
}

// Total is the last line.
type Total struct {
	Files   int           `json:"files"`
	Records int           `json:"records"`
	Assets  int           `json:"assets"`
	Bytes   uint64        `json:"bytes"` // of the assets
	SHA256  intent.Digest `json:"sha256"`
}

// line is one line: exactly one member is set.
type line struct {
	Header *Header `json:"header,omitempty"`
	File   *File   `json:"file,omitempty"`
	Record *Record `json:"record,omitempty"`
	Asset  *Asset  `json:"asset,omitempty"`
	Total  *Total  `json:"total,omitempty"`
}

// File is one file below DATA/keys.
type File struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

// Record is one key of the store.
type Record struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

type writer struct {
	w   *bufio.Writer
	sum hash.Hash
	Total
}

func (w *writer) line(l line) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("cannot encode backup: %w", err)
	}
	b = append(b, '\n')
	if len(b) > maxLine {
		return fmt.Errorf("cannot back up: a line of %d octets", len(b))
	}
	w.sum.Write(b)
	if _, err := w.w.Write(b); err != nil {
		return fmt.Errorf("cannot write backup: %w", err)
	}
	return nil
}

// Write writes the files of keys and a walk over st at one revision.
func Write(ctx context.Context, to io.Writer, h Header, keys string, st store.Store) (Total, error) {
	w := &writer{w: bufio.NewWriter(to), sum: sha256.New()}
	h.Format, h.Version = Format, version
	if err := w.line(line{Header: &h}); err != nil {
		return Total{}, err
	}
	if err := w.files(keys); err != nil {
		return Total{}, err
	}
	var assets []Asset
	err := st.Range(ctx, "", "", func(e store.Entry) error {
		w.Records++
		if strings.HasPrefix(e.Key, "object/"+string(intent.KindAsset)+"/") {
			o := &intent.Object{}
			if err := o.UnmarshalJSON(e.Value); err != nil {
				return fmt.Errorf("cannot read %s: %w", e.Key, err)
			}
			s := o.Spec.(*intent.AssetSpec)
			assets = append(assets, Asset{o.Metadata.Name, s.Digest, s.Size})
		}
		return w.line(line{Record: &Record{e.Key, e.Value}})
	})
	if err != nil {
		return Total{}, err
	}
	for _, a := range assets {
		w.Assets++
		w.Bytes += a.Size
		if err := w.line(line{Asset: &a}); err != nil {
			return Total{}, err
		}
	}
	w.SHA256 = intent.Digest(w.sum.Sum(nil))
	if err := w.line(line{Total: &w.Total}); err != nil {
		return Total{}, err
	}
	if err := w.w.Flush(); err != nil {
		return Total{}, fmt.Errorf("cannot write backup: %w", err)
	}
	return w.Total, nil
}

func (w *writer) files(dir string) error {
	des, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot back up keys: %w", err)
	}
	for _, de := range des {
		if !de.Type().IsRegular() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, de.Name()))
		if err != nil {
			return fmt.Errorf("cannot back up keys: %w", err)
		}
		w.Files++
		if err := w.line(line{File: &File{de.Name(), b}}); err != nil {
			return err
		}
	}
	return nil
}

// Content is what Read found; the store's records go to fn.
type Content struct {
	Header
	Files  []File
	Assets []Asset
	Total
}

// Read reads a backup to its end and calls fn for each record, in the order of keys. Nobody may act on what fn got before Read
// returned nil. Errors: ErrBackup, fn's.
func Read(from io.Reader, fn func(Record) error) (*Content, error) {
	sc := bufio.NewScanner(from)
	sc.Buffer(make([]byte, 64<<10), maxLine)
	c, sum := &Content{}, sha256.New()
	var got Total
	last, ended := "", false
	for n := 1; sc.Scan(); n++ {
		var l line
		if err := intent.DecodeStrict(sc.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("cannot read backup: line %d: %w: %w", n, ErrBackup, err)
		}
		if ended || (n == 1) != (l.Header != nil) {
			return nil, fmt.Errorf("cannot read backup: line %d is out of place: %w", n, ErrBackup)
		}
		if l.Total != nil {
			got.SHA256, c.Total, ended = intent.Digest(sum.Sum(nil)), *l.Total, true
			continue
		}
		sum.Write(sc.Bytes())
		sum.Write([]byte{'\n'})
		if err := c.take(l, &got, &last, fn); err != nil {
			return nil, err
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("cannot read backup: %w: %w", ErrBackup, err)
	}
	if !ended || got != c.Total {
		return nil, fmt.Errorf("cannot read backup: %d files, %d records and %d assets do not add up to its last line: %w", got.Files, got.Records, got.Assets, ErrBackup)
	}
	return c, nil
}

func (c *Content) take(l line, got *Total, last *string, fn func(Record) error) error {
	switch {
	case l.Header != nil:
		if l.Header.Format != Format || l.Header.Version != version {
			return fmt.Errorf("cannot read backup of format %q, version %d: %w", clip(l.Header.Format), l.Header.Version, ErrBackup)
		}
		c.Header = *l.Header
	case l.File != nil:
		if got.Files++; got.Files > maxFiles || len(l.File.Data) > maxFile || l.File.Name != filepath.Base(l.File.Name) || strings.HasPrefix(l.File.Name, ".") ||
			slices.ContainsFunc(c.Files, func(f File) bool { return f.Name == l.File.Name }) {
			return fmt.Errorf("cannot read backup: file %q: %w", clip(l.File.Name), ErrBackup)
		}
		c.Files = append(c.Files, *l.File)
	case l.Record != nil:
		got.Records++
		if l.Record.Key <= *last {
			return fmt.Errorf("cannot read backup: record %q out of order: %w", clip(l.Record.Key), ErrBackup)
		}
		*last = l.Record.Key
		return fn(*l.Record)
	case l.Asset != nil:
		got.Assets++
		got.Bytes += l.Asset.Size
		c.Assets = append(c.Assets, *l.Asset)
	default:
		return fmt.Errorf("cannot read backup: a line that says nothing: %w", ErrBackup)
	}
	return nil
}

func clip(s string) string { return s[:min(len(s), 60)] }
