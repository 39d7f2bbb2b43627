package intent

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// doc returns a document of a kind; spec is JSON.
func doc(kind Kind, name, scope, spec string) string {
	info, _ := kind.Info()
	meta := fmt.Sprintf(`"name":%q`, name)
	if info.Scope == ScopeProject {
		meta += `,"project":"acme"`
	}
	if info.NeedSite {
		meta += fmt.Sprintf(`,"site":%q`, scope)
	}
	return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":%q,"metadata":{%s},"spec":%s}`, kind, meta, spec)
}

// Two public keys: Ed25519 and P-256, SubjectPublicKeyInfo in base64.
const (
	keyAna = "MCowBQYDK2VwAyEAz/9XSH3Z1jiULy93ziiFPQh9+Lso/Q56uq7jJHMgVQo="
	keyBob = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE0LSLIolYOAeFEqbggkoJXI+IVRP722EurSXMW+/aRozlTSBEead2JmuygxhO3QKGDJttfs/okdL2gObO1ykqcw=="
)

const digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// goodSpecs has one spec of every kind, with every field set.
func goodSpecs() map[Kind]string {
	return map[Kind]string{
		KindSite:           `{"region":"eu","zone":"z1","description":"A place","staleAfter":"168h","bootSlots":4,"installer":{"kernel":"k","ramdisk":"r"},"wan":{"rateIn":"20M","rateOut":"5M","dailyCap":"50G","windows":[{"days":["mon"],"from":"08:00","to":"18:30","rate":"2M"},{"from":"22:00","to":"06:00","rate":"0"}]},"peers":["par1","ams1"]}`,
		KindAgent:          `{"management":"10.99.1.11:7444","boot":["10.88.0.11"],"roles":["dhcp","bmc"],"rank":1}`,
		KindMachine:        `{"rack":"r1","position":1,"serial":"SN","uuid":"4c4c4544-0042-3510-8051-b4c04f4d3132","bmc":{"address":"10.88.1.1:443","protocol":"redfish","secret":"bmc","pin":"` + digestA + `"},"nics":[{"mac":"52:54:00:88:00:01","boot":true,"address":"10.88.0.21"}],"maintenance":true,"onboard":"as-is"}`,
		KindSwitch:         `{"description":"top of r1","sflow":{"agents":["10.88.2.1","fd00::1"],"direction":"both"},"ports":[{"index":17,"name":"Ethernet17","nic":"52:54:00:88:00:01","vlan":100}]}`,
		KindMachineType:    `{"cpu":{"min":1,"max":4},"memoryMiB":{"min":256},"disks":[{"media":"ssd","count":{"min":1},"minBytes":1}],"console":"ttyS0,115200n8","warm":1}`,
		KindSubnetPool:     `{"prefix":"10.88.0.0/16","gateway":"10.88.0.1","dns":["10.88.0.2"],"ntp":["10.88.0.3"],"domain":"d.example","dhcp":"authoritative","dynamic":{"from":"10.88.9.1","to":"10.88.9.9"},"static":{"from":"10.88.0.20","to":"10.88.0.90"},"relays":["10.88.0.9"]}`,
		KindNetwork:        `{"subnetPool":"boot"}`,
		KindAsset:          `{"digest":"` + digestA + `","size":1,"manifest":"` + digestA + `","class":"image"}`,
		KindImage:          `{"asset":"tiny","os":"tiny","version":"1","boot":["bios","uefi"],"format":"raw","defaultUser":"ops","minDiskBytes":1,"verify":"full"}`,
		KindSecret:         `{"type":"bmc","data":{"username":"u","password":"p"},"version":1}`,
		KindProject:        `{"displayName":"Acme","sites":["lon1"]}`,
		KindUser:           `{"displayName":"Ana","tokens":[{"id":"t1","sha256":"` + digestA + `"}],"keys":[{"public":"` + keyAna + `","expires":"2030-01-02T03:04:05Z"}],"bindings":[{"role":"member","project":"acme","site":"lon1"}]}`,
		KindGroup:          `{"displayName":"Shop","members":["x"],"bindings":[{"role":"member","project":"acme","site":"lon1"}]}`,
		KindRole:           `{"rules":[{"verbs":["read","write"],"kinds":["Network"]}]}`,
		KindQuota:          `{"machines":{"small":3},"offline":{"machines":{"small":1}}}`,
		KindInfrastructure: `{"description":"x"}`,
		KindInstanceArray:  `{"infrastructure":"shop","count":1,"machineType":"small","image":"tiny","networks":["default"],"sshKeys":["ana"],"userData":"#cloud-config"}`,
		KindSSHKey:         `{"publicKey":"ssh-ed25519 AAAA ana"}`,
	}
}

