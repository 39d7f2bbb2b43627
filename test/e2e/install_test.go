package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/sim/bmc"
	"github.com/skerry-metal/skerry/test/sim/netlab"
	"github.com/skerry-metal/skerry/test/sim/vm"
)

const (
	kernelPath  = "../../out/ramdisk/vmlinuz"
	ramdiskPath = "../../out/ramdisk/ramdisk.gz"
	imagePath   = "../../out/tiny.img"

	machineSerial = "SKTEST1"
	machineUUID   = "6b1f3c1e-5d1c-4c5f-9a52-0123456789ab"
	diskSerial    = "DISK1"
	serverIP      = "10.88.0.11"
	machineIP     = "10.88.0.21"
	machineMAC    = "52:54:00:88:00:21"
)

// scenario is what differs between the installs.
type scenario struct {
	fw        vm.Firmware
	image     string // path
	diskBytes int64
	memoryMiB int
	userData  string
	limit     time.Duration      // of the whole: ten times what a quiet machine takes
	done      func(install.Done) // told of the end of the task; may be nil
	disks     []vm.Disk          // empty: one virtual disk of diskBytes
	files     string             // base URL of image and manifest; "" = the rack's server
}

// site is a minimal site: one machine, one install, then a reboot.
type site struct {
	scenario
	key      ed25519.PrivateKey
	manifest *chunk.Manifest
	as       install.Site // who answers; nil: the site itself

	mu     sync.Mutex // guards what follows
	hellos int
	report *inventory.Report
	ended  *install.Done
	log    []install.LogLine
}

func (s *site) Hello(_ context.Context, h install.Hello) (install.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hellos++; s.hellos > 1 {
		return install.Session{}, install.ErrTokenReused
	}
	if h.Token != "token1" || h.Serial != machineSerial || h.UUID != machineUUID {
		return install.Session{}, install.ErrToken
	}
	der := document.MarshalKey(s.key.Public().(ed25519.PublicKey))
	return install.Session{ID: "s1", Machine: "m1", Site: "lon1", SignKeys: [][]byte{der}}, nil
}

func (s *site) Inventory(_ context.Context, _ string, r inventory.Report) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report = &r
	return nil
}

func (s *site) disk() intent.DiskID {
	return intent.DiskID{Serial: diskSerial, SizeBytes: uint64(s.diskBytes)}
}

func (s *site) Work(context.Context, string, time.Duration) (install.Work, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := install.Work{Kind: install.WorkReboot, Task: "t2"}
	if s.ended == nil {
		base := s.files
		if base == "" {
			base = "http://" + serverIP + ":7480/assets/"
		}
		w = install.Work{
			Kind: install.WorkInstall, Task: "t1", Generation: 3, Epoch: intent.Epoch{Generation: 1, N: 65536},
			Install: &install.InstallWork{
				Image: s.manifest.Content, Manifest: s.manifest.Digest(), SizeBytes: s.manifest.Size, Disk: s.disk(),
				Sources: []string{base + "image"}, Manifests: []string{base + "manifest"}, Verify: install.VerifyFull,
				Seed: map[string]string{
					"meta-data":      "instance-id: i-1\nlocal-hostname: web-1\n",
					"user-data":      s.userData,
					"network-config": "version: 2\nethernets:\n  id0:\n    match: {macaddress: \"" + machineMAC + "\"}\n    addresses: [" + machineIP + "/24]\n",
				},
			},
		}
	}
	return w, nil
}

func (s *site) Permit(_ context.Context, _ string, r install.PermissionRequest) (install.PermissionEnvelope, error) {
	if r.Serial != machineSerial {
		return install.PermissionEnvelope{}, install.ErrStale
	}
	b, err := json.Marshal(intent.Permission{
		Site: "lon1", Agent: "a1", Seq: 1, ID: "p-" + r.Task, Act: r.Act, Machine: "m1", UUID: machineUUID,
		Serial: machineSerial, Disks: []intent.DiskID{s.disk()}, Generation: 3, Claim: r.Epoch, Time: time.Unix(1, 0).UTC(),
	})
	if err != nil {
		return install.PermissionEnvelope{}, err
	}
	env, err := document.Sign(intent.PayloadPermission, b, s.key)
	if err != nil {
		return install.PermissionEnvelope{}, err
	}
	return install.PermissionEnvelope{Envelope: *env}, nil
}

