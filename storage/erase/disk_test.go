package erase

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

// disk is a SATA or SAS disk over a fake, with what such disks do wrong. Everything that changes it stands in the fake's log.
type disk struct {
	*fake
	sas   bool
	fixed bool // sense data in the fixed format

	sanitize uint16 // word 59
	security uint16 // word 128
	features uint16 // word 82
	more     uint16 // word 119
	hidden   uint64 // sectors

	features2 uint16 // word 83
	overlaid  uint64 // sectors that a DCO hides
	dcoFrozen bool
	password  string
	actions   map[byte]bool // of SANITIZE, SAS
	failing   bool          // SMART
	keeps     bool          // the password stays after an erase
	attend    int           // unit attentions that it has to tell first
	frozenS   bool          // sanitize is frozen
	silent    bool          // no registers come back

	prepared bool
}

func sense(fixed bool, key byte, code uint16) Sense {
	if fixed {
		s := make(Sense, 18)
		s[0], s[2], s[7] = 0x70, key, 10
		binary.BigEndian.PutUint16(s[12:], code)
		return s
	}
	return Sense{0x72, key, byte(code >> 8), byte(code), 0, 0, 0, 0}
}

// registers returns what CK_COND asks for.
func (d *disk) registers(status, problem byte, count uint16, lba uint64) Sense {
	key, code := byte(keyRecovered), uint16(codeATAInfo)
	if status&0x21 != 0 {
		key, code = 0xb, 0
	}
	s := sense(d.fixed, key, code)
	if d.silent {
		return s
	}
	if d.fixed {
		s[3], s[4], s[6] = problem, status, byte(count)
		s[9], s[10], s[11] = byte(lba), byte(lba>>8), byte(lba>>16)
		if count>>8 != 0 {
			s[8] |= 0x40
		}
		if lba>>24 != 0 {
			s[8] |= 0x20
		}
		return s
	}
	r := make([]byte, 14)
	r[0], r[1], r[3], r[13] = 9, 12, problem, status
	binary.BigEndian.PutUint16(r[4:], count)
	r[6], r[7], r[8], r[9], r[10], r[11] = byte(lba>>24), byte(lba), byte(lba>>32), byte(lba>>8), byte(lba>>40), byte(lba>>16)
	s[7] = byte(len(r))
	return append(s, r...)
}

func (d *disk) locked() bool { return d.security&securityLocked != 0 }

func (d *disk) ReadAt(b []byte, off int64) (int, error) {
	if d.locked() || d.state == sanRunning {
		return 0, errMedium
	}
	return d.fake.ReadAt(b, off)
}

func (d *disk) WriteAt(b []byte, off int64) (int, error) {
	if d.locked() || d.state == sanRunning {
		return 0, errMedium
	}
	return d.fake.WriteAt(b, off)
}

func (d *disk) SCSI(c CDB, data []byte) (Sense, error) {
	if d.attend > 0 {
		d.attend--
		return sense(d.fixed, keyAttention, 0x2900), nil
	}
	switch op := c.Bytes[0]; {
	case op == opInquiry:
		copy(data[8:], map[bool]string{true: "SEAGATE ", false: "ATA     "}[d.sas])
	case op == 0x85 && !d.sas:
		return d.ata(c.Bytes, data), nil
	case d.sas:
		return d.scsi(c, data), nil
	default:
		return sense(d.fixed, keyIllegal, 0x2000), nil
	}
	return nil, nil
}

func (d *disk) scsi(c CDB, data []byte) Sense {
	switch c.Bytes[0] {
	case opMaintIn:
		if d.actions == nil {
			return sense(d.fixed, keyIllegal, 0x2000)
		}
		data[1] = 1
		if c.Bytes[3] == opSanitizeSB && d.actions[c.Bytes[5]] {
			data[1] = 3
		}
	case opSanitizeSB:
		d.log = append(d.log, fmt.Sprintf("sanitize %#x data %x", c.Bytes[1], data))
		if d.refuses {
			return sense(d.fixed, keyIllegal, 0x2400)
		}
		d.state, d.progress = sanRunning, 0
	case opTestReady:
		switch d.step(); d.state {
		case sanRunning:
			return d.sanitizing()
		case sanFailed:
			return sense(d.fixed, 3, 0x3103)
		}
	case opSense:
		copy(data, d.sanitizing())
	default:
		return sense(d.fixed, keyIllegal, 0x2000)
	}
	return nil
}

