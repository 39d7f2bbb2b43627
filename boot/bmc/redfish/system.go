package redfish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
)

type link struct {
	ID string `json:"@odata.id"`
}

type collection struct {
	Members []link `json:"Members"`
}

// system is what we read of a ComputerSystem. Unknown and null fields are passed over: vendors add and leave out.
type system struct {
	ETag         string `json:"@odata.etag"`
	Manufacturer string
	Model        string
	SerialNumber string
	UUID         string
	AssetTag     string
	PowerState   string
	Boot         struct {
		Enabled string   `json:"BootSourceOverrideEnabled"`
		Target  string   `json:"BootSourceOverrideTarget"`
		Mode    string   `json:"BootSourceOverrideMode"`
		Targets []string `json:"BootSourceOverrideTarget@Redfish.AllowableValues"`
		Modes   []string `json:"BootSourceOverrideMode@Redfish.AllowableValues"`
	}
	ProcessorSummary struct {
		Count float64
	}
	MemorySummary struct {
		TotalSystemMemoryGiB float64
	}
	EthernetInterfaces link
	Storage            link
	Bios               link
	Links              struct {
		ManagedBy []link
	}
	Actions struct {
		Reset struct {
			Target string   `json:"target"`
			Types  []string `json:"ResetType@Redfish.AllowableValues"`
		} `json:"#ComputerSystem.Reset"`
	}
}

