package state

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"strconv"
)

// schema is the version of what lies in a state directory: key spaces, record form, and the JSON of every bucket. It rises with
// a change that the release before could not read; testdata holds a directory of every released version.
const schema = 1

// migrations change a directory of version n-1 to version n, in one or more Updates that may be repeated after a crash: the
// version is written after each. This is the only place where they go; there is none yet, as there was one schema only.
func migrations() map[int]func(*DB) error { return map[int]func(*DB) error{} }

// readSchema returns the version of dir by the file dir.schema, which lies outside so that it is read before Badger touches
// anything. A missing file is version 1 or a new directory; a damaged one says nothing and stops nobody. Errors: ErrSchema.
func readSchema(dir string) (int, error) {
	b, err := os.ReadFile(dir + ".schema")
	if errors.Is(err, fs.ErrNotExist) {
		return 1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read schema version: %w", err)
	}
	text, sum, ok := bytes.Cut(bytes.TrimSpace(b), []byte(" "))
	v, err := strconv.Atoi(string(text))
	if !ok || err != nil || v < 1 || string(sum) != schemaSum(v) {
		return schema, nil // written again below
	}
	if v > schema {
		return 0, fmt.Errorf("cannot open state %s: %w: it has schema %d, this release reads up to %d; install the release that wrote it, or restore a backup that this one made", dir, ErrSchema, v, schema)
	}
	return v, nil
}

func schemaSum(v int) string {
	return fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte("skerry state schema "+strconv.Itoa(v))))
}

// migrate brings the open directory from one version to ours.
func (d *DB) migrate(from int) error {
	for v := from + 1; v <= schema; v++ {
		if err := migrations()[v](d); err != nil {
			return fmt.Errorf("cannot migrate state to schema %d: %w", v, err)
		}
		if err := writeSchema(d.cfg.Dir, v); err != nil {
			return err
		}
	}
	if b, err := os.ReadFile(d.cfg.Dir + ".schema"); err == nil && string(b) == schemaLine(schema) {
		return nil
	}
	return writeSchema(d.cfg.Dir, schema)
}

func schemaLine(v int) string { return fmt.Sprintf("%d %s\n", v, schemaSum(v)) }

func writeSchema(dir string, v int) error { return WriteFile(dir+".schema", []byte(schemaLine(v))) }
