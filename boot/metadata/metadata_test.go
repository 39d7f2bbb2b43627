package metadata

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite goldens")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

func instance() Instance {
	return Instance{
		ID: "lon1-web-0-g4", Hostname: "web-0", Domain: "lon1.example", User: "debian",
		SSHKeys: []string{"ssh-ed25519 AAAA ana@example", `ssh-rsa BBBB "quoted" \ #`}, UserData: "#cloud-config\npackages: [htop]\n",
		NICs: []NIC{{
			MAC: "52:54:00:00:00:01", Addrs: []netip.Prefix{netip.MustParsePrefix("10.88.0.21/24")}, Gateway: netip.MustParseAddr("10.88.0.1"),
			DNS: []netip.Addr{netip.MustParseAddr("10.88.0.1")}, Search: []string{"lon1.example"}, MTU: 1500,
		}, {MAC: "52:54:00:00:01:01", DHCP: true}},
		PhoneHome: []string{"http://10.88.0.11:7480/nocloud/T/phone-home", "http://10.88.0.12:7480/nocloud/T/phone-home"},
	}
}

func TestRender(t *testing.T) {
	f := func(name string, in Instance) {
		t.Helper()
		d := Render(in)
		golden(t, name, fmt.Sprintf("== meta-data\n%s== user-data\n%s== vendor-data\n%s== network-config\n%s", d.MetaData, d.UserData, d.VendorData, d.NetworkConfig))
	}
	f("full.txt", instance())
	f("bare.txt", Instance{ID: "x", Hostname: "m1"})
	f("hostile.txt", Instance{ID: "x\ny: z", Hostname: "\"a\": b", User: "u\n- name: root", SSHKeys: []string{"k\nk2"}, PhoneHome: []string{"http://x/\u2028"}})
}

type instances struct{ sent []string }

func (i *instances) ByToken(_ context.Context, token string) (Instance, error) {
	switch token {
	case "good":
		return instance(), nil
	case "secret":
		in := instance()
		in.SecretUserData = true
		return in, nil
	case "broken":
		return Instance{}, fmt.Errorf("cannot read state")
	}
	return Instance{}, fmt.Errorf("cannot find: %w", ErrToken)
}

func (i *instances) PhoneHome(_ context.Context, token string, from netip.Addr, sent map[string]string) error {
	if token != "good" {
		return ErrToken
	}
	i.sent = append(i.sent, fmt.Sprint(from, sent))
	return nil
}

func TestHandler(t *testing.T) {
	in := &instances{}
	h := NewHandler(in, slog.New(slog.DiscardHandler))
	f := func(method, path, body string, status int, want string) {
		t.Helper()
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != status || !strings.Contains(w.Body.String(), want) {
			t.Fatalf("%s %s: %d %q, want %d %q", method, path, w.Code, w.Body, status, want)
		}
	}
	f("GET", "/good/meta-data", "", 200, "lon1-web-0-g4")
	f("GET", "/good/user-data", "", 200, "htop")
	f("GET", "/good/vendor-data", "", 200, "phone_home")
	f("GET", "/good/network-config", "", 200, "10.88.0.21/24")
	f("GET", "/secret/user-data", "", 200, "{}")
	f("GET", "/good/", "", 404, "")
	f("GET", "/good/../x", "", 404, "")
	f("GET", "/bad/meta-data", "", 404, "")
	f("GET", "//meta-data", "", 404, "")
	f("GET", "/"+strings.Repeat("x", 200)+"/meta-data", "", 404, "")
	f("GET", "/broken/meta-data", "", 503, "try again")
	f("PUT", "/good/meta-data", "", 405, "")
	f("GET", "/good/phone-home", "", 405, "")
	f("POST", "/good/phone-home", "hostname=web-0&instance_id=x", 204, "")
	f("POST", "/good/phone-home", "%zz", 400, "")
	f("POST", "/good/phone-home", strings.Repeat("a", maxBody+1), 400, "")
	f("POST", "/bad/phone-home", "", 404, "")
	if len(in.sent) != 1 || !strings.Contains(in.sent[0], "hostname:web-0") {
		t.Fatalf("phoned home: %q", in.sent)
	}
	var _ http.Handler = h
}

func FuzzFields(f *testing.F) {
	f.Add("application/x-www-form-urlencoded", []byte("a=b&c=%20"))
	f.Fuzz(func(t *testing.T, ct string, body []byte) {
		m, err := fields(ct, body)
		if err == nil {
			for k, v := range m {
				if len(k) > 64 || len(v) > maxField {
					t.Fatal("unbounded")
				}
			}
		}
	})
}
