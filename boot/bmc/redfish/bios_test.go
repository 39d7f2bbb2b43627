package redfish

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
	sim "github.com/skerry-metal/skerry/test/sim/bmc"
)

// resets are what each recorded controller is to be asked for: path and body, or the error that says why nothing is.
func resets() map[string]string {
	return map[string]string{
		"cray_cmm.tar.gz":                     "unsupported", // the controller of a chassis
		"cray_ex235a.tar.gz":                  "/redfish/v1/Systems/Node0/Bios/Actions/Bios.ResetBios {}",
		"cray_slingshot_switch.tar.gz":        "unsupported",
		"dell_poweredge_r750_idrac9.tar.gz":   "busy", // its settings are larger than what was recorded
		"dmtf_public_rackmount1.tar.gz":       "",     // it shows one as pending: asked for already
		"gigabyte_h262_ami.tar.gz":            `/redfish/v1/Systems/Self/Bios/Actions/Bios.ResetBios {"ResetType":"Reset"}`,
		"hpe_dl360_gen10plus_ilo5.tar.gz":     "/redfish/v1/systems/1/bios/settings/Actions/Bios.ResetBios/ {}",
		"hpe_dl380a_gen12_ilo7.tar.gz":        "/redfish/v1/systems/1/bios/Actions/Bios.ResetBios/ {}",
		"hpe_xl675d_gen10plus_ilo5.tar.gz":    "/redfish/v1/systems/1/bios/settings/Actions/Bios.ResetBios/ {}",
		"lenovo_thinksystem_sr670_xcc.tar.gz": "/redfish/v1/Systems/1/Bios/Actions/Bios.ResetBios {}",
		"nvidia_bluefield_bmc.tar.gz":         "/redfish/v1/Systems/Bluefield/Bios/Actions/Bios.ResetBios {}",
		"openbmc_stock.tar.gz":                "/redfish/v1/Systems/system/Bios/Actions/Bios.ResetBios {}",
		"supermicro_x10sdv.tar.gz":            "unsupported", // Redfish 1.0.1
	}
}

