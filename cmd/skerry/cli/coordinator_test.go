package cli

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/coordinator"
	"github.com/spf13/cobra"
)

func TestCoordinatorSettings(t *testing.T) {
	dir := t.TempDir()
	f := func(file string, env map[string]string, flags []string, want func(*coordinator.Config), fails string) {
		t.Helper()
		a := &app{getenv: func(k string) string { return env[k] }}
		path := filepath.Join(dir, "c.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		got, level, where := coordinator.Default(), "info", storeFlags{}
		c := &cobra.Command{Use: "x"}
		c.Flags().StringVar(&got.Listen, "listen", got.Listen, "")
		where.add(c)
		if err := c.ParseFlags(append(flags, "--config", path)); err != nil {
			t.Fatal(err)
		}
		err := a.readSettings(c, &where, &got, &level)
		if fails != "" {
			if err == nil || !strings.Contains(err.Error(), fails) {
				t.Errorf("%q: %v, want %q", file, err, fails)
			}
			return
		}
		exp := coordinator.Default()
		want(&exp)
		if d := cmp.Diff(exp, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" || err != nil {
			t.Errorf("%q: %v, -want +got\n%s", file, err, d)
		}
	}
	three := []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379"}
	f("", nil, nil, func(*coordinator.Config) {}, "")
	f("listen: 10.0.0.9:7443\nstore: etcd\netcd: {endpoints: [\"https://10.0.0.1:2379\", \"https://10.0.0.2:2379\"], ca: /a, cert: /b, key: /c}\nreserveBytes: 7\n", nil, nil, func(c *coordinator.Config) {
		c.Listen, c.Reserve, c.Etcd = "10.0.0.9:7443", 7, &coordinator.Etcd{Endpoints: three, Prefix: "/skerry/", CA: "/a", Cert: "/b", Key: "/c"}
	}, "")
	f("listen: 10.0.0.9:7443\n", map[string]string{"SKERRY_LISTEN": "10.0.0.8:7443", "SKERRY_STORE": "etcd", "SKERRY_ETCD_ENDPOINTS": strings.Join(three, ",")}, []string{"--etcd-prefix", "/edge/"}, func(c *coordinator.Config) {
		c.Listen, c.Etcd = "10.0.0.8:7443", &coordinator.Etcd{Endpoints: three, Prefix: "/edge/"}
	}, "")
	f("listen: 10.0.0.9:7443\n", map[string]string{"SKERRY_LISTEN": "10.0.0.8:7443"}, []string{"--listen", "10.0.0.7:7443"}, func(c *coordinator.Config) { c.Listen = "10.0.0.7:7443" }, "")
	f("lisen: x\n", nil, nil, nil, "unknown field")
	f("store: postgres\n", nil, nil, nil, "it is embedded or etcd")
	f("", nil, []string{"--etcd-endpoints", "https://10.0.0.1:2379"}, nil, "with the embedded store")
	f("spread: soon\n", nil, nil, nil, "cannot use spread")
	nets := []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("fd00::/8")}
	f("urlAllow: [10.20.1.2/16, \"fd00::/8\"]\n", nil, nil, func(c *coordinator.Config) { c.URLAllow = nets }, "")
	f("urlAllow: [10.30.0.0/16]\n", map[string]string{"SKERRY_URL_ALLOW": "10.20.0.0/16,fd00::/8"}, nil, func(c *coordinator.Config) { c.URLAllow = nets }, "")
	f("urlAllow: [everything]\n", nil, nil, nil, "cannot use url-allow")
	f("", map[string]string{"SKERRY_RESERVE_BYTES": "much"}, nil, nil, "cannot use reserve-bytes")
}
