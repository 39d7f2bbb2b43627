package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

const (
	// Workers is how many blocks are on their way at once, each with a buffer of 4 MiB.
	Workers = 8
	// reportEvery is the pause between progress reports (boot.md section 6).
	reportEvery = 5 * time.Second
	// maxBuffered bounds log lines that no agent took yet; the oldest go.
	maxBuffered = 500
)

// ImageWriter is one image on its way to one disk; storage/image has the contract of each method.
type ImageWriter interface {
	Blocks() int
	Block(i int) (off int64, n int)
	Buffer() []byte // one block
	Have(i int) bool
	IsZero(i int) bool
	// Start and Put return an error with BadChunk() int when the content is wrong; then nothing was written.
	Start(b []byte) error
	Put(i int, b []byte) error
	PutZero(i int) error
	Verify(ctx context.Context, full bool, progress func(uint64)) error
	Finish(seed map[string]string) (string, error)
	Abort() error
	Begun() bool
	Written() uint64
	Busy() map[string]time.Duration
	Close() error
}

// Verifier checks the signatures of an envelope against the keys of the session.
type Verifier interface {
	Verify(payloadType string, env *intent.Envelope) error
}

// Installer does what the site orders.
type Installer struct {
	Client  *Client
	Version string
	Collect func(context.Context) (*inventory.Report, error)
	// Open opens a disk exclusively for one image.
	Open func(d inventory.Disk, m *chunk.Manifest) (ImageWriter, error)
	// Erase opens a disk exclusively to be erased to a level.
	Erase func(d inventory.Disk, want erasure.Level) (Eraser, error)
	// Verifier makes a verifier of the keys that the hello answer gave, PKIX DER.
	Verifier func(signKeys [][]byte) (Verifier, error)
	Log      *slog.Logger

	verifier Verifier
	used     map[string]bool // permissions
	job      *job            // unfinished, kept over a change of epoch
	wipe     *wipe           // the same
	lines    lineBuffer
}

// job is an install in progress. Its writer knows which blocks are on the disk.
type job struct {
	work    Work
	disk    inventory.Disk
	writer  ImageWriter
	fetch   *fetcher
	started time.Time
	seconds map[string]string
	permit  string
}

// errEpoch says that another claim holds the machine now: ask for work anew, keep what was done.
var errEpoch = errors.New("claim moved")

// Run says hello, sends the inventory and does work until an order ends it: it returns WorkReboot, WorkOff or WorkHalt.
// The caller carries that out. It returns an error only when ctx ends; whatever else goes wrong ends in an order.
func (in *Installer) Run(ctx context.Context) (WorkKind, error) {
	in.used = map[string]bool{}
	kind, err := in.run(ctx)
	in.closeJob()
	in.closeWipe()
	switch {
	case err == nil:
		return kind, nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("cannot go on: %w", ctx.Err())
	case errors.Is(err, ErrTokenReused), errors.Is(err, ErrStale):
		in.say(slog.LevelError, "stopped: a person must look", "err", err)
		return WorkHalt, nil
	default: // the session or the token is gone, nobody answers: the next boot gets new ones
		in.say(slog.LevelError, "booting anew", "err", err)
		return WorkReboot, nil
	}
}

func (in *Installer) run(ctx context.Context) (WorkKind, error) {
	r, err := in.Collect(ctx)
	if err != nil {
		return "", err
	}
	s, err := in.Client.Hello(ctx, Hello{Serial: r.Serial, UUID: r.UUID, MACs: r.MACs(), Firmware: r.Boot.Firmware, Version: in.Version})
	if err != nil {
		return "", err
	}
	in.say(slog.LevelInfo, "session opened", "machine", s.Machine, "site", s.Site, "agents", len(s.Agents))
	if in.verifier, err = in.Verifier(s.SignKeys); err != nil {
		return "", fmt.Errorf("cannot use the site's keys: %w", err)
	}
	if err := in.Client.Inventory(ctx, r); err != nil {
		return "", err
	}
	in.say(slog.LevelInfo, "inventory sent", "disks", len(r.Disks), "nics", len(r.NICs), "memoryMiB", r.Memory>>20)
	for {
		in.flushLog(ctx)
		w, err := in.Client.Work(ctx)
		if err != nil {
			return "", err
		}
		in.say(slog.LevelInfo, "order", "kind", string(w.Kind), "task", w.Task, "reason", w.Reason)
		switch w.Kind {
		case WorkReboot, WorkOff, WorkHalt:
			in.flushLog(ctx)
			return w.Kind, nil
		case WorkInspect:
			if r, err = in.Collect(ctx); err == nil {
				err = in.Client.Inventory(ctx, r)
			}
		case WorkInstall:
			err = in.install(ctx, w)
		case WorkErase:
			err = in.erase(ctx, w)
		default:
			in.say(slog.LevelWarn, "order not understood", "kind", string(w.Kind))
			err = pause(ctx, reportEvery)
		}
		if err != nil {
			return "", err
		}
	}
}

// install does one order and reports its end. The error is for Run: the session is lost, or ctx ended.
func (in *Installer) install(ctx context.Context, w Work) error {
	if w.Install == nil {
		return in.Client.Done(ctx, Done{Task: w.Task, Generation: w.Generation, Code: "image", Error: "install without details"})
	}
	err := in.attempt(ctx, w)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errEpoch):
		in.say(slog.LevelWarn, "claim moved, asking anew", "task", w.Task)
		return nil // the job stays open
	case errors.Is(err, ErrSession):
		return err
	}
	d := Done{Task: w.Task, Generation: w.Generation, Disk: w.Install.Disk, OK: err == nil}
	if j := in.job; j != nil {
		if err != nil {
			if aerr := j.writer.Abort(); aerr != nil {
				err = errors.Join(err, fmt.Errorf("cannot make the disk unbootable: %w", aerr))
			}
		}
		j.fill(&d)
	}
	if err != nil {
		d.Code, d.Error = Code(err), err.Error()
		in.say(slog.LevelError, "install failed", "task", w.Task, "code", d.Code, "err", err)
	} else {
		in.say(slog.LevelInfo, "install done", "task", w.Task, "seconds", d.Seconds["total"])
	}
	in.closeJob()
	if derr := in.Client.Done(ctx, d); derr != nil {
		return derr
	}
	if errors.Is(err, ErrStale) {
		return err
	}
	return nil
}