func TestEveryKindDecodes(t *testing.T) {
	for _, info := range Kinds() {
		spec, ok := goodSpecs()[info.Kind]
		if !ok {
			t.Errorf("no good spec of %s in the table", info.Kind)
			continue
		}
		o, err := DecodeObject([]byte(doc(info.Kind, "a", "lon1", spec)))
		if err != nil {
			t.Errorf("%s: %v", info.Kind, err)
			continue
		}
		if d := cmp.Diff(o, o.Clone()); d != "" {
			t.Errorf("%s: Clone differs: %s", info.Kind, d)
		}
	}
}

// problems returns what DecodeObject says, one a line.
func problems(text string) []string {
	_, err := DecodeObject([]byte(text))
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

// changes returns a function that changes the good spec of a kind by one replacement and compares the whole answer.
func changes(t *testing.T) func(kind Kind, old, fresh string, want ...string) {
	return func(kind Kind, old, fresh string, want ...string) {
		t.Helper()
		spec := goodSpecs()[kind]
		if strings.Count(spec, old) != 1 {
			t.Fatalf("%s: %q stands %d times in the good spec", kind, old, strings.Count(spec, old))
		}
		got := problems(doc(kind, "a", "lon1", strings.Replace(spec, old, fresh, 1)))
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s, %.200s for %s: -want +got\n%s", kind, fresh, old, d)
		}
	}
}

