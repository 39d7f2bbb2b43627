package machine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/api/discovery"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// desk is a server with discovered machines, and the Shell of verbs that speak to it.
type desk struct {
	*httptest.Server
	out  bytes.Buffer
	list []discovery.FoundMachine
	puts []string
}

func newDesk(t *testing.T, list ...discovery.FoundMachine) *desk {
	d := &desk{list: list}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any
		switch {
		case r.Method == http.MethodPut:
			b, _ := io.ReadAll(r.Body)
			d.puts = append(d.puts, r.URL.RequestURI()+" "+r.Header.Get("If-None-Match")+" "+string(b))
			answer = map[string]any{"results": []api.Result{{Object: intent.Key{Kind: intent.KindMachine, Scope: "lon1", Name: "m9"}, Action: "created"}}}
		case strings.HasSuffix(r.URL.Path, "/ignore"):
			d.puts = append(d.puts, r.URL.Path)
			w.WriteHeader(http.StatusNoContent)
			return
		default:
			l := discovery.Found{Site: "lon1", Max: 256}
			for _, m := range d.list {
				if id := r.URL.Query().Get("machine"); id == "" || id == m.ID {
					l.Machines = append(l.Machines, m)
				}
			}
			answer = l
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(d.Close)
	return d
}

func (d *desk) Client() (*client.Client, error) {
	return client.New(d.URL, "", http.DefaultTransport), nil
}
func (d *desk) Site() string                { return "lon1" }
func (d *desk) Output() (io.Writer, string) { return &d.out, "" }
func (d *desk) Explain(err error) error     { return err }
func (d *desk) Print(_ any, fill func(account.Table)) error {
	fill(d)
	return nil
}
func (d *desk) Header(cols ...string) { fmt.Fprintln(&d.out, strings.Join(cols, " | ")) }
func (d *desk) Row(cols ...string)    { fmt.Fprintln(&d.out, strings.Join(cols, " | ")) }
func (d *desk) Results(res []api.Result, dryRun bool) error {
	_, err := fmt.Fprintf(&d.out, "%s %s %v\n", res[0].Object, res[0].Action, dryRun)
	return err
}
func (d *desk) Args(names ...string) cobra.PositionalArgs { return cobra.ExactArgs(len(names)) }

// run runs `skerry machine` with arguments and returns what it wrote.
func (d *desk) run(args ...string) (string, error) {
	c := Command(d)
	c.SetArgs(args)
	c.SilenceUsage, c.SilenceErrors = true, true
	d.out.Reset()
	err := c.Execute()
	return d.out.String(), err
}

func pebble() discovery.FoundMachine {
	at := time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)
	return discovery.FoundMachine{
		ID: "52-54-00-88-00-99", Serial: "SN-9\x1b[2J", UUID: "u9", Vendor: "ACME", Product: "R1\u202e", Firmware: "uefi", CPUs: 8, MemoryMiB: 16384,
		Disks: []discovery.FoundDisk{{Serial: "D1", SizeBytes: 1 << 40, Media: "ssd", Model: "S"}}, MACs: []string{"52:54:00:88:00:99"}, Address: "10.88.9.7", Subnet: "boot",
		Port: discovery.FoundPort{Relay: "10.88.0.1", Circuit: "ge-0/0/7", Remote: "sw1"}, First: at, Last: at.Add(time.Hour), Agent: "a1",
		Links:   []discovery.FoundLink{{MAC: "52:54:00:88:00:99", System: "sw1", Chassis: "0c:c4:7a:00:00:01", Port: "ge-0/0/7", Description: "row 37"}},
		Nearest: "small", Differs: []string{"8 cpu, wanted 1 to 4"}, Notes: []string{"odd"},
		Spec: intent.MachineSpec{Serial: "SN-9", NICs: []intent.NIC{{MAC: "52:54:00:88:00:99", Boot: true}}},
	}
}

