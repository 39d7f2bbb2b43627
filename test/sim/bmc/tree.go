package bmc

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

func (b *BMC) systemPath() string { return "/redfish/v1/Systems/" + b.cfg.SystemID }

func collection(self, typ string, ids ...string) map[string]any {
	slices.Sort(ids)
	members := []any{}
	for _, id := range ids {
		members = append(members, map[string]any{"@odata.id": self + "/" + id})
	}
	return map[string]any{"@odata.id": self, "@odata.type": typ, "Name": "Collection", "Members": members, "Members@odata.count": len(members)}
}

// routes fills the mux. Whatever is not here is a Redfish 404.
func (b *BMC) routes() {
	sys := b.systemPath()
	handle := func(pattern string, h http.HandlerFunc) {
		method, path, _ := strings.Cut(pattern, " ")
		b.mux.HandleFunc(method+" "+path, h)
		b.mux.HandleFunc(method+" "+path+"/{$}", h)
	}
	handle("GET "+sys, b.getSystem)
	handle("PATCH "+sys, b.patchSystem)
	handle("POST "+sys+"/Actions/ComputerSystem.Reset", b.reset)
	handle("GET "+b.biosPath(), b.getBIOS)
	handle("GET "+b.biosPath()+"/ResetBiosActionInfo", b.resetInfo)
	handle("POST "+b.biosPath()+"/Actions/Bios.ResetBios", b.resetBIOS)
	handle("GET "+b.managerPath(), b.getManager)
	handle("POST "+b.managerPath()+"/Actions/Manager.ResetToDefaults", b.resetManager)
	handle("POST "+sessionsPath, b.postSession)
	handle("GET "+sessionsPath, b.listSessions)
	handle("GET "+sessionsPath+"/{id}", b.getSession)
	handle("DELETE "+sessionsPath+"/{id}", b.deleteSession)
	handle("GET "+accountsPath, b.listAccounts)
	handle("GET "+accountsPath+"/{id}", b.getAccount)
	handle("PATCH "+accountsPath+"/{id}", b.patchAccount)
	b.sensorRoutes(handle)
	handle("GET /redfish/v1", func(w http.ResponseWriter, r *http.Request) { answer(w, http.StatusOK, b.root()) })
	handle("GET /redfish", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, map[string]string{"v1": "/redfish/v1/"})
	})
	for path, doc := range b.static() {
		doc["@odata.id"] = path
		handle("GET "+path, func(w http.ResponseWriter, r *http.Request) { answer(w, http.StatusOK, doc) })
	}
	b.mux.HandleFunc("/", missing)
}

func (b *BMC) root() map[string]any {
	link := func(s string) map[string]any { return map[string]any{"@odata.id": "/redfish/v1/" + s} }
	doc := map[string]any{
		"@odata.id": "/redfish/v1/", "@odata.type": "#ServiceRoot.v1_8_0.ServiceRoot", "Id": "RootService", "Name": "Root Service",
		"RedfishVersion": "1.11.0", "UUID": b.cfg.UUID, "Vendor": b.cfg.Vendor, "Product": "Simulated BMC",
		"Systems": link("Systems"), "Managers": link("Managers"), "Chassis": link("Chassis"),
		"SessionService": link("SessionService"), "AccountService": link("AccountService"),
		"Links": map[string]any{"Sessions": link("SessionService/Sessions")},
	}
	if b.has(VendorEmpty) {
		delete(doc, "Vendor")
		delete(doc, "Product")
	}
	return doc
}

