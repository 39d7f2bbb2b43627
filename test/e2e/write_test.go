package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/install/ramdisk"
	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/image"
	"github.com/skerry-metal/skerry/test/bench"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/sim/bmc"
	"github.com/skerry-metal/skerry/test/sim/vm"
)

const (
	kernelRoot = "../../out/kernel-cloud"
	guestImage = 64 << 20 // TCG hashes 27-44 MB/s
	hostImage  = 1 << 30
	spare      = 128 << 20 // of the disk beyond the image, for the seed
	writes     = 3         // of each kind, in turn
)

// randomImage makes a GPT image whose one partition is full of random octets: no block is zero, none compresses.
func randomImage(tb testing.TB, size int64) string {
	tb.Helper()
	lab.Need(tb, lab.Tool("sfdisk", "fdisk"))
	path := filepath.Join(tb.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	const first, last = 1 << 20, 1 << 20 // octets before and behind the partition
	if err := f.Truncate(size); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command("sfdisk", "-q", path)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("label: gpt\nstart=2048,size=%d,type=linux\n", (size-first-last)/512))
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	if _, err := f.Seek(first, io.SeekStart); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.Reader, size-first-last); err != nil {
		tb.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		tb.Fatal(err)
	}
	return path
}

// BenchmarkWriteGuest: 64 MiB onto a disk in a guest: by our installer from the site's HTTP server; by the least loop that
// copies from a second disk, with our SHA-256 while writing and over what is read back; and by busybox in the same way.
func BenchmarkWriteGuest(b *testing.B) {
	lab.Need(b, lab.Root, lab.Tool("qemu-system-x86_64", "qemu-system-x86"), lab.Tool("/bin/busybox", "busybox-static"),
		lab.Built(ramdiskPath, "ramdisk"), lab.Built(kernelRoot, "ramdisk"))
	img := randomImage(b, guestImage)
	var ours []time.Duration
	peers := map[string][]time.Duration{}
	for i := range writes {
		b.Run(fmt.Sprintf("installer%d", i), func(b *testing.B) { ours = append(ours, installGuest(b, img)) })
		b.Run(fmt.Sprintf("dd%d", i), func(b *testing.B) {
			for job, took := range busyboxGuest(b, img) {
				peers[job] = append(peers[job], took)
			}
		})
	}
	if len(ours) != writes || len(peers["disk"]) != writes {
		b.Fatal("not every write came to its end")
	}
	o := bench.Quantile(ours, 0.5)
	for _, p := range [][2]string{{"loop", "one loop in Go, from a second disk, same SHA-256"}, {"disk", "busybox dd and sha256sum, from a second disk"}, {"wget", "busybox wget, dd and sha256sum"}} {
		took := bench.Quantile(peers[p[0]], 0.5)
		bench.Figure(os.Stdout, fmt.Sprintf("write, SHA-256, read back with SHA-256, 64 MiB in a guest, median of %d, against %s", writes, p[1]),
			bench.Rate(guestImage, o), bench.Rate(guestImage, took), fmt.Sprintf("%.2f", took.Seconds()/o.Seconds()), ">= 0.8")
	}
	b.Logf("installer %v, peers %v", ours, peers)
}

// installGuest returns how long the installer's write and verify took, as it reports it.
func installGuest(b *testing.B, path string) time.Duration {
	b.Helper()
	img, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan install.Done, 1)
	s := newSite(b, img, scenario{fw: vm.BIOS, diskBytes: guestImage + spare, limit: 4 * time.Minute, done: func(d install.Done) { ended <- d }})
	rack, pin, _ := s.open(b, img)
	ctx, machine, controller := newMachine(b, s.scenario, rack, pin)
	redfish(b, controller, "PATCH", "/redfish/v1/Systems/1", `{"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}`)
	redfish(b, controller, "POST", "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", `{"ResetType":"On"}`)
	select {
	case d := <-ended:
		if !d.OK {
			b.Fatalf("install failed: %s", d.Error)
		}
		sum := 0.0
		for _, phase := range []string{"write", "verify"} {
			v, err := strconv.ParseFloat(d.Seconds[phase], 64)
			if err != nil {
				b.Fatal(err)
			}
			sum += v
		}
		b.Logf("installer: %v", d.Seconds)
		return time.Duration(sum * float64(time.Second))
	case <-ctx.Done():
		text, _ := os.ReadFile(machine.SerialLog())
		b.Fatalf("no end; the serial line ends in:\n%s", text[max(0, len(text)-2000):])
	}
	return 0
}

