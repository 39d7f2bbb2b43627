package arch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// arrow is one forbidden direction: no package within from may import one within to, but for those of except.
type arrow struct {
	from, to []string
	except   []string // packages within to that may be imported all the same
	tests    bool     // holds for test files too
	why      string
}

func ground() []string {
	return []string{"mesh/intent", "mesh/chunk", "storage/state", "storage/blob"}
}

func workshops() []string { return []string{"boot", "fabric", "storage", "telemetry"} }

// arrows is architecture section 5 as a table. Test files may lean on more, unless tests is set: they judge across rooms.
func arrows() []arrow {
	upper := []string{"cmd", "coordinator", "siteagent"}
	out := []arrow{
		{from: []string{"coordinator"}, to: []string{"siteagent"}, why: "the coordinator may be gone for ever: what both need lies in mesh or pki"},
		{from: []string{"siteagent"}, to: []string{"coordinator"}, why: "a site needs nothing of the coordinator to run: what both need lies in mesh or pki"},
		{
			from: []string{"coordinator"}, to: workshops(), except: ground(),
			why: "the coordinator signs and publishes; hands on hardware are the site's",
		},
		{from: []string{"coordinator", "siteagent"}, to: []string{"cmd"}, tests: true, why: "doors hold no logic that a resident could want"},
		{from: workshops(), to: upper, tests: true, why: "workshops are wired by the residents and do not know them"},
		{
			from: workshops(), to: []string{"mesh", "pki"}, except: ground(),
			why: "a workshop declares the small interface it needs and siteagent wires it: it must be testable without keys and network",
		},
		{from: []string{"mesh"}, to: append(upper, workshops()...), except: ground(), why: "what travels does not know who sends it"},
		{from: []string{"pki"}, to: append(upper, "mesh"), except: ground(), why: "who may speak is decided below what travels"},
		{from: []string{"pki"}, to: workshops(), except: ground(), why: "trust must not hang on hardware"},
		{from: []string{"mesh/intent"}, to: append(append(upper, "mesh", "pki"), workshops()...), why: "the model is a leaf: the standard library only"},
		{from: []string{"mesh/chunk"}, to: append(upper, "mesh", "pki", "boot", "fabric", "storage", "telemetry"), except: []string{"mesh/intent"}, why: "ground: anyone may stand on it, the installer too"},
		{from: []string{"storage/state"}, to: append(upper, "mesh", "pki", "boot", "fabric", "storage", "telemetry"), except: []string{"mesh/intent"}, why: "ground: the one place that opens Badger knows no user of it"},
		{from: []string{"storage/blob"}, to: append(upper, "mesh", "pki", "boot", "fabric", "storage", "telemetry"), except: ground(), why: "ground: asset files know no user of them"},
		{from: []string{"mesh/api/client", "mesh/api"}, to: []string{"pki", "storage"}, why: "the API is a face over an interface; its client runs on an operator's laptop"},
		{
			from: []string{"cmd/skerry/cli"}, to: append(workshops(), "pki", "mesh", "siteagent/reconcile", "siteagent/claim", "coordinator/store"),
			except: []string{"mesh/api", "mesh/intent", "mesh/stick", "pki/document", "pki/seal", "pki/holder", "telemetry/rrd/graph"},
			why:    "verbs speak the API like everybody else, so that nothing works only on the host of a resident; pki/seal makes and opens a user's own key file, pki/holder the files of holders, who are offline, mesh/stick reads a file that somebody carries",
		},
		{
			from: []string{"cmd/skerry-installer"}, to: []string{"coordinator", "siteagent", "mesh", "storage", "pki"},
			except: []string{"mesh/intent", "mesh/chunk", "pki/document", "storage/image", "storage/raid", "storage/erase"},
			why:    "the installer is fetched by every machine (12 MB): it links no Badger, Serf, cfssl",
		},
		{
			from: []string{"boot", "cmd", "coordinator", "fabric", "mesh", "pki", "siteagent", "storage", "telemetry", "deploy"}, to: []string{"test"},
			except: []string{}, why: "simulators are for tests and the demo",
		},
		{from: []string{"test/sim"}, to: append(append(upper, "mesh", "pki"), workshops()...), why: "a simulator that shares code with what it judges shares its errors"},
	}
	for _, w := range workshops() {
		others := slices.DeleteFunc(workshops(), func(o string) bool { return o == w })
		out = append(out, arrow{
			from: []string{w}, to: others, except: ground(),
			why: "workshops never import each other: the consumer declares an interface and siteagent wires it",
		})
	}
	return out
}

