package erase

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

// ErrFrozen and ErrLocked say why a disk takes no security command.
var (
	ErrFrozen = errors.New("the firmware froze the disk's security before the installer started: power-cycle the machine, or look for \"security freeze lock\" in its BIOS settings")
	ErrLocked = errors.New("the disk is locked by a password that is not ours")
	ErrHidden = errors.New("a part of the disk is hidden by its maximum address (HPA) or a device configuration overlay (DCO), and only a sanitize reaches that")
)

// password locks a disk from SECURITY SET PASSWORD to the end of SECURITY ERASE UNIT, as the standard wants it. It is no secret: after a
// power cut in between, the next run or anybody with `hdparm --user-master u --security-unlock skerry-erase` has to get in.
const password = "skerry-erase"

// Commands of ATA. Source: ACS-3 chapter 7.
const (
	ataReadNative   = 0x27 // READ NATIVE MAX ADDRESS EXT, of ATA8-ACS
	ataAddress      = 0x78 // GET NATIVE MAX ADDRESS EXT, which came in its place
	ataSmart        = 0xb0
	ataDCO          = 0xb1 // DEVICE CONFIGURATION, of ATA8-ACS
	ataSanitize     = 0xb4
	ataIdentify     = 0xec
	ataSetPassword  = 0xf1
	ataUnlock       = 0xf2
	ataErasePrepare = 0xf3
	ataEraseUnit    = 0xf4
	ataDisable      = 0xf6
)

// Features of SANITIZE DEVICE with the signature that each wants in the LBA field; of SMART.
const (
	sanStatus    = 0x0000
	sanScramble  = 0x0011
	sanBlockEr   = 0x0012
	sanOverwrite = 0x0014

	keyScramble  = 0x43727970
	keyBlockEr   = 0x426b4572
	keyOverwrite = 0x4f57 << 32 // and the pattern below it

	dcoIdentify = 0xc2
	wordDCOMax  = 3 // and three more

	smartStatus = 0xda
	smartKey    = 0xc24f00
)

// Words of IDENTIFY DEVICE (ACS-3 section 7.12) that are looked at, and their bits.
const (
	wordSanitize     = 59
	hasSanitize      = 1 << 12
	hasScramble      = 1 << 13
	hasOverwrite     = 1 << 14
	hasBlockErase    = 1 << 15
	wordFeatures     = 82
	hasSmart         = 1 << 0
	hasHPA           = 1 << 10
	wordEraseTime    = 90
	wordMaxAddress   = 100
	wordFeatures2    = 83
	hasDCO           = 1 << 11
	wordMore         = 119
	hasAddress       = 1 << 8
	wordSecurity     = 128
	hasSecurity      = 1 << 0
	securityOn       = 1 << 1
	securityLocked   = 1 << 2
	securityFrozen   = 1 << 3
	securityExpired  = 1 << 4
	hasEnhancedErase = 1 << 5
)

// ataCommand is one command, as its registers have it.
type ataCommand struct {
	command  byte
	feature  uint16
	count    uint16
	lba      uint64 // 48 bits
	extended bool   // a 48-bit command
	timeout  time.Duration
}

// ataResult is what the registers hold afterwards.
type ataResult struct {
	count uint16
	lba   uint64
}

// errStatus: the device says error or fault in its status register, and why in the others.
var errStatus = fmt.Errorf("%w: status", ErrDevice)