func (s *site) Progress(context.Context, string, install.Progress) (install.Control, error) {
	return install.Control{}, nil
}

func (s *site) Log(_ context.Context, _ string, lines []install.LogLine) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, lines...)
	return nil
}

func (s *site) Receipt(context.Context, string, erasure.Proof) (install.ReceiptPlace, error) {
	return install.ReceiptPlace{}, install.ErrStale
}

func (s *site) Done(_ context.Context, _ string, d install.Done) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = &d
	if s.scenario.done != nil {
		s.scenario.done(d)
	}
	return nil
}

var _ install.Site = (*site)(nil)

// serve runs an HTTP server until the test ends.
func serve(t testing.TB, ln net.Listener, h http.Handler) {
	t.Helper()
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan struct{})
	go func() { defer close(ended); srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-ended })
}

// TestInstallFromBareDisk powers a BIOS machine on through the BMC simulator, boots the ramdisk, installs the tiny image
// and boots it from disk.
func TestInstallFromBareDisk(t *testing.T) { installTiny(t, vm.BIOS) }

// TestInstallFromBareDiskUEFI is the same with OVMF.
func TestInstallFromBareDiskUEFI(t *testing.T) { installTiny(t, vm.UEFIPXE) }

func installTiny(t *testing.T, fw vm.Firmware) {
	lab.Need(t, lab.Built(imagePath, "image-tiny"))
	ctx, machine, _ := installBareDisk(t, scenario{
		fw: fw, image: imagePath, diskBytes: 128 << 20, limit: 4 * time.Minute,
		userData: "#cloud-config\nusers:\n  - name: ops\n    ssh_authorized_keys: [ssh-ed25519 AAAA ops@example]\n" + phoneHome,
	})
	if _, err := machine.WaitSerial(ctx, "skerry-tiny: phoned home", 0); err != nil {
		t.Error(err)
	}
	if err := machine.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if _, err := machine.WaitSerial(ctx, "skerry-tiny: power button", 0); err != nil {
		t.Error(err)
	}
}

// phoneHome is the end of user-data in every scenario.
const phoneHome = "phone_home:\n  url: http://" + serverIP + ":7480/phone-home\n  post: all\n"

// installBareDisk goes from power-on to phone-home and looks at what the installer told. ctx ends with the machine.
func installBareDisk(t testing.TB, sc scenario) (context.Context, *vm.Machine, *netlab.Namespace) {
	t.Helper()
	lab.Need(t, lab.Root, lab.Tool("ip", "iproute2"), lab.Tool("qemu-system-x86_64", "qemu-system-x86"),
		lab.Tool("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"), lab.Built(ramdiskPath, "ramdisk"))
	img, err := os.ReadFile(sc.image)
	if err != nil {
		t.Fatal(err)
	}
	m, err := chunk.ScanManifest(bytes.NewReader(img))
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{scenario: sc, key: key, manifest: m}
	rack, pin, called := s.open(t, img)
	ctx, machine, controller := newMachine(t, sc, rack, pin)

	redfish(t, controller, "PATCH", "/redfish/v1/Systems/1", `{"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}`)
	begun := time.Now()
	redfish(t, controller, "POST", "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", `{"ResetType":"On"}`)
	select {
	case got := <-called:
		if got != "web-1 i-1" {
			t.Errorf("phoned home as %q", got)
		}
	case <-ctx.Done():
		b, _ := os.ReadFile(machine.SerialLog())
		t.Fatalf("nobody phoned home; the serial line ends in:\n%s", b[max(0, len(b)-4000):])
	}
	t.Logf("power-on to phone-home: %.1f s", time.Since(begun).Seconds())
	s.check(t)
	return ctx, machine, rack
}

func (s *site) answers() install.Site {
	if s.as != nil {
		return s.as
	}
	return s
}

