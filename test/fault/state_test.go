package fault

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/siteagent/upkeep"
	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/test/e2e/lab"
)

var (
	seed  = flag.Uint64("seed", 0, "replay this seed; 0 takes a new one")
	share = flag.Float64("share", 1, "part of the tier's runs")
)

// times returns how often an experiment runs: the share of the tier's number, at least once.
func times(n int) int { return max(1, int(*share*float64(n))) }

// childEnv makes the test binary the process that is hurt: "write DIR", "check DIR", "run FILE" (rotation_test.go).
const childEnv = "SKERRY_FAULT_CHILD"

func TestMain(m *testing.M) {
	what, dir, ok := strings.Cut(os.Getenv(childEnv), " ")
	if !ok {
		flag.Parse()
		os.Exit(m.Run())
	}
	var err error
	switch what {
	case "write":
		err = write(dir)
	case "run":
		err = runChild(dir)
	default:
		err = check(dir)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(3)
}

func random(t *testing.T) *rand.Rand {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", s)
	return rand.New(rand.NewPCG(s, 0))
}

func open(dir string) (*state.DB, error) {
	return state.Open(state.Config{
		Dir: filepath.Join(dir, "state"), Key: make([]byte, 32), Logger: slog.New(slog.DiscardHandler),
		UserFree: 1, VitalFree: 1, StopFree: 1, UserFraction: -1,
	})
}

const keys = 40

// op is the i-th change: every third one deletes, sizes vary up to 20 kB so that tables are flushed and compacted.
func op(i int) (key, value string, del bool) {
	key = fmt.Sprint("k", i*7%keys)
	if i%3 == 0 {
		return key, "", true
	}
	return key, fmt.Sprintf("%d:%s", i, strings.Repeat("x", i*i%20_000)), false
}

// model is what the state holds after the first n ops.
func model(n int) map[string]string {
	m := map[string]string{}
	for i := 1; i <= n; i++ {
		k, v, del := op(i)
		if del {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	return m
}

func last(d *state.DB) (int, error) {
	n := 0
	err := d.View(func(tx *state.Tx) error {
		b, err := tx.Get("meta", "last")
		if errors.Is(err, state.ErrAbsent) {
			return nil
		}
		if err == nil {
			n, err = strconv.Atoi(string(b))
		}
		return err
	})
	return n, err
}

// write goes on with the ops for ever and prints each number after its Update returned.
func write(dir string) error {
	d, err := open(dir)
	if err != nil {
		return err
	}
	n, err := last(d)
	if err != nil {
		return err
	}
	marks, mark, err := state.OpenMarks(dir, make([]byte, 32))
	if err != nil {
		return err
	}
	for i := n + 1; ; i++ {
		if i%25 == 0 {
			mark.Boots, mark.MaxVersion = mark.Boots+1, d.MaxVersion()
			if err := marks.Save(mark); err != nil {
				return err
			}
		}
		err := d.Update(func(tx *state.Tx) error {
			k, v, del := op(i)
			if del {
				if err := tx.Delete("data", k); err != nil {
					return err
				}
			} else if err := tx.Put("data", k, []byte(v)); err != nil {
				return err
			}
			return tx.Put("meta", "last", []byte(fmt.Sprint(i)))
		})
		if err != nil {
			return err
		}
		fmt.Println(i)
	}
}

// content is what check found.
type content struct {
	Last       int
	Data       map[string]string
	Damaged    []string // errors of reads
	Held       map[string]string
	Checksum   string
	Recovering bool
	Marks      string // what is wrong with them
	Unfit      string // why no destructive step would be permitted; empty: it would
}

func contentOf(dir string) (content, error) {
	c := content{Data: map[string]string{}}
	d, err := open(dir)
	if err != nil {
		return c, err
	}
	defer d.Close()
	c.Recovering = d.Recovering()
	if c.Last, err = last(d); err != nil {
		c.Damaged = append(c.Damaged, err.Error())
	}
	err = d.View(func(tx *state.Tx) error {
		return tx.Walk("data", "", func(k string, v []byte) error { c.Data[k] = string(v); return nil })
	})
	if err != nil {
		c.Damaged = append(c.Damaged, err.Error())
	}
	rep, err := d.Scrub(context.Background())
	if err != nil {
		c.Damaged = append(c.Damaged, err.Error())
	}
	c.Held = rep.Held
	if rep.Checksum != nil {
		c.Checksum = rep.Checksum.Error()
	}
	_, marks, err := state.OpenMarks(dir, make([]byte, 32))
	if err == nil && marks.MaxVersion > d.MaxVersion() {
		err = fmt.Errorf("the marks know version %d, the state is at %d", marks.MaxVersion, d.MaxVersion())
	}
	if err != nil { // as an agent does at its start
		c.Marks = err.Error()
		if err := d.SetRecovering(c.Marks); err != nil {
			return c, err
		}
	}
	c.Unfit, err = unfit(d)
	return c, err
}

// unfit lets an agent's keeper scrub the store and asks whether it would stand behind a destructive step.
func unfit(d *state.DB) (string, error) {
	log := slog.New(slog.DiscardHandler)
	k := upkeep.New(upkeep.Config{DB: d, Log: log, Event: func(string, string, map[string]string) error { return nil }})
	if k.Fit() == nil {
		return "", errors.New("fit before the first scrub")
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for range 10_000 {
		if !k.Status().Scrubbed.IsZero() || len(ended) > 0 {
			break
		}
		<-t.C
	}
	cancel()
	if err := <-ended; err != nil {
		return "", err
	}
	if err := k.Fit(); err != nil {
		return err.Error(), nil
	}
	return "", nil
}

func check(dir string) error {
	c, err := contentOf(dir)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(c); err != nil {
		return err
	}
	os.Exit(0)
	return nil
}

// writer is a running child.
type writer struct {
	cmd   *exec.Cmd
	acks  chan int // closed at the end of its output
	acked int
}

func startWriter(t *testing.T, dir string) *writer {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{cmd: exec.Command(self), acks: make(chan int, 1<<16)}
	w.cmd.Env = append(os.Environ(), childEnv+"=write "+dir)
	w.cmd.Stderr = os.Stderr
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(w.acks)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if n, err := strconv.Atoi(sc.Text()); err == nil {
				w.acks <- n
			}
		}
	}()
	return w
}

// run lets the child acknowledge n more writes.
func (w *writer) run(t *testing.T, n int) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for range n {
		select {
		case a, ok := <-w.acks:
			if !ok {
				t.Fatal("the writer ended by itself")
			}
			w.acked = a
		case <-limit:
			t.Fatal("the writer hangs")
		}
	}
}

// kill ends the child and takes the acknowledgements that it had still printed.
func (w *writer) kill() {
	w.cmd.Process.Kill()
	for a := range w.acks {
		w.acked = a
	}
	w.cmd.Wait()
}

// whole checks that the state is exactly that after some number of ops, not below acked, nor more than one above.
func whole(t *testing.T, c content, acked int) {
	t.Helper()
	if c.Recovering || len(c.Damaged) > 0 || c.Held != nil || c.Checksum != "" || c.Marks != "" || c.Unfit != "" {
		t.Fatalf("damage without a fault of the disk: %+v", c)
	}
	if c.Last < acked || c.Last > acked+1 {
		t.Fatalf("%d acknowledged, the state holds %d", acked, c.Last)
	}
	want := model(c.Last)
	for k, v := range want {
		if c.Data[k] != v {
			t.Fatalf("after %d ops %s is %.20q, want %.20q", c.Last, k, c.Data[k], v)
		}
	}
	for k := range c.Data {
		if _, ok := want[k]; !ok {
			t.Fatalf("after %d ops %s is back from the dead", c.Last, k)
		}
	}
}

// TestKill is F1: SIGKILL in writes and deletes, and while opening. No acknowledged write is lost, none comes back, none is torn.
func TestKill(t *testing.T) {
	rnd := random(t)
	dir := t.TempDir()
	slowest := time.Duration(0)
	for range times(tierKills) {
		w := startWriter(t, dir)
		w.run(t, rnd.IntN(60))
		w.kill()
		start := time.Now()
		c, err := contentOf(dir)
		if err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(start))
		if w.acked == 0 { // killed before its first word: whatever was there is there
			w.acked = c.Last
		}
		whole(t, c, w.acked)
	}
	t.Logf("%d kills, slowest reopen and scrub %v", times(tierKills), slowest)
}