// Each case changes the good spec of a kind by one replacement, and gives the whole answer: place, what, fix.
func TestValidate(t *testing.T) {
	f := changes(t)
	const name = "use 1-63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
	f(KindSite, `"eu"`, `"EU"`, `spec.region: "EU" is not a name; `+name)
	f(KindSite, `"z1"`, `""`, `spec.zone: "" is not a name; `+name)
	f(KindSite, `"A place"`, `"two\nlines"`, `spec.description: too long or not printable; at most 256 printable characters on one line`)
	f(KindSite, `"168h"`, `"1m"`, `spec.staleAfter: "1m" is no duration in range; use 1h0m0s to 87600h0m0s`)
	f(KindSite, `"bootSlots":4`, `"bootSlots":-1`, `spec.bootSlots: -1 is out of range; use 0 to 4096`)
	f(KindSite, `"kernel":"k"`, `"kernel":"K"`, `spec.installer.kernel: "K" is not a name; `+name)
	f(KindSite, `"ramdisk":"r"`, `"ramdisk":""`, `spec.installer.ramdisk: "" is not a name; `+name)
	const arg = "words like nomodeset or pci=noaer, at most 32, none of skerry's own"
	f(KindSite, `"ramdisk":"r"`, `"ramdisk":"r","args":["nomodeset","pci=noaer,x"]`)
	f(KindSite, `"ramdisk":"r"`, `"ramdisk":"r","args":["a","b c"]`, `spec.installer.args[1]: "b c" is no argument of the kernel; `+arg)
	f(KindSite, `"ramdisk":"r"`, `"ramdisk":"r","args":["${uuid}"]`, `spec.installer.args[0]: "${uuid}" is no argument of the kernel; `+arg)
	f(KindSite, `"ramdisk":"r"`, `"ramdisk":"r","args":["skerry.token=x"]`, `spec.installer.args[0]: "skerry.token=x" is no argument of the kernel; `+arg)
	f(KindSite, `"20M"`, `"20m"`, `spec.wan.rateIn: "20m" is no amount in range; use at least 8000, with k, M, G or T for thousands, millions and so on`)
	f(KindSite, `"20M"`, `"99999999T"`, `spec.wan.rateIn: "99999999T" is no amount in range; use at least 8000, with k, M, G or T for thousands, millions and so on`)
	f(KindSite, `"5M"`, `"5"`, `spec.wan.rateOut: "5" is no amount in range; use at least 8000, with k, M, G or T for thousands, millions and so on`)
	f(KindSite, `"par1"`, `"Par1"`, `spec.peers[0]: "Par1" is not a name; `+name)
	f(KindSite, `["par1","ams1"]`, `["a","b","c","d","e","f","g","h","i","j","k","l","m","n","o","p","q"]`, `spec.peers: 17 sites, more than 16; name the nearest`)
	f(KindSite, `"50G"`, `"-1"`, `spec.wan.dailyCap: "-1" is no amount in range; use at least 1000000, with k, M, G or T for thousands, millions and so on`)
	f(KindSite, `"mon"`, `"Monday"`, `spec.wan.windows[0].days: "Monday" is not known; use sun, mon, tue, wed, thu, fri, sat`)
	f(KindSite, `"08:00"`, `"8:00"`, `spec.wan.windows[0].from: "8:00" is no time of the day; write it like 08:30`)
	f(KindSite, `"18:30"`, `"24:00"`, `spec.wan.windows[0].to: "24:00" is no time of the day; write it like 08:30`)
	f(KindSite, `"rate":"0"`, `"rate":""`, `spec.wan.windows[1].rate: it is missing; use 0 for quiet hours, or a rate like 2M`)
	f(KindSite, `"rate":"0"`, `"rate":"1k"`, `spec.wan.windows[1].rate: "1k" is no amount in range; use at least 8000, with k, M, G or T for thousands, millions and so on`)

	f(KindAgent, `10.99.1.11:7444`, `host:7444`, `spec.management: "host:7444" is not an address with port; write it like 10.99.1.11:7444`)
	f(KindAgent, `10.88.0.11`, `10.88.0.256`, `spec.boot[0]: "10.88.0.256" is not an IP address; write it like 10.0.0.1`)
	f(KindAgent, `"bmc"`, `"cook"`, `spec.roles[1]: "cook" is not known; use dhcp, bmc`)
	f(KindAgent, `"rank":1`, `"rank":65536`, `spec.rank: 65536 is out of range; use 0 to 65535`)

	f(KindMachine, `"position":1`, `"position":101`, `spec.position: 101 is out of range; use 0 to 100`)
	f(KindMachine, `"uuid":"4c`, `"uuid":"4C`, `spec.uuid: "4C4c4544-0042-3510-8051-b4c04f4d3132" is not a UUID; write it in lower case, like 4c4c4544-0042-3510-8051-b4c04f4d3132`)
	f(KindMachine, `10.88.1.1:443`, `bmc.example`, `spec.bmc.address: "bmc.example" is not an IP address; write it like 10.0.0.1`)
	f(KindMachine, `"redfish"`, `"telnet"`, `spec.bmc.protocol: "telnet" is not known; use redfish, ipmi`)
	f(KindMachine, `"redfish"`, `"ipmi"`, `spec.bmc.pin: is given, and IPMI has no certificate; remove it`)
	f(KindMachine, `"secret":"bmc"`, `"secret":""`, `spec.bmc.secret: "" is not a name; `+name)
	f(KindMachine, `52:54:00:88:00:01`, `53:54:00:88:00:01`, `spec.nics[0].mac: "53:54:00:88:00:01" is not a MAC address; write it like 52:54:00:12:34:56`)
	f(KindMachine, `10.88.0.21`, `fd00::1`, `spec.nics[0].address: is not an IPv4 address; write it like 10.88.0.21`)
	f(KindMachine, `"as-is"`, `"wipe"`, `spec.onboard: "wipe" is not known; use as-is`)
	f(KindMachine, `[{"mac":"52:54:00:88:00:01","boot":true,"address":"10.88.0.21"}]`, `[]`, `spec.nics: 0 network ports; give 1 to 64`)
	f(KindMachine, `{"mac":"52:54:00:88:00:01",`, `{"mac":"52:54:00:88:00:02","boot":true},{"mac":"52:54:00:88:00:01",`, `spec.nics: more than one has boot: true; keep one`)

	f(KindSwitch, `["10.88.2.1","fd00::1"]`, `[]`, `spec.sflow.agents: 0 addresses; give 1 to 8, or spec.snmp`)
	f(KindSwitch, `fd00::1`, `sw1`, `spec.sflow.agents[1]: "sw1" is not an IP address; write it like 10.0.0.1`)
	f(KindSwitch, `"both"`, `"out"`, `spec.sflow.direction: "out" is not known; use auto, ingress, both, host`)
	f(KindSwitch, `"index":17`, `"index":0`)
	f(KindSwitch, `"index":17,"name":"Ethernet17"`, `"index":0`, `spec.ports[0].index: 0 is out of range; use 1 to 2147483647`)
	f(KindSwitch, `{"index":17,`, `{"index":17,"members":[17],`, `spec.ports[0].index: 17 is there twice; an ifIndex names one port: correct one of them`)
	f(KindSwitch, `{"index":17,`, `{"index":17,"nic":"52:54:00:88:00:02"},{"index":17,`, `spec.ports[1].index: 17 is there twice; an ifIndex names one port: correct one of them`)
	f(KindSwitch, `52:54:00:88:00:01`, `m1`, `spec.ports[0].nic: "m1" is not a MAC address; write it like 52:54:00:12:34:56`)
	f(KindSwitch, `"vlan":100`, `"vlan":4095`, `spec.ports[0].vlan: 4095 is out of range; use 0 to 4094`)

	f(KindMachineType, `"max":4`, `"max":-4`, `spec.cpu: is no range; 0 <= min <= max <= 65536`)
	f(KindMachineType, `{"min":256}`, `{"min":256,"max":255}`, `spec.memoryMiB: is no range; 0 <= min <= max <= 1073741824`)
	f(KindMachineType, `"ssd"`, `"tape"`, `spec.disks[0].media: "tape" is not known; use ssd, hdd, nvme`)
	f(KindMachineType, `ttyS0,115200n8`, `ttyS0 init=/bin/sh`, `spec.console: "ttyS0 init=/bin/sh" is no console; write it like ttyS0,115200n8`)
	f(KindMachineType, `"warm":1`, `"warm":1025`, `spec.warm: 1025 is out of range; use 0 to 1024`)

	f(KindSubnetPool, `10.88.0.0/16`, `10.88.0.0`, `spec.prefix: "10.88.0.0" is not a prefix; write it like 10.0.0.0/24`)
	f(KindSubnetPool, `10.88.0.0/16`, `10.88.0.1/16`, `spec.prefix: 10.88.0.1/16 has host bits set; write 10.88.0.0/16`)
	f(KindSubnetPool, `"gateway":"10.88.0.1"`, `"gateway":"10.89.0.1"`, `spec.gateway: 10.89.0.1 is not inside 10.88.0.0/16; choose an address of the prefix`)
	f(KindSubnetPool, `"authoritative"`, `"loud"`, `spec.dhcp: "loud" is not known; use auto, authoritative, proxy, off`)
	f(KindSubnetPool, `"to":"10.88.9.9"`, `"to":"10.88.8.9"`, `spec.dynamic: ends before it begins; swap from and to`)
	f(KindSubnetPool, `"to":"10.88.0.90"`, `"to":"10.88.9.1"`, `spec.static: overlaps the dynamic range; keep them apart`)

	f(KindNetwork, `"boot"`, `"b_t"`, `spec.subnetPool: "b_t" is not a name; `+name)
	f(KindAsset, `"size":1`, `"size":0`, `spec.size: 0 is out of range; 1 octet to 1 TiB`)
	f(KindAsset, `"class":"image"`, `"class":"song"`, `spec.class: "song" is not known; use boot, image, other`)
	f(KindAsset, `"manifest":"`+digestA+`",`, ``, "spec.manifest: is missing; `skerry asset upload FILE` makes the asset and its document")
	f(KindImage, `["bios","uefi"]`, `[]`, `spec.boot: is empty; name bios, uefi or both`)
	f(KindImage, `"raw"`, `"qcow2"`, `spec.format: "qcow2" is not known; use raw`)
	f(KindImage, `"ops"`, `"a b"`, `spec.defaultUser: "a b" is not a user name; use a-z, 0-9 and -`)
	f(KindImage, `"full"`, `"never"`, `spec.verify: "never" is not known; use full, sample`)
	f(KindSecret, `"password":"p"`, `"passwort":"p"`, `spec.data: a bmc secret lacks username or password; give both`)
	f(KindSecret, `"username":"u"`, `"User":"u"`, `spec.data: value "User" is refused; names of a-z, 0-9, -; values up to 8192 octets`, `spec.data: a bmc secret lacks username or password; give both`)
	f(KindSecret, `"bmc"`, `"love"`, `spec.type: "love" is not known; use bmc, snmp, opaque`)

	long := strings.Repeat("x", 8000)
	f(KindSecret, `"password":"p"`, `"password":"p","a":"`+long+`","b":"`+long+`","c":"`+long+`","d":"`+long+`","e":"`+long+`","f":"`+long+`","g":"`+long+`","h":"`+long+`","i":"`+long+`"`,
		`spec.data: 72094 octets in all; at most 65536: split the secret`)

	f(KindProject, `"lon1"`, `"Lon"`, `spec.sites[0]: "Lon" is not a name; `+name)
	f(KindUser, `"t1"`, `"T 1"`, `spec.tokens[0].id: "T 1" is not a name; `+name)
	f(KindUser, `,"sha256":"`+digestA+`"`, ``, "spec.tokens[0].sha256: is missing; `skerry token user NAME` makes a token")
	f(KindUser, `"role":"member"`, `"role":""`, `spec.bindings[0].role: "" is not a name; `+name)
	f(KindRole, `"write"`, `"token"`, `spec.rules[0].verbs[1]: "token" is not known; use read, write, power, release`)
	f(KindRole, `"Network"`, `"Machine"`, `spec.rules[0].kinds[0]: "Machine" is not a users' kind; own roles reach users' kinds only; use a built-in role for the rest`)
	f(KindRole, `{"verbs":["read","write"],"kinds":["Network"]}`, ``, `spec.rules: 0 rules; give 1 to 64`)
	f(KindQuota, `"small":3`, `"small":-3,"big":-1`, `spec.machines.big: -1 is out of range; use 0 to 1048576`, `spec.machines.small: -3 is out of range; use 0 to 1048576`)
	f(KindSSHKey, `ssh-ed25519 AAAA ana`, `command=\"sh\" ssh-ed25519 AAAA`, "spec.publicKey: is no public key; give one line like `ssh-ed25519 AAAA... name`")
	f(KindInstanceArray, `"count":1`, `"count":4097`, `spec.count: 4097 is out of range; use 0 to 4096`)
	f(KindInstanceArray, `["default"]`, `["a","b","c","d","e","f","g","h","i"]`, `spec.networks: more than 8; a machine gets at most 8 networks: remove some`)
}

