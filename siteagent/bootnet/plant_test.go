package bootnet

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/httpboot"
	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/bmclogin"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/reconcile/firmware"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	sim "github.com/skerry-metal/skerry/test/sim/bmc"
	"github.com/skerry-metal/skerry/test/sim/memnet"
	"github.com/skerry-metal/skerry/test/sim/vm"
)

// plant is one agent and machines whose controllers and installers are simulated, in a bubble's time. The agent's controller, journal,
// claims, BMC sessions and boot answers are real; its doors are called, not dialled. The BMCs are behind TLS on a network in memory.
type plant struct {
	*bench
	net   *memnet.Net
	units []*unit
	acts  []intent.Act // that may be permitted now
	ctx   context.Context
	stop  context.CancelFunc
	wg    sync.WaitGroup // the machines' firmware, and the agent
	racks sync.WaitGroup // the controllers' doors
}

// The times of a simulated machine.
const (
	unitPost  = 40 * time.Second // from power to the first boot device
	unitWrite = 45 * time.Second // an image on its disk
	unitBoot  = 20 * time.Second // of the installed system
)

// unit is one machine: a switch, firmware that does what its controller says, an installer and one disk.
type unit struct {
	p          *plant
	name, uuid string
	mac        string
	addr       netip.Addr
	bmcIP      string
	bmc        *sim.BMC
	meter      *meter

	mu     sync.Mutex // guards what follows
	quirk  quirk      // of the machine; "" none
	on     bool
	cut    context.CancelFunc // what runs on it
	image  uint64             // generation of the image on its disk; 0 none
	erased int                // times that its disk was
	up     uint64             // generation of the system that came up last
	phone  string             // token of the seed on its disk
	used   map[string]string  // permissions by which its disk was written, with the session that had them
}