// TestBitFlip is F4: one flipped bit in any file is found, or harmless; a wrong value is never served, and a lost one never
// goes unseen by the scrub.
func TestBitFlip(t *testing.T) {
	rnd := random(t)
	base := t.TempDir()
	w := startWriter(t, base)
	w.run(t, 400)
	w.kill()
	c, err := contentOf(base) // closes cleanly: tables instead of a log only
	if err != nil {
		t.Fatal(err)
	}
	whole(t, c, w.acked)
	want := model(c.Last)
	var files []string
	err = filepath.WalkDir(base, func(p string, e fs.DirEntry, err error) error {
		if fi, ierr := e.Info(); err == nil && ierr == nil && fi.Mode().IsRegular() && fi.Size() > 0 {
			files = append(files, p)
		}
		return err
	})
	if err != nil || len(files) < 3 {
		t.Fatalf("files %v, %v", files, err)
	}
	found := map[string]int{}
	for i := range times(tierFlips) {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if out, err := exec.Command("cp", "-r", "--sparse=always", base, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		rel, _ := filepath.Rel(base, files[rnd.IntN(len(files))])
		off := flip(t, filepath.Join(dir, rel), rnd)
		verdict := judge(t, dir, c.Last, want)
		found[filepath.Ext(rel)+" "+verdict]++
		if strings.HasPrefix(verdict, "WRONG") {
			t.Errorf("bit flipped in %s at octet %d: %s", rel, off, verdict)
		}
		os.RemoveAll(dir)
	}
	t.Logf("%d flips in %d files: %v", times(tierFlips), len(files), found)
}

// flip changes one bit among the octets that are not in a hole (memtables and logs are mostly holes).
func flip(t *testing.T, path string, rnd *rand.Rand) int64 {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	n := len(b)
	for n > 1 && b[n-1] == 0 {
		n--
	}
	off := int64(rnd.IntN(n))
	if _, err := f.WriteAt([]byte{b[off] ^ 1<<rnd.IntN(8)}, off); err != nil {
		t.Fatal(err)
	}
	return off
}

// judge opens the state in a child, as damage may end a process, up to the three times that an agent's supervisor would.
func judge(t *testing.T, dir string, last int, want map[string]string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), childEnv+"=check "+dir)
		out, err := cmd.Output()
		if err != nil {
			continue // it died: it is started again
		}
		var c content
		if err := json.Unmarshal(out, &c); err != nil {
			t.Fatal(err)
		}
		for k, v := range c.Data {
			if want[k] != v && len(c.Held) == 0 && c.Checksum == "" {
				return fmt.Sprintf("WRONG value of %s", k)
			}
		}
		found := c.Recovering || len(c.Damaged) > 0 || len(c.Held) > 0 || c.Checksum != "" || c.Marks != ""
		switch {
		case found && c.Unfit == "":
			return fmt.Sprintf("WRONG: found, and a destructive step would be permitted: %+v", c)
		case c.Recovering || c.Marks != "":
			return "recovering"
		case found:
			return "found"
		case len(c.Data) != len(want) || c.Last != last:
			return fmt.Sprintf("WRONG: %d of %d records, op %d of %d, and nobody saw it", len(c.Data), len(want), c.Last, last)
		}
		return "harmless"
	}
	return "WRONG: it does not start any more"
}

