package bmc

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/test/sim/vm"
)

// assetTagMax is the longest asset tag; Dell takes 63 characters.
const assetTagMax = 63

// bootState is the boot override as Redfish shows it.
type bootState struct {
	Enabled string // Disabled, Once, Continuous
	Target  string // None, Pxe, Hdd, UefiHttp
	Mode    string // UEFI, Legacy
	URI     string
}

func (b *BMC) modes() []string {
	if b.cfg.Firmware == vm.BIOS {
		return []string{"Legacy"}
	}
	return []string{"UEFI"}
}

func (b *BMC) targets() []string {
	if b.cfg.Firmware == vm.BIOS {
		return []string{"None", "Pxe", "Hdd"}
	}
	return []string{"None", "Pxe", "Hdd", "UefiHttp"}
}

func resetTypes() []string {
	return []string{"On", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart", "PowerCycle", "PushPowerButton"}
}

func (b *BMC) etag() string { return fmt.Sprintf(`"%016x"`, b.version*0x9E3779B97F4A7C15) } // caller holds mu

// powerState is On or Off, or what it was before under power-stale. The caller holds mu.
func (b *BMC) powerState() string {
	on := b.power.PowerOn()
	if b.faults[PowerStale] && time.Since(b.powerAt) < b.cfg.StaleTime {
		on = b.wasOn
	}
	if on {
		return "On"
	}
	return "Off"
}

func (b *BMC) getSystem(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	etag, doc := b.etag(), b.systemDoc()
	b.mu.Unlock()
	w.Header().Set("ETag", etag)
	if m := r.Header.Get("If-None-Match"); m != "" && (m == etag || m == strings.Trim(etag, `"`)) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	answer(w, http.StatusOK, doc)
}

// systemDoc builds the ComputerSystem. The caller holds mu.
func (b *BMC) systemDoc() map[string]any {
	self := b.systemPath()
	link := func(s string) map[string]any { return map[string]any{"@odata.id": s} }
	reset := map[string]any{"target": self + "/Actions/ComputerSystem.Reset"}
	if !b.faults[ResetNoValues] {
		reset["ResetType@Redfish.AllowableValues"] = resetTypes()
	}
	boot := map[string]any{
		"BootSourceOverrideEnabled":                         b.boot.Enabled,
		"BootSourceOverrideTarget":                          b.boot.Target,
		"BootSourceOverrideTarget@Redfish.AllowableValues":  b.targets(),
		"BootSourceOverrideEnabled@Redfish.AllowableValues": []string{"Disabled", "Once", "Continuous"},
	}
	if !b.faults[ModeRefused] {
		boot["BootSourceOverrideMode"] = b.boot.Mode
		boot["BootSourceOverrideMode@Redfish.AllowableValues"] = b.modes()
	}
	if b.boot.URI != "" {
		boot["HttpBootUri"] = b.boot.URI
	}
	return map[string]any{
		"@odata.id": self, "@odata.type": "#ComputerSystem.v1_13_0.ComputerSystem", "@odata.etag": b.etag(),
		"Id": b.cfg.SystemID, "Name": "System", "SystemType": "Physical", "Manufacturer": b.cfg.Maker, "Model": b.cfg.Model,
		"SerialNumber": b.cfg.Serial, "UUID": b.cfg.UUID, "AssetTag": b.assetTag, "BiosVersion": "sim-1",
		"PowerState": b.powerState(), "Status": map[string]any{"State": "Enabled", "Health": "OK"}, "Boot": boot,
		"ProcessorSummary":   map[string]any{"Count": 1, "Model": "QEMU TCG CPU"},
		"MemorySummary":      map[string]any{"TotalSystemMemoryGiB": float64(b.cfg.Memory) / 1024},
		"EthernetInterfaces": link(self + "/EthernetInterfaces"), "Processors": link(self + "/Processors"),
		"Memory": link(self + "/Memory"), "Storage": link(self + "/Storage"), "Bios": link(b.biosPath()),
		"Links": map[string]any{
			"Chassis":   []any{link("/redfish/v1/Chassis/" + b.cfg.SystemID)},
			"ManagedBy": []any{link("/redfish/v1/Managers/" + b.cfg.SystemID)},
		},
		"Actions": map[string]any{"#ComputerSystem.Reset": reset},
	}
}

// systemPatch is what may be changed. Pointers tell absent from empty.
type systemPatch struct {
	AssetTag *string    `json:"AssetTag"`
	Boot     *bootPatch `json:"Boot"`
}

type bootPatch struct {
	Enabled *string `json:"BootSourceOverrideEnabled"`
	Target  *string `json:"BootSourceOverrideTarget"`
	Mode    *string `json:"BootSourceOverrideMode"`
	URI     *string `json:"HttpBootUri"`
}

func (b *BMC) patchSystem(w http.ResponseWriter, r *http.Request) {
	var p systemPatch
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		id, msg := "Base.1.8.MalformedJSON", "The request body submitted was malformed JSON."
		if strings.Contains(err.Error(), "unknown field") {
			id, msg = "Base.1.8.PropertyUnknown", "The property is not in the list of valid properties for the resource: "+err.Error()
		}
		fail(w, http.StatusBadRequest, id, msg)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuseBusy(w) || b.refuseMatch(w, r.Header.Get("If-Match")) || b.refuseValues(w, &p) {
		return
	}
	b.apply(&p)
	b.version++
	doc := b.systemDoc() // what it claims; the two reverting faults undo it after the answer
	w.Header().Set("ETag", b.etag())
	if p.Boot != nil && b.faults[EnableReverts] {
		b.boot.Enabled, b.boot.Target = "Disabled", "None"
		b.version++
	}
	if p.Boot != nil && p.Boot.Mode != nil && b.faults[ModeReverts] {
		b.boot.Mode = map[string]string{"UEFI": "Legacy", "Legacy": "UEFI"}[b.boot.Mode]
		b.version++
	}
	answer(w, http.StatusOK, doc)
}

// refuseBusy answers the faults that refuse writes for a while. The caller holds mu.
func (b *BMC) refuseBusy(w http.ResponseWriter) bool {
	if b.faults[PostLocked] && b.power.PowerOn() && time.Since(b.started) < b.cfg.PostTime {
		fail(w, http.StatusConflict, "iLO.2.14.UnableToModifyDuringSystemPOST", "The value cannot be changed while the system is in POST.")
		return true
	}
	if b.faults[NodeBusy] && b.count%3 != 0 {
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusServiceUnavailable, "ThinkSystem.1.0.NodeBusy", "The node is busy. Try again later.")
		return true
	}
	return false
}

