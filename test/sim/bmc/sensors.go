package bmc

import (
	"net/http"
	"time"
)

// sensorRoutes serve Thermal and Power of the chassis: a machine that is on is warm, turns its fans and draws power; one sensor knows
// nothing, and one is not there, as real ones have them.
func (b *BMC) sensorRoutes(handle func(pattern string, h http.HandlerFunc)) {
	cha := "/redfish/v1/Chassis/" + b.cfg.SystemID
	enabled := map[string]any{"State": "Enabled", "Health": "OK"}
	handle("GET "+cha+"/Thermal", func(w http.ResponseWriter, _ *http.Request) {
		cpu, fan := 24.0, 0
		if b.power.PowerOn() {
			// Slowly up and down between 40 and 55: a graph of it is seen to move.
			at := time.Now().Unix() % 1800
			cpu, fan = 40+float64(min(at, 1800-at))/60, 3600
		}
		answer(w, http.StatusOK, map[string]any{
			"@odata.id": cha + "/Thermal", "@odata.type": "#Thermal.v1_7_0.Thermal", "Id": "Thermal", "Name": "Thermal",
			"Temperatures": []any{
				map[string]any{"@odata.id": cha + "/Thermal#/Temperatures/0", "MemberId": "0", "Name": "CPU1 Temp", "ReadingCelsius": cpu, "Status": enabled},
				map[string]any{"@odata.id": cha + "/Thermal#/Temperatures/1", "MemberId": "1", "Name": "Inlet Temp", "ReadingCelsius": 22, "Status": enabled},
				map[string]any{"@odata.id": cha + "/Thermal#/Temperatures/2", "MemberId": "2", "Name": "DIMM Temp", "ReadingCelsius": nil, "Status": enabled},
				map[string]any{"@odata.id": cha + "/Thermal#/Temperatures/3", "MemberId": "3", "Name": "CPU2 Temp", "ReadingCelsius": 0, "Status": map[string]any{"State": "Absent"}},
			},
			"Fans": []any{map[string]any{"@odata.id": cha + "/Thermal#/Fans/0", "MemberId": "0", "Name": "Fan 1", "Reading": fan, "ReadingUnits": "RPM", "Status": enabled}},
		})
	})
	handle("GET "+cha+"/Power", func(w http.ResponseWriter, _ *http.Request) {
		watts := 12
		if b.power.PowerOn() {
			watts = 180
		}
		answer(w, http.StatusOK, map[string]any{
			"@odata.id": cha + "/Power", "@odata.type": "#Power.v1_7_0.Power", "Id": "Power", "Name": "Power",
			"PowerControl": []any{map[string]any{"@odata.id": cha + "/Power#/PowerControl/0", "MemberId": "0", "Name": "System Power Control", "PowerConsumedWatts": watts}},
		})
	})
}
