package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

func TestKeyTable(t *testing.T) {
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	const day = 24 * time.Hour
	s := &api.KeyStatus{
		At: now, Trust: intent.Head{Seq: 7}, Revocation: intent.Head{Seq: 42}, Forks: 1,
		Offered: &api.TrustOffer{Digest: intent.DigestOf([]byte("x")), Seq: 8, Changes: []string{"trust 8 follows 7, without the roots of before"}},
		Oldest:  []api.KeyAge{{Kind: "agent", Owner: "par3/a2", Made: *ago(412 * day)}, {Kind: "writer", Owner: "epoch 2", Made: *ago(3 * time.Hour)}},
		Sites: []api.SiteKeys{
			{Site: "lon1", Agents: []api.AgentKeys{
				{ID: "a1", State: "agent", Keys: 2, Up: true, Contact: ago(0), Trust: 7, Revocation: 42, Clock: "trusted"},
				{ID: "s1", State: "spare", Keys: 1},
				{ID: "a2", State: "agent", Keys: 1, Contact: ago(2 * time.Minute), Trust: 7, Revocation: 41, Clock: "floor-only", Offered: "2d71"},
			}},
			{Site: "par3", Agents: []api.AgentKeys{
				{ID: "a1", State: "agent", Keys: 1},
				{ID: "a2", State: "agent", Keys: 1, Contact: ago(412 * day), Trust: 3, Revocation: 9, Clock: "trusted", Seen: "yes"},
			}},
		},
	}
	const want = `oldest key  412d               agent par3/a2
trust       7                  2/4
revocation  42                 1/4
contact     < 1h               2/4
clock       trusted 2          floor-only 1
FORKED      1 trust documents  somebody else signs with the roots; the evidence is kept at the coordinator and the agents
OFFERED     trust 8            2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881
change      -                  trust 8 follows 7, without the roots of before
next        -                  skerry pki trust accept 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881
key         412d               agent par3/a2
key         3h                 writer epoch 2
rotating    lon1/a1            2 keys in the roster
offered     lon1/a2            a person there must accept 2d71
offline     par3/a1            never heard
offline     par3/a2            412d, at trust 3, revocation 9, its site sees it
`
	tb := &table{}
	keyTable(tb, s)
	var got bytes.Buffer
	if err := tb.write(&got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

// Every alert asks for a gauge that one of the residents has, says what is wrong and what to do.
func TestRulesAskForWhatThereIs(t *testing.T) {
	raw, err := os.ReadFile("../../../deploy/prometheus/skerry.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				For         string            `yaml:"for"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.UnmarshalWithOptions(raw, &doc, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, glob := range []string{"../../../siteagent/*.go", "../../../siteagent/upkeep/*.go", "../../../siteagent/holdings/*.go", "../../../siteagent/history/*.go", "../../../siteagent/devices/*.go", "../../../telemetry/snmp/*.go", "../../../telemetry/rrd/*.go", "../../../coordinator/rotation/*.go"} {
		files, err := filepath.Glob(glob)
		if err != nil || len(files) == 0 {
			t.Fatal(glob, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			code.Write(b)
		}
	}
	name := regexp.MustCompile(`skerry_[a-z_]+`)
	n := 0
	for _, g := range doc.Groups {
		for _, r := range g.Rules {
			n++
			asked := name.FindAllString(r.Expr, -1)
			if len(asked) == 0 || r.Alert == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["action"] == "" {
				t.Errorf("alert %q is not whole", r.Alert)
			}
			for _, m := range asked {
				if !strings.Contains(code.String(), m) {
					t.Errorf("alert %s asks for %s, which nobody exports", r.Alert, m)
				}
			}
		}
	}
	if n < 5 {
		t.Errorf("%d alerts", n)
	}
}
