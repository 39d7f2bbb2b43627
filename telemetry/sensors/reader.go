package sensors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Source reads a machine's controller.
type Source interface {
	// IPMISensors returns what a controller without resources says, in its order; Sensor, ID, Metric and Value are the source's words.
	// It waits while somebody controls the machine. Errors: ErrGone (the controller has resources: they are read), others as they come.
	IPMISensors(ctx context.Context, machine string) ([]Reading, error)
	// RedfishGet returns the body of GET path, at most 4 MiB. It waits while somebody controls the machine.
	// Errors: ErrGone (the controller has no such resource), others as they come.
	RedfishGet(ctx context.Context, machine, path string) ([]byte, error)
}

// ErrGone: there is no such resource: 404. The controller's tree is looked through again.
var ErrGone = errors.New("no such resource")

const (
	probeAge    = 24 * time.Hour // a tree is looked through again: parts come and go
	maxChassis  = 8              // with sensors; blade enclosures list more, of other machines
	maxMembers  = 32             // of the chassis collection
	maxSingle   = 128            // sensors that are read one by one
	singleEvery = time.Second    // between two of them: what slow controllers stand (telemetry.md section 5)
)

// Reader reads sensors. New makes it.
type Reader struct {
	src Source

	mu   sync.Mutex // guards what follows
	seen map[string]*tree
}

// tree is what is known of one machine's controller.
type tree struct {
	turn chan struct{} // one Read at a time
	found
}

// found is what a look through the tree found.
type found struct {
	at    time.Time
	paths []resource
	// single are sensors that the controller lists without their readings; of these only next is read, the others are as they were.
	single []string
	next   int
	last   map[string][]Reading
}

// resource is one path that answers with readings.
type resource struct {
	path string
	read func([]byte) ([]Reading, error)
}

// New makes a Reader.
func New(src Source) *Reader { return &Reader{src: src, seen: map[string]*tree{}} }

// Forget drops what is known of a machine that left.
func (r *Reader) Forget(machine string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.seen, machine)
}

// Read returns all readings of a machine, in the controller's order: two requests for most. Where a controller lists sensors without
// their readings, they are read one a second for as long as ctx lasts. Errors: the Source's; then nothing is known of any sensor.
func (r *Reader) Read(ctx context.Context, machine string) ([]Reading, error) {
	r.mu.Lock()
	t := r.seen[machine]
	if t == nil {
		t = &tree{turn: make(chan struct{}, 1)}
		r.seen[machine] = t
	}
	r.mu.Unlock()
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot read sensors of %s: %w", machine, ctx.Err())
	}
	if rr, err := r.src.IPMISensors(ctx, machine); err == nil {
		return numbered(named(rr)), nil
	} else if !errors.Is(err, ErrGone) {
		return nil, fmt.Errorf("cannot read sensors of %s: %w", machine, err)
	}
	if time.Since(t.at) > probeAge || len(t.paths)+len(t.single) == 0 {
		if err := r.probe(ctx, machine, t); err != nil {
			return nil, fmt.Errorf("cannot find sensors of %s: %w", machine, err)
		}
	}
	out, err := r.readAll(ctx, machine, t)
	if errors.Is(err, ErrGone) {
		t.at = time.Time{}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read sensors of %s: %w", machine, err)
	}
	return numbered(out), nil
}

func (r *Reader) readAll(ctx context.Context, machine string, t *tree) (out []Reading, err error) {
	for _, p := range t.paths {
		b, err := r.src.RedfishGet(ctx, machine, p.path)
		if err != nil {
			return nil, err
		}
		rr, err := p.read(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.path, err)
		}
		out = append(out, rr...)
	}
	return r.readSingle(ctx, machine, t, out)
}