// find returns the path of the ComputerSystem: the first of the collection. Ids are never guessed.
func (c *Controller) find(ctx context.Context) (string, error) {
	c.mu.Lock()
	path := c.path
	c.mu.Unlock()
	if path != "" {
		return path, nil
	}
	var root struct{ Systems link }
	if _, err := c.get(ctx, "/redfish/v1/", &root); err != nil {
		return "", err
	}
	var systems collection
	if _, err := c.get(ctx, cmp.Or(root.Systems.ID, "/redfish/v1/Systems"), &systems); err != nil {
		return "", err
	}
	if len(systems.Members) == 0 || systems.Members[0].ID == "" {
		return "", fmt.Errorf("cannot find a system at %s: %w", c.cfg.Address, bmc.ErrUnsupported)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.path = systems.Members[0].ID
	return c.path, nil
}

// read reads the system and learns its capabilities.
func (c *Controller) read(ctx context.Context) (*system, error) {
	path, err := c.find(ctx)
	if err != nil {
		return nil, err
	}
	var s system
	etag, err := c.get(ctx, path, &s)
	if err != nil {
		return nil, err
	}
	s.ETag = cmp.Or(etag, s.ETag)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caps.PowerActions, c.caps.Devices, c.caps.Modes = s.actions(), s.devices(), s.modes()
	return &s, nil
}

// resetType returns the Redfish name for an action, by what the device lists; where it lists nothing the usual one.
func (s *system) resetType(a bmc.PowerAction) string {
	want := map[bmc.PowerAction][]string{
		bmc.PowerOn: {"On", "ForceOn"}, bmc.PowerOff: {"ForceOff"},
		bmc.PowerSoftOff: {"GracefulShutdown"}, bmc.PowerReset: {"ForceRestart", "PowerCycle"},
	}[a]
	for _, w := range want {
		if len(s.Actions.Reset.Types) == 0 || slices.Contains(s.Actions.Reset.Types, w) {
			return w
		}
	}
	return ""
}

func (s *system) actions() []bmc.PowerAction {
	var out []bmc.PowerAction
	for _, a := range []bmc.PowerAction{bmc.PowerOn, bmc.PowerOff, bmc.PowerSoftOff, bmc.PowerReset} {
		if s.resetType(a) != "" {
			out = append(out, a)
		}
	}
	return out
}

// target returns the Redfish name of a boot device; "" unsupported.
func (s *system) target(d bmc.BootDevice) string {
	want := map[bmc.BootDevice][]string{bmc.BootNone: {"None"}, bmc.BootNetwork: {"Pxe", "UefiHttp"}, bmc.BootDisk: {"Hdd"}}[d]
	for _, w := range want {
		if len(s.Boot.Targets) == 0 || slices.Contains(s.Boot.Targets, w) {
			return w
		}
	}
	return ""
}

func (s *system) devices() []bmc.BootDevice {
	var out []bmc.BootDevice
	for _, d := range []bmc.BootDevice{bmc.BootNone, bmc.BootNetwork, bmc.BootDisk} {
		if s.target(d) != "" {
			out = append(out, d)
		}
	}
	return out
}

func modeName(m bmc.BootMode) string {
	return map[bmc.BootMode]string{bmc.ModeUEFI: "UEFI", bmc.ModeBIOS: "Legacy"}[m]
}

func modeOf(s string) bmc.BootMode {
	return map[string]bmc.BootMode{"UEFI": bmc.ModeUEFI, "Legacy": bmc.ModeBIOS}[s]
}

func (s *system) modes() []bmc.BootMode {
	var out []bmc.BootMode
	for _, m := range s.Boot.Modes {
		if v := modeOf(m); v != "" {
			out = append(out, v)
		}
	}
	return out
}

func (s *system) power() bmc.PowerState {
	switch s.PowerState {
	case "On":
		return bmc.PowerStateOn
	case "Off":
		return bmc.PowerStateOff
	case "PoweringOn", "PoweringOff":
		return bmc.PowerStateChanging
	}
	return bmc.PowerStateUnknown
}

// Power reads the power state.
func (c *Controller) Power(ctx context.Context) (bmc.PowerState, error) {
	s, err := c.read(ctx)
	if err != nil {
		return bmc.PowerStateUnknown, fmt.Errorf("cannot read power state: %w", err)
	}
	return s.power(), nil
}

const (
	// powerLimit is how long a change may take to show: forced changes take seconds, 60 s is boot.md's limit.
	powerLimit = 60 * time.Second
	pollEvery  = time.Second
)

// SetPower implements bmc.Controller.
func (c *Controller) SetPower(ctx context.Context, cl intent.Claim, a bmc.PowerAction) (intent.Effect, error) {
	eff, err := c.setPower(ctx, cl, a)
	if err != nil {
		return eff, fmt.Errorf("cannot set power %s: %w", a, err)
	}
	return eff, nil
}

func (c *Controller) setPower(ctx context.Context, cl intent.Claim, a bmc.PowerAction) (intent.Effect, error) {
	s, err := c.read(ctx)
	if err != nil {
		return intent.EffectNone, err
	}
	goal := map[bmc.PowerAction]bmc.PowerState{bmc.PowerOn: bmc.PowerStateOn, bmc.PowerOff: bmc.PowerStateOff, bmc.PowerSoftOff: bmc.PowerStateOff}[a]
	if goal != "" && s.power() == goal {
		return intent.EffectNone, nil
	}
	if err := c.allowed(s, cl); err != nil {
		return intent.EffectNone, err
	}
	kind := s.resetType(a)
	if kind == "" {
		return intent.EffectNone, bmc.ErrUnsupported
	}
	path, err := c.find(ctx)
	if err != nil {
		return intent.EffectNone, err
	}
	target := cmp.Or(s.Actions.Reset.Target, path+"/Actions/ComputerSystem.Reset")
	_, _, err = c.do(ctx, http.MethodPost, target, map[string]string{"ResetType": kind}, nil)
	if err != nil && !errors.Is(err, bmc.ErrUnknown) {
		return intent.EffectNone, err
	}
	if goal == "" || a == bmc.PowerSoftOff {
		return intent.EffectAccepted, err // nothing to wait for, or the operating system takes its time
	}
	if werr := c.waitPower(ctx, goal); werr != nil {
		return intent.EffectAccepted, errors.Join(werr, err)
	}
	return intent.EffectReadback, nil
}

// waitPower polls until the device shows goal. Errors: ErrNoEffect, ErrUnknown at the context's end.
func (c *Controller) waitPower(ctx context.Context, goal bmc.PowerState) error {
	for end := time.Now().Add(powerLimit); ; {
		s, err := c.read(ctx)
		switch {
		case ctx.Err() != nil:
			return errors.Join(bmc.ErrUnknown, ctx.Err())
		case err != nil:
			return errors.Join(bmc.ErrUnknown, err)
		case s.power() == goal:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("%w: power is %s after %v", bmc.ErrNoEffect, s.power(), powerLimit)
		}
		if err := sleep(ctx, pollEvery); err != nil {
			return errors.Join(bmc.ErrUnknown, err)
		}
	}
}

// Identify reads the system and the version of its manager.
func (c *Controller) Identify(ctx context.Context) (bmc.Identity, error) {
	s, err := c.read(ctx)
	if err != nil {
		return bmc.Identity{}, fmt.Errorf("cannot identify: %w", err)
	}
	id := bmc.Identity{Vendor: s.Manufacturer, Model: s.Model, Serial: strings.TrimSpace(s.SerialNumber), UUID: strings.ToLower(s.UUID)}
	var root struct {
		Vendor string
		Oem    map[string]any
	}
	if _, err := c.get(ctx, "/redfish/v1/", &root); err != nil {
		return bmc.Identity{}, fmt.Errorf("cannot identify: %w", err)
	}
	if id.Vendor = cmp.Or(id.Vendor, root.Vendor); id.Vendor == "" && len(root.Oem) > 0 {
		keys := make([]string, 0, len(root.Oem))
		for k := range root.Oem {
			keys = append(keys, k)
		}
		id.Vendor = slices.Min(keys)
	}
	if len(s.Links.ManagedBy) > 0 {
		var m struct{ FirmwareVersion string }
		if _, err := c.get(ctx, s.Links.ManagedBy[0].ID, &m); err == nil { // worth having, no more
			id.Firmware = m.FirmwareVersion
		}
	}
	nics, err := c.nics(ctx, s)
	if err != nil {
		return bmc.Identity{}, fmt.Errorf("cannot identify: %w", err)
	}
	for _, n := range nics {
		id.MACs = append(id.MACs, n.MAC)
	}
	return id, nil
}

// maxMembers bounds what is read of a collection: each member is a request, half a second apart.
const maxMembers = 32

func (c *Controller) nics(ctx context.Context, s *system) ([]bmc.NIC, error) {
	if s.EthernetInterfaces.ID == "" {
		return nil, nil
	}
	var all collection
	if _, err := c.get(ctx, s.EthernetInterfaces.ID, &all); err != nil {
		return nil, err
	}
	var out []bmc.NIC
	for _, l := range all.Members[:min(len(all.Members), maxMembers)] {
		var n struct{ ID, Name, MACAddress, PermanentMACAddress string }
		if _, err := c.get(ctx, l.ID, &n); err != nil {
			return nil, err
		}
		mac := strings.ToLower(cmp.Or(n.PermanentMACAddress, n.MACAddress))
		// Some list a port twice, once for each of its functions.
		if mac != "" && !slices.ContainsFunc(out, func(o bmc.NIC) bool { return o.MAC == mac }) {
			out = append(out, bmc.NIC{Name: cmp.Or(n.ID, n.Name), MAC: mac})
		}
	}
	return out, nil
}

// Inventory reads processors, memory, NICs and drives.
func (c *Controller) Inventory(ctx context.Context) (bmc.Report, error) {
	id, err := c.Identify(ctx)
	if err != nil {
		return bmc.Report{}, fmt.Errorf("cannot read inventory: %w", err)
	}
	s, err := c.read(ctx)
	if err != nil {
		return bmc.Report{}, fmt.Errorf("cannot read inventory: %w", err)
	}
	r := bmc.Report{Identity: id, Processors: int(s.ProcessorSummary.Count), MemoryBytes: uint64(s.MemorySummary.TotalSystemMemoryGiB * (1 << 30))}
	for i, m := range id.MACs {
		r.NICs = append(r.NICs, bmc.NIC{Name: fmt.Sprint(i), MAC: m})
	}
	if s.Storage.ID == "" {
		return r, nil
	}
	var all collection
	if _, err := c.get(ctx, s.Storage.ID, &all); errors.Is(err, bmc.ErrUnsupported) {
		return r, nil // announced and not there (Supermicro X10): the installer will see the disks
	} else if err != nil {
		return bmc.Report{}, fmt.Errorf("cannot read inventory: %w", err)
	}
	for _, l := range all.Members[:min(len(all.Members), maxMembers)] {
		var st struct{ Drives []link }
		if _, err := c.get(ctx, l.ID, &st); err != nil {
			return bmc.Report{}, fmt.Errorf("cannot read inventory: %w", err)
		}
		for _, dl := range st.Drives[:min(len(st.Drives), maxMembers)] {
			var d struct {
				Name, SerialNumber, Model string
				CapacityBytes             float64
			}
			if _, err := c.get(ctx, dl.ID, &d); err != nil {
				return bmc.Report{}, fmt.Errorf("cannot read inventory: %w", err)
			}
			r.Disks = append(r.Disks, bmc.Disk{Name: d.Name, Serial: strings.TrimSpace(d.SerialNumber), Model: d.Model, SizeBytes: uint64(d.CapacityBytes)})
		}
	}
	return r, nil
}
