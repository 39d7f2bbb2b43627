package graph

import (
	"bytes"
	"context"
	"encoding/json"
	"image/png"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
)

func TestMatchOf(t *testing.T) {
	f := func(given string, want ...string) {
		t.Helper()
		got, err := matchOf(strings.Fields(given))
		if (err == nil) != (want != nil) || !slices.Equal(got, want) {
			t.Fatalf("%s: %q, %v; want %q", given, got, err, want)
		}
	}
	f("machine/m1 temperature", `skerry_bmc_temperature_celsius{machine="m1"}`)
	f("machine/m1 fan", `skerry_bmc_fan_speed_rpm{machine="m1"}`, `skerry_bmc_fan_speed_ratio{machine="m1"}`)
	f("machine/m1", `{machine="m1"}`)
	f(`x{a="b"}`, `x{a="b"}`)
	f("machine/m1 humidity")
	f("x power")
}

// source answers with one machine's sensors.
type source struct {
	asked []telemetry.RowsQuery
}

func (s *source) Series(_ context.Context, site string, _ telemetry.SeriesQuery) (*telemetry.SeriesList, error) {
	return &telemetry.SeriesList{
		Site: site, Agents: map[string]string{"a1": "ok", "a2": "unknown"},
		Series: []telemetry.SeriesInfo{{Name: "t", Labels: map[string]string{"machine": "m1", "sensor": "CPU1"}, Unit: "celsius", Last: 41.5, At: time.Unix(1_700_000_000, 0)}},
	}, nil
}

func (s *source) Rows(_ context.Context, site string, q telemetry.RowsQuery) (*telemetry.Rows, error) {
	s.asked = append(s.asked, q)
	r := &telemetry.Rows{Site: site, CF: q.CF, Start: time.Unix(1_700_000_000, 0), Step: 60, Count: 40, Agents: map[string]string{"a1": "ok"}}
	if strings.Contains(q.Match, "m1") {
		x := telemetry.SeriesRows{Name: "t", Labels: map[string]string{"machine": "m1", "sensor": "CPU1"}, Unit: "celsius"}
		for i := range 40 {
			v := telemetry.Value(i % 7)
			if i > 20 && i < 30 {
				v = telemetry.Value(math.NaN())
			}
			x.Values = append(x.Values, v)
		}
		r.Series = append(r.Series, x)
	}
	return r, nil
}

// shell is a command line over source.
type shell struct {
	src *source
	out bytes.Buffer
	env map[string]string
}

func (s *shell) Client() (*client.Client, error) { return client.New("http://lon1", "", s), nil }
func (s *shell) Site() string                    { return "lon1" }
func (s *shell) Explain(err error) error         { return err }
func (s *shell) Out() io.Writer                  { return &s.out }
func (s *shell) Getenv(name string) string       { return s.env[name] }
func (s *shell) Header(cols ...string)           { s.Row(cols...) }
func (s *shell) Row(cols ...string)              { s.out.WriteString(strings.Join(cols, " | ") + "\n") }

func (s *shell) Print(_ any, fill func(account.Table)) error { fill(s); return nil }

func (s *shell) Token(v any, text string) error {
	if _, err := json.Marshal(v); err != nil {
		return err
	}
	s.out.WriteString(text + "\n")
	return nil
}

func (s *shell) ArgsUpTo(least int, names ...string) cobra.PositionalArgs {
	return cobra.RangeArgs(least, len(names))
}

// RoundTrip implements http.RoundTripper.
func (s *shell) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	telemetry.Inner(s.src).ServeHTTP(w, r)
	return w.Result(), nil
}

func run(t *testing.T, env map[string]string, args ...string) (string, *source, error) {
	t.Helper()
	s := &shell{src: &source{}, env: env}
	c := Command(s)
	c.SetArgs(args)
	c.SilenceErrors, c.SilenceUsage = true, true
	err := c.ExecuteContext(t.Context())
	return s.out.String(), s.src, err
}

func TestVerb(t *testing.T) {
	out, _, err := run(t, nil)
	if err != nil || out != "SERIES | UNIT | LAST | AT\nt{machine=\"m1\",sensor=\"CPU1\"} | celsius | 41.5 | 2023-11-14T22:13:20Z\nagent a2 is not heard: what it keeps is missing here\n" {
		t.Fatalf("%s%v", out, err)
	}
	out, src, err := run(t, nil, "machine/m1", "temperature", "--since", "7d", "--cf", "max")
	if err != nil || !strings.Contains(out, "CPU1 (celsius)") || !strings.Contains(out, "*") || !strings.Contains(out, "min 0  avg ") || src.asked[0].CF != "MAX" ||
		src.asked[0].To.Sub(src.asked[0].From) != 7*24*time.Hour {
		t.Fatalf("%s%+v, %v", out, src.asked, err)
	}
	out, _, err = run(t, map[string]string{"LANG": "en_GB.UTF-8", "COLUMNS": "60"}, "machine/m1", "temperature", "--spark")
	if err != nil || !strings.HasPrefix(out, "CPU1 ▂") || strings.Count(out, "\n") != 1 {
		t.Fatalf("%s%v", out, err)
	}
	dir := t.TempDir()
	out, _, err = run(t, nil, "machine/m1", "temperature", "--png", filepath.Join(dir, "x.png"), "--svg", filepath.Join(dir, "x.svg"))
	if err != nil || !strings.HasPrefix(out, "written: ") {
		t.Fatalf("%s%v", out, err)
	}
	f, err := os.Open(filepath.Join(dir, "x.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if img, err := png.Decode(f); err != nil || img.Bounds().Dx() != pictureWidth {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "x.svg")); err != nil || !strings.Contains(string(b), "machine/m1 temperature (celsius)") {
		t.Fatalf("%s, %v", b, err)
	}
	if _, _, err = run(t, nil, "machine/m9", "power"); err == nil || !strings.Contains(err.Error(), "no such series is kept") {
		t.Fatal(err)
	}
	if _, _, err = run(t, nil, "machine/m1", "fan", "--since", "yesterday"); err == nil || !strings.Contains(err.Error(), "from is no RFC 3339 time") {
		t.Fatal(err)
	}
}
