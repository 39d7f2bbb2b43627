package upkeep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
)

const (
	scrubEvery  = 24 * time.Hour  // trust.md section 11
	repairEvery = time.Minute     // while something is on hold: peers come and go
	lookEvery   = time.Second     // at free space, and at holds that reads made
	repairLimit = 5 * time.Minute // one repair: thousands of records from a peer on the LAN
	maxNamed    = 8               // buckets in one message; an agent has about a dozen
)

// ErrUnfit: the store does not stand behind a destructive step now.
var ErrUnfit = errors.New("the agent's store is not sound")

// Part is an owner of buckets that can put them right from verified sources.
type Part struct {
	Name    string
	Buckets []string
	Repair  func(context.Context) error
}

// BallastFile is the name of the ballast in the data directory.
const BallastFile = "ballast"

// Config says what a Keeper keeps. All are required.
type Config struct {
	DB      *state.DB
	Parts   []Part
	Ballast string // path; trust.md section 11
	Octets  uint64 // of the ballast; 0: none
	// Roomy is called when writes go on after a full disk: what was refused is asked for again.
	Roomy func(context.Context)
	// Sound is called after a rebuild of the files: the marks are saved, as the store's version begins anew.
	Sound func() error
	// Event journals what an operator should know; it may fail while the journal is behind, and comes again then.
	Event func(kind, message string, fields map[string]string) error
	Log   *slog.Logger
}

// Status is what /metrics and the site's status show.
type Status struct {
	Scrubbed time.Time         // end of the last scrub; zero: none in this process life
	Held     map[string]string // bucket -> why; empty: all fits
	Pressure state.Pressure
	Ballast  bool // the file is there
}

// Keeper keeps one store. See New.
type Keeper struct {
	cfg  Config
	told string // the holds that the last event named; Run's alone

	mu       sync.Mutex // guards what follows
	scrubbed time.Time
	pressure state.Pressure
	ballast  bool
}

// New returns a keeper that does nothing before Run.
func New(cfg Config) *Keeper { return &Keeper{cfg: cfg} }

// Fit tells whether a destructive step may be permitted on what the store says: it was scrubbed in this process life, nothing is
// on hold, and it is not behind. Errors: ErrUnfit, with the reason.
func (k *Keeper) Fit() error {
	s := k.Status()
	switch {
	case s.Scrubbed.IsZero():
		return fmt.Errorf("%w: it was not scrubbed yet since this start", ErrUnfit)
	case len(s.Held) > 0:
		return fmt.Errorf("%w: on hold: %s", ErrUnfit, names(s.Held))
	case k.cfg.DB.Recovering():
		return fmt.Errorf("%w: it is older than it once was, and recovers", ErrUnfit)
	}
	return nil
}

// Word is the state of the store in one word or two, for statuses.
func (k *Keeper) Word() string {
	s := k.Status()
	switch {
	case len(s.Held) > 0:
		return "held " + names(s.Held)
	case k.cfg.DB.Recovering():
		return "recovering"
	case s.Scrubbed.IsZero():
		return "not scrubbed yet"
	}
	return "sound"
}

// Status returns what is known now.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return Status{Scrubbed: k.scrubbed, Held: k.cfg.DB.Holds(), Pressure: k.pressure, Ballast: k.ballast}
}

func names(held map[string]string) string {
	all := slices.Sorted(maps.Keys(held))
	if len(all) > maxNamed {
		all = append(all[:maxNamed], "…")
	}
	return strings.Join(all, ", ")
}

// Run scrubs at once and then daily, repairs what is on hold, and looks at the free space each second, until ctx ends.
// Errors: state.ErrClosed when the files of the store cannot be used any more; the process must start again.
func (k *Keeper) Run(ctx context.Context) error {
	var scrub, repair time.Time // not before
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		now := time.Now()
		if !now.Before(scrub) {
			scrub = now.Add(scrubEvery)
			if err := k.scrub(ctx); err != nil && ctx.Err() == nil {
				k.cfg.Log.Error("cannot scrub", "err", err)
				scrub = time.Now().Add(repairEvery)
			}
		}
		if held := k.cfg.DB.Holds(); len(held) > 0 && !now.Before(repair) {
			k.tell(held)
			if err := k.repair(ctx); errors.Is(err, state.ErrClosed) {
				return err
			} else if err != nil && ctx.Err() == nil {
				k.cfg.Log.Error("state stays on hold", "buckets", names(k.cfg.DB.Holds()), "err", err)
			}
			repair = time.Now().Add(repairEvery)
		}
		k.space(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (k *Keeper) scrub(ctx context.Context) error {
	start := time.Now()
	rep, err := k.cfg.DB.Scrub(ctx)
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.scrubbed = time.Now()
	k.mu.Unlock()
	k.cfg.Log.Info("state scrubbed", "records", rep.Records, "octets", rep.Bytes, "held", len(rep.Held), "seconds", int(time.Since(start).Seconds()))
	return nil
}

// tell journals an event when other buckets are on hold than last time.
func (k *Keeper) tell(held map[string]string) {
	now := names(held)
	if k.told != now && k.event("state.held", "damaged: "+now+"; reads go on, nothing is deleted or erased until it was repaired", held) {
		k.told = now
	}
}

// event tells whether the event was journaled.
func (k *Keeper) event(kind, message string, fields map[string]string) bool {
	err := k.cfg.Event(kind, message, fields)
	if err != nil {
		k.cfg.Log.Warn("event not journaled", "event", kind, "message", message, "err", err)
	}
	return err == nil
}

// repair lets each owner of a held bucket put it right, leaves damaged files behind, and looks at the whole again. An owner that
// fails does not keep the others from theirs.
func (k *Keeper) repair(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, repairLimit)
	defer cancel()
	held := k.cfg.DB.Holds()
	owned := map[string]bool{}
	var errs []error
	for _, p := range k.cfg.Parts {
		needed := false
		for _, b := range p.Buckets {
			owned[b] = true
			needed = needed || held[b] != ""
		}
		if !needed {
			continue
		}
		if err := p.Repair(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Name, err))
		}
	}
	for b := range held {
		if !owned[b] {
			errs = append(errs, fmt.Errorf("bucket %q has no owner that could derive it", b))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if k.cfg.DB.Torn() {
		if err := k.cfg.DB.Rebuild(); err != nil {
			return err
		}
		if err := k.cfg.Sound(); err != nil {
			return err
		}
	}
	if err := k.scrub(ctx); err != nil {
		return err
	}
	if left := k.cfg.DB.Holds(); len(left) > 0 {
		return fmt.Errorf("cannot repair all: %w", state.ErrHold)
	}
	k.told = ""
	k.event("state.repaired", "repaired: "+names(held), nil)
	return nil
}

// space acts on how much is free. Assets go before that: siteagent/holdings.
func (k *Keeper) space(ctx context.Context) {
	p := k.cfg.DB.Pressure()
	ballast, err := k.cfg.DB.KeepBallast(k.cfg.Ballast, k.cfg.Octets)
	if err != nil {
		k.cfg.Log.Warn("no ballast", "err", err)
	}
	k.mu.Lock()
	was := k.pressure
	k.pressure, k.ballast = p, ballast
	k.mu.Unlock()
	switch {
	case p > was:
		k.cfg.Log.Error("disk is nearly full; `skerry agent recover` frees the ballast", "refused", p.String())
		k.event("disk.full", "refused now: "+p.String(), nil)
	case p < was && p < state.PressureVital:
		k.event("disk.room", "there is room again; refused now: "+p.String(), nil)
		k.cfg.Roomy(ctx)
	}
}
