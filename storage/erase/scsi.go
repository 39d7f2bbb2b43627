package erase

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

// CDB is a SCSI command. Source: SPC-4, SBC-3; for ATA disks SAT-3.
type CDB struct {
	Bytes   []byte
	Write   bool          // data goes to the device
	Whole   bool          // less data than asked for is an error
	Timeout time.Duration // of the kernel; the device is reset after it
}

// Sense is what a device says about a command that did not end with status GOOD: SPC-4 section 4.5, fixed or descriptor format.
type Sense []byte

// Key returns sense key and additional sense code with its qualifier, 0, 0 when there is none.
func (s Sense) Key() (key byte, code uint16) {
	switch {
	case len(s) >= 14 && s[0]&0x7e == 0x70: // fixed, current or deferred
		return s[2] & 0xf, binary.BigEndian.Uint16(s[12:])
	case len(s) >= 3 && s[0]&0x7e == 0x70: // cut off: ADDITIONAL SENSE LENGTH says how long it is
		return s[2] & 0xf, 0
	case len(s) >= 8 && s[0]&0x7e == 0x72: // descriptors
		return s[1] & 0xf, binary.BigEndian.Uint16(s[2:])
	}
	return 0, 0
}

// progress returns the sense-key specific progress in 1/65536ths. ok is false when there is none.
func (s Sense) progress() (done int, ok bool) {
	if len(s) >= 18 && s[0]&0x7e == 0x70 && s[15]&0x80 != 0 {
		return int(binary.BigEndian.Uint16(s[16:])), true
	}
	if d := s.descriptor(0x02); len(d) >= 8 && d[4]&0x80 != 0 {
		return int(binary.BigEndian.Uint16(d[5:])), true
	}
	return 0, false
}

// descriptor returns the first one of a type, nil when there is none.
func (s Sense) descriptor(kind byte) []byte {
	if len(s) < 8 || s[0]&0x7e != 0x72 {
		return nil
	}
	rest := s[8:min(len(s), 8+int(s[7]))]
	for len(rest) >= 2 {
		n := 2 + int(rest[1])
		if n > len(rest) {
			return nil
		}
		if rest[0] == kind {
			return rest[:n]
		}
		rest = rest[n:]
	}
	return nil
}

// Sense keys and additional sense codes.
const (
	keyRecovered = 0x1
	keyNotReady  = 0x2
	keyIllegal   = 0x5
	keyAttention = 0x6

	codeATAInfo    = 0x001d // ATA PASS-THROUGH INFORMATION AVAILABLE
	codeSanitizing = 0x041b // NOT READY, SANITIZE IN PROGRESS
	codeFailed     = 0x3103 // MEDIUM ERROR, SANITIZE COMMAND FAILED
)

// Operation codes, and the service actions of SANITIZE (SBC-3 section 5.30).
const (
	opTestReady  = 0x00
	opSense      = 0x03
	opInquiry    = 0x12
	opSanitizeSB = 0x48
	opMaintIn    = 0xa3
	opReportOps  = 0x0c

	actOverwrite = 0x01
	actBlock     = 0x02
	actCrypto    = 0x03
	immediate    = 0x80
)

// senseError names a command that failed.
func senseError(what string, s Sense) error {
	key, code := s.Key()
	return fmt.Errorf("cannot %s: sense %x/%04x: %w", what, key, code, ErrDevice)
}

// scsi sends a command, again where the device first has to tell that something came about: a command that ends so was not done.
func scsi(dev Device, c CDB, data []byte) (Sense, error) {
	for tries := 0; ; tries++ {
		s, err := dev.SCSI(c, data)
		if key, _ := s.Key(); err != nil || key != keyAttention || tries == 5 {
			return s, err
		}
	}
}

// diskMethods asks what is no NVMe: an ATA disk, which says so as its vendor (SAT-3 section 8.2), a SCSI disk, or, behind a driver that
// takes no commands, one of which nothing is known.
func diskMethods(ctx context.Context, j *Job) ([]method, error) {
	clear := []method{{"overwrite", erasure.Clear, overwrite}}
	b := Aligned(36)
	s, err := scsi(j.dev, CDB{Bytes: []byte{opInquiry, 0, 0, 0, 36, 0}, Timeout: quick}, b)
	switch {
	case errors.Is(err, ErrUnsupported):
		return clear, nil
	case err != nil:
		return nil, err
	case s != nil:
		return nil, senseError("inquire", s)
	case string(b[8:16]) == "ATA     ":
		return ataMethods(ctx, j)
	}
	out, err := scsiMethods(ctx, j)
	return append(out, clear...), err
}

// errFailed: a sanitize of before failed. The device takes nothing but another one then.
var errFailed = fmt.Errorf("a sanitize failed: %w", ErrDevice)

