package metrics

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/test/e2e/lab"
)

// TestCatalogue: each metric that the source registers has a row, and each row is used.
func TestCatalogue(t *testing.T) {
	named := regexp.MustCompile("(?:[\"`]|\\\\n)(skerry_[a-z0-9_]+[a-z0-9])[{\"` ]")
	seen := map[string]bool{}
	err := filepath.WalkDir("../../..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "out" || d.Name() == "cmd" || d.Name() == "test" || p == filepath.Join("../../..", "mesh/api/metrics")) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(p)
		for _, m := range named.FindAllStringSubmatch(string(b), -1) {
			seen[m[1]] = m[1] != "skerry_phone_home" // of cloud-init's seed
		}
		return err
	})
	if err != nil || len(seen) < 40 {
		t.Fatal(err, len(seen))
	}
	for _, n := range []string{"datagrams", "datagrams_lost", "samples", "samples_lost", "agent_drops", "invalid_samples", "discards"} {
		seen["skerry_sflow_"+n+"_total"] = true // siteagent/traffic puts these together
	}
	help := Help()
	for _, n := range slices.Sorted(maps.Keys(seen)) {
		if seen[n] && help[n] == "" {
			t.Errorf("%s has no row in the catalogue", n)
		}
	}
	for n := range help {
		if !seen[n] {
			t.Errorf("%s has a row and nobody tells it", n)
		}
	}
}

// everything is a handler of all that is in the catalogue.
func everything() http.Handler {
	return Handler(func(w io.Writer) {
		for _, n := range slices.Sorted(maps.Keys(Help())) {
			fmt.Fprintf(w, "%s{machine=\"m1\",reason=\"a \\\"b\\\"\"} 1\n", n)
		}
		for _, n := range slices.Sorted(maps.Keys(Help())) { // families come in parts, from several sets
			fmt.Fprintf(w, "%s{machine=\"m2\"} 2\n", n)
		}
	})
}

// TestDeployed: what deploy/ asks for is told: alert rules and dashboard name metrics of the catalogue only.
func TestDeployed(t *testing.T) {
	named := regexp.MustCompile(`skerry_[a-z0-9_]+`)
	help := Help()
	for _, f := range []string{"prometheus/skerry.rules.yaml", "grafana/skerry.json"} {
		b, err := os.ReadFile(filepath.Join("../../../deploy", f))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f, ".json") && !json.Valid(b) {
			t.Errorf("%s is no JSON", f)
		}
		for _, n := range named.FindAllString(string(b), -1) {
			if help[n] == "" {
				t.Errorf("%s asks for %s, which nobody tells", f, n)
			}
		}
	}
}

func TestPromtool(t *testing.T) {
	lab.Need(t, lab.Tool("promtool", "prometheus"))
	w := httptest.NewRecorder()
	everything().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	c := exec.Command("promtool", "check", "metrics")
	c.Stdin = bytes.NewReader(w.Body.Bytes())
	if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	for _, f := range []string{"../../../deploy/prometheus/skerry.rules.yaml"} {
		if out, err := exec.Command("promtool", "check", "rules", f).CombinedOutput(); err != nil {
			t.Fatalf("promtool: %v\n%s", err, out)
		}
	}
	if out, err := exec.Command("promtool", "check", "config", "--syntax-only", "../../../deploy/prometheus/prometheus.yml").CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
}

// TestScraped: a Prometheus takes it: up is 1, and the numbers arrive.
func TestScraped(t *testing.T) {
	lab.Need(t, lab.Tool("prometheus", "prometheus"))
	srv := httptest.NewServer(everything())
	defer srv.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := "global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: skerry\n    static_configs: [{targets: ['" + strings.TrimPrefix(srv.URL, "http://") + "']}]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := freeAddr(t)
	c := exec.Command("prometheus", "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr, "--log.level=warn")
	var log bytes.Buffer
	c.Stdout, c.Stderr = &log, &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait()
	}()
	deadline := time.Now().Add(time.Minute) // two loaded cores; else two seconds
	for {
		up, temp := ask(addr, "up"), ask(addr, `skerry_bmc_temperature_celsius{machine="m2"}`)
		if up == "1" && temp == "2" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("up is %q, a temperature %q\n%s", up, temp, log.String())
		}
		time.Sleep(100 * time.Millisecond) // Prometheus tells nobody when it scraped
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	return strings.TrimPrefix(s.URL, "http://")
}

// ask returns the value of the first series that a query finds.
func ask(addr, query string) string {
	res, err := http.Get("http://" + addr + "/api/v1/query?query=" + strings.NewReplacer("{", "%7B", "}", "%7D", `"`, "%22", "=", "%3D").Replace(query))
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	var v struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if json.NewDecoder(res.Body).Decode(&v) != nil || len(v.Data.Result) == 0 {
		return ""
	}
	return fmt.Sprint(v.Data.Result[0].Value[1])
}