// ata sends a command by ATA PASS-THROUGH (16). data of 512 octets is read, or written if write is set; nil for a command without, after
// which the registers are asked for. Source: SAT-3 sections 12.2.3 and 12.2.6. Errors: ErrUnsupported for what is no ATA disk; ErrDevice.
func ata(dev Device, c ataCommand, write bool, data []byte) (ataResult, error) {
	const nonData, pioIn, pioOut = 3 << 1, 4 << 1, 5 << 1
	cdb := make([]byte, 16)
	cdb[0], cdb[14] = 0x85, c.command
	switch {
	case data == nil:
		cdb[1], cdb[2] = nonData, 0x20 // CK_COND
	case write:
		cdb[1], cdb[2], c.count = pioOut, 0x06, 1 // octets in blocks, as many as count says
	default:
		cdb[1], cdb[2], c.count = pioIn, 0x0e, 1
	}
	if c.extended {
		cdb[1] |= 1
	}
	binary.BigEndian.PutUint16(cdb[3:], c.feature)
	binary.BigEndian.PutUint16(cdb[5:], c.count)
	for i, shift := range []int{24, 0, 32, 8, 40, 16} { // the older value of each register first
		cdb[7+i] = byte(c.lba >> shift)
	}
	cdb[13] = 0x40
	s, err := scsi(dev, CDB{Bytes: cdb, Write: write, Whole: true, Timeout: c.timeout}, data)
	if err != nil {
		return ataResult{}, fmt.Errorf("cannot send ATA command %#x: %w", c.command, err)
	}
	r, status, ok := s.ata()
	key, code := s.Key()
	switch {
	case ok && status&0x21 != 0: // error, device fault
		return r, fmt.Errorf("cannot do ATA command %#x: %w %#x", c.command, errStatus, status)
	case s == nil || (key == keyRecovered && code == codeATAInfo): // all other sense, and what cannot be read, is a failure
		if data == nil && !ok {
			return r, fmt.Errorf("cannot do ATA command %#x: its result is missing: %w", c.command, ErrDevice)
		}
		return r, nil
	case key == keyIllegal && !ok:
		return r, fmt.Errorf("cannot send ATA command %#x: %w", c.command, ErrUnsupported)
	}
	return r, senseError(fmt.Sprintf("do ATA command %#x", c.command), s)
}

// ata returns the registers out of an ATA Status Return descriptor, or of the fixed format, which has 24 bits of the LBA and 8 of the
// count, and says whether there was more.
func (s Sense) ata() (r ataResult, status byte, ok bool) {
	if d := s.descriptor(0x09); len(d) >= 14 {
		r.count = binary.BigEndian.Uint16(d[4:])
		for i, shift := range []int{24, 0, 32, 8, 40, 16} {
			r.lba |= uint64(d[6+i]) << shift
		}
		return r, d[13], true
	}
	if _, code := s.Key(); len(s) >= 12 && s[0]&0x7e == 0x70 && code == codeATAInfo {
		r.count, r.lba = uint16(s[6]), uint64(s[9])|uint64(s[10])<<8|uint64(s[11])<<16
		return r, s[4], s[8]&0x60 == 0 // upper halves that were not 0 are lost
	}
	return r, 0, false
}

// ataDisk is what IDENTIFY DEVICE says.
type ataDisk []byte

func (d ataDisk) word(n int) uint16 { return binary.LittleEndian.Uint16(d[2*n:]) }
func (d ataDisk) has(n int, bits uint16) bool {
	return d.word(n)&bits == bits
}

// identifyATA asks an ATA disk what it is. Errors: ErrDevice, also for an answer of zeros or with a wrong checksum.
func identifyATA(dev Device) (ataDisk, error) {
	b := Aligned(512)
	_, err := ata(dev, ataCommand{command: ataIdentify, timeout: quick}, false, b)
	if err != nil {
		return nil, err
	}
	if !sound(b) {
		return nil, fmt.Errorf("cannot believe what the disk says it is: %w", ErrDevice)
	}
	return b, nil
}

// sound tells whether 512 octets that a disk gave are not all zero, and have no wrong checksum: word 255, where it has a signature.
func sound(b []byte) bool {
	sum := byte(0)
	for _, x := range b {
		sum += x
	}
	return slices.ContainsFunc(b, func(x byte) bool { return x != 0 }) && (b[510] != 0xa5 || sum == 0)
}

// ataMethods asks an ATA disk what it can. One that our password locks, of a run that the power was cut from, is unlocked first.
func ataMethods(ctx context.Context, j *Job) ([]method, error) {
	d, err := identifyATA(j.dev)
	if err == nil && d.has(wordSecurity, securityOn) {
		err = unlock(j.dev, d)
	}
	if err != nil {
		return nil, err
	}
	if j.drive.Smart, err = ataHealth(j.dev, d); err != nil {
		return nil, err
	}
	out, err := ataSanitizes(ctx, j, d)
	if err != nil {
		return nil, err
	}
	if err := wholeATA(j, d); err != nil {
		j.less = errors.Join(j.less, err)
		return out, nil
	}
	switch {
	case d.has(wordSecurity, hasSecurity|hasEnhancedErase|securityFrozen):
		j.less = errors.Join(j.less, ErrFrozen)
	case d.has(wordSecurity, hasSecurity|hasEnhancedErase):
		out = append(out, method{"ata-security-erase-enhanced", erasure.Purge, securityErase})
	}
	return append(out, method{"overwrite", erasure.Clear, overwrite}), nil
}