func (j *job) fill(d *Done) {
	d.Wrote, d.Blocks, d.Permission = j.writer.Begun(), j.writer.Written(), j.permit
	d.Seconds = j.seconds
	d.Seconds["total"] = seconds(j.started)
	p := j.progress("")
	d.Sources, d.Blames, d.Bytes = p.Sources, p.Blames, j.work.Install.SizeBytes
}

func seconds(since time.Time) string { return fmt.Sprintf("%.1f", time.Since(since).Seconds()) }

func (in *Installer) closeJob() {
	if in.job != nil {
		if err := in.job.writer.Close(); err != nil {
			in.Log.Warn("cannot close disk", "err", err)
		}
		in.job.fetch.http.CloseIdleConnections()
		in.job = nil
	}
}

// attempt does one order: permission, manifest, write, verify, finish.
func (in *Installer) attempt(ctx context.Context, w Work) error {
	hw, err := in.Collect(ctx)
	if err != nil {
		return err
	}
	if f := w.Install.Firmware; f != "" && f != hw.Boot.Firmware {
		return fmt.Errorf("%w: it is for %s, the machine was started by %s", ErrImage, f, hw.Boot.Firmware)
	}
	if in.job != nil && !in.job.same(w) {
		if err := in.job.writer.Abort(); err != nil {
			return err
		}
		in.closeJob()
	}
	if in.job != nil {
		// Our own exclusive hold must not look like somebody else's.
		in.say(slog.LevelInfo, "going on with the blocks that are written", "blocks", in.job.writer.Written())
	}
	p, disk, err := in.permission(ctx, w, hw)
	if err != nil {
		return err
	}
	if in.job == nil {
		f := newFetcher(w.Install.Sources)
		m, err := f.manifest(ctx, w.Install)
		if err != nil {
			return err
		}
		wr, err := in.Open(disk, m)
		if err != nil {
			return err
		}
		in.job = &job{disk: disk, writer: wr, fetch: f, started: time.Now(), seconds: map[string]string{}}
	}
	w.Epoch = p.Claim
	in.job.work, in.job.permit = w, p.ID
	in.job.fetch.sources = w.Install.Sources
	return in.supervise(ctx)
}

// same tells whether w wants what j has begun: the same bytes on the same disk for the same generation.
func (j *job) same(w Work) bool {
	a, b := j.work.Install, w.Install
	return a.Image == b.Image && a.Manifest == b.Manifest && a.Disk == b.Disk && j.work.Generation == w.Generation
}

// permission asks, verifies and compares. Errors: ErrStale, ErrPermission, *DiskError.
func (in *Installer) permission(ctx context.Context, w Work, hw *inventory.Report) (*intent.Permission, inventory.Disk, error) {
	none := inventory.Disk{}
	p, err := in.permit(ctx, w, intent.ActInstall, hw)
	if err != nil {
		return nil, none, err
	}
	disk, err := CheckPermission(p, w, hw)
	if err != nil {
		return nil, none, err
	}
	in.used[p.ID] = true
	in.say(slog.LevelInfo, "permission granted", "id", p.ID, "disk", disk.Name, "serial", disk.Serial)
	return p, disk, nil
}

// permit asks for a permission and verifies its signature, and that it is new. Errors: ErrStale, ErrPermission.
func (in *Installer) permit(ctx context.Context, w Work, act intent.Act, hw *inventory.Report) (*intent.Permission, error) {
	env, err := in.Client.Permit(ctx, PermissionRequest{
		Task: w.Task, Act: act, Generation: w.Generation, Epoch: w.Epoch,
		Serial: hw.Serial, UUID: hw.UUID, Disks: hw.Disks,
	})
	if err != nil {
		return nil, err
	}
	if err := in.verifier.Verify(intent.PayloadPermission, &env.Envelope); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPermission, err)
	}
	var p intent.Permission
	if err := decodeStrict(env.Envelope.Payload, &p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPermission, err)
	}
	if in.used[p.ID] {
		return nil, fmt.Errorf("%w: %s was used before", ErrPermission, p.ID)
	}
	return &p, nil
}

// say logs to the console and keeps the line for the site.
func (in *Installer) say(level slog.Level, msg string, args ...any) {
	in.Log.Log(context.Background(), level, msg, args...)
	in.lines.add(level, msg, args)
}

func (in *Installer) flushLog(ctx context.Context) {
	if lines := in.lines.take(); len(lines) > 0 {
		if err := in.Client.SendLog(ctx, lines); err != nil {
			in.Log.Debug("cannot send log lines", "err", err)
		}
	}
}

// text is a line's JSON of its attributes behind the message, as people and programs can both read it.
func text(msg string, args []any) string {
	m := map[string]string{}
	for i := 0; i+1 < len(args); i += 2 {
		m[fmt.Sprint(args[i])] = fmt.Sprint(args[i+1])
	}
	if len(m) == 0 {
		return msg
	}
	b, err := json.Marshal(m) // sorts keys
	if err != nil {
		return msg
	}
	return msg + " " + string(b)
}
