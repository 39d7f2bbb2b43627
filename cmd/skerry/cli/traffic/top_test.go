package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
)

// desk is a command line over a server.
type desk struct {
	url, form, site string
	out             bytes.Buffer
}

func (d *desk) Client() (*client.Client, error) { return client.New(d.url, "", nil), nil }
func (d *desk) Site() string                    { return d.site }
func (d *desk) Project() string                 { return "acme" }
func (d *desk) Output() (io.Writer, string)     { return &d.out, d.form }
func (d *desk) Explain(err error) error         { return err }
func (d *desk) Line(v any) error                { return json.NewEncoder(&d.out).Encode(v) }
func (d *desk) Args(...string) cobra.PositionalArgs {
	return cobra.NoArgs
}

func (d *desk) Print(_ any, fill func(account.Table)) error {
	l := &lines{}
	fill(l)
	_, err := fmt.Fprintln(&d.out, strings.Join(l.out, "\n"))
	return err
}

// TestTop: frames as a table and as lines of JSON; a refusal is told at once; an answer that ended is asked for again, unless all came.
func TestTop(t *testing.T) {
	at := time.Date(2026, 11, 28, 10, 0, 10, 0, time.UTC)
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Query().Encode())
		if r.URL.Query().Get("by") == "subnet" {
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = w.Write([]byte(`{"status":422,"detail":"by is machine, network or port"}`))
			return
		}
		_ = json.NewEncoder(w).Encode(telemetry.TopFrame{At: at, By: r.URL.Query().Get("by"), More: 3, Missing: []string{"s2"}, Rows: []telemetry.TopRow{
			{Project: "acme", Network: "web", Machine: "m1", Switch: "sw1", Port: "e1", Direction: "in", Bytes: 12_345_678, Bytes95: 99_000.5, Packets: 1000, Packets95: 8, Samples: 600, Seconds: 60, Coverage: 0.9989, Confidence: "ok", Flags: []string{"loss"}},
			{Project: "acme", Machine: "m2", Direction: "out", Bytes: 10, Seconds: 12, Samples: 3, Coverage: 1, Confidence: "low"},
		}})
	}))
	defer srv.Close()
	f := func(form, by string, count int, want string) {
		t.Helper()
		d := &desk{url: srv.URL, form: form, site: "lon1"}
		c := Top(d)
		c.SetArgs([]string{"--by", by, "--count", fmt.Sprint(count)})
		c.SilenceErrors, c.SilenceUsage = true, true
		err := c.ExecuteContext(t.Context())
		if got := d.out.String(); err != nil || got != want {
			t.Errorf("%s by %s: %v\n%swant\n%s", form, by, err, got, want)
		}
	}
	const notes = "3 more; no answer from s2: what only they hear is missing\n"
	one := "lon1  2026-11-28T10:00:10Z  by machine\nPROJECT | MACHINE | DIRECTION | RATE | ± 95 % | PACKETS | ± 95 % | OF | COVERAGE | FLAGS\n" +
		"acme | m1 | in | 12.35 MB/s | 99 kB/s | 1 k/s | 8/s | 60 s | 99.8 % | loss\nacme | m2 | out | ~10 B/s | 0 B/s | ~0/s | 0/s | 12 s | 100.0 % | \n" + notes
	f("table", "machine", 1, one)
	f("table", "machine", 2, one+one) // each answer has one frame
	if got := strings.Join(asked, " "); got != "by=machine&count=1&limit=100&project=acme by=machine&count=2&limit=100&project=acme by=machine&count=1&limit=100&project=acme" {
		t.Errorf("asked %s", got)
	}
	f("table", "port", 1, "lon1  2026-11-28T10:00:10Z  by port\nPROJECT | SWITCH | PORT | MACHINE | DIRECTION | RATE | ± 95 % | PACKETS | ± 95 % | OF | COVERAGE | FLAGS\n"+
		"acme | sw1 | e1 | m1 | in | 12.35 MB/s | 99 kB/s | 1 k/s | 8/s | 60 s | 99.8 % | loss\nacme |  |  | m2 | out | ~10 B/s | 0 B/s | ~0/s | 0/s | 12 s | 100.0 % | \n"+notes)
	d := &desk{url: srv.URL, form: "json", site: "lon1"}
	if err := live(t.Context(), d, "network", 1); err != nil || strings.Count(d.out.String(), "\n") != 1 || !strings.Contains(d.out.String(), `"bytes_per_second":12345678`) {
		t.Errorf("%v %s", err, &d.out)
	}
	if err := live(t.Context(), d, "subnet", 0); err == nil || !strings.Contains(err.Error(), "by is machine") {
		t.Errorf("%v", err)
	}
	if err := live(t.Context(), &desk{}, "machine", 0); err == nil {
		t.Error("no site is taken")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the user ends it"))
	if err := live(ctx, d, "machine", 0); err != nil {
		t.Error(err)
	}
}