// sanitizing is what a SAS disk answers meanwhile; with descriptors the progress comes by REQUEST SENSE only.
func (d *disk) sanitizing() Sense {
	s := sense(true, keyNotReady, codeSanitizing)
	s[15] = 0x80
	binary.BigEndian.PutUint16(s[16:], uint16(min(d.progress, 0xffff)))
	return s
}

// step lets a sanitize go on.
func (d *disk) step() {
	if d.state != sanRunning || d.stuck {
		return
	}
	if d.progress += 0x4000; d.progress >= 0x10000 {
		if d.state = sanDone; d.fails {
			d.state = sanFailed
			return
		}
		d.wipe()
	}
}

// ata does a command by ACS-3.
func (d *disk) ata(cdb, data []byte) Sense {
	feature, command := binary.BigEndian.Uint16(cdb[3:]), cdb[14]
	lba := uint64(cdb[8]) | uint64(cdb[10])<<8 | uint64(cdb[12])<<16 | uint64(cdb[7])<<24 | uint64(cdb[9])<<32 | uint64(cdb[11])<<40
	abort, ok := d.registers(0x51, 4, 0, 0), d.registers(0x50, 0, 0, 0)
	sectors := uint64(len(d.data)) / 512
	pass := strings.TrimRight(string(data[min(2, len(data)):min(34, len(data))]), "\x00")
	switch command {
	case ataIdentify:
		for w, v := range map[int]uint16{wordSanitize: d.sanitize, wordFeatures: d.features, wordMore: 1<<14 | d.more, wordFeatures2: 1<<14 | d.features2, wordSecurity: d.security, wordEraseTime: 0x8002} {
			binary.LittleEndian.PutUint16(data[2*w:], v)
		}
		binary.LittleEndian.PutUint64(data[2*wordMaxAddress:], sectors)
		seal(data)
		return nil
	case ataDCO:
		if d.dcoFrozen || feature != dcoIdentify {
			return abort
		}
		binary.LittleEndian.PutUint64(data[2*wordDCOMax:], sectors+d.overlaid-1)
		seal(data)
		return nil
	case ataReadNative, ataAddress:
		return d.registers(0x50, 0, 0, sectors+d.hidden-1)
	case ataSmart:
		return d.registers(0x50, 0, 0, map[bool]uint64{true: 0x2cf400, false: smartKey}[d.failing])
	case ataSanitize:
		return d.ataSanitize(feature, binary.BigEndian.Uint16(cdb[5:]), lba)
	case ataErasePrepare:
		d.prepared = true
		return ok
	}
	if d.security&hasSecurity == 0 || d.security&(securityFrozen|securityExpired) != 0 {
		return abort
	}
	d.log = append(d.log, fmt.Sprintf("%#x %d", command, data[0]))
	switch command {
	case ataSetPassword:
		d.password, d.security = pass, d.security|securityOn
	case ataUnlock, ataDisable:
		if pass != d.password {
			return abort
		}
		d.security &^= securityLocked
		if command == ataDisable {
			d.security &^= securityOn
		}
	case ataEraseUnit:
		if !d.prepared || pass != d.password || d.refuses {
			return abort
		}
		if d.wipe(); !d.keeps {
			d.security &^= securityOn
		}
	default:
		return abort
	}
	return nil
}

// seal gives 512 octets a first word and a checksum.
func seal(b []byte) {
	b[0], b[510] = 0x40, 0xa5
	for _, x := range b[:511] {
		b[511] -= x
	}
}

func (d *disk) ataSanitize(feature, count uint16, lba uint64) Sense {
	if feature != sanStatus {
		d.log = append(d.log, fmt.Sprintf("sanitize %#x %d %#x", feature, count, lba))
		if d.refuses {
			return d.registers(0x51, 4, 0, 2)
		}
		d.state, d.progress = sanRunning, 0
		return d.registers(0x50, 0, 1<<14, 0)
	}
	switch d.step(); {
	case d.frozenS:
		return d.registers(0x50, 0, 1<<13, 0)
	case d.state == sanRunning:
		return d.registers(0x50, 0, 1<<14, uint64(min(d.progress, 0xffff)))
	case d.state == sanFailed:
		return d.registers(0x51, 4, 0, 1)
	case d.state == sanDone:
		return d.registers(0x50, 0, 1<<15, 0xffff)
	}
	return d.registers(0x50, 0, 0, 0xffff)
}

// diskCase is a disk that does something, and what comes of it.
type diskCase struct {
	name, media string
	want        erasure.Level
	set         func(*disk)
	method, log string
	err         error
}

