package cli

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/holdings"
)

// TestAssets: what `asset list` and `asset describe` print of what a site and a coordinator answer.
func TestAssets(t *testing.T) {
	asset := func(name, class string, agents ...holdings.AgentStatus) *intent.Object {
		o := &intent.Object{APIVersion: "skerry/v1", Kind: intent.KindAsset, Spec: &intent.AssetSpec{Digest: intent.DigestOf([]byte(name)), Size: 3 << 20, Class: class}}
		o.Metadata.Name = name
		if agents != nil {
			b, err := json.Marshal(holdings.Status{Agents: agents})
			if err != nil {
				t.Fatal(err)
			}
			o.Status = b
		}
		return o
	}
	whole := holdings.AgentStatus{Agent: "a1", State: holdings.Complete, Have: 3, Chunks: 3, Octets: 3 << 20, Pins: []holdings.Pin{holdings.Current, holdings.Next}, Day: "2026-11-27", From: map[string]uint64{"site": 2 << 20, "origin": 1 << 19}}
	part := holdings.AgentStatus{Agent: "a2", State: holdings.Partial, Have: 1, Chunks: 3, Octets: 1 << 20, Pins: []holdings.Pin{holdings.Current}, Day: "2026-11-26"}
	full := holdings.AgentStatus{Agent: "a3", State: holdings.None, Refused: true}
	gone := holdings.AgentStatus{Agent: "a4", State: holdings.Unknown}
	f := func(output, want string, show func(*app) error) {
		t.Helper()
		var out bytes.Buffer
		if err := show(&app{Streams: Streams{Out: &out}, output: output}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, out.String()); d != "" {
			t.Errorf("-want +got\n%s", d)
		}
	}
	tiny, kernel := asset("tiny", "image", whole, part, full, gone), asset("kernel", "boot", whole)
	f("table", `NAME    CLASS  SIZE     AGENTS
kernel  boot   3145728  a1 complete
tiny    image  3145728  a1 complete, a2 33 %, a3 none (disk_overcommitted), a4 unknown
`, func(a *app) error { return a.printAssets([]*intent.Object{kernel, tiny}) })
	f("table", `AGENT  STATE                      CHUNKS  OCTETS              PINNED BY      LAST USED   CAME FROM
a1     complete                   3 of 3  3145728 of 3145728  current, next  2026-11-27  origin 0.5 MiB, site 2.0 MiB
a2     33 %                       1 of 3  1048576 of 3145728  current        2026-11-26  -
a3     none (disk_overcommitted)  0 of 0  0 of 3145728        -              -           -
a4     unknown                    0 of 0  0 of 3145728        -              -           -
`, func(a *app) error { return a.printAsset(tiny) })
	plain := asset("tiny", "image")
	f("table", `NAME  SCOPE  GEN  STATUS
tiny  -      0    image `+plain.Spec.(*intent.AssetSpec).Digest.Short()+` 3145728 bytes
`, func(a *app) error { return a.printAssets([]*intent.Object{plain}) })
	f("name", plain.Key().String()+"\n", func(a *app) error { return a.printAsset(tiny) })
	f("json", mustJSON(t, tiny), func(a *app) error { return a.printAsset(tiny) })
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}
