package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/storage/erase"
	"github.com/skerry-metal/skerry/storage/image"
)

// version is the installer's version as Hello tells it; the protocol is versioned by its path.
const version = "1"

// failPause is how long an error stays readable on the console before the machine boots anew.
const failPause = 15 * time.Second

func main() {
	// As PID 1 there is nobody who could read an exit code: every way ends in end.
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "skerry-installer: runs as PID 1 of the install ramdisk only")
		os.Exit(2)
	}
	// A worker in a direct write keeps its processor until the runtime notices; the others hash meanwhile.
	runtime.GOMAXPROCS(runtime.NumCPU() + install.Workers)
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: shorten}))
	kind, err := run(context.Background(), log)
	if err != nil {
		log.Error("cannot install; booting anew", "err", err)
		time.Sleep(failPause)
		kind = install.WorkReboot
	}
	end(log, kind)
}

// shorten drops the date: a machine in its ramdisk has no trustworthy clock, and the line has 80 columns.
func shorten(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Float64("up", uptime())
	}
	return a
}

// uptime returns seconds since the kernel started.
func uptime() float64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return float64(ts.Nano()/1e7) / 100
}

func run(ctx context.Context, log *slog.Logger) (install.WorkKind, error) {
	if err := mountAll(); err != nil {
		return "", err
	}
	log.Info("skerry-installer started", "version", version)
	n, err := loadModules()
	if err != nil {
		log.Warn("some modules are not loaded", "err", err)
	}
	log.Info("modules loaded", "count", n)
	if err := mountEFI(); err != nil {
		log.Warn("no firmware variables", "err", err)
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", fmt.Errorf("cannot read kernel command line: %w", err)
	}
	s, err := parseCmdline(string(line))
	if err != nil {
		return "", err
	}
	nic, err := upNetwork(ctx, s)
	if err != nil {
		return "", err
	}
	log.Info("network up", "nic", nic, "mac", s.mac.String(), "addr", s.addr, "agents", s.agents)
	client, err := install.NewClient(install.ClientConfig{Agents: s.agents, Pins: s.pins, Token: s.token, Log: log})
	if err != nil {
		return "", err
	}
	collector := &inventory.Collector{}
	if s.token == "" {
		log.Info("nobody declared this machine: its inventory is told, and nothing is written")
		st := &install.Stranger{Client: client, MAC: s.mac.String(), Version: version, Collect: collector.Collect, Log: log}
		if ear, err := listen(nic); err != nil {
			log.Warn("the switch is not heard", "err", err)
		} else {
			st.Collect = ear.collect(collector)
		}
		return st.Run(ctx)
	}
	in := &install.Installer{Client: client, Version: version, Collect: collector.Collect, Open: openDisk, Erase: eraseDisk, Verifier: verifier, Log: log}
	return in.Run(ctx)
}

// end does what the last order says. It does not return.
func end(log *slog.Logger, kind install.WorkKind) {
	log.Info("end of work", "order", string(kind))
	unix.Sync()
	switch kind {
	case install.WorkOff:
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case install.WorkHalt:
		log.Warn("halted: a person must look; power-cycle to go on")
	default:
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	select {}
}

// disk joins a writer with the device that it owns, and gives errors the names that boot/install reports.
type disk struct {
	*image.Writer
	dev image.Device
}

// Start maps what is wrong with an image to install.ErrImage.
func (d *disk) Start(b []byte) error { return classify(d.Writer.Start(b)) }

// Close releases the device.
func (d *disk) Close() error { return d.dev.Close() }

func openDisk(d inventory.Disk, m *chunk.Manifest) (install.ImageWriter, error) {
	dev, err := image.OpenDisk("/dev/"+d.Name, int64(d.SizeBytes))
	if err != nil {
		return nil, classify(err)
	}
	w, err := image.NewWriter(dev, m)
	if err != nil {
		dev.Close()
		return nil, classify(err)
	}
	return &disk{w, dev}, nil
}

func eraseDisk(d inventory.Disk, want erasure.Level) (install.Eraser, error) {
	dev, err := erase.Open("/dev/" + d.Name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", install.ErrDisk, err)
	}
	return erase.New(dev, erase.Disk{DiskID: d.ID(), Vendor: d.Vendor, Model: d.Model, Firmware: d.Firmware, Media: d.Media}, want), nil
}

func classify(err error) error {
	switch {
	case errors.Is(err, image.ErrFormat), errors.Is(err, image.ErrNoGPT):
		return fmt.Errorf("%w: %w", install.ErrImage, err)
	case errors.Is(err, image.ErrTooSmall), errors.Is(err, image.ErrInUse), errors.Is(err, image.ErrGeometry):
		return fmt.Errorf("%w: %w", install.ErrDisk, err)
	}
	return err
}

// keys verifies envelopes with the site's signing keys.
type keys []ed25519.PublicKey

// Verify wants one good signature by any of the keys.
func (k keys) Verify(payloadType string, env *intent.Envelope) error {
	_, err := document.Open(env, payloadType, k, 1)
	return err
}

func verifier(ders [][]byte) (install.Verifier, error) {
	var k keys
	for _, der := range ders {
		key, err := document.ParseKey(der)
		if err != nil {
			return nil, err
		}
		k = append(k, key)
	}
	if len(k) == 0 {
		return nil, errors.New("cannot verify permissions: the site named no keys")
	}
	return k, nil
}