// static returns the resources that never change, by path.
func (b *BMC) static() map[string]map[string]any {
	id, sys := b.cfg.SystemID, b.systemPath()
	link := func(s string) map[string]any { return map[string]any{"@odata.id": s} }
	ok := map[string]any{"State": "Enabled", "Health": "OK"}
	mgr, cha := "/redfish/v1/Managers/"+id, "/redfish/v1/Chassis/"+id
	docs := map[string]map[string]any{
		"/redfish/v1/Systems":       collection("/redfish/v1/Systems", "#ComputerSystemCollection.ComputerSystemCollection", id),
		"/redfish/v1/Managers":      collection("/redfish/v1/Managers", "#ManagerCollection.ManagerCollection", id),
		"/redfish/v1/Chassis":       collection("/redfish/v1/Chassis", "#ChassisCollection.ChassisCollection", id),
		mgr + "/EthernetInterfaces": collection(mgr+"/EthernetInterfaces", "#EthernetInterfaceCollection.EthernetInterfaceCollection", "1"),
		mgr + "/EthernetInterfaces/1": {
			"@odata.type": "#EthernetInterface.v1_6_0.EthernetInterface", "Id": "1", "Name": "BMC",
			"IPv4Addresses": []any{map[string]any{"Address": b.cfg.Address}},
		},
		cha: {
			"@odata.type": "#Chassis.v1_14_0.Chassis", "Id": id, "Name": "Chassis", "ChassisType": "RackMount", "Manufacturer": b.cfg.Maker,
			"Model": b.cfg.Model, "SerialNumber": b.cfg.Serial, "Status": ok, "Links": map[string]any{"ComputerSystems": []any{link(sys)}},
			"Thermal": link(cha + "/Thermal"), "Power": link(cha + "/Power"),
		},
		"/redfish/v1/SessionService": {
			"@odata.type": "#SessionService.v1_1_7.SessionService", "Id": "SessionService", "Name": "Session Service",
			"ServiceEnabled": true, "SessionTimeout": int(sessionIdle.Seconds()), "Sessions": link(sessionsPath),
		},
		"/redfish/v1/AccountService": {
			"@odata.type": "#AccountService.v1_9_0.AccountService", "Id": "AccountService", "Name": "Account Service",
			"ServiceEnabled": true, "Accounts": link(accountsPath),
		},
		sys + "/Processors": collection(sys+"/Processors", "#ProcessorCollection.ProcessorCollection", "CPU0"),
		sys + "/Processors/CPU0": {
			"@odata.type": "#Processor.v1_11_0.Processor", "Id": "CPU0", "Name": "Processor", "ProcessorType": "CPU",
			"Model": "QEMU TCG CPU", "TotalCores": 1, "TotalThreads": 1, "Status": ok,
		},
		sys + "/Memory": collection(sys+"/Memory", "#MemoryCollection.MemoryCollection", "DIMM0"),
		sys + "/Memory/DIMM0": {
			"@odata.type": "#Memory.v1_11_0.Memory", "Id": "DIMM0", "Name": "Memory", "CapacityMiB": b.cfg.Memory,
			"MemoryDeviceType": "DDR4", "Status": ok,
		},
		sys + "/Storage": collection(sys+"/Storage", "#StorageCollection.StorageCollection", "1"),
	}
	var nics []string
	for i, mac := range b.cfg.MACs {
		n := strconv.Itoa(i + 1)
		nics = append(nics, n)
		docs[sys+"/EthernetInterfaces/"+n] = map[string]any{
			"@odata.type": "#EthernetInterface.v1_6_0.EthernetInterface", "Id": n,
			"Name": "NIC " + n, "MACAddress": strings.ToUpper(mac), "PermanentMACAddress": strings.ToUpper(mac), "LinkStatus": "LinkUp", "SpeedMbps": 10000, "Status": ok,
		}
	}
	docs[sys+"/EthernetInterfaces"] = collection(sys+"/EthernetInterfaces", "#EthernetInterfaceCollection.EthernetInterfaceCollection", nics...)
	drives := []any{}
	for i, d := range b.cfg.Disks {
		p := fmt.Sprintf("%s/Storage/1/Drives/%d", sys, i)
		drives = append(drives, link(p))
		docs[p] = map[string]any{
			"@odata.type": "#Drive.v1_11_0.Drive", "Id": strconv.Itoa(i), "Name": fmt.Sprintf("Drive %d", i),
			"SerialNumber": d.Serial, "CapacityBytes": d.SizeBytes, "MediaType": "SSD", "Status": ok,
		}
	}
	docs[sys+"/Storage/1"] = map[string]any{"@odata.type": "#Storage.v1_9_0.Storage", "Id": "1", "Name": "Storage", "Drives": drives, "Drives@odata.count": len(drives), "Status": ok}
	return docs
}
