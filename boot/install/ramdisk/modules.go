package ramdisk

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrModule says that a kernel module or one that it needs is not there.
var ErrModule = errors.New("kernel module not found")

// tree is the modules of one kernel release.
type tree struct {
	files   map[string]string // name with underscores to path of the .ko
	builtin map[string]bool
}

// readTree lists ROOT/lib/modules/RELEASE. Compressed modules are not known: Debian 12 ships them plain.
func readTree(root, release string) (*tree, error) {
	t := &tree{files: map[string]string{}, builtin: map[string]bool{}}
	dir := filepath.Join(root, "lib/modules", release)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".ko") {
			t.files[moduleName(p)] = p
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list kernel modules: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("cannot list built-in modules: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		t.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return t, nil
}

func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
}

// order returns the paths of the wanted modules and all that they need, each after what it needs, without duplicates.
// Built-in ones are left out. A name with a leading '?' may be missing. Errors: ErrModule.
func (t *tree) order(want []string) ([]string, error) {
	var paths []string
	state := map[string]int{} // 1 = being visited, 2 = done
	var visit func(name, by string) error
	visit = func(name, by string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if t.builtin[name] || state[name] != 0 {
			return nil
		}
		path, ok := t.files[name]
		if !ok {
			return fmt.Errorf("cannot find %s, wanted by %s: %w", name, by, ErrModule)
		}
		state[name] = 1
		deps, err := depends(path)
		if err != nil {
			return err
		}
		for _, d := range deps {
			if err := visit(d, name); err != nil {
				return err
			}
		}
		state[name] = 2
		paths = append(paths, path)
		return nil
	}
	for _, name := range want {
		bare, optional := strings.CutPrefix(name, "?")
		if err := visit(bare, "the list"); err != nil && !(optional && errors.Is(err, ErrModule)) {
			return nil, err
		}
	}
	return paths, nil
}

// depends reads the names that a module needs loaded before it, from its .modinfo section: key=value strings.
func depends(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read module %s: %w", path, err)
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("cannot read module %s: no .modinfo", path)
	}
	b, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("cannot read module %s: %w", path, err)
	}
	var names []string
	for _, kv := range bytes.Split(b, []byte{0}) {
		if v, ok := strings.CutPrefix(string(kv), "depends="); ok && v != "" {
			names = append(names, strings.Split(v, ",")...)
		}
	}
	return names, nil
}
