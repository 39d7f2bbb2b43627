package bootnet

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/boot/metadata"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/receipts"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// installers answers the install protocol (boot.md section 6). Sessions are good at every agent: what one knows is in the
// journal, and session ids verify by the site's boot key.
type installers struct {
	w        *effective.Site
	self     string
	domain   string
	sign     func() ed25519.PrivateKey
	bootKeys func() ([]seal.Secret, error)
	control  *reconcile.Controller
	// forward asks the agent that owns the machine for the permission.
	forward  func(ctx context.Context, owner, session string, r install.PermissionRequest) (install.PermissionEnvelope, error)
	owners   func(id string) []string
	receipts *receipts.Desk
	fresh    func(ctx context.Context, b reconcile.Binding) (string, error)
	log      *slog.Logger

	mu     sync.Mutex           // guards what follows
	noted  map[string]time.Time // machine -> last progress record
	phases map[string]string
	waits  map[string]string // machine -> what the last event about its waiting was for
}

const (
	noteEvery = 5 * time.Second  // progress into the journal: each costs an fsync on every agent
	waitEvery = 30 * time.Second // the same for an installer that only waits
	httpPort  = 7480
	tlsPort   = 7444
)

func (i *installers) signers() (signer, error) {
	keys, err := i.bootKeys()
	if err != nil {
		return signer{}, fmt.Errorf("cannot make boot tokens: %w", err)
	}
	return newSigner(keys)
}

// agentsFor lists the doors of all agents in the machine's order.
func (i *installers) agentsFor(machine string) []install.Agent {
	roster := i.w.State().Roster
	byID := map[string]intent.RosterAgent{}
	for _, a := range roster.Agents {
		byID[a.ID] = a
	}
	var out []install.Agent
	for _, id := range claim.Rendezvous(machine, slices.Collect(maps.Keys(byID))) {
		a := byID[id]
		for _, key := range a.TLS { // two while it changes its keys: the machine tries both
			for _, ip := range a.Boot {
				out = append(out, install.Agent{Addr: fmt.Sprintf("%s:%d", ip, tlsPort), Pin: intent.DigestOf(key).Hex()})
			}
		}
	}
	return out
}

// Hello implements install.Site.
func (i *installers) Hello(ctx context.Context, h install.Hello) (install.Session, error) {
	sg, err := i.signers()
	if err != nil {
		return install.Session{}, fmt.Errorf("%w: %w", install.ErrBusy, err)
	}
	now := time.Now()
	for machine, r := range i.w.Journal.View(reconcile.KindWindow) {
		var win reconcile.Window
		if json.Unmarshal(r.Body, &win) != nil || !sg.verifies(h.Token, func(s signer) string { return s.boot(win) }) {
			continue
		}
		if old, ok := claim.Load[reconcile.Session](i.w.Journal, reconcile.KindSession, machine); ok && old.Nonce == win.Nonce {
			if h.Nonce != "" && same(old.Boot, h.Nonce) {
				return i.answer(old, win), nil // its first answer was lost
			}
			return install.Session{}, i.reused(ctx, machine, win, h)
		}
		if v, ok := i.control.View(machine); !ok || v.Window == nil || v.Window.Nonce != win.Nonce || !v.Awaited() {
			return install.Session{}, install.ErrToken
		}
		return i.open(ctx, sg, machine, win, h, now)
	}
	i.log.Warn("hello with an unknown token", "serial", h.Serial)
	return install.Session{}, install.ErrToken
}

// reused cancels both holders of a token: one of them is not the machine.
func (i *installers) reused(ctx context.Context, machine string, win reconcile.Window, h install.Hello) error {
	err := i.w.Journal.Append(ctx, claim.Replicated,
		claim.Draft{Kind: reconcile.KindEvidence, Key: machine, Body: reconcile.Evidence{Nonce: win.Nonce, What: "a burnt boot token came again, from serial " + h.Serial, Time: time.Now().UTC()}},
		reconcile.Event(machine, win.Task, intent.Epoch{}, "machine.evidence.contradicts", "second hello with one boot token", map[string]string{"serial": h.Serial}))
	if err != nil && !errors.Is(err, claim.ErrWaitingPeer) {
		return fmt.Errorf("%w: %w", install.ErrBusy, err)
	}
	return install.ErrTokenReused
}

