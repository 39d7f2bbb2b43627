package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip: apt-get install iproute2")
	}
}

func TestVethCarriesTraffic(t *testing.T) {
	needRoot(t)
	l := New()
	defer func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	a, err := l.Namespace("na")
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Namespace("nb")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		l.Veth(a, "e0", b, "e0"), a.Addr("e0", "10.66.0.1/24"), b.Bridge("br0"), b.Attach("br0", "e0"),
		b.Addr("br0", "10.66.0.2/24"), b.Tap("t0", "br0"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Veth(a, "x0", a, "x1"); err == nil {
		t.Error("a veth pair inside one namespace was not refused")
	}
	ln, err := b.Listen("tcp", "10.66.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err == nil {
			io.WriteString(c, "hello")
			c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := a.DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "hello" {
		t.Fatalf("read %q, %v; want hello", got, err)
	}
	if _, err := a.DialContext(ctx, "tcp", "localhost:1"); err == nil {
		t.Error("a host name was not refused")
	}
}

// groupRuns tells whether a process of the group is anything but a zombie. Source: proc(5), /proc/PID/stat.
func groupRuns(t *testing.T, pgid int) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it ended meanwhile
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		var state string
		var ppid, group int
		if _, err := fmt.Sscan(rest, &state, &ppid, &group); err == nil && group == pgid && state != "Z" && state != "X" {
			return true
		}
	}
	return false
}

func TestStopKillsStubbornGroup(t *testing.T) {
	var out bytes.Buffer
	p, err := StartProc(Command{Path: "sh", Args: []string{"-c", `trap "" TERM; echo up; while :; do sleep 1; done`}, Output: &out})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	// The grandchild was killed too, but dies and is reaped (by init, whenever that looks) on its own time.
	for deadline := time.Now().Add(10 * time.Second); groupRuns(t, p.Pid()); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("group is still there")
		}
	}
	if err := p.Wait(t.Context()); err == nil {
		t.Fatal("a killed child reported success")
	}
	if err := p.Stop(); err != nil {
		t.Fatalf("second stop: %v", err)
	}
}

func TestSweepRemovesOnlyOrphans(t *testing.T) {
	needRoot(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	orphan := fmt.Sprintf("sk%dx", dead.Process.Pid)
	if err := ip("netns", "add", orphan); err != nil {
		t.Fatal(err)
	}
	l := New()
	defer l.Close()
	mine, err := l.Namespace("m")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(netnsDir + "/" + orphan); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("orphan %s survived: %v", orphan, err)
	}
	if _, err := os.Stat(netnsDir + "/" + mine.Name); err != nil {
		t.Errorf("a live lab's namespace was removed: %v", err)
	}
}