// ataSanitizes lists the sanitize methods: for a disk that spins the one that overwrites, for others those that do not.
func ataSanitizes(ctx context.Context, j *Job, d ataDisk) ([]method, error) {
	if !d.has(wordSanitize, hasSanitize) {
		return nil, nil
	}
	_, before := pollATA(ctx, j)
	switch {
	case before == nil, errors.Is(before, errFailed):
	case ctx.Err() != nil, errors.Is(before, ErrStuck):
		return nil, before
	default: // frozen, or its registers do not come through: it has no sanitize that anybody could see the end of
		j.less = before
		return nil, nil
	}
	var out []method
	add := func(name string, bit, feature uint16, key uint64, count uint16) {
		if d.has(wordSanitize, bit) {
			c := ataCommand{command: ataSanitize, feature: feature, lba: key, count: count, extended: true, timeout: quick}
			out = append(out, method{name, erasure.Purge, func(ctx context.Context, j *Job) (string, error) { return ataSanitizeRun(ctx, j, c) }})
		}
	}
	add("ata-sanitize-crypto", hasScramble, sanScramble, keyScramble, 0)
	add("ata-sanitize-block", hasBlockErase, sanBlockEr, keyBlockEr, 0)
	if j.drive.Media == "hdd" {
		add("ata-sanitize-overwrite", hasOverwrite, sanOverwrite, keyOverwrite, 1)
	}
	if before != nil {
		return out, j.leave(ctx, out)
	}
	return out, nil
}

func ataSanitizeRun(ctx context.Context, j *Job, c ataCommand) (string, error) {
	if !j.polled {
		if _, err := ata(j.dev, c, false, nil); err != nil {
			return "", fmt.Errorf("cannot start sanitize: %w", err)
		}
		j.polled = true
	}
	done, err := pollATA(ctx, j)
	if err == nil && !done {
		err = fmt.Errorf("no sanitize ended well after it was started: %w", ErrDevice)
	}
	return "sanitize completed without error", err
}

// pollATA waits while a sanitize is under way. ended tells whether the last one ended without error. Errors: ErrStuck, ErrDevice,
// ErrFrozen. Source: ACS-3 section 7.36.2, SANITIZE STATUS EXT.
func pollATA(ctx context.Context, j *Job) (ended bool, err error) {
	const completed, running, frozen, reasonFailed = 1 << 15, 1 << 14, 1 << 13, 1
	var w watch
	for {
		r, err := ata(j.dev, ataCommand{command: ataSanitize, feature: sanStatus, extended: true, timeout: quick}, false, nil)
		switch {
		case errors.Is(err, errStatus) && r.lba&0xff == reasonFailed:
			return false, errFailed
		case err != nil:
			return false, fmt.Errorf("cannot ask for the state of sanitize: %w", err)
		case r.count&running == 0 && r.count&frozen != 0:
			return false, ErrFrozen
		case r.count&running == 0:
			return r.count&completed != 0, nil
		}
		if err := w.pause(ctx, j, int(r.lba&0xffff)); err != nil {
			return false, err
		}
	}
}

// securityErase does SECURITY ERASE UNIT in its enhanced mode, which reaches reallocated sectors too, and leaves the disk unlocked
// whatever comes.
func securityErase(ctx context.Context, j *Job) (string, error) {
	d, err := identifyATA(j.dev)
	if err != nil {
		return "", err
	}
	if err = security(j.dev, ataSetPassword, 0, quick); err == nil {
		j.report("erase", 0, 1)
		if _, err = ata(j.dev, ataCommand{command: ataErasePrepare, timeout: quick}, false, nil); err == nil {
			err = security(j.dev, ataEraseUnit, 2, eraseTime(d, j.dev.Size()))
		}
	}
	// An answer that was lost proves nothing: the disk may have the password all the same.
	if err = errors.Join(err, passwordOff(context.WithoutCancel(ctx), j.dev)); err != nil {
		return "", err
	}
	j.report("erase", 1, 1)
	return "security erase completed, enhanced; security off", nil
}

