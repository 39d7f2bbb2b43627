package bmc

import (
	"encoding/json"
	"net/http"
	"time"
)

func (b *BMC) managerPath() string { return "/redfish/v1/Managers/" + b.cfg.SystemID }

// factoryPassword is what counts after manager-forgets.
const factoryPassword = "factory-password"

func (b *BMC) getManager(w http.ResponseWriter, _ *http.Request) {
	self := b.managerPath()
	link := func(s string) map[string]any { return map[string]any{"@odata.id": s} }
	kinds := []string{"ResetAll", "PreserveNetworkAndUsers"}
	if b.has(ManagerAll) {
		kinds = kinds[:1]
	}
	answer(w, http.StatusOK, map[string]any{
		"@odata.id": self, "@odata.type": "#Manager.v1_10_0.Manager", "Id": b.cfg.SystemID, "Name": "Manager", "ManagerType": "BMC", "FirmwareVersion": "sim-1",
		"Model": "Simulated BMC", "PowerState": "On", "Status": map[string]any{"State": "Enabled", "Health": "OK"}, "EthernetInterfaces": link(self + "/EthernetInterfaces"),
		"Links": map[string]any{"ManagerForServers": []any{link(b.systemPath())}, "ManagerForChassis": []any{link("/redfish/v1/Chassis/" + b.cfg.SystemID)}},
		"Actions": map[string]any{"#Manager.ResetToDefaults": map[string]any{
			"target": self + "/Actions/Manager.ResetToDefaults", "ResetType@Redfish.AllowableValues": kinds,
		}},
	})
}

// resetManager has the controller start again, without its sessions. What it forgets but them is not simulated.
func (b *BMC) resetManager(w http.ResponseWriter, r *http.Request) {
	var body struct{ ResetType string }
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(&body)
	b.mu.Lock()
	defer b.mu.Unlock()
	if keep := body.ResetType == "PreserveNetworkAndUsers"; err != nil || !keep && body.ResetType != "ResetAll" || keep && b.faults[ManagerAll] {
		fail(w, http.StatusBadRequest, "Base.1.8.ActionParameterValueNotInList", "The value for the parameter ResetType is not in the list of acceptable values.", "ResetType")
		return
	}
	if b.faults[ManagerForgets] || body.ResetType == "ResetAll" {
		b.password = factoryPassword
	}
	clear(b.sessions)
	b.resets++
	b.away = time.Now()
	w.WriteHeader(http.StatusNoContent)
}

// Resets returns how often the controller itself was reset.
func (b *BMC) Resets() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.resets
}