// TestDiscoveredShown: what a machine says of itself moves no cursor.
func TestDiscoveredShown(t *testing.T) {
	d := newDesk(t, pebble())
	list, err := d.run("discovered")
	if err != nil {
		t.Fatal(err)
	}
	one, err := d.run("discovered", "52:54:00:88:00:99")
	if err != nil {
		t.Fatal(err)
	}
	const want = `ID | SERIAL | MACHINE | CPU | MEMORY | DISKS | TYPE | PORT | LAST SEEN | NOTE
52-54-00-88-00-99 | SN-9?[2J | ACME R1? | 8 | 16384 MiB | 1 | none; nearly small | sw1 ge-0/0/7 | 2026-11-28T11:00:00Z | odd
id          52-54-00-88-00-99
machine     ACME R1?, serial "SN-9\x1b[2J", UUID u9
is          8 cpu, 16384 MiB, boots by uefi
disk        1048576 MiB ssd S, serial "D1", WWN ""
cards       52:54:00:88:00:99
address     10.88.9.7 of boot
port        sw1 ge-0/0/7
link        52:54:00:88:00:99 in ge-0/0/7 of sw1 (0c:c4:7a:00:00:01), by LLDP: row 37
seen        2026-11-28T10:00:00Z to 2026-11-28T11:00:00Z, by agent a1
type        none; nearly small
            8 cpu, wanted 1 to 4
note        odd
`
	if diff := cmp.Diff(want, list+one); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if _, err := d.run("discovered", "m9"); err == nil || !strings.Contains(err.Error(), "cannot find m9 among the discovered machines") {
		t.Errorf("one that is not there: %v", err)
	}
}

// TestAccept: a Machine is created, never changed; what contradicts a declared machine, and half a BMC, is refused before anything is asked for.
func TestAccept(t *testing.T) {
	odd := pebble()
	odd.ID, odd.Conflict = "52-54-00-88-00-98", "its serial number is declared of machine m1, which has other network cards"
	d := newDesk(t, pebble(), odd)
	refused := func(want string, args ...string) {
		t.Helper()
		if _, err := d.run(append([]string{"accept"}, args...)...); err == nil || !strings.Contains(err.Error(), want) || len(d.puts) > 0 {
			t.Errorf("%v: %v, %v", args, err, d.puts)
		}
	}
	refused("without a name", "52-54-00-88-00-99")
	refused("give both", "52-54-00-88-00-99", "--name", "m9", "--bmc", "10.88.1.9")
	refused("declared of machine m1", "52-54-00-88-00-98", "--name", "m9")
	var hint *account.HintError
	if _, err := d.run("accept", "52-54-00-88-00-98", "--name", "m9"); !errors.As(err, &hint) || hint.Next == "" {
		t.Errorf("a refusal without the next step: %v", err)
	}
	out, err := d.run("accept", "52:54:00:88:00:99", "--name", "m9")
	if err != nil || !strings.Contains(out, "m9 has no BMC") {
		t.Errorf("%s, %v", out, err)
	}
	if _, err := d.run("accept", "52:54:00:88:00:99", "--name", "m9", "--bmc", "10.88.1.9", "--bmc-secret", "bmc", "--rack", "r7", "--position", "12", "--as-is", "--dry-run"); err != nil {
		t.Error(err)
	}
	if _, err := d.run("ignore", "52:54:00:88:00:99", "--reason", "a laptop"); err != nil {
		t.Error(err)
	}
	want := []string{
		`/v1/sites/lon1/machines/m9?reason=discovered+as+52-54-00-88-00-99 * {"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":"m9","site":"lon1"},"spec":{"serial":"SN-9","nics":[{"mac":"52:54:00:88:00:99","boot":true}]}}`,
		`/v1/sites/lon1/machines/m9?dryRun=true&reason=discovered+as+52-54-00-88-00-99 * {"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":"m9","site":"lon1"},"spec":{"rack":"r7","position":12,"serial":"SN-9","bmc":{"address":"10.88.1.9","protocol":"redfish","secret":"bmc"},"nics":[{"mac":"52:54:00:88:00:99","boot":true}],"onboard":"as-is"}}`,
		`/v1/sites/lon1/machines/52:54:00:88:00:99/ignore`,
	}
	if diff := cmp.Diff(want, d.puts); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestAcceptAtWork: a machine that may run a system of its own is not powered off by a slip.
func TestAcceptAtWork(t *testing.T) {
	busy := pebble()
	busy.HoldsData = true
	d := newDesk(t, busy)
	args := []string{"accept", busy.ID, "--name", "m9", "--bmc", "10.88.1.9", "--bmc-secret", "bmc"}
	var hint *account.HintError
	if _, err := d.run(append(args, "--as-is")...); !errors.As(err, &hint) || !strings.Contains(err.Error(), "is powered off at once") || !strings.Contains(hint.Next, "written over") || len(d.puts) > 0 {
		t.Errorf("accepted without a word: %v, %v", err, d.puts)
	}
	if _, err := d.run(append(args, "--power-off")...); err != nil || len(d.puts) != 1 {
		t.Errorf("%v, %v", err, d.puts)
	}
}
