package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	seedWait  = 10 * time.Second // for disks to appear: virtio does at once, a SATA link needs seconds
	homeEvery = 2 * time.Second  // between two tries to phone home
	homeCall  = 10 * time.Second // one try
	reapEvery = time.Second
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "tinyinit: runs as PID 1 of the tiny image only")
		os.Exit(2)
	}
	say("booting")
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			say("cannot mount %s: %v", m[1], err)
		}
	}
	modules()
	busybox("--install", "-s", "/bin")
	go powerButton()
	if err := start(); err != nil {
		say("%v", err)
	}
	go shell()
	for { // PID 1 reaps what others leave
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
		time.Sleep(reapEvery)
	}
}

func say(format string, a ...any) { fmt.Printf("skerry-tiny: "+format+"\n", a...) }

func modules() {
	b, err := os.ReadFile("/lib/modules/order")
	if err != nil {
		say("cannot load modules: %v", err)
		return
	}
	for p := range strings.FieldsSeq(string(b)) {
		f, err := os.Open(p)
		if err == nil {
			if err = unix.FinitModule(int(f.Fd()), "", 0); errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
				err = nil
			}
			f.Close()
		}
		if err != nil {
			say("cannot load %s: %v", p, err)
		}
	}
}

func busybox(args ...string) {
	if out, err := exec.Command("/bin/busybox", args...).CombinedOutput(); err != nil {
		say("cannot run busybox %s: %v: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
}

// start does what the seed asks for.
func start() error {
	seed := waitVolume("CIDATA", 43)
	if seed == "" {
		return errors.New("no seed")
	}
	if err := mount(seed, "/seed", "vfat", unix.MS_RDONLY); err != nil {
		return err
	}
	in, err := readSeed("/seed")
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(in.hostname)); err != nil {
		say("cannot set hostname: %v", err)
	}
	say("hostname %s, instance %s, seed %s", in.hostname, in.id, seed)
	if err := in.persist(); err != nil {
		say("%v", err)
	}
	for _, n := range in.nics {
		n.up()
	}
	if len(in.phoneHome) == 0 {
		return errors.New("no phone_home in the seed")
	}
	return in.callHome()
}

// waitVolume returns the partition whose volume label, at off in its first sector (ext4: 1144), is label.
func waitVolume(label string, off int64) string {
	deadline := time.Now().Add(seedWait)
	for {
		parts, _ := filepath.Glob("/sys/class/block/*/partition")
		for _, p := range parts {
			dev := "/dev/" + filepath.Base(filepath.Dir(p))
			f, err := os.Open(dev)
			if err != nil {
				continue
			}
			b := make([]byte, len(label))
			_, err = f.ReadAt(b, off)
			f.Close()
			if err == nil && strings.EqualFold(string(b), label) {
				return dev
			}
		}
		if time.Now().After(deadline) {
			return ""
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func mount(dev, dir, kind string, flags uintptr) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot mount %s: %w", dev, err)
	}
	if err := unix.Mount(dev, dir, kind, flags, ""); err != nil {
		return fmt.Errorf("cannot mount %s on %s: %w", dev, dir, err)
	}
	return nil
}

// persist writes hostname, users and keys into the root file system, as a distribution would have them.
func (in *instance) persist() error {
	dev := waitVolume("skroot", 1024+120)
	if dev == "" {
		return errors.New("no root file system")
	}
	if err := mount(dev, "/disk", "ext4", 0); err != nil {
		return err
	}
	if err := os.WriteFile("/disk/etc/hostname", []byte(in.hostname+"\n"), 0o644); err != nil {
		return fmt.Errorf("cannot write hostname: %w", err)
	}
	passwd := "root:x:0:0:root:/root:/bin/sh\n"
	for i, u := range in.users {
		id := 1000 + i
		passwd += fmt.Sprintf("%s:x:%d:%d::/home/%s:/bin/sh\n", u.Name, id, id, u.Name)
		dir := filepath.Join("/disk/home", u.Name, ".ssh")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot make home of %s: %w", u.Name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "authorized_keys"), []byte(strings.Join(u.Keys, "\n")+"\n"), 0o600); err != nil {
			return fmt.Errorf("cannot write keys of %s: %w", u.Name, err)
		}
		for _, p := range []string{filepath.Dir(dir), dir, filepath.Join(dir, "authorized_keys")} {
			if err := os.Chown(p, id, id); err != nil {
				return fmt.Errorf("cannot give %s to %s: %w", p, u.Name, err)
			}
		}
		say("user %s with %d keys", u.Name, len(u.Keys))
	}
	if err := os.WriteFile("/disk/etc/passwd", []byte(passwd), 0o644); err != nil {
		return fmt.Errorf("cannot write users: %w", err)
	}
	unix.Sync()
	return nil
}

// up configures a card with busybox, which has all that netlink would need here.
func (n *nic) up() {
	name := n.name
	if ifs, err := net.Interfaces(); err == nil {
		for _, i := range ifs {
			if n.mac != nil && bytes.Equal(i.HardwareAddr, n.mac) {
				name = i.Name
			}
		}
	}
	busybox("ip", "link", "set", "lo", "up")
	busybox("ip", "link", "set", name, "up")
	if n.dhcp {
		busybox("udhcpc", "-q", "-n", "-t", "10", "-i", name, "-s", "/bin/true")
	}
	for _, a := range n.addrs {
		busybox("ip", "addr", "add", a.String(), "dev", name)
	}
	if n.gw.IsValid() {
		busybox("ip", "route", "add", "default", "via", n.gw.String())
	}
	say("network %s %v gateway %v", name, n.addrs, n.gw)
}

// callHome posts the form that cloud-init's phone_home module posts, until it is heard.
func (in *instance) callHome() error {
	form := url.Values{"instance_id": {in.id}, "hostname": {in.hostname}, "fqdn": {in.hostname}}.Encode()
	for try := 1; ; try++ {
		err := post(in.phoneHome[(try-1)%len(in.phoneHome)], form)
		if err == nil {
			say("phoned home")
			return nil
		}
		say("cannot phone home, try %d: %v", try, err)
		time.Sleep(homeEvery)
	}
}

func post(to, form string) error {
	ctx, cancel := context.WithTimeout(context.Background(), homeCall)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// shell gives the console a shell, again and again; nobody is asked for a password on a test image.
func shell() {
	for {
		c := exec.Command("/bin/busybox", "sh")
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
		c.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		_ = c.Run() // its exit code belongs to whoever typed
		time.Sleep(time.Second)
	}
}

// powerButton switches off when the ACPI button is pressed: KEY_POWER from any input device. Source: linux/input.h.
func powerButton() {
	devs, _ := filepath.Glob("/dev/input/event*")
	for _, d := range devs {
		f, err := os.Open(d)
		if err != nil {
			continue
		}
		go func() {
			defer f.Close()
			b := make([]byte, 24)
			for {
				if n, err := f.Read(b); err != nil || n != len(b) {
					return
				}
				if binary.LittleEndian.Uint16(b[16:]) == 1 && binary.LittleEndian.Uint16(b[18:]) == 116 {
					say("power button")
					unix.Sync()
					_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
				}
			}
		}()
	}
}
