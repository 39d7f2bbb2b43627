package erase

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

// odd is a disk of which some commands end otherwise.
type odd struct {
	*disk
	scsi func(c CDB, data []byte) (s Sense, err error, mine bool)
}

func (o *odd) SCSI(c CDB, data []byte) (Sense, error) {
	if s, err, mine := o.scsi(c, data); mine {
		return s, err
	}
	return o.disk.SCSI(c, data)
}

func (o *odd) job(want erasure.Level, media string) *Job {
	return New(o, Disk{DiskID: intent.DiskID{Serial: "D1", SizeBytes: uint64(len(o.data))}, Media: media}, want)
}

// A command that ended with CHECK CONDITION and no sense that can be read was not done: an IDENTIFY DEVICE of zeros hides the hidden part.
func TestNoSense(t *testing.T) {
	for _, s := range []Sense{{}, {0x70, 0, 0xb, 0, 0, 0, 0, 0}, {0x7f, 0, 0, 0, 0, 0, 0, 0}} { // 8 octets: ADDITIONAL SENSE LENGTH 0
		o := &odd{disk: &disk{fake: newFake(), features: hasHPA, hidden: 2048}}
		o.scsi = func(c CDB, _ []byte) (Sense, error, bool) {
			return s, nil, c.Bytes[0] == 0x85 && c.Bytes[14] == ataIdentify
		}
		if j := o.job(erasure.Clear, "hdd"); j.Run(t.Context(), noProgress) == nil {
			t.Errorf("%x: erased by %s, with %d sectors hidden", []byte(s), j.Drive().Method, o.hidden)
		}
	}
}

// An answer that is lost leaves no password behind.
func TestLostAnswer(t *testing.T) {
	lost := errors.New("host status 0x3")
	for _, x := range []struct {
		name  string
		loses func(command byte, n int) bool
	}{
		{"of SECURITY SET PASSWORD", func(c byte, _ int) bool { return c == ataSetPassword }},
		{"of SECURITY ERASE UNIT, and of the question after it", func(c byte, n int) bool { return c == ataEraseUnit || c == ataIdentify && n == 3 }},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, asked := &odd{disk: &disk{fake: newFake(), security: hasSecurity | hasEnhancedErase}}, 0
				o.scsi = func(c CDB, data []byte) (Sense, error, bool) {
					if c.Bytes[0] != 0x85 {
						return nil, nil, false
					}
					if c.Bytes[14] == ataIdentify {
						asked++
					}
					if !x.loses(c.Bytes[14], asked) {
						return nil, nil, false
					}
					if c.Bytes[14] != ataEraseUnit {
						_, _ = o.disk.SCSI(c, data)
					}
					return nil, lost, true
				}
				err := o.job(erasure.Purge, "ssd").Run(t.Context(), noProgress)
				if err == nil || o.security&securityOn != 0 {
					t.Errorf("%v; password on: %v", err, o.security&securityOn != 0)
				}
			})
		})
	}
}

// A disk of which an earlier sanitize failed takes nothing but another one; there is no other way out.
func TestFailedBefore(t *testing.T) {
	for _, sas := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := &disk{fake: newFake(), sas: sas, sanitize: hasSanitize | hasBlockErase, actions: map[byte]bool{actBlock: true}}
			d.state = sanFailed
			o := &odd{disk: d, scsi: func(CDB, []byte) (Sense, error, bool) { return nil, nil, false }}
			if err := o.job(erasure.Purge, "ssd").Run(t.Context(), noProgress); err != nil {
				t.Error(err)
			}
			if len(d.log) != 2 {
				t.Errorf("%v: want one to leave that state, and one that counts", d.log)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.sanicap, f.state = sanCapBlock, sanFailed
		if err := job(f, "nvme", erasure.Purge).Run(t.Context(), noProgress); err != nil || len(f.log) != 2 {
			t.Errorf("NVMe: %v, %v", err, f.log)
		}
	})
}

// While a SAS disk sanitizes it takes INQUIRY, REQUEST SENSE and TEST UNIT READY; the question what it supports ends with NOT READY (SBC-3,
// "sanitize operations"). A sanitize of an earlier boot is waited for all the same.
func TestWaitsForSASThatTakesNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{fake: newFake(), sas: true, actions: map[byte]bool{actBlock: true}}
		d.state = sanRunning
		o := &odd{disk: d}
		o.scsi = func(c CDB, _ []byte) (Sense, error, bool) {
			return d.sanitizing(), nil, c.Bytes[0] == opMaintIn && d.state == sanRunning
		}
		if err := o.job(erasure.Purge, "ssd").Run(t.Context(), noProgress); err != nil {
			t.Error(err)
		}
	})
}