func TestValidateMetadata(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		if d := cmp.Diff(want, problems(text)); d != "" {
			t.Errorf("%s: -want +got\n%s", text, d)
		}
	}
	f(`{"apiVersion":"skerry/v2","kind":"Site","metadata":{"name":"a"},"spec":{}}`, `apiVersion: "skerry/v2" is not known; use skerry/v1`)
	f(`{"apiVersion":"skerry/v1","kind":"Planet","metadata":{"name":"a"},"spec":{}}`, "kind: \"Planet\" is not known; `skerry get kinds` lists them")
	f(`{"apiVersion":"skerry/v1","kind":"Network","metadata":{"name":"a"},"spec":{"subnetPool":"x"}}`,
		`metadata.project: "" is not a name; use 1-63 of a-z, 0-9 and -, beginning and ending with a letter or digit`,
		`metadata.site: "" is not a name; use 1-63 of a-z, 0-9 and -, beginning and ending with a letter or digit`)
	f(`{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"a","project":"p","site":"s"},"spec":{"region":"a","zone":"b"}}`,
		`metadata.project: a Site belongs to no project; remove it`, `metadata.site: a Site belongs to no site; remove it`)
	f(`{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"a","labels":{"":"x","z\u0000":"y"}},"spec":{"region":"a","zone":"b"}}`,
		`metadata.labels: "" is not a label; names up to 63, values up to 128 printable characters`,
		`metadata.labels: "z\x00" is not a label; names up to 63, values up to 128 printable characters`)
	f(`{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"a","uid":"../head"},"spec":{"region":"a","zone":"b"}}`,
		`metadata.uid: "../head" is not a uid; leave it out: it is given`)
	f(strings.Repeat(" ", MaxObjectSize+1), `the document has 262145 octets; at most 262144`)
}

