package erase

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

// Command is an NVMe admin command. Source: NVM Express base specification 2.0, figure 87.
type Command struct {
	Opcode  byte
	NSID    uint32
	CDW10   uint32
	CDW11   uint32
	Timeout time.Duration // of the kernel; the device is reset after it
}

// Opcodes and what they carry, by the base specification: 5.16 Get Log Page, 5.17 Identify, 5.24 Sanitize; NVM command set: Format NVM.
const (
	opGetLog   = 0x02
	opIdentify = 0x06
	opFormat   = 0x80
	opSanitize = 0x84

	cnsNamespace  = 0
	cnsController = 1
	cnsActive     = 2
	logHealth     = 0x02
	logSanitize   = 0x81

	warnDegraded = 1 << 2 // reliability
	warnReadOnly = 1 << 3
	warnVolatile = 1 << 4 // the backup of volatile memory

	// quick bounds a command that only asks; formatWait one Format, which some drives answer only when they are through.
	quick      = 30 * time.Second
	formatWait = 6 * time.Hour
)

// Sanitize actions (CDW10 bits 2:0) and states (SSTAT bits 2:0).
const (
	sanBlock  = 2
	sanCrypto = 4

	sanDone        = 1
	sanRunning     = 2
	sanFailed      = 3
	sanDoneNoFree  = 4
	sanCapCrypto   = 1 << 0
	sanCapBlock    = 1 << 1
	fnaCrypto      = 1 << 2
	oacsFormat     = 1 << 1
	sesUserData    = 1
	sesCryptoErase = 2
)

func identify(dev Device, cns, nsid uint32) ([]byte, error) {
	b := Aligned(4096)
	_, err := dev.Admin(Command{Opcode: opIdentify, NSID: nsid, CDW10: cns, Timeout: quick}, b)
	if err != nil {
		return nil, fmt.Errorf("cannot identify: %w", err)
	}
	return b, nil
}

// nvmeMethods asks the controller what it can. A sanitize that is under way, of an earlier boot, is waited for first: until it ends the
// disk takes no writes. A controller with several namespaces is refused: erasing one would leave or destroy the others.
func nvmeMethods(ctx context.Context, j *Job) ([]method, error) {
	ctrl, err := identify(j.dev, cnsController, 0)
	if err != nil {
		return nil, err
	}
	active, err := identify(j.dev, cnsActive, 0)
	if err != nil {
		return nil, err
	}
	nsid := binary.LittleEndian.Uint32(active)
	if nsid == 0 || binary.LittleEndian.Uint32(active[4:]) != 0 {
		return nil, fmt.Errorf("the controller has no namespace or several: %w", ErrUnsupported)
	}
	sanicap := binary.LittleEndian.Uint32(ctrl[328:])
	var before error
	if sanicap&(sanCapCrypto|sanCapBlock) != 0 {
		if _, before = pollSanitize(ctx, j); before != nil && !errors.Is(before, errFailed) {
			return nil, before
		}
	}
	j.drive.Smart = nvmeHealth(j.dev)
	var out []method
	sanitize := func(name string, action uint32) {
		out = append(out, method{name, erasure.Purge, func(ctx context.Context, j *Job) (string, error) { return runSanitize(ctx, j, action) }})
	}
	if sanicap&sanCapCrypto != 0 {
		sanitize("nvme-sanitize-crypto", sanCrypto)
	}
	if sanicap&sanCapBlock != 0 {
		sanitize("nvme-sanitize-block", sanBlock)
	}
	if before != nil {
		if err := j.leave(ctx, out); err != nil {
			return nil, err
		}
	}
	if binary.LittleEndian.Uint16(ctrl[256:])&oacsFormat == 0 {
		return append(out, method{"overwrite", erasure.Clear, overwrite}), nil
	}
	format := func(name string, ses uint32) {
		out = append(out, method{name, erasure.Purge, func(_ context.Context, j *Job) (string, error) { return runFormat(j, nsid, ses) }})
	}
	if ctrl[524]&fnaCrypto != 0 {
		format("nvme-format-crypto", sesCryptoErase)
	}
	format("nvme-format-user-data", sesUserData)
	return append(out, method{"overwrite", erasure.Clear, overwrite}), nil
}

// runFormat formats with a secure erase setting, and with the LBA format, metadata and protection that are in use: another one would
// change the disk's size under its permission. It is never sent with setting 0, which erases nothing.
func runFormat(j *Job, nsid, ses uint32) (string, error) {
	ns, err := identify(j.dev, cnsNamespace, nsid)
	if err != nil {
		return "", err
	}
	flbas, dps := uint32(ns[26]), uint32(ns[29])
	lbaf, upper, mset := flbas&0xf, flbas>>5&3, flbas>>4&1
	cdw10 := lbaf | mset<<4 | (dps&7)<<5 | (dps>>3&1)<<8 | ses<<9 | upper<<12
	j.report("erase", 0, 1)
	if _, err := j.dev.Admin(Command{Opcode: opFormat, NSID: nsid, CDW10: cdw10, Timeout: formatWait}, nil); err != nil {
		return "", fmt.Errorf("cannot format: %w", err)
	}
	j.report("erase", 1, 1)
	return fmt.Sprintf("format completed, secure erase setting %d", ses), nil
}

// runSanitize starts the action once, then asks until the device says that it ended.
func runSanitize(ctx context.Context, j *Job, action uint32) (string, error) {
	if !j.polled {
		if _, err := j.dev.Admin(Command{Opcode: opSanitize, CDW10: action, Timeout: quick}, nil); err != nil {
			return "", fmt.Errorf("cannot start sanitize: %w", err)
		}
		j.polled = true
	}
	state, err := pollSanitize(ctx, j)
	if err != nil {
		return "", err
	}
	if state != sanDone && state != sanDoneNoFree {
		return "", fmt.Errorf("sanitize state %d after it was started: %w", state, ErrDevice)
	}
	return fmt.Sprintf("sanitize completed, state %d", state), nil
}

// pollSanitize waits while a sanitize is under way and returns the state that it ended in; 0: there never was one. Errors: ErrStuck,
// ErrDevice.
func pollSanitize(ctx context.Context, j *Job) (state int, err error) {
	var w watch
	for {
		b := Aligned(512)
		if _, err := j.dev.Admin(Command{Opcode: opGetLog, NSID: 0xffffffff, CDW10: logSanitize | (512/4-1)<<16, Timeout: quick}, b); err != nil {
			return 0, fmt.Errorf("cannot read the sanitize log: %w", err)
		}
		done, state := int(binary.LittleEndian.Uint16(b)), int(binary.LittleEndian.Uint16(b[2:])&7)
		switch state {
		case sanFailed:
			return state, errFailed
		case sanRunning:
		default:
			return state, nil
		}
		if err := w.pause(ctx, j, done); err != nil {
			return state, err
		}
	}
}

// nvmeHealth asks for the disk's own verdict: passed, failed, or "" when it has none. Source: base specification 5.16.1.3, critical warning.
func nvmeHealth(dev Device) string {
	b := Aligned(512)
	if _, err := dev.Admin(Command{Opcode: opGetLog, NSID: 0xffffffff, CDW10: logHealth | (512/4-1)<<16, Timeout: quick}, b); err != nil {
		return ""
	}
	if b[0]&(warnDegraded|warnReadOnly|warnVolatile) != 0 {
		return "failed"
	}
	return "passed"
}
