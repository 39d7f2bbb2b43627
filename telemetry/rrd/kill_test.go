package rrd

import (
	"bufio"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/test/e2e/lab"
)

const childSeries = 300

// killValue is what tick k of a child holds of series i.
func killValue(tick int64, i int) float64 { return float64(tick%1_000_003) + float64(i)/1024 }

// TestKilled kills a process that ticks, again and again, at any moment: every row that it acknowledged reads as it was written, in
// the finest archive and summed up in the coarser one, and the store opens each time.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("SKERRY_RRD_CHILD"); dir != "" {
		killChild(t, dir)
		return
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	for range kills {
		acked := child(t, dir, 1+r.IntN(150), nil)
		checkKilled(t, dir, acked)
	}
}

// TestPowerCut copies the image of a mounted file system under a process that ticks, as a power cut would leave it: what was not fsynced
// is not in it. Every row that was acknowledged reads as it was written, and the store opens each time.
func TestPowerCut(t *testing.T) {
	lab.Need(t, lab.Root, lab.Tool("mkfs.ext4", "e2fsprogs"))
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	img, snap := filepath.Join(dir, "img"), filepath.Join(dir, "snap")
	command(t, "truncate", "-s", "512M", img)
	command(t, "mkfs.ext4", "-q", "-F", img)
	there := mount(t, img, filepath.Join(dir, "there"))
	for i := range cuts {
		acked := child(t, there, 1+r.IntN(150), func() { command(t, "cp", "--sparse=always", img, snap) })
		after := mount(t, snap, filepath.Join(dir, fmt.Sprint("cut", i)))
		checkKilled(t, after, acked)
		command(t, "umount", after)
		if err := os.Remove(snap); err != nil {
			t.Fatal(err)
		}
	}
}

// mount mounts an image until the end of the test.
func mount(t *testing.T, img, at string) string {
	t.Helper()
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	command(t, "mount", "-o", "loop", img, at)
	t.Cleanup(func() { _ = exec.Command("umount", at).Run() }) // the test may have done it
	return at
}

func command(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// child runs a process that ticks in dir until it acknowledged n ticks, calls frozen, if there is one, while it is stopped, kills it, and
// returns the last tick that it acknowledged.
func child(t *testing.T, dir string, n int, frozen func()) (acked int64) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^TestKilled$", "-test.v")
	c.Env = append(os.Environ(), "SKERRY_RRD_CHILD="+dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(out)
	for n > 0 && sc.Scan() {
		if _, err := fmt.Sscanf(sc.Text(), "ack %d", &acked); err == nil {
			n--
		}
	}
	if n > 0 {
		t.Fatal("the child ended by itself")
	}
	if frozen != nil {
		var ws unix.WaitStatus
		if err := c.Process.Signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Wait4(c.Process.Pid, &ws, unix.WUNTRACED, nil); err != nil || !ws.Stopped() {
			t.Fatal(err, ws)
		}
		frozen()
	}
	_ = c.Process.Kill()
	for sc.Scan() { // what it acknowledged before, and nobody read yet
		_, _ = fmt.Sscanf(sc.Text(), "ack %d", &acked)
	}
	_ = c.Wait() // killed
	return acked
}

func checkKilled(t *testing.T, dir string, acked int64) {
	t.Helper()
	raw := realRaw(t, dir)
	defer raw.Close()
	if raw.Rebuilt() {
		t.Fatal("a kill cost the directory")
	}
	s := openStore(t, raw)
	if c := s.Counts(); c.Damaged > 0 || c.LastTick.Unix() < 10*acked {
		t.Fatalf("tick %d was acknowledged: %+v", acked, c)
	}
	first := at(0).Unix()/10 + 1
	from := max(first-1, acked-600) // what a query answers of so many series; earlier ones were checked after earlier kills
	got := query(t, s, "a", time.Unix(10*from, 0), time.Unix(10*acked, 0), Average, 5000)
	for i, sr := range got.Series {
		var id int
		fmt.Sscanf(sr.Def.Labels["machine"], "m%d", &id)
		for n, v := range sr.Values {
			if want := killValue(from+1+int64(n), id); v != want {
				t.Fatalf("series %d, tick %d of %d: %v, want %v", i, from+1+int64(n), acked, v, want)
			}
		}
	}
	// A whole hour of the coarsest archive, of what was closed long ago.
	if hour := acked / 360; hour*360 > first+360 {
		got = query(t, s, "a", time.Unix((hour-1)*3600, 0), time.Unix(hour*3600, 0), Average, 1)
		var want float64
		for k := (hour-1)*360 + 1; k <= hour*360; k++ {
			want += killValue(k, 0) / 360
		}
		if v := got.Series[0].Values[0]; got.Step != time.Hour || math.Abs(v-want) > 1e-6 {
			t.Fatalf("hour before tick %d: %v in %v, want %v", acked, v, got.Step, want)
		}
	}
}

// killChild goes on where the store ends, a tick after the other as fast as it can, and tells each that was acknowledged.
func killChild(t *testing.T, dir string) {
	raw := realRaw(t, dir)
	s := openStore(t, raw)
	begin := s.Counts().LastTick
	if begin.IsZero() {
		begin = at(0)
	}
	var ids []ID
	for i := range childSeries {
		ids = append(ids, add(t, s, gauge("a", fmt.Sprint("m", i)), begin))
	}
	for k := begin.Unix()/10 + 1; ; k++ {
		for i, id := range ids {
			if err := s.Update(id, time.Unix(10*k, 0), Sample{Value: killValue(k, i)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Tick(time.Unix(10*k+10, 0)); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("ack %d\n", k)
	}
}