func (i *installers) open(ctx context.Context, sg signer, machine string, win reconcile.Window, h install.Hello, now time.Time) (install.Session, error) {
	s := reconcile.Session{
		ID: sg.session(machine, win.Nonce), Machine: machine, Nonce: win.Nonce, Boot: h.Nonce, Agent: i.self, Serial: h.Serial, UUID: h.UUID, Since: now.UTC(),
	}
	err := i.w.Journal.Append(ctx, claim.Replicated,
		claim.Draft{Kind: reconcile.KindSession, Key: machine, Body: s},
		reconcile.Event(machine, win.Task, intent.Epoch{}, "machine.boot.hello", "the installer is up", map[string]string{"serial": h.Serial, "uuid": h.UUID, "firmware": h.Firmware}))
	if err != nil && !errors.Is(err, claim.ErrWaitingPeer) {
		return install.Session{}, fmt.Errorf("%w: %w", install.ErrBusy, err)
	}
	i.w.Hear(machine)
	return i.answer(s, win), nil
}

func (i *installers) answer(s reconcile.Session, win reconcile.Window) install.Session {
	return install.Session{ID: s.ID, Machine: s.Machine, Agents: i.agentsFor(s.Machine), Epoch: win.Epoch, SignKeys: i.signKeys(), Site: i.w.ID()}
}

func (i *installers) signKeys() [][]byte {
	var out [][]byte
	for _, a := range i.w.State().Roster.Agents {
		out = append(out, a.Sign...)
	}
	return out
}

// session returns the machine of a session id, if it is the machine's present one and was not cancelled.
func (i *installers) session(id string) (reconcile.Session, error) {
	sg, err := i.signers()
	if err != nil {
		return reconcile.Session{}, fmt.Errorf("%w: %w", install.ErrBusy, err)
	}
	var s reconcile.Session
	nonceOf := func(machine string) string {
		s, _ = claim.Load[reconcile.Session](i.w.Journal, reconcile.KindSession, machine)
		return s.Nonce
	}
	machine, ok := sg.sessionMachine(id, nonceOf)
	if !ok || s.ID != id || machine != s.Machine {
		return s, install.ErrSession
	}
	if r, ok := claim.Load[reconcile.Evidence](i.w.Journal, reconcile.KindEvidence, machine); ok && r.Nonce == s.Nonce {
		return s, install.ErrSession
	}
	i.w.Hear(machine)
	return s, nil
}

// Inventory implements install.Site.
func (i *installers) Inventory(ctx context.Context, session string, r inventory.Report) error {
	s, err := i.session(session)
	if err != nil {
		return err
	}
	f := factsOf(&r, time.Now())
	err = i.w.Journal.Append(ctx, claim.Replicated,
		claim.Draft{Kind: reconcile.KindInventory, Key: s.Machine, Body: f},
		claim.Draft{Kind: "report", Key: s.Machine, Body: r},
		reconcile.Event(s.Machine, "", intent.Epoch{}, "machine.inventory", fmt.Sprintf("%d cpu, %d MiB, %d disks, %s", f.CPUs, f.MemoryMiB, len(f.Disks), f.Firmware), nil))
	if errors.Is(err, claim.ErrWaitingPeer) {
		return nil
	}
	return err
}

// factsOf keeps what planning needs of a report.
func factsOf(r *inventory.Report, now time.Time) reconcile.Facts {
	f := reconcile.Facts{
		Serial: r.Serial, UUID: r.UUID, Vendor: r.Vendor, Product: r.Product, Firmware: r.Boot.Firmware,
		MemoryMiB: int(r.Memory >> 20), Time: now.UTC(),
	}
	for _, c := range r.CPUs {
		f.CPUs += max(c.Threads, c.Cores, 1)
	}
	for _, n := range r.NICs {
		f.MACs = append(f.MACs, n.MAC)
	}
	for _, d := range r.Disks {
		if !d.Fixed() {
			continue
		}
		f.Disks = append(f.Disks, reconcile.DiskFacts{DiskID: d.ID(), Media: d.Media, Model: d.Model})
		f.Signed = f.Signed || len(d.Signatures) > 0
	}
	return f
}