// findsReset asks the controller of a recorded tree for a reset, and compares with what goes out.
func findsReset(t *testing.T, path, want string, ask func(*Controller) error) {
	t.Helper()
	replay, got := tree(t, path).Config.Handler, ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || strings.Contains(r.URL.Path, "Sessions") {
			replay.ServeHTTP(w, r)
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got += r.URL.Path + " " + strings.TrimSpace(string(b))
		w.WriteHeader(http.StatusNoContent)
	}))
	defer srv.Close()
	c, err := New(Config{Address: srv.URL, User: "u", Password: "p", Site: "lon1", Logger: slog.New(slog.DiscardHandler), RatePerSec: simRate})
	if err != nil {
		t.Fatal(err)
	}
	switch err := ask(c); {
	case errors.Is(err, bmc.ErrUnsupported):
		got += "unsupported"
	case errors.Is(err, bmc.ErrBusy):
		got += "busy"
	case err != nil && !errors.Is(err, bmc.ErrNoEffect): // a recording does not change
		t.Errorf("%s: %v", filepath.Base(path), err)
	}
	if got != want {
		t.Errorf("%s\n got %s\nwant %s", filepath.Base(path), got, want)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// keepsAt is what a recorded controller is to be asked for that shall take its own defaults and keep network and accounts: of those recorded an
// iDRAC alone can.
func keepsAt(tree string) string {
	if tree == "dell_poweredge_r750_idrac9.tar.gz" {
		return `/redfish/v1/Managers/iDRAC.Embedded.1/Actions/Manager.ResetToDefaults {"ResetType":"PreserveNetworkAndUsers"}`
	}
	return "unsupported"
}

func resetOf(t *testing.T) func(*Controller) error {
	return func(c *Controller) error {
		eff, err := c.ResetBIOS(t.Context(), intent.Claim{})
		if eff == intent.EffectReadback {
			t.Error("a recording does not change")
		}
		return err
	}
}

func restoreOf(t *testing.T) func(*Controller) error {
	return func(c *Controller) error { return c.ResetController(t.Context(), intent.Claim{}) }
}

// TestFindsReset finds the action in the recorded trees of six vendors: none is asked at a path that it did not name.
func TestFindsReset(t *testing.T) {
	names, err := filepath.Glob("testdata/*.tar.gz")
	if err != nil || len(names) == 0 {
		t.Fatalf("no trees: %v", err)
	}
	for _, n := range names {
		findsReset(t, n, resets()[filepath.Base(n)], resetOf(t))
		findsReset(t, n, keepsAt(filepath.Base(n)), restoreOf(t))
	}
}

// TestCorpusReset is TestFindsReset over all that was recorded.
func TestCorpusReset(t *testing.T) {
	dir := filepath.Join(os.Getenv("SKERRY_CORPUS"), "redfish")
	if os.Getenv("SKERRY_CORPUS") == "" {
		t.Skip("no corpus: SKERRY_CORPUS")
	}
	for n, want := range resets() {
		findsReset(t, filepath.Join(dir, n), want, resetOf(t))
		findsReset(t, filepath.Join(dir, n), keepsAt(n), restoreOf(t))
	}
}

// TestAsksForAChoice: a reset of which a parameter has more than one value is not asked for; one without a required parameter is.
func TestAsksForAChoice(t *testing.T) {
	f := func(doc, want string, unsupported bool) {
		t.Helper()
		var info actionInfo
		if err := json.Unmarshal([]byte(doc), &info); err != nil {
			t.Fatal(err)
		}
		body, err := info.body()
		got, merr := json.Marshal(body)
		if errors.Is(err, bmc.ErrUnsupported) != unsupported || merr != nil || !unsupported && (err != nil || string(got) != want) {
			t.Errorf("%s: %s %v", doc, got, err)
		}
	}
	f(`{}`, `{}`, false)
	f(`{"Parameters":[{"Name":"A","AllowableValues":["x","y"]}]}`, `{}`, false)
	f(`{"Parameters":[{"Name":"ResetType","Required":true,"AllowableValues":["Reset"]}]}`, `{"ResetType":"Reset"}`, false)
	f(`{"Parameters":[{"Name":"ResetType","Required":true,"AllowableValues":["Reset","Zap"]}]}`, "", true)
	f(`{"Parameters":[{"Name":"ResetType","Required":true}]}`, "", true)
	many := strings.TrimSuffix(strings.Repeat(`{"Name":"N#","Required":true,"AllowableValues":["x"]},`, maxParameters+1), ",")
	for i := range maxParameters + 1 {
		many = strings.Replace(many, "#", string(rune('a'+i)), 1)
	}
	f(`{"Parameters":[`+many+`]}`, "", true)
}

// TestLoginRests: a login that is refused is not tried again at once, whoever asks for the proof.
func TestLoginRests(t *testing.T) {
	x := newBox(t, sim.Lockout3)
	c := x.driver()
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.password = "wrong"
	c.mu.Unlock()
	for range 3 {
		if err := c.Login(t.Context()); !errors.Is(err, bmc.ErrAuth) {
			t.Fatalf("%v, want %v", err, bmc.ErrAuth)
		}
	}
	if x.mu.Lock(); x.wrong != 1 {
		t.Errorf("%d logins with a refused password", x.wrong)
	}
	x.mu.Unlock()
}

// TestResetController: it is asked for under the claim, with what keeps network and accounts or not at all, and the account is proven by who
// comes after it.
func TestResetController(t *testing.T) {
	f := func(resets int, want, after error, faults ...sim.Fault) {
		t.Helper()
		x := newBox(t, faults...)
		c := x.driver()
		defer c.Close(t.Context())
		if err := c.RaiseFence(t.Context(), intent.Epoch{Generation: 1, N: 9}); err != nil {
			t.Fatal(err)
		}
		if err := c.ResetController(t.Context(), intent.Claim{Epoch: intent.Epoch{Generation: 1, N: 8}}); !errors.Is(err, bmc.ErrFenced) || x.b.Resets() != 0 {
			t.Fatalf("under a stale claim: %v", err)
		}
		if err := c.ResetController(t.Context(), intent.Claim{Epoch: intent.Epoch{Generation: 1, N: 9}}); !errors.Is(err, want) || x.b.Resets() != resets {
			t.Errorf("%v: %v, %d resets", faults, err, x.b.Resets())
		}
		err := c.Login(t.Context())
		for err != nil && !errors.Is(err, bmc.ErrAuth) && t.Context().Err() == nil {
			err = c.Login(t.Context())
		}
		if !errors.Is(err, after) {
			t.Errorf("%v: the login ends with %v", faults, err)
		}
	}
	f(1, nil, nil)
	f(0, bmc.ErrUnsupported, nil, sim.ManagerAll)
	f(1, nil, bmc.ErrAuth, sim.ManagerForgets)
}
