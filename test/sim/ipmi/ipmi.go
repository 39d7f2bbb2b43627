package ipmi

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/clock"
	"github.com/bougou/go-ipmi/pkg/hal/mock"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/skerry-metal/skerry/test/sim/vm"
)

// Power is the machine behind the controller; *vm.Machine is one.
type Power interface {
	On(context.Context) error
	Off(context.Context) error
	Reset(context.Context) error
	Shutdown(context.Context) error // the ACPI button
	PowerOn() bool
}

// Config describes the controller and what it tells about its machine.
type Config struct {
	User, Password             string
	UUID, Maker, Model, Serial string
	Sensors                    []Sensor
	// StaleTime is how long power-stale shows the old power state; default 3 s.
	StaleTime time.Duration
}

// Sensor is one sensor: its record, as Record packs it, and what Get Sensor Reading answers.
type Sensor struct {
	Record  []byte
	Reading []byte
}

// BMC is one controller. New makes it.
type BMC struct {
	cfg   Config
	power Power
	bmc   *bmc.BMC
	store *mock.HAL

	mu       sync.Mutex // guards what follows
	faults   map[Fault]bool
	flags    types.BootOptionParam_BootFlags
	writes   int
	count    int // packets and commands, for faults that hit every n-th
	failed   int
	mute     bool // the answer to the command under way is lost
	wasOn    bool // power state before powerAt
	powerAt  time.Time
	occupied []uint32 // sessions that only fill the table
	commands []string
}

const (
	account     = 2
	maxSessions = 8
	logLines    = 2000
)

// New returns a controller of the machine p with the given faults.
func New(cfg Config, p Power, faults ...Fault) (*BMC, error) {
	if cfg.StaleTime == 0 {
		cfg.StaleTime = 3 * time.Second
	}
	b := &BMC{cfg: cfg, power: p, store: mock.New(), faults: map[Fault]bool{}}
	for _, f := range faults {
		if !slices.Contains(Faults(), f) {
			return nil, fmt.Errorf("cannot set fault %q: not known", f)
		}
		b.faults[f] = true
	}
	guid, err := hex.DecodeString(strings.ReplaceAll(cfg.UUID, "-", ""))
	if err != nil || len(guid) != 16 {
		return nil, fmt.Errorf("cannot use UUID %q", cfg.UUID)
	}
	if b.faults[GUIDReversed] {
		slices.Reverse(guid)
	} else {
		slices.Reverse(guid[:4])
		slices.Reverse(guid[4:6])
		slices.Reverse(guid[6:8])
	}
	suites := []types.CipherSuiteID{3, 17}
	if b.faults[NoSuite17] {
		suites = suites[:1]
	}
	b.bmc = bmc.New(bmc.DeviceInfo{DeviceID: 0x20, FirmwareMajor: 2, FirmwareMinor: 0x31, IPMIVersion: 0x02, ManufacturerID: 674, ProductID: 256}, [16]byte(guid), b, bmc.WithCipherSuites(suites))
	if b.faults[TwoKeys] {
		bmc.WithKG([]byte("a key of its own...."))(b.bmc)
	}
	b.bmc.Sessions = bmc.NewSessionStoreWithOptions(clock.Real, bmc.WithMaxSessions(maxSessions))
	u, err := b.bmc.Users.Add(account, cfg.User)
	if err != nil {
		return nil, err
	}
	u.SetPassword([]byte(cfg.Password))
	u.Enabled = true
	for _, ch := range []uint8{1, 0x0e} {
		u.ChannelAccess[ch] = bmc.UserChannelAccess{MaxPrivilege: bmc.PrivilegeLevelAdministrator, Enabled: true}
	}
	if err := b.fill(); err != nil {
		return nil, err
	}
	return b, nil
}