// TestPowerCut is F3: the image of a mounted file system is copied under the writer, as a power cut would leave it.
func TestPowerCut(t *testing.T) {
	lab.Need(t, lab.Root, lab.Tool("mkfs.ext4", "e2fsprogs"))
	rnd := random(t)
	dir := t.TempDir()
	img, mnt, cut := filepath.Join(dir, "img"), filepath.Join(dir, "mnt"), filepath.Join(dir, "cut")
	must(t, "truncate", "-s", "512M", img)
	must(t, "mkfs.ext4", "-q", "-F", img)
	for _, d := range []string{mnt, cut} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	mount(t, img, mnt)
	for range times(tierCuts) {
		w := startWriter(t, mnt)
		w.run(t, 20+rnd.IntN(100))
		// Stopped, the writer cannot change the image while it is copied; nothing is flushed that was not flushed before.
		if err := w.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for drained := false; !drained; {
			select {
			case w.acked = <-w.acks:
			default:
				drained = true
			}
		}
		acked := w.acked
		snap := filepath.Join(dir, "snap")
		must(t, "cp", "--sparse=always", img, snap)
		w.kill()
		umount := mount(t, snap, cut)
		c, err := contentOf(cut)
		if err != nil {
			t.Fatal(err)
		}
		if c.Last > acked { // acknowledged, but the pipe was not read yet
			acked = c.Last
		}
		whole(t, c, acked)
		umount()
		os.Remove(snap)
	}
}

func must(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func mount(t *testing.T, img, at string) func() {
	t.Helper()
	must(t, "mount", "-o", "loop", img, at)
	done := false
	umount := func() {
		if !done {
			done = true
			must(t, "umount", at)
		}
	}
	t.Cleanup(umount)
	return umount
}