func TestValidateSNMP(t *testing.T) {
	f := changes(t)
	const snmp = `{"address":"10.88.2.1","version":"3","secret":"switches"}`
	f(KindSwitch, `"sflow":{"agents":["10.88.2.1","fd00::1"],"direction":"both"}`, `"snmp":`+snmp)
	f(KindSwitch, `"sflow"`, `"snmp":`+strings.NewReplacer("10.88.2.1", "sw1:161", `"3"`, `"1"`, "switches", "S").Replace(snmp)+`,"sflow"`,
		`spec.snmp.address: "sw1:161" is not an IP address; write it like 10.0.0.1`, `spec.snmp.version: "1" is not known; use 2c, 3`,
		`spec.snmp.secret: "S" is not a name; use 1-63 of a-z, 0-9 and -, beginning and ending with a letter or digit`)
	f(KindMachine, `"nics"`, `"snmp":`+strings.Replace(snmp, "10.88.2.1", "[fd00::1]:1161", 1)+`,"nics"`)
	const lacks = `spec.data: an snmp secret lacks community (version 2c), or username, auth-password and priv-password of 8 characters or more (version 3); give one or the other`
	f(KindSecret, `"bmc"`, `"snmp"`, lacks)
	f(KindSecret, `"bmc","data":{`, `"snmp","data":{"community":"c",`)
	f(KindSecret, `"bmc","data":{`, `"snmp","data":{"auth-password":"12345678","priv-password":"12345678",`)
	f(KindSecret, `"bmc","data":{`, `"snmp","data":{"auth-password":"12345678","priv-password":"1234567",`, lacks)
}