// Work implements install.Site.
func (i *installers) Work(ctx context.Context, session string, wait time.Duration) (install.Work, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		_, wake := i.w.Journal.Rev()
		s, err := i.session(session)
		if err != nil {
			return install.Work{}, err
		}
		v, ok := i.control.View(s.Machine)
		if !ok {
			return install.Work{Kind: install.WorkHalt, Reason: "the machine is no longer declared"}, nil
		}
		spare := reconcile.Spares(i.w.Views(), i.w.Now().Overlay.Catalog, reconcile.Bindings(i.w.Journal))[s.Machine]
		order, reason := reconcile.DecideWork(v, spare)
		if order != reconcile.OrderWait {
			return i.order(ctx, v, s, order, reason)
		}
		i.note(s, reconcile.ProgressWait, reconcile.Progress{Session: s.ID, Phase: reconcile.ProgressWait}, waitEvery)
		select {
		case <-ctx.Done():
			return install.Work{Kind: install.WorkWait, Reason: reason}, nil
		case <-wake:
		case <-i.w.State().Wake:
		}
	}
}

func (i *installers) order(ctx context.Context, v reconcile.MachineView, s reconcile.Session, order reconcile.Order, reason string) (install.Work, error) {
	w := install.Work{Kind: install.WorkKind(order), Reason: reason, Generation: v.Status.Generation}
	if e, err := intent.ParseEpoch(v.Status.Epoch); err == nil {
		w.Epoch = e
	}
	switch order {
	case reconcile.OrderInstall:
		iw, err := i.installWork(v)
		if err != nil {
			return install.Work{Kind: install.WorkWait, Reason: err.Error()}, nil
		}
		w.Task, w.Install = v.TaskID(), iw
	case reconcile.OrderErase:
		w.Task, w.Erase = v.TaskID(), eraseWork(v)
	case reconcile.OrderReboot, reconcile.OrderOff:
		phase := map[reconcile.Order]string{reconcile.OrderReboot: reconcile.ProgressBoot, reconcile.OrderOff: reconcile.ProgressOff}[order]
		err := i.w.Journal.Append(context.WithoutCancel(ctx), claim.Local,
			claim.Draft{Kind: reconcile.KindProgress, Key: s.Machine, Body: reconcile.Progress{Session: s.ID, Phase: phase}},
			reconcile.Event(s.Machine, v.TaskID(), intent.Epoch{}, "machine.boot."+phase, reason, nil))
		if err != nil {
			return install.Work{}, err
		}
	}
	return w, nil
}

// installWork says what to write where. The disk comes from the accepted inventory.
func (i *installers) installWork(v reconcile.MachineView) (*install.InstallWork, error) {
	e := i.w.Now()
	img, _, ok := intent.Lookup[*intent.ImageSpec](e.Overlay.Catalog, intent.KindImage, "", v.Binding.Image)
	if !ok {
		return nil, fmt.Errorf("image %s is not known here", v.Binding.Image)
	}
	asset, _, ok := intent.Lookup[*intent.AssetSpec](e.Overlay.Catalog, intent.KindAsset, "", img.Asset)
	if !ok {
		return nil, fmt.Errorf("asset %s is not known here", img.Asset)
	}
	disk, ok := reconcile.ChooseDisk(v.Accepted.Disks, max(img.MinDiskSize, asset.Size+seedRoom))
	if !ok {
		return nil, fmt.Errorf("no disk fits the image, or two disks have one identity")
	}
	in, err := i.instance(v)
	if err != nil {
		return nil, err
	}
	work := &install.InstallWork{
		Image: asset.Digest, Manifest: asset.Manifest, SizeBytes: asset.Size, Disk: disk.DiskID,
		Seed: metadata.Render(in).Files(), Verify: install.VerifyFull, Firmware: v.Accepted.Firmware,
	}
	if img.Verify == "sample" {
		work.Verify = install.VerifySample
	}
	for _, a := range i.agentsFor(v.Name) {
		host, _, _ := strings.Cut(a.Addr, ":")
		base := fmt.Sprintf("http://%s:%d/assets/", host, httpPort)
		work.Sources = append(work.Sources, base+asset.Digest.Hex()+"/image")
		work.Manifests = append(work.Manifests, base+asset.Manifest.Hex()+"/manifest")
	}
	return work, nil
}