func diskCases() []diskCase {
	const secure = hasSecurity | hasEnhancedErase
	all := func(d *disk) { d.sanitize = hasSanitize | hasScramble | hasBlockErase | hasOverwrite }
	blocks := func(d *disk) { d.sanitize = hasSanitize | hasBlockErase }
	enhanced := func(d *disk) { d.security = secure }
	sas := func(d *disk) { d.sas, d.actions = true, map[byte]bool{actBlock: true, actOverwrite: true} }
	hpa := func(d *disk) { d.features, d.hidden = hasHPA, 2048 }
	with := func(fs ...func(*disk)) func(*disk) {
		return func(d *disk) {
			for _, f := range fs {
				f(d)
			}
		}
	}
	return []diskCase{
		{"crypto scramble first", "ssd", erasure.Purge, with(all, enhanced), "ata-sanitize-crypto", "[sanitize 0x11 0 0x43727970]", nil},
		{"block erase", "ssd", erasure.Purge, blocks, "ata-sanitize-block", "[sanitize 0x12 0 0x426b4572]", nil},
		{"overwrite, what spins", "hdd", erasure.Purge, func(d *disk) { d.sanitize = hasSanitize | hasOverwrite }, "ata-sanitize-overwrite", "[sanitize 0x14 1 0x4f5700000000]", nil},
		{"overwrite, what does not spin", "ssd", erasure.Purge, func(d *disk) { d.sanitize = hasSanitize | hasOverwrite }, "", "[]", ErrNoMethod},
		{"enhanced erase", "ssd", erasure.Purge, enhanced, "ata-security-erase-enhanced", "[0xf1 0 0xf4 2]", nil},
		{"enhanced erase where clear would do", "hdd", erasure.Clear, enhanced, "ata-security-erase-enhanced", "[0xf1 0 0xf4 2]", nil},
		{"plain erase only", "hdd", erasure.Purge, func(d *disk) { d.security = hasSecurity }, "", "[]", ErrNoMethod},
		{"no security at all", "hdd", erasure.Clear, func(*disk) {}, "overwrite", "[]", nil},
		{"healthy", "ssd", erasure.Purge, with(blocks, func(d *disk) { d.features = hasSmart }), "ata-sanitize-block", "[sanitize 0x12 0 0x426b4572]", nil},
		{"failing", "ssd", erasure.Purge, with(blocks, func(d *disk) { d.features, d.failing = hasSmart, true }), "ata-sanitize-block", "[sanitize 0x12 0 0x426b4572]", nil},
		{"tells of resets first", "ssd", erasure.Purge, with(blocks, func(d *disk) { d.attend = 3 }), "ata-sanitize-block", "[sanitize 0x12 0 0x426b4572]", nil},
		{"frozen", "ssd", erasure.Purge, with(enhanced, func(d *disk) { d.security |= securityFrozen }), "", "[]", ErrFrozen},
		{"frozen, overwrite by policy", "ssd", erasure.Clear, with(enhanced, func(d *disk) { d.security |= securityFrozen }), "overwrite", "[]", nil},
		{"frozen, sanitize is not", "ssd", erasure.Purge, with(blocks, enhanced, func(d *disk) { d.security |= securityFrozen }), "ata-sanitize-block", "[sanitize 0x12 0 0x426b4572]", nil},
		{"sanitize frozen", "ssd", erasure.Purge, with(blocks, func(d *disk) { d.frozenS = true }), "", "[]", ErrFrozen},
		{"locked by us, power was cut", "ssd", erasure.Purge, with(enhanced, func(d *disk) {
			d.security |= securityOn | securityLocked
			d.password = password
		}), "ata-security-erase-enhanced", "[0xf2 0 0xf6 0 0xf1 0 0xf4 2]", nil},
		{"locked by others", "ssd", erasure.Purge, with(blocks, enhanced, func(d *disk) {
			d.security |= securityOn | securityLocked
			d.password = "theirs"
		}), "", "[0xf2 0]", ErrLocked},
		{"locked, too many tries", "ssd", erasure.Purge, with(enhanced, func(d *disk) { d.security |= securityOn | securityLocked | securityExpired }), "", "[]", ErrLocked},
		{"locked and frozen", "ssd", erasure.Purge, with(enhanced, func(d *disk) { d.security |= securityOn | securityFrozen }), "", "[]", ErrFrozen},
		{"erase unit refused: unlocked again", "ssd", erasure.Clear, with(enhanced, func(d *disk) { d.refuses = true }), "", "[0xf1 0 0xf4 2 0xf6 0]", ErrDevice},
		{"erase unit keeps the password", "ssd", erasure.Purge, with(enhanced, func(d *disk) { d.keeps = true }), "", "[0xf1 0 0xf4 2 0xf6 0]", ErrDevice},
		{"erase unit lies", "ssd", erasure.Purge, with(enhanced, func(d *disk) { d.lies = true }), "", "[0xf1 0 0xf4 2]", ErrCanary},
		{"sanitize refused: nothing after it", "ssd", erasure.Clear, with(blocks, enhanced, func(d *disk) { d.refuses = true }), "", "[sanitize 0x12 0 0x426b4572]", ErrDevice},
		{"sanitize lies", "ssd", erasure.Purge, with(blocks, func(d *disk) { d.lies = true }), "", "[sanitize 0x12 0 0x426b4572]", ErrCanary},
		{"sanitize fails", "ssd", erasure.Purge, with(blocks, func(d *disk) { d.fails = true }), "", "[sanitize 0x12 0 0x426b4572]", ErrDevice},
		{"sanitize stuck", "ssd", erasure.Purge, with(blocks, func(d *disk) { d.stuck = true }), "", "[sanitize 0x12 0 0x426b4572]", ErrStuck},
		{"no registers", "ssd", erasure.Purge, with(blocks, func(d *disk) { d.silent = true }), "", "[]", ErrDevice},
		{"hidden part", "hdd", erasure.Purge, with(enhanced, hpa), "", "[]", ErrHidden},
		{"hidden part, by the newer command", "hdd", erasure.Clear, func(d *disk) { d.more, d.hidden = hasAddress, 1 }, "", "[]", ErrHidden},
		{"hidden part, sanitized", "ssd", erasure.Purge, with(blocks, hpa), "ata-sanitize-block", "[sanitize 0x12 0 0x426b4572]", nil},
		{"a part behind an overlay", "hdd", erasure.Clear, func(d *disk) { d.features2, d.overlaid = hasDCO, 2048 }, "", "[]", ErrHidden},
		{"a part behind an overlay, sanitized", "ssd", erasure.Purge, with(blocks, func(d *disk) { d.features2, d.overlaid = hasDCO, 2048 }), "ata-sanitize-block", "[sanitize 0x12 0 0x426b4572]", nil},
		{"an overlay that hides nothing", "hdd", erasure.Clear, func(d *disk) { d.features2 = hasDCO }, "overwrite", "[]", nil},
		{"an overlay that is frozen", "hdd", erasure.Clear, func(d *disk) { d.features2, d.dcoFrozen = hasDCO, true }, "overwrite", "[]", nil},
		{"no hidden part", "hdd", erasure.Clear, func(d *disk) { d.features, d.more = hasHPA, hasAddress }, "overwrite", "[]", nil},

		{"SAS, block", "ssd", erasure.Purge, sas, "scsi-sanitize-block", "[sanitize 0x82 data ]", nil},
		{"SAS, crypto first", "ssd", erasure.Purge, with(sas, func(d *disk) { d.actions[actCrypto] = true }), "scsi-sanitize-crypto", "[sanitize 0x83 data ]", nil},
		{"SAS, overwrite", "hdd", erasure.Purge, with(sas, func(d *disk) { delete(d.actions, actBlock) }), "scsi-sanitize-overwrite", "[sanitize 0x81 data 0100000400000000]", nil},
		{"SAS, none", "hdd", erasure.Purge, func(d *disk) { d.sas = true }, "", "[]", ErrNoMethod},
		{"SAS, none, overwrite by policy", "hdd", erasure.Clear, func(d *disk) { d.sas = true }, "overwrite", "[]", nil},
		{"SAS, tells of resets first", "hdd", erasure.Purge, with(sas, func(d *disk) { d.attend = 2 }), "scsi-sanitize-block", "[sanitize 0x82 data ]", nil},
		{"SAS, refuses", "ssd", erasure.Clear, with(sas, func(d *disk) { d.refuses = true }), "", "[sanitize 0x82 data ]", ErrDevice},
		{"SAS, lies", "ssd", erasure.Purge, with(sas, func(d *disk) { d.lies = true }), "", "[sanitize 0x82 data ]", ErrCanary},
		{"SAS, fails", "ssd", erasure.Purge, with(sas, func(d *disk) { d.fails = true }), "", "[sanitize 0x82 data ]", ErrDevice},
		{"SAS, stuck", "ssd", erasure.Purge, with(sas, func(d *disk) { d.stuck = true }), "", "[sanitize 0x82 data ]", ErrStuck},
	}
}

