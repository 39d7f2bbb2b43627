package bmc

import (
	"encoding/json"
	"maps"
	"net/http"
	"time"
)

// biosState is the machine's BIOS settings. BMC.mu guards it.
type biosState struct {
	attributes map[string]string
	pending    bool      // defaults are to be taken at the next start
	gone       time.Time // since when the resource is hidden, under bios-vanishes
}

func biosDefaults() map[string]string {
	return map[string]string{"HyperThreading": "Enabled", "SerialConsole": "Disabled", "SecureBoot": "Enabled"}
}

// SetBIOS changes a setting as the machine's user would in its setup menu.
func (b *BMC) SetBIOS(attribute, value string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bios.attributes[attribute] = value
}

// BIOS returns the settings as they are in force.
func (b *BMC) BIOS() map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.bios.attributes)
}

func (b *BMC) biosPath() string { return b.systemPath() + "/Bios" }

// startBIOS is what a start does with pending settings. The caller holds mu.
func (b *BMC) startBIOS() {
	if b.bios.pending {
		b.bios.attributes, b.bios.pending = biosDefaults(), false
	}
}

func (b *BMC) getBIOS(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.faults[BIOSVanishes] && !b.bios.gone.IsZero() && time.Since(b.bios.gone) < b.cfg.VanishTime {
		missing(w, r)
		return
	}
	self := b.biosPath()
	reset := map[string]any{"target": self + "/Actions/Bios.ResetBios"}
	if b.faults[BIOSParameter] {
		reset["@Redfish.ActionInfo"] = self + "/ResetBiosActionInfo"
	}
	doc := map[string]any{
		"@odata.id": self, "@odata.type": "#Bios.v1_2_0.Bios", "Id": "Bios", "Name": "BIOS Settings", "Attributes": maps.Clone(b.bios.attributes),
		"Actions": map[string]any{"#Bios.ResetBios": reset}, "ResetBiosToDefaultsPending": b.bios.pending,
	}
	if b.faults[BIOSNoReset] {
		delete(doc, "Actions")
	}
	if b.faults[BIOSSilent] {
		delete(doc, "ResetBiosToDefaultsPending")
	}
	answer(w, http.StatusOK, doc)
}

// resetInfo is AMI's, as recorded of a GIGABYTE H262.
func (b *BMC) resetInfo(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{
		"@odata.id": b.biosPath() + "/ResetBiosActionInfo", "@odata.type": "#ActionInfo.v1_1_1.ActionInfo", "Id": "ResetBiosAction", "Name": "ResetBiosAction",
		"Parameters": []any{map[string]any{"Name": "ResetType", "Required": true, "DataType": "String", "AllowableValues": []string{"Reset"}}},
	})
}

func (b *BMC) resetBIOS(w http.ResponseWriter, r *http.Request) {
	var body struct{ ResetType string }
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(&body)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.faults[BIOSNoReset]:
		missing(w, r)
		return
	case err != nil, b.faults[BIOSParameter] != (body.ResetType == "Reset"):
		fail(w, http.StatusBadRequest, "Base.1.8.ActionParameterNotSupported", "The parameters of the action Bios.ResetBios are not as expected.")
		return
	case b.refuseBusy(w):
		return
	}
	if !b.faults[BIOSIgnored] {
		b.bios.pending = true
		b.bios.gone = time.Now()
	}
	if b.faults[BIOSLost] {
		panic(http.ErrAbortHandler) // the connection breaks before the answer
	}
	w.WriteHeader(http.StatusNoContent)
}