// newPlant founds a site with n machines, all of them wanted by one array.
func newPlant(t *testing.T, n int) *plant {
	t.Helper()
	time.Sleep(time.Until(time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC))) // a bubble begins in 2000, before this code existed
	dir, err := os.MkdirTemp("/dev/shm", "skerry-plant-")                // each record is synced: on a disk that is most of the time
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &plant{bench: newAgentIn(t, dir, sitetest.NewAuthor(t), "a1"), net: memnet.New(), acts: []intent.Act{intent.ActInstall}}
	p.ctx, p.stop = context.WithCancel(context.Background())
	docs := []string{
		`{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"lon1","uid":"s1","generation":1},"spec":{"region":"eu","zone":"a","bootSlots":64,"installer":{"kernel":"kernel","ramdisk":"ramdisk"}}}`,
		sitetest.AssetDoc("kernel"), sitetest.AssetDoc("ramdisk"), sitetest.AssetDoc("tiny"), sitetest.ImageDoc, sitetest.MachineTypeDoc("small", 1), poolDoc,
		`{"apiVersion":"skerry/v1","kind":"Secret","metadata":{"name":"bmc","site":"lon1","uid":"sec1","generation":1},"spec":{"type":"bmc"}}`,
		`{"apiVersion":"skerry/v1","kind":"Project","metadata":{"name":"acme","uid":"pr1","generation":1},"spec":{"sites":["lon1"]}}`,
		`{"apiVersion":"skerry/v1","kind":"Quota","metadata":{"name":"q","project":"acme","site":"lon1","uid":"q1","generation":1},"spec":{"machines":{"small":5000}}}`,
		`{"apiVersion":"skerry/v1","kind":"Infrastructure","metadata":{"name":"shop","project":"acme","site":"lon1","uid":"inf1","generation":1},"spec":{}}`,
	}
	cert, err := sim.SelfSigned() // one for all: a thousand keys are a thousand times the same
	p.must(err)
	for i := range n {
		u := &unit{
			p: p, name: fmt.Sprintf("m%d", i), uuid: fmt.Sprintf("00000000-0000-4000-8000-%012x", i+1), mac: fmt.Sprintf("52:54:00:88:%02x:%02x", i>>8, i&255),
			addr: netip.AddrFrom4([4]byte{10, 88, 16 + byte(i>>8), byte(i)}), bmcIP: fmt.Sprintf("10.9.%d.%d", i>>8, i&255), used: map[string]string{},
		}
		p.units = append(p.units, u)
		u.bmc = sim.New(sim.Config{User: "root", Password: "first-password", Firmware: vm.BIOS, UUID: u.uuid, Serial: u.serial(), MACs: []string{u.mac}}, u)
		u.serve(cert)
		docs = append(docs, fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":%q,"site":"lon1","uid":%q,"generation":1},
			"spec":{"serial":%q,"uuid":%q,"bmc":{"address":"%s:443","protocol":"redfish","secret":"bmc"},"nics":[{"mac":%q,"boot":true,"address":%q}]}}`,
			u.name, u.name, u.serial(), u.uuid, u.bmcIP, u.mac, u.addr))
	}
	for part := range slices.Chunk(docs, 200) { // an entry has 256 objects at most
		p.receive(p.author.Put(part...))
	}
	p.receive(p.author.Entry(intent.EntryRoster, intent.RosterBody{Generation: 1, Agents: []intent.RosterAgent{{
		ID: "a1", State: "agent", Addr: []string{"10.99.1.11:7444"}, Boot: []string{"10.88.0.11"}, TLS: [][]byte{[]byte("key of a1")},
	}}}), p.author.Put(sitetest.ArrayDoc("web", 1, n)))
	quiet := slog.New(slog.DiscardHandler)
	sessions := &bmclogin.Sessions{Logins: &bmclogin.Logins{Config: bmclogin.Config{
		Site: "lon1", Journal: p.journal, Now: time.Now, Log: quiet, Dial: p.net.Host("10.99.1.11").DialContext, Version: func(string) uint64 { return 1 },
		Secret: func(string) (seal.Secret, error) {
			return seal.NewSecret([]byte(`{"username":"root","password":"first-password"}`)), nil
		},
	}}}
	p.dial = sessions.Dial
	p.wg.Go(func() {
		p.note(p.inst.control.Run(p.ctx)) // gives its sessions back first
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		p.note(sessions.Run(ended))
	})
	p.wg.Go(func() { p.note(p.answers.Run(p.ctx)) })
	return p
}

func (p *plant) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) note(err error) {
	if err != nil {
		p.t.Error(err)
	}
}

// over stops everything, and lets the last timers of the libraries go by: a bubble must end empty.
func (p *plant) over() {
	p.stop()
	for _, u := range p.units {
		p.note(u.Off(context.Background()))
	}
	p.wg.Wait()
	p.racks.Wait()
	time.Sleep(2 * time.Minute)
}

// view is what the agent has of the machine.
func (u *unit) view() reconcile.MachineView {
	v, _ := u.p.inst.control.View(u.name)
	return v
}

func (u *unit) serial() string { return "SN-" + u.name }

func (u *unit) disks() []inventory.Disk {
	return []inventory.Disk{{Name: "vda", Serial: "DISK-" + u.name, SizeBytes: 256 << 20, BlockBytes: 512, Media: "ssd", Transport: "virtio"}}
}

// serve opens the controller's door.
func (u *unit) serve(cert tls.Certificate) {
	ln, err := u.p.net.Host(u.bmcIP).Listen("tcp", u.bmcIP+":443")
	u.p.must(err)
	u.meter = &meter{next: u.bmc, sessions: u.bmc.Sessions}
	srv := &http.Server{Handler: u.meter, ErrorLog: log.New(io.Discard, "", 0)}
	stop := context.AfterFunc(u.p.ctx, func() {
		u.p.wg.Wait() // the agent closes its sessions
		_ = srv.Close()
	})
	u.p.racks.Go(func() {
		defer stop()
		_ = srv.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})) // ends with the plant
	})
}

// meter looks at what a controller is asked: how many sessions are open at once, and whether requests come faster than two a second in
// bursts of four.
type meter struct {
	next     http.Handler
	sessions func() int

	mu     sync.Mutex // guards what follows
	most   int        // sessions at once
	n      int        // requests
	tokens float64
	last   time.Time
	fast   int // requests that came too early
}

func (m *meter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	now := time.Now()
	if m.n++; m.last.IsZero() {
		m.tokens = 5
	}
	m.tokens, m.last = min(5, m.tokens+2*now.Sub(m.last).Seconds()), now
	if m.tokens--; m.tokens < -0.1 { // the way of a packet is not always as long; the fifth is one that waited for its connection
		m.fast++
	}
	m.mu.Unlock()
	m.next.ServeHTTP(w, r)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.most = max(m.most, m.sessions())
}

// On implements sim.Power.
func (u *unit) On(context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.on || u.quirk == switchDead || u.p.ctx.Err() != nil {
		return nil
	}
	u.on = true
	ctx, cancel := context.WithCancel(u.p.ctx)
	u.cut = cancel
	u.p.wg.Go(func() {
		for u.start(ctx) { // warm starts
		}
	})
	return nil
}

// Off implements sim.Power.
func (u *unit) Off(context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.on && (u.quirk != switchStuck || u.p.ctx.Err() != nil) {
		u.on = false
		u.cut()
	}
	return nil
}

// Reset implements sim.Power.
func (u *unit) Reset(ctx context.Context) error { return errors.Join(u.Off(ctx), u.On(ctx)) }

// Shutdown implements sim.Power: nobody hears the button.
func (u *unit) Shutdown(context.Context) error { return nil }

// PowerOn implements sim.Power.
func (u *unit) PowerOn() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.on
}

// sleep waits; false: the power went.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// start is one start of the firmware; true: the machine starts anew.
func (u *unit) start(ctx context.Context) bool {
	dev := u.bmc.NextBoot()
	u.mu.Lock()
	lies := u.quirk == orderLies
	u.mu.Unlock()
	if lies {
		dev = vm.BootDisk
	}
	if !sleep(ctx, unitPost) {
		return false
	}
	if dev == vm.BootNet {
		if token := u.script(ctx); token != "" {
			return u.installer(ctx, token)
		}
	}
	u.mu.Lock()
	image, phone := u.image, u.phone
	u.mu.Unlock()
	for image > 0 && sleep(ctx, unitBoot) { // cloud-init tries until it is heard
		if err := u.p.answers.PhoneHome(ctx, phone, u.addr, map[string]string{"hostname": u.name}); err == nil {
			u.mu.Lock()
			u.up = image
			u.mu.Unlock()
			break
		}
	}
	return false
}

// script is what iPXE gets: the token in it, or none.
func (u *unit) script(ctx context.Context) string {
	for range 3 {
		text, _, err := u.p.answers.Script(ctx, httpboot.ScriptRequest{MAC: strings.ReplaceAll(u.mac, ":", "-"), Remote: u.addr})
		if m := regexp.MustCompile(`skerry\.token=(\S+)`).FindStringSubmatch(text); err == nil && m != nil {
			return m[1]
		}
		if !sleep(ctx, time.Second) {
			break
		}
	}
	return ""
}

// installer is what the ramdisk does; true: it starts the machine anew.
func (u *unit) installer(ctx context.Context, token string) bool {
	s, err := u.p.inst.Hello(ctx, install.Hello{Token: token, Nonce: rand.Text(), Serial: u.serial(), UUID: u.uuid, MACs: []string{u.mac}, Firmware: "bios"})
	if err != nil {
		return false
	}
	for ctx.Err() == nil {
		w, err := u.p.inst.Work(ctx, s.ID, 20*time.Second)
		if err != nil {
			w.Kind = install.WorkHalt
		}
		switch w.Kind {
		case install.WorkInspect:
			r := inventory.Report{
				Serial: u.serial(), UUID: u.uuid, CPUs: []inventory.CPU{{Cores: 2, Threads: 2}}, Memory: 1 << 30, Disks: u.disks(),
				NICs: []inventory.NIC{{Name: "eth0", MAC: u.mac}}, Boot: inventory.Boot{Firmware: "bios"},
			}
			err = u.p.inst.Inventory(ctx, s.ID, r)
		case install.WorkInstall, install.WorkErase:
			err = u.write(ctx, s.ID, w)
		case install.WorkReboot:
			return true
		case install.WorkOff:
			_ = u.Off(ctx)
			return false
		case install.WorkHalt:
			sleep(ctx, 30*time.Second)
		}
		if err != nil {
			sleep(ctx, 5*time.Second)
		}
	}
	return false
}

// write does what the site ordered, by its permission alone.
func (u *unit) write(ctx context.Context, session string, w install.Work) error {
	act := map[install.WorkKind]intent.Act{install.WorkInstall: intent.ActInstall, install.WorkErase: intent.ActErase}[w.Kind]
	env, err := u.p.inst.Permit(ctx, session, install.PermissionRequest{
		Task: w.Task, Act: act, Generation: w.Generation, Epoch: w.Epoch, Serial: u.serial(), UUID: u.uuid, Disks: u.disks(),
	})
	if err != nil {
		return err
	}
	var p intent.Permission
	if err := json.Unmarshal(env.Envelope.Payload, &p); err != nil {
		return err
	}
	u.mu.Lock()
	again := u.used[p.ID] != "" && u.used[p.ID] != session
	u.used[p.ID] = session
	u.image, u.phone = 0, "" // from here on nothing of what was there is whole
	u.mu.Unlock()
	if again || p.Machine != u.name || p.Serial != u.serial() || p.Act != act || !slices.Contains(u.p.acts, act) || p.Generation != w.Generation ||
		!slices.Equal(p.Disks, []intent.DiskID{u.disks()[0].ID()}) {
		u.p.t.Errorf("%s: permitted to %s for the work %+v, another session's %v: %+v", u.name, act, w, again, p)
	}
	began := time.Now()
	for time.Since(began) < unitWrite {
		if !sleep(ctx, 5*time.Second) {
			return ctx.Err()
		}
		c, err := u.p.inst.Progress(ctx, session, install.Progress{Task: w.Task, Phase: "write", Total: 4096})
		if err == nil && c.Abort {
			return errors.New(c.Reason)
		}
	}
	u.mu.Lock()
	if act == intent.ActInstall {
		u.image, u.phone = w.Generation, phoneToken(w.Install.Seed)
	} else {
		u.erased++
	}
	u.mu.Unlock()
	if act == intent.ActInstall {
		return u.p.inst.Done(ctx, session, install.Done{Task: w.Task, Generation: w.Generation, OK: true, Bytes: 4096, Permission: p.ID})
	}
	_, err = u.p.inst.Receipt(ctx, session, erasure.Proof{
		Task: w.Task, Generation: w.Generation, Permission: p.ID, Serial: u.serial(), UUID: u.uuid, Tool: erasure.Tool{Version: "t"},
		Drives: []erasure.Drive{{
			DiskID: p.Disks[0], Media: "ssd", Method: "nvme-format-crypto", Level: erasure.Purge, Start: began, End: time.Now(), DeviceStatus: "format completed",
			Canary: erasure.Canary{Blocks: 66, SeedDigest: intent.DigestOf([]byte("seed"))},
		}},
	})
	return err
}

// phoneToken finds the token by which the installed system phones home.
func phoneToken(seed map[string]string) string {
	for _, text := range seed {
		if m := regexp.MustCompile(`/nocloud/([^/"]+)/phone-home`).FindStringSubmatch(text); m != nil {
			return m[1]
		}
	}
	return ""
}

