package ipmi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/bmc/govern"
)

const (
	maxRecords  = 1024 // of a repository; large servers have 300
	maxSensors  = 256
	sdrAge      = 24 * time.Hour // then it is asked whether the repository has changed
	sdrWhole    = 0xff
	sdrChunk    = 16 // what controllers give that refuse a whole record
	reservation = 3  // tries of one record: a change of the repository cancels them
	lastRecord  = 0xffff
)

// repository is what is known of a controller's sensors. It is read once, over several calls where a controller is slow.
type repository struct {
	turn    chan struct{} // one call of Sensors at a time; it guards what follows
	at      time.Time     // when it was read, or found to be as it was
	stamp   string        // count and times of change, as the controller says
	sensors []analogue
	next    int // the sensor that is read first the next time

	reading *collection // being read
}

// collection is a repository that is being read.
type collection struct {
	stamp   string
	record  uint16
	seen    map[uint16]bool // records that were read: some lists go round
	whole   bool            // records are given as a whole
	sensors []analogue
}

// Sensors implements bmc.SensorReader. The repository is read at the first call; when ctx ends before that is done, the next call goes on.
// A sensor that was not reached in time is not known; it is the first one the next time.
func (c *Controller) Sensors(ctx context.Context) ([]bmc.Sensor, error) {
	ctx = govern.Behind(ctx)
	select {
	case c.sdr.turn <- struct{}{}:
		defer func() { <-c.sdr.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if time.Since(c.sdr.at) > sdrAge {
		if err := c.describe(ctx); err != nil {
			return nil, fmt.Errorf("cannot read sensor descriptions: %w", err)
		}
	}
	out := make([]bmc.Sensor, len(c.sdr.sensors))
	for i, a := range c.sdr.sensors {
		out[i] = bmc.Sensor{Name: a.name, ID: a.id, Unit: a.unit}
	}
	for n := range out {
		i := (c.sdr.next + n) % len(out)
		a := c.sdr.sensors[i]
		b, err := c.read(ctx, cmdSensorReading, a.number)
		if err != nil && code(err) == 0 {
			c.sdr.next = i
			if n > 0 && errors.Is(err, context.DeadlineExceeded) {
				return out, nil
			}
			return nil, fmt.Errorf("cannot read sensors: %w", err)
		}
		if raw, ok := parseReading(b); ok {
			out[i].Value, out[i].Known = a.value(raw)
			if !out[i].Known {
				out[i].Value = 0
			}
		}
	}
	return out, nil
}

// describe reads the repository, unless it is as it was.
func (c *Controller) describe(ctx context.Context) error {
	b, err := c.read(ctx, cmdSDRInfo)
	if err != nil {
		return err
	}
	if len(b) < 13 {
		return fmt.Errorf("%w: %d octets about the repository", bmc.ErrUnsupported, len(b))
	}
	stamp := fmt.Sprintf("%x %x", b[1:3], b[5:13])
	if stamp == c.sdr.stamp && len(c.sdr.sensors) > 0 {
		c.sdr.at = time.Now()
		return nil
	}
	if c.sdr.reading == nil || c.sdr.reading.stamp != stamp {
		c.sdr.reading = &collection{stamp: stamp, whole: true, seen: map[uint16]bool{}}
	}
	if err := c.collect(ctx, c.sdr.reading); err != nil {
		return err
	}
	c.sdr.at, c.sdr.stamp, c.sdr.sensors, c.sdr.next, c.sdr.reading = time.Now(), stamp, c.sdr.reading.sensors, 0, nil
	return nil
}

// collect reads records until the list ends, goes round, or is too long.
func (c *Controller) collect(ctx context.Context, l *collection) error {
	lost := 0
	var reserved []byte
	for l.record != lastRecord && !l.seen[l.record] && len(l.seen) < maxRecords && len(l.sensors) < maxSensors {
		if reserved == nil {
			b, err := c.read(ctx, cmdReserveSDR)
			switch {
			case refused(err):
				reserved = []byte{0, 0} // it has none: whole records need none
			case err != nil:
				return err
			case len(b) < 2:
				return fmt.Errorf("%w: a reservation of %d octets", bmc.ErrUnsupported, len(b))
			default:
				reserved = b[:2]
			}
		}
		next, record, err := c.record(ctx, reserved, l)
		if code(err) == 0xc5 && lost < reservation {
			lost, reserved = lost+1, nil
			continue
		}
		if code(err) == 0xcb && len(l.seen) == 0 {
			return nil // an empty repository
		}
		if err != nil {
			return err
		}
		if a, ok := parseSDR(record); ok {
			l.sensors = append(l.sensors, a)
		}
		lost = 0
		l.seen[l.record] = true
		if len(record) >= 2 { // the first one is asked for by another name
			l.seen[binary.LittleEndian.Uint16(record)] = true
		}
		l.record = next
	}
	return nil
}

// record reads one record: as a whole, or where the controller refuses that, in pieces and only if it is a full sensor's.
func (c *Controller) record(ctx context.Context, reserved []byte, l *collection) (next uint16, record []byte, err error) {
	get := func(offset, n byte) ([]byte, error) {
		b, err := c.read(ctx, cmdGetSDR, reserved[0], reserved[1], byte(l.record), byte(l.record>>8), offset, n)
		if err != nil {
			return nil, err
		}
		var piece []byte
		var ok bool
		if next, piece, ok = parseGetSDR(b); !ok || len(piece) == 0 {
			return nil, fmt.Errorf("%w: record %d has no octets at %d", bmc.ErrUnsupported, l.record, offset)
		}
		return piece, nil
	}
	if l.whole {
		record, err = get(0, sdrWhole)
		if err == nil || code(err) == 0 || code(err) == 0xc5 || code(err) == 0xcb || errors.Is(err, bmc.ErrBusy) {
			return next, record, err
		}
		l.whole = false
	}
	if record, err = get(0, recordHeader); err != nil || len(record) < recordHeader || record[3] != recordFull {
		return next, record, err
	}
	for size := recordHeader + int(record[4]); len(record) < size; {
		piece, err := get(byte(len(record)), byte(min(sdrChunk, size-len(record))))
		if err != nil {
			return next, nil, err
		}
		record = append(record, piece...)
		if len(record) > 255 {
			break
		}
	}
	return next, record, nil
}
