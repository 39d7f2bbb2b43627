package e2e

import (
	"context"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/test/e2e/procs"
	"github.com/skerry-metal/skerry/test/sim/bmc"
	"github.com/skerry-metal/skerry/test/sim/vm"
)

// buildSkerry builds the program: what is tested is what is written, not what was built once.
func buildSkerry(t *testing.T) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "skerry")
	if out, err := exec.Command("go", "build", "-o", exe, "../../cmd/skerry").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return exe
}

// TestTheft: with the coordinator gone, an agent is stolen and quarantined, a new box takes its place from a kit, and at reunion
// the theft is revoked. Real processes, no firmware.
func TestTheft(t *testing.T) {
	exe := buildSkerry(t)
	s := procs.New(t, exe, "a1", "a2")
	ctx := t.Context()
	tok, err := s.API("coordinator").JoinToken(ctx, "lon1", api.JoinTokenRequest{Agent: "s1", Spare: true})
	if err != nil {
		t.Fatal(err)
	}
	kit := filepath.Join(t.TempDir(), "lon1-s1.kit")
	out := s.CLI("agent", "kit", "--join", tok.Token, "--out", kit)
	_, rest, ok := strings.Cut(out, "passphrase")
	if !ok {
		t.Fatalf("no passphrase in %q", out)
	}
	pass := strings.Fields(rest)[0]
	const password = "MARKED-correct-horse-battery"
	controller, addr := rackBMC(t, password)
	s.Apply(`{"apiVersion":"skerry/v1","kind":"Secret","metadata":{"name":"bmc","site":"lon1"},"spec":{"type":"bmc","data":{"username":"root","password":"` + password + `"}}}`)
	s.Apply(`{"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":"m1","site":"lon1"},"spec":{"bmc":{"address":"` + addr + `","protocol":"redfish","secret":"bmc"},"nics":[{"mac":"52:54:00:88:00:01"}]}}`)
	marked := map[string]string{
		"the kit's passphrase": pass, "a BMC's password": password, "a user's token": strings.Split(s.Token, ".")[2],
		"a join token": strings.Split(tok.Token, ".")[2],
	}
	s.Until("the site knows the spare", func(ctx context.Context) bool {
		st, err := s.API("coordinator").SiteStatus(ctx, "lon1")
		return err == nil && st.Head == st.Published
	})
	s.Kill("coordinator")
	maps.Copy(marked, keysAtRest(t, s.Data("coordinator"), "before", "a1", "a2"))

	// While a2 stands there, the spare does not come in.
	s.Addr["s1"] = s.Addr["a2"]
	file := kit + ".passphrase"
	if err := os.WriteFile(file, []byte(pass+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	spare := []string{"--spare", kit, "--passphrase-file", file, "--replaces", "a2"}
	if said, err := run(ctx, exe, append([]string{"agent", "--data", s.Data("s1"), "--management", s.Addr["s1"]}, spare...)...); err == nil || !strings.Contains(said, "a2") {
		t.Fatalf("a spare came in while a2 is there: %v\n%s", err, said)
	}

	at := time.Now()
	res, err := s.API("a1").Quarantine(ctx, "lon1", "a2", api.QuarantineRequest{On: true, Reason: "stolen"})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("quarantined in %v, %d sessions closed", time.Since(at), res.Closed)
	if strings.Join(res.Agents, " ") != "a1" || res.Closed == 0 {
		t.Errorf("after the quarantine: %+v", res)
	}
	s.Kill("a2")
	s.Agent("s1", spare...)
	s.Until("a1 and s1 are the site", func(ctx context.Context) bool {
		one, err1 := s.API("a1").SiteStatus(ctx, "lon1")
		two, err2 := s.API("s1").SiteStatus(ctx, "lon1")
		return err1 == nil && err2 == nil && procs.Alive(one) == "a1 s1" && procs.Alive(two) == "a1 s1" && one.Head == two.Head
	})

	// The stolen box comes back elsewhere, and finds every door shut.
	s.Addr["a2"] = procs.FreeAddr(t)
	s.Agent("a2")
	s.Until("the stolen box is up and alone", func(ctx context.Context) bool {
		st, err := s.API("a2").SiteStatus(ctx, "lon1")
		return err == nil && !strings.Contains(procs.Alive(st), "1")
	})

	s.Coordinator()
	s.Until("the coordinator took the spare for a2", func(ctx context.Context) bool {
		st, err := s.API("coordinator").SiteStatus(ctx, "lon1")
		return err == nil && procs.Alive(st) == "a1 s1" && st.Head == st.Published
	})
	theft := api.RevokeRequest{Kind: "agent", ID: "lon1/a2", Reason: "stolen", RotateBMC: true}
	said, err := s.API("coordinator").Revoke(ctx, theft)
	if err != nil || len(said.Changing) != 1 {
		t.Fatalf("%+v, %v", said, err)
	}
	s.Until("both agents heard of the revocation", func(ctx context.Context) bool {
		for _, a := range []string{"a1", "s1"} {
			l, err := s.API(a).Revocations(ctx)
			if err != nil || l.Head.Seq != 1 {
				return false
			}
		}
		return true
	})
	if st, err := s.API("a1").SiteStatus(ctx, "lon1"); err != nil || procs.Alive(st) != "a1 s1" {
		t.Errorf("at the end %+v, %v", st, err)
	}

	s.Until("the BMC has another password than the thief, and only the new one is kept", func(ctx context.Context) bool {
		r, err := s.API("coordinator").Revoke(ctx, theft) // asked again, it says how far it is
		return err == nil && len(r.Changing) == 1 && r.Changing[0].Since == nil && r.Changing[0].Left() == 0 && controller.Password() != password
	})
	marked["the BMC's new password"] = controller.Password()
	markKeysAfter(t, s, marked)
	noTrace(t, s, marked)

	restartedWithoutKit(t, s, kit, file)
}

// markKeysAfter adds the keys that the site has now, which must be others than those of before.
func markKeysAfter(t *testing.T, s *procs.Site, marked map[string]string) {
	t.Helper()
	s.Kill("coordinator")
	after := keysAtRest(t, s.Data("coordinator"), "after the revocation", "a1", "s1")
	if after["the boot key after the revocation"] == marked["the boot key before"] || after["the data key of a1 after the revocation"] == marked["the data key of a1 before"] {
		t.Error("the thief's keys are still those of the site")
	}
	maps.Copy(marked, after)
	s.Coordinator()
	s.Until("the coordinator has the site again", func(ctx context.Context) bool {
		st, err := s.API("coordinator").SiteStatus(ctx, "lon1")
		return err == nil && st.Reachable == "yes"
	})
}

// restartedWithoutKit: the spare is who it became.
func restartedWithoutKit(t *testing.T, s *procs.Site, files ...string) {
	t.Helper()
	s.Kill("s1")
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	s.Agent("s1")
	s.Until("s1 is back", func(ctx context.Context) bool {
		st, err := s.API("s1").SiteStatus(ctx, "lon1")
		return err == nil && procs.Alive(st) == "a1 s1"
	})
}

// run runs a program that is expected to end by itself within half a minute.
func run(ctx context.Context, exe string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, exe, args...).CombinedOutput()
	return string(out), err
}

// off is a machine that nobody powers on.
type off struct{}

func (off) On(context.Context) error       { return nil }
func (off) Off(context.Context) error      { return nil }
func (off) Reset(context.Context) error    { return nil }
func (off) Shutdown(context.Context) error { return nil }
func (off) PowerOn() bool                  { return false }

// rackBMC is a controller of a machine that is off, on loopback.
func rackBMC(t *testing.T, password string) (*bmc.BMC, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := bmc.SelfSigned(net.IPv4(127, 0, 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	b := bmc.New(bmc.Config{User: "root", Password: password, Firmware: vm.UEFIPXE}, off{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Serve(ctx, ln, cert) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return b, ln.Addr().String()
}