// runs tells whether the machine is installed: as the agent says, and in truth.
func (u *unit) runs() (said, really bool) {
	v := u.view()
	u.mu.Lock()
	defer u.mu.Unlock()
	return v.Status.State == intent.StateRunning, u.on && u.image > 0 && u.up == u.image && v.Binding != nil && v.Binding.Generation == u.image
}

// isClean tells whether the machine was erased and may be given to others: as the agent says, and in truth. A BIOS that is said to be reset
// has its defaults.
func (u *unit) isClean() (said, really bool) {
	v, settings := u.view(), u.bmc.BIOS()
	u.mu.Lock()
	defer u.mu.Unlock()
	return v.Status.State == intent.StateAvailable, u.image == 0 && u.erased > 0 && v.Erased != nil && v.Release != nil && v.Erased.Generation == v.Release.Generation &&
		v.Firmware != nil && (v.Firmware.BIOS != firmware.Reset || settings["SerialConsole"] == "Disabled")
}

// told returns all that the agent says of each machine that went wrong: reasons in states and events.
func (p *plant) told() map[string]string {
	out := map[string]string{}
	p.must(p.journal.Events(nil, func(e intent.Event) error {
		out[e.Machine] += e.Type + ": " + e.Message + "\n"
		return nil
	}))
	for _, u := range p.units {
		s := u.view().Status
		out[u.name] += fmt.Sprintf("%s: %s", s.State, s.Reason)
	}
	return out
}

var _ sim.Power = (*unit)(nil)