// refuseMatch checks If-Match. The caller holds mu.
func (b *BMC) refuseMatch(w http.ResponseWriter, match string) bool {
	switch {
	case match == "" && b.faults[ETagRequired]:
		fail(w, http.StatusPreconditionRequired, "Base.1.8.PreconditionRequired", "A precondition header or annotation is required to change this resource.")
	case match == "" || match == "*" || b.faults[ETagIgnored]:
		return false
	case b.faults[ETagBare] && match == strings.Trim(b.etag(), `"`):
		return false
	case !b.faults[ETagBare] && match == b.etag():
		return false
	default:
		fail(w, http.StatusPreconditionFailed, "Base.1.8.PreconditionFailed", "The ETag supplied did not match the ETag required to change this resource.")
	}
	return true
}

// refuseValues checks the values of p. The caller holds mu.
func (b *BMC) refuseValues(w http.ResponseWriter, p *systemPatch) bool {
	notIn := func(value, property string, list []string) bool {
		if slices.Contains(list, value) {
			return false
		}
		fail(w, http.StatusBadRequest, "Base.1.8.PropertyValueNotInList", "The value "+value+" for the property "+property+" is not in the list of acceptable values.", value, property)
		return true
	}
	if p.AssetTag != nil && len(*p.AssetTag) > assetTagMax {
		fail(w, http.StatusBadRequest, "Base.1.8.PropertyValueFormatError", "The value for the property AssetTag is too long.", *p.AssetTag, "AssetTag")
		return true
	}
	bp := p.Boot
	if bp == nil {
		return false
	}
	switch {
	case bp.Mode != nil && b.faults[ModeRefused]:
		fail(w, http.StatusBadRequest, "Base.1.8.PropertyUnknown", "The property BootSourceOverrideMode is not in the list of valid properties for the resource.", "BootSourceOverrideMode")
		return true
	case bp.Mode == nil && b.faults[ModeResend]:
		fail(w, http.StatusBadRequest, "Base.1.8.PropertyMissing", "The property BootSourceOverrideMode is a required property and must be included in the request.", "BootSourceOverrideMode")
		return true
	case bp.Enabled != nil && notIn(*bp.Enabled, "BootSourceOverrideEnabled", []string{"Disabled", "Once", "Continuous"}):
		return true
	case bp.Target != nil && notIn(*bp.Target, "BootSourceOverrideTarget", b.targets()):
		return true
	case bp.Mode != nil && notIn(*bp.Mode, "BootSourceOverrideMode", b.modes()):
		return true
	}
	return false
}

// apply writes p. The caller holds mu.
func (b *BMC) apply(p *systemPatch) {
	set := func(to, from *string) {
		if from != nil {
			*to = *from
		}
	}
	set(&b.assetTag, p.AssetTag)
	if p.Boot == nil {
		return
	}
	set(&b.boot.Enabled, p.Boot.Enabled)
	set(&b.boot.Target, p.Boot.Target)
	set(&b.boot.Mode, p.Boot.Mode)
	set(&b.boot.URI, p.Boot.URI)
	if b.boot.Enabled == "Disabled" {
		b.boot.Target = "None"
	}
}

func (b *BMC) reset(w http.ResponseWriter, r *http.Request) {
	var body struct{ ResetType string }
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil {
		fail(w, http.StatusBadRequest, "Base.1.8.MalformedJSON", "The request body submitted was malformed JSON.")
		return
	}
	if !slices.Contains(resetTypes(), body.ResetType) {
		fail(w, http.StatusBadRequest, "Base.1.8.ActionParameterValueNotInList", "The value "+body.ResetType+" for the parameter ResetType is not in the list of acceptable values.", body.ResetType, "ResetType")
		return
	}
	b.mu.Lock()
	if b.faults[NodeBusy] && b.refuseBusy(w) {
		b.mu.Unlock()
		return
	}
	on := b.power.PowerOn()
	b.wasOn, b.powerAt = on, time.Now()
	b.mu.Unlock()
	// Not under the mutex: a start calls NextBoot, which takes it.
	if err := b.switchPower(r, body.ResetType, on); err != nil {
		fail(w, http.StatusInternalServerError, "Base.1.8.InternalError", err.Error())
		return
	}
	b.mu.Lock()
	b.version++
	b.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func (b *BMC) switchPower(r *http.Request, kind string, on bool) error {
	ctx := r.Context()
	switch kind {
	case "On":
		return b.power.On(ctx)
	case "ForceOff":
		return b.power.Off(ctx)
	case "GracefulShutdown":
		return b.power.Shutdown(ctx)
	case "PushPowerButton":
		if on {
			return b.power.Shutdown(ctx)
		}
		return b.power.On(ctx)
	default: // GracefulRestart, ForceRestart, PowerCycle
		if !on {
			return b.power.On(ctx)
		}
		return b.power.Reset(ctx)
	}
}