// seedRoom is what an installed disk needs beside the image: the cidata partition at its end.
const seedRoom = 32 << 20

// instance is what an installed machine is told about itself.
func (i *installers) instance(v reconcile.MachineView) (metadata.Instance, error) {
	sg, err := i.signers()
	if err != nil {
		return metadata.Instance{}, err
	}
	e := i.w.Now()
	b := v.Binding
	in := metadata.Instance{
		ID: fmt.Sprintf("%s-%d", b.Instance, b.Generation), Hostname: fmt.Sprintf("%s-%d", b.Array, b.Index), Domain: i.w.ID() + "." + i.domain,
	}
	if img, _, ok := intent.Lookup[*intent.ImageSpec](e.Overlay.Catalog, intent.KindImage, "", b.Image); ok {
		in.User = img.DefaultUser
	}
	if ia, _, ok := intent.Lookup[*intent.InstanceArraySpec](e.Overlay.Catalog, intent.KindInstanceArray, b.Project, b.Array); ok {
		in.UserData = ia.UserData
		for _, k := range ia.SSHKeys {
			if key, _, ok := intent.Lookup[*intent.SSHKeySpec](e.Overlay.Catalog, intent.KindSSHKey, b.Project, k); ok {
				in.SSHKeys = append(in.SSHKeys, key.PublicKey)
			}
		}
	}
	mac, _ := intent.ParseMAC(v.Spec.BootNIC().MAC)
	addr, ok := effective.Addresses(e.Overlay.Catalog, e.State.Roster, i.w.ID())[mac]
	if !ok {
		return in, fmt.Errorf("no subnet pool gives %s an address", v.Name)
	}
	nic := metadata.NIC{MAC: mac, Addrs: []netip.Prefix{addr.Prefix()}}
	if gw, err := netip.ParseAddr(addr.Pool.Gateway); err == nil {
		nic.Gateway = gw
	}
	for _, d := range addr.Pool.DNS {
		if a, err := netip.ParseAddr(d); err == nil {
			nic.DNS = append(nic.DNS, a)
		}
	}
	in.NICs = []metadata.NIC{nic}
	for _, a := range i.agentsFor(v.Name) {
		host, _, _ := strings.Cut(a.Addr, ":")
		in.PhoneHome = append(in.PhoneHome, fmt.Sprintf("http://%s:%d/nocloud/%s/phone-home", host, httpPort, sg.metadata(*b)))
	}
	return in, nil
}

// note journals progress, at most every so often and at each new phase.
func (i *installers) note(s reconcile.Session, phase string, p reconcile.Progress, every time.Duration) {
	i.mu.Lock()
	last, before := i.noted[s.Machine], i.phases[s.Machine]
	key := s.ID + phase
	if before == key && time.Since(last) < every {
		i.mu.Unlock()
		return
	}
	i.noted[s.Machine], i.phases[s.Machine] = time.Now(), key
	i.mu.Unlock()
	if err := i.w.Journal.Append(context.Background(), claim.Local, claim.Draft{Kind: reconcile.KindProgress, Key: s.Machine, Body: p}); err != nil {
		i.log.Warn("progress not journaled", "machine", s.Machine, "err", err)
	}
}