// pardons are the arrows that stand although a row forbids them, with the reason.
func pardons() map[[2]string]string {
	return map[[2]string]string{
		{"cmd/skerry-demo/demo", "test/sim/bmc"}:    "the demo is the only code outside tests that may use the simulators",
		{"cmd/skerry-demo/demo", "test/sim/netlab"}: "the demo, as above",
		{"cmd/skerry-demo/demo", "test/sim/vm"}:     "the demo, as above",
		{"cmd/skerry-demo/demo", "test/sim/wan"}:    "the demo, as above",
	}
}

// checkArrows complains of every import that a row forbids. used collects the pardons that were needed.
func checkArrows(files []source, rows []arrow, pardoned map[[2]string]string, used map[[2]string]bool) []string {
	var out []string
	for _, f := range files {
		for _, to := range f.imports() {
			key := [2]string{f.dir, to}
			for _, a := range rows {
				if (f.test && !a.tests) || !withinAny(f.dir, a.from) || !withinAny(to, a.to) || withinAny(to, a.except) || withinSame(a.from, f.dir, to) {
					continue
				}
				if _, ok := pardoned[key]; ok {
					used[key] = true
					continue
				}
				out = append(out, fmt.Sprintf("%s: %s must not import %s: %s", f.path, f.dir, to, a.why))
			}
		}
	}
	return out
}

// withinSame tells whether dir and to lie in the same room of from: mesh/api may import what lies below mesh/api.
func withinSame(from []string, dir, to string) bool {
	return slices.ContainsFunc(from, func(r string) bool { return within(dir, r) && within(to, r) })
}

func TestArrows(t *testing.T) {
	used := map[[2]string]bool{}
	report(t, checkArrows(tree(t), arrows(), pardons(), used))
	for p, why := range pardons() {
		if !used[p] {
			t.Errorf("the pardon of %s -> %s is not needed any more (%s): remove it", p[0], p[1], why)
		}
	}
}

// Every row must be seen red, and the neighbour that it allows green.
func TestArrowsSeen(t *testing.T) {
	f := func(from, to string, allowed bool) {
		t.Helper()
		name := "x.go"
		s := parse(t, from+"/"+name, fmt.Sprintf("package p\nimport _ %q\n", module+"/"+to))
		got := checkArrows([]source{s}, arrows(), pardons(), map[[2]string]bool{})
		if allowed {
			wantGreen(t, got)
		} else {
			wantRed(t, got, "must not import "+to)
		}
	}
	f("coordinator", "siteagent/claim", false)
	f("siteagent/reconcile", "coordinator/store", false)
	f("coordinator/repository", "boot/install", false)
	f("coordinator/repository", "storage/blob", true)
	f("siteagent", "cmd/skerry/cli", false)
	f("boot/dhcp", "siteagent", false)
	f("boot/httpboot", "storage/image", false)
	f("boot/httpboot", "storage/blob", true)
	f("storage/image", "boot/install", false)
	f("boot/install", "mesh/transport", false)
	f("boot/install", "pki/trust", false)
	f("boot/install", "mesh/intent", true)
	f("boot/install", "boot/inventory", true)
	f("mesh/swarm", "boot/tftp", false)
	f("mesh/swarm", "pki/trust", true)
	f("pki/trust", "mesh/transport", false)
	f("pki/trust", "boot/bmc", false)
	f("pki/trust", "mesh/intent", true)
	f("mesh/intent", "storage/state", false)
	f("mesh/chunk", "mesh/api", false)
	f("storage/state", "pki/seal", false)
	f("storage/blob", "mesh/swarm", false)
	f("storage/blob", "storage/state", true)
	f("mesh/api/client", "pki/trust", false)
	f("mesh/api/client", "mesh/api", true)
	f("cmd/skerry/cli", "boot/dhcp", false)
	f("cmd/skerry/cli", "mesh/api/client", true)
	f("cmd/skerry-installer", "storage/state", false)
	f("cmd/skerry-installer", "storage/image", true)
	f("siteagent", "test/sim/wan", false)
	f("cmd/skerry-demo/demo", "test/sim/wan", true)
	f("test/sim/bmc", "boot/bmc", false)
}

// A test file may judge across rooms, but not pull a resident into a workshop.
func TestArrowsOfTests(t *testing.T) {
	f := func(from, to string, allowed bool) {
		t.Helper()
		s := parse(t, from+"/x_test.go", fmt.Sprintf("package p\nimport _ %q\n", module+"/"+to))
		got := checkArrows([]source{s}, arrows(), pardons(), map[[2]string]bool{})
		if allowed != (len(got) == 0) {
			t.Errorf("%s -> %s: %s", from, to, strings.Join(got, "; "))
		}
	}
	f("boot/dhcp", "test/e2e/lab", true)
	f("boot/install", "storage/image", true)
	f("boot/dhcp", "siteagent", false)
}