// leave brings a device out of the state that a sanitize of before failed in, by another one.
func (j *Job) leave(ctx context.Context, methods []method) error {
	if len(methods) == 0 {
		return errFailed
	}
	j.begun = true
	_, err := methods[0].run(ctx, j)
	j.polled = false // the sanitize that counts is still to come, after the canary
	return err
}

// scsiMethods asks a SCSI disk what it can. A sanitize that is under way is waited for first: until it ends the disk answers little else.
// Of one that does not spin an overwrite is no purge: it leaves what the flash keeps aside.
func scsiMethods(ctx context.Context, j *Job) ([]method, error) {
	before := pollSCSI(ctx, j)
	if before != nil && !errors.Is(before, errFailed) {
		return nil, before
	}
	var out []method
	for _, m := range []struct {
		name   string
		action byte
	}{{"scsi-sanitize-crypto", actCrypto}, {"scsi-sanitize-block", actBlock}, {"scsi-sanitize-overwrite", actOverwrite}} {
		if m.action == actOverwrite && j.drive.Media != "hdd" {
			continue
		}
		has, err := scsiHas(j.dev, opSanitizeSB, m.action)
		if err != nil {
			return nil, err
		}
		if !has {
			continue
		}
		out = append(out, method{m.name, erasure.Purge, func(ctx context.Context, j *Job) (string, error) { return scsiSanitize(ctx, j, m.action) }})
	}
	if before != nil {
		return out, j.leave(ctx, out)
	}
	return out, nil
}

// scsiHas asks with REPORT SUPPORTED OPERATION CODES (SPC-4 section 6.33) whether the device has a service action. A device that cannot
// say has it not.
func scsiHas(dev Device, op, action byte) (bool, error) {
	b := Aligned(512)
	cdb := []byte{opMaintIn, opReportOps, 2, op, 0, action, 0, 0, 2, 0, 0, 0} // 2: one command with a service action
	s, err := scsi(dev, CDB{Bytes: cdb, Timeout: quick}, b)
	if err != nil || s != nil {
		if key, _ := s.Key(); err == nil && key != keyIllegal {
			err = senseError("ask for supported commands", s)
		}
		return false, err
	}
	return b[1]&7 == 3, nil
}

// scsiSanitize starts the action once, then asks until the device is ready again.
func scsiSanitize(ctx context.Context, j *Job, action byte) (string, error) {
	if !j.polled {
		cdb, data := CDB{Bytes: []byte{opSanitizeSB, immediate | action, 0, 0, 0, 0, 0, 0, 0, 0}, Timeout: quick}, []byte(nil)
		if action == actOverwrite { // once, with zeros of four octets
			data = Aligned(8)
			data[0], data[3] = 1, 4
			cdb.Bytes[8], cdb.Write = 8, true
		}
		s, err := scsi(j.dev, cdb, data)
		if err == nil && s != nil {
			err = senseError("start sanitize", s)
		}
		if err != nil {
			return "", err
		}
		j.polled = true
	}
	if err := pollSCSI(ctx, j); err != nil {
		return "", err
	}
	return "sanitize completed, unit ready", nil
}

// pollSCSI waits while a sanitize is under way. Errors: ErrStuck; ErrDevice, also for every other reason not to be ready: a sanitize
// that failed leaves the device with MEDIUM ERROR until another one succeeds.
func pollSCSI(ctx context.Context, j *Job) error {
	var w watch
	for {
		s, err := scsi(j.dev, CDB{Bytes: make([]byte, 6), Timeout: quick}, nil) // TEST UNIT READY
		if err != nil {
			return err
		}
		key, code := s.Key()
		switch {
		case s == nil:
			return nil
		case code == codeFailed:
			return errFailed
		case key != keyNotReady || code != codeSanitizing:
			return senseError("sanitize", s)
		}
		done, ok := s.progress()
		if !ok {
			b := Aligned(252)
			s, err := scsi(j.dev, CDB{Bytes: []byte{opSense, 0, 0, 0, 252, 0}, Timeout: quick}, b)
			if err != nil {
				return err
			}
			if s == nil {
				done, _ = Sense(b).progress()
			}
		}
		if err := w.pause(ctx, j, done); err != nil {
			return err
		}
	}
}

// watch sees whether what a device does by itself goes on.
type watch struct {
	last  int
	since time.Time
}

// pause reports how far it is, in 1/65536ths, and waits until it is time to ask again. Errors: ErrStuck, ctx's.
func (w *watch) pause(ctx context.Context, j *Job, done int) error {
	switch {
	case done != w.last || w.since.IsZero():
		w.last, w.since = done, time.Now()
	case time.Since(w.since) > stuckAfter:
		return fmt.Errorf("sanitize stands at %d/65536 for %s: %w", done, stuckAfter, ErrStuck)
	}
	j.report("erase", uint64(done), 1<<16)
	if err := wait(ctx, pollEvery); err != nil {
		return errors.Join(err, ctx.Err())
	}
	return nil
}