// passwordOff wants a disk without a password: one that was erased has none. Otherwise it takes ours off, and that is an error all the
// same. A disk that does not answer, as after a reset of its link, is asked again for a while.
func passwordOff(ctx context.Context, dev Device) error {
	var d ataDisk
	var err error
	for try := range 5 {
		if d, err = identifyATA(dev); err == nil {
			break
		}
		if try < 4 {
			_ = wait(ctx, 5*time.Second)
		}
	}
	if err == nil && !d.has(wordSecurity, securityOn) {
		return nil
	}
	if err == nil {
		err = errors.Join(fmt.Errorf("the disk still had the password: %w", ErrDevice), unlock(dev, d))
	} else {
		err = errors.Join(fmt.Errorf("cannot see whether the disk is unlocked: %w", err), security(dev, ataUnlock, 0, quick), security(dev, ataDisable, 0, quick))
	}
	return fmt.Errorf("%w; should it be locked: `hdparm --user-master u --security-unlock %[2]s`, then `--security-disable %[2]s`", err, password)
}

// unlock takes our password off.
func unlock(dev Device, d ataDisk) error {
	switch {
	case d.has(wordSecurity, securityFrozen):
		return ErrFrozen
	case d.has(wordSecurity, securityExpired):
		return fmt.Errorf("cannot try the password: too many were tried, a power cycle resets that: %w", ErrLocked)
	}
	if d.has(wordSecurity, securityLocked) {
		if err := security(dev, ataUnlock, 0, quick); err != nil {
			return fmt.Errorf("%w: %w", ErrLocked, err)
		}
	}
	if err := security(dev, ataDisable, 0, quick); err != nil {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	return nil
}

// security sends a command with the user password. bits are those of its first word: 2 = enhanced. Source: ACS-3 section 7.39 and on.
func security(dev Device, command byte, bits uint16, timeout time.Duration) error {
	b := Aligned(512)
	binary.LittleEndian.PutUint16(b, bits)
	copy(b[2:34], password)
	_, err := ata(dev, ataCommand{command: command, timeout: timeout}, true, b)
	return err
}

// eraseTime bounds an enhanced erase of so many octets by twice what the disk says that it takes, and by what 50 MB/s take, which is more
// than the 508 minutes that word 90 can say; and an hour.
func eraseTime(d ataDisk, size int64) time.Duration {
	w := d.word(wordEraseTime)
	minutes := time.Duration(w&0xff) * 2
	if w&0x8000 != 0 {
		minutes = time.Duration(w&0x7fff) * 2
	}
	return min(max(2*minutes*time.Minute, time.Duration(size/50_000_000)*time.Second)+time.Hour, 7*24*time.Hour)
}

// wholeATA refuses a disk of which its maximum address, or a device configuration overlay, hides a part. An overlay that cannot be read, as
// where the firmware froze it, is no reason to refuse; the receipt says so.
func wholeATA(j *Job, d ataDisk) error {
	sectors, native := binary.LittleEndian.Uint64(d[2*wordMaxAddress:]), uint64(0)
	c := ataCommand{extended: true, timeout: quick}
	valid := d.word(wordFeatures2)>>14 == 1 // bits 15:14 say so of this word and the one before
	switch {
	case d.word(wordMore)>>14 == 1 && d.has(wordMore, hasAddress):
		c.command = ataAddress
	case valid && d.has(wordFeatures, hasHPA):
		c.command = ataReadNative
	}
	if c.command != 0 {
		r, err := ata(j.dev, c, false, nil)
		if err != nil {
			return fmt.Errorf("cannot ask for the native maximum address: %w", err)
		}
		native = r.lba + 1
	}
	if valid && d.has(wordFeatures2, hasDCO) {
		b := Aligned(512)
		switch _, err := ata(j.dev, ataCommand{command: ataDCO, feature: dcoIdentify, timeout: quick}, false, b); {
		case err != nil || !sound(b):
			j.unseen = "; whether a device configuration overlay hides a part is not known"
		default:
			native = max(native, binary.LittleEndian.Uint64(b[2*wordDCOMax:])+1) // the factory's
		}
	}
	if native > sectors {
		return fmt.Errorf("%d of %d sectors: %w", native-sectors, native, ErrHidden)
	}
	return nil
}

// ataHealth asks for the disk's own verdict: passed, failed, or "" when it has none. Source: ACS-3 section 7.52.8.
func ataHealth(dev Device, d ataDisk) (string, error) {
	if !d.has(wordFeatures, hasSmart) {
		return "", nil
	}
	r, err := ata(dev, ataCommand{command: ataSmart, feature: smartStatus, lba: smartKey, timeout: quick}, false, nil)
	switch {
	case errors.Is(err, ErrDevice): // switched off
		return "", nil
	case err != nil:
		return "", err
	case r.lba&0xffff00 == 0x2cf400:
		return "failed", nil
	case r.lba&0xffff00 == smartKey:
		return "passed", nil
	}
	return "", nil
}