// open makes the rack's network with the install server and the image in it. It returns the namespace, the server's pin,
// and what was posted to phone-home.
func (s *site) open(t testing.TB, img []byte) (*netlab.Namespace, string, <-chan string) {
	t.Helper()
	l := lab.New(t)
	rack, err := l.Namespace("rk")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{rack.Bridge("br0"), rack.Addr("br0", serverIP+"/24"), rack.Tap("m1", "br0")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cert, err := bmc.SelfSigned(net.ParseIP(serverIP))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	api, err := rack.Listen("tcp", serverIP+":7444")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, tls.NewListener(api, &tls.Config{Certificates: []tls.Certificate{cert}}), install.NewHandler(s.answers()))
	files, err := rack.Listen("tcp", serverIP+":7480")
	if err != nil {
		t.Fatal(err)
	}
	called := make(chan string, 10)
	mux := http.NewServeMux()
	mux.HandleFunc("/assets/image", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(img))
	})
	mux.HandleFunc("/assets/manifest", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.manifest.Encode()))
	})
	mux.HandleFunc("POST /phone-home", func(w http.ResponseWriter, r *http.Request) {
		called <- r.FormValue("hostname") + " " + r.FormValue("instance_id")
	})
	serve(t, files, mux)

	return rack, install.Pin(leaf), called
}

// newMachine makes a machine of the given firmware with its controller; it runs until the test or ctx ends; ctx ends early
// when QEMU fails.
func newMachine(t testing.TB, sc scenario, rack *netlab.Namespace, pin string) (context.Context, *vm.Machine, *bmc.BMC) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), sc.limit)
	dir := t.TempDir()
	var controller *bmc.BMC
	disks := sc.disks
	if disks == nil {
		disks = []vm.Disk{{Path: filepath.Join(dir, "disk.img"), SizeBytes: sc.diskBytes, Serial: diskSerial}}
	}
	machine, err := vm.New(vm.Config{
		Name: "m1", Dir: filepath.Join(dir, "m1"), NS: rack, Firmware: sc.fw, MemoryMiB: sc.memoryMiB, NICs: []vm.NIC{{MAC: machineMAC, Tap: "m1"}}, Disks: disks,
		Serial: machineSerial, UUID: machineUUID, Manufacturer: "ACME", Product: "R1",
		Boot: func() vm.Device { return controller.NextBoot() }, OnEvent: func(e vm.Event) {
			t.Logf("%s %s %s %s", e.Machine, e.Kind, e.Boot, e.Detail)
			if e.Kind == "failed" {
				cancel() // no use in waiting
			}
		},
		Kernel: kernelPath, Initrd: ramdiskPath,
		Append: fmt.Sprintf("console=ttyS0 panic=1 quiet no_timer_check skerry.agents=10.88.0.99:7444,%s:7444 skerry.pin=%s skerry.token=token1 skerry.ip=%s/24 BOOTIF=01-%s",
			serverIP, pin, machineIP, strings.ReplaceAll(machineMAC, ":", "-")),
	})
	if err != nil {
		t.Fatal(err)
	}
	controller = bmc.New(bmc.Config{User: "admin", Password: "secret", Firmware: sc.fw}, machine)
	ended := make(chan error, 1)
	go func() { ended <- machine.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })

	return ctx, machine, controller
}

func redfish(t testing.TB, h http.Handler, method, path, body string) {
	t.Helper()
	r, err := http.NewRequest(method, path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth("admin", "secret")
	w := &answer{header: http.Header{}}
	h.ServeHTTP(w, r)
	if w.status/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, path, w.status, w.body.String())
	}
}

// answer is a response in memory.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

// check looks at what the installer told the site.
func (s *site) check(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.report == nil || s.ended == nil {
		t.Fatal(errors.New("no inventory or no end of the task"))
	}
	firmware := "uefi"
	if s.fw == vm.BIOS {
		firmware = "bios"
	}
	r := s.report
	got := []any{r.Serial, r.UUID, r.Vendor, r.Product, r.Boot.Firmware, len(r.Disks), len(r.NICs), r.Faults}
	want := []any{machineSerial, machineUUID, "ACME", "R1", firmware, 1, 1, []inventory.Fault(nil)}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("inventory: -want +got\n%s", d)
	}
	d := s.ended
	if !d.OK || !d.Wrote || d.Permission != "p-t1" || d.Blocks != uint64(len(s.manifest.Chunks)+3)/4 || len(d.Blames) != 0 {
		t.Errorf("done: %+v", d)
	}
	b, _ := json.MarshalIndent(r, "", "  ")
	t.Logf("inventory: %s", b)
	t.Logf("done: %+v", *d)
}