func newSite(tb testing.TB, img []byte, sc scenario) *site {
	tb.Helper()
	m, err := chunk.ScanManifest(bytes.NewReader(img))
	if err != nil {
		tb.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return &site{scenario: sc, key: key, manifest: m}
}

// busyboxInit writes an image as a shell would: the sum is taken while dd writes, then of what is read back past the cache.
// Then a program of ours does the same in one loop. The sizes are guestImage.
const busyboxInit = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t devtmpfs dev /dev
while read m; do insmod $m; done </lib/modules/order
ip link set lo up; ip addr add ` + machineIP + `/24 dev eth0; ip link set eth0 up
mkfifo /tmp/p
job() {
  sync; echo 3 >/proc/sys/vm/drop_caches
  read a b </proc/uptime
  sha256sum </tmp/p >/tmp/sum &
  eval "$2" | tee /tmp/p | dd of=/dev/vda bs=4M iflag=fullblock oflag=direct conv=fsync 2>/dev/null
  wait
  dd if=/dev/vda bs=4M count=16 iflag=direct 2>/dev/null | sha256sum >/tmp/back
  read c d </proc/uptime
  cmp /tmp/sum /tmp/back && echo "bench-$1 $a $c end"
}
job disk 'dd if=/dev/vdb bs=4M iflag=direct 2>/dev/null'
job wget 'wget -q -O - http://` + serverIP + `:7480/assets/image'
read a b </proc/uptime
/bin/copy /dev/vdb /dev/vda 67108864 && read c d </proc/uptime && echo "bench-loop $a $c end"
echo bench-over
poweroff -f
`

// busyboxGuest returns how long each of its jobs took.
func busyboxGuest(b *testing.B, path string) map[string]time.Duration {
	b.Helper()
	img, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	script := filepath.Join(dir, "init")
	if err := os.WriteFile(script, []byte(busyboxInit), 0o755); err != nil {
		b.Fatal(err)
	}
	loop := filepath.Join(dir, "copy")
	sh(b, "CGO_ENABLED=0 go build -o "+loop+" ./testdata/copy")
	out, err := ramdisk.Build(ramdisk.Config{
		KernelRoot: kernelRoot, Init: script, Modules: []string{"virtio_pci", "virtio_net", "virtio_blk"},
		Files: map[string]string{"/bin/busybox": "/bin/busybox", "/bin/copy": loop},
	})
	if err != nil {
		b.Fatal(err)
	}
	initrd, kernel := filepath.Join(dir, "initrd"), filepath.Join(dir, "kernel")
	for name, data := range map[string][]byte{initrd: out.Ramdisk, kernel: out.Kernel} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	rack, _, _ := newSite(b, img, scenario{}).open(b, img)
	m, err := vm.New(vm.Config{
		Name: "m1", Dir: filepath.Join(dir, "m1"), NS: rack, Firmware: vm.BIOS, NICs: []vm.NIC{{MAC: machineMAC, Tap: "m1"}},
		Disks: []vm.Disk{{Path: filepath.Join(dir, "disk"), SizeBytes: guestImage + spare, Serial: diskSerial}, {Path: path, SizeBytes: guestImage, Serial: "SRC"}},
		Boot:  func() vm.Device { return vm.BootNet }, Kernel: kernel, Initrd: initrd, Append: "console=ttyS0 panic=1 quiet no_timer_check",
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-ended })
	if err := m.On(ctx); err != nil {
		b.Fatal(err)
	}
	if _, err := m.WaitSerial(ctx, "bench-over", 0); err != nil {
		text, _ := os.ReadFile(m.SerialLog())
		b.Fatalf("%v; the serial line ends in:\n%s", err, text[max(0, len(text)-2000):])
	}
	text, err := os.ReadFile(m.SerialLog())
	if err != nil {
		b.Fatal(err)
	}
	took := map[string]time.Duration{}
	for _, job := range []string{"loop", "disk", "wget"} {
		took[job] = span(b, string(text), "bench-"+job+" ")
	}
	return took
}

// span reads "NAME from to end", seconds since the guest's start.
func span(b *testing.B, text, name string) time.Duration {
	b.Helper()
	_, rest, ok := strings.Cut(text, name)
	var from, to float64
	if _, err := fmt.Sscanf(rest, "%f %f end", &from, &to); err != nil || !ok {
		b.Fatalf("no %sin the serial log (%v):\n%s", name, err, text[max(0, len(text)-2000):])
	}
	return time.Duration((to - from) * float64(time.Second))
}

// BenchmarkWriteHost: the installer's pipeline on this host, from an HTTP server on loopback into a file past the page cache,
// against dd of the same bytes into a file of the same file system, durable at its end, through the page cache and past it; and
// with reading back, against dd and openssl. The server, the TCP stack and SHA-256 share the cores with the writing; dd has them
// for itself.
func BenchmarkWriteHost(b *testing.B) {
	lab.Need(b, lab.Tool("dd", "coreutils"), lab.Tool("openssl", "openssl"))
	img := randomImage(b, hostImage)
	var write, whole, dd, direct, ddWhole []time.Duration
	timed := func(b *testing.B, format string, args ...any) time.Duration {
		at := time.Now()
		sh(b, fmt.Sprintf(format, args...))
		return time.Since(at)
	}
	for i := range writes {
		b.Run(fmt.Sprintf("installer%d", i), func(b *testing.B) {
			w, all := installHost(b, img)
			write, whole = append(write, w), append(whole, all)
		})
		b.Run(fmt.Sprintf("dd%d", i), func(b *testing.B) {
			dir := b.TempDir()
			dd = append(dd, timed(b, "dd if=%s of=%s/cached bs=4M conv=fsync status=none", img, dir))
			to := filepath.Join(dir, "to")
			direct = append(direct, timed(b, "dd if=%s of=%s bs=4M oflag=direct conv=fsync status=none", img, to))
			ddWhole = append(ddWhole, timed(b, "dd if=%[1]s bs=4M status=none | tee >(openssl dgst -sha256 >%[2]s.sum) | dd of=%[2]s bs=4M iflag=fullblock oflag=direct conv=fsync status=none;"+
				"dd if=%[2]s bs=4M iflag=direct status=none | openssl dgst -sha256 >%[2]s.back; cmp %[2]s.sum %[2]s.back", img, to))
		})
	}
	if len(whole) != writes || len(ddWhole) != writes {
		b.Fatal("not every write came to its end")
	}
	for _, f := range []struct {
		name, want string
		ours, peer []time.Duration
	}{
		{"fetch, SHA-256 and write, against dd conv=fsync", ">= 0.8", write, dd},
		{"fetch, SHA-256 and write, against dd oflag=direct conv=fsync", ">= 0.8", write, direct},
		{"the same and read back with SHA-256, against dd and openssl dgst of both", ">= 0.8", whole, ddWhole},
	} {
		o, p := bench.Quantile(f.ours, 0.5), bench.Quantile(f.peer, 0.5)
		bench.Figure(os.Stdout, fmt.Sprintf("image of 1 GiB on the host, median of %d: %s", writes, f.name), bench.Rate(hostImage, o), bench.Rate(hostImage, p),
			fmt.Sprintf("%.2f", p.Seconds()/o.Seconds()), f.want)
	}
	b.Logf("installer %v %v, dd %v %v %v", write, whole, dd, direct, ddWhole)
}

func sh(b *testing.B, line string) {
	b.Helper()
	if out, err := exec.Command("bash", "-c", line).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// timedDisk notes when the pipeline's phases were.
type timedDisk struct {
	*image.Writer
	dev image.Device

	mu                      sync.Mutex // guards what follows
	begun, written, checked time.Time
}

func (d *timedDisk) Verify(ctx context.Context, full bool, progress func(uint64)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.written = time.Now()
	err := d.Writer.Verify(ctx, full, progress)
	d.checked = time.Now()
	return err
}

func (d *timedDisk) Close() error { return d.dev.Close() }

// fileDisk is a file in a disk's place, written past the page cache as image.Disk does.
type fileDisk struct{ *os.File }

func (fileDisk) Size() int64 { return hostImage + spare }

// installHost runs the installer in this process, with as many processors as the installer's main gives it.
func installHost(b *testing.B, path string) (write, whole time.Duration) {
	b.Helper()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + install.Workers))
	img, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	to, err := os.OpenFile(filepath.Join(b.TempDir(), "disk"), os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	if err := to.Truncate(hostImage + spare); err != nil {
		b.Fatal(err)
	}
	s := newSite(b, img, scenario{fw: vm.BIOS, diskBytes: hostImage + spare})
	agent, pin := s.loopback(b, path)
	client, err := install.NewClient(install.ClientConfig{Agents: []string{agent}, Pins: []string{pin}, Token: "token1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	var disk *timedDisk
	in := &install.Installer{
		Client: client, Version: "bench", Log: slog.New(slog.DiscardHandler), Verifier: everyone,
		Collect: func(context.Context) (*inventory.Report, error) {
			return &inventory.Report{
				Serial: machineSerial, UUID: machineUUID, Boot: inventory.Boot{Firmware: "bios"},
				Disks: []inventory.Disk{{Name: "disk", Serial: diskSerial, SizeBytes: hostImage + spare}},
			}, nil
		},
		Open: func(d inventory.Disk, m *chunk.Manifest) (install.ImageWriter, error) {
			dev := fileDisk{to}
			w, err := image.NewWriter(dev, m)
			disk = &timedDisk{Writer: w, dev: dev, begun: time.Now()}
			return disk, err
		},
	}
	ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
	defer cancel()
	if _, err := in.Run(ctx); err != nil {
		b.Fatal(err)
	}
	if s.ended == nil || !s.ended.OK {
		b.Fatalf("install failed: %+v", s.ended)
	}
	return disk.written.Sub(disk.begun), disk.checked.Sub(disk.begun)
}

// accepting believes every signature: the signature's cost is no part of the figure.
type accepting struct{}

func (accepting) Verify(string, *intent.Envelope) error { return nil }

func everyone([][]byte) (install.Verifier, error) { return accepting{}, nil }

// loopback serves the install protocol and the image on 127.0.0.1, the image by sendfile as boot HTTP does.
func (s *site) loopback(tb testing.TB, path string) (agent, pin string) {
	tb.Helper()
	cert, err := bmc.SelfSigned(net.IPv4(127, 0, 0, 1))
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		tb.Fatal(err)
	}
	listen := func() net.Listener {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		return ln
	}
	api, files := listen(), listen()
	serve(tb, tls.NewListener(api, &tls.Config{Certificates: []tls.Certificate{cert}}), install.NewHandler(s))
	mux := http.NewServeMux()
	mux.HandleFunc("/assets/image", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) })
	mux.HandleFunc("/assets/manifest", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.manifest.Encode()))
	})
	serve(tb, files, mux)
	s.files = "http://" + files.Addr().String() + "/assets/"
	return api.Addr().String(), install.Pin(leaf)
}

var _ install.ImageWriter = (*timedDisk)(nil)