// Progress implements install.Site.
func (i *installers) Progress(ctx context.Context, session string, p install.Progress) (install.Control, error) {
	s, err := i.session(session)
	if err != nil {
		return install.Control{}, err
	}
	rec := reconcile.Progress{Session: s.ID, Phase: p.Phase, Bytes: p.Bytes, Total: p.Total, Text: p.Bottleneck, Sources: map[string]int64{}}
	for src, n := range p.Sources {
		rec.Sources[src] = int64(n)
	}
	i.note(s, p.Phase, rec, noteEvery)
	v, ok := i.control.View(s.Machine)
	c := install.Control{Agents: i.agentsFor(s.Machine)}
	if e, err := intent.ParseEpoch(v.Status.Epoch); err == nil {
		c.Epoch = e
	}
	taken := v.Binding != nil && v.Binding.Released && v.Status.State != intent.StateErasing
	if !ok || v.Status.State == intent.StateQuarantined || taken {
		c.Abort, c.Reason = true, "the machine was taken back"
	}
	return c, nil
}

// maxLogLine bounds one line that goes into the journal.
const maxLogLine = 400

// Log implements install.Site: warnings and errors become events, the rest goes to the agent's log.
func (i *installers) Log(ctx context.Context, session string, lines []install.LogLine) error {
	s, err := i.session(session)
	if err != nil {
		return err
	}
	for _, l := range lines {
		text := l.Text[:min(len(l.Text), maxLogLine)]
		i.log.Info("installer", "machine", s.Machine, "level", l.Level, "text", text)
		if l.Level != "warn" && l.Level != "error" {
			continue
		}
		if err := i.w.Journal.Append(ctx, claim.Local, reconcile.Event(s.Machine, "", intent.Epoch{}, "installer."+l.Level, text, nil)); err != nil {
			return err
		}
	}
	return nil
}

// Done implements install.Site.
func (i *installers) Done(ctx context.Context, session string, d install.Done) error {
	s, err := i.session(session)
	if err != nil {
		return err
	}
	if old, ok := claim.Load[reconcile.Done](i.w.Journal, reconcile.KindDone, s.Machine); ok && old.Task == d.Task && old.Session == s.ID {
		return nil // told twice
	}
	rec := reconcile.Done{Session: s.ID, Task: d.Task, Generation: d.Generation, OK: d.OK, Reason: strings.TrimSpace(d.Code + ": " + d.Error), Facts: doneFacts(d)}
	kind, msg, step := "image.written", fmt.Sprintf("%d MiB written and read back", d.Bytes>>20), "write"
	if strings.HasPrefix(d.Task, "erase/") { // only a receipt ends it well
		rec.OK, d.OK, step = false, false, "erase"
	}
	if !d.OK {
		kind, msg = map[string]string{"write": "image.failed", "erase": "erase.refused"}[step], rec.Reason
	}
	task := reconcile.TaskRecord{Task: d.Task, Device: "machine/" + s.Machine, Step: step, Class: "destructive", State: "done", Result: msg}
	if !d.OK {
		task.State = "failed"
	}
	if r, ok := i.w.Journal.Latest(reconcile.KindTask, d.Task); ok {
		task.Epoch = r.Epoch
	}
	err = i.w.Journal.Append(ctx, claim.Replicated,
		claim.Draft{Kind: reconcile.KindDone, Key: s.Machine, Body: rec},
		claim.Draft{Kind: reconcile.KindTask, Key: d.Task, Epoch: task.Epoch, Body: task},
		reconcile.Event(s.Machine, d.Task, intent.Epoch{}, kind, msg, rec.Facts))
	if errors.Is(err, claim.ErrWaitingPeer) {
		return nil
	}
	return err
}

func doneFacts(d install.Done) map[string]string {
	f := map[string]string{
		"bytes": fmt.Sprint(d.Bytes), "blocks": fmt.Sprint(d.Blocks), "permission": d.Permission, "disk": d.Disk.WWN + d.Disk.Serial,
		"blames": fmt.Sprint(len(d.Blames)),
	}
	for k, v := range d.Seconds {
		f["seconds."+k] = v
	}
	for src, n := range d.Sources {
		f["source."+src] = fmt.Sprint(n)
	}
	return f
}

var _ install.Site = (*installers)(nil)
