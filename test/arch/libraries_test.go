package arch

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// library is one third-party module and where it may be imported outside tests.
type library struct {
	module string
	rooms  []string // "*" = anywhere; none = tests only
	what   string
}

// libraries is the page of our dependencies as a table: one library lives in one room.
func libraries() []library {
	return []library{
		{"filippo.io/age", []string{"pki/seal"}, "files of operators"},
		{"github.com/VictoriaMetrics/metrics", []string{"*"}, "metrics"},
		{"github.com/bougou/go-ipmi", nil, "a BMC's server: another hand's reading of IPMI"},
		{"github.com/cilium/ebpf", []string{"telemetry/probe"}, "eBPF"},
		{"github.com/cloudflare/cfssl", []string{"pki/ca"}, "certificates"},
		{"github.com/danielgtaylor/huma/v2", []string{"mesh/api"}, "OpenAPI 3.1"},
		{"github.com/dgraph-io/badger/v4", []string{"storage/state"}, "all state"},
		{"github.com/gaissmai/bart", []string{"telemetry/account"}, "prefix tables"},
		{"github.com/goccy/go-yaml", []string{"cmd/skerry/cli", "deploy/images/tinyinit"}, "YAML for people; tinyinit is a guest's program and reads NoCloud, which is YAML"},
		{"github.com/google/go-cmp", nil, "differences"},
		{"github.com/gopacket/gopacket", nil, "a second reader of sFlow"},
		{"github.com/gosnmp/gosnmp", []string{"telemetry/snmp"}, "SNMP"},
		{"github.com/hashicorp/memberlist", []string{"mesh/gossip"}, "Serf's transport interface"},
		{"github.com/hashicorp/go-msgpack/v2", []string{"mesh/gossip"}, "memberlist's encoding, to read a header before it does"},
		{"github.com/hashicorp/serf", []string{"mesh/gossip"}, "pools"},
		{"github.com/insomniacslk/dhcp", []string{"boot/dhcp"}, "codec"},
		{"github.com/klauspost/compress", []string{"mesh/chunk"}, "zstd"},
		{"github.com/pin/tftp/v3", []string{"boot/tftp"}, "TFTP"},
		{"github.com/quic-go/quic-go", []string{"mesh/transport"}, "QUIC"},
		{"github.com/rogpeppe/go-internal", nil, "testscript"},
		{"github.com/secure-systems-lab/go-securesystemslib", []string{"pki/document"}, "DSSE"},
		{"github.com/spf13/cobra", []string{"cmd/skerry"}, "commands"},
		{"github.com/stmcginnis/gofish", []string{"boot/bmc/redfish"}, "Redfish"},
		{"github.com/vbauerster/mpb/v8", []string{"cmd/skerry"}, "progress bars"},
		{"go.etcd.io/etcd/api/v3", []string{"coordinator/store"}, "errors and messages of the client below"},
		{"go.etcd.io/etcd/client/v3", []string{"coordinator/store"}, "the shared store"},
		{"go.uber.org/goleak", nil, "leaked goroutines"},
		{"go.uber.org/zap", []string{"coordinator/store"}, "to silence the client of etcd: nothing is logged through it"},
		{"google.golang.org/grpc", []string{"coordinator/store"}, "codes and reconnection of the client of etcd"},
		{"golang.org/x/crypto", []string{"boot/console/sshd", "fabric/device"}, "SSH"},
		{"golang.org/x/net", []string{"*"}, "supplements of the standard library"},
		{"golang.org/x/sync", []string{"*"}, "supplements of the standard library"},
		{"golang.org/x/sys", []string{"*"}, "supplements of the standard library"},
		{"golang.org/x/time", []string{"*"}, "one token bucket for all that is limited"},
		{"pgregory.net/rapid", nil, "laws"},
	}
}

// libraryOf returns the row of an import path; ok is false for what is ours, of the standard library, or in no row.
func libraryOf(rows []library, p string) (library, bool) {
	for _, l := range rows {
		if within(p, l.module) {
			return l, true
		}
	}
	return library{}, false
}