// fill stores the machine's FRU and the sensors' records, and takes every session under session-full.
func (b *BMC) fill() error {
	ctx := context.Background()
	if err := b.store.Storage().FRU().Write(ctx, 0, fru(b.cfg.Maker, b.cfg.Model, b.cfg.Serial)); err != nil {
		return err
	}
	for i, s := range b.cfg.Sensors {
		binary.LittleEndian.PutUint16(s.Record, uint16(i+1))
		if err := b.store.Storage().SDR().Write(ctx, uint16(i+1), s.Record); err != nil {
			return err
		}
	}
	for b.faults[SessionFull] {
		s, err := b.bmc.Sessions.Allocate(1, 3, 4, 1, 4, 1)
		if errors.Is(err, bmc.ErrSessionFull) {
			return nil
		}
		if err == nil {
			err = b.bmc.Sessions.Activate(s.BMCID)
		}
		if err != nil {
			return err
		}
		b.occupied = append(b.occupied, s.BMCID)
	}
	return nil
}

// Clear ends the faults of a set; sessions that only filled the table are freed with session-full.
func (b *BMC) Clear(fs ...Fault) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range fs {
		delete(b.faults, f)
	}
	for _, id := range b.occupied {
		if err := b.bmc.Sessions.Close(id); err != nil {
			return err
		}
	}
	b.occupied = nil
	return nil
}

func (b *BMC) has(f Fault) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.faults[f]
}

// every tells whether this is one of n, counting all that ask, and f is on.
func (b *BMC) every(f Fault, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.faults[f] {
		return false
	}
	b.count++
	return b.count%n == 0
}

// Serve answers on conn until ctx ends. It closes conn.
func (b *BMC) Serve(ctx context.Context, conn net.PacketConn) error {
	r := handlers.NewRegistry()
	r.Use(b.watch)
	handlers.RegisterAllHandlers(r)
	r.RegisterFunc(types.CommandGetSensorReading, b.reading)
	r.RegisterFunc(types.CommandGetSystemGUID, func(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
		return b.bmc.GUID[:], types.CodeOK, nil
	})
	s := server.NewServer(b.bmc, &wire{PacketConn: conn, b: b}, server.WithHandlerRegistry(r), server.WithV15Disabled())
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("cannot serve ipmi on %s: %w", conn.LocalAddr(), err)
	}
	return nil
}

// Writes returns how many commands changed the device: power, boot flags, password.
func (b *BMC) Writes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.writes
}

// Commands returns what was asked so far, one line "NETFN/COMMAND DATA CODE" each, oldest first, at most 2,000.
func (b *BMC) Commands() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.commands)
}

// Sessions returns how many sessions are open, or half open; those that only fill the table are not counted.
func (b *BMC) Sessions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bmc.Sessions.Count() - len(b.occupied)
}

// Password returns what the account takes now.
func (b *BMC) Password() string {
	u, err := b.bmc.Users.Get(account)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(u.Password[:]), "\x00")
}

// Boot returns the override as the controller holds it.
func (b *BMC) Boot() (device vm.Device, set, once bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.flags.BootFlagsValid || b.flags.BootDeviceSelector == types.BootDeviceSelectorNoOverride {
		return vm.BootDisk, false, false
	}
	device = vm.BootDisk
	if b.flags.BootDeviceSelector == types.BootDeviceSelectorForcePXE {
		device = vm.BootNet
	}
	return device, true, !b.flags.Persist
}

// NextBoot says what the machine's firmware tries first, and consumes a one-time override. vm.Config.Boot calls it at each start.
func (b *BMC) NextBoot() vm.Device {
	device, set, once := b.Boot()
	if set && once {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.flags = types.BootOptionParam_BootFlags{}
	}
	return device
}

// fru packs a FRU device with a product area.
func fru(maker, model, serial string) []byte {
	product := []byte{1, 0, 25}
	for _, s := range []string{maker, model, "", "", serial, "", ""} {
		s = s[:min(len(s), 0x3f)]
		product = append(append(product, 0xc0|byte(len(s))), s...)
	}
	product = append(product, 0xc1)
	for len(product)%8 != 7 {
		product = append(product, 0)
	}
	product[1] = byte((len(product) + 1) / 8)
	header := []byte{1, 0, 0, 0, 1, 0, 0}
	return append(append(header, sum(header)), append(product, sum(product))...)
}

func sum(b []byte) (s byte) {
	for _, v := range b {
		s -= v
	}
	return s
}