// A place and a fix belong to every problem that a person can cause: whole tables above compare them, this catches new ones.
func TestEmptySpecsHavePlaceAndFix(t *testing.T) {
	for _, info := range Kinds() {
		_, err := DecodeObject([]byte(doc(info.Kind, "a", "lon1", `{}`)))
		ps, _ := err.(Problems)
		for _, p := range ps {
			if !strings.HasPrefix(p.Path, "spec.") || p.What == "" || p.Fix == "" {
				t.Errorf("%s: problem %+v lacks place, words or fix", info.Kind, p)
			}
		}
		if len(ps) == 0 && info.Kind != KindQuota && info.Kind != KindInfrastructure && info.Kind != KindMachineType && info.Kind != KindProject && info.Kind != KindUser && info.Kind != KindGroup {
			t.Errorf("%s: an empty spec passes", info.Kind)
		}
	}
}

func TestParseMAC(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		got, ok := ParseMAC(in)
		if got != want || ok != (want != "") {
			t.Errorf("ParseMAC(%q) = %q, %v; want %q", in, got, ok, want)
		}
	}
	f("52:54:00:AB:cd:01", "52:54:00:ab:cd:01")
	f("52-54-00-ab-cd-01", "52:54:00:ab:cd:01")
	f("525400abcd01", "")
	f("00:00:00:00:00:00", "")
	f("ff:ff:ff:ff:ff:ff", "")
	f("01:00:5e:00:00:01", "") // multicast
	f("52:54:00:ab:cd:0g", "")
	f("52:54:00:ab:cd:011", "")
}
