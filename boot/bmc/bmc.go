package bmc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// The errors of a Controller.
var (
	// ErrUnsupported: the device cannot do this; another way must be found.
	ErrUnsupported = errors.New("not supported by this controller")
	// ErrAuth: user or password is refused. It is not tried again: controllers lock accounts.
	ErrAuth = errors.New("controller refuses the login")
	// ErrBusy: the device refused for now, and went on refusing until the deadline.
	ErrBusy = errors.New("controller is busy")
	// ErrFenced: the device holds a higher epoch, or somebody else's mark: our claim is void there.
	ErrFenced = errors.New("device is fenced against this claim")
	// ErrNoEffect: the device accepted a change and did not make it.
	ErrNoEffect = errors.New("controller accepted the change and did not make it")
	// ErrUnknown: it cannot be told whether the change was made; read back before anything else.
	ErrUnknown = errors.New("outcome unknown")
	// ErrPolicy: the controller refuses this password, and says why.
	ErrPolicy = errors.New("controller refuses the new password")
	// ErrPin: the controller shows another TLS key than before.
	ErrPin = errors.New("controller's TLS key has changed")
)

// QuirkError is a known way of a device to misbehave, by the name that the ledger uses.
type QuirkError struct {
	Quirk string
	Err   error
}

// Error names the quirk and its cause.
func (e *QuirkError) Error() string { return fmt.Sprintf("%v (quirk %s)", e.Err, e.Quirk) }

// Unwrap returns the cause.
func (e *QuirkError) Unwrap() error { return e.Err }

// Identity is what a device says about itself and its machine. Fields may be empty.
type Identity struct {
	Vendor, Model, Serial string
	UUID                  string // SMBIOS UUID, lower case
	Firmware              string // of the controller
	MACs                  []string
}

// Caps says what is supported, by probe and by what was learned. Reading it does no I/O.
type Caps struct {
	PowerActions []PowerAction
	Devices      []BootDevice
	Modes        []BootMode
	Fence        intent.Strength
}

// PowerState of a machine.
type PowerState string

// The power states. A state that cannot be read is unknown (promise 10).
const (
	PowerStateOn       PowerState = "on"
	PowerStateOff      PowerState = "off"
	PowerStateChanging PowerState = "changing"
	PowerStateUnknown  PowerState = "unknown"
)

// PowerAction is what SetPower is asked for.
type PowerAction string

// The power actions. On and Off are states to reach: asked again, they do nothing. SoftOff asks the operating system and does
// not wait for it; Reset cuts and gives power and is never "so already".
const (
	PowerOn      PowerAction = "on"
	PowerOff     PowerAction = "off"
	PowerSoftOff PowerAction = "soft-off"
	PowerReset   PowerAction = "reset"
)

// BootDevice is where the next start shall look first.
type BootDevice string

// The boot devices.
const (
	BootNone    BootDevice = "none"    // the machine's own order
	BootNetwork BootDevice = "network" // PXE, or UEFI HTTP where the controller offers only that
	BootDisk    BootDevice = "disk"
)

// BootMode is the kind of firmware; empty leaves it as it is.
type BootMode string

// The boot modes.
const (
	ModeUEFI BootMode = "uefi"
	ModeBIOS BootMode = "bios"
)

// BootSpec is a wanted override.
type BootSpec struct {
	Device BootDevice
	Once   bool     // false: until changed. Of no meaning with BootNone
	Mode   BootMode // a change of mode needs the machine off
}

// BootState is the override that the device shows.
type BootState struct {
	BootSpec
}

// Report is the out-of-band inventory: coarse, for comparison with the installer's.
type Report struct {
	Identity
	Processors  int
	MemoryBytes uint64
	Disks       []Disk
	NICs        []NIC
}

// Disk is one drive as the controller sees it.
type Disk struct {
	Name, Serial, Model string
	SizeBytes           uint64
}

// NIC is one host port as the controller sees it.
type NIC struct {
	Name, MAC string
}