// Every method of SATA and SAS disks times every fault: the goal, proven by reading the whole disk, or a named error; nothing but the chosen
// method; and no disk is left with a password on.
func TestDisks(t *testing.T) {
	for _, c := range diskCases() {
		for _, fixed := range []bool{false, true} {
			if fixed && !strings.HasPrefix(c.name, "SAS") && (c.method == "" || strings.HasPrefix(c.method, "ata-sanitize")) {
				continue // the fixed format cannot carry what SANITIZE STATUS EXT says: TestFixedSense
			}
			t.Run(fmt.Sprintf("%s fixed=%v", c.name, fixed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := &disk{fake: newFake(), fixed: fixed}
					d.data = d.data[:8<<20]
					c.set(d)
					for i := range d.data {
						d.data[i] = byte(i>>9) | 1
					}
					j := New(d, Disk{DiskID: intent.DiskID{Serial: "D1", SizeBytes: uint64(len(d.data))}, Media: c.media}, c.want)
					err := j.Run(t.Context(), noProgress)
					if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
						t.Fatalf("Run: %v, want %v", err, c.err)
					}
					if got := fmt.Sprint(d.log); got != c.log {
						t.Errorf("commands %s, want %s", got, c.log)
					}
					if d.security&securityOn != 0 && d.password == password {
						t.Error("our password is left on the disk")
					}
					if c.err != nil {
						if begun := len(d.log) > 0 && c.err != ErrLocked; j.Begun() != begun {
							t.Errorf("begun %v, want %v", j.Begun(), begun)
						}
						return
					}
					dr := j.Drive()
					smart := map[bool]string{true: map[bool]string{true: "failed", false: "passed"}[d.failing]}[d.features&hasSmart != 0]
					if dr.Method != c.method || dr.Smart != smart {
						t.Errorf("method %s, want %s; health %q, want %q", dr.Method, c.method, dr.Smart, smart)
					}
					if told := strings.Contains(dr.DeviceStatus, "is not known"); told != d.dcoFrozen {
						t.Errorf("the receipt says %q", dr.DeviceStatus)
					}
					if err := dr.Check(c.want); err != nil {
						t.Error(err)
					}
					for i, x := range d.data {
						if x != 0 {
							t.Fatalf("octet %d is %#x", i, x)
						}
					}
				})
			})
		}
	}
}