// readSingle goes round the sensors that are read one by one. One that was not reached in time is unknown.
func (r *Reader) readSingle(ctx context.Context, machine string, t *tree, out []Reading) ([]Reading, error) {
	if len(t.single) == 0 {
		return out, nil
	}
	fresh := map[string]bool{}
	for range t.single {
		path := t.single[t.next%len(t.single)]
		b, err := r.src.RedfishGet(ctx, machine, path)
		if errors.Is(err, ErrGone) {
			return nil, err
		}
		if err != nil {
			break
		}
		t.next++
		t.last[path], fresh[path] = sensor(b), true
		if !wait(ctx, singleEvery) {
			break
		}
	}
	for _, path := range t.single {
		for _, rd := range t.last[path] {
			if !fresh[path] {
				rd.Value, rd.Known = 0, false
			}
			out = append(out, rd)
		}
	}
	if len(fresh) == 0 {
		return nil, context.Cause(ctx)
	}
	return out, nil
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

type link struct {
	ID word `json:"@odata.id"`
}

type chassis struct {
	Thermal, Power, Sensors link
}

// probe looks a controller's tree through: of each chassis Thermal and Power, or Sensors where these say nothing.
func (r *Reader) probe(ctx context.Context, machine string, t *tree) error {
	t.found = found{last: map[string][]Reading{}}
	var root struct{ Chassis link }
	if err := r.get(ctx, machine, "/redfish/v1/", &root); err != nil {
		return err
	}
	if root.Chassis.ID == "" {
		root.Chassis.ID = "/redfish/v1/Chassis"
	}
	var all struct{ Members []link }
	if err := r.get(ctx, machine, string(root.Chassis.ID), &all); err != nil {
		return err
	}
	n := 0
	for _, m := range all.Members[:min(len(all.Members), maxMembers)] {
		var c chassis
		if err := r.get(ctx, machine, string(m.ID), &c); errors.Is(err, ErrGone) {
			continue
		} else if err != nil {
			return err
		}
		ok, err := r.probeChassis(ctx, machine, c, t)
		if err != nil {
			return err
		}
		if ok {
			n++
		}
		if n == maxChassis {
			break
		}
	}
	t.at = time.Now()
	return nil
}

func (r *Reader) probeChassis(ctx context.Context, machine string, c chassis, t *tree) (bool, error) {
	n := len(t.paths)
	for _, p := range []resource{{string(c.Thermal.ID), thermal}, {string(c.Power.ID), power}} {
		if p.path == "" {
			continue
		}
		b, err := r.src.RedfishGet(ctx, machine, p.path)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return false, err
		}
		if rr, err := p.read(b); err == nil && len(rr) > 0 {
			t.paths = append(t.paths, p)
		}
	}
	if len(t.paths) > n || c.Sensors.ID == "" {
		return len(t.paths) > n, nil
	}
	return r.probeSensors(ctx, machine, string(c.Sensors.ID), t)
}

// probeSensors finds out whether a controller gives its sensors with their collection, or only one by one.
func (r *Reader) probeSensors(ctx context.Context, machine, path string, t *tree) (bool, error) {
	expanded := path + "?$expand=.($levels=1)"
	b, err := r.src.RedfishGet(ctx, machine, expanded)
	if err == nil {
		if rr, err := expandedSensors(b); err == nil && len(rr) > 0 {
			t.paths = append(t.paths, resource{expanded, expandedSensors})
			return true, nil
		}
	}
	if err == nil && strings.Contains(string(b), `"Members"`) {
		// it took the question and left the readings out
	} else if b, err = r.src.RedfishGet(ctx, machine, path); errors.Is(err, ErrGone) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	var c struct{ Members []link }
	if err := json.Unmarshal(b, &c); err != nil {
		return false, nil // no list: no sensors
	}
	for _, m := range c.Members {
		if m.ID != "" && len(t.single) < maxSingle {
			t.single = append(t.single, string(m.ID))
		}
	}
	return len(c.Members) > 0, nil
}

// expandedSensors reads a collection of sensors with its members in it.
func expandedSensors(b []byte) (out []Reading, err error) {
	var c struct{ Members []json.RawMessage }
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, err
	}
	for _, m := range c.Members[:min(len(c.Members), maxReadings)] {
		out = append(out, sensor(m)...)
	}
	return out, nil
}

func (r *Reader) get(ctx context.Context, machine, path string, v any) error {
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%w: %.80q", ErrGone, path)
	}
	b, err := r.src.RedfishGet(ctx, machine, path)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