// Controller is one machine's management controller. See the package comment for what all drivers promise.
type Controller interface {
	// Identify reads who the device is. Errors: ErrAuth, ErrBusy, ErrPin.
	Identify(ctx context.Context) (Identity, error)
	// Caps returns what is known; zero before the first read.
	Caps() Caps
	// Power reads the power state; PowerStateUnknown comes with an error.
	Power(ctx context.Context) (PowerState, error)
	// SetPower reaches a state under the claim; On and Off return EffectNone where it is so already, else wait until the device
	// shows it. Errors: ErrFenced, ErrNoEffect, ErrUnknown, ErrUnsupported, ErrBusy, ErrAuth.
	SetPower(ctx context.Context, c intent.Claim, a PowerAction) (intent.Effect, error)
	// Boot reads the override.
	Boot(ctx context.Context) (BootState, error)
	// SetBoot writes the override and reads it back. EffectNone: it was so already. Errors as SetPower.
	SetBoot(ctx context.Context, c intent.Claim, s BootSpec) (intent.Effect, error)
	// Inventory reads what is in the machine.
	Inventory(ctx context.Context) (Report, error)
	// ReadFence returns the epoch that the device holds (zero: none) and what its fence is worth. Soft where a stale write is
	// not refused or somebody else's mark is there.
	ReadFence(ctx context.Context) (intent.Epoch, intent.Strength, error)
	// RaiseFence writes e unless the device holds a higher epoch: ErrFenced. The same epoch is no write.
	// Where there is no fence to raise it returns nil: the strength says so.
	RaiseFence(ctx context.Context, e intent.Epoch) error
	// SetPassword changes the password of the account that this Controller logs in with, under the claim, and returns nil after a login
	// with the new one. Errors: ErrFenced, ErrPolicy, ErrNoEffect, ErrUnsupported, ErrBusy: the one before counts;
	// ErrUnknown, ErrAuth: either may.
	SetPassword(ctx context.Context, c intent.Claim, password string) error
	Firmware
	// Close ends the session on the device.
	Close(ctx context.Context) error
}

// Reader reads what a controller says beside what a Controller knows of: sensors. Not every driver is one.
type Reader interface {
	// Get returns the body of a resource by its path, at most 4 MiB. It waits behind every other request to this controller.
	// Errors: ErrUnsupported (there is no such resource), ErrAuth, ErrBusy, ErrPin.
	Get(ctx context.Context, path string) ([]byte, error)
}

// SensorReader reads the sensors that a controller describes itself, for drivers that know no resources to Get.
type SensorReader interface {
	// Sensors returns what all analogue sensors say, in the controller's order. It waits behind every other request.
	// Errors: ErrUnsupported (the controller describes none), ErrAuth, ErrBusy.
	Sensors(ctx context.Context) ([]Sensor, error)
}

// Consoler is a driver through which a machine's serial line can be used.
type Consoler interface {
	// Console opens the line, in a session of its own. Who asks owns the machine: a line that somebody else has open is taken from him.
	// Errors: ErrUnsupported (the controller has none, or it is switched off there), ErrBusy, ErrAuth.
	Console(ctx context.Context) (Line, error)
}

// Line is a serial line, open: boot/console has its contract.
type Line interface {
	io.ReadWriteCloser
	Break() error
}

// ErrSkipped is what Line.Read returns where some of what the machine said is missing. The line goes on.
var ErrSkipped = errors.New("some output was lost")

// Sensor is what one sensor says.
type Sensor struct {
	Name  string // 1 to 16 octets, printable; not always unique
	ID    string // unique for one controller: record, entity and number
	Unit  Unit
	Value float64 // 0 unless Known
	Known bool    // false: the controller says that it has no reading now
}

// Unit of a Sensor.
type Unit string

// The units; sensors in others are left out.
const (
	UnitCelsius Unit = "celsius"
	UnitVolts   Unit = "volts"
	UnitWatts   Unit = "watts"
	UnitRPM     Unit = "rpm"
	UnitPercent Unit = "percent" // of full speed, of a fan
)