// What sense data of the fixed format cannot carry is no answer: a sanitize of which nobody can see the end proves nothing.
func TestFixedSense(t *testing.T) {
	d := &disk{fake: newFake(), fixed: true, sanitize: hasSanitize | hasBlockErase}
	j := New(d, Disk{DiskID: intent.DiskID{Serial: "D1", SizeBytes: uint64(len(d.data))}, Media: "ssd"}, erasure.Purge)
	if err := j.Run(t.Context(), noProgress); !errors.Is(err, ErrDevice) {
		t.Errorf("%v", err)
	}
}

// A sanitize that an earlier boot began is waited for before anything is written.
func TestWaitsForAnEarlierSanitizeOfADisk(t *testing.T) {
	for _, sas := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := &disk{fake: newFake(), sas: sas, sanitize: hasSanitize | hasBlockErase, actions: map[byte]bool{actBlock: true}}
			d.state = sanRunning
			at := time.Now()
			j := New(d, Disk{DiskID: intent.DiskID{Serial: "D1", SizeBytes: uint64(len(d.data))}, Media: "ssd"}, erasure.Purge)
			if err := j.Run(t.Context(), noProgress); err != nil {
				t.Fatal(err)
			}
			if len(d.log) != 1 || time.Since(at) < 6*pollEvery {
				t.Errorf("%v after %v", d.log, time.Since(at))
			}
		})
	}
}

// FuzzSense: sense data of a device that lies.
func FuzzSense(f *testing.F) {
	d := &disk{fake: &fake{}}
	f.Add([]byte(d.registers(0x50, 0, 1<<15, 0xffff)))
	f.Add([]byte(d.sanitizing()))
	f.Add([]byte{0x72, 1, 0, 0x1d, 0, 0, 0, 255, 9, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := Sense(b)
		_, _, _ = s.ata()
		if done, ok := s.progress(); done < 0 || done > 1<<16 || (!ok && done != 0) {
			t.Errorf("progress %d, %v", done, ok)
		}
		_, _ = s.Key()
	})
}