func checkLibraries(files []source, rows []library) []string {
	var out []string
	for _, f := range files {
		for _, i := range f.file.Imports {
			p := strings.Trim(i.Path.Value, `"`)
			if within(p, module) || !strings.Contains(strings.SplitN(p, "/", 2)[0], ".") {
				continue
			}
			l, ok := libraryOf(rows, p)
			switch {
			case !ok:
				out = append(out, fmt.Sprintf("%s: %s is in no row of the table of libraries: say what for, and in which room", f.path, p))
			case !f.test && !withinAny(f.dir, l.rooms) && !(len(l.rooms) == 1 && l.rooms[0] == "*") && !strings.HasPrefix(f.dir, "test/"):
				out = append(out, fmt.Sprintf("%s: %s lives in %v, not in %s: ask that room through an interface", f.path, l.module, l.rooms, f.dir))
			}
		}
	}
	return out
}

func TestLibraries(t *testing.T) {
	report(t, checkLibraries(tree(t), libraries()))
}

func TestLibrariesSeen(t *testing.T) {
	s := func(name, p string) []source { return []source{parse(t, name, "package p\nimport _ \""+p+"\"\n")} }
	wantRed(t, checkLibraries(s("siteagent/x.go", "github.com/dgraph-io/badger/v4/options"), libraries()), "lives in [storage/state]")
	wantRed(t, checkLibraries(s("boot/dhcp/x.go", "github.com/google/go-cmp/cmp"), libraries()), "lives in []")
	wantRed(t, checkLibraries(s("boot/dhcp/x_test.go", "github.com/google/gopacket"), libraries()), "no row")
	wantGreen(t, checkLibraries(s("boot/dhcp/x_test.go", "github.com/dgraph-io/badger/v4"), libraries()))
	wantGreen(t, checkLibraries(s("storage/state/x.go", "github.com/dgraph-io/badger/v4"), libraries()))
	wantGreen(t, checkLibraries(s("storage/state/x.go", module+"/mesh/intent"), libraries()))
	wantGreen(t, checkLibraries(s("siteagent/x.go", "golang.org/x/sync/errgroup"), libraries()))
}

// checkGoMod complains of directives that bend the build, and of direct requirements without a row.
func checkGoMod(text string, rows []library) []string {
	var out []string
	sc := bufio.NewScanner(strings.NewReader(text))
	block := ""
	for n := 1; sc.Scan(); n++ {
		f := strings.Fields(sc.Text())
		if len(f) == 0 {
			continue
		}
		if f[0] == ")" {
			block = ""
			continue
		}
		verb, rest := f[0], f[1:]
		if block != "" {
			verb, rest = block, f
		} else if len(f) == 2 && f[1] == "(" {
			block = f[0]
			rest = nil
		}
		switch verb {
		case "replace", "exclude", "toolchain", "godebug":
			out = append(out, fmt.Sprintf("go.mod:%d: %s: what a newcomer builds must be what we built", n, verb))
		case "require":
			if len(rest) >= 2 && !strings.HasSuffix(sc.Text(), "// indirect") {
				if _, ok := libraryOf(rows, rest[0]); !ok {
					out = append(out, fmt.Sprintf("go.mod:%d: %s is in no row of the table of libraries", n, rest[0]))
				}
			}
		}
	}
	return out
}

func TestGoMod(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	report(t, checkGoMod(string(text), libraries()))
	for _, l := range libraries() {
		if !strings.Contains(string(text), l.module+" v") {
			t.Errorf("%s has a row in the table of libraries and is not in go.mod", l.module)
		}
	}
}

func TestGoModSeen(t *testing.T) {
	wantRed(t, checkGoMod("replace a => b\n", nil), "go.mod:1: replace")
	wantRed(t, checkGoMod("go 1.26\nreplace (\n\ta => b\n)\n", nil), "go.mod:2: replace")
	wantRed(t, checkGoMod("toolchain go1.27\n", nil), "toolchain")
	wantRed(t, checkGoMod("require (\n\texample.net/x v1.0.0\n)\n", nil), "go.mod:2: example.net/x")
	wantRed(t, checkGoMod("require example.net/x v1.0.0\n", nil), "go.mod:1: example.net/x")
	wantGreen(t, checkGoMod("require (\n\texample.net/x v1.0.0 // indirect\n)\n", nil))
}
